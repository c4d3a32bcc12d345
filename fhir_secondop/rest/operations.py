"""$operations over FHIR: Parameters in, Parameters or the resource out; rows come from the table of operations."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from flask import Response, request

from fhir_secondop.errors import Forbidden, Invalid, Issue, NotFound
from fhir_secondop.fhir import codec, parameters
from fhir_secondop.fhir.faults import MAX_FAULTS
from fhir_secondop.model import Caller, Operation, Resource, Result
from fhir_secondop.rest import answers, disclosure, formats, published, validating
from fhir_secondop.rest.endpoint import Endpoint

if TYPE_CHECKING:
    import jsonschema


def run(endpoint: Endpoint, caller: Caller, resource_type: str, resource_id: str, code: str) -> Response:
    """Runs [base]/$code, [base]/[type]/$code or [base]/[type]/[id]/$code."""
    if code == "validate" and resource_type and endpoint.validates:
        return validating.run(endpoint, caller, resource_type, resource_id)
    if (handler := published.handler(endpoint, resource_type, resource_id, code)) is not None:
        return handler(endpoint, caller, resource_id)
    asked = (resource_type, code, bool(resource_type and not resource_id))
    row = next((op for op in endpoint.operations if (op.type, op.code, op.on_type) == asked), None)
    if row is None or (request.method != "POST" and not row.reads):
        raise NotFound(f"There is no operation ${code} here; see metadata.")
    may(endpoint, caller, row)
    sent = _input(endpoint, row)
    result = row.handler(caller, resource_id, sent)
    noted(result, bool(resource_id))
    answer = answers.json_answer(result.resource or parameters.from_plain(result.plain), result.status)
    if result.location:
        answer.headers["Location"] = f"{endpoint.base_url}/{result.location}"
    return answer


def may(endpoint: Endpoint, caller: Caller, row: Operation) -> None:
    """Raises Forbidden unless the caller's scopes cover an operation: `r` on its type where it only reads, else `u`.

    SMART scopes say nothing of operations; one of the whole endpoint decides for itself. A scope with restrictions
    covers none: what an operation tells is not narrowed by it.
    """
    if not row.type:
        return
    needed = [(row.type, "r" if row.reads else "u"), *((kind, "r") for kind in row.shows)]
    if row.tells:
        needed = [(row.tells, "r")]
    missing = [
        f"{kind}.{letter}"
        for kind, letter in needed
        if not endpoint.allows(caller, kind, letter) or endpoint.restrictions(caller, kind, letter)
    ]
    if missing:
        raise Forbidden(f"{caller.name} has no scope {', '.join(missing)}, which ${row.code} needs.")


def noted(result: Result, asked: bool) -> None:
    """Tells the audit what an operation's answer holds; with no resource asked for, what it has made or found."""
    if not asked and result.location:
        disclosure.asked(*result.location.split("/")[:2])
    bundle = result.resource if result.resource and result.resource["resourceType"] == "Bundle" else None
    if bundle is not None or not disclosure.access().written:  # else it answers with what it has just written
        disclosure.disclosed_of(None, 1 if bundle is None else len(bundle.get("entry", ())))


def of_query(row: Operation) -> Resource:
    """The input of an operation that is called by GET: the parameters of its schema, by name."""
    kinds: dict[str, Any] = {name: said.get("type") for name, said in row.schema.get("properties", {}).items()}
    given = {name: value for name, value in request.args.items() if name in kinds}
    return {
        name: int(value) if kinds[name] == "integer" and value.isdecimal() and len(value) < 10 else value
        for name, value in given.items()
    }


def _input(endpoint: Endpoint, row: Operation) -> Resource:
    if request.method != "POST" or not request.get_data():
        sent = of_query(row)
    else:
        text = formats.body(endpoint.limits, xml=endpoint.xml)
        resource = codec.parse(text)
        answers.check_entries(resource, endpoint.limits.max_entries)
        answers.valid(resource, text)
        answers.further(endpoint, resource, text)
        if row.raw:
            # The text goes along: an intake keeps what was sent byte for byte.
            return {"resource": resource, "text": text,
                    "key": request.headers.get("Idempotency-Key", "")}  # fmt: skip
        sent = parameters.to_plain(resource, row.schema)
    check(sent, row.schema)
    return sent


def check(plain: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Raises Invalid with every place where plain JSON breaks the schema, or the first thousand of them."""
    import jsonschema  # where it is used, as no search or read needs it

    validator = jsonschema.Draft202012Validator(dict(schema), format_checker=jsonschema.FormatChecker())
    found = islice(validator.iter_errors(dict(plain)), MAX_FAULTS)
    issues = [
        Issue("error", "required" if fault.validator == "required" else "invalid", _path(fault), _say(fault))
        for fault in sorted(found, key=lambda f: list(map(str, f.absolute_path)))
    ]
    if issues:
        raise Invalid(f"{len(issues)} fault(s); nothing was stored.", issues=issues)


def _path(fault: jsonschema.ValidationError) -> str:
    text = ""
    for part in fault.absolute_path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    if fault.validator == "required":
        # jsonschema puts the missing name only into its message: 'x' is a required property
        missing = fault.message.split("'")[1]
        return f"{text}.{missing}" if text else missing
    return text


def _say(fault: jsonschema.ValidationError) -> str:
    # jsonschema's own messages repeat the value that was sent, which may be a patient's.
    if fault.validator == "required":
        return "It is missing."
    if fault.validator in ("enum", "const"):
        allowed = fault.validator_value if isinstance(fault.validator_value, list) else [fault.validator_value]
        return "Use one of: " + ", ".join(map(str, allowed)) + "."
    if fault.validator == "additionalProperties":
        extra = sorted(set(fault.instance) - set(fault.schema.get("properties", {})))
        return f"Unknown member: {', '.join(extra)}."
    return f"It must satisfy {fault.validator}: {fault.validator_value}."
