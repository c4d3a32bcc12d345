"""What the rows of the table of operations are made of: pieces of schema, and handlers of the usual kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fhir_secondop.model import Caller, Resource, Result
from fhir_secondop.opinion import alignment, codes, report, workflow
from fhir_secondop.opinion.case import reference
from fhir_secondop.service.context import Context

Plain = dict[str, Any]
Handler = Callable[[Caller, str, Plain], Result]
TEXT = {"type": "string", "minLength": 1, "maxLength": 20000}
REASON = {"enum": list(codes.STATUS_REASONS)}
VERSION = {"type": "integer", "minimum": 1, "description": "the version that is meant"}


def obj(required: list[str], **properties: Any) -> Plain:
    """The JSON Schema of an object with these members and no others."""
    return {"type": "object", "required": required, "additionalProperties": False, "properties": properties}


def with_case(context: Context, act: Callable[[Context, Caller, str, Plain], Resource]) -> Handler:
    """The handler of a use case that makes or moves one resource."""

    def handler(caller: Caller, case_id: str, plain: Plain) -> Result:
        made = act(context, caller, case_id, plain)
        return Result(summary(made), made, location=reference(made))

    return handler


def telling(context: Context, tell: Callable[[Context, Caller, str, Plain], Plain], status: int = 200) -> Handler:
    """The handler of a use case that answers plain JSON."""
    return lambda caller, case_id, plain: Result(tell(context, caller, case_id, plain), status=status)


def summary(resource: Resource) -> Plain:
    """What the JSON door says of a resource that an operation made or moved."""
    plain: Plain = {"resource": reference(resource), "status": resource.get("status", "")}
    if resource["resourceType"] == "Task":
        plain["businessStatus"] = workflow.business_status(resource)
    if resource["resourceType"] == "DiagnosticReport":
        plain["version"] = report.version_of(resource)
    if resource["resourceType"] == "CarePlan":
        plain["version"] = alignment.plan_version(resource)
    return plain
