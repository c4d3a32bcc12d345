"""Who reviews: asked, accepted, declined, withdrawn, and how independent. Each is one transaction."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from fhir_secondop.access import rights
from fhir_secondop.errors import Conflict, Invalid, NotFound
from fhir_secondop.fhir import refs, times
from fhir_secondop.model import EVERYTHING, Caller, Resource
from fhir_secondop.opinion import codes, facts, independence, intake_json, participation, records, third, workflow
from fhir_secondop.opinion.case import Case, derived_id, profile, reference
from fhir_secondop.opinion.compose import compose
from fhir_secondop.opinion.independence import Assessment, Declaration
from fhir_secondop.opinion.people import Directory, Person, identifiers
from fhir_secondop.service import audience, blinding, clocks
from fhir_secondop.service.context import (
    Context,
    case_of_task,
    draft_case,
    drop_draft,
    load,
    put,
    put_all,
    urgent_zone,
    who,
)
from fhir_secondop.store import resources
from fhir_secondop.store.database import Transaction

Plain = dict[str, Any]


@cache
def schema(name: str) -> dict[str, Any]:
    """A published JSON Schema of profiles/schemas."""
    text = (files("fhir_secondop.profiles") / "schemas" / f"{name}.json").read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def review_of(case: Case, reference_: str) -> Resource | None:
    """The newest review Task of that reviewer under the current coordination Task."""
    coordination = case.coordination
    for task in reversed(case.reviews):
        part_of = task["partOf"][0]["reference"]
        if task.get("owner", {}).get("reference") == reference_ and part_of == reference(coordination):
            return task
    return None


def reviewer_resources(case: Case, plain: Plain) -> list[Resource]:
    """Organization, Practitioner and PractitionerRole; those of the case with the same identifier are used again."""
    made: dict[str, Resource] = {}
    key = plain.get("npi") or plain["family"]
    organization = plain["organization"]
    made["organization/reviewer"] = compose(
        "Organization",
        identifier=[organization["identifier"]] if "identifier" in organization else None,
        name=organization["name"],
    )
    intake_json.add_provider(made.__setitem__, "reviewer", {**plain, "organization": "reviewer"})
    ids = {intake_json.urn(name): (resource["resourceType"], derived_id(case.id, "reviewer", key, name))
           for name, resource in made.items()}  # fmt: skip
    known = _same_organization(case, organization)
    if known:
        ids[intake_json.urn("organization/reviewer")] = ("Organization", known)

    def cite(url: str) -> str | None:
        return "/".join(ids[url]) if url in ids else None

    return [
        {**refs.rewritten(resource, cite), "id": ids[intake_json.urn(name)][1]}
        for name, resource in made.items()
        if not (known and resource["resourceType"] == "Organization")
    ]


def _same_organization(case: Case, organization: Plain) -> str:
    wanted = organization.get("identifier")
    for known in case.of_type("Organization"):
        if wanted and any(
            i.get("system") == wanted["system"] and i.get("value") == wanted["value"]
            for i in known.get("identifier", [])
        ):
            return str(known["id"])
    return ""


def _declaration(plain: Plain) -> Declaration | None:
    said = plain.get("declaration")
    if said is None:
        return None
    return Declaration(said.get("interests", ""), tuple(map(str, said.get("participated", []))))


def assess(
    case: Case, reviewer: Person, declaration: Declaration | None, same_organization: str = "warn"
) -> Assessment:
    """The independence of a reviewer from the authors of what is under review and from earlier reviewers.

    The case must have been loaded with the record for "treated the patient before" to be seen.
    """
    earlier = [
        person
        for task in case.reviews
        if task["status"] in ("accepted", "in-progress", "completed", "failed")
        and (person := case.directory.person(task.get("owner", {}).get("reference", ""))) is not None
        and person.key != reviewer.key
    ]
    treated = {
        identifier
        for resource in records.gathered_resources(case)
        if resource["resourceType"] == "Practitioner"
        for identifier in identifiers(resource)
    }
    elsewhere = [p for p in map(case.directory.person, third.earlier(case)) if p is not None]
    others = [*case.authors, *earlier, *elsewhere]
    found = independence.assess(
        reviewer, others, declaration, frozenset(treated), participation.identifiers_of(case), same_organization
    )
    unnamed = [
        # By its number: who reviews blind reads this before knowing what the item is.
        independence.Finding("unknown", "nobody is named as author of an item under review", f"item {number}")
        for number, item in enumerate(case.items, 1)
        if not case.authors_of(item)
    ]
    return Assessment((*found.findings, *unnamed))


def independence_of(context: Context, caller: Caller, case_id: str, plain: Plain) -> Assessment:
    """What `$accept` would find, without accepting."""
    with context.database.reading() as connection:
        case = load(connection, context.visibility(caller), case_id, gathered=True)
    composed = reviewer_resources(case, plain["reviewer"])
    person = Directory([*case.resources, *composed]).person(reference(composed[-1]))
    if person is None:
        raise Invalid("Say who the reviewer is.", path="reviewer")
    return assess(case, person, _declaration(plain), context.same_organization)


def accept(context: Context, caller: Caller, case_id: str, plain: Plain) -> Resource:
    """The reviewer who was asked takes the case: the review Task and the coordination Task move to accepted together.

    Raises Conflict when barred or when somebody else has it, Invalid when a reason or an attestation is missing.
    """
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id)
        task = _own_review(case, caller)
        if task["status"] == "accepted":
            return task
        blinding.require_blindable(caller, case)
        accepted = workflow.moved(task, "accepted", context.instant())
        return take(
            tx, context, case, accepted, _declaration(plain), plain.get("attestation", ""), plain.get("override", "")
        )


def take(
    tx: Transaction, context: Context, case: Case, accepted: Resource, declaration: Declaration | None,
    attestation: str, override: str,
) -> Resource:  # fmt: skip
    """What follows when a review Task is accepted, in the same transaction; the Task as it then stands."""
    until = accepted.get("restriction", {}).get("period", {}).get("end", "")
    if until and times.interval(until).low <= context.now():
        raise Conflict(f"The time to answer was over at {facts.moment(until)}; ask the coordinator.")
    person = case.directory.person(accepted["owner"]["reference"])
    if person is None:
        raise Invalid("The reviewer of this Task is not known.", path="Task.owner")
    # With the record: who treated the patient stands there.
    whole = load(tx.connection, EVERYTHING, case.id, gathered=True)
    assessment = assess(whole, person, declaration, context.same_organization)
    independence.admit(assessment, attestation=attestation, override=override)
    now = context.instant()
    stated = independence.extension(assessment, attestation=attestation, override=override)
    accepted = {**accepted, "extension": [stated]}
    both = workflow.moved(case.coordination, "accepted", now)
    kept = [ext for ext in both.get("extension", []) if ext["url"] != codes.INDEPENDENCE]
    both = {**both, "owner": {"reference": person.reference, "display": person.name}, "extension": [*kept, stated]}
    put_all(tx, context, case.id, [accepted, both])
    for other in case.reviews:
        if other["id"] != accepted["id"] and other["status"] in ("requested", "received"):
            put(tx, context, case.id, workflow.moved(other, "cancelled", now, reason="not-selected"))
            lost = case.directory.person(other["owner"]["reference"])
            audience.dismiss(tx, case, lost.identifiers if lost else frozenset())
    put(tx, context, case.id, {**case.encounter, "participant": _participants(case, person)})
    for part in (case.id, draft_case(case.id), urgent_zone(case.id)):  # no longer until a time limit only
        audience.admit(tx, part, person.identifiers)
    clocks.accepted(tx, context, case.id, person.name)
    return accepted


def begin(tx: Transaction, context: Context, case: Case, business: str) -> None:
    """The reviewer begins: the review Task and the coordination Task move to in-progress together."""
    task = case.coordination
    mine = review_of(case, task["owner"]["reference"])
    put(tx, context, case.id, workflow.moved(task, "in-progress", context.instant(), business=business))
    if mine is not None:
        put(tx, context, case.id, workflow.moved(mine, "in-progress", context.instant()))


def _participants(case: Case, reviewer: Person) -> list[Resource]:
    people = [("CON", "consultant", reviewer.reference)]
    if case.requester is not None:
        people.append(("REF", "referrer", case.requester.reference))
    return [
        {"type": [codes.concept(codes.PARTICIPATION, code, display)], "individual": {"reference": ref}}
        for code, display, ref in people
    ]


def decline(context: Context, caller: Caller, case_id: str, plain: Plain) -> Resource:
    """A reviewer who was asked says no, with a reason: its Task is rejected, the case stays open."""
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id)
        task = _own_review(case, caller)
        declined = workflow.moved(task, "rejected", context.instant(), reason=plain["reason"],
                                  reason_text=plain.get("text", ""))  # fmt: skip
        put(tx, context, case_id, declined)
        audience.dismiss(tx, case, _identifiers(case, task))
        return declined


def withdraw(context: Context, caller: Caller, case_id: str, plain: Plain) -> Resource:
    """A reviewer who had accepted steps back: both Tasks fail, and a new coordination Task opens for the next."""
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id)
        return open_again(tx, context, case, _own_review(case, caller), plain)


def open_again(tx: Transaction, context: Context, case: Case, task: Resource, plain: Plain) -> Resource:
    """The case without the reviewer who had accepted it; that one's Task, which has failed."""
    now, old = context.instant(), case.coordination
    failed = [
        workflow.moved(t, "failed", now, reason=plain["reason"], reason_text=plain.get("text", "")) for t in (task, old)
    ]
    number = 1 + sum(1 for t in case.of_type("Task") if workflow.is_coordination(t))
    kept = ("identifier", "intent", "priority", "code", "businessStatus", "focus", "for", "requester", "restriction")
    opened = compose(
        "Task",
        meta=profile("coordination-task"),
        **{name: old.get(name) for name in kept},
        id=derived_id(case.id, "coordination", number),
        status="requested",
        authoredOn=now,
        lastModified=now,
        input=[{"type": codes.concept(codes.EVIDENCE, "follows"), "valueReference": {"reference": reference(old)}}],
    )
    if blinding.is_blind(case):
        opened = blinding.begun(opened)
    put_all(tx, context, case.id, [*failed, opened])
    if blinding.is_blind(case):  # what was said by phone in the round that ends is not for who reads blind next
        blinding.mark(tx, load(tx.connection, EVERYTHING, case.id, gathered=True))
    audience.dismiss(tx, case, _identifiers(case, task))
    drop_draft(tx, case.id)
    return failed[0]


