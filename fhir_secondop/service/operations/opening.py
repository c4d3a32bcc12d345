"""The operation that opens a case: a Bundle, or Parameters with the parts."""

from __future__ import annotations

from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import codec
from fhir_secondop.model import Caller, Operation, Result
from fhir_secondop.service import intake
from fhir_secondop.service.context import Context
from fhir_secondop.service.operations.shapes import Handler, Plain


def rows(context: Context) -> list[Operation]:
    """The row, on the base."""
    return [
        Operation("request-second-opinion", "", "Opens a case from a Bundle, or Parameters with the parts.",
                  _request(context), raw=True),
    ]  # fmt: skip


def opened(found: intake.Opened) -> Result:
    """The answer to an intake: 201 when it opened the case, 200 when it had been opened before."""
    plain: Plain = {
        "id": found.case_id,
        "serviceRequest": f"ServiceRequest/{found.case_id}",
        "task": found.task,
        "patient": found.patient,
    }
    parameters = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": name, "valueReference": {"reference": plain[name]}}
            for name in ("serviceRequest", "task", "patient")
        ],
    }
    if found.warnings:
        plain["warnings"] = [{"path": w.expression, "message": w.diagnostics} for w in found.warnings]
    location = f"ServiceRequest/{found.case_id}"
    return Result(plain, parameters, 201 if found.created else 200, location)


def _request(context: Context) -> Handler:
    def handler(caller: Caller, _: str, sent: Plain) -> Result:
        if "resource" not in sent:
            raise Invalid("Send a Bundle, or Parameters with the parts.")
        resource = sent["resource"]
        if resource["resourceType"] == "Bundle":
            sent_resources = intake.sent_of_bundle(resource)
            texts = [t for t in codec.entry_resources(sent["text"]) if t is not None]
            bodies = [codec.split(text)[0] for text in texts]
            return opened(intake.open_case(context, caller, sent_resources, bodies, sent["key"]))
        if resource["resourceType"] != "Parameters":
            raise Invalid("Send a Bundle, or Parameters with the parts.", path="resourceType")
        sent_resources = intake.sent_of_parameters(resource)
        return opened(intake.open_case(context, caller, sent_resources, [None] * len(sent_resources), sent["key"]))

    return handler
