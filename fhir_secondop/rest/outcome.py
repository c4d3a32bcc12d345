"""Failures and notices as OperationOutcome.

Source: https://hl7.org/fhir/R4/operationoutcome.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from fhir_secondop.errors import Issue, SecondOpError
from fhir_secondop.model import Resource

# A name that we were sent, a parameter's say, may hold what no FHIR string can.
_UNSAFE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


MAX_SAID = 2000


def _text(said: str) -> str:
    return _UNSAFE.sub("\ufffd", said if len(said) <= MAX_SAID else said[:MAX_SAID] + "…")


def outcome(issues: Iterable[Issue]) -> Resource:
    """The OperationOutcome of these issues."""
    return {
        "resourceType": "OperationOutcome",
        "issue": [
            {
                **({"extension": extra} if (extra := _extra(issue)) else {}),
                "severity": issue.severity,
                "code": issue.code,
                "diagnostics": _text(issue.diagnostics),
                **({"expression": [_text(issue.expression)]} if issue.expression.strip() else {}),
            }
            for issue in issues
        ],
    }


def _extra(issue: Issue) -> list[Resource]:
    """Where it stands in the text, and which other validator said so: by the extensions that HL7's own uses."""
    url = "http://hl7.org/fhir/StructureDefinition/operationoutcome-issue-"
    position = {"line": issue.line, "col": issue.column} if issue.line else {}
    found: list[Resource] = [{"url": url + name, "valueInteger": value} for name, value in position.items()]
    return [*found, {"url": f"{url}source", "valueString": issue.source}] if issue.source else found


def of_error(error: SecondOpError) -> Resource:
    """The OperationOutcome of a failure, naming every offending element."""
    return outcome(error.issues)
