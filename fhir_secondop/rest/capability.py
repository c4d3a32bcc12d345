"""The CapabilityStatement, made from what is registered: it says exactly what works.

Source: https://hl7.org/fhir/R4/capabilitystatement.html
"""

from __future__ import annotations

from functools import cache

from fhir_secondop import __version__
from fhir_secondop.fhir import definitions
from fhir_secondop.fhir.definitions import SearchParameter
from fhir_secondop.model import Operation, Resource
from fhir_secondop.rest import formats, published, searching
from fhir_secondop.rest.endpoint import Endpoint

_R4 = "http://hl7.org/fhir"
_SERVICE = "http://terminology.hl7.org/CodeSystem/restful-security-service"


def statement(endpoint: Endpoint, date: str) -> Resource:
    """The CapabilityStatement of this endpoint."""
    system = [op for op in endpoint.operations if not op.type]
    rest: Resource = {
        "mode": "server",
        "resource": [_resource(endpoint, kind) for kind in endpoint.types()],
        "interaction": [{"code": code} for code in sorted(endpoint.system)],
    }
    if not rest["interaction"]:
        del rest["interaction"]
    if "search-system" in endpoint.system:
        rest["searchParam"] = [_search_parameter(each) for each in _of_all(endpoint)]
    if system:
        rest["operation"] = [_operation(endpoint, op) for op in system]
    if endpoint.follows:
        offered = [kind for kind in searching.COMPARTMENTS if "search-type" in endpoint.offered(kind)]
        if offered:
            rest["compartment"] = [f"{_R4}/CompartmentDefinition/{kind.lower()}" for kind in offered]
    patched = any("patch" in endpoint.offered(kind) for kind in endpoint.types())
    if endpoint.security:
        rest["security"] = {**_smart(endpoint), "description": endpoint.security}
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": date,
        "kind": "instance",
        "software": {"name": endpoint.software, "version": __version__},
        "implementation": {"description": endpoint.software, "url": endpoint.base_url},
        "fhirVersion": "4.0.1",
        "format": [formats.JSON, *([formats.XML] if endpoint.xml else [])],
        **({"patchFormat": [formats.JSON_PATCH]} if patched else {}),
        "rest": [rest],
    }


def _smart(endpoint: Endpoint) -> Resource:
    """That one signs in by SMART; empty where one does not.

    Where, .well-known/smart-configuration says: the extension oauth-uris would need an authorize endpoint, and there is
    none for systems that sign in for themselves.
    Source: https://hl7.org/fhir/smart-app-launch/conformance.html
    """
    return {"service": [{"coding": [{"system": _SERVICE, "code": "SMART-on-FHIR"}]}]} if endpoint.smart else {}


def _resource(endpoint: Endpoint, kind: str) -> Resource:
    result: Resource = {
        "type": kind,
        "interaction": [{"code": code} for code in sorted(endpoint.offered(kind))],
        "versioning": "versioned",  # If-Match is honoured, not demanded
        "readHistory": "vread" in endpoint.offered(kind),
        "updateCreate": endpoint.update_creates and "update" in endpoint.offered(kind),
        "conditionalCreate": endpoint.conditional_create and "create" in endpoint.offered(kind),
        "conditionalRead": "full-support",
        "conditionalUpdate": endpoint.conditional_changes and "update" in endpoint.offered(kind),
        "conditionalDelete": "single" if endpoint.conditional_changes and "delete" in endpoint.offered(kind)
        else "not-supported",
    }  # fmt: skip
    if "search-type" in endpoint.offered(kind):
        result["searchParam"] = [_search_parameter(each) for each in endpoint.parameters(kind)]
        if endpoint.follows:
            result["searchInclude"] = ["*", *(f"{kind}:{code}" for code in _references(kind))]
            result["searchRevInclude"] = _pointing(tuple(endpoint.types())).get(kind, [])
            result = {key: value for key, value in result.items() if value != []}
    operations = [_operation(endpoint, op) for op in endpoint.operations if op.type == kind]
    if endpoint.validates:
        operations.append({"name": "validate", "definition": f"{_R4}/OperationDefinition/Resource-validate"})
    operations += [{"name": row.code, "definition": row.definition} for row in published.offered(endpoint, kind)]
    if operations:
        result["operation"] = operations
    return result


def _of_all(endpoint: Endpoint) -> list[SearchParameter]:
    """The search parameters that a search over all types takes."""
    first, *others = (endpoint.parameters(kind) for kind in endpoint.types())
    shared = set.intersection(*({each.url for each in of_type} for of_type in (first, *others)))
    return [each for each in first if each.url in shared]


def _search_parameter(parameter: SearchParameter) -> Resource:
    return {"name": parameter.code, "type": parameter.type, "definition": parameter.url}


@cache
def _references(kind: str) -> dict[str, tuple[str, ...]]:
    """The reference parameters of a type, with the types that each may point to."""
    known = definitions.search_parameters(kind).values()
    return {parameter.code: parameter.targets for parameter in known if parameter.type == "reference"}


@cache
def _pointing(kinds: tuple[str, ...]) -> dict[str, list[str]]:
    """The reference parameters of these types ("Observation:subject") by the type that each may point to."""
    found: dict[str, list[str]] = {}
    for kind in kinds:
        for code, targets in _references(kind).items():
            for target in dict.fromkeys(targets):
                found.setdefault(target, []).append(f"{kind}:{code}")
    return found


def _operation(endpoint: Endpoint, operation: Operation) -> Resource:
    # A canonical name, not an address: no OperationDefinition is served.
    return {"name": operation.code, "definition": f"{endpoint.canonical}/OperationDefinition/{operation.code}"}
