"""What happened in a case and how we know: from the versions of its Tasks and from its Provenance, pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fhir_secondop.model import Resource
from fhir_secondop.opinion import (
    alignment,
    checks,
    clocks,
    codes,
    eligibility,
    notices,
    progress,
    proposals,
    report,
    requests,
    urgent,
    workflow,
)
from fhir_secondop.opinion.case import Case, derived_id, reference, versioned


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened at `at` (a FHIR instant). `evidence` cites the version of the resource that says so."""

    at: str
    what: str
    evidence: str
    detail: str = ""


_COPIES = {
    "verified": "the copy there was read back and is the same",
    "mismatch": "the copy there differs",
    "unverifiable": "the copy there can not be read back",
}
_DECISIONS = {
    "adopt": "adopt the second opinion", "adopt-in-part": "adopt it in part", "keep-current": "keep the current plan",
    "seek-third-opinion": "seek a third opinion", "patient-declined": "the patient declined",
}  # fmt: skip


def events(case: Case, histories: Iterable[Sequence[Resource]]) -> list[Event]:
    """Every event of a case, oldest first. `histories` are the versions of each of its Tasks, each oldest first."""
    found = [event for versions in histories for event in _of_task(case, versions)]
    found += _of_provenance(case)
    found += map(_of_notice, notices.of_case(case))
    return sorted(found, key=lambda event: event.at)


def _of_notice(notice: Resource) -> Event:
    """That somebody was told. What who decides was told is for them; the rest is for everybody of the case."""
    topic = notices.topic_of(notice)
    return Event(notice["sent"], _NOTICES[topic], versioned(notice),
                 notices.text_of(notice) if topic in _SAID else "")  # fmt: skip


def _of_task(case: Case, versions: Sequence[Resource]) -> Iterator[Event]:
    before: Resource = {"status": ""}
    for task in versions:
        at = task.get("lastModified") or task["authoredOn"]
        for what, detail in _changes(case, before, task):
            yield Event(at, what, versioned(task), detail)
        before = task


def _changes(case: Case, before: Resource, task: Resource) -> Iterator[tuple[str, str]]:
    """What one version of a Task says that the one before did not, in words, with a detail."""
    if workflow.is_coordination(task):
        yield from _of_coordination(case, before, task)
    elif workflow.is_delivery(task):
        yield from _of_delivery(before, task)
    elif workflow.is_urgent(task):
        yield from _of_urgent(before, task)
    elif workflow.is_check(task):
        yield from _of_check(before, task)
    elif before["status"] != task["status"]:
        why = progress.why_of(task)
        if workflow.is_review(task):
            said = _REVIEWS.get(task["status"])
        elif codes.has(task.get("code"), codes.TASK, "gather-records"):
            said = _GATHERINGS.get(task["status"])
        elif codes.has(task.get("code"), requests.CDEX, requests.CODE):
            said = _REQUESTS.get(task["status"])
            why = why or f"{requests.title_of(task)}, by {requests.channel_of(task)}"
        elif codes.has(task.get("code"), codes.TASK, eligibility.CODE):
            said = _COVERAGES.get(task["status"])
        else:
            said = None
        if said:
            yield said.format(progress.name_of(case, task)), why


def _of_urgent(before: Resource, task: Resource) -> Iterator[tuple[str, str]]:
    if not before["status"]:
        yield f"Something critical was seen; {progress.owner_of(task)} is to be called", task["description"]
    elif task["status"] != before["status"]:
        yield "The urgent conversation was recorded", ""
    elif urgent.step_of(task) > urgent.step_of(before):
        yield "Nobody was reached; the urgent contact escalated", f"to be called: {urgent.next_of(task)}"


def _of_check(before: Resource, task: Resource) -> Iterator[tuple[str, str]]:
    if not before["status"]:
        yield "A chart seems to contradict; somebody is to look", task["description"]
    elif checks.said(task, "checked") and not checks.said(before, "checked"):
        diverges = checks.said(task, "checked") == checks.DIVERGED
        said = "the chart diverges" if diverges else "it does not contradict"
        yield f"{checks.said(task, 'checked-by')} looked: {said}", checks.said(task, "checked-why")
    elif checks.said(task, "resolved-at") and not checks.said(before, "resolved-at"):
        yield "A chart does not contradict any more", checks.said(task, "resolved-why")


