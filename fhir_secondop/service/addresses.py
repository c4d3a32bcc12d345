"""Where deliveries go: each configured address as an Endpoint, confirmed once by a test without patient data.

A new or changed address is `test` until it was confirmed, then `active`; an unconfirmed one is never sent to, and
nothing falls back to another.
Source: https://hl7.org/fhir/R4/endpoint.html; EHR.md, writing safely
"""

from __future__ import annotations

import uuid
from functools import cache
from pathlib import Path

from fhir_secondop.ehr.client import Client
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.errors import Conflict
from fhir_secondop.model import EVERYTHING, Connection, Resource
from fhir_secondop.opinion import codes
from fhir_secondop.opinion.compose import compose
from fhir_secondop.service.context import SERVICE, Checked, Context, checked
from fhir_secondop.store import resources

REPOSITORY = "repository"
_KIND = "http://terminology.hl7.org/CodeSystem/endpoint-connection-type"


def require(context: Context, connection: Connection) -> None:
    """Returns when the address is confirmed, after testing it where it is new or has changed.

    Raises Conflict when it is ambiguous or fails the test: a person must look. Raises EhrFailure when nobody answers.
    """
    confirmed = tested(context, connection)
    if confirmed is not None:
        _put(context, confirmed)


def tested(context: Context, connection: Connection) -> Checked | None:
    """The Endpoint of an address that has passed its test just now; None where it was confirmed before.

    Stores nothing. Raises as `require` does.
    """
    same = [
        c.name
        for c in context.connections.values()
        if c.role == connection.role and c.organization and c.organization == connection.organization
    ]
    if len(same) > 1:
        raise Conflict(f"Several addresses are configured for this organization ({', '.join(sorted(same))}); keep one.")
    return _tested(context, connection) if connection.base else _tested_messages(context, connection)


def require_messages(context: Context, connection: Connection) -> None:
    """The same for where HL7 v2 messages of the connection go."""
    confirmed = _tested_messages(context, connection)
    if confirmed is not None:
        _put(context, confirmed)


def _tested_messages(context: Context, connection: Connection) -> Checked | None:
    """A connection is made and closed again, or the folder looked at: nothing is sent."""
    wanted = _confirmed_messages(connection)
    if _is_stored(context, wanted):
        return None
    context.client(connection.name).reach_messages()
    return wanted


def _is_stored(context: Context, wanted: Checked) -> bool:
    with context.database.reading() as reading:
        stored = resources.find(reading, EVERYTHING, "Endpoint", wanted.resource["id"])
    return stored is not None and stored.body == wanted.body


def _tested(context: Context, connection: Connection) -> Checked | None:
    wanted = _confirmed(connection)
    if _is_stored(context, wanted):
        return None
    _test(context.client(connection.name), connection)
    return wanted


def _test(client: Client, connection: Connection) -> None:
    """Reads what the server says of itself, and whether it knows the organization. No patient is named."""
    version = client.capability.fhir_version
    if not version.startswith("4.0"):
        raise Conflict(f"What answers at {connection.name} is not a FHIR R4 server (it says {version or 'nothing'}).")
    if connection.role == REPOSITORY or not connection.organization:
        return
    if not client.capability.parameter("Organization", "identifier"):
        return
    system, _, value = connection.organization.rpartition("|")
    try:
        found = client.first_page("Organization", {"identifier": connection.organization})
    except EhrFailure as failure:
        if failure.retryable:
            raise
        return  # it does not let us ask: nothing speaks against it
    if found and not any(_has(organization, system, value) for organization in found):
        raise Conflict(f"What answers at {connection.name} does not honour a search by identifier; a person must look.")


def _has(organization: Resource, system: str, value: str) -> bool:
    return any(i.get("system") == system and i.get("value") == value for i in organization.get("identifier", []))


@cache  # one of each connection: every delivery looks at it
def _confirmed(connection: Connection) -> Checked:
    """The Endpoint of an address that passed its test."""
    return _endpoint(connection, connection.name, "hl7-fhir-rest", "application/fhir+json", connection.base)


@cache
def _confirmed_messages(connection: Connection) -> Checked:
    """The same for where messages go; R4 knows no type for a folder."""
    address = connection.hl7 or Path(connection.hl7_folder).absolute().as_uri()
    return _endpoint(connection, f"{connection.name}/hl7", "hl7v2-mllp", "x-application/hl7-v2+er7", address)


def _endpoint(connection: Connection, name: str, kind: str, payload: str, address: str) -> Checked:
    system, _, value = connection.organization.rpartition("|")
    endpoint = compose(
        "Endpoint",
        id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{codes.CANONICAL}/connection/{name}")),
        status="active",
        connectionType=codes.coding(_KIND, kind),
        name=connection.name,
        managingOrganization={"identifier": {"system": system, "value": value}} if value else None,
        payloadType=[{"text": "second-opinion reports and plans"}],
        payloadMimeType=[payload],
        address=address,
    )
    return checked(endpoint)


def _put(context: Context, ready: Checked) -> None:
    endpoint = ready.resource
    with context.database.transaction(SERVICE) as tx:
        before = resources.find(tx.connection, EVERYTHING, "Endpoint", endpoint["id"])
        if before is None:
            resources.create(tx, ready.body, endpoint, base_url=context.base_url, resource_id=endpoint["id"])
        elif before.body != ready.body:  # meanwhile another delivery may have confirmed it
            resources.update(tx, before, ready.body, endpoint, base_url=context.base_url)
