"""The review: accept or decline, draft, sign, amend. Each is one transaction; `final` exists only through `sign`."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from fhir_secondop.access import rights
from fhir_secondop.ehr.documents import attachment
from fhir_secondop.errors import Conflict, Forbidden, Invalid, NotFound
from fhir_secondop.fhir import codec, refs
from fhir_secondop.model import EVERYTHING, Caller, Resource
from fhir_secondop.opinion import codes, facts, independence, intake_json, narrative, render, report, workflow
from fhir_secondop.opinion.case import PLATFORM, Case, derived_id, reference, review_task
from fhir_secondop.opinion.compose import compose
from fhir_secondop.opinion.independence import Assessment, Declaration
from fhir_secondop.opinion.people import Directory, Person
from fhir_secondop.opinion.provenance import provenance
from fhir_secondop.service import delivery, gather
from fhir_secondop.service.context import (
    Context,
    add_audience,
    case_of_task,
    load,
    put,
    put_all,
    remove_audience,
)
from fhir_secondop.service.intake import who
from fhir_secondop.store import resources
from fhir_secondop.store.database import Transaction

Plain = dict[str, Any]
AMENDMENT = "amendment"


@cache
def schema(name: str) -> dict[str, Any]:
    """A published JSON Schema of profiles/schemas."""
    text = (files("fhir_secondop.profiles") / "schemas" / f"{name}.json").read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def _review_of(case: Case, reference_: str) -> Resource | None:
    coordination = case.coordination
    for task in case.reviews:
        part_of = task["partOf"][0]["reference"]
        if task.get("owner", {}).get("reference") == reference_ and part_of == reference(coordination):
            return task
    return None


def _reviewer(tx: Transaction, context: Context, case: Case, caller: Caller, plain: Plain) -> tuple[Person, Case]:
    """The reviewer with what is said of them, and the case with them in it.

    `plain["reviewer"]` has the shape of a provider in the intake, with its organization inline.
    """
    composed = _reviewer_resources(case, plain["reviewer"])
    known = {reference(r) for r in case.resources}
    put_all(tx, context, case.id, [r for r in composed if reference(r) not in known])
    case = Case(case.id, [*case.resources, *(r for r in composed if reference(r) not in known)])
    person = case.directory.person(reference(composed[-1]))
    if person is None:
        raise Invalid("Say who the reviewer is.", path="reviewer")
    return person, case


def _reviewer_resources(case: Case, plain: Plain) -> list[Resource]:
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


def assess(case: Case, reviewer: Person, declaration: Declaration | None) -> Assessment:
    """The independence of a reviewer from the authors of what is under review and from earlier reviewers."""
    earlier = [
        person
        for task in case.reviews
        if task["status"] in ("accepted", "in-progress", "completed", "failed")
        and (person := case.directory.person(task.get("owner", {}).get("reference", ""))) is not None
        and person.key != reviewer.key
    ]
    return independence.assess(reviewer, [*case.authors, *earlier], declaration)


def independence_of(context: Context, caller: Caller, case_id: str, plain: Plain) -> Assessment:
    """What `$accept` would find, without accepting."""
    with context.database.reading() as connection:
        case = load(connection, context.visibility(caller), case_id)
    composed = _reviewer_resources(case, plain["reviewer"])
    person = Directory([*case.resources, *composed]).person(reference(composed[-1]))
    if person is None:
        raise Invalid("Say who the reviewer is.", path="reviewer")
    return assess(case, person, _declaration(plain))


def ask(context: Context, caller: Caller, case_id: str, plain: Plain) -> Resource:
    """The coordinator asks a reviewer: a Task for the candidate, who sees the case from now on."""
    rights.require_role(caller)
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id)
        person, case = _reviewer(tx, context, case, caller, plain)
        task = _review_of(case, person.reference)
        if task is None:
            if case.coordination["status"] != "requested":
                raise Conflict("Somebody has taken the case already.")
            task = review_task(case_id, case.coordination, person.reference, context.instant())
            put(tx, context, case_id, task)
        add_audience(tx, case_id, person.identifiers)
        return task


def accept(context: Context, caller: Caller, case_id: str, plain: Plain) -> Resource:
    """The reviewer who was asked takes the case: the review Task and the coordination Task move to accepted together.

    Raises Conflict when barred or when somebody else has it, Invalid when a reason or an attestation is missing.
    """
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id)
        task = _own_review(case, caller)
        if task["status"] == "accepted":
            return task
        accepted = workflow.moved(task, "accepted", context.instant())
        return take(
            tx, context, case, accepted, _declaration(plain), plain.get("attestation", ""), plain.get("override", "")
        )


def take(
    tx: Transaction, context: Context, case: Case, accepted: Resource, declaration: Declaration | None,
    attestation: str, override: str,
) -> Resource:  # fmt: skip
    """What follows when a review Task is accepted, in the same transaction; the Task as it then stands."""
    person = case.directory.person(accepted["owner"]["reference"])
    if person is None:
        raise Invalid("The reviewer of this Task is not known.", path="Task.owner")
    assessment = assess(case, person, declaration)
    independence.admit(assessment, attestation=attestation, override=override)
    now = context.instant()
    stated = independence.extension(assessment, attestation=attestation, override=override)
    accepted = {**accepted, "extension": [stated]}
    both = workflow.moved(case.coordination, "accepted", now)
    both = {**both, "owner": {"reference": person.reference, "display": person.name}, "extension": [stated]}
    put_all(tx, context, case.id, [accepted, both])
    for other in case.reviews:
        if other["id"] != accepted["id"] and other["status"] in ("requested", "received"):
            put(tx, context, case.id, workflow.moved(other, "cancelled", now, reason="not-selected"))
            lost = case.directory.person(other["owner"]["reference"])
            remove_audience(tx, case.id, lost.identifiers if lost else ())
    put(tx, context, case.id, {**case.encounter, "participant": _participants(case, person)})
    return accepted


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
        remove_audience(tx, case_id, caller.parties)
        return declined


def withdraw(context: Context, caller: Caller, case_id: str, plain: Plain) -> Resource:
    """A reviewer who had accepted steps back: both Tasks fail, and a new coordination Task opens for the next."""
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id)
        task = _own_review(case, caller)
        now, old = context.instant(), case.coordination
        failed = [
            workflow.moved(t, "failed", now, reason=plain["reason"], reason_text=plain.get("text", ""))
            for t in (task, old)
        ]
        number = 1 + sum(1 for t in case.of_type("Task") if workflow.is_coordination(t))
        kept = ("identifier", "intent", "priority", "code", "businessStatus", "focus", "for", "requester",
                "restriction")  # fmt: skip
        opened = compose(
            "Task",
            **{name: old.get(name) for name in kept},
            id=derived_id(case_id, "coordination", number),
            status="requested",
            authoredOn=now,
            lastModified=now,
            input=[{"type": codes.concept(codes.EVIDENCE, "follows"), "valueReference": {"reference": reference(old)}}],
        )
        put_all(tx, context, case_id, [*failed, opened])
        person = case.directory.person(task["owner"]["reference"])
        remove_audience(tx, case_id, person.identifiers if person else ())
        return failed[0]


def _own_review(case: Case, caller: Caller) -> Resource:
    for task in reversed(case.reviews):
        person = case.directory.person(task.get("owner", {}).get("reference", ""))
        if person is not None and rights.acts_as(caller, person.identifiers):
            return task
    raise NotFound("You were not asked to review this case.")


def _as_reviewer(case: Case, caller: Caller) -> Person:
    """The reviewer who has the case. Raises Forbidden unless the caller is that person."""
    owner = case.coordination.get("owner", {}).get("reference", "")
    person = case.directory.person(owner)
    if person is None:
        raise Conflict("Nobody has accepted this case yet.")
    if not rights.acts_as(caller, person.identifiers):
        raise Forbidden("Only the reviewer who accepted the case may write or sign its report.")
    return person


def _stage(case: Case) -> str:
    """Where a draft stands: under the report's own ids before the first signature, beside them afterwards."""
    return AMENDMENT if _is_signed(case) else ""


