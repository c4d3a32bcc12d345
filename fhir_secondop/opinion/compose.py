"""The one way in which we make a resource of our own: through fhir.resources' R4B model of its type.

Only types on the list: those that R4 and R4B define alike and that a case is made of (DESIGN decision 7). The model
refuses what it does not know; our validator checks the rest when the resource is stored.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from fhir_secondop.errors import Invalid
from fhir_secondop.model import Resource

COMPOSABLE = frozenset(
    {
        "Appointment", "Binary", "Bundle", "CarePlan", "ClinicalImpression", "Communication", "Composition",
        "Condition", "Consent", "Coverage", "CoverageEligibilityRequest", "CoverageEligibilityResponse",
        "DiagnosticReport", "DocumentReference", "Encounter", "Endpoint", "List", "Observation",
        "Organization", "Patient", "Practitioner", "PractitionerRole", "Provenance", "QuestionnaireResponse",
        "ServiceRequest", "Task",
    }
)  # fmt: skip


@cache
def _model(resource_type: str) -> Any:
    from fhir.resources.R4B import get_fhir_model_class  # 0.2 s; only when something is composed

    return get_fhir_model_class(resource_type)


def compose(resource_type: str, **elements: Any) -> Resource:
    """A resource of that type; elements that are None or empty are left out.

    Raises Invalid when the model refuses an element: that is a fault of ours or of what a caller handed in.
    """
    if resource_type not in COMPOSABLE:
        raise Invalid(f"{resource_type} is not one of the types that a case is made of.")
    given = {name.rstrip("_"): value for name, value in elements.items() if value not in (None, "", [], {})}
    try:
        model = _model(resource_type).model_validate({"resourceType": resource_type, **given})
    except ValueError as error:
        # pydantic quotes the value, which may be a patient's: only the places go on.
        places = ", ".join(".".join(map(str, e["loc"])) for e in getattr(error, "errors", list)())
        raise Invalid(f"A {resource_type} can't be composed from this: {places}.", path=resource_type) from None
    composed: Resource = json.loads(model.model_dump_json(exclude_none=True))
    return composed
