"""POST [base]: a Bundle in, its response out. Of a transaction all is stored, or nothing.

Source: https://hl7.org/fhir/R4/http.html#transaction
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from flask import Response, request

from fhir_secondop.errors import Forbidden, Invalid, Issue, NotFound, Unavailable, Unsupported
from fhir_secondop.fhir import codec, definitions, patch, times
from fhir_secondop.model import Caller, Ready, Resource, Visibility
from fhir_secondop.rest import answers, batch, disclosure, formats, interactions, outcome, patching
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.store import bundles, resources
from fhir_secondop.store.bundles import Entry, Outcome

_ADDRESS = re.compile(r"/?([A-Z][A-Za-z]+)(?:/([A-Za-z0-9\-.]{1,64}))?(?:\?(.+))?")
_ENTRY = re.compile(r"Bundle\.entry\[(\d{1,9})\]")
_LETTER = {"POST": "c", "PUT": "u", "PATCH": "u", "DELETE": "d", "GET": "r", "HEAD": "r"}
_INTERACTION = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "GET": "read", "HEAD": "read"}
_READ = ("GET", "HEAD")
# What a request of an entry may say beside method and url, by method; anything else would be passed over.
_TAKEN = {"POST": ("ifNoneExist",), "PUT": ("ifMatch",), "PATCH": ("ifMatch",), "DELETE": ("ifMatch",)}
_PRECONDITIONS = ("ifMatch", "ifNoneMatch", "ifNoneExist", "ifModifiedSince")


def submit(endpoint: Endpoint, caller: Caller) -> Response:
    """Runs the transaction or the batch in the request's body."""
    if not endpoint.system & {"transaction", "batch"}:
        raise Unsupported("Bundles are not taken here; see metadata.")
    text = formats.body(endpoint.limits, xml=endpoint.xml)
    bundle = codec.parse(text)
    if bundle.get("resourceType") != "Bundle":
        raise Invalid("POST to the base takes a Bundle.", path="resourceType")
    answers.check_entries(bundle, endpoint.limits.max_entries)
    if bundle.get("type") == "batch":
        return batch.run(endpoint, caller, bundle, text)
    if bundle.get("type") != "transaction" or "transaction" not in endpoint.system:
        offered = " and ".join(sorted(endpoint.system & {"batch", "transaction"}))
        raise Unsupported(f"Only Bundles of type {offered} are offered.", path="Bundle.type")
    return _transaction(endpoint, caller, bundle, text)


def _transaction(endpoint: Endpoint, caller: Caller, bundle: Resource, text: str) -> Response:
    answers.valid(bundle, text)
    entries = entries_of(bundle, text)
    for entry in entries:
        _may(endpoint, caller, entry)
    said = answers.further(endpoint, bundle, text)
    notices = _by_entry(said) if answers.wants_outcome() else {}
    prepared = endpoint.hooks.before(caller, entries, request.headers.get("Idempotency-Key", ""))
    if isinstance(prepared, Ready):
        answer = answers.json_answer(_noticed(prepared.resource, notices), prepared.status)
        if prepared.location:
            disclosure.asked(*prepared.location.split("/")[:2])
            answer.headers["Location"] = f"{endpoint.base_url}/{prepared.location}"
        return answer
    outcomes = _applied(endpoint, caller, prepared)
    disclosure.disclosed(o.stored for o in outcomes if o.stored and (o.entry.method in _READ or o.status == 200))
    return answers.json_answer(response(outcomes, notices, whole=answers.wants_representation()))