def _is_signed(case: Case) -> bool:
    return case.report is not None and case.report["status"] not in ("registered", "preliminary")


def submit(context: Context, caller: Caller, case_id: str, draft: report.Draft) -> Resource:
    """Stores the reviewer's draft as DiagnosticReport `registered`; again and again until it is signed."""
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id)
        person = _as_reviewer(case, caller)
        if _is_signed(case):
            raise Conflict("The report is signed; change it with $amend-report.")
        report.check_draft(case, draft)
        now = context.instant()
        composed = report.to_fhir(case, draft, status="registered", version=1, reviewer=person.reference, now=now)
        _replace_draft(tx, context, case, composed, "")
        coordination = case.coordination
        if coordination["status"] == "accepted":
            for task in (coordination, _review_of(case, person.reference)):
                if task is not None:
                    business = "record-review" if task is coordination else ""
                    put(tx, context, case_id, workflow.moved(task, "in-progress", now, business=business))
            put(tx, context, case_id, {**case.encounter, "status": "in-progress", "period": {"start": now}})
        return composed[-1]


def _replace_draft(tx: Transaction, context: Context, case: Case, composed: list[Resource], stage: str) -> None:
    """Puts a draft in the place of an earlier one; parts that it no longer has are deleted."""
    put_all(tx, context, case.id, composed)
    kept = {reference(r) for r in composed}
    for place in range(len(case.items)):
        for axis in ("diagnosis", "treatment"):
            _drop(tx, case, "Observation", kept, "concordance", place, axis, *([stage] if stage else []))
    _drop(tx, case, "Observation", kept, "overall", *([stage] if stage else []))
    _drop(tx, case, "QuestionnaireResponse", kept, "answers", *([stage] if stage else []))
    _drop(tx, case, "CarePlan", kept, "proposals", *([stage] if stage else []))


