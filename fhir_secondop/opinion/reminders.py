"""Who has the current version of the report and has not acknowledged it, and since when: pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fhir_secondop.fhir import times
from fhir_secondop.model import Resource
from fhir_secondop.opinion import alignment, notices
from fhir_secondop.opinion.case import Case
from fhir_secondop.opinion.clocks import Policy
from fhir_secondop.opinion.people import Person

_LINK = "10"


@dataclass(frozen=True, slots=True)
class Missing:
    """An acknowledgement that has not come: of whom, of which version, on which delivery Task.

    `since` is the FHIR instant at which the copy was verified, or the link issued.
    """

    person: Person
    version: int
    task: str
    since: str


def missing(case: Case) -> Iterator[Missing]:
    """Those whose acknowledgement the case waits for, and everybody who has nothing but a link: that alone shows that
    it arrived.
    """
    board = alignment.board(case)
    for row in board.rows if board else ():
        by_link = row.held.rung == _LINK and row.held.status == "unverifiable"
        has_it = row.held.copy == "verified" or by_link
        if not has_it or row.held.ack != "none" or not (by_link or "ack" in row.required):
            continue
        task = _task(case, row.member.person, row.held.version)
        if task is not None:
            said = alignment.evidence(task)
            since = said.get("issued-at" if by_link else "read-at", "")
            yield Missing(row.member.person, row.held.version, task["id"], since or str(task["lastModified"]))


def _task(case: Case, person: Person, version: int) -> Resource | None:
    mine = (t for t in case.tasks_of("deliver-report") if t.get("owner", {}).get("reference") == person.reference)
    return next((t for t in mine if alignment.version_of(t) == version and t["status"] == "completed"), None)


def due(one: Missing, policy: Policy) -> int:
    """When that person is to be reminded (ms since 1970): by the site's calendar, where business days are meant."""
    since = moment(one)
    if not policy.remind_after.business:
        return since + policy.remind_after.ms
    return max(since, policy.calendar.moment(policy.calendar.position(since) + policy.remind_after.ms))


def moment(one: Missing) -> int:
    """Since when the person has it, in ms since 1970."""
    return times.interval(one.since).low


def due_before(policy: Policy, now: int) -> int:
    """What was there at that instant or before has to be reminded of by `now`; both in ms since 1970."""
    if not policy.remind_after.business:
        return now - policy.remind_after.ms
    return policy.calendar.moment(policy.calendar.position(now) - policy.remind_after.ms)


def sent(case: Case, one: Missing) -> Resource | None:
    """The reminder that was sent of it, or None."""
    wanted = notices.reminder_id(case, one.person, one.version)
    return next((n for n in notices.of_case(case, notices.NOT_ACKNOWLEDGED) if n["id"] == wanted), None)