_REVIEWS = {
    "requested": "{} was asked to review", "accepted": "{} accepted the review", "rejected": "{} declined the review",
    "failed": "{} stepped back", "cancelled": "{} is no longer asked",
}  # fmt: skip
_GATHERINGS = {
    "requested": "The record was asked for at {}", "completed": "The record came from {}",
    "failed": "No record could be had from {}", "on-hold": "At {} a person must say who the patient is",
}  # fmt: skip
_COVERAGES = {
    "requested": "{} was asked whether it covers this", "completed": "{} answered whether it covers this",
    "failed": "Whether {} covers this is not known", "rejected": "Whether {} covers this could not be asked",
}  # fmt: skip
_REQUESTS = {
    "requested": "{} was asked for something missing", "completed": "What {} was asked for has come",
    "on-hold": "What {} was asked for needs a look",
}  # fmt: skip
_SAID = (notices.OVERDUE, notices.PROPOSAL_ENDED, notices.RESULT)
_NOTICES = {
    "accepted": "Who decides was told of the acceptance", "overdue": "The due date has passed",
    "due-after-deadline": "Who decides was told that it is due after the deadline",
    "proposal-ended": "The reviewer was told what became of a proposal",
    "result-arrived": "The reviewer was told of a result",
    "not-acknowledged": "Somebody was reminded to acknowledge the report",
}  # fmt: skip
_STATES = {
    "records-incomplete": "The record is in, with gaps", "records-complete": "The record is complete",
    "report-final": "The report is final", "visit-scheduled": "A visit was booked",
    "visit-unattended": "The patient did not come to the visit", "visit-complete": "The visit has taken place",
}  # fmt: skip


def _of_coordination(case: Case, before: Resource, task: Resource) -> Iterator[tuple[str, str]]:
    if not before["status"]:
        asked = case.requester.name if case.requester else "the patient"
        yield "The request was taken in", f"asked by {asked}"
        return
    business = workflow.business_status(task)
    if business != workflow.business_status(before) and business in _STATES:
        yield _STATES[business], ""
    held, held_before = clocks.pause_of(task), clocks.pause_of(before)
    if held and held != held_before:
        yield "The case was put on hold", held
    elif held_before and not held:
        yield "The case goes on", f"it was on hold: {held_before}"
    if task["status"] != before["status"] and task["status"] in ("rejected", "failed", "cancelled"):
        yield f"The case was {task['status']}", progress.why_of(task)


def _of_delivery(before: Resource, task: Resource) -> Iterator[tuple[str, str]]:
    then, now = alignment.evidence(before), alignment.evidence(task)
    whom, thing = progress.owner_of(task), thing_of(task)
    if task["status"] != before["status"]:
        if task["status"] == "completed" and now.get("rung") == "10":
            yield f"A link to {thing} was made for {whom}", "nothing can be sent there"
        elif task["status"] == "completed":
            yield f"{thing.capitalize()} is at {whom}", f"{_COPIES.get(now.get('copy', ''), '')}, {now.get('how', '')}"
        elif task["status"] == "on-hold":
            yield f"The delivery of {thing} to {whom} is on hold", progress.why_of(task)
        elif task["status"] == "cancelled":
            yield f"The delivery of {thing} to {whom} was called off", progress.why_of(task)
    if now.get("replays") != then.get("replays"):
        yield f"The delivery of {thing} to {whom} was tried again", now.get("replayed-by", "")
    if now.get("ack") and not then.get("ack"):
        yield f"{now.get('ack-by', whom)} acknowledged {thing}", "by link" if now["ack"] == "link" else "signed in"
    if now.get("decision") and (now.get("decision"), now.get("decision-at")) != (
        then.get("decision"), then.get("decision-at"),
    ):  # fmt: skip
        yield f"{whom} decided: {_DECISIONS.get(now['decision'], now['decision'])}", now.get("decision-comment", "")


def thing_of(task: Resource) -> str:
    """What a delivery carries: "report version 2"."""
    kind = (codes.code_of(task["code"], codes.TASK) or "").removeprefix("deliver-")
    name = "plan of record" if kind == "plan" else kind
    return f"{name} version {alignment.version_of(task)}"


def _of_provenance(case: Case) -> Iterator[Event]:
    """What no Task says: signatures, plans of record, and what was linked or taken apart by hand."""
    newest = report.version_of(case.report) if case.report else 0
    signatures = {derived_id(case.id, "provenance", "report", n): n for n in range(1, newest + 1)}
    for act in case.of_type("Provenance"):
        reason = next((r.get("text", "") for r in act.get("reason", [])), "")
        by = next((a["who"].get("display", "") for a in act.get("agent", []) if "identifier" in a["who"]), "")
        target = act["target"][0]["reference"]
        if act["id"] in signatures:
            yield Event(act["recorded"], f"{by} signed report version {signatures[act['id']]}", reference(act), reason)
        elif target.startswith("Linkage/"):
            yield Event(act["recorded"], f"{by} changed how copies of the record are grouped", reference(act), reason)
        elif reason == "a person said who the patient is there":
            yield Event(act["recorded"], f"{by} said who the patient is at a source", reference(act))
    for one in proposals.of_case(case):
        person = case.directory.person(one["requester"]["reference"])
        yield Event(one["authoredOn"], f"{person.name if person else 'The reviewer'} proposed something",
                    versioned(one), proposals.stated(one)[1])  # fmt: skip
    for plan in case.of_type("CarePlan"):
        if codes.extension_values(plan, codes.CITES_REPORT):
            author = case.directory.person(plan.get("author", {}).get("reference", ""))
            name = author.name if author else "The decision owner"
            yield Event(plan["created"], f"{name} set the plan of record", versioned(plan), plan.get("description", ""))
