"""The program's codes in plain words, for everybody who reads a page."""

from __future__ import annotations

from typing import Any

from fhir_secondop.opinion import facts, learned, notices, progress
from fhir_secondop.opinion.clocks import Clock

STAGES = progress.STAGES
NEEDS = progress.NEEDS
SENT = {"no": "not sent", "accepted": "sent", "refused": "refused", "unknown": "outcome unknown"}
COPY = {"none": "none yet", "verified": "verified", "mismatch": "differs", "unverifiable": "can't be checked"}
ACK = {"none": "not yet", "signed-in": "yes, signed in", "link": "yes, by link", "fhir": "yes, from their EHR"}
DECISIONS = {
    "none": "not yet", "adopt": "adopt", "adopt-in-part": "adopt in part", "keep-current": "keep the current plan",
    "seek-third-opinion": "seek a third opinion", "patient-declined": "patient declined",
}  # fmt: skip
STATES = {
    "aligned": "Aligned", "informed": "Informed", "behind": "Behind", "unknown": "Not there yet",
    "blocked": "Blocked", "to-check": "To check", "diverged": "Diverged",
}  # fmt: skip
MARKS = {
    "aligned": "ok", "informed": "info", "behind": "warn", "unknown": "wait", "blocked": "bad", "to-check": "bad",
    "diverged": "bad",
}  # fmt: skip
NEED_MARKS = {"urgent": "bad", "overdue": "bad", "request": "wait"}  # the others: "warn"
STAGE_MARKS = {
    "gathering": "wait", "to-assign": "warn", "asked": "wait", "review": "info", "delivering": "wait",
    "responses": "wait", "aligned": "ok", "closed": "plain",
}  # fmt: skip
ITEM_STATES = {
    "present": "there", "stale": "only older ones", "missing": "missing", "known-absent": "known not to exist",
    "withheld": "withheld", "requested": "asked for", "not-applicable": "not needed",
}  # fmt: skip
ITEM_MARKS = {
    "present": "ok", "stale": "warn", "missing": "bad", "known-absent": "ok", "withheld": "bad", "requested": "wait",
    "not-applicable": "plain",
}  # fmt: skip
OUTCOMES = {
    "answered": "answered", "refused": "refused", "not-offered": "not offered", "truncated": "incomplete",
    "failed": "could not be read", "not-asked": "not asked",
}  # fmt: skip
TASKS = {
    "requested": "asked", "received": "received", "accepted": "accepted", "ready": "ready",
    "in-progress": "under way", "on-hold": "on hold", "completed": "done", "failed": "failed",
    "cancelled": "called off", "rejected": "declined",
}  # fmt: skip
DELIVERIES = {
    "planned": "planned", "sending": "being sent", "unknown": "outcome unknown", "accepted": "sent",
    "verified": "there, read back", "mismatch": "the copy differs", "unverifiable": "can't be checked",
    "failed": "not delivered",
}  # fmt: skip
DELIVERY_MARKS = {
    "planned": "wait", "sending": "wait", "unknown": "bad", "accepted": "info", "verified": "ok", "mismatch": "bad",
    "unverifiable": "warn", "failed": "bad",
}  # fmt: skip
VERDICTS = {"same": "the same", "refined": "refined", "different": "different", "needs-judgement": "needs judgement"}
PREFERENCE = {"preferred": "preferred", "acceptable": "acceptable as well", "not-advised": "not advised"}
CONCORDANCE = {
    "confirmed": "confirmed", "refined": "refined", "additional": "additional to it", "changed": "changed",
    "refuted": "refuted", "indeterminate": "indeterminate", "not-assessed": "not assessed", "agreed": "agreed",
    "agreed-modified": "agreed, modified", "deescalate": "de-escalate", "alternative": "alternative",
    "not-recommended": "not recommended", "defer": "defer",
}  # fmt: skip
REASONS = {
    "conflict-of-interest": "conflict of interest", "wrong-specialty": "wrong specialty", "no-capacity": "no capacity",
    "reviewer-unavailable": "reviewer unavailable", "insufficient-records": "insufficient records",
    "coverage-denied": "coverage denied", "consent-withheld": "consent withheld",
    "patient-withdrew": "the patient withdrew", "patient-deceased": "the patient died",
    "superseded-by-event": "overtaken by events", "duplicate": "duplicate", "out-of-scope": "out of scope",
}  # fmt: skip
RESULTS = {"pass": "fits", "warn": "look at it", "unknown": "not known", "fail": "does not fit", "barred": "barred"}
RESULT_MARKS = {"pass": "ok", "warn": "warn", "unknown": "wait", "fail": "bad", "barred": "bad"}
CRITERIA = {
    "specialty": "Specialty", "place": "Place", "licence": "Licence", "language": "Language",
    "network": "Payer's network", "availability": "Availability", "independence": "Independence",
}  # fmt: skip
COVERED = {"covered": "covered", "not-covered": "not covered", "unknown": "not known", "asking": "being asked"}
COVERED_MARKS = {"covered": "ok", "not-covered": "bad", "unknown": "warn", "asking": "wait"}
AUTHORIZATION = {"required": "required", "not-required": "not required", "unknown": "not stated"}
PRIORITIES = {"routine": "routine", "urgent": "urgent", "asap": "as soon as possible", "stat": "at once"}
PROPOSALS = {"test": "a test", "plan": "a change of the plan"}
PROPOSAL_ENDS = {
    "accepted": "taken up", "declined": "not taken up", "aged-out": "nobody answered", "withdrawn": "taken back",
}  # fmt: skip
PROPOSAL_MARKS = {"accepted": "ok", "declined": "warn", "aged-out": "warn", "withdrawn": "plain"}
CHECKS = {"diverged": "the chart diverges", "no-contradiction": "no contradiction", "resolved": "resolved"}
CHECK_MARKS = {"diverged": "bad", "no-contradiction": "ok", "resolved": "ok"}
NOTICES = {
    "proposal-ended": "what became of a proposal",
    "result-arrived": "a result",
    "accepted": "accepted",
    "due-after-deadline": "due after the deadline",
    "overdue": "overdue",
    "not-acknowledged": "not acknowledged",
}
CLOCKS = notices.CLOCKS
MEASURES = {
    "concordance": "Concordance", "since-request": "Since the request",
    "since-complete": "Since the record was complete",
    "record-at-acceptance": "The record at acceptance", "unread": "Unread after three days", "loop": "Loop closure",
    "turnaround": "Turnaround in business days",
}  # fmt: skip
MEANINGS = {
    "concordance": "The overall concordance of the current version with the first opinion.",
    "since-request": "Whether the first report was signed within the target of the clock that begins with the request.",
    "since-complete": "Whether it was signed within the target of the clock that begins with the complete record.",
    "record-at-acceptance": "Whether the checklist lacked nothing when the reviewer accepted.",
    "unread": "Whether requester, primary care and decision owner had all acknowledged version 1 three days after it.",
    "loop": "Closed means aligned: every provider holds the version, who must has acknowledged and decided, and one "
            "plan of record stands that nobody contradicts. Informed: all hold the version.",
    "turnaround": "From each clock's start to the first signature, without pauses. A dark bar ends at the median, the "
                  "grey behind it where nine of ten reports were signed.",
}  # fmt: skip
CATEGORIES = {
    "in-time": "in time", "no-target": "no target", "too-early": "too early to say", "nobody-asked": "nobody must",
    "not-assessed": "not assessed",
}  # fmt: skip
MODES = {"visit": "a visit in person", "video": "by video"}
BOOKINGS = {
    "booked": "booked", "fulfilled": "took place", "noshow": "the patient did not come", "cancelled": "called off",
}  # fmt: skip
BOOKING_MARKS = {"booked": "wait", "fulfilled": "ok", "noshow": "warn", "cancelled": "plain"}
URGENT = {
    "raised": "call now", "deputy": "not reached: call the deputy", "coordinator": "not reached: the coordinator calls",
    "unreached": "nobody reached: call everybody again",
}  # fmt: skip
DONE = {
    "raise-urgent": "It is raised; it stays open until a conversation is recorded.",
    "record-call": "The conversation is recorded.",
    "gather": "The record is being gathered again.", "request-item": "It was asked for.",
    "ask-reviewer": "The reviewer was asked.", "reassign": "The case is open for the next reviewer.",
    "check-coverage": "The payer is being asked.", "accept": "You have taken the case.",
    "decline": "You have declined; the case goes to somebody else.", "withdraw": "You have stepped back.",
    "sign": "The report is signed and on its way to every recipient.", "acknowledge": "Your receipt is recorded.",
    "decide": "Your decision is recorded.", "plan-of-record": "The plan of record is set and on its way.",
    "replay": "The delivery is tried again.", "confirm-patient": "It is recorded who the patient is there.",
    "cancel": "It was called off.", "saved": "The draft is saved.", "unlink": "The group was taken apart.",
    "link": "The copies were linked.", "first-read": "Your first read is locked; the first opinion is open.",
    "show-preliminary": "The clinicians of the case can read it; it is marked as preliminary.",
    "propose": "It is on its way to every recipient.", "answer-proposal": "The reviewer is told.",
    "withdraw-proposal": "It was taken back; every recipient is told.",
    "proposal-result": "It is recorded, and the reviewer is told.",
    "ask-follow-up": "Your question is with the reviewer.",
    "third-opinion": "A case for a third opinion was opened; it is on the work list.",
    "blind-first": "It is recorded how the case is read.",
    "break-blind": "The first opinion is open; the report will say so.",
    "pause": "The case is on hold.", "resume": "The case goes on.",
    "schedule": "It is recorded.", "close-check": "It is recorded what it is.",
    "acknowledge-alert": "Nobody further is told, but that it is over.",
}  # fmt: skip


