"""$document: a Composition and all that it leads to, as one Bundle that needs nothing else.

What can't be had is never left out in silence: what the Composition itself points to must be there (R4 demands it), and
so must what those point to, unless the caller takes a document that says that it is not whole.
Source: https://hl7.org/fhir/R4/composition-operation-document.html and https://hl7.org/fhir/R4/documents.html#content
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from uuid import uuid4

from flask import Response, request
from sqlalchemy.engine import Connection

from fhir_secondop.errors import Gone, Invalid, Issue, NotFound, TooCostly, Unsupported
from fhir_secondop.fhir import definitions, excerpts, refs, times
from fhir_secondop.fhir.refs import Ref
from fhir_secondop.model import Caller, Resource, Visibility
from fhir_secondop.rest import answers, disclosure, inputs, interactions, shown
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.store import compartments, resources
from fhir_secondop.store.database import now_ms
from fhir_secondop.store.resources import Stored

_NAMED = 20


@dataclass(frozen=True, slots=True)
class _Missing:
    """A reference of which nothing is to be had, who has it, and why."""

    source: str
    reference: str
    why: str
    code: str

    @property
    def said(self) -> str:
        """It in words."""
        return f"{self.source} points to {self.reference}, {self.why}."


@dataclass(slots=True)
class _Found:
    """The resources of the document by "Type/id" and version, "" for the current one; and what is missing."""

    held: dict[tuple[str, str], Stored] = field(default_factory=dict)
    missing: list[_Missing] = field(default_factory=list)

    def entries(self) -> list[Stored]:
        """Each version once, in the order in which they were met."""
        return list({each.versioned: each for each in self.held.values()}.values())


def run(endpoint: Endpoint, caller: Caller, composition_id: str) -> Response:
    """GET and POST Composition/[id]/$document. Raises NotFound, Gone, Forbidden, Unsupported, Invalid."""
    sent = inputs.read(endpoint, ("persist",))
    if sent.flag("persist"):
        raise Unsupported("No document is stored here: persist is false, or left out.", path="persist")
    interactions.may(endpoint, caller, "Composition", "read", "r")
    readable, _ = shown.granted(endpoint.allows, caller)
    visibility = shown.seen(endpoint, caller)
    with endpoint.reading() as connection:
        first = resources.read(connection, visibility, "Composition", composition_id)
        found = _followed(endpoint, connection, first, visibility, readable)
    is_lenient = "handling=lenient" in request.headers.get("Prefer", "")
    direct = [each for each in found.missing if each.source == compartments.local_of(first)]
    refused = direct if is_lenient else found.missing
    if refused:
        said = f"The document would not be whole: {len(refused)} reference(s) lead to nothing that could be in it."
        raise Invalid(said, issues=[Issue("error", each.code, "", each.said) for each in refused[:_NAMED]])
    entries = found.entries()
    disclosure.disclosed(entries)
    answer = _answer(endpoint.base_url, entries, found.missing)
    if found.missing:
        answer.headers["Warning"] = f'199 - "not in this document: {_listed(found.missing)}"'
    return answer


def _listed(missing: list[_Missing]) -> str:
    # What is elsewhere was written by somebody: a header takes only what looks like one of our addresses.
    named = sorted({each.reference for each in missing})
    ours = [text for text in named if (ref := refs.parse(text)) is not None and not ref.base]
    said = ", ".join(ours[:_NAMED])
    more = len(named) - len(ours[:_NAMED])
    return " and ".join(filter(None, (said, f"{more} more" if more else "")))


def _answer(base_url: str, entries: Iterable[Stored], missing: list[_Missing]) -> Response:
    head: Resource = {
        "resourceType": "Bundle",
        "identifier": {"system": "urn:ietf:rfc:3986", "value": f"urn:uuid:{uuid4()}"},
        "type": "document",
        "timestamp": times.instant(now_ms()),
    }
    if missing:
        head["meta"] = {"tag": [excerpts.SUBSETTED]}
    return answers.bundle_answer(head, answers.entries(base_url, entries))


def _followed(
    endpoint: Endpoint, connection: Connection, first: Stored, visibility: Visibility, readable: frozenset[str]
) -> _Found:
    """The Composition, and what its references lead to, however far. Raises TooCostly."""
    found = _Found({(compartments.local_of(first), ""): first})
    fresh = [first]
    while fresh:
        wanted: dict[tuple[str, str], str] = {}
        for one in fresh:
            for text in sorted(refs.mentioned([one.body.text])):
                ref = _here(text, endpoint.base_url)
                if ref is None and not text.startswith("#") and text:
                    why = "which is elsewhere" if refs.parse(text) else "which names nothing that is stored"
                    found.missing.append(_Missing(compartments.local_of(one), text, why, "not-found"))
                elif ref is not None and (ref.local, ref.version) not in found.held:
                    wanted.setdefault((ref.local, ref.version), compartments.local_of(one))
        fresh = list(_had(connection, wanted, found, visibility, readable))
        if len(found.held) > (most := endpoint.limits.max_document):
            raise TooCostly(f"The document would have more than {most} entries (max_document).")
    return found


def _here(text: str, base_url: str) -> Ref | None:
    ref = refs.parse(text)
    if ref is None or ref.base not in ("", base_url) or ref.type not in definitions.resource_types():
        return None
    return replace(ref, version=ref.version if ref.version.isdecimal() and len(ref.version) < 10 else "")


def _had(
    connection: Connection,
    wanted: dict[tuple[str, str], str],
    found: _Found,
    visibility: Visibility,
    readable: frozenset[str],
) -> Iterator[Stored]:
    """Those of these that are there; each is put among what was found, the others among what is missing."""
    asked = {local: tuple(local.split("/", 1)) for local, _ in wanted}
    pairs = [(kind, id_) for kind, id_ in asked.values() if kind in readable]
    current = {compartments.local_of(one): one for one in compartments.named(connection, pairs, visibility)}
    for (local, version), source in wanted.items():
        kind, id_ = asked[local]
        one = current.get(local)
        if kind not in readable:
            found.missing.append(_Missing(source, local, f"which takes the scope {kind}.r", "suppressed"))
        elif one is not None and version in ("", str(one.version)):
            found.held[local, version] = one
            yield one
        else:
            try:
                # Of what is not there it says whether it was deleted, to those who could see that.
                one = (
                    resources.history(connection, visibility, kind, id_, version=int(version))[0]
                    if version
                    else resources.read(connection, visibility, kind, id_)
                )
                if one.deleted:
                    raise Gone("That version is the deletion.")
            except (NotFound, Gone) as error:
                why, code = ("which was deleted", "deleted") if isinstance(error, Gone) else (_NOT_HERE, "not-found")
                found.missing.append(_Missing(source, f"{local}/_history/{version}" if version else local, why, code))
            else:
                found.held[local, version] = one
                yield one


_NOT_HERE = "which is not here, or not for this caller"