def _identifiers(case: Case, review: Resource) -> frozenset[str]:
    """Of the reviewer whose Task that is."""
    person = case.directory.person(review.get("owner", {}).get("reference", ""))
    return person.identifiers if person else frozenset()


def _own_review(case: Case, caller: Caller) -> Resource:
    for task in reversed(case.reviews):
        person = case.directory.person(task.get("owner", {}).get("reference", ""))
        if person is not None and rights.acts_as(caller, person.identifiers):
            return task
    raise NotFound("You were not asked to review this case.")


def _may_cancel(caller: Caller, case: Case, task: Resource) -> None:
    """Raises Forbidden or Conflict: the placer may cancel the case, the coordinator that and a review."""
    requester = case.requester
    is_placer = requester is not None and rights.acts_as(caller, requester.identifiers)
    if not (workflow.is_coordination(task) and is_placer):
        rights.require_role(caller)
    if workflow.is_urgent(task):
        raise Conflict("An urgent contact is closed by a recorded conversation only: use record-call.")
    if workflow.is_carried(task):
        raise Conflict("Its workflow carries this Task on; it is not cancelled by hand.")


def has_case(case: Case, review: Resource) -> bool:
    """Whether this is the review under way: the one that was accepted, of the current coordination Task."""
    under_way = review["status"] in ("accepted", "ready", "in-progress", "on-hold")
    return under_way and review["partOf"][0]["reference"] == reference(case.coordination)


