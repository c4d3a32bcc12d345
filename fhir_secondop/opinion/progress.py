"""How far a case has come, whom it waits for, and what in it needs a person: read from its Tasks, pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fhir_secondop.model import Resource
from fhir_secondop.opinion import (
    alignment,
    checks,
    clocks,
    codes,
    facts,
    follow_up,
    notices,
    reminders,
    requests,
    urgent,
    workflow,
)
from fhir_secondop.opinion.case import Case

STAGES = {
    "gathering": "Gathering the record",
    "to-assign": "Needs a reviewer",
    "asked": "Reviewer asked",
    "review": "Under review",
    "delivering": "Being delivered",
    "responses": "Waiting for the providers",
    "aligned": "Aligned",
    "closed": "Closed",
}
"""The stages of a case in their order, each in plain words."""

_ENDED = frozenset({"completed", "failed", "cancelled", "rejected"})
# How service.addresses begins what it says of an address that it could not confirm.
_ADDRESS = ("Several addresses", "What answers at")


@dataclass(frozen=True, slots=True)
class Need:
    """Something that waits for a person. `kind` is a key of NEEDS, `task` the id of the Task that it stands on."""

    kind: str
    task: str
    whom: str
    why: str


NEEDS = {
    "urgent": "Somebody must be called now",
    "choose": "Choose another reviewer",
    "overdue": "The due date has passed",
    "confirm": "Who is the patient there?",
    "unknown": "Sent, but the outcome is unknown",
    "to-check": "The chart there seems to contradict",
    "differs": "The copy there differs",
    "address": "The address is not confirmed",
    "held": "A delivery is on hold",
    "hand-over": "A cover sheet must be handed over",
    "not-acknowledged": "Reminded, and still not acknowledged",
    "request": "A gap: hand the request over",
    "arrived": "Something sent needs a look",
    "follow-up": "A follow-up question is open",
}
"""What may need a person, in plain words; in the order in which it is shown."""


def stage(case: Case) -> str:
    """The stage of a case, a key of STAGES."""
    task = case.coordination
    if task["status"] in ("rejected", "failed", "cancelled"):
        return "closed"
    board = alignment.board(case)
    if board is not None:
        if board.aligned:
            return "aligned"
        return "delivering" if any(t["status"] in ("accepted", "in-progress") for t in case.deliveries) else "responses"
    if task["status"] in ("accepted", "ready", "in-progress", "on-hold"):
        return "review"
    if any(t["status"] not in (*_ENDED, "on-hold") for t in case.tasks_of("gather-records")):
        return "gathering"
    return "asked" if any(t["status"] in ("requested", "received") for t in case.reviews) else "to-assign"


def waiting_for(case: Case, now: str) -> tuple[str, ...]:
    """Who has the next move in this stage, and what it is, a line each: "Dr. Ines Placeholder: acknowledgement"."""
    return (*_urgent(case), *_first_moves(case, now), *_follow_ups(case))


def _urgent(case: Case) -> tuple[str, ...]:
    return tuple(f"{urgent.next_of(t)}: urgent call" for t in urgent.of_case(case) if urgent.is_open(t))


def _follow_ups(case: Case) -> tuple[str, ...]:
    count = follow_up.open_count(case)
    asked = "1 follow-up question" if count == 1 else f"{count} follow-up questions"
    return (f"{name_of(case, case.coordination)}: addendum, {asked}",) if count else ()


def _first_moves(case: Case, now: str) -> tuple[str, ...]:
    if now == "gathering":
        open_ = [t for t in case.tasks_of("gather-records") if t["status"] not in _ENDED]
        return tuple(f"{owner_of(t)}: records" for t in open_)
    held = clocks.pause_of(case.coordination)
    if held:
        return (f"On hold: {held}",)
    if now == "to-assign":
        return ("Coordinator: choose a reviewer",)
    if now == "asked":
        asked = [t for t in case.reviews if t["status"] in ("requested", "received")]
        return tuple(f"{name_of(case, t)}: accept or decline" for t in asked)
    if now == "review":
        return (f"{name_of(case, case.coordination)}: report",)
    if now in ("delivering", "responses"):
        board = alignment.board(case)
        return board.waiting_for if board else ()
    return ()


def needs(case: Case, candidates: frozenset[str] = frozenset()) -> list[Need]:
    """What in a case needs the coordinator. `candidates` are the ids of the Tasks for which somebody must be chosen."""
    found = [
        *urgent_needs(case),
        *_of_reviews(case),
        *_of_clocks(case),
        *(need for task in case.tasks_of("gather-records") for need in _of_gathering(task, candidates)),
        *(need for task in case.deliveries for need in _of_delivery(task, candidates)),
        *check_needs(case),
        *_of_reminders(case),
        *(need for task in requests.of_case(case) for need in _of_request(task)),
        *(Need("follow-up", case.coordination["id"], *line.split(": ", 1)) for line in _follow_ups(case)),
    ]
    return sorted(found, key=lambda need: list(NEEDS).index(need.kind))


def urgent_needs(case: Case) -> Iterator[Need]:
    """The calls that must be made now: everybody's business who may be called, and not the coordinator's alone."""
    for task in urgent.of_case(case):
        if urgent.is_open(task):
            yield Need("urgent", task["id"], urgent.next_of(task), f"open since {facts.moment(task['authoredOn'])}")


def check_needs(case: Case) -> Iterator[Need]:
    """What charts were seen to contradict, as long as nobody has looked: of who decides, and of the coordinator."""
    for item in checks.of_case(case):
        if checks.is_open(item):
            yield Need("to-check", item["id"], owner_of(item), item["description"])


def _of_reviews(case: Case) -> Iterator[Need]:
    """Somebody was asked, and nobody is any more: the newest of them, and how it ended."""
    if case.coordination["status"] not in ("requested", "received") or not case.reviews:
        return
    if all(task["status"] in _ENDED for task in case.reviews):
        last = max(case.reviews, key=lambda task: str(task["lastModified"]))
        yield Need("choose", last["id"], name_of(case, last), why_of(last))


def _of_clocks(case: Case) -> Iterator[Need]:
    task = case.coordination
    if task["status"] in _ENDED:
        return
    for notice in notices.of_case(case, notices.OVERDUE):
        yield Need("overdue", task["id"], name_of(case, task) or "No reviewer", notices.text_of(notice))


def _of_gathering(task: Resource, candidates: frozenset[str]) -> Iterator[Need]:
    if task["status"] == "on-hold" and task["id"] in candidates:
        yield Need("confirm", task["id"], owner_of(task), why_of(task))


def _of_delivery(task: Resource, candidates: frozenset[str]) -> Iterator[Need]:
    held = alignment.held(task)
    if held.rung == "10" and task["status"] == "completed" and held.ack == "none":
        yield Need("hand-over", task["id"], owner_of(task), "nothing can be sent there; print it, hand it over")
    if task["status"] != "on-hold":
        return
    why = why_of(task)
    kind = "held"
    if task["id"] in candidates:
        kind = "confirm"
    elif held.copy == "mismatch":
        kind = "differs"
    elif held.sent == "unknown":
        kind = "unknown"
    elif why.startswith(_ADDRESS):
        kind = "address"
    yield Need(kind, task["id"], owner_of(task), why)


def _of_reminders(case: Case) -> Iterator[Need]:
    for missing in reminders.missing(case):
        reminder = reminders.sent(case, missing)
        if reminder is not None:
            said = f"not acknowledged since {facts.moment(missing.since)}, reminded {facts.moment(reminder['sent'])}"
            yield Need("not-acknowledged", missing.task, missing.person.name, f"version {missing.version} {said}")


def _of_request(task: Resource) -> Iterator[Need]:
    if task["status"] == "requested":
        said = f"{requests.title_of(task)}, by {requests.channel_of(task)}"
        yield Need("request", task["id"], owner_of(task), said)
    elif task["status"] == "on-hold":
        yield Need("arrived", task["id"], owner_of(task), why_of(task))


def why_of(task: Resource) -> str:
    """Why a Task stands as it does, in the Task's own words."""
    reason = task.get("statusReason", {})
    return str(reason.get("text") or codes.code_of(reason, codes.STATUS_REASON) or "")


def owner_of(task: Resource) -> str:
    """Whose Task it is, as the Task names it."""
    return str(task.get("owner", {}).get("display", ""))


def name_of(case: Case, task: Resource) -> str:
    """Whose Task it is, by name; the Task itself may only refer."""
    person = case.directory.person(task.get("owner", {}).get("reference", ""))
    return person.name if person else owner_of(task)


def business(case: Case) -> str:
    """The business status of the case, a code."""
    return workflow.business_status(case.coordination)
