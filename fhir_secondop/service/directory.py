"""The directory of reviewers: one file, loaded whole by who coordinates. It belongs to no case."""

from __future__ import annotations

from sqlalchemy.engine import Connection as SqlConnection

from fhir_secondop.access import rights
from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import codec
from fhir_secondop.model import Caller, Resource
from fhir_secondop.opinion import directory
from fhir_secondop.opinion.case import reference
from fhir_secondop.service.context import DIRECTORY, Context, put
from fhir_secondop.store import resources


def read(connection: SqlConnection) -> list[Resource]:
    """Every resource of the directory, oldest first."""
    return [stored.resource for stored in resources.in_case(connection, DIRECTORY)]


def replace(context: Context, caller: Caller, bundle: Resource) -> dict[str, int]:
    """Makes the directory what this Bundle says: what is new comes in, what is not in it goes.

    Raises Forbidden unless the caller coordinates and may create all of it, Invalid with every fault.
    """
    rights.require_role(caller)
    if bundle["resourceType"] != "Bundle":
        raise Invalid("Send a Bundle with the whole directory.", path="resourceType")
    wanted = {reference(r): r for r in directory.entries(bundle)}
    rights.require_creates(caller, [r["resourceType"] for r in wanted.values()])
    counts = dict.fromkeys(("created", "updated", "unchanged", "removed"), 0)
    with context.database.transaction(caller) as tx:
        before = {f"{s.type}/{s.id}": s for s in resources.in_case(tx.connection, DIRECTORY)}
        for ref, resource in wanted.items():
            had = before.get(ref)
            if had is not None and had.body == codec.compose(resource):
                counts["unchanged"] += 1
                continue
            put(tx, context, DIRECTORY, resource)
            counts["updated" if had is not None else "created"] += 1
        for ref, stored in before.items():
            if ref not in wanted:
                resources.delete(tx, stored)
                counts["removed"] += 1
    return counts
