"""POST [base]: a Bundle in, its response out. Of a transaction all is stored, or nothing.

Source: https://hl7.org/fhir/R4/http.html#transaction
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from urllib.parse import unquote

from flask import Response, request

from fhir_secondop.errors import Invalid, Issue, NotFound, TooCostly, Unavailable, Unsupported
from fhir_secondop.fhir import codec, definitions, patch, times
from fhir_secondop.model import Caller, Ready, Resource, Visibility
from fhir_secondop.rest import answers, batch, disclosure, failures, formats, inner, interactions, outcome, patching
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.store import bundles, methods, resources
from fhir_secondop.store.audit.rows import Access
from fhir_secondop.store.bundles import Entry, Outcome
from fhir_secondop.store.database import Transaction
from fhir_secondop.store.joined import Joined

_ADDRESS = re.compile(r"/?([A-Z][A-Za-z]+)(?:/([A-Za-z0-9\-.]{1,64}))?(?:\?(.+))?")
_URN = re.compile(r"urn:(?:uuid|oid):[0-9a-fA-F.\-]+")
_ENTRY = re.compile(r"Bundle\.entry\[(\d{1,9})\]")
_LETTER = {"POST": "c", "PUT": "u", "PATCH": "u", "DELETE": "d"}
_INTERACTION = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_READ = ("GET", "HEAD")
# What a request of an entry may say beside method and url, by method; anything else would be passed over.
_TAKEN = {
    "POST": ("ifNoneExist",), "PUT": ("ifMatch",), "PATCH": ("ifMatch",), "DELETE": ("ifMatch",),
    "GET": ("ifNoneMatch", "ifModifiedSince"), "HEAD": ("ifNoneMatch", "ifModifiedSince"),
}  # fmt: skip
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
    entries = entries_of(bundle, text, endpoint.base_url)
    for entry in entries:
        if entry.method not in _READ:
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
    asked = {place: entry["request"] for place, entry in enumerate(bundle.get("entry", []))}
    reads = {entry.place: asked[entry.place] for entry in prepared if entry.method in _READ}
    outcomes, read = _applied(endpoint, caller, [entry for entry in prepared if entry.method not in _READ], reads)
    disclosure.disclosed(o.stored for o in outcomes if o.stored and o.status == 200)
    whole = answers.wants_representation()
    return answers.done_answer("transaction-response", response(outcomes, notices, whole=whole, read=read))


def _applied(
    endpoint: Endpoint, caller: Caller, entries: Sequence[Entry], reads: Mapping[int, Resource]
) -> tuple[list[Outcome], dict[int, str]]:
    """What becomes of the entries that write, and by its place the answer to each of `reads`, which come last.

    Those that patch are made anew when others have changed what they patch.
    """
    wanted = {(entry.type, _LETTER[entry.method]) for entry in entries}
    wanted |= {(entry.type, "s") for entry in entries if entry.criteria}
    visibility = endpoint.sees(caller, *sorted(wanted))
    for _ in range(endpoint.limits.max_attempts):
        ready = [
            _patched(endpoint, caller, entry, visibility) if entry.method == "PATCH" else entry for entry in entries
        ]
        try:
            with endpoint.database.transaction(caller) as tx:
                outcomes = bundles.apply(
                    tx,
                    ready,
                    visibility=visibility,
                    base_url=endpoint.base_url,
                    update_creates=endpoint.update_creates,
                    limits=endpoint.limits,
                    reach=endpoint.reach(caller),
                )
                for made in outcomes:
                    if made.entry.method in ("PUT", "PATCH") and made.stored is not None:
                        methods.note(tx, made.stored, made.entry.method)
                    if made.entry.method == "PUT" and made.status == 201:
                        _may(endpoint, caller, replace(made.entry, method="POST", criteria=""))
                endpoint.hooks.within(tx)
                interactions.written(tx, visibility)
                read, noted = _read(endpoint, caller, tx, reads)
            disclosure.parts().extend(noted)
            return outcomes, read
        except bundles.Overtaken:
            continue
    raise Unavailable(patching.overtaken(endpoint, "What the transaction patches"))


def _read(
    endpoint: Endpoint, caller: Caller, tx: Transaction, reads: Mapping[int, Resource]
) -> tuple[dict[int, str], list[tuple[Access, int]]]:
    """The answers to those entries that read, in their order, and what the audit is to say of them.

    Each is the request that it says, and sees what the transaction has written. Others wait meanwhile: all of them
    together have the time and the bytes of one. Raises what the first one fails with; nothing is stored then.
    """
    limits = endpoint.limits
    ends, size = time.monotonic() + limits.max_search_s, 0
    done: dict[int, str] = {}
    within = inner.Inside(replace(endpoint, database=Joined(endpoint.database, tx.connection)), caller)
    for place, asked in reads.items():
        here = f"Bundle.entry[{place}].request"
        left = ends - time.monotonic()
        if left <= 0:
            said = f"What the transaction reads took over {limits.max_search_s:g} seconds (max_search_s)"
            raise TooCostly(f"{said}; nothing was stored. Read less in one.", path=here)
        within = replace(within, endpoint=replace(within.endpoint, limits=replace(limits, max_search_s=left)))
        address = inner.address(asked["url"], endpoint.base_url)
        assert address is not None  # entries_of has looked
        answer = inner.ask(*address, asked, within=within)
        if answer.status_code >= 400:
            disclosure.parts().extend(within.noted[-1:])  # what was read before is not given to anybody
            raise failures.of_answer(answer.status_code, answer.get_data(), here)
        size += len(answer.get_data())
        if size > limits.max_page_bytes:
            said = f"The transaction reads over {limits.max_page_bytes} bytes (max_page_bytes); read less in one."
            raise TooCostly(said, path=here)
        done[place] = inner.entry_of(endpoint, answer, is_write=False)
    return done, within.noted


def _may(endpoint: Endpoint, caller: Caller, entry: Entry) -> None:
    """Raises Unsupported, Forbidden unless it is offered, and covered by the caller's scopes."""
    here = f"Bundle.entry[{entry.place}].request"
    interactions.may(endpoint, caller, entry.type, _INTERACTION[entry.method], _LETTER[entry.method], here)
    if entry.criteria:
        if not endpoint.conditional_changes:
            raise Unsupported("Changes of what a search finds are not offered here; see metadata.", path=f"{here}.url")
        interactions.may(endpoint, caller, entry.type, "search-type", "s", here)