def _drop(tx: Transaction, case: Case, kind: str, kept: set[str], *parts: str | int) -> None:
    resource_id = derived_id(case.id, *parts)
    if f"{kind}/{resource_id}" in kept:
        return
    before = resources.find(tx.connection, EVERYTHING, kind, resource_id)
    if before is not None and not before.deleted:
        resources.delete(tx, before)


def amend(context: Context, caller: Caller, case_id: str, plain: Plain) -> Resource:
    """Drafts the next version: kind, reason, and what changes of the draft. The signed version stays current."""
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id)
        person = _as_reviewer(case, caller)
        signed = case.report
        if signed is None or not _is_signed(case):
            raise Conflict("There is no signed report to amend; change the draft with $submit-report.")
        draft = {**report.from_fhir(case), **plain.get("changes", {})}
        report.check_draft(case, draft)
        version = report.version_of(signed) + 1
        now = context.instant()
        composed = report.to_fhir(
            case, draft, status="registered", version=version, reviewer=person.reference, now=now, stage=AMENDMENT
        )
        composed[-1]["extension"] += [
            {"url": codes.AMENDMENT_KIND, "valueCode": plain["kind"]},
            {"url": codes.AMENDMENT_REASON, "valueString": plain["reason"]},
        ]
        _replace_draft(tx, context, case, composed, AMENDMENT)
        return composed[-1]


