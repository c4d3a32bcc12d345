"""What the providers do: acknowledge, decide, set the plan of record; and the board that shows where each stands."""

from __future__ import annotations

import base64
from typing import Any

from fhir_secondop.access import rights
from fhir_secondop.ehr import ladder
from fhir_secondop.ehr.documents import URI, attachment
from fhir_secondop.errors import Conflict, Forbidden, Gone, Invalid, NotFound
from fhir_secondop.fhir import times
from fhir_secondop.model import EVERYTHING, Caller, Resource
from fhir_secondop.opinion import alignment, codes, facts, planned, records, render, report
from fhir_secondop.opinion.alignment import Board
from fhir_secondop.opinion.case import Case, Member, derived_id, profile, reference
from fhir_secondop.opinion.compose import compose
from fhir_secondop.service import deliverables, sensitivity, tokens
from fhir_secondop.service.context import SERVICE, Context, case_of_task, load, put
from fhir_secondop.service.delivering import orders
from fhir_secondop.service.delivering.job import actors
from fhir_secondop.store.database import Transaction

Plain = dict[str, Any]
LINK_DAYS = 90
_DAY_MS = 86_400_000


def acknowledge(context: Context, caller: Caller, case_id: str, plain: Plain) -> Resource:
    """The caller acknowledges a version of the report or the plan, for itself and for nobody else.

    Acknowledging the same version again changes nothing.
    """
    kind = plain.get("what", "report")
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id)
        member = _member(case, caller)
        task = _delivery(case, member, kind, plain["version"])
        return _record(tx, context, case, task, {"ack": "signed-in", "ack-by": member.person.name})


def _record(tx: Transaction, context: Context, case: Case, task: Resource, said: dict[str, str]) -> Resource:
    if alignment.evidence(task).get("ack"):
        return task
    after = alignment.with_evidence(task, {**said, "ack-at": context.instant()})
    after["lastModified"] = context.instant()
    put(tx, context, case.id, after)
    return after


def _member(case: Case, caller: Caller) -> Member:
    for member in case.audience:
        if rights.acts_as(caller, member.person.identifiers):
            return member
    raise Forbidden("Only a recipient of this case may do this, and only for itself.")


def _delivery(case: Case, member: Member, kind: str, version: int) -> Resource:
    mine = [t for t in case.tasks_of(f"deliver-{kind}") if t["owner"].get("reference") == member.person.reference]
    task = next((t for t in mine if alignment.version_of(t) == version), None)
    if task is None or task["status"] == "cancelled":
        raise NotFound(f"There is no version {version} of the {kind} for you.")
    newest = max(map(alignment.version_of, mine))
    if newest != version:
        raise Conflict(f"Version {version} was replaced by version {newest}; read and acknowledge that one.")
    return task


def decide(context: Context, caller: Caller, case_id: str, plain: Plain) -> Resource:
    """The caller's decision on a version of the report; a later one replaces it, the history keeps both."""
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id)
        _standing(case)
        task = _delivery(case, _member(case, caller), "report", plain["version"])
        said = {"decision": plain["decision"], "decision-at": context.instant(),
                "decision-comment": plain.get("comment", "")}  # fmt: skip
        after = alignment.with_evidence(task, said)
        after["lastModified"] = context.instant()
        put(tx, context, case_id, after)
        return after


def plan_of_record(context: Context, caller: Caller, case_id: str, plain: Plain) -> Resource:
    """The decision owner's plan, citing the report's current version; delivered like the report."""
    with context.database.reading() as connection:
        case = load(connection, context.visibility(caller), case_id)
    earlier = _plans(case)
    current = _decidable(case, caller, plain)
    if earlier and _same_plan(earlier[-1], plain, current):
        return earlier[-1]
    version = len(earlier) + 1
    care_plan = _care_plan(context, case, plain, version, current)
    said = facts.of_plan(case, care_plan, version)
    # Rendered outside the transaction, once, so that every recipient gets the same bytes.
    document = _plan_document(case, care_plan, version, render.pdf("plan", said), render.plan_text(said))
    with context.database.transaction(caller) as tx:
        again = load(tx.connection, context.visibility(caller), case_id)
        if len(_plans(again)) != len(earlier) or _decidable(again, caller, plain) != current:
            raise Conflict("The case changed meanwhile; look at it again.")
        for old in earlier:
            if old["status"] == "active":
                put(tx, context, case_id, {**old, "status": "revoked"})
                name = derived_id(case_id, "plan-document", alignment.plan_version(old))
                put(tx, context, case_id, {**again.one("DocumentReference", name), "status": "superseded"})
        put(tx, context, case_id, records.labelled(again, document))
        stored = put(tx, context, case_id, records.labelled(again, care_plan))
        orders.plan(tx, context, load(tx.connection, EVERYTHING, case_id), "plan", version, stored.versioned)
        return stored.resource