def _patched(endpoint: Endpoint, caller: Caller, entry: Entry, visibility: Visibility) -> Entry:
    """A PATCH with what it makes of what is there now."""
    here = f"Bundle.entry[{entry.place}]"
    operations = patch.parse(patching.sent_patch(entry.resource, f"{here}.resource"))
    with endpoint.database.reading() as connection:
        if entry.criteria:
            found = endpoint.match_one(connection, caller, entry.type, entry.criteria, visibility)
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
_NO_READS: Mapping[int, str] = MappingProxyType({})


def response(
    outcomes: Sequence[Outcome],
    notices: Mapping[int, Resource] = _NOTHING,
    *,
    whole: bool = False,
    read: Mapping[int, str] = _NO_READS,
) -> list[str]:
    """The texts of the entries that say these outcomes; what was read is not parsed again.

    `notices` are OperationOutcomes by the entry's place; `whole` adds what was written, too. `read` are the entries of
    those that read, by their place.
    """
    entries = dict(read)
    for result in outcomes:
        facts: Resource = {"status": _STATUS[result.status]}
        if result.stored is not None:
            facts["etag"] = result.stored.etag
            facts["lastModified"] = times.instant(result.stored.updated)
            facts["location"] = result.stored.versioned
        if result.entry.place in notices:
            facts["outcome"] = notices[result.entry.place]
        is_shown = whole and result.entry.method != "DELETE"
        written = result.stored.text if is_shown and result.stored is not None else ""
        entries[result.entry.place] = (
            "{" + (f'"resource":{written},' if written else "") + codec.dumps({"response": facts})[1:]
        )
    return [entries[place] for place in sorted(entries)]


_STATUS = {200: "200 OK", 201: "201 Created", 204: "204 No Content"}


def entries_of(bundle: Resource, text: str, base_url: str = "") -> list[Entry]:
    """The entries of a transaction Bundle, each resource with its text as sent. Raises Invalid with every fault."""
    texts = codec.entry_resources(text)
    named = {entry["fullUrl"] for entry in bundle.get("entry", []) if entry.get("fullUrl", "").startswith("urn:")}
    entries: list[Entry] = []
    faults: list[Issue] = []
    for place, sent in enumerate(bundle.get("entry", [])):
        try:
            entries.append(_entry(place, sent, texts[place], named, base_url))
        except Invalid as error:
            faults.extend(error.issues)
    if faults:
        raise Invalid(f"{len(faults)} fault(s) in the transaction; nothing was stored.", issues=faults)
    return entries


def _entry(place: int, sent: Resource, text: str | None, named: set[str], base_url: str) -> Entry:
    here = f"Bundle.entry[{place}].request"
    asked = sent.get("request", {})
    method = asked.get("method", "")
    if method not in _TAKEN:
        raise Invalid(f"{method} is not offered in a transaction.", path=f"{here}.method")
    for name in _PRECONDITIONS:
        if name in asked and name not in _TAKEN[method]:
            raise Invalid(f"{name} is not taken with {method} in a transaction.", path=f"{here}.{name}")
    for name in ("url", "ifNoneExist"):
        # Ids are drawn after the criteria are looked for: they would find nothing, and so create a second one.
        if not named.isdisjoint(_URN.findall(unquote(asked.get(name, "")))):
            said = "A search in a transaction can't name another entry by its fullUrl; search by what is stored."
            raise Invalid(said, path=f"{here}.{name}")
    if method in _READ:
        return _reading(place, method, asked.get("url", ""), base_url)
    match = _ADDRESS.fullmatch(asked.get("url", "").removeprefix(f"{base_url}/" if base_url else ""))
    if match is None or match[1] not in definitions.resource_types():
        # A search may name a patient: it is not repeated.
        raise Invalid("This is not Type or Type/id of R4.", path=f"{here}.url")
    kind, resource_id, criteria = match[1], match[2] or "", match[3] or ""
    if criteria and (resource_id or method == "POST"):
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


def _reading(place: int, method: str, url: str, base_url: str) -> Entry:
    """A read, a history or a search; whether it can be asked is for the request itself to say."""
    here = f"Bundle.entry[{place}].request.url"
    address = inner.address(url, base_url)
    first = address[0].partition("/")[0] if address is not None else "?"
    if address is not None and "$" in address[0]:
        raise Invalid("An operation is not run in a transaction; ask for it in a batch or by itself.", path=here)
    if first not in ("", "_history") and first not in definitions.resource_types():
        raise Invalid("This is no read, history or search of R4.", path=here)
    return Entry(place=place, method=method, type=first)