def sign(context: Context, caller: Caller, case_id: str, plain: Plain) -> Resource:
    """The reviewer signs: report, document and deliveries exist from this commit on, or not at all.

    Signing what is signed already answers with it. Raises Invalid with everything that is still to do.
    """
    with context.database.reading() as connection:
        case = load(connection, context.visibility(caller), case_id, gathered=True)
    person = _as_reviewer(case, caller)
    stage = _stage(case)
    if not gather.is_over(case):
        raise Conflict("The record is still being gathered; sign when every source has answered.")
    if stage and case._find("DiagnosticReport", derived_id(case_id, "report", stage)) is None:
        signed = case.report
        if signed is not None:
            return signed
    draft = report.from_fhir(case, stage)
    items = gather.items(case)
    report.check_signable(case, draft, [item.code for item in items if item.state == "missing"])
    now = context.instant()
    before = case.report if stage else None
    proposal = case._one("DiagnosticReport", derived_id(case_id, "report", *([stage] if stage else [])))
    status = str(codes.extension_value(proposal, codes.AMENDMENT_KIND) or "final")
    reason = str(codes.extension_value(proposal, codes.AMENDMENT_REASON) or "")
    version = report.version_of(proposal)
    stated = next((e for e in case.coordination.get("extension", []) if e["url"] == codes.INDEPENDENCE), None)
    said = facts.of_report(
        case, draft, status=status, version=version, issued=now, reviewer=person.reference, items=items,
        stated=stated, before=before, reason=reason,
    )  # fmt: skip
    # Rendered outside the transaction: it takes a second the first time, and writers wait for nobody.
    pdf, text = render.pdf("report", said), render.report_text(said)
    presented = (
        attachment(pdf, "application/pdf", f"Second opinion, version {version}", now),
        attachment(text.encode(), "text/plain; charset=utf-8", f"Second opinion, version {version}", now),
    )
    with context.database.transaction(caller) as tx:
        current = load(tx.connection, context.visibility(caller), case_id)
        if (current.report or {}).get("meta", {}).get("versionId") != (case.report or {}).get("meta", {}).get(
            "versionId"
        ) or current.coordination["status"] != case.coordination["status"]:
            raise Conflict("The case changed while it was being signed; look at it again, then sign.")
        composed = report.to_fhir(
            case, draft, status=status, version=version, reviewer=person.reference, now=now,
            extra=(_record_section(said),), presented=presented, stated=stated,
            replaces=f"{reference(before)}/_history/{before['meta']['versionId']}" if before else "",
            started=case.encounter.get("period", {}).get("start", ""),
        )  # fmt: skip
        _check_invariants(case, composed)
        _replace_draft(tx, context, case, composed, "")
        if stage:
            _drop_stage(tx, case, stage)
        signed_report = composed[-1]
        stored = resources.read(tx.connection, EVERYTHING, "DiagnosticReport", signed_report["id"])
        document = _document(tx, context, case, composed, person, version, now, pdf)
        put(
            tx, context, case_id,
            provenance(
                derived_id(case_id, "provenance", "report", version), [stored.versioned, document], now,
                activity="UPDATE" if before else "CREATE", author={**who(caller), "reference": person.reference},
                sources=[f"List/{p['id']}" for p in case.of_type("List")],
                revises=f"{reference(before)}/_history/{before['meta']['versionId']}" if before else "", reason=reason,
            ),
        )  # fmt: skip
        if not before:
            _complete(tx, context, case, person, signed_report, now)
        delivery.plan(tx, context, load(tx.connection, EVERYTHING, case_id), "report", version, stored.versioned)
        return {**signed_report, "meta": stored.meta}


def _drop_stage(tx: Transaction, case: Case, stage: str) -> None:
    """The draft of an amendment is the signed version now; its own copies go."""
    for place in range(len(case.items)):
        for axis in ("diagnosis", "treatment"):
            _drop(tx, case, "Observation", set(), "concordance", place, axis, stage)
    for kind, name in (("Observation", "overall"), ("QuestionnaireResponse", "answers"), ("CarePlan", "proposals"),
                       ("Composition", "composition"), ("DiagnosticReport", "report")):  # fmt: skip
        _drop(tx, case, kind, set(), name, stage)


def _record_section(said: facts.Facts) -> Resource:
    lines = [f"{s['name']}: {s['received']} resources, as of {s['asOf']}" for s in said["records"]]
    lines += [f"{s['name']}: {gap}" for s in said["records"] for gap in s["gaps"]]
    lines += [f"Missing: {title}" for title in said["missing"]] or ["Nothing on the checklist is missing."]
    return narrative.section(
        "Records reviewed", codes.concept(codes.SECTION, "records-reviewed"), narrative.bullets(lines)
    )


def _check_invariants(case: Case, composed: list[Resource]) -> None:
    """DOMAIN section 4, over resources: issued not before the encounter, one patient throughout."""
    signed = composed[-1]
    started = case.encounter.get("period", {}).get("start", "")
    if started and signed["issued"] < started:
        raise Conflict("The report would be issued before the consultation began.")
    patient = reference(case.patient)
    about = {r["subject"]["reference"] for r in composed if "subject" in r}
    about |= {case.request["subject"]["reference"], case.encounter["subject"]["reference"],
              case.coordination["for"]["reference"]}  # fmt: skip
    if about != {patient}:
        raise Conflict("Request, Task, Encounter and report are not about one patient.")