def _plans(case: Case) -> list[Resource]:
    return [p for p in case.of_type("CarePlan") if codes.extension_values(p, codes.CITES_REPORT)]


def _decidable(case: Case, caller: Caller, plain: Plain) -> int:
    """The version that is decided on. Raises Forbidden unless the caller is the decision owner, Conflict otherwise."""
    owner = case.decision_owner
    if owner is None or not rights.acts_as(caller, owner.identifiers):
        raise Forbidden("Only the decision owner sets the plan of record.")
    signed = _standing(case)
    current = report.version_of(signed)
    if plain["version"] != current:
        raise Conflict(f"The report is at version {current}; decide on that one.", path="version")
    return current


def _standing(case: Case) -> Resource:
    """The signed report. Raises Conflict when there is none, or when it was retracted."""
    if case.report is None:
        raise Conflict("There is no signed report to decide on yet.")
    if case.report["status"] == "entered-in-error":
        raise Conflict("The report was retracted; there is nothing to decide on.")
    return case.report


def _care_plan(context: Context, case: Case, plain: Plain, version: int, current: int) -> Resource:
    owner = case.decision_owner
    return compose(
        "CarePlan",
        id=derived_id(case.id, "plan-of-record", version),
        meta=profile("plan-of-record"),
        extension=[
            {"url": codes.REPORT_VERSION, "valuePositiveInt": version},
            {"url": codes.CITES_REPORT, "valuePositiveInt": current},
            {"url": codes.DECISION_EXTENSION, "valueCode": plain["decision"]},
        ],
        status="active",
        intent="plan",
        title="Plan of record",
        description=plain["text"],
        subject={"reference": reference(case.patient)},
        created=context.instant(),
        author={"reference": owner.reference if owner else ""},
        activity=_activities(plain),
    )


def _activities(plain: Plain) -> list[Resource]:
    """What the plan says in words, then what it says in codes."""
    in_words = [{"detail": {"status": "not-started", "description": item}} for item in plain.get("items", [])]
    return in_words + [planned.activity(item) for item in plain.get("coded", [])]


def _plan_document(case: Case, care_plan: Resource, version: int, pdf: bytes, text: str) -> Resource:
    title, created = f"Plan of record, version {version}", care_plan["created"]
    forms = [
        attachment(pdf, "application/pdf", title, created),
        attachment(text.encode(), "text/plain; charset=utf-8", title, created),
    ]
    return compose(
        "DocumentReference",
        id=derived_id(case.id, "plan-document", version),
        masterIdentifier={"system": URI, "value": f"urn:uuid:{derived_id(case.id, 'plan', version)}"},
        identifier=[{"system": URI, "value": f"urn:uuid:{derived_id(case.id, 'set', 'plan')}"}],
        status="current",
        type=deliverables.PLAN_TYPE,
        subject=care_plan["subject"],
        date=created,
        author=[care_plan["author"]],
        relatesTo=[
            {
                "code": "replaces",
                "target": {"reference": f"DocumentReference/{derived_id(case.id, 'plan-document', version - 1)}"},
            }
        ]
        if version > 1
        else None,
        content=[{"attachment": form} for form in forms],
    )


def _same_plan(old: Resource, plain: Plain, current: int) -> bool:
    return (
        old["status"] == "active"
        and old["description"] == plain["text"]
        and codes.extension_value(old, codes.CITES_REPORT) == current
        and codes.extension_value(old, codes.DECISION_EXTENSION) == plain["decision"]
        and old.get("activity", []) == _activities(plain)
    )


def board(context: Context, caller: Caller, case_id: str) -> tuple[Case, Board | None]:
    """The case and its alignment board; None before a report is signed."""
    with context.database.reading() as connection:
        case = load(connection, context.visibility(caller), case_id)
    return case, alignment.board(case)


def replay(context: Context, caller: Caller, case_id: str, plain: Plain) -> Resource:
    """Tries a delivery on hold again."""
    rights.require_role(caller)
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id)
        task = next((t for t in case.deliveries if t["id"] == plain["task"]), None)
        if task is None:
            raise NotFound(f"The case has no delivery Task/{plain['task']}.")
        return orders.replay(tx, context, case, task, f"{caller.name}: {plain['changed']}")


def disclosures(context: Context, caller: Caller, case_id: str) -> Plain:
    """What of the case has left, or may have, to whom and where; and whether it might be sent there now."""
    with context.database.reading() as connection:
        case = load(connection, context.visibility(caller), case_id)
    return {"disclosures": [_disclosure(context, case, t) for t in case.deliveries if _may_have_left(t)]}


