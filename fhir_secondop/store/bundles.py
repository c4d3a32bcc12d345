"""Entries → outcomes in one transaction: R4 order, conditional references, urn:uuid rewriting. Knows no HTTP.

Source: https://hl7.org/fhir/R4/http.html#trules
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any

from fhir_secondop.errors import Invalid, NotFound, PreconditionFailed, Unsupported
from fhir_secondop.fhir import query, refs
from fhir_secondop.fhir.codec import Body
from fhir_secondop.fhir.criteria import Criterion
from fhir_secondop.model import Resource, Visibility
from fhir_secondop.store import resources, search
from fhir_secondop.store.database import Transaction
from fhir_secondop.store.resources import Stored

# What may stand before "identifier=…": "?", "Patient?", or, as HAPI's client has it, the base, too.
_ADDRESS = re.compile(r"(?:[^?=]*/)?([^?=/]*)\?")


@dataclass(frozen=True, slots=True)
class Entry:
    """One request of a transaction; `place` is its index in the Bundle as sent."""

    place: int
    method: str
    type: str
    id: str = ""
    full_url: str = ""
    body: Body | None = None
    resource: Resource = field(default_factory=dict)
    if_none_exist: str | None = None
    if_match: int | None = None
    search: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an entry: 201 created, 200 updated or found, 204 deleted."""

    entry: Entry
    status: int
    stored: Stored | None


_ORDER = {"DELETE": 0, "POST": 1, "PUT": 2, "GET": 3, "HEAD": 3}


def apply(
    tx: Transaction,
    entries: Sequence[Entry],
    *,
    visibility: Visibility,
    base_url: str,
    case_id: str | None = None,
    update_creates: bool = False,
    case_of: Callable[[Entry], str | None] = lambda entry: None,
) -> list[Outcome]:
    """Applies all entries or, by raising, none; outcomes stand in the order of the Bundle.

    New resources belong to `case_id`, or to what `case_of` says. `update_creates` lets PUT create under the
    client's id.
    """
    changed = _no_twice(entries)
    known, existing = _identities(tx, entries, visibility, base_url)
    _found_not_changed(entries, existing, changed)
    outcomes: dict[int, Outcome] = {}
    for entry in sorted(entries, key=lambda e: _ORDER[e.method]):
        found = existing.get(entry.place)
        if entry.method in ("GET", "HEAD"):
            outcomes[entry.place] = Outcome(entry, 200, _read(tx, entry, visibility))
        elif entry.method == "DELETE":
            outcomes[entry.place] = Outcome(entry, 204, _delete(tx, entry, visibility))
        elif entry.method == "POST" and found is not None:
            outcomes[entry.place] = Outcome(entry, 200, found)
        else:
            resolve = _resolver(tx, entry, known, visibility, base_url)
            outcomes[entry.place] = _write(
                tx, entry, known, resolve, visibility, base_url, case_id or case_of(entry), update_creates
            )
    return [outcomes[entry.place] for entry in entries]


def match_one(
    tx: Transaction, resource_type: str, criteria: str, visibility: Visibility, base_url: str
) -> Stored | None:
    """The one resource that If-None-Exist criteria match. Raises PreconditionFailed when there are several.

    Source: https://hl7.org/fhir/R4/http.html#ccreate
    """
    address = _ADDRESS.match(criteria)
    if address is not None and address[1] not in ("", resource_type):
        raise Invalid(f"The criteria of a conditional interaction on {resource_type} name another type.")
    wanted = query.parse(resource_type, criteria[address.end() :] if address else criteria)
    if not wanted.criteria:
        raise PreconditionFailed("The criteria of a conditional interaction are empty.")
    if any(not isinstance(each, Criterion) for each in wanted.criteria):
        raise Unsupported("The criteria of a conditional interaction may not follow references (chains, _has).")
    if wanted.sort or wanted.includes or wanted.elements or wanted.summary:
        raise Unsupported(
            "The criteria of a conditional interaction only say what matches: no _sort, _include and so on."
        )
    page = search.run(tx.connection, replace(wanted, count=2, page=""), visibility, base_url, counts=False)
    if len(page.matches) > 1:
        raise PreconditionFailed(f"The criteria match several {resource_type} resources; make them narrower.")
    return page.matches[0] if page.matches else None


def _no_twice(entries: Iterable[Entry]) -> set[tuple[str, str]]:
    """(type, id) of what is updated or deleted. Raises Invalid when an entry does so a second time."""
    seen: set[tuple[str, str]] = set()
    for entry in entries:
        if entry.id and entry.method in ("PUT", "DELETE"):
            if (entry.type, entry.id) in seen:
                raise Invalid(
                    f"{entry.type}/{entry.id} is changed twice in one transaction.",
                    path=f"Bundle.entry[{entry.place}].request",
                )
            seen.add((entry.type, entry.id))
    return seen


def _found_not_changed(
    entries: Iterable[Entry], existing: Mapping[int, Stored], changed: AbstractSet[tuple[str, str]]
) -> None:
    """Raises Invalid when what If-None-Exist found is deleted or updated by another entry: identities overlap."""
    for entry in entries:
        found = existing.get(entry.place)
        if found is not None and (found.type, found.id) in changed:
            raise Invalid(
                f"ifNoneExist matches {found.type}/{found.id}, which another entry changes.",
                path=f"Bundle.entry[{entry.place}].request.ifNoneExist",
            )