def held_from_of(versions: list[resources.Stored]) -> str:
    """The state that a Task on hold came from: the last one before it that was another. Newest version first."""
    return next((v.resource["status"] for v in versions[1:] if v.resource["status"] != "on-hold"), "")


def cancel(context: Context, caller: Caller, task_id: str, plain: Plain) -> Resource:
    """Cancels a Task that has not begun; one in progress gets an abort Task, which its owner must act on.

    A review that was accepted ends as if its reviewer had withdrawn: the case is open for the next.
    """
    with context.database.transaction(caller) as tx:
        case_id, stored = case_of_task(tx.connection, context.visibility(caller), task_id)
        task, now = stored.resource, context.instant()
        case = load(tx.connection, EVERYTHING, case_id)
        _may_cancel(caller, case, task)
        if workflow.is_review(task) and has_case(case, task):
            return open_again(tx, context, case, task, plain)
        held_from = held_from_of(resources.history(tx.connection, EVERYTHING, "Task", task_id))
        if "in-progress" not in (task["status"], held_from if task["status"] == "on-hold" else ""):
            cancelled = workflow.moved(task, "cancelled", now, reason=plain["reason"],
                                       reason_text=plain.get("text", ""), held_from=held_from)  # fmt: skip
            put(tx, context, case_id, cancelled)
            ended = case.reviews if workflow.is_coordination(task) else [task] if workflow.is_review(task) else []
            for review in ended:
                audience.dismiss(tx, case, _identifiers(case, review))
            return cancelled
        abort = compose(
            "Task",
            id=derived_id(case_id, "abort", task_id),
            status="requested",
            intent="order",
            code=codes.concept(codes.TASK_CODE, "abort"),
            focus={"reference": f"Task/{task_id}"},
            partOf=[{"reference": f"Task/{task_id}"}],
            for_=task["for"],
            authoredOn=now,
            lastModified=now,
            requester=who(caller),
            owner=task.get("owner"),
            reasonCode=codes.concept(codes.STATUS_REASON, plain["reason"], text=plain.get("text", "")),
        )
        put(tx, context, case_id, abort)
        return abort
