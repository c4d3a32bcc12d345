"""$everything: a patient's compartment, and what the resources in it point to, page by page.

What it gives could be had by reading the patient, searching its compartment (scope `s`) and reading what is pointed to
(scope `r`); what is left out for want of a scope is said in each answer. docs/operations.md says what is in it.
Source: https://hl7.org/fhir/R4/patient-operation-everything.html
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from flask import Response
from sqlalchemy.engine import Connection

from fhir_secondop.errors import Forbidden, Invalid, Issue
from fhir_secondop.fhir import definitions, refs
from fhir_secondop.limits import Limits
from fhir_secondop.model import Caller, Visibility
from fhir_secondop.rest import disclosure, inputs, interactions, shown
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.rest.inputs import Input
from fhir_secondop.store import compartments, resources
from fhir_secondop.store.compartments import Place, Record
from fhir_secondop.store.resources import Stored

PARAMETERS = ("start", "end", "_since", "_type", "_count", "_page")
MAX_WALKED = 5000  # members that one page looks at, where it shows only some of them
_NAMED = 20  # references that a notice names


@dataclass(slots=True)
class _Page:
    """What one page shows. `more`: where the next one begins."""

    matches: list[Stored] = field(default_factory=list)
    included: list[Stored] = field(default_factory=list)
    more: Place | None = None
    notices: list[Issue] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Asked:
    count: int
    types: frozenset[str]
    since_ms: int | None
    place: Place | None

    @property
    def is_part(self) -> bool:
        """Whether only some of what is looked at is shown."""
        return bool(self.types) or self.since_ms is not None

    def shows(self, one: Stored) -> bool:
        """Whether it is asked for."""
        return (not self.types or one.type in self.types) and (self.since_ms is None or one.updated >= self.since_ms)


@dataclass(frozen=True, slots=True)
class _View:
    """What is looked at, and what of it is given to whom."""

    connection: Connection
    record: Record
    visibility: Visibility
    readable: frozenset[str]
    base_url: str
    limits: Limits


def run(endpoint: Endpoint, caller: Caller, patient_id: str) -> Response:
    """GET and POST Patient/[id]/$everything and, of all patients that the caller sees, Patient/$everything.

    Raises NotFound, Gone, Forbidden, Invalid.
    """
    sent = inputs.read(endpoint, PARAMETERS)
    interactions.may(endpoint, caller, "Patient", "read", "r")
    if not patient_id:
        interactions.may(endpoint, caller, "Patient", "search-type", "s")
    address = f"Patient/{patient_id}/$everything" if patient_id else "Patient/$everything"
    asked = _asked(endpoint, caller, address, sent)
    readable, searchable = shown.granted(endpoint.allows, caller)
    left_out = tuple(sorted(compartments.types() - searchable))
    visibility = shown.seen(endpoint, caller)
    with endpoint.reading() as connection:
        record = Record(patient_id, sent.period(), left_out)
        view = _View(connection, record, visibility, readable, endpoint.base_url, endpoint.limits)
        page = _page(view, asked)
    page.notices[:0] = _not_shown(caller, left_out, visibility, asked.types)
    disclosure.disclosed((*page.matches, *page.included))
    more = shown.link_to(endpoint, caller, address, sent, page.more)
    return shown.searchset(endpoint, address, sent.pairs(), more, page.matches, page.included, page.notices)


def _not_shown(caller: Caller, left_out: Sequence[str], visibility: Visibility, types: frozenset[str]) -> list[Issue]:
    """What the caller's scopes keep back, of the types that are asked for: never how much of it there is."""
    said = []
    if absent := [kind for kind in left_out if not types or kind in types]:
        said.append(f"Left out, for {caller.name} has no scope to search for them: {', '.join(absent)}.")
    if narrowed := sorted({kind for kind, _ in visibility.narrowed if not types or kind in types}):
        said.append(f"The scopes of {caller.name} grant only some of: {', '.join(narrowed)}.")
    return [Issue("warning", "suppressed", "", text) for text in said]


def _asked(endpoint: Endpoint, caller: Caller, address: str, sent: Input) -> _Asked:
    types = frozenset(sent.each("_type"))
    unknown = sorted(types - definitions.resource_types())
    if unknown or (not types and sent.one("_type") == "" and "_type" in sent.values):
        said = f"_type is a type of R4, or several with commas; not {', '.join(unknown) or 'empty'}."
        raise Invalid(said, path="_type")
    readable, searchable = shown.granted(endpoint.allows, caller)
    missing = sorted(
        f"{kind}.{letter}"
        for kind in types - {"Patient"}
        for letter, has in (("s", searchable), ("r", readable))
        if kind not in has and (kind in compartments.types()) == (letter == "s")
    )
    if missing:
        raise Forbidden(f"{caller.name} has no scope {', '.join(missing)}, which this _type needs.")
    since = sent.time("_since")
    count = shown.page_size(endpoint, sent)
    place = shown.place_of(endpoint, caller, address, sent)
    return _Asked(count, types, since.low if since else None, place)


