"""The cases: official examples, their mutations, our profiles' examples, what stands in examples/.

A case is made anew from its name each time, and always to the same bytes; the table of verdicts keeps only a hash.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from tests.conformance import invented
from tests.conformance.cases import Case
from tests.conformance.kinds import (
    Kind,
    bundles,
    extensions,
    invariants,
    narratives,
    primitives,
    references,
    structure,
    texts,
)
from tests.conformance.nodes import Example, Site, at, read
from tests.conformance.notation import dump

SEED = "1"
OFFICIAL = "official example"
KINDS: list[Kind] = [
    kind
    for module in (structure, primitives, references, extensions, narratives, invariants, bundles, texts)
    for kind in module.KINDS
]
# A large example makes a case no better, and each slower.
LARGEST = 20_000


def examples(shared_data: Path) -> list[Example]:
    """The official examples, in the order of their names."""
    return [read(path) for path in sorted((shared_data / "official-r4-examples-json").glob("*.json"))]


def official(found: Iterable[Example]) -> Iterator[Case]:
    for example in found:
        yield Case(OFFICIAL, example.name, example.text)


def repaired(found: Iterable[Example]) -> list[Example]:
    """Those with relative canonical URLs, made absolute: HL7's validator refuses some 60 examples for them alone."""
    again = []
    for example in found:
        relative = [m for m in example.members if m.type == "canonical" and _is_relative(m.value)]
        if relative:
            resource = example.copy()
            for member in relative:
                target = at(resource, member.node.keys)
                value = target[member.key]
                target[member.key] = [_absolute(v) for v in value] if isinstance(value, list) else _absolute(value)
            again.append(Example(example.name + " repaired", dump(resource)))
    return again


def _is_relative(value: Any) -> bool:
    return any(_absolute(each) != each for each in (value if isinstance(value, list) else [value]))


def _absolute(url: Any) -> Any:
    is_relative = isinstance(url, str) and ":" not in url and not url.startswith("#")
    return f"http://x.example/{url}" if is_relative else url


def mutations(found: Iterable[Example], sound: set[str]) -> Iterator[Case]:
    """The mutations of the examples that are sound to begin with: a case then has the one fault that its kind names.

    `sound`: names of the examples.
    """
    usable = [e for e in found if e.name in sound and len(e.text) <= LARGEST]
    more = [e for e in invented.examples() if e.name in sound]
    for kind in KINDS:
        yield from _of_kind(kind, usable + more if kind.name == "invariant" else usable)
    yield from _copied(usable)


def _of_kind(kind: Kind, usable: list[Example]) -> Iterator[Case]:
    for example, site in itertools.islice(_spread(kind, usable), kind.count):
        yield _case(kind.name, kind.variant, kind.valid, example, site)


def _case(name: str, variant: str, valid: bool | None, example: Example, site: Site) -> Case:
    resource = example.copy()
    text = site.edit(resource)
    return Case(
        name, f"{name} / {variant} / {example.name} / {site.place}", dump(resource) if text is None else text, valid
    )


def _spread(kind: Kind, usable: list[Example]) -> Iterator[tuple[Example, Site]]:
    """Sites in an order that the seed gives: one of each example, of groups that were not there; then the others."""
    seen: set[str] = set()
    later: list[tuple[Example, Site]] = []
    for example in _shuffled(usable, kind, lambda e: e.name):
        sites = _shuffled(list(kind.sites(example)), kind, lambda s: s.group + s.place)
        fresh = [s for s in sites if s.group not in seen]
        for site in fresh[:1]:
            seen.add(site.group)
            yield example, site
        later += [(example, s) for s in sites[:3] if s not in fresh[:1]]
    yield from later


Item = TypeVar("Item")


def _shuffled(items: list[Item], kind: Kind, key: Callable[[Item], str]) -> list[Item]:
    salt = f"{SEED} {kind.name} {kind.variant} "
    return sorted(items, key=lambda item: hashlib.sha256((salt + key(item)).encode()).digest())


def _copied(usable: list[Example]) -> Iterator[Case]:
    """Elements of one example put into another of its type."""
    by_type: dict[str, list[Example]] = {}
    for example in usable:
        by_type.setdefault(example.type, []).append(example)
    for same in by_type.values():
        groups: set[str] = set()
        for one, other in itertools.permutations(same[:6], 2):
            for site in structure.copied_from(one, other):
                if site.group not in groups:
                    groups.add(site.group)
                    yield _case("element of another example", other.name, None, one, site)
