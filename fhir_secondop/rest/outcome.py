"""Failures and notices as OperationOutcome.

Source: https://hl7.org/fhir/R4/operationoutcome.html
"""

from __future__ import annotations

from collections.abc import Iterable

from fhir_secondop.errors import Issue, SecondOpError
from fhir_secondop.model import Resource


def outcome(issues: Iterable[Issue]) -> Resource:
    """The OperationOutcome of these issues."""
    return {
        "resourceType": "OperationOutcome",
        "issue": [
            {
                "severity": issue.severity,
                "code": issue.code,
                "diagnostics": issue.diagnostics,
                **({"expression": [issue.expression]} if issue.expression else {}),
            }
            for issue in issues
        ],
    }


def of_error(error: SecondOpError) -> Resource:
    """The OperationOutcome of a failure, naming every offending element."""
    return outcome(error.issues)


def all_ok(message: str) -> Resource:
    """The OperationOutcome that says it went well."""
    return outcome([Issue("information", "informational", "", message)])
