"""Entries → outcomes in one transaction: R4 order, conditional references, urn:uuid rewriting. Knows no HTTP.

Source: https://hl7.org/fhir/R4/http.html#trules
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from sqlalchemy.engine import Connection

from fhir_secondop.errors import Invalid, NotFound, PreconditionFailed, Unsupported
from fhir_secondop.fhir import query, refs
from fhir_secondop.fhir.codec import Body
from fhir_secondop.fhir.criteria import LIMITS, Condition, Criterion
from fhir_secondop.limits import Limits
from fhir_secondop.model import Resource, Visibility
from fhir_secondop.store import creating, deadline, resources, search
from fhir_secondop.store.database import Transaction
from fhir_secondop.store.resources import Stored

# What may stand before "identifier=…": "?", "Patient?", or, as HAPI's client has it, the base, too.
_ADDRESS = re.compile(r"(?:[^?=]*/)?([^?=/]*)\?")


@dataclass(frozen=True, slots=True)
class Entry:
    """One request of a transaction; `place` is its index in the Bundle as sent.

    `criteria` say by a search which resource a PUT or a DELETE means. A PATCH is a PUT of what was patched, while
    `patched` (type, id, version) is the current version.
    """

    place: int
    method: str
    type: str
    id: str = ""
    full_url: str = ""
    body: Body | None = None
    resource: Resource = field(default_factory=dict)
    if_none_exist: str | None = None
    if_match: int | None = None
    criteria: str = ""
    patched: Stored | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an entry: 201 created, 200 updated or found, 204 deleted."""

    entry: Entry
    status: int
    stored: Stored | None


class Overtaken(Exception):
    """What a PATCH was made of has been changed by somebody else meanwhile."""


_ORDER = {"DELETE": 0, "POST": 1, "PUT": 2, "PATCH": 2}


def apply(
    tx: Transaction,
    entries: Sequence[Entry],
    *,
    visibility: Visibility,
    base_url: str,
    case_id: str | None = None,
    update_creates: bool = False,
    case_of: Callable[[Entry], str | None] = lambda entry: None,
    limits: Limits = LIMITS,
    reach: Reach | None = None,
) -> list[Outcome]:
    """Applies all entries or, by raising, none; outcomes stand in the order of the Bundle. None of them only reads.

    New resources belong to `case_id`, or to what `case_of` says. `update_creates` lets PUT create under the
    client's id; `reach` as in `match_one`.
    """
    new = creating.Creating(tx, base_url, sum(entry.method == "POST" for entry in entries))
    run = _Run(tx, new, visibility, base_url, update_creates, limits, reach)
    _identify(run, entries)
    _no_twice(entries, run.existing)
    outcomes: dict[int, Outcome] = {}
    for entry in sorted(entries, key=lambda e: _ORDER[e.method]):
        found = run.existing.get(entry.place)
        if entry.method == "DELETE":
            outcomes[entry.place] = Outcome(entry, 204, _delete(run, entry, found))
        elif entry.method == "POST" and found is not None:
            outcomes[entry.place] = Outcome(entry, 200, found)
        else:
            outcomes[entry.place] = _write(run, entry, found, case_id or case_of(entry))
    new.flush()
    return [outcomes[entry.place] for entry in entries]


@dataclass(frozen=True, slots=True)
class _Run:
    """What all entries share. `known`: fullUrl, or "#" and place, → "Type/id"; `existing`: by place, what criteria
    found; `drawn`: the places of those whose id was drawn here.
    """

    tx: Transaction
    new: creating.Creating
    visibility: Visibility
    base_url: str
    update_creates: bool
    limits: Limits
    reach: Reach | None
    known: dict[str, str] = field(default_factory=dict)
    existing: dict[int, Stored] = field(default_factory=dict)
    drawn: set[int] = field(default_factory=set)

    def match(self, resource_type: str, criteria: str, also: Collection[str] = ()) -> Stored | None:
        self.new.flush()
        return match_one(
            self.tx.connection, resource_type, criteria, self.visibility, self.base_url, self.limits,
            reach=self.reach, also=also,
        )  # fmt: skip


class Reach(Protocol):
    """How far the criteria of a write may go: they find only by what who writes may search."""

    def __call__(
        self, conditions: Sequence[Condition], also: Collection[str], visibility: Visibility
    ) -> tuple[Sequence[Condition], Visibility]:
        """The conditions by the ways that may be gone, and what is seen of all types on them, and of `also`.

        Raises Forbidden, Unsupported.
        """


