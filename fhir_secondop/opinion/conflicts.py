"""Where the sources of a case disagree: each side with its source, side by side, and no winner chosen.

Only what one source says and another says otherwise; silence is a conflict in one case: an allergy that another
source's allergy list, answered in full, does not have.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

from fhir_secondop.model import Resource
from fhir_secondop.opinion import dosing, medicines, records
from fhir_secondop.opinion.allergies import is_absence, rules_out
from fhir_secondop.opinion.case import Case, reference
from fhir_secondop.opinion.diagnoses import family_of, problem_differs
from fhir_secondop.opinion.likeness import agree
from fhir_secondop.opinion.sameness import substance_alike
from fhir_secondop.opinion.sourced import Sourced, of_case, text_of

WORDS = {
    "dose": "dose",
    "medication-status": "taken or stopped",
    "allergy": "allergy",
    "allergy-unlisted": "allergy on one list only",
    "diagnosis": "diagnosis",
}
"""The kinds of conflict, and how each is called in a report."""


@dataclass(frozen=True, slots=True)
class Side:
    """What one source says. `reference` is our copy, "" when it is its silence; `date` is as the source wrote it."""

    source: str
    reference: str
    text: str
    date: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """One disagreement about one thing."""

    kind: str
    about: str
    sides: tuple[Side, ...]


Lines = list[Sourced]
BySource = dict[str, Lines]


def find(case: Case) -> tuple[Conflict, ...]:
    """The conflicts between the sources of a case; the case must have been loaded with the record."""
    items = of_case(case)
    found = [*_medicines(items), *_allergies(case, items), *_diagnoses(items)]
    return tuple(sorted(found, key=lambda c: (list(WORDS).index(c.kind), c.about.casefold(), c.sides[0].reference)))


def _conflict(kind: str, about: str, sides: Iterable[Side]) -> Conflict:
    return Conflict(kind, about, tuple(sorted(sides, key=lambda s: (s.source, s.date, s.reference))))


def alike(items: Lines, same: Callable[[Sourced, Sourced], object]) -> list[Lines]:
    """The items in bundles of those that are the same thing, directly or through others."""
    bundles: list[Lines] = []
    for item in items:
        mine = [bundle for bundle in bundles if any(same(item, other) for other in bundle)]
        bundles = [b for b in bundles if all(b is not m for m in mine)]
        bundles.append([*(i for bundle in mine for i in bundle), item])
    return bundles


def by_source(items: Iterable[Sourced]) -> BySource:
    """The items of each source."""
    found: BySource = defaultdict(list)
    for item in items:
        found[item.source].append(item)
    return dict(found)


# --- medicines --------------------------------------------------------------------------------------------------


def _medicines(items: Lines) -> Iterator[Conflict]:
    lines = [i for i in items if i.type in medicines.TYPES]
    lines = [i for i in lines if medicines.phase(i.resource) in ("current", "stopped")]
    for bundle in alike(lines, medicines.same_medicine):
        current = by_source(i for i in bundle if medicines.phase(i.resource) == "current")
        stopped = by_source(i for i in bundle if i.source not in current)
        if any(dosing.doses_differ(one, other) for one, other in combinations(current.values(), 2)):
            listed = [i for lines in current.values() for i in lines]
            yield _conflict("dose", _about(listed), [side(i, _dosage(i)) for i in listed])
        taken = [i for lines in current.values() for i in lines]
        ended = [max(lines, key=lambda i: i.when) for lines in stopped.values()]
        ended = [i for i in ended if not all(_ended_before(i, other) for other in taken)]
        if ended:
            yield _conflict("medication-status", _about(taken), [side(i, _dosage(i)) for i in [*taken, *ended]])


def _about(items: Lines) -> str:
    """The medicine without anybody's dose."""
    found = {name for item in items for name in medicines.names(item)}
    return min(found, key=lambda name: (len(name), name)).capitalize() if found else items[0].text


def _ended_before(stopped: Sourced, taken: Sourced) -> bool:
    """Whether it is known to have been stopped before the other source began: then it was begun anew."""
    end = _end(stopped.resource)
    return bool(end and taken.when) and end[:10] < taken.when[:10] and not agree(end, taken.when)


