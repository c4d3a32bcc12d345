"""Answers that a quirk gives itself, and the resource in an answer that it changes."""

from __future__ import annotations

from werkzeug.wrappers import Response

from fhir_secondop.errors import Malformed, SecondOpError
from fhir_secondop.fhir import codec
from fhir_secondop.model import Resource

JSON = "application/fhir+json"
# The code system of Epic's own error codes; quirks that show one of them use it.
EPIC = "urn:oid:1.2.840.114350.1.13.0.1.7.2.657369"


def outcome(code: str, text: str, *, own: str = "", severity: str = "error") -> Resource:
    """An OperationOutcome of one issue; `own` is Epic's number for it."""
    details = {"coding": [{"system": EPIC, "code": own, "display": text}], "text": text} if own else {"text": text}
    return {"resourceType": "OperationOutcome", "issue": [{"severity": severity, "code": code, "details": details}]}


def refusal(status: int, code: str, text: str, *, own: str = "") -> Response:
    """An answer that refuses."""
    return Response(codec.dumps(outcome(code, text, own=own)), status, mimetype=JSON)


class Refused(SecondOpError):
    """A write that a quirk refuses from within its transaction, in words of its own."""

    def __init__(self, status: int, code: str, text: str, *, own: str = "") -> None:
        super().__init__(text)
        self.answer = refusal(status, code, text, own=own)


def resource_in(answer: Response) -> Resource | None:
    """The resource in an answer that went well, or None."""
    if answer.status_code >= 300:
        return None
    try:
        return codec.parse(answer.get_data())
    except Malformed:
        return None


def put_resource(answer: Response, resource: Resource) -> None:
    """Gives an answer another body."""
    answer.set_data(codec.dumps(resource))