def when(instant: str) -> str:
    """An instant to the minute, a date as it is: "2026-11-23 09:30 UTC"."""
    if not instant:
        return ""
    return facts.moment(instant) if "T" in instant else instant


# breaker.state → the mark it has, and in words.
_CIRCUITS = {
    "paused": ("warn", "paused"), "open": ("bad", "does not answer"), "half-open": ("bad", "does not answer, is tried"),
    "resting": ("wait", "asked us to wait"), "closed": ("ok", "is asked"),
}  # fmt: skip


def circuit(state: str) -> tuple[str, str]:
    """Whether an EHR is asked now: the mark, and the words."""
    return _CIRCUITS[state]


def of(table: dict[str, str], code: str) -> str:
    """A code in words; one that no table knows as it is."""
    return table.get(code, code.replace("-", " "))


def way(why: str) -> tuple[str, list[str]]:
    """Why a rung was chosen, as the way itself and why each better one was not possible."""
    name, _, above = why.partition(" (")
    return name, [part for part in above.removesuffix(")").split("; ") if part]


_ACTS = {"R": "read it", "C": "added to it", "U": "changed it", "D": "took something away"}


def act(row: dict[str, Any]) -> str:
    """What a row of the audit says that somebody did, in plain words."""
    if row["operation"].startswith("$"):
        return f"used it ({row['operation'][1:].replace('-', ' ')})"
    return _ACTS.get(row["action"], "looked for it")


def clock(one: Clock | None) -> str:
    """How long a clock has run, with a mark where it has passed its target: "3 business days", "not complete"."""
    if one is None:
        return "not complete"
    return f"{one.words} (overdue)" if one.breached and one.stopped is None else one.words


def number(one: int | str) -> str:
    """A number that may be withheld: "25", "<11", "withheld"."""
    return learned.shown(one)
