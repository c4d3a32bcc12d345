"""Resources as models of fhir.resources, for programs that want attributes. Imported when asked for: it takes long."""

from __future__ import annotations

from typing import Any

from fhir_secondop.errors import Invalid, Unsupported
from fhir_secondop.fhir import codec, definitions
from fhir_secondop.model import Resource


def typed(resource: Resource) -> Any:
    """The model of a resource. Raises Unsupported where R4B has no such type, Invalid where the model refuses it."""
    from fhir.resources.R4B import get_fhir_model_class

    name = resource.get("resourceType")
    if name not in definitions.resource_types():
        raise Unsupported("FHIR R4 (4.0.1) has no such resource type.")
    try:
        model = get_fhir_model_class(name)
    except ValueError:
        raise Unsupported(f"fhir.resources has no R4 model of {name}: R4B left it out.") from None
    try:
        return model.model_validate_json(codec.dumps(resource))
    except ValueError as error:
        # pydantic quotes the value, which may be a patient's: only the places go on.
        places = ", ".join(".".join(map(str, e["loc"])) for e in getattr(error, "errors", list)())
        raise Invalid(f"fhir.resources refuses it at {places}.", path=str(name)) from None
