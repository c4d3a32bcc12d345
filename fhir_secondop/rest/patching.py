"""PATCH: a JSON Patch of one resource, or of the one that a search finds.

The patched resource is looked at as an update is, by other validators too: so outside the write transaction, which
takes it only while the version that was patched is the current one.
Source: https://hl7.org/fhir/R4/http.html#patch
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence

from flask import Response
from sqlalchemy.engine import Connection

from fhir_secondop.errors import Invalid, NotFound, Unavailable
from fhir_secondop.fhir import codec, patch
from fhir_secondop.model import Caller, Resource, Visibility
from fhir_secondop.rest import answers, formats, interactions, preconditions
from fhir_secondop.rest.answers import Sent
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.store import methods, resources
from fhir_secondop.store.resources import Stored

Find = Callable[[Connection], Stored]


def patch_one(endpoint: Endpoint, caller: Caller, resource_type: str, resource_id: str) -> Response:
    """PATCH [type]/[id], with If-Match or without."""
    interactions.may(endpoint, caller, resource_type, "patch", "u")
    answers.check_no_search()
    visibility = endpoint.sees(caller, (resource_type, "u"))

    def find(connection: Connection) -> Stored:
        return resources.read(connection, visibility, resource_type, resource_id)

    return _patch(endpoint, caller, visibility, find)


def patch_found(endpoint: Endpoint, caller: Caller, resource_type: str) -> Response:
    """PATCH [type]?criteria: the one that matches."""
    criteria = interactions.conditional(endpoint, caller, resource_type, "patch", "u")
    visibility = endpoint.sees(caller, (resource_type, "u"), (resource_type, "s"))

    def find(connection: Connection) -> Stored:
        found = endpoint.match_one(connection, caller, resource_type, criteria, visibility)
        if found is None:
            raise NotFound(f"No {resource_type} matches; nothing was changed.")
        return found

    return _patch(endpoint, caller, visibility, find)


def _patch(endpoint: Endpoint, caller: Caller, visibility: Visibility, find: Find) -> Response:
    preconditions.check_taken("If-Match")
    operations = patch.parse(formats.patch_body(endpoint.limits))
    wanted = preconditions.if_match()
    for _ in range(endpoint.limits.max_attempts):
        with endpoint.database.reading() as connection:
            before = find(connection)
        resources.expect(before, wanted)
        sent = patched(endpoint, before, operations)
        with endpoint.database.transaction(caller) as tx:
            now = find(tx.connection)
            if (now.rid, now.version) != (before.rid, before.version):
                continue
            stored = resources.update(tx, now, sent.body, sent.resource, base_url=endpoint.base_url, if_match=wanted)
            methods.note(tx, stored, "PATCH")
            endpoint.hooks.within(tx)
            interactions.written(tx, visibility)
        return answers.stored_answer(endpoint, stored, 200, sent.said)
    raise Unavailable(overtaken(endpoint, f"{before.type}/{before.id}"))


def overtaken(endpoint: Endpoint, what: str) -> str:
    """What to say when others have changed it at each attempt."""
    tried = endpoint.limits.max_attempts
    return f"{what} was changed by others while it was patched, {tried} time(s) (max_attempts); send it again."


def patched(endpoint: Endpoint, before: Stored, operations: Sequence[patch.Operation]) -> Sent:
    """The valid resource that a patch makes of a stored one. Raises Conflict, Invalid, Forbidden, Unavailable."""
    resources.expect_whole(before)
    text = codec.dumps(patch.apply(before.resource, operations))
    resource = codec.parse(text)  # its depth, too
    answers.valid(resource)
    return Sent(codec.body(text), resource, answers.further(endpoint, resource, text, is_sent=False))


def sent_patch(resource: Resource, path: str) -> str:
    """The text of a JSON Patch that stands in a Bundle: as a Binary, for it is no resource. Raises Invalid, Malformed.

    R4 says nothing of JSON Patch in a Bundle; a Binary is what R5 says, and what other servers take.
    Source: https://hl7.org/fhir/R5/http.html#patch
    """
    if resource.get("resourceType") != "Binary" or resource.get("contentType") != formats.JSON_PATCH:
        raise Invalid(f"A patch in a Bundle is a Binary with the contentType {formats.JSON_PATCH}.", path=path)
    try:
        return codec.text_of(base64.b64decode(resource.get("data", ""), validate=True))
    except ValueError as error:
        raise Invalid("The data of the patch is no base64.", path=f"{path}.data") from error
