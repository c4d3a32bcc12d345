"""read, vread, history, create, update and delete.

Source: https://hl7.org/fhir/R4/http.html
"""

from __future__ import annotations

from dataclasses import replace

from flask import Response, request

from fhir_secondop.errors import Forbidden, Gone, NotAllowed, NotFound, Unsupported
from fhir_secondop.model import EVERYTHING, Caller, Visibility
from fhir_secondop.rest import answers, binary, disclosure, formats
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.store import bundles, resources
from fhir_secondop.store.database import Transaction
from fhir_secondop.store.resources import Stored


def may(endpoint: Endpoint, caller: Caller, resource_type: str, interaction: str, letter: str) -> None:
    """Raises Unsupported, Forbidden unless it is offered on the type and covered by the caller's scopes."""
    if interaction not in endpoint.offered(resource_type):
        raise Unsupported(f"{interaction} of {resource_type} is not offered here; see metadata.")
    if not endpoint.allows(caller, resource_type, letter):
        raise Forbidden(f"{caller.name} has no scope for this on {resource_type}.")


def written(tx: Transaction, visibility: Visibility) -> None:
    """Raises Forbidden when what was written is not what the caller's scopes let it write: then nothing is."""
    narrowed = {kind for kind, _ in visibility.narrowed}
    for change in tx.changes:
        if change.type in narrowed and change.interaction != "delete":
            # Whose it is has been decided; the restriction alone is asked here.
            only = replace(EVERYTHING, narrowed=visibility.narrowed)
            if resources.find(tx.connection, only, change.type, change.id) is None:
                raise Forbidden(f"The scope allows only some {change.type} resources, and this is none of them.")


def read(endpoint: Endpoint, caller: Caller, resource_type: str, resource_id: str) -> Response:
    """GET [type]/[id]"""
    may(endpoint, caller, resource_type, "read", "r")
    with endpoint.database.reading() as connection:
        found = resources.read(connection, endpoint.sees(caller, (resource_type, "r")), resource_type, resource_id)
    disclosure.disclosed([found])
    if _holds_already(request.headers.get("If-None-Match", ""), found):
        return Response(status=304, headers={"ETag": found.etag})
    return binary.answer(found) if binary.is_wanted(endpoint, resource_type) else answers.stored_answer(endpoint, found)


def _holds_already(if_none_match: str, found: Stored) -> bool:
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return "*" in tags or found.etag.removeprefix("W/") in tags


def vread(endpoint: Endpoint, caller: Caller, resource_type: str, resource_id: str, version: str) -> Response:
    """GET [type]/[id]/_history/[version]"""
    may(endpoint, caller, resource_type, "vread", "r")
    if not version.isdecimal() or len(version) > 9:
        raise NotFound(f"There is no {resource_type}/{resource_id}, version {version}.")
    with endpoint.database.reading() as connection:
        found = resources.history(
            connection, endpoint.sees(caller, (resource_type, "r")), resource_type, resource_id, version=int(version)
        )[0]
    if found.deleted:
        raise Gone(f"{found.versioned} is the deletion; the versions before it are in _history.")
    disclosure.disclosed([found])
    return answers.stored_answer(endpoint, found)


def create(endpoint: Endpoint, caller: Caller, resource_type: str) -> Response:
    """POST [type]; with If-None-Exist the one that is there already."""
    may(endpoint, caller, resource_type, "create", "c")
    answers.check_no_search()
    body, resource, said = answers.resource_body(endpoint, resource_type)
    criteria = request.headers.get("If-None-Exist") if endpoint.conditional_create else None
    visibility = endpoint.sees(caller, (resource_type, "c"))
    with endpoint.database.transaction(caller) as tx:
        if criteria is not None:
            found = bundles.match_one(tx, resource_type, criteria, visibility, endpoint.base_url)
            if found is not None:
                return _there_already(endpoint, caller, tx, found)
        stored = resources.create(tx, body, resource, base_url=endpoint.base_url)
        endpoint.hooks.within(tx)
        written(tx, visibility)
    return answers.stored_answer(endpoint, stored, 201, said)


def _there_already(endpoint: Endpoint, caller: Caller, tx: Transaction, found: Stored) -> Response:
    """What If-None-Exist found: shown to who may read it; who may only create is told that it is there."""
    readable = endpoint.sees(caller, (found.type, "r"))
    if endpoint.allows(caller, found.type, "r") and resources.find(tx.connection, readable, found.type, found.id):
        disclosure.disclosed([found])
        return answers.stored_answer(endpoint, found)
    headers = {"ETag": found.etag, "Location": f"{endpoint.base_url}/{found.versioned}"}
    return Response("", 200, mimetype=formats.JSON, headers=headers)


def update(endpoint: Endpoint, caller: Caller, resource_type: str, resource_id: str) -> Response:
    """PUT [type]/[id], with If-Match or without."""
    may(endpoint, caller, resource_type, "update", "u")
    answers.check_no_search()
    body, resource, said = answers.resource_body(endpoint, resource_type, resource_id)
    version = answers.if_match()
    with endpoint.database.transaction(caller) as tx:
        visibility = endpoint.sees(caller, (resource_type, "u"))
        before = resources.find(tx.connection, visibility, resource_type, resource_id)
        if before is None and not endpoint.update_creates:
            raise NotAllowed(f"There is no {resource_type}/{resource_id}; POST it, ids are ours to give.")
        if before is None:
            stored = resources.create(tx, body, resource, base_url=endpoint.base_url, resource_id=resource_id)
        else:
            stored = resources.update(tx, before, body, resource, base_url=endpoint.base_url, if_match=version)
        endpoint.hooks.within(tx)
        written(tx, visibility)
    return answers.stored_answer(endpoint, stored, 201 if before is None else 200, said)


def delete(endpoint: Endpoint, caller: Caller, resource_type: str, resource_id: str) -> Response:
    """DELETE [type]/[id]; the versions stay."""
    may(endpoint, caller, resource_type, "delete", "d")
    answers.check_no_search()
    version = answers.if_match()
    with endpoint.database.transaction(caller) as tx:
        before = resources.find(tx.connection, endpoint.sees(caller, (resource_type, "d")), resource_type, resource_id)
        if before is None:
            raise NotFound(f"There is no {resource_type}/{resource_id}.")
        if not before.deleted:
            resources.delete(tx, before, if_match=version)
            endpoint.hooks.within(tx)
    return Response(status=204)
