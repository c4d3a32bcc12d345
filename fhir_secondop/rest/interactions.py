"""read, vread, create, update and delete, of one resource or of the one that a search finds.

Source: https://hl7.org/fhir/R4/http.html
"""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlencode

from flask import Response, request
from sqlalchemy.engine import Connection

from fhir_secondop.errors import Forbidden, Gone, Malformed, NotAllowed, NotFound, PreconditionFailed, Unsupported
from fhir_secondop.fhir import query
from fhir_secondop.model import EVERYTHING, Caller, Visibility
from fhir_secondop.rest import answers, binary, disclosure, formats, preconditions
from fhir_secondop.rest.answers import Sent
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.store import methods, resources
from fhir_secondop.store.database import Transaction, last_write
from fhir_secondop.store.resources import Stored


def may(
    endpoint: Endpoint, caller: Caller, resource_type: str, interaction: str, letter: str, path: str = ""
) -> None:  # fmt: skip
    """Raises Unsupported, Forbidden unless it is offered on the type and covered by the caller's scopes."""
    if interaction not in endpoint.offered(resource_type):
        raise Unsupported(endpoint.not_offered(interaction, resource_type), path=path)
    if not endpoint.allows(caller, resource_type, letter):
        raise Forbidden(f"{caller.name} has no scope for {interaction} on {resource_type}.", path=path)


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
    """GET [type]/[id]; with If-None-Match or If-Modified-Since only what has changed."""
    may(endpoint, caller, resource_type, "read", "r")
    answers.check_no_parameters()
    with endpoint.database.reading() as connection:
        found = resources.read(connection, endpoint.sees(caller, (resource_type, "r")), resource_type, resource_id)
        unchanged = preconditions.is_unchanged(connection, found)
    disclosure.disclosed([found])
    if unchanged:
        return Response(status=304, headers={"ETag": found.etag})
    return binary.answer(found) if binary.is_wanted(endpoint, resource_type) else answers.stored_answer(endpoint, found)


def vread(endpoint: Endpoint, caller: Caller, resource_type: str, resource_id: str, version: str) -> Response:
    """GET [type]/[id]/_history/[version]"""
    may(endpoint, caller, resource_type, "vread", "r")
    answers.check_no_parameters()
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
    preconditions.check_taken("If-None-Exist")
    # The EHRs that don't offer it, and are simulated so, pass over it.
    criteria = request.headers.get("If-None-Exist") if endpoint.conditional_create else None
    visibility = endpoint.sees(caller, (resource_type, "c"))
    looked_at = -1
    if criteria is not None:
        # What is there already is answered without a writer's turn; what was sent is then not looked at (R4).
        with endpoint.database.reading() as connection:
            looked_at = last_write(connection)
            found = endpoint.match_one(connection, caller, resource_type, criteria, visibility)
            if found is not None:
                return _there_already(endpoint, caller, connection, found)
    sent = answers.resource_body(endpoint, resource_type)
    with endpoint.database.transaction(caller) as tx:
        # Who sees everything sees what it saw where nothing was written; what others see can change without.
        if criteria is not None and not (visibility.everything and tx.began == looked_at):
            found = endpoint.match_one(tx.connection, caller, resource_type, criteria, visibility)
            if found is not None:  # since a moment ago
                return _there_already(endpoint, caller, tx.connection, found)
        stored = resources.create(tx, sent.body, sent.resource, base_url=endpoint.base_url)
        endpoint.hooks.within(tx)
        written(tx, visibility)
    return answers.stored_answer(endpoint, stored, 201, sent.said)


def _there_already(endpoint: Endpoint, caller: Caller, connection: Connection, found: Stored) -> Response:
    """What If-None-Exist found: shown to who may read it; who may only create is told that it is there."""
    readable = endpoint.sees(caller, (found.type, "r"))
    if endpoint.allows(caller, found.type, "r") and resources.find(connection, readable, found.type, found.id):
        disclosure.disclosed([found])
        return answers.stored_answer(endpoint, found)
    headers = {"ETag": found.etag, "Location": f"{endpoint.base_url}/{found.versioned}"}
    return Response("", 200, mimetype=formats.JSON, headers=headers)


def update(endpoint: Endpoint, caller: Caller, resource_type: str, resource_id: str) -> Response:
    """PUT [type]/[id], with If-Match, If-None-Match or neither."""
    may(endpoint, caller, resource_type, "update", "u")
    answers.check_no_search()
    preconditions.check_taken("If-Match", "If-None-Match")
    preconditions.if_match()  # one that can't be read is told of, whether there is something or not
    sent = answers.resource_body(endpoint, resource_type, resource_id)
    visibility = endpoint.sees(caller, (resource_type, "u"))
    with endpoint.database.transaction(caller) as tx:
        before = resources.find(tx.connection, visibility, resource_type, resource_id)
        if before is None and not endpoint.update_creates:
            raise NotAllowed(f"There is no {resource_type}/{resource_id}; POST it, ids are ours to give.")
        stored = _put(endpoint, tx, before, sent, visibility, resource_id)
    return answers.stored_answer(endpoint, stored, 201 if before is None else 200, sent.said)


