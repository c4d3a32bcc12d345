"""What a reviewer needs, and what of it is there: a checklist is a file, an item a condition on resources.

States: present; stale (only older ones); missing (nobody sent it, which is not the same as: it does not exist);
known-absent (the record says that there is none); withheld (a source keeps it back); requested (a gap that somebody
was asked to fill); not-applicable.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from fhir_secondop.model import Resource
from fhir_secondop.opinion import asked
from fhir_secondop.opinion.asked import Said
from fhir_secondop.opinion.checklist_files import Checklist, choose, load
from fhir_secondop.opinion.conditions import Seen, meets
from fhir_secondop.opinion.standing import age, dated, standing

__all__ = ["GAPS", "STATES", "Checklist", "Item", "choose", "evaluate", "load"]

STATES = ("present", "stale", "missing", "known-absent", "withheld", "requested", "not-applicable")
GAPS = frozenset({"stale", "missing", "withheld", "requested"})
"""The states that a reviewer must know of before signing."""


@dataclass(frozen=True, slots=True)
class Item:
    """One line of a checklist. `state` is of STATES; `evidence` are references; `because` says in words why."""

    code: str
    title: str
    state: str
    evidence: tuple[str, ...] = ()
    because: str = ""


def evaluate(
    checklist: Checklist, gathered: Iterable[Resource], reviewed: Iterable[Resource], *, today: str,
    answers: Iterable[Said] = (), requested: frozenset[str] = frozenset(),
) -> list[Item]:  # fmt: skip
    """The state of each item: `gathered` are the pulled resources, `reviewed` what is under review.

    `today` is the date of the request: ages count back from it. `answers` is the manifest, source by source;
    `requested` the codes of the items for which a request is open.
    """
    record = _Record(gathered, reviewed, today, list(answers))
    found = [record.item(item) for item in checklist["items"]]
    return [_requested(item) if item.code in requested and item.state in GAPS else item for item in found]


def _requested(item: Item) -> Item:
    return replace(item, state="requested", because=f"{item.because}; a request for it is open")


class _Record:
    """The record, read once for all items."""

    def __init__(
        self, gathered: Iterable[Resource], reviewed: Iterable[Resource], today: str, said: list[Said]
    ) -> None:
        self.by_type: dict[str, list[tuple[str, Seen]]] = {}
        for resource in gathered:
            seen = Seen(resource)
            self.by_type.setdefault(seen.type, []).append((standing(resource), seen))
        self.reviewed = [Seen(resource) for resource in reviewed]
        self.today = today
        self.said = said

    def item(self, item: dict[str, Any]) -> Item:
        """The state of one item of the file."""
        if not self._applies(item):
            return _line(item, "not-applicable", because=f"needed {item['appliesText']}")
        by_standing: dict[str, list[Seen]] = {}
        for kind in item["types"]:
            for said, seen in self.by_type.get(kind, ()):
                if meets(item, seen):
                    by_standing.setdefault(said, []).append(seen)
        denied = self._denied(item)
        found = [seen for seen in by_standing.get("counts", []) if seen not in denied]
        if found:
            return self._with_age(item, found, denied)
        if denied or "not-performed" in by_standing:
            none = denied or by_standing["not-performed"]
            return _line(item, "known-absent", none, f"the record says so: {_names(none)}")
        because = asked.in_words(item["types"], self.said)
        useless = [seen for said in ("void", "refuted", "not-done") for seen in by_standing.get(said, ())]
        if useless:
            because = f"{because}; withdrawn, not done or without content: {_names(useless)}"
        if "hidden" in by_standing:
            return _line(item, "withheld", by_standing["hidden"], f"there is a value that was kept back; {because}")
        if any(asked.keeps_back(answer) for _, answer in asked.concerning(item["types"], self.said)):
            return _line(item, "withheld", because=because)
        return _line(item, "missing", because=because)

    def _applies(self, item: dict[str, Any]) -> bool:
        if "applies" not in item and "appliesRecord" not in item:
            return True
        if "applies" in item and any(meets(item["applies"], seen) for seen in self.reviewed):
            return True
        everything = (seen for seens in self.by_type.values() for said, seen in seens if said == "counts")
        return "appliesRecord" in item and any(meets(item["appliesRecord"], seen) for seen in everything)

    def _denied(self, item: dict[str, Any]) -> list[Seen]:
        """What says that there is none of it: "No known allergy"."""
        if "absentWhen" not in item:
            return []
        condition = item["absentWhen"]
        kinds = item["types"] if isinstance(condition, str) else condition.get("types", item["types"])
        candidates = [pair for kind in kinds for pair in self.by_type.get(kind, ())]
        meant = ("counts", "refuted", "not-done")
        return [seen for said, seen in candidates if said in meant and meets(condition, seen)]

    def _with_age(self, item: dict[str, Any], found: list[Seen], denied: list[Seen]) -> Item:
        """Present or stale. Where no date says how old it is, it is present, and `because` says so."""
        but = f"but {_names(denied)} says that there is none" if denied else ""
        if "maxAgeDays" not in item:
            return _line(item, "present", found, but)
        days = item["maxAgeDays"]
        ages: dict[str, list[Seen]] = {}
        for seen in found:
            ages.setdefault(age(seen.resource, days, self.today), []).append(seen)
        if "fresh" in ages:
            return _line(item, "present", ages["fresh"], but)
        limit = f"{days} days before {self.today[:10]}"
        if "unknown" in ages:
            undated = ", ".join(f"{_named(seen)} ({_when(seen)})" for seen in ages["unknown"])
            because = f"undated: {undated}; it may be older than {limit}"
            return _line(item, "present", ages["unknown"], "; ".join(filter(None, (because, but))))
        newest = max(ages["old"], key=_end)
        return _line(item, "stale", ages["old"], f"the newest is of {_when(newest)}, more than {limit}")


def _line(item: dict[str, Any], state: str, evidence: Iterable[Seen] = (), because: str = "") -> Item:
    return Item(item["code"], item["title"], state, tuple(map(_reference, evidence)), because)


def _reference(seen: Seen) -> str:
    return f"{seen.type}/{seen.resource['id']}"


def _names(seens: Iterable[Seen]) -> str:
    return ", ".join(map(_named, seens))


def _named(seen: Seen) -> str:
    return f'{_reference(seen)} "{seen.name}"' if seen.name else _reference(seen)


def _when(seen: Seen) -> str:
    found = dated(seen.resource)
    return found.text if found else "no date"


def _end(seen: Seen) -> int:
    found = dated(seen.resource)
    return found.high if found else 0
