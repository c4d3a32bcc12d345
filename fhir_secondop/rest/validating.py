"""$validate: what is right and wrong with a resource, without storing it.

Source: https://hl7.org/fhir/R4/resource-operation-validate.html
"""

from __future__ import annotations

from typing import Any

from flask import Response, request

from fhir_secondop.errors import Invalid, Issue, Malformed
from fhir_secondop.fhir import claims, codec, validate
from fhir_secondop.model import Caller, Resource
from fhir_secondop.rest import answers, disclosure, formats, interactions, outcome
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.store import resources

MODES = ("create", "update", "profile")
_SOUND = Issue("information", "informational", "", "No fault was found.")


def run(endpoint: Endpoint, caller: Caller, resource_type: str, resource_id: str) -> Response:
    """POST [type]/$validate with a resource, or with Parameters that hold one, a mode and a profile; GET and POST
    [type]/[id]/$validate of what is stored, or of what would be stored in its place.

    Answers 200 with every fault, and with what was not checked. Raises NotFound, Forbidden, Malformed, Invalid.
    """
    stored: Resource | None = None
    if resource_id:
        interactions.may(endpoint, caller, resource_type, "read", "r")
        with endpoint.database.reading() as connection:
            seen = endpoint.sees(caller, (resource_type, "r"))
            found = resources.read(connection, seen, resource_type, resource_id)
        disclosure.disclosed([found])
        stored = found.resource
    sent = formats.body(xml=endpoint.xml) if request.method == "POST" and request.get_data() else ""
    text, mode, profile = _asked(sent)
    if not text and stored is not None:
        text = codec.dumps(stored)
    if not text:
        raise Malformed("There is nothing to validate: send a resource, or Parameters with one.")
    resource = codec.parse(text)
    issues = _issues(endpoint, resource, text, profile)
    if resource["resourceType"] != resource_type:
        issues.insert(0, Issue("error", "invalid", "", f"This is not a {resource_type}, as the address says."))
    if mode == "update" and resource_id and resource.get("id") != resource_id:
        issues.append(Issue("error", "value", f"{resource_type}.id", f"must be {resource_id}, as in the address"))
    if text == sent:
        issues = formats.in_what_was_sent(text, issues)
    return answers.json_answer(outcome.outcome(issues or [_SOUND]))


def _issues(endpoint: Endpoint, resource: Resource, text: str, profile: str) -> list[Issue]:
    """Ours, and those of whoever is asked about profiles of other guides; what nobody looked at as information."""
    demanded = [profile] if profile else []
    found = validate.validate(resource, profiles=demanded, notes=True)
    if any(issue.severity in ("error", "fatal") for issue in found):
        return found
    # Of a profile that is not ours it is said there whether somebody has looked at it.
    told_there = {claims.not_checked(url) for _, url in claims.unknown(resource, demanded)}
    return [
        *(issue for issue in found if issue.diagnostics not in told_there),
        *endpoint.second_stage(resource, text, demanded),
    ]


def _asked(sent: str) -> tuple[str, str, str]:
    """(the resource's text, mode, profile) of a body, which is a resource or Parameters about one."""
    said = {name: request.args.get(name, "") for name in ("mode", "profile")}
    text = sent
    if sent and codec.parse(sent).get("resourceType") == "Parameters":
        text = ""
        for parameter in codec.parse(sent).get("parameter", []):
            name = parameter.get("name") if isinstance(parameter, dict) else None
            if name == "resource":
                text = codec.dumps(parameter.get("resource", {}))
            elif name in said:
                said[name] = _value(parameter, name)
            else:
                raise Invalid("$validate takes resource, mode and profile.", path="Parameters.parameter")
    if said["mode"] not in ("", *MODES):
        raise Invalid(f"A mode of $validate is one of {', '.join(MODES)}.", path="mode")
    return text, said["mode"], said["profile"]


def _value(parameter: dict[str, Any], name: str) -> str:
    value = next((value for key, value in parameter.items() if key.startswith("value")), None)
    if not isinstance(value, str):
        raise Invalid(f"The parameter {name} of $validate has no value.", path="Parameters.parameter")
    return value
