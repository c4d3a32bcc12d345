"""The report: drafted, signed, amended. Each is one transaction; `final` exists only through `sign`."""

from __future__ import annotations

from typing import Any

from fhir_secondop.ehr.documents import URI, attachment
from fhir_secondop.errors import Conflict
from fhir_secondop.fhir import codec, times
from fhir_secondop.model import EVERYTHING, Caller, Resource
from fhir_secondop.opinion import blinding as blindness
from fhir_secondop.opinion import codes, consultation, document, records, render, report, sections, urgent, workflow
from fhir_secondop.opinion.case import PLATFORM, Case, derived_id, reference, versioned
from fhir_secondop.opinion.compose import compose
from fhir_secondop.opinion.people import Person
from fhir_secondop.opinion.provenance import provenance
from fhir_secondop.service import (
    audience,
    blinding,
    deliverables,
    drafts,
    gather,
    holds,
    proposing,
    review,
    scheduling,
    sealing,
)
from fhir_secondop.service.context import Context, draft_case, drop_draft, load, preliminary_zone, put, put_all, who
from fhir_secondop.service.delivering import orders
from fhir_secondop.service.drafts import DRAFT
from fhir_secondop.service.review import review_of
from fhir_secondop.store import resources
from fhir_secondop.store.database import Transaction

Plain = dict[str, Any]


def submit(
    context: Context, caller: Caller, case_id: str, draft: report.Draft, *, expected: int | None = None
) -> Resource:
    """Stores the reviewer's draft as DiagnosticReport `registered`; again and again until it is signed.

    Raises Conflict when the stored draft is not of version `expected` (0: there is none yet).
    """
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id, drafts=True)
        person = drafts.as_reviewer(case, caller)
        blinding.require_opened(tx, context, case_id)
        if drafts.is_signed(case):
            raise Conflict("The report is signed; change it with $amend-report.")
        drafts.check_version(case, expected)
        report.check_draft(case, draft)
        if holds.is_held_before_it_began(tx, case):
            raise Conflict("The case is on hold; resume it with $resume, then begin the report.")
        now = context.instant()
        composed = report.to_fhir(
            case, draft, status="registered", version=1, reviewer=person.reference, now=now, stage=DRAFT
        )
        _replace(tx, context, case, composed, DRAFT)
        if case.coordination["status"] == "accepted":
            # With a visit booked the consultation begins when that takes place, and the case waits for it.
            waits = consultation.open_visit(case) is not None
            review.begin(tx, context, case, "" if waits else "record-review")
            if not waits:
                put(tx, context, case_id, {**case.encounter, "status": "in-progress", "period": {"start": now}})
        return _stored(tx, composed[-1])


def _stored(tx: Transaction, composed: Resource) -> Resource:
    """The report or draft with the meta that the store gave it."""
    meta = resources.read(tx.connection, EVERYTHING, "DiagnosticReport", composed["id"]).meta
    return {**composed, "meta": meta}


def _replace(tx: Transaction, context: Context, case: Case, composed: list[Resource], stage: str = "") -> None:
    """Puts a draft, or without `stage` the signed report, in the place of an earlier one; what it lacks now goes."""
    replace_parts(tx, context, case, composed, draft_case(case.id) if stage else case.id, stage)


def replace_parts(
    tx: Transaction, context: Context, case: Case, composed: list[Resource], zone: str, stage: str = ""
) -> None:  # fmt: skip
    """The same, into that zone of the case."""
    put_all(tx, context, zone, composed)
    kept = {reference(r) for r in composed}
    staged = [stage] if stage else []
    for place in range(len(case.items)):
        for axis in ("diagnosis", "treatment"):
            _withdraw(tx, context, case, kept, "Observation", "concordance", place, axis, *staged)
    for kind, name in (
        ("Observation", "overall"), ("QuestionnaireResponse", "answers"), ("CarePlan", "options"),
        ("CarePlan", "proposals"),
    ):  # fmt: skip
        _withdraw(tx, context, case, kept, kind, name, *staged)


def _withdraw(tx: Transaction, context: Context, case: Case, kept: set[str], kind: str, *parts: str | int) -> None:
    """A part that the new version no longer has: of a draft it is deleted, of a signed report it was an error."""
    resource_id = derived_id(case.id, *parts)
    before = resources.find(tx.connection, EVERYTHING, kind, resource_id)
    if f"{kind}/{resource_id}" in kept or before is None or before.deleted:
        return
    if parts[-1] == DRAFT:
        resources.delete(tx, before)
    else:
        status = "revoked" if kind == "CarePlan" else "entered-in-error"
        put(tx, context, case.id, {**before.resource, "status": status})


