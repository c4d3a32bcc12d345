"""The same fact in the copies of several sources: grouped, and nothing changed or left out.

A group is a claim that can be taken back: a person may say that two copies are apart, or together, and that holds from
then on, whatever the rules find.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations

from fhir_secondop.fhir import codec
from fhir_secondop.opinion import dosing, medicines, sameness
from fhir_secondop.opinion.case import derived_id
from fhir_secondop.opinion.likeness import minute, timed
from fhir_secondop.opinion.sameness import Likeness
from fhir_secondop.opinion.sourced import Sourced, fold, substances, text_of

Pair = frozenset[str]
BY_HAND = "linked by a person"
# What members may say differently and still be of one fact; each is shown.
_SHOWN = (
    "status", "intent", "clinicalStatus", "verificationStatus", "severity", "criticality", "stage", "conclusion",
    "lotNumber",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Group:
    """Copies of one fact. `members` are references, sorted; `differs` names what they say differently."""

    id: str
    members: tuple[str, ...]
    why: str
    differs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Said:
    """What people have said of pairs of copies (references): these are apart, these are together."""

    apart: frozenset[Pair] = frozenset()
    together: frozenset[Pair] = frozenset()


NOTHING_SAID = Said()


@dataclass(slots=True)
class _Clusters:
    """Groups in the making. Two merge only if no member of the one is apart from a member of the other."""

    items: Mapping[str, Sourced]
    said: Said
    of: dict[str, list[str]] = field(default_factory=dict)
    why: dict[str, list[str]] = field(default_factory=dict)
    known: dict[tuple[str, str], bool] = field(default_factory=dict)

    def merge(self, a: str, b: str, why: str) -> None:
        one, other = self.of.setdefault(a, [a]), self.of.setdefault(b, [b])
        if one is other or any(self.apart(x, y) for x in one for y in other):
            return
        one += other
        self.of |= dict.fromkeys(other, one)
        self.why.setdefault(a, []).append(why)

    def apart(self, a: str, b: str) -> bool:
        key = (a, b) if a < b else (b, a)
        if key not in self.known:
            pair = frozenset(key)
            by_hand = pair in self.said.apart or pair in self.said.together
            rule = not by_hand and sameness.apart(self.items[a], self.items[b])
            self.known[key] = rule or pair in self.said.apart
        return self.known[key]


def group_id(case_id: str, members: Iterable[str]) -> str:
    """The id that a group of exactly these members always has."""
    return derived_id(case_id, "group", *sorted(members))


def groups(case_id: str, copies: Iterable[Sourced], said: Said = NOTHING_SAID) -> tuple[Group, ...]:
    """The groups among the copies of a case, by their members; a copy is in one group at most."""
    items = {c.reference: c for c in copies if c.type not in sameness.NOT_FACTS}
    clusters = _Clusters(items, said)
    for a, b in sorted((min(pair), max(pair)) for pair in said.together):
        if a in items and b in items:
            clusters.merge(a, b, BY_HAND)
    for (a, b), found in _edges(clusters):
        clusters.merge(a, b, found.why)
    made = {id(members): sorted(members) for members in clusters.of.values() if len(members) > 1}
    return tuple(_group(case_id, clusters, members) for members in sorted(made.values()))


def _group(case_id: str, clusters: _Clusters, members: list[str]) -> Group:
    whys = dict.fromkeys(why for member in members for why in clusters.why.get(member, []))
    said = differs([clusters.items[member] for member in members])
    return Group(group_id(case_id, members), tuple(members), "; ".join(whys), said)


def _edges(clusters: _Clusters) -> list[tuple[tuple[str, str], Likeness]]:
    """The pairs that look alike, strongest first; what fits two that are apart equally well fits neither."""
    alike: dict[tuple[str, str], Likeness] = {}
    near: dict[tuple[str, int], set[str]] = defaultdict(set)
    for a, b in _candidates(clusters.items):
        found = sameness.likeness(clusters.items[a], clusters.items[b])
        if found is not None and not clusters.apart(a, b):
            alike[a, b] = found
            near[a, found.strength].add(b)
            near[b, found.strength].add(a)

    def torn(a: str, b: str, strength: int) -> bool:
        return any(c != b and clusters.apart(b, c) for c in near[a, strength] - near[b, strength])

    kept = [
        ((a, b), found)
        for (a, b), found in alike.items()
        if not torn(a, b, found.strength) and not torn(b, a, found.strength)
    ]
    return sorted(kept, key=lambda edge: (-edge[1].strength, edge[0]))


def _candidates(items: Mapping[str, Sourced]) -> Iterator[tuple[str, str]]:
    """Pairs that share a key, each once: a record of thousands is not compared all with all."""
    blocks: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for ref, item in items.items():
        for key in _keys(item):
            blocks[key].append(ref)
    seen: set[tuple[str, str]] = set()
    for key, members in blocks.items():
        for one, other in combinations(sorted(members), 2):
            a, b = items[one], items[other]
            # One source's list is not grouped with itself, nor a monitor's day minute by minute.
            idle = key[0] in ("about", "day") and (
                a.source == b.source or (a.type == "Observation" and timed(a.when) and timed(b.when))
            )
            if not idle and (one, other) not in seen:
                seen.add((one, other))
                yield one, other


def _keys(item: Sourced) -> set[tuple[str, ...]]:
    family = sameness.family(item)
    keys: set[tuple[str, ...]] = {("number", family, *identifier) for identifier in item.identifiers}
    if item.type in sameness.DOCUMENTS:
        keys |= {("file", digest) for digest in item.files}
    about = {f"{system}|{code}" for system, code in item.codes} | item.texts
    if family == "Medication":
        about |= medicines.names(item)
    if family == "AllergyIntolerance":
        about |= substances(item)
    if item.type not in sameness.EVENTS:
        return keys | {("about", family, word) for word in about}
    keys |= {("day", family, word, item.when[:10]) for word in about if item.when}
    return keys | {("at", family, word, minute(item.when)) for word in about if timed(item.when)}


def differs(items: list[Sourced]) -> tuple[str, ...]:
    """What of one fact its copies say differently; what only one of them says is no difference."""
    found = [name for name in _SHOWN if len({_meaning(i.resource[name]) for i in items if name in i.resource}) > 1]
    medicine = all(item.type in medicines.TYPES for item in items)
    if medicine and any(dosing.wording_differs(a, b) for a, b in combinations(items, 2)):
        found.append("dosage")
    return tuple(found)


def _meaning(value: object) -> str:
    if isinstance(value, dict) and ("coding" in value or "text" in value):
        codes = sorted(str(c.get("code", "")) for c in value.get("coding", []))
        return " ".join(codes) or fold(text_of(value))
    return fold(value) if isinstance(value, str) else codec.dumps(value)