def match_one(
    connection: Connection,
    resource_type: str,
    criteria: str,
    visibility: Visibility,
    base_url: str,
    limits: Limits = LIMITS,
    *,
    reach: Reach | None = None,
    also: Collection[str] = (),
) -> Stored | None:
    """The one resource that If-None-Exist criteria match. Raises PreconditionFailed when there are several, TooCostly
    when that takes too long: others wait for it. Without `reach` they are about the resource alone.

    Source: https://hl7.org/fhir/R4/http.html#ccreate
    """
    address = _ADDRESS.match(criteria)
    if address is not None and address[1] not in ("", resource_type):
        raise Invalid(f"The criteria of a conditional interaction on {resource_type} name another type.")
    wanted = query.parse(resource_type, criteria[address.end() :] if address else criteria, limits=limits)
    if not wanted.criteria:
        raise PreconditionFailed("The criteria of a conditional interaction are empty.")
    if wanted.sort or wanted.includes or wanted.elements or wanted.summary:
        raise Unsupported(
            "The criteria of a conditional interaction only say what matches: no _sort, _include and so on."
        )
    conditions: Sequence[Condition] = wanted.criteria
    if reach is not None:
        conditions, visibility = reach(conditions, also, visibility)
    elif any(not isinstance(each, Criterion) for each in conditions):
        raise Unsupported("These criteria may not follow references (chains, _has).")
    wanted = replace(wanted, criteria=tuple(conditions), count=2, page="")
    with deadline.within(connection, limits.max_search_s):
        page = search.run(connection, wanted, visibility, base_url, counts=False)
    if len(page.matches) > 1:
        raise PreconditionFailed(f"The criteria match several {resource_type} resources; make them narrower.")
    return page.matches[0] if page.matches else None


def _no_twice(entries: Iterable[Entry], existing: Mapping[int, Stored]) -> None:
    """Raises Invalid when an entry changes a second time what another one does, or what ifNoneExist of one found.

    Source: https://hl7.org/fhir/R4/http.html#trules: identities may not overlap, resolved ones included.
    """
    changed: set[tuple[str, str]] = set()
    for entry in entries:
        id_ = existing[entry.place].id if entry.place in existing else entry.id
        if not id_ or entry.method not in ("PUT", "PATCH", "DELETE"):
            continue
        if (entry.type, id_) in changed:
            raise Invalid(
                f"{entry.type}/{id_} is changed twice in one transaction.", path=f"Bundle.entry[{entry.place}].request"
            )
        changed.add((entry.type, id_))
    for entry in entries:
        found = existing.get(entry.place)
        if found is not None and entry.method == "POST" and (found.type, found.id) in changed:
            raise Invalid(
                f"ifNoneExist matches {found.type}/{found.id}, which another entry changes.",
                path=f"Bundle.entry[{entry.place}].request.ifNoneExist",
            )


def _identify(run: _Run, entries: Iterable[Entry]) -> None:
    """Says who each entry is: what criteria find, and ids for new ones, drawn now."""
    for entry in entries:
        criteria = entry.if_none_exist if entry.method == "POST" else entry.criteria or None
        found = run.match(entry.type, criteria) if criteria is not None else None
        if found is not None:
            run.existing[entry.place] = found
        # Only our own use cases draw the id of a POST beforehand; the endpoint never does.
        given = entry.id or (entry.resource.get("id") if entry.criteria else None)
        if not given:
            run.drawn.add(entry.place)
        local = f"{entry.type}/{found.id if found else given or resources.new_id()}"
        run.known[f"#{entry.place}"] = local
        if entry.full_url and entry.method in ("POST", "PUT"):
            run.known[entry.full_url] = local


def _linker(run: _Run, entry: Entry) -> Callable[[str], str | None]:
    """What a link of this entry becomes: "Type/id" where it is another entry's fullUrl."""
    known = run.known
    own = refs.parse(entry.full_url)

    def resolve(link: str) -> str | None:
        if link.startswith("#"):
            return None  # contained; "#0" must not be taken for the mark of entry 0
        target = known.get(link)
        if target is None and own is not None and own.base:
            # Relative to the base of this entry's fullUrl: two hospitals' Patient/1 may stand in one Bundle.
            target = known.get(f"{own.base}/{link}")
        if target is None and link.startswith("urn:uuid:"):
            whole, _, fragment = link.partition("#")
            if fragment and whole in known:
                return f"{known[whole]}#{fragment}"
        return target

    return resolve