def amend(
    context: Context, caller: Caller, case_id: str, plain: Plain, *, expected: int | None = None, whole: bool = False
) -> Resource:
    """Drafts the next version: kind, reason, and what changes of the draft. The signed version stays current.

    With `whole` the changes are the whole draft: what they leave out goes. `expected` is as in `submit`.
    """
    with context.database.transaction(caller) as tx:
        case = load(tx.connection, context.visibility(caller), case_id, drafts=True)
        person = drafts.as_reviewer(case, caller)
        signed = case.report
        if signed is None or not drafts.is_signed(case):
            raise Conflict("There is no signed report to amend; change the draft with $submit-report.")
        if signed["status"] == "entered-in-error":
            raise Conflict("The report was retracted; it is not amended any more.")
        drafts.check_version(case, expected)
        draft = {**({} if whole else report.from_fhir(case)), **plain.get("changes", {})}
        report.check_draft(case, draft)
        return stage(tx, context, case, person, plain["kind"], plain["reason"], draft)


def stage(
    tx: Transaction, context: Context, case: Case, person: Person, kind: str, reason: str, draft: report.Draft
) -> Resource:  # fmt: skip
    """Drafts the next version of the signed report of a case; it becomes current when its author signs it."""
    version = report.version_of(case.report or {}) + 1
    composed = report.to_fhir(
        case, draft, status="registered", version=version, reviewer=person.reference, now=context.instant(), stage=DRAFT
    )
    composed[-1]["extension"] += [
        {"url": codes.AMENDMENT_KIND, "valueCode": kind},
        {"url": codes.AMENDMENT_REASON, "valueString": reason},
    ]
    _replace(tx, context, case, composed, DRAFT)
    return _stored(tx, composed[-1])


def sign(context: Context, caller: Caller, case_id: str, plain: Plain, *, expected: int | None = None) -> Resource:
    """The reviewer signs: report, document and deliveries exist from this commit on, or not at all.

    Signing what is signed already answers with it. Raises Invalid with everything that is still to do, Conflict when
    the draft is not of version `expected`: what was read is what is signed.
    """
    with context.database.reading() as connection:
        case = load(connection, context.visibility(caller), case_id, gathered=True, drafts=True)
    person = drafts.as_reviewer(case, caller)
    if not gather.is_over(case):
        raise Conflict("The record is still being gathered; sign when every source has answered.")
    if case.coordination["status"] == "on-hold":
        raise Conflict("The case is on hold; resume it with $resume, then sign.")
    scheduling.check_taken_place(case)
    before = case.report
    proposal = drafts.of_case(case)
    if proposal is None:
        if before is not None:
            return before
        raise Conflict("There is no draft to sign; submit one with $submit-report.")
    drafts.check_version(case, expected)
    items = gather.items(context, case)
    draft = report.from_fhir(case, DRAFT)
    report.check_signable(case, draft, gather.named_gaps(case, items), drafts.kind_of(proposal),
                          spoken=urgent.spoken(case))  # fmt: skip
    now = context.instant()
    said = drafts.facts_of(case, proposal, draft, person, items, now)
    status, version, reason = drafts.kind_of(proposal), report.version_of(proposal), drafts.reason_of(proposal)
    stated = drafts.stated(case)
    # Rendered outside the transaction: it takes a second the first time, and writers wait for nobody.
    key = sealing.key_now(context)
    presented = tuple(
        attachment(form, kind, f"Second opinion, version {version}", now) for kind, form in render.forms(said)
    )
    with context.database.transaction(caller) as tx:
        current = load(tx.connection, context.visibility(caller), case_id, drafts=True)
        if current.find("DiagnosticReport", proposal["id"]) is None and current.report is not None:
            return current.report  # signed meanwhile, by the same reviewer: the answer is the same
        if _versions(current) != _versions(case):
            raise Conflict("The case changed while it was being signed; look at it again, then sign.")
        composed = report.to_fhir(
            case, draft, status=status, version=version, reviewer=person.reference, now=now,
            extra=sections.of_facts(said, map(reference, blindness.first_reads(case))), presented=presented,
            stated=stated,
            replaces=versioned(before) if before else "",
            composition_version=_composition_version(case) if before else "",
            started=case.encounter.get("period", {}).get("start", ""),
        )  # fmt: skip
        composed = [document.citing_abroad(records.labelled(case, r), context.base_url) for r in composed]
        _check_invariants(case, composed)
        # What was shown as preliminary becomes part of the case, and this its next version.
        resources.move_all(tx, preliminary_zone(case_id), case_id)
        _replace(tx, context, case, composed)
        blinding.publish(tx, case_id)
        drop_draft(tx, case_id)
        signed_report = composed[-1]
        if not before:
            _complete(tx, context, case, person, signed_report, now)
            # The document carries the request and the consultation as they are from now on.
            case = load(tx.connection, EVERYTHING, case_id)
        stored = resources.read(tx.connection, EVERYTHING, "DiagnosticReport", signed_report["id"])
        cited, bundle = _document(tx, context, case, composed, person, version, now)
        binary, signature = sealing.seal(tx, context, case, bundle, version=version, signer=person.reference,
                                         auth_time=caller.auth_time, key=key)  # fmt: skip
        put(
            tx, context, case_id,
            provenance(
                sealing.provenance_id(case_id, version), [stored.versioned, cited, reference(bundle), binary], now,
                activity="UPDATE" if before else "CREATE", author={**who(caller), "reference": person.reference},
                sources=[f"List/{p['id']}" for p in case.of_type("List")], signature=signature,
                revises=versioned(before) if before else "", reason=reason, auth_time=caller.auth_time,
            ),
        )  # fmt: skip
        case = load(tx.connection, EVERYTHING, case_id)
        orders.plan(tx, context, case, "report", version, stored.versioned)
        proposing.signed(tx, context, case, draft, person, kind=status)
        audience.end_review(tx, case, person.identifiers, context.now())
        return {**signed_report, "meta": stored.meta}