def _applied(endpoint: Endpoint, caller: Caller, entries: Sequence[Entry]) -> list[Outcome]:
    """What becomes of the entries. Those that patch are made anew when others have changed what they patch."""
    wanted = {(entry.type, _LETTER[entry.method]) for entry in entries}
    wanted |= {(entry.type, "s") for entry in entries if entry.criteria}
    visibility = endpoint.sees(caller, *sorted(wanted))
    for _ in range(patching.ATTEMPTS):
        ready = [_patched(endpoint, entry, visibility) if entry.method == "PATCH" else entry for entry in entries]
        try:
            with endpoint.database.transaction(caller) as tx:
                outcomes = bundles.apply(
                    tx,
                    ready,
                    visibility=visibility,
                    base_url=endpoint.base_url,
                    update_creates=endpoint.update_creates,
                    limits=endpoint.limits,
                )
                for made in outcomes:
                    if made.entry.method == "PUT" and made.status == 201:
                        _may(endpoint, caller, replace(made.entry, method="POST", criteria=""))
                endpoint.hooks.within(tx)
                interactions.written(tx, visibility)
            return outcomes
        except bundles.Overtaken:
            continue
    raise Unavailable("What is patched is being changed by others; send the transaction again.")


def _may(endpoint: Endpoint, caller: Caller, entry: Entry) -> None:
    """Raises Unsupported, Forbidden unless it is offered, and covered by the caller's scopes."""
    here = f"Bundle.entry[{entry.place}].request"
    asked = [(_INTERACTION[entry.method], _LETTER[entry.method])]
    if entry.criteria:
        if not endpoint.conditional_changes:
            raise Unsupported("Changes of what a search finds are not offered here; see metadata.", path=f"{here}.url")
        asked.append(("search-type", "s"))
    for interaction, letter in asked:
        if interaction not in endpoint.offered(entry.type):
            raise Unsupported(endpoint.not_offered(interaction, entry.type), path=here)
        if not endpoint.allows(caller, entry.type, letter):
            raise Forbidden(f"{caller.name} has no scope for {entry.method} of {entry.type}.", path=here)


def _patched(endpoint: Endpoint, entry: Entry, visibility: Visibility) -> Entry:
    """A PATCH with what it makes of what is there now."""
    here = f"Bundle.entry[{entry.place}]"
    operations = patch.parse(patching.sent_patch(entry.resource, f"{here}.resource"))
    with endpoint.database.reading() as connection:
        if entry.criteria:
            found = endpoint.match_one(connection, entry.type, entry.criteria, visibility)
            if found is None:
                raise NotFound(f"No {entry.type} matches; nothing was stored.", path=f"{here}.request.url")
        else:
            found = resources.read(connection, visibility, entry.type, entry.id)
    resources.expect(found, entry.if_match)
    sent = patching.patched(endpoint, found, operations)
    return replace(entry, body=sent.body, resource=sent.resource, patched=found)


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


def response(outcomes: list[Outcome], notices: Mapping[int, Resource] = _NOTHING, *, whole: bool = False) -> str:
    """The text of the transaction-response Bundle of these outcomes; what was read is not parsed again.

    `notices` are OperationOutcomes by the entry's place; `whole` adds what was written, too.
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
        is_shown = result.entry.method == "GET" or (whole and result.entry.method not in ("DELETE", "HEAD"))
        read = result.stored.text if is_shown and result.stored is not None else ""
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
    for name in _PRECONDITIONS:
        if name in asked and name not in _TAKEN.get(method, ()):
            raise Invalid(f"{name} is not taken with {method} in a transaction.", path=f"{here}.{name}")
    if criteria and (resource_id or method not in ("PUT", "PATCH", "DELETE")):
        raise Invalid(f"{method} takes no criteria in a transaction.", path=f"{here}.url")
    if method != "POST" and not resource_id and not criteria:
        raise Invalid(f"Say which: {kind}/[id], or {kind}?criteria.", path=f"{here}.url")
    body, resource = (codec.body(text, sent["resource"]), sent["resource"]) if text is not None else (None, {})
    if method in ("POST", "PUT"):
        if body is None:
            raise Invalid(f"{method} needs a resource.", path=f"Bundle.entry[{place}].resource")
        if resource["resourceType"] != kind:
            raise Invalid(f"The resource is not a {kind}, as the url says.", path=f"{here}.url")
    if method == "PUT" and resource_id and resource.get("id", resource_id) != resource_id:
        raise Invalid(
            f"The resource's id must be {resource_id}, as in the url.", path=f"Bundle.entry[{place}].resource.id"
        )
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
        criteria=criteria,
    )
