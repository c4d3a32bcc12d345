"""Who is asked to review: one or several at once, until when; what follows when nobody answers; the case reassigned."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fhir_secondop.access import rights
from fhir_secondop.errors import Conflict, Invalid
from fhir_secondop.fhir import times
from fhir_secondop.model import EVERYTHING, Caller, Resource
from fhir_secondop.opinion import directory as entries
from fhir_secondop.opinion import facts, workflow
from fhir_secondop.opinion.case import Case, reference, review_task
from fhir_secondop.opinion.people import Person
from fhir_secondop.service import audience, blinding, directory, review
from fhir_secondop.service.context import SERVICE, Context, load, put, put_all
from fhir_secondop.store import resources
from fhir_secondop.store.database import Transaction

Plain = dict[str, Any]
WORKFLOW = "answer-by"
_OPEN = ("requested", "received")


def ask(context: Context, caller: Caller, case_id: str, plain: Plain) -> list[Resource]:
    """The coordinator asks reviewers: a Task for each, who sees the case from now on, until `answerBy` or without end.

    Whoever is asked already keeps the Task that is open. Raises Conflict when somebody has the case, or is barred.
    """
    rights.require_role(caller)
    with context.database.transaction(caller) as tx:
        return _ask(tx, context, load(tx.connection, context.visibility(caller), case_id), plain)


def reassign(context: Context, caller: Caller, case_id: str, plain: Plain) -> list[Resource]:
    """The coordinator takes the case from the reviewer who has it, and may ask the next in the same act.

    The reviewer's Task fails with the reason, its draft and its access end at once. Raises Conflict when nobody has it.
    """
    rights.require_role(caller)
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id)
        task = next((t for t in case.reviews if review.has_case(case, t)), None)
        if task is None:
            raise Conflict(f"Nobody has the case: it is {case.coordination['status']}. Use ask-reviewer.")
        failed = review.open_again(tx, context, case, task, plain)
        if not ("reviewer" in plain or plain.get("candidates")):
            return [failed]
        return [failed, *_ask(tx, context, load(tx.connection, EVERYTHING, case_id), plain)]


def _ask(tx: Transaction, context: Context, case: Case, plain: Plain) -> list[Resource]:
    until = _until(context, plain)
    asked = []
    for copied, path in _wanted(tx, case, plain):
        known = {reference(r) for r in case.resources}
        fresh = [r for r in copied if reference(r) not in known]
        put_all(tx, context, case.id, fresh)
        case = Case(case.id, [*case.resources, *fresh])
        person = case.directory.person(reference(copied[-1]))
        if person is None:
            raise Invalid("Say who the reviewer is.", path=path)
        asked.append(_asked(tx, context, case, person, path, until))
    return asked


def _wanted(tx: Transaction, case: Case, plain: Plain) -> Iterator[tuple[list[Resource], str]]:
    """For each who is to be asked: what the case gets of them (the role last), and where they were named."""
    named = list(dict.fromkeys(plain.get("candidates", [])))
    if not named and "reviewer" not in plain:
        raise Invalid("Name candidates of the directory, or a reviewer.", path="candidates")
    if "reviewer" in plain:
        yield review.reviewer_resources(case, plain["reviewer"]), "reviewer"
    listed = directory.read(tx.connection) if named else []
    known = set(entries.candidates(listed))
    for place, ref in enumerate(named):
        if ref not in known:
            raise Invalid("There is no such candidate in the directory; $match-reviewer lists them.",
                          path=f"candidates[{place}]")  # fmt: skip
        yield entries.copied(case, listed, ref), f"candidates[{place}]"


def _asked(tx: Transaction, context: Context, case: Case, person: Person, path: str, until: int | None) -> Resource:
    earlier = [t for t in case.reviews if t["owner"]["reference"] == person.reference
               and t["partOf"][0]["reference"] == reference(case.coordination)]  # fmt: skip
    standing = next((t for t in earlier if t["status"] in _OPEN or review.has_case(case, t)), None)
    if standing is not None:
        return standing
    status = case.coordination["status"]
    if status not in _OPEN:
        raise Conflict(f"The case is {status}; nobody can be asked now.")
    if review.assess(case, person, None).result == "barred":
        raise Conflict(f"{person.name} is an author of what is under review; ask somebody else.", path=path)
    ends = times.instant(until) if until is not None else ""
    task = review_task(
        case.id, case.coordination, person.reference, context.instant(), until=ends, number=1 + len(earlier)
    )
    put(tx, context, case.id, task)
    audience.admit(tx, case.id, person.identifiers, until_ms=until)
    blinding.admit(tx, case, person)
    enqueue(tx, context, task)
    return task


def _until(context: Context, plain: Plain) -> int | None:
    if "answerBy" not in plain:
        return None
    until = times.interval(plain["answerBy"]).high
    if until <= context.now():
        raise Invalid("The time to answer would be over already.", path="answerBy")
    return until


def enqueue(tx: Transaction, context: Context, task: Resource, number: int = 1) -> None:
    """The workflow that ends a request when its time is over; none where it has no end."""
    ends = _end(task)
    if ends is not None:
        wait = max(0.0, (ends - context.now()) / 1000)
        context.enqueue(tx, WORKFLOW, f"answer-by-{task['id']}-{number}", WORKFLOW, task["id"], number, delay_s=wait)


def _end(task: Resource) -> int | None:
    end = task.get("restriction", {}).get("period", {}).get("end")
    return times.interval(end).low if end else None


def expire(context: Context, task_id: str, number: int) -> str:
    """Ends a request that nobody has answered in time: cancelled with the reason, and its candidate sees no more."""
    with context.database.transaction(SERVICE) as tx:
        stored = resources.read(tx.connection, EVERYTHING, "Task", task_id)
        task, ends = stored.resource, _end(stored.resource)
        if task["status"] not in _OPEN or ends is None or stored.case_id is None:
            return "ended"
        if ends > context.now():  # another machine's clock is ahead of ours
            enqueue(tx, context, task, number + 1)
            return "later"
        said = f"no answer by {facts.moment(times.instant(ends))}"
        ended = workflow.moved(task, "cancelled", context.instant(), reason="reviewer-unavailable", reason_text=said)
        put(tx, context, stored.case_id, ended)
        case = load(tx.connection, EVERYTHING, stored.case_id)
        person = case.directory.person(task["owner"]["reference"])
        audience.dismiss(tx, case, person.identifiers if person else frozenset())
        return "cancelled"