def _composition_version(case: Case) -> str:
    return str(case.one("Composition", derived_id(case.id, "composition"))["meta"]["versionId"])


def _versions(case: Case) -> list[tuple[str, str]]:
    """What a signature stands on: report, draft and coordination Task, each with its version."""
    signed_or_draft = [*case.of_type("DiagnosticReport"), case.coordination]
    ours = {derived_id(case.id, "report"), derived_id(case.id, "report", DRAFT), case.coordination["id"]}
    return [(r["id"], r["meta"]["versionId"]) for r in signed_or_draft if r["id"] in ours]


def _check_invariants(case: Case, composed: list[Resource]) -> None:
    """DOMAIN section 4, over resources: issued not before the encounter, one patient throughout."""
    signed = composed[-1]
    started = case.encounter.get("period", {}).get("start", "")
    if started and times.interval(signed["issued"]).high <= times.interval(started).low:
        raise Conflict("The report would be issued before the consultation began.")
    patient = reference(case.patient)
    about = {r["subject"]["reference"] for r in composed if "subject" in r}
    about |= {case.request["subject"]["reference"], case.encounter["subject"]["reference"],
              case.coordination["for"]["reference"]}  # fmt: skip
    if about != {patient}:
        raise Conflict("Request, Task, Encounter and report are not about one patient.")


def _document(
    tx: Transaction, context: Context, case: Case, composed: list[Resource], person: Person, version: int, now: str
) -> tuple[str, Resource]:
    """The DocumentReference of this version, and the document Bundle; the one before becomes superseded."""
    bundle = document.bundle(case, composed, person, version, now, context.base_url)
    put(tx, context, case.id, bundle)
    previous = derived_id(case.id, "document", version - 1)
    made = compose(
        "DocumentReference",
        id=derived_id(case.id, "document", version),
        masterIdentifier=bundle["identifier"],
        identifier=[{"system": URI, "value": report.set_id(case)}],
        status="current",
        docStatus=deliverables.DOC_STATUS[composed[-1]["status"]],
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
    put(tx, context, case.id, records.labelled(case, made))
    if version > 1:
        old = resources.read(tx.connection, EVERYTHING, "DocumentReference", previous).resource
        put(tx, context, case.id, {**old, "status": "superseded"})
    return reference(made), bundle


def _complete(tx: Transaction, context: Context, case: Case, person: Person, signed: Resource, now: str) -> None:
    """The consultation is finished, the Tasks are completed with the report as output."""
    output = [{"type": codes.concept(codes.EVIDENCE, "report"), "valueReference": {"reference": reference(signed)}}]
    for task in (case.coordination, review_of(case, person.reference)):
        if task is not None:
            business = "report-final" if workflow.is_coordination(task) else ""
            put(tx, context, case.id, workflow.moved({**task, "output": output}, "completed", now, business=business))
    if case.encounter["status"] != "finished":  # a visit has ended when the patient left
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
