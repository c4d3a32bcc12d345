"""Every caller, operation and route of the program, with the rule that each has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.access.stage import CALLERS, NOBODY, SEES
from tests.service.test_review import example

Plain = dict[str, Any]
EVERYONE = (*CALLERS, NOBODY)
FHIR = "application/fhir+json"

# Who may call an operation on a case that it sees, by the caller's relation to alpha: everybody else is refused, and
# nothing is changed. "sees" is everybody who sees the case, "record" who sees its record, too.
OPERATIONS: dict[str, str] = {
    "gather": "staff", "candidates": "desk", "confirm-patient": "desk", "manifest": "sees", "completeness": "record",
    "requests": "sees", "request-item": "staff", "merged-record": "record", "unlink": "staff", "link": "staff",
    "independence": "record", "match-reviewer": "desk", "check-coverage": "staff", "reassign": "desk",
    "ask-reviewer": "desk", "accept": "reviewer", "decline": "reviewer",
    "withdraw": "reviewer", "submit-report": "reviewer", "sign": "reviewer", "amend-report": "reviewer",
    "verify": "sees",
    "alignment": "sees", "acknowledge": "recipient", "decide": "recipient", "plan-of-record": "owner",
    "disclosures": "sees", "replay": "desk", "preview-delivery": "desk", "cover-sheet": "desk",
    "package": "sees", "cancel": "placer", "audit-trail": "audit", "invite-patient": "intake",
    "revoke-invite": "intake", "blind-first": "desk", "first-read": "reviewer", "break-blind": "reviewer",
    "compare": "sees", "third-opinion": "asker", "ask-follow-up": "asker",
    "clocks": "sees", "pause": "staff", "resume": "staff", "schedule": "staff",
    "show-preliminary": "reviewer",
    "propose": "reviewer", "withdraw-proposal": "reviewer", "answer-proposal": "recipient", "proposal-result": "staff",
    "raise-urgent": "reviewer", "record-call": "called", "close-check": "checker",
}  # fmt: skip
MAY: dict[str, set[str]] = {
    "desk": {"desk", "desk-reader"}, "staff": {"desk", "desk-reader", "clinic", "reviewer"},
    "sees": SEES["alpha"] - {"only-laboratory"},
    "record": SEES["alpha.record"] - {"only-laboratory"},
    "reviewer": {"reviewer"}, "recipient": {"pcp", "surgeon"}, "owner": {"surgeon"},
    "placer": {"desk", "pcp"}, "asker": {"desk", "clinic", "pcp", "surgeon", "patient"},
    "checker": {"desk", "surgeon"},
    "called": {"desk", "clinic", "reviewer", "pcp", "surgeon"},
    "audit": {"desk", "desk-reader", "patient"}, "intake": {"desk", "clinic"},
}  # fmt: skip
_REVIEWER = {"reviewer": example("review.json")["reviewer"]}
# What each takes, so that what is refused is refused for who asks and not for what was sent.
BODIES: dict[str, Plain] = {
    "candidates": {"task": "x"}, "confirm-patient": {"task": "x", "patient": "none"}, "request-item": {"item": "x"},
    "unlink": {"group": "x", "reason": "x"}, "link": {"reason": "x", "group": "x"}, "independence": _REVIEWER,
    "reassign": {"reason": "no-capacity"},
    "ask-reviewer": _REVIEWER, "decline": {"reason": "no-capacity"}, "withdraw": {"reason": "no-capacity"},
    "submit-report": example("review.json")["draft"], "amend-report": {"kind": "amended", "reason": "x"},
    "acknowledge": {"version": 1}, "decide": {"version": 1, "decision": "adopt"},
    "plan-of-record": {"version": 1, "decision": "adopt", "text": "x"}, "replay": {"task": "x", "changed": "x"},
    "invite-patient": {"relationship": "self", "name": "x"}, "revoke-invite": {"task": "x"},
    "blind-first": {"on": True}, "first-read": {"assessment": "x"}, "break-blind": {"reason": "x"},
    "third-opinion": {"reason": "x"}, "ask-follow-up": {"text": "x"},
    "pause": {"reason": "awaiting-tests"}, "schedule": {"mode": "record-only"},
    "propose": {"kind": "test", "text": "x"}, "withdraw-proposal": {"proposal": 1, "reason": "x"},
    "answer-proposal": {"proposal": 1, "outcome": "accepted"},
    "proposal-result": {"proposal": 1, "result": "Observation/x"},
    "raise-urgent": {"finding": "x"}, "record-call": {"with": "x", "readBack": "x"},
    "close-check": {"task": "x", "answer": "diverged", "reason": "x"},
    "cover-sheet": {"task": "x"}, "cancel": {"reason": "no-capacity"},
}  # fmt: skip

# Every route of the program, and what asks it here. A route that is not listed makes the generator fail.
ROUTES: dict[str, str] = {
    "/fhir/": "transaction, batch, search", "/fhir/_search": "search", "/fhir/_history": "history",
    "/fhir/metadata": "public", "/fhir/$<code>": "system operation",
    "/fhir/<t>": "search, create, conditional", "/fhir/<t>/_search": "search",
    "/fhir/<t>/<i>": "read, update, patch, delete",
    "/fhir/<t>/<i>/_history": "history", "/fhir/<t>/<i>/_history/<v>": "vread",
    "/fhir/<t>/$<code>": "everything, document", "/fhir/<t>/<i>/<u>": "through", "/fhir/<t>/_history": "history",
    "/fhir/<t>/<i>/$<code>": "operation, everything, document", "/fhir/<path:rest>": "nowhere",
    "/api/deliveries": "overseeing", "/api/deliveries/replay": "overseeing", "/api/deliveries/<task_id>": "overseeing",
    "/api/connections": "overseeing", "/api/connections/<name>/pause": "overseeing",
    "/api/connections/<name>/resume": "overseeing",
    "/api/second-opinions": "list, open", "/api/second-opinions/<case_id>": "case",
    "/api/second-opinions/<case_id>/<code>": "operation", "/api/second-opinions/<case_id>/events": "case",
    "/ack/<token>": "link", "/ack/<token>/document.pdf": "link",
    "/ack/<token>/report.json": "link", "/ack/<token>/report.jws": "link", "/upload/<token>": "link",
    "/fhir/openapi.json": "public", "/api/openapi.json": "public",
    "/api/schemas/<any('second-opinion-request','report-draft'):name>.json": "public",
    "/learned": "page without a case", "/learned.csv": "page without a case",
    "/learned/<measure>.svg": "page without a case", "/metrics": "page without a case",
    "/": "page", "/my": "page", "/connections": "page without a case", "/connections/<name>": "page without a case",
    "/alerts/<alert_id>/acknowledge": "page without a case",
    "/my/<case_id>": "page", "/cases/<case_id>": "page", "/cases/<case_id>/confirm/<task_id>": "page",
    "/cases/<case_id>/cover-sheet/<task_id>.pdf": "page", "/cases/<case_id>/deliveries/<task_id>": "page",
    "/cases/<case_id>/do/<code>": "form", "/cases/<case_id>/files/<kind>/<resource_id>/<int:place>": "page",
    "/cases/<case_id>/independence": "form", "/cases/<case_id>/preview": "page",
    "/cases/<case_id>/preview.pdf": "page", "/cases/<case_id>/records": "page", "/cases/<case_id>/report.pdf": "page",
    "/cases/<case_id>/reviewers": "page", "/cases/<case_id>/report.html": "page",
    "/cases/<case_id>/report.txt": "page", "/cases/<case_id>/first-read": "page",
    "/cases/<case_id>/review": "page, form", "/cases/<case_id>/sign": "form",
    "/cases/<case_id>/signed/<int:version>/report.json": "page",
    "/cases/<case_id>/signed/<int:version>/report.jws": "page", "/cases/<case_id>/tasks/<task_id>/cancel": "form",
    "/sign-in": "sign-in", "/sign-in/again": "sign-in", "/sign-in/callback": "sign-in", "/sign-out": "sign-in",
    "/case-link/<token>": "link", "/assets/<path:filename>": "public",
    "/docs": "public", "/.well-known/jwks.json": "public", "/.well-known/document-keys.json": "public",
    "/healthz": "public", "/readyz": "public",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Combination:
    """One request by one caller, and the rule that its answer must keep: "" or what is wrong with it."""

    who: str
    what: str
    ask: Callable[[], str]