def update_found(endpoint: Endpoint, caller: Caller, resource_type: str) -> Response:
    """PUT [type]?criteria: the one that matches is updated, or created where none does.

    Source: https://hl7.org/fhir/R4/http.html#cond-update
    """
    criteria = conditional(endpoint, caller, resource_type, "update", "u")
    preconditions.check_taken("If-Match", "If-None-Match")
    sent = answers.resource_body(endpoint, resource_type)
    named = sent.resource.get("id")
    visibility = endpoint.sees(caller, (resource_type, "u"), (resource_type, "s"))
    with endpoint.database.transaction(caller) as tx:
        before = endpoint.match_one(tx.connection, caller, resource_type, criteria, visibility)
        if before is None:
            may(endpoint, caller, resource_type, "create", "c")
            visibility = endpoint.sees(caller, *((resource_type, letter) for letter in "usc"))
        if before is None and named is not None and not endpoint.update_creates:
            raise NotAllowed("Nothing matches; leave the id out, ids are ours to give.", path=f"{resource_type}.id")
        if before is not None and named not in (None, before.id):
            raise Malformed(f"{before.type}/{before.id} matches: the body has another id.", path=f"{resource_type}.id")
        stored = _put(endpoint, tx, before, sent, visibility, named)
    return answers.stored_answer(endpoint, stored, 201 if before is None else 200, sent.said)


def _put(
    endpoint: Endpoint, tx: Transaction, before: Stored | None, sent: Sent, visibility: Visibility, new_id: str | None
) -> Stored:
    """Stores the next version, or the first one under that id, as the preconditions say."""
    preconditions.check_absent(before)
    version = preconditions.if_match()
    if before is None:
        if version is not None:
            raise PreconditionFailed("If-Match names a version, and nothing is there; nothing was stored.")
        stored = resources.create(tx, sent.body, sent.resource, base_url=endpoint.base_url, resource_id=new_id)
        methods.note(tx, stored, "PUT")
    else:
        resources.expect_whole(before)
        stored = resources.update(
            tx, before, sent.body, sent.resource, base_url=endpoint.base_url, if_match=version
        )  # fmt: skip
    endpoint.hooks.within(tx)
    written(tx, visibility)
    return stored


def delete(endpoint: Endpoint, caller: Caller, resource_type: str, resource_id: str) -> Response:
    """DELETE [type]/[id]; the versions stay."""
    may(endpoint, caller, resource_type, "delete", "d")
    answers.check_no_search()
    preconditions.check_taken("If-Match")
    with endpoint.database.transaction(caller) as tx:
        before = resources.find(tx.connection, endpoint.sees(caller, (resource_type, "d")), resource_type, resource_id)
        if before is None:
            raise NotFound(f"There is no {resource_type}/{resource_id}.")
        return _deleted(endpoint, tx, before)


def delete_found(endpoint: Endpoint, caller: Caller, resource_type: str) -> Response:
    """DELETE [type]?criteria: the one that matches. Several are refused, none is told.

    Source: https://hl7.org/fhir/R4/http.html#cdelete
    """
    criteria = conditional(endpoint, caller, resource_type, "delete", "d")
    preconditions.check_taken("If-Match")
    visibility = endpoint.sees(caller, (resource_type, "d"), (resource_type, "s"))
    with endpoint.database.transaction(caller) as tx:
        before = endpoint.match_one(tx.connection, caller, resource_type, criteria, visibility)
        if before is None:
            raise NotFound(f"No {resource_type} matches; nothing was deleted.")
        return _deleted(endpoint, tx, before)


def _deleted(endpoint: Endpoint, tx: Transaction, before: Stored) -> Response:
    gone = before
    if not before.deleted:
        gone = resources.delete(tx, before, if_match=preconditions.if_match())
        endpoint.hooks.within(tx)
    answer = Response(status=204, headers={"ETag": gone.etag})
    del answer.headers["Content-Type"]  # of nothing
    return answer


def conditional(endpoint: Endpoint, caller: Caller, resource_type: str, interaction: str, letter: str) -> str:
    """The criteria in the address of a write. Raises Unsupported, Forbidden, Malformed.

    Who writes so learns whether something matches: that takes the right to search, too.
    """
    if not endpoint.conditional_changes:
        raise Unsupported(f"{interaction} of what a search finds is not offered here; see metadata.")
    may(endpoint, caller, resource_type, interaction, letter)
    may(endpoint, caller, resource_type, "search-type", "s")
    criteria = [pair for pair in request.args.items(multi=True) if pair[0] not in query.FORMAT_ONLY]
    if not criteria:
        raise Malformed(f"Say which: {resource_type}/[id], or {resource_type}?criteria.")
    return urlencode(criteria)
