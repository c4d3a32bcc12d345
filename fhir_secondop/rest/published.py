"""The operations that others have defined, R4 and its guides: one table, from code and address to handler.

Their definitions are not ours to write: the CapabilityStatement names them by their canonical URLs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flask import Response

from fhir_secondop.model import Caller
from fhir_secondop.rest import docref, documents, everything, summary
from fhir_secondop.rest.endpoint import Endpoint

Handler = Callable[[Endpoint, Caller, str], Response]


@dataclass(frozen=True, slots=True)
class Published:
    """A row: on which type, on one of its resources or on all of them, and what it answers with.

    The handler gets the id, "" on the type. Each only reads, so GET is offered beside POST.
    """

    code: str
    type: str
    on_instance: bool
    on_type: bool
    definition: str
    handler: Handler


ROWS = (
    Published("everything", "Patient", True, True, "http://hl7.org/fhir/OperationDefinition/Patient-everything",
              everything.run),
    Published("document", "Composition", True, False, "http://hl7.org/fhir/OperationDefinition/Composition-document",
              documents.run),
    Published("docref", "DocumentReference", False, True, "http://hl7.org/fhir/us/core/OperationDefinition/docref",
              docref.run),
    Published("summary", "Patient", True, True, "http://hl7.org/fhir/uv/ips/OperationDefinition/summary",
              summary.run),
)  # fmt: skip
CODES = frozenset(row.code for row in ROWS)


def handler(endpoint: Endpoint, resource_type: str, resource_id: str, code: str) -> Handler | None:
    """What answers that operation at that address; None where none is offered."""
    for row in offered(endpoint, resource_type):
        if row.code == code and (row.on_instance if resource_id else row.on_type):
            return row.handler
    return None


def offered(endpoint: Endpoint, resource_type: str) -> list[Published]:
    """The rows of a type that this endpoint offers."""
    return [row for row in ROWS if row.type == resource_type and row.code in endpoint.published]