def _may_have_left(task: Resource) -> bool:
    said = alignment.evidence(task)
    by_link = said.get("rung") == str(ladder.LINK)
    return said.get("sent") in ("accepted", "unknown") and (not by_link or said.get("ack", "none") != "none")


def _disclosure(context: Context, case: Case, task: Resource) -> Plain:
    said = alignment.evidence(task)
    person = case.directory.person(task["owner"].get("reference", ""))
    allowed = sensitivity.may_send(context, case, actors(person)) if person else None
    return {
        "task": reference(task),
        "to": task["owner"].get("display", ""),
        "what": (codes.code_of(task["code"], codes.TASK) or "").removeprefix("deliver-"),
        "version": alignment.version_of(task),
        "sent": said["sent"],
        "at": said.get("read-at") or said.get("send-started") or said.get("issued-at", ""),
        "address": said.get("address", ""),
        "location": said.get("location", ""),
        "permittedNow": allowed.permitted if allowed else True,
        "because": allowed.because if allowed else "a repository of the operator's",
    }


# ---- links ----------------------------------------------------------------------------------------------------


def open_link(context: Context, token: str) -> tuple[Case, Resource, str]:
    """The case, the delivery Task and its state for a link: "open", "used", or "replaced by version N".

    Raises NotFound for a token that we did not make, Gone when it is too old.
    """
    task_id = tokens.task_of(context, tokens.ACKNOWLEDGE, token)
    with context.database.reading() as connection:
        case_id, stored = case_of_task(connection, EVERYTHING, task_id)
        case = load(connection, EVERYTHING, case_id)
    task = stored.resource
    owner = case.directory.person(task["owner"]["reference"])
    allowed = sensitivity.may_send(context, case, actors(owner) if owner else frozenset())
    notice = codes.has(task["code"], codes.TASK, deliverables.NOTICE)
    if task["status"] != "completed" or not (allowed.permitted or notice):
        raise Gone("This link was called back; ask the sender.")
    if context.now() > times.interval(task["authoredOn"]).low + LINK_DAYS * _DAY_MS:
        raise Gone("This link has expired; ask the sender for a new one.")
    newest = max(
        alignment.version_of(t) for t in case.deliveries
        if alignment.thing_of(t) == alignment.thing_of(task) and t["owner"] == task["owner"]
    )  # fmt: skip
    if alignment.evidence(task).get("ack"):
        return case, task, "used"
    if newest != alignment.version_of(task):
        return case, task, f"replaced by version {newest}"
    return case, task, "open"


def acknowledge_link(context: Context, token: str, name: str, role: str) -> Resource:
    """The holder of a link acknowledges, by typed name and role; once. Raises Conflict when it is used or replaced."""
    case, task, state = open_link(context, token)
    if not name.strip() or not role.strip():
        raise Invalid("Give your name and your role.", path="name" if not name.strip() else "role")
    if state == "used":
        raise Conflict("This link has been used.")
    if state != "open":
        raise Conflict(f"This version was {state}; ask for its link.")
    with context.database.transaction(SERVICE) as tx:
        current = next(t for t in load(tx.connection, EVERYTHING, case.id).deliveries if t["id"] == task["id"])
        if alignment.evidence(current).get("ack"):
            raise Conflict("This link has been used.")
        said = {"ack": "link", "ack-by": f"{name.strip()[:120]}, {role.strip()[:120]}"}
        return _record(tx, context, case, current, said)


def cover_sheet(context: Context, caller: Caller, case_id: str, plain: Plain) -> Plain:
    """The printable cover sheet (PDF, base64) of a delivery that goes by hand. Only the coordinator may see a link."""
    rights.require_role(caller)
    with context.database.reading() as connection:
        case = load(connection, context.visibility(caller), case_id)
    task = next((t for t in case.deliveries if t["id"] == plain["task"]), None)
    if task is None:
        raise NotFound(f"The case has no delivery Task/{plain['task']}.")
    if alignment.evidence(task).get("rung") != "10":
        raise Conflict("This delivery does not go by link.")
    said = {
        "task": task["id"],
        "caseId": case.id,
        "what": (codes.code_of(task["code"], codes.TASK) or "")
        .removeprefix("deliver-")
        .replace("plan", "plan of record"),
        "version": alignment.version_of(task),
        "recipient": task["owner"].get("display", ""),
        "url": f"{context.public_url}/ack/{tokens.make(context, tokens.ACKNOWLEDGE, task['id'])}",
        "issued": task["authoredOn"],
        "days": LINK_DAYS,
    }
    return {**said, "pdf": base64.b64encode(render.pdf("cover", said)).decode()}