def _resolver(run: _Run, link: Callable[[str], str | None]) -> Callable[[str], str | None]:
    """What a reference becomes: as a link, or what its criteria find."""

    def resolve(reference: str) -> str | None:
        target = link(reference)
        kind, mark, criteria = reference.partition("?")
        if target is not None or not mark or not kind.isalpha() or not kind[:1].isupper():
            return target
        found = run.match(kind, criteria, also=(kind,))
        if found is None:
            raise PreconditionFailed(f"No {kind} matches the conditional reference.", path="Bundle.entry")
        return f"{kind}/{found.id}"

    return resolve


def _write(run: _Run, entry: Entry, found: Stored | None, case_id: str | None) -> Outcome:
    if entry.body is None:
        raise Invalid("The entry has no resource.", path=f"Bundle.entry[{entry.place}].resource")
    link = _linker(run, entry)
    resolve = _resolver(run, link)
    body, resource, links = refs.resolved(entry.body, entry.resource, resolve, link)
    unresolved = next((link.text for link in links if link.text.startswith("urn:uuid:") and _is_address(link)), None)
    if unresolved is not None:
        raise Invalid(
            f"{unresolved} is not the fullUrl of any entry in this Bundle.",
            path=f"Bundle.entry[{entry.place}].resource",
        )
    if entry.method == "POST" or (entry.criteria and found is None):
        _not_created_before(run, entry)
        _check_creates(run, entry)
        return Outcome(entry, 201, _create(run, entry, body, resource, case_id))
    before = found or resources.find(run.tx.connection, run.visibility, entry.type, entry.id)
    if before is None:
        if not run.update_creates:
            raise NotFound(
                f"There is no {entry.type}/{entry.id}; POST it, ids are ours to give.",
                path=f"Bundle.entry[{entry.place}].request.url",
            )
        return Outcome(entry, 201, _create(run, entry, body, resource, case_id))
    _check_same(entry, before)
    updated = resources.update(run.tx, before, body, resource, base_url=run.base_url, if_match=entry.if_match)
    return Outcome(entry, 200, updated)


def _create(run: _Run, entry: Entry, body: Body, resource: Resource, case_id: str | None) -> Stored:
    new = run.known[f"#{entry.place}"].partition("/")[2]
    if entry.method == "POST" and entry.place in run.drawn:
        return run.new.add(new, body, resource, case_id)
    run.new.flush()
    return resources.create(run.tx, body, resource, base_url=run.base_url, resource_id=new, case_id=case_id)


def _check_creates(run: _Run, entry: Entry) -> None:
    """Raises where criteria match nothing and the entry can't create it."""
    if entry.method == "POST":
        return
    if entry.patched is not None:
        raise Overtaken
    if entry.if_match is not None:
        here = f"Bundle.entry[{entry.place}].request.ifMatch"
        raise PreconditionFailed("ifMatch names a version, and nothing matches.", path=here)
    if entry.resource.get("id") is not None and not run.update_creates:
        said = "Nothing matches; leave the id out, ids are ours to give."
        raise Invalid(said, path=f"Bundle.entry[{entry.place}].resource.id")


def _check_same(entry: Entry, before: Stored) -> None:
    """Raises unless what is there is what the entry means, and its writer sees the whole of it."""
    here = f"Bundle.entry[{entry.place}]"
    resources.expect_whole(before, here)
    made_of = entry.patched
    if made_of is not None and (made_of.rid, made_of.version) != (before.rid, before.version):
        raise Overtaken
    if entry.criteria and entry.resource.get("id", before.id) != before.id:
        raise Invalid(f"{before.type}/{before.id} matches: the resource has another id.", path=f"{here}.resource.id")


def _not_created_before(run: _Run, entry: Entry) -> None:
    """Nothing matched before the transaction; Invalid when an earlier entry of it has created a match since."""
    criteria = entry.if_none_exist if entry.method == "POST" else entry.criteria
    if criteria is None:
        return
    if run.match(entry.type, criteria) is not None:
        where = "ifNoneExist" if entry.method == "POST" else "url"
        raise Invalid(
            f"Another entry of this transaction creates what {where} matches; send it once and refer to it.",
            path=f"Bundle.entry[{entry.place}].request.{where}",
        )


def _is_address(link: refs.Link) -> bool:
    """Whether it must lead somewhere: a reference, or Attachment.url. Other elements named url may be canonical names,
    for which a urn is right.
    """
    return link.key == "reference" or (link.key == "url" and link.holder.lower().endswith("attachment"))


def _delete(run: _Run, entry: Entry, found: Stored | None) -> Stored | None:
    before = found if entry.criteria else resources.find(run.tx.connection, run.visibility, entry.type, entry.id)
    if before is None or before.deleted:
        return before
    return resources.delete(run.tx, before, if_match=entry.if_match)