def _identities(
    tx: Transaction, entries: Sequence[Entry], visibility: Visibility, base_url: str
) -> tuple[dict[str, str], dict[int, Stored]]:
    """fullUrl → "Type/id" of each entry, ids for new ones drawn now; and what If-None-Exist found, by place."""
    known: dict[str, str] = {}
    existing: dict[int, Stored] = {}
    for entry in entries:
        local = f"{entry.type}/{entry.id}"
        if entry.method == "POST":
            found = None
            if entry.if_none_exist is not None:
                found = match_one(tx, entry.type, entry.if_none_exist, visibility, base_url)
            if found is not None:
                existing[entry.place] = found
            # Only our own use cases draw the id of a POST beforehand; the endpoint never does.
            local = f"{entry.type}/{found.id if found else entry.id or resources.new_id()}"
            known[f"#{entry.place}"] = local
        if entry.full_url and entry.method in ("POST", "PUT"):
            known[entry.full_url] = local
    return known, existing


def _resolver(
    tx: Transaction, entry: Entry, known: dict[str, str], visibility: Visibility, base_url: str
) -> Callable[[str], str | None]:
    own = refs.parse(entry.full_url)

    def resolve(reference: str) -> str | None:
        if reference.startswith("#"):
            return None  # contained; "#0" must not be taken for the mark of entry 0
        target = known.get(reference)
        if target is None and own is not None and own.base:
            # Relative to the base of this entry's fullUrl: two hospitals' Patient/1 may stand in one Bundle.
            target = known.get(f"{own.base}/{reference}")
        if target is not None:
            return target
        if reference.startswith("urn:uuid:"):
            whole, _, fragment = reference.partition("#")
            if fragment and whole in known:
                return f"{known[whole]}#{fragment}"
            return None
        kind, mark, criteria = reference.partition("?")
        if mark and kind.isalpha() and kind[:1].isupper():
            found = match_one(tx, kind, criteria, visibility, base_url)
            if found is None:
                raise PreconditionFailed(f"No {kind} matches the conditional reference.", path="Bundle.entry")
            return f"{kind}/{found.id}"
        return None

    return resolve


def _write(
    tx: Transaction,
    entry: Entry,
    known: dict[str, str],
    resolve: Callable[[str], str | None],
    visibility: Visibility,
    base_url: str,
    case_id: str | None,
    update_creates: bool,
) -> Outcome:
    if entry.body is None:
        raise Invalid("The entry has no resource.", path=f"Bundle.entry[{entry.place}].resource")
    body = refs.rewrite(entry.body, resolve)
    resource = refs.rewritten(entry.resource, resolve)
    links = (*refs.find(resource), *_attached(resource))
    unresolved = next((link for link in links if link.startswith("urn:uuid:")), None)
    if unresolved is not None:
        raise Invalid(
            f"{unresolved} is not the fullUrl of any entry in this Bundle.",
            path=f"Bundle.entry[{entry.place}].resource",
        )
    if entry.method == "POST":
        _not_created_before(tx, entry, visibility, base_url)
        new = known[f"#{entry.place}"].partition("/")[2]
        created = resources.create(tx, body, resource, base_url=base_url, resource_id=new, case_id=case_id)
        return Outcome(entry, 201, created)
    before = resources.find(tx.connection, visibility, entry.type, entry.id)
    if before is None:
        if not update_creates:
            raise NotFound(
                f"There is no {entry.type}/{entry.id}; POST it, ids are ours to give.",
                path=f"Bundle.entry[{entry.place}].request.url",
            )
        created = resources.create(tx, body, resource, base_url=base_url, resource_id=entry.id, case_id=case_id)
        return Outcome(entry, 201, created)
    updated = resources.update(tx, before, body, resource, base_url=base_url, if_match=entry.if_match)
    return Outcome(entry, 200, updated)


def _not_created_before(tx: Transaction, entry: Entry, visibility: Visibility, base_url: str) -> None:
    """Nothing matched before the transaction; Invalid when an earlier entry of it has created a match since."""
    if entry.if_none_exist is None:
        return
    if match_one(tx, entry.type, entry.if_none_exist, visibility, base_url) is not None:
        raise Invalid(
            "Another entry of this transaction creates what ifNoneExist matches; send it once and refer to it.",
            path=f"Bundle.entry[{entry.place}].request.ifNoneExist",
        )


def _attached(value: Any, key: str = "") -> Iterator[str]:
    """Every Attachment.url; other elements named url may be canonical names, for which a urn is right."""
    if isinstance(value, dict):
        if key.lower().endswith("attachment") and isinstance(value.get("url"), str):
            yield value["url"]
        for name, child in value.items():
            yield from _attached(child, name)
    elif isinstance(value, list):
        for child in value:
            yield from _attached(child, key)


def _read(tx: Transaction, entry: Entry, visibility: Visibility) -> Stored:
    return resources.read(tx.connection, visibility, entry.type, entry.id)


def _delete(tx: Transaction, entry: Entry, visibility: Visibility) -> Stored | None:
    before = resources.find(tx.connection, visibility, entry.type, entry.id)
    if before is None or before.deleted:
        return before
    return resources.delete(tx, before, if_match=entry.if_match)