def _end(resource: Resource) -> str:
    within = [i.get("timing", {}).get("repeat", {}).get("boundsPeriod", {}) for i in medicines.instructions(resource)]
    periods = [resource.get("effectivePeriod", {}), resource.get("dispenseRequest", {}).get("validityPeriod", {})]
    return max((str(p["end"]) for p in [*periods, *within] if "end" in p), default="")


def _dosage(item: Sourced) -> str:
    said = "; ".join(str(i["text"]) for i in medicines.instructions(item.resource) if "text" in i)
    status = item.resource.get("status", "")
    return ", ".join(part for part in (item.text, said, "" if status == "active" else status) if part)


# --- allergies --------------------------------------------------------------------------------------------------


def _allergies(case: Case, items: Lines) -> Iterator[Conflict]:
    listed = [i for i in items if i.type == "AllergyIntolerance"]
    denials = [i for i in listed if is_absence(i) and not i.negative]
    listed = [i for i in listed if not is_absence(i)]
    present = by_source(i for i in listed if not (i.negative or i.over))
    for bundle in alike(listed, substance_alike):
        having = [i for i in bundle if not (i.negative or i.over)]
        if not having:
            continue
        sources = {i.source for i in having}
        against = [i for i in bundle if i.source not in sources]
        against += [d for d in denials if d.source not in sources and any(rules_out(d, i) for i in having)]
        if against:
            yield _conflict("allergy", having[0].text, [side(i, _allergy(i)) for i in [*having, *against]])
        heard = sources | {i.source for i in against}
        silent = [p for p in _answered_in_full(case) if reference(p) in present and reference(p) not in heard]
        silences = [_silence(p, present[reference(p)]) for p in silent]
        if silences:
            yield _conflict("allergy-unlisted", having[0].text, [*(side(i, _allergy(i)) for i in having), *silences])


def _answered_in_full(case: Case) -> list[Resource]:
    """The packages whose source gave its whole allergy list."""
    found = []
    for package in records.packages(case):
        answers = [a for a in records.coverage(package) if a.type == "AllergyIntolerance"]
        if answers and not any(a.outcome != "answered" or records.is_gap(a) for a in answers):
            found.append(package)
    return found


def _silence(package: Resource, listed: Lines) -> Side:
    others = ", ".join(sorted(i.text for i in listed))
    return Side(package.get("title", ""), "", f"not on its list, which has: {others}", package["date"][:10])


def _allergy(item: Sourced) -> str:
    reactions = [m for r in item.resource.get("reaction", []) for m in map(text_of, r.get("manifestation", [])) if m]
    return ", ".join([item.text, *reactions, *status(item)])


# --- diagnoses --------------------------------------------------------------------------------------------------


def _diagnoses(items: Lines) -> Iterator[Conflict]:
    conditions = [i for i in items if i.type == "Condition"]
    for bundle in alike(conditions, family_of):
        sources = list(by_source(bundle).values())
        if any(problem_differs(one, other) for one, other in combinations(sources, 2)):
            sides = [side(i, ", ".join([i.text, *_stages(i), *status(i)])) for i in bundle]
            yield _conflict("diagnosis", bundle[0].text, sides)


def _stages(item: Sourced) -> list[str]:
    return [text for stage in item.resource.get("stage", []) if (text := text_of(stage.get("summary", {})))]


def side(item: Sourced, text: str) -> Side:
    """What the source of a copy says."""
    dated = item.resource.get("recordedDate") or item.when
    return Side(item.title, item.reference, text, str(dated)[:10])


def status(item: Sourced) -> list[str]:
    """Verification and clinical status in words, but for what is usual: confirmed, active."""
    found = (item.resource.get(name, {}) for name in ("verificationStatus", "clinicalStatus"))
    codes = [next((c["code"] for c in concept.get("coding", []) if "code" in c), "") for concept in found]
    return [code for code in codes if code and code not in ("confirmed", "active")]
