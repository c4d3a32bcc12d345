"""What a written version of a resource of a case tells those who follow the case: kinds of events, pure.

A version says what the one before did not. Kinds carry no content: who follows reads the version that is cited, if it
may. Here stands which changes are news at all; what is written of copies of a record never is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from fhir_secondop.model import Resource
from fhir_secondop.opinion import (
    alignment,
    blinding,
    checks,
    clocks,
    codes,
    eligibility,
    invitation,
    links,
    notices,
    proposals,
    requests,
    urgent,
    workflow,
)
from fhir_secondop.opinion.case import derived_id

KINDS: dict[str, str] = {
    "request-received": "The request was taken in.",
    "request-completed": "The request was closed: the report is signed.",
    "request-revoked": "The request was revoked.",
    "case-reopened": "The reviewer who had accepted left; the case is open for the next.",
    "case-held": "The case waits, its clocks stand still; also when the reason for that changed.",
    "case-resumed": "The case goes on.",
    "case-rejected": "The case was not taken.",
    "case-cancelled": "The case was cancelled.",
    "case-failed": "The round of the review ended without a report.",
    "stop-asked": "Who carries a Task on was asked to stop.",
    "gathering-asked": "The record of a source is to be fetched.",
    "gathering-begun": "The record of a source is being fetched.",
    "gathering-held": "A person must say who the patient is at a source.",
    "gathering-ended": "The record of a source is in.",
    "gathering-failed": "No record could be had from a source.",
    "record-complete": "The record is in, and nothing on the checklist is missing.",
    "record-incomplete": "The record is in, with gaps.",
    "record-regrouped": "Copies in the record were put together, or taken apart.",
    "records-asked": "Somebody was asked for something that is missing.",
    "records-arrived": "What was missing has come.",
    "records-to-check": "What came for a gap needs a look.",
    "records-closed": "A request for something missing was closed without it.",
    "coverage-asked": "The payer was asked whether it covers this.",
    "coverage-answered": "The payer has answered.",
    "coverage-failed": "Whether the payer covers this could not be found out.",
    "consent-recorded": "A consent of the patient was stored.",
    "consent-changed": "A consent was changed.",
    "consent-withdrawn": "A consent is in force no more.",
    "patient-invited": "The patient, or who acts for them, was invited to the case.",
    "patient-entered": "Who was invited is in.",
    "invitation-closed": "An invitation was closed.",
    "review-asked": "A reviewer was asked.",
    "review-accepted": "A reviewer has accepted.",
    "review-declined": "A reviewer has declined.",
    "review-withdrawn": "The reviewer who had accepted has stepped back.",
    "review-cancelled": "A reviewer is not asked any more.",
    "review-begun": "The reviewer is at work.",
    "first-read-asked": "The case is to be read blind first.",
    "first-read-locked": "The blind first read is locked.",
    "first-read-skipped": "The first opinion was opened before a first read was locked.",
    "first-read-called-off": "The case is not to be read blind first any more.",
    "visit-scheduled": "A visit was booked.",
    "visit-unattended": "The patient did not come to the visit.",
    "visit-complete": "The visit has taken place.",
    "report-drafted": "The reviewer has begun to write the report.",
    "report-preliminary": "The draft was shown as it is; also when it was shown again.",
    "report-signed": "The report is signed.",
    "amendment-drafted": "The reviewer has begun to write the next version of the signed report.",
    "report-amended": "The next version of the report is signed: amended, corrected or appended.",
    "report-retracted": "The report was retracted.",
    "question-asked": "A question was asked about the signed report.",
    "proposal-made": "The reviewer proposed a test or a change of the plan.",
    "proposal-accepted": "A proposal was taken up.",
    "proposal-declined": "A proposal was declined.",
    "proposal-aged-out": "Nobody answered a proposal in time.",
    "proposal-withdrawn": "The reviewer took a proposal back.",
    "proposal-result": "A result of what was proposed is in the record.",
    "delivery-planned": "A delivery of one version to one recipient was planned, or is to be tried anew.",
    "delivery-sending": "It is being sent: from now on it may be there.",
    "delivery-unknown": "It was sent, and whether it is there is not known.",
    "delivery-accepted": "The recipient's system took it; the copy was not read back yet.",
    "delivery-verified": "The copy there was read back and is the same.",
    "delivery-mismatch": "The copy there differs.",
    "delivery-unverifiable": "The copy there can't be read back, or it goes by link.",
    "delivery-failed": "It was given up.",
    "delivery-held": "A person must look.",
    "delivery-cancelled": "It was called off before it was sent.",
    "delivery-replayed": "It is tried again by hand.",
    "delivery-duplicated": "It is there more than once.",
    "acknowledged": "A recipient has acknowledged a version.",
    "decided": "A recipient has said what it decides.",
    "plan-set": "The decision owner set the plan of record.",
    "watch-begun": "A chart is looked at from now on, whether it contradicts.",
    "watch-ended": "A chart is not looked at any more.",
    "check-opened": "A chart seems to contradict what was delivered or decided; a person must look.",
    "check-diverged": "A person has looked: the chart diverges.",
    "check-no-contradiction": "A person has looked: the chart does not contradict.",
    "check-resolved": "A later look at the chart found it no more.",
    "urgent-raised": "Something critical was seen: somebody must be called.",
    "urgent-escalated": "Nobody was reached; somebody else must be called.",
    "urgent-closed": "The urgent conversation was recorded.",
    "notice-accepted": "Who decides was told that a reviewer has accepted.",
    "notice-due-after-deadline": "Who decides was told that it is due after the deadline.",
    "notice-overdue": "The due date has passed.",
    "notice-proposal-ended": "The reviewer was told what became of a proposal.",
    "notice-result-arrived": "The reviewer was told of a result.",
    "notice-not-acknowledged": "A provider was reminded to acknowledge the report.",
}
"""Every kind, and what it says."""

BY_STATUS: Mapping[str, Mapping[str, str]] = {
    "gather-records": {
        "requested": "gathering-asked", "in-progress": "gathering-begun", "on-hold": "gathering-held",
        "completed": "gathering-ended", "failed": "gathering-failed", "cancelled": "gathering-failed",
        "rejected": "gathering-failed",
    },
    requests.CODE: {
        "requested": "records-asked", "completed": "records-arrived", "on-hold": "records-to-check",
        "cancelled": "records-closed", "failed": "records-closed", "rejected": "records-closed",
    },
    eligibility.CODE: {
        "requested": "coverage-asked", "completed": "coverage-answered", "failed": "coverage-failed",
        "rejected": "coverage-failed", "cancelled": "coverage-failed",
    },
    invitation.CODE: {"requested": "patient-invited", "accepted": "patient-entered", "cancelled": "invitation-closed"},
    workflow.WATCH: {"in-progress": "watch-begun", "completed": "watch-ended"},
    "abort": {"requested": "stop-asked"},
}  # fmt: skip
"""By the code of a Task, what each state that it comes to is."""
_REVIEW = {
    "requested": "review-asked", "accepted": "review-accepted", "rejected": "review-declined",
    "in-progress": "review-begun", "failed": "review-withdrawn", "cancelled": "review-cancelled",
}  # fmt: skip
_STAGES = {
    "records-complete": "record-complete", "records-incomplete": "record-incomplete",
    "visit-scheduled": "visit-scheduled", "visit-unattended": "visit-unattended", "visit-complete": "visit-complete",
}  # fmt: skip
_FIRST_READS = {
    "": "first-read-called-off", blinding.ASKED: "first-read-asked", blinding.LOCKED: "first-read-locked",
    blinding.OPENED: "first-read-skipped",
}  # fmt: skip
_SIGNED = ("final", "amended", "corrected", "appended")
_NOTHING: Resource = {"status": ""}


def _of_task(case_id: str, before: Resource | None, task: Resource) -> Iterator[str]:
    then = before or _NOTHING
    if workflow.is_coordination(task):
        yield from _of_coordination(then, task)
    elif workflow.is_delivery(task):
        yield from dict.fromkeys(_of_delivery(then, task))
    elif workflow.is_urgent(task):
        yield from _of_urgent(then, task)
    elif workflow.is_check(task):
        yield from _of_check(then, task)
    elif then["status"] != task["status"]:
        coded = task.get("code")
        if workflow.is_review(task):
            # A review that was on hold goes on where it was: that is the case's news, not the reviewer's.
            found = _REVIEW.get(task["status"], "") if then["status"] != "on-hold" or _is_over(task) else ""
        else:
            own = codes.code_of(coded, codes.TASK) or codes.code_of(coded, requests.CDEX)
            code = own or codes.code_of(coded, codes.TASK_CODE) or ""
            found = BY_STATUS.get(code, {}).get(task["status"], "")
        if found:
            yield found


def _is_over(task: Resource) -> bool:
    return task["status"] in ("failed", "cancelled", "rejected")


def _of_coordination(then: Resource, task: Resource) -> Iterator[str]:
    follows = any(codes.has(given["type"], codes.EVIDENCE, "follows") for given in task.get("input", []))
    if not then["status"] and follows:
        yield "case-reopened"
    read, read_before = (blinding.of_task(each) for each in (task, then))
    state = read.state if read else ""
    if state != (read_before.state if read_before else ""):
        yield _FIRST_READS[state]
    business = workflow.business_status(task)
    if then["status"] and business != workflow.business_status(then) and business in _STAGES:
        yield _STAGES[business]
    held, held_before = (clocks.pause_of(each) if each["status"] else "" for each in (task, then))
    if held and held != held_before:
        yield "case-held"
    elif held_before and not held and not _is_over(task):
        yield "case-resumed"
    if task["status"] != then["status"] and _is_over(task):
        yield f"case-{task['status']}"


def _of_delivery(then: Resource, task: Resource) -> Iterator[str]:
    said, said_before = alignment.evidence(task), alignment.evidence(then)
    business, moved = workflow.business_status(task), task["status"] != then["status"]
    if said.get("replays") != said_before.get("replays"):
        yield "delivery-replayed"
    again = business == "sending" and said.get("send-started") != said_before.get("send-started")
    if business and (again or business != workflow.business_status(then)):
        yield f"delivery-{business}"
    if moved and task["status"] in ("on-hold", "cancelled", "failed"):
        yield "delivery-held" if task["status"] == "on-hold" else f"delivery-{task['status']}"
    if said.get("duplicates") and not said_before.get("duplicates"):
        yield "delivery-duplicated"
    if said.get("ack") and not said_before.get("ack"):
        yield "acknowledged"
    decision = (said.get("decision"), said.get("decision-at"))
    if said.get("decision") and decision != (said_before.get("decision"), said_before.get("decision-at")):
        yield "decided"


def _of_urgent(then: Resource, task: Resource) -> Iterator[str]:
    if not then["status"]:
        yield "urgent-raised"
    elif task["status"] != then["status"] and not urgent.is_open(task):
        yield "urgent-closed"
    elif urgent.step_of(task) > urgent.step_of(then):
        yield "urgent-escalated"


def _of_check(then: Resource, task: Resource) -> Iterator[str]:
    if not then["status"]:
        yield "check-opened"
    answer = checks.said(task, "checked")
    if answer and answer != checks.said(then, "checked"):
        yield f"check-{answer}"
    if checks.said(task, "resolved-at") and not checks.said(then, "resolved-at"):
        yield "check-resolved"


def _of_request(case_id: str, before: Resource | None, request: Resource) -> Iterator[str]:
    if request["id"] == case_id:
        if before is None:
            yield "request-received"
        elif request["status"] != before["status"] and request["status"] in ("completed", "revoked"):
            yield f"request-{request['status']}"
    elif proposals.is_one(request):
        if before is None:
            yield "proposal-made"
            before = request
        if proposals.outcome(request) and proposals.outcome(request) != proposals.outcome(before):
            yield f"proposal-{proposals.outcome(request)['outcome']}"
        if len(proposals.results(request)) > len(proposals.results(before)):
            yield "proposal-result"


def _of_report(case_id: str, before: Resource | None, report: Resource) -> Iterator[str]:
    if report["id"] == derived_id(case_id, "report", "draft"):
        if before is None:
            amends = codes.extension_value(report, codes.AMENDMENT_KIND) is not None
            yield "amendment-drafted" if amends else "report-drafted"
    elif report["id"] == derived_id(case_id, "report"):
        signed_before = before is not None and before["status"] in _SIGNED
        if report["status"] == "preliminary":
            yield "report-preliminary"
        elif report["status"] == "entered-in-error":
            yield "report-retracted"
        elif report["status"] in _SIGNED:
            yield "report-amended" if signed_before else "report-signed"


def _of_question(case_id: str, before: Resource | None, answers: Resource) -> Iterator[str]:
    number = answers.get("item", [{}])[0].get("linkId", "").rpartition("-")[2]
    if before is None and answers["id"] == derived_id(case_id, "follow-up", number):
        yield "question-asked"


def _of_plan(case_id: str, before: Resource | None, plan: Resource) -> Iterator[str]:
    cites = codes.extension_value(plan, codes.CITES_REPORT) is not None
    if before is None and cites and plan["id"] == derived_id(case_id, "plan-of-record", alignment.plan_version(plan)):
        yield "plan-set"


def _of_notice(case_id: str, before: Resource | None, communication: Resource) -> Iterator[str]:
    topic = notices.topic_of(communication)
    if before is None and topic:
        yield f"notice-{topic}"


def _of_consent(case_id: str, before: Resource | None, consent: Resource) -> Iterator[str]:
    if before is None:
        yield "consent-recorded"
    else:
        ended = consent["status"] in ("inactive", "rejected", "entered-in-error")
        yield "consent-withdrawn" if ended and consent["status"] != before["status"] else "consent-changed"


def _of_group(case_id: str, before: Resource | None, group: Resource) -> Iterator[str]:
    # What rules find is no news; what a person says of it is.
    if links.decision(group) != (links.decision(before) if before else ("", "")):
        yield "record-regrouped"


Tells = Callable[[str, Resource | None, Resource], Iterator[str]]
TELLS: Mapping[str, Tells] = {
    "Task": _of_task,
    "ServiceRequest": _of_request,
    "DiagnosticReport": _of_report,
    "QuestionnaireResponse": _of_question,
    "CarePlan": _of_plan,
    "Communication": _of_notice,
    "Consent": _of_consent,
    "Linkage": _of_group,
}
"""By type: the kinds of events that a version of a case tells of, given the case's id and the version before, if any.

Only what the service itself holds of a case is asked about, never a copy from a source.
"""
