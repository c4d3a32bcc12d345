"""Quirks of writing that refuse: what a site's rules demand of a resource. Rows of the table in `quirks`.

Each looks at a resource within its transaction, after the endpoint found it valid, and refuses by raising.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from werkzeug.wrappers import Response

from fhir_secondop.errors import Invalid, Issue
from fhir_secondop.model import Resource
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.sandbox.answers import Refused, refusal
from fhir_secondop.sandbox.traffic import Around, Asked, GoOn, number
from fhir_secondop.store import resources, tables
from fhir_secondop.store.database import Change, Transaction

Check = Callable[[Transaction, Change, Resource], None]


def text_only(tx: Transaction, change: Change, resource: Resource) -> None:
    """Documents are plain text."""
    for content in resource.get("content", []) if change.type == "DocumentReference" else []:
        kind = content.get("attachment", {}).get("contentType", "")
        if not kind.startswith("text/plain"):
            raise Invalid(f"Content of type {kind} is not accepted; send text/plain.", path="DocumentReference.content")


def note_needs_encounter(tx: Transaction, change: Change, resource: Resource) -> None:
    """Documents stand on an encounter."""
    if change.type == "DocumentReference" and not resource.get("context", {}).get("encounter"):
        raise Invalid("A note needs an existing encounter.", path="DocumentReference.context.encounter")


def _attachment(document: Resource) -> Resource:
    found: Resource = document.get("content", [{}])[0].get("attachment", {})
    return found


# What Oracle's documentation demands of a document: (element, what is wrong, whether it is right).
# Source: https://docs.oracle.com/en/industries/health/millennium-platform-apis/mfrap/op-documentreference-post.html
_DOCUMENT: tuple[tuple[str, str, Callable[[Resource], bool]], ...] = (
    ("content", "There must be exactly one.", lambda d: len(d.get("content", [])) == 1),
    ("content.attachment.data", "The data must be inline.", lambda d: "data" in _attachment(d)),
    ("content.attachment.contentType", "A charset must be named.",
     lambda d: "charset=" in _attachment(d).get("contentType", "")),
    ("context.period.end", "It must be there, with a time.",
     lambda d: "T" in d.get("context", {}).get("period", {}).get("end", "")),
    ("docStatus", "It must be final or amended.", lambda d: d.get("docStatus") in ("final", "amended")),
)  # fmt: skip
_COMMUNICATION: tuple[tuple[str, str, Callable[[Resource], bool]], ...] = (
    ("status", "It must be completed.", lambda c: c.get("status") == "completed"),
    ("sender", "It must be a Practitioner.",
     lambda c: "Practitioner/" in c.get("sender", {}).get("reference", "")),
)  # fmt: skip


def _rules(kind: str, rules: tuple[tuple[str, str, Callable[[Resource], bool]], ...]) -> Check:
    def check(tx: Transaction, change: Change, resource: Resource) -> None:
        broken = [(place, text) for place, text, holds in rules if not holds(resource)] if change.type == kind else []
        if broken:
            issues = [Issue("error", "business-rule", f"{kind}.{place}", text) for place, text in broken]
            raise Invalid(f"{len(issues)} rule(s) broken; nothing was stored.", issues=issues)

    return check


strict_document = _rules("DocumentReference", _DOCUMENT)
communication_rules = _rules("Communication", _COMMUNICATION)

# Cardiology and anatomic pathology, the only reports that Oracle lets one create.
# Source: https://docs.oracle.com/en/industries/health/millennium-platform-apis/mfrap/op-diagnosticreport-post.html
_CATEGORIES = frozenset({"LP29708-2", "LP7839-6"})


def report_categories(tx: Transaction, change: Change, resource: Resource) -> None:
    """Reports are of cardiology or of anatomic pathology."""
    if (change.type, change.interaction) != ("DiagnosticReport", "create"):
        return
    codes = {c.get("code") for category in resource.get("category", []) for c in category.get("coding", [])}
    if not codes & _CATEGORIES:
        raise Invalid(
            f"Only the categories {' and '.join(sorted(_CATEGORIES))} can be created.", path="DiagnosticReport.category"
        )


def unmapped_type(value: str) -> Check:
    """The site's map of document types lacks this code, or with no VALUE every code."""

    def check(tx: Transaction, change: Change, resource: Resource) -> None:
        codes = {coding.get("code") for coding in resource.get("type", {}).get("coding", [])}
        if (change.type, change.interaction) == ("DocumentReference", "create") and (not value or value in codes):
            raise Refused(400, "code-invalid", "The document type is not mapped at this site.", own="40000")

    return check


def duplicate_59141(tx: Transaction, change: Change, resource: Resource) -> None:
    """The same bytes about the same patient a second time are refused."""
    data = _attachment(resource).get("data")
    if (change.type, change.interaction) != ("DocumentReference", "create") or data is None:
        return
    held = tx.connection.execute(
        resources.rows().where(tables.resource.c.type == change.type, tables.resource.c.deleted.is_(False))
    )
    for other in map(resources.stored, held):
        known = other.resource
        if other.id != change.id and (_attachment(known).get("data"), known.get("subject")) == (
            data, resource.get("subject"),
        ):  # fmt: skip
            raise Refused(400, "duplicate", "This document has been filed before.", own="59141")


def needs_if_match(value: str) -> Around:
    """An update must say which version it changes; a stale one is a conflict (409), not a failed precondition."""
    status = int(number(value, 412))

    def around(asked: Asked, go_on: GoOn) -> Response:
        if asked.kind == "update" and asked.header("If-Match") is None:
            return refusal(status, "required", "If-Match is required.")
        answer = go_on(asked)
        if asked.kind == "update" and answer.status_code == 412:
            return refusal(409, "conflict", "The resource has changed since.")
        return answer

    return around


def without_transaction(endpoint: Endpoint) -> Endpoint:
    """Takes away transactions."""
    return replace(endpoint, system=frozenset())


def unconditional(endpoint: Endpoint) -> Endpoint:
    """Takes away conditional creates."""
    return replace(endpoint, conditional_create=False)
