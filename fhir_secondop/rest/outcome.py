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
                **({"extension": _position(issue)} if issue.line else {}),
                "severity": issue.severity,
                "code": issue.code,
                "diagnostics": _text(issue.diagnostics),
                **({"expression": [_text(issue.expression)]} if issue.expression.strip() else {}),
            }
            for issue in issues
        ],
    }


def _position(issue: Issue) -> list[Resource]:
    """Where it stands in the text, as HL7's own validator says it."""
    url = "http://hl7.org/fhir/StructureDefinition/operationoutcome-issue-"
    return [{"url": f"{url}line", "valueInteger": issue.line}, {"url": f"{url}col", "valueInteger": issue.column}]


def of_error(error: SecondOpError) -> Resource:
    """The OperationOutcome of a failure, naming every offending element."""
    return outcome(error.issues)


def all_ok(message: str) -> Resource:
    """The OperationOutcome that says it went well."""
    return outcome([Issue("information", "informational", "", message)])
