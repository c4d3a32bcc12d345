"""POST [base]: a transaction Bundle in, a transaction-response out. All of it is stored, or nothing.

Source: https://hl7.org/fhir/R4/http.html#transaction
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from flask import Response, request

from fhir_secondop.errors import Forbidden, Invalid, Issue, Unsupported
from fhir_secondop.fhir import codec, definitions, times
from fhir_secondop.model import Caller, Ready, Resource
from fhir_secondop.rest import answers, disclosure, formats, interactions, outcome
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.store import bundles
from fhir_secondop.store.bundles import Entry, Outcome

_ADDRESS = re.compile(r"/?([A-Z][A-Za-z]+)(?:/([A-Za-z0-9\-.]{1,64}))?(?:\?(.+))?")
_ENTRY = re.compile(r"Bundle\.entry\[(\d{1,9})\]")
_LETTER = {"POST": "c", "PUT": "u", "DELETE": "d", "GET": "r", "HEAD": "r"}
_INTERACTION = {"POST": "create", "PUT": "update", "DELETE": "delete", "GET": "read", "HEAD": "read"}


def transaction(endpoint: Endpoint, caller: Caller) -> Response:
    """Runs the Bundle in the request's body."""
    if "transaction" not in endpoint.system:
        raise Unsupported("Transactions are not offered here; see metadata.")
    text = formats.body(endpoint.limits, xml=endpoint.xml)
    bundle = codec.parse(text)
    if bundle.get("resourceType") != "Bundle":
        raise Invalid("POST to the base takes a Bundle.", path="resourceType")
    if bundle.get("type") != "transaction":
        raise Unsupported("Only Bundles of type transaction are offered.", path="Bundle.type")
    answers.check_entries(bundle, endpoint.limits.max_entries)
    answers.valid(bundle, text)
    entries = entries_of(bundle, text)
    for entry in entries:
        if _INTERACTION[entry.method] not in endpoint.offered(entry.type):
            raise Unsupported(
                endpoint.not_offered(_INTERACTION[entry.method], entry.type),
                path=f"Bundle.entry[{entry.place}].request",
            )
        if not endpoint.allows(caller, entry.type, _LETTER[entry.method]):
            raise Forbidden(
                f"{caller.name} has no scope for {entry.method} of {entry.type}.",
                path=f"Bundle.entry[{entry.place}].request",
            )
    said = answers.further(endpoint, bundle, text)
    notices = _by_entry(said) if answers.wants_outcome() else {}
    prepared = endpoint.hooks.before(caller, entries, request.headers.get("Idempotency-Key", ""))
    if isinstance(prepared, Ready):
        answer = answers.json_answer(_noticed(prepared.resource, notices), prepared.status)
        if prepared.location:
            disclosure.asked(*prepared.location.split("/")[:2])
            answer.headers["Location"] = f"{endpoint.base_url}/{prepared.location}"
        return answer
    visibility = endpoint.sees(caller, *((entry.type, _LETTER[entry.method]) for entry in prepared))
    with endpoint.database.transaction(caller) as tx:
        outcomes = bundles.apply(
            tx,
            prepared,
            visibility=visibility,
            base_url=endpoint.base_url,
            update_creates=endpoint.update_creates,
        )
        endpoint.hooks.within(tx)
        interactions.written(tx, visibility)
    read = ("GET", "HEAD")
    disclosure.disclosed(o.stored for o in outcomes if o.stored and (o.entry.method in read or o.status == 200))
    return answers.json_answer(response(outcomes, notices))


def _by_entry(said: Sequence[Issue]) -> dict[int, Resource]:
    """What there is to say of each entry as an OperationOutcome; what is of none of them stands with the first."""
    by_place: dict[int, list[Issue]] = {}
    for issue in said:
        match = _ENTRY.match(issue.expression)
        by_place.setdefault(int(match[1]) if match else 0, []).append(issue)
    return {place: outcome.outcome(issues) for place, issues in by_place.items()}


def _noticed(bundle: Resource, notices: Mapping[int, Resource]) -> Resource:
    """A transaction-response that the domain has given, its entries in the order of those sent, with the notices."""
    entries = [
        {**entry, "response": {**entry["response"], "outcome": notices[place]}} if place in notices else entry
        for place, entry in enumerate(bundle.get("entry", []))
    ]
    return {**bundle, "entry": entries} if notices else bundle


_NOTHING: Mapping[int, Resource] = MappingProxyType({})


def response(outcomes: list[Outcome], notices: Mapping[int, Resource] = _NOTHING) -> str:
    """The text of the transaction-response Bundle of these outcomes; what was read is not parsed again.

    `notices` are OperationOutcomes by the entry's place.
    """
    entries = []
    for result in outcomes:
        facts: Resource = {"status": _STATUS[result.status]}
        if result.stored is not None:
            facts["etag"] = result.stored.etag
            facts["lastModified"] = times.instant(result.stored.updated)
            facts["location"] = result.stored.versioned
        if result.entry.place in notices:
            facts["outcome"] = notices[result.entry.place]
        read = result.stored.text if result.entry.method == "GET" and result.stored is not None else ""
        entries.append("{" + (f'"resource":{read},' if read else "") + codec.dumps({"response": facts})[1:])
    return answers.with_entries({"resourceType": "Bundle", "type": "transaction-response"}, entries)


_STATUS = {200: "200 OK", 201: "201 Created", 204: "204 No Content"}


def entries_of(bundle: Resource, text: str) -> list[Entry]:
    """The entries of a transaction Bundle, each resource with its text as sent. Raises Invalid with every fault."""
    texts = codec.entry_resources(text)
    entries: list[Entry] = []
    faults: list[Issue] = []
    for place, sent in enumerate(bundle.get("entry", [])):
        try:
            entries.append(_entry(place, sent, texts[place]))
        except Invalid as error:
            faults.extend(error.issues)
    if faults:
        raise Invalid(f"{len(faults)} fault(s) in the transaction; nothing was stored.", issues=faults)
    return entries


def _entry(place: int, sent: Resource, text: str | None) -> Entry:
    here = f"Bundle.entry[{place}].request"
    asked = sent.get("request", {})
    method = asked.get("method", "")
    match = _ADDRESS.fullmatch(asked.get("url", ""))
    if match is None or match[1] not in definitions.resource_types():
        # A search may name a patient: it is not repeated.
        raise Invalid("This is not Type or Type/id of R4.", path=f"{here}.url")
    kind, resource_id, criteria = match[1], match[2] or "", match[3] or ""
    if method not in _LETTER:
        raise Invalid(f"{method} is not offered in a transaction.", path=f"{here}.method")
    if criteria or (method != "POST" and not resource_id):
        raise Invalid("Conditional updates, deletes and searches in a transaction are not offered.", path=f"{here}.url")
    body, resource = codec.split(text) if text is not None else (None, {})
    if method in ("POST", "PUT"):
        if body is None:
            raise Invalid(f"{method} needs a resource.", path=f"Bundle.entry[{place}].resource")
        if resource["resourceType"] != kind:
            raise Invalid(f"The resource is not a {kind}, as the url says.", path=f"{here}.url")
    version = asked.get("ifMatch")
    return Entry(
        place=place,
        method=method,
        type=kind,
        id=resource_id if method != "POST" else "",
        full_url=sent.get("fullUrl", ""),
        body=body,
        resource=resource,
        if_none_exist=asked.get("ifNoneExist"),
        if_match=answers.version_of(version, f"{here}.ifMatch") if version else None,
    )