def _document(
    tx: Transaction, context: Context, case: Case, composed: list[Resource], person: Person, version: int, now: str,
    pdf: bytes,
) -> str:  # fmt: skip
    """The document Bundle and the DocumentReference of this version; the one before becomes superseded."""
    composition = composed[-2]
    cited = [composition, case.patient, case.encounter, case.request, *composed[:-2], composed[-1]]
    professionals = [
        r for r in (case.directory.resource(ref) for ref in (person.reference, person.practitioner,
                                                             person.organization_ref)) if r
    ]  # fmt: skip
    version_id = f"urn:uuid:{derived_id(case.id, 'report', version)}"
    bundle = compose(
        "Bundle",
        id=derived_id(case.id, "bundle", version),
        identifier={"system": "urn:ietf:rfc3986", "value": version_id},
        type="document",
        timestamp=now,
        entry=[{"fullUrl": f"{context.base_url}/{reference(r)}", "resource": r} for r in [*cited, *professionals]],
    )
    put(tx, context, case.id, bundle)
    previous = derived_id(case.id, "document", version - 1)
    document = compose(
        "DocumentReference",
        id=derived_id(case.id, "document", version),
        masterIdentifier={"system": "urn:ietf:rfc3986", "value": version_id},
        identifier=[{"system": "urn:ietf:rfc3986", "value": report.set_id(case)}],
        status="current",
        docStatus=delivery.DOC_STATUS[composed[-1]["status"]],
        type=report.CODE,
        subject={"reference": reference(case.patient)},
        date=now,
        author=[{"reference": person.reference}],
        relatesTo=[{"code": "replaces", "target": {"reference": f"DocumentReference/{previous}"}}]
        if version > 1
        else None,
        content=[{"attachment": form} for form in composed[-1]["presentedForm"]],
        context={
            "encounter": [{"reference": reference(case.encounter)}],
            "related": [{"reference": reference(case.request)}],
        },
    )
    put(tx, context, case.id, document)
    if version > 1:
        old = resources.read(tx.connection, EVERYTHING, "DocumentReference", previous).resource
        put(tx, context, case.id, {**old, "status": "superseded"})
    return reference(document)


def _complete(tx: Transaction, context: Context, case: Case, person: Person, signed: Resource, now: str) -> None:
    """The consultation is finished, the Tasks are completed with the report as output."""
    output = [{"type": codes.concept(codes.EVIDENCE, "report"), "valueReference": {"reference": reference(signed)}}]
    for task in (case.coordination, _review_of(case, person.reference)):
        if task is not None:
            business = "report-final" if workflow.is_coordination(task) else ""
            put(tx, context, case.id, workflow.moved({**task, "output": output}, "completed", now, business=business))
    start = case.encounter.get("period", {}).get("start", now)
    put(tx, context, case.id, {**case.encounter, "status": "finished", "period": {"start": start, "end": now}})
    # The author of the request may not be able to write to us: we close it as its agent, with Provenance.
    stored = _close_request(tx, context, case)
    put(
        tx, context, case.id,
        provenance(
            derived_id(case.id, "provenance", "request-completed"), [stored.versioned], now, activity="UPDATE",
            author=PLATFORM, reason="closed as the placer's agent: the report is final",
        ),
    )  # fmt: skip


def _close_request(tx: Transaction, context: Context, case: Case) -> resources.Stored:
    """The request with status completed, every other byte of it as its author sent it."""
    before = resources.read(tx.connection, EVERYTHING, "ServiceRequest", case.id)
    body = codec.with_member(before.body, "status", "completed")
    return resources.update(tx, before, body, {**before.resource, "status": "completed"}, base_url=context.base_url)


def cancel(context: Context, caller: Caller, task_id: str, plain: Plain) -> Resource:
    """Cancels a Task that has not begun; one in progress gets an abort Task, which its owner must act on."""
    with context.database.transaction(caller) as tx:
        case_id, stored = case_of_task(tx.connection, context.visibility(caller), task_id)
        task, now = stored.resource, context.instant()
        if task["status"] != "in-progress":
            cancelled = workflow.moved(task, "cancelled", now, reason=plain["reason"],
                                       reason_text=plain.get("text", ""))  # fmt: skip
            put(tx, context, case_id, cancelled)
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