def _page(view: _View, asked: _Asked) -> _Page:
    page = _Page()
    is_part = asked.is_part
    most = MAX_WALKED if is_part else asked.count
    walked: list[Stored] = []
    size = 0
    for one in compartments.record(view.connection, view.record, view.visibility, asked.place, most + 1):
        size += one.bytes
        if len(page.matches) == asked.count or len(walked) == most or (walked and size > view.limits.max_page_bytes):
            last = asked.place.last if asked.place else compartments.newest(view.connection)
            page.more = Place(walked[-1].rid, last)
            break
        walked.append(one)
        if not is_part or asked.shows(one):
            page.matches.append(one)
    held = {f"{one.type}/{one.id}" for one in walked}
    patient_id = view.record.patient_id
    if patient_id and f"Patient/{patient_id}" not in held:
        # It stands on another page, or there is none: then nothing is said of what may be theirs.
        resources.read(view.connection, view.visibility, "Patient", patient_id)
    mentioned = refs.mentioned(one.kept for one in walked)
    _include(view, page, mentioned - held, held, asked)
    return page


def _include(view: _View, page: _Page, mentioned: Iterable[str], held: set[str], asked: _Asked) -> None:
    """Adds what is pointed to and is in no compartment that is given here; says what can't be had."""
    wanted, elsewhere = pointed_to(mentioned, view.base_url)
    wanted = {
        (kind, id_) for kind, id_ in wanted if f"{kind}/{id_}" not in held and (not asked.types or kind in asked.types)
    }
    others = {pair for pair in wanted if pair[0] == "Patient"}
    barred = {pair for pair in wanted - others if pair[0] not in view.readable}
    wanted -= others | barred
    outside = sorted(pair for pair in wanted if pair[0] not in compartments.types())
    inside = sorted(wanted - set(outside))
    # Members stand on their own pages, however far away; what belongs to nobody here comes along.
    members = compartments.named(view.connection, inside, view.visibility, among=view.record) if inside else ()
    there = {(one.type, one.id) for one in members}
    size = left = 0
    for one in compartments.named(view.connection, [*outside, *(p for p in inside if p not in there)], view.visibility):
        there.add((one.type, one.id))
        if asked.since_ms is not None and one.updated < asked.since_ms:
            continue
        size += one.bytes
        if len(page.included) == view.limits.max_included or size > view.limits.max_page_bytes:
            left += 1
        else:
            page.included.append(one)
    if barred:
        kinds = ", ".join(sorted({kind for kind, _ in barred}))
        said = f"What these point to of {kinds} is left out: there is no scope to read it."
        page.notices.append(Issue("warning", "suppressed", "", said))
    if left:
        said = (
            f"These point to {left} more than may come along (max_included, max_page_bytes); ask for a smaller _count."
        )
        page.notices.append(Issue("warning", "too-costly", "", said))
    if asked.types:
        elsewhere = {text for text in elsewhere if (ref := refs.parse(text)) is not None and ref.type in asked.types}
    lost = sorted(f"{kind}/{id_}" for kind, id_ in wanted - there) + sorted(elsewhere)
    if lost:
        page.notices.append(Issue("information", "incomplete", "", _said(lost, "can't be had here")))
    if others:
        named = sorted(f"{kind}/{id_}" for kind, id_ in others)
        page.notices.append(Issue("information", "suppressed", "", _said(named, "are other patients, and left out")))


def _said(references: Sequence[str], what: str) -> str:
    more = f" and {len(references) - _NAMED} more" if len(references) > _NAMED else ""
    return f"Pointed to by these, {what}: {', '.join(references[:_NAMED])}{more}."


def pointed_to(mentioned: Iterable[str], base_url: str) -> tuple[set[tuple[str, str]], set[str]]:
    """(type, id) of what these references name of ours, and those that name something elsewhere."""
    here, elsewhere = set(), set()
    for text in mentioned:
        if not text or text.startswith("#"):
            continue
        ref = refs.parse(text)
        if ref is not None and ref.base in ("", base_url) and ref.type in definitions.resource_types():
            here.add((ref.type, ref.id))
        else:
            elsewhere.add(text)
    return here, elsewhere
