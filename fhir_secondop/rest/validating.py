"""$validate: what is right and wrong with a resource, without storing it.

Source: https://hl7.org/fhir/R4/resource-operation-validate.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flask import Response, request

from fhir_secondop.errors import Invalid, Issue, Malformed
from fhir_secondop.fhir import claims, codec, validate
from fhir_secondop.model import Caller, Resource
from fhir_secondop.rest import answers, disclosure, formats, interactions, outcome
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.store import resources
from fhir_secondop.store.resources import Stored

MODES = ("create", "update", "profile")
_SOUND = Issue("information", "informational", "", "No fault was found.")


def run(endpoint: Endpoint, caller: Caller, resource_type: str, resource_id: str) -> Response:
    """POST [type]/$validate with a resource, or with Parameters that hold one, a mode and a profile; GET and POST
    [type]/[id]/$validate of what is stored, or of what would be stored in its place.

    Answers 200 with every fault, and with what was not checked. Raises NotFound, Forbidden, Malformed, Invalid.
    """
    held: Stored | None = None
    if resource_id:
        interactions.may(endpoint, caller, resource_type, "read", "r")
        with endpoint.database.reading() as connection:
            seen = endpoint.sees(caller, (resource_type, "r"))
            held = resources.read(connection, seen, resource_type, resource_id)
        disclosure.disclosed([held])
    sent = formats.body(endpoint.limits, xml=endpoint.xml) if request.method == "POST" and request.get_data() else ""
    asked = _asked(sent)
    if asked.resource is not None:
        resource, text = asked.resource, asked.text
    elif held is not None:
        resource, text = held.resource, held.text
    else:
        raise Malformed("There is nothing to validate: send a resource, or Parameters with one.")
    answers.check_entries(resource, endpoint.limits.max_entries)
    issues = _issues(endpoint, resource, text, asked.profile)
    if resource.get("resourceType") != resource_type:
        issues.insert(0, Issue("error", "invalid", "", f"This is not a {resource_type}, as the address says."))
    if asked.mode == "update" and resource_id and resource.get("id") != resource_id:
        issues.append(Issue("error", "value", f"{resource_type}.id", f"must be {resource_id}, as in the address"))
    if asked.resource is not None and text == sent:
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


@dataclass(slots=True)
class _Asked:
    """What is to be validated, as text and parsed (None: nothing was sent), and how."""

    resource: Resource | None
    text: str
    mode: str
    profile: str


def _asked(sent: str) -> _Asked:
    """What a body asks for: it is the resource, or Parameters about one. Raises Malformed, Invalid."""
    mode, profile = request.args.get("mode", ""), request.args.get("profile", "")
    asked = _Asked(codec.parse(sent) if sent else None, sent, mode, profile)
    if asked.resource is not None and asked.resource.get("resourceType") == "Parameters":
        named, asked.resource = asked.resource.get("parameter"), None
        for parameter in named if isinstance(named, list) else ():
            _take(parameter, asked)
    if asked.mode not in ("", *MODES):
        raise Invalid(f"A mode of $validate is one of {', '.join(MODES)}.", path="mode")
    return asked


def _take(parameter: Any, asked: _Asked) -> None:
    name = parameter.get("name") if isinstance(parameter, dict) else None
    if name == "resource" and isinstance(parameter.get("resource"), dict):
        asked.resource = parameter["resource"]
        asked.text = codec.dumps(asked.resource)
    elif name == "mode":
        asked.mode = _value(parameter, name)
    elif name == "profile":
        asked.profile = _value(parameter, name)
    else:
        raise Invalid("$validate takes resource, mode and profile.", path="Parameters.parameter")


def _value(parameter: dict[str, Any], name: str) -> str:
    value = next((value for key, value in parameter.items() if key.startswith("value")), None)
    if not isinstance(value, str):
        raise Invalid(f"The parameter {name} of $validate has no value.", path="Parameters.parameter")
    return value
