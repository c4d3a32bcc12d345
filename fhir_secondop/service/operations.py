"""The table of operations: a row gives the FHIR route, the JSON route, OpenAPI and the command."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fhir_secondop.access import rights
from fhir_secondop.errors import Invalid
from fhir_secondop.fhir import codec
from fhir_secondop.model import Caller, Operation, Resource, Result
from fhir_secondop.opinion import (
    alignment,
    checklist,
    codes,
    facts,
    invitation,
    records,
    report,
    requests,
    workflow,
)
from fhir_secondop.opinion.alignment import Board, Row
from fhir_secondop.opinion.case import Case, reference
from fhir_secondop.opinion.people import display_name
from fhir_secondop.service import (
    asking,
    audit,
    confirmation,
    gather,
    intake,
    invitations,
    merging,
    preview,
    providers,
    review,
    signing,
)
from fhir_secondop.service.context import Context, load
from fhir_secondop.store import resources

Plain = dict[str, Any]
_TEXT = {"type": "string", "minLength": 1, "maxLength": 20000}
_REASON = {"enum": list(codes.STATUS_REASONS)}
_VERSION = {"type": "integer", "minimum": 1, "description": "the version that is meant"}


def _object(required: list[str], **properties: Any) -> Plain:
    return {"type": "object", "required": required, "additionalProperties": False, "properties": properties}


def _reviewer_schema() -> Plain:
    request = review.schema("second-opinion-request")
    provider = request["properties"]["providers"]["additionalProperties"]
    organization = request["properties"]["organizations"]["additionalProperties"]
    return {**provider, "properties": {**provider["properties"], "organization": organization}}


_DECLARATION = _object(
    ["interests"],
    interests={**_TEXT, "description": '"none", or what they are'},
    participated={"type": "array", "items": {"type": ["string", "integer"]}},
)


def case_operations(context: Context) -> list[Operation]:
    """The rows on ServiceRequest/{id} and Task/{id}."""

    def with_case(act: Callable[[Context, Caller, str, Plain], Resource]) -> Callable[[Caller, str, Plain], Result]:
        def handler(caller: Caller, case_id: str, plain: Plain) -> Result:
            made = act(context, caller, case_id, plain)
            return Result(_summary(made), made, location=reference(made))

        return handler

    accepting = _object([], declaration=_DECLARATION, attestation=_TEXT, override=_TEXT)
    whom = _object(["reviewer"], reviewer=_reviewer_schema())
    leaving = _object(["reason"], reason=_REASON, text=_TEXT)
    draft = review.schema("report-draft")
    changes = {**draft, "required": []}
    return [
        Operation("gather", "ServiceRequest", "Gathers the record again.", _gather(context),
                  _object([], sources={"type": "array", "items": _TEXT},
                          full={"type": "boolean", "description": "everything, not only what changed"})),
        Operation("candidates", "ServiceRequest", "Who may be the patient at an EHR where that is not certain.",
                  _candidates(context), _object(["task"], task=_TEXT)),
        Operation("confirm-patient", "ServiceRequest", "Says which candidate is the patient there, or none.",
                  with_case(confirmation.confirm),
                  _object(["task", "patient"], task=_TEXT,
                          patient={**_TEXT, "description": 'the id there of a candidate, or "none"'})),
        Operation("manifest", "ServiceRequest", "What was asked of each source, got, refused and is missing.",
                  _manifest(context), reads=True, shows=("List", "Task")),
        Operation("completeness", "ServiceRequest", "The checklist, with the state of each item and its evidence.",
                  _completeness(context), reads=True, shows=("*",)),
        Operation("requests", "ServiceRequest", "What was asked of whom because the record lacks it, and what came.",
                  _requests(context), reads=True, shows=("Task",)),
        Operation("request-item", "ServiceRequest", "Asks for an item, or sends an open request another way.",
                  with_case(asking.request),
                  _object(["item"], item=_TEXT, title=_TEXT, holder=_TEXT, address=_TEXT,
                          channel={"enum": list(requests.CHANNELS)})),
        Operation("merged-record", "ServiceRequest",
                  "The same facts from several sources in groups, and what the sources say differently.",
                  _merged(context), reads=True, shows=("*",)),
        Operation("unlink", "ServiceRequest", "Takes a group of the merged record apart; it stays so.",
                  with_case(merging.unlink), _object(["group", "reason"], group=_TEXT, reason=_TEXT,
                          copy={**_TEXT, "description": "the one to take out; else all are apart"})),
        Operation("link", "ServiceRequest", "Links copies of the record by hand, or an undone group again.",
                  with_case(merging.link),
                  _object(["reason"], group=_TEXT, reason=_TEXT,
                          copies={"type": "array", "items": _TEXT, "minItems": 2})),
        Operation("independence", "ServiceRequest", "How independent a reviewer is, with the facts.",
                  _independence(context), _object(["reviewer"], reviewer=_reviewer_schema(), declaration=_DECLARATION),
                  ),
        Operation("ask-reviewer", "ServiceRequest", "Asks a reviewer, who sees the case from then on.",
                  with_case(review.ask), whom),
        Operation("accept", "ServiceRequest", "The reviewer takes the case.", with_case(review.accept), accepting),
        Operation("decline", "ServiceRequest", "A reviewer who was asked says no.", with_case(review.decline), leaving),
        Operation("withdraw", "ServiceRequest", "A reviewer who had accepted steps back.", with_case(review.withdraw),
                  leaving),
        Operation("submit-report", "ServiceRequest", "Stores the reviewer's draft.", with_case(signing.submit), draft),
        Operation("sign", "ServiceRequest", "The only way to final: report, document and deliveries.",
                  with_case(signing.sign)),
        Operation("amend-report", "ServiceRequest", "Drafts the next version of a signed report.",
                  with_case(signing.amend),
                  _object(["kind", "reason"], kind={"enum": ["amended", "corrected", "appended", "entered-in-error"]},
                          reason=_TEXT, changes=changes)),
        Operation("alignment", "ServiceRequest", "What each provider holds, acknowledged and decided.",
                  _alignment(context), reads=True, shows=("Task",)),
        Operation("acknowledge", "ServiceRequest", "The caller acknowledges a version, for itself.",
                  with_case(providers.acknowledge),
                  _object(["version"], version=_VERSION, what={"enum": ["report", "plan"]})),
        Operation("decide", "ServiceRequest", "The caller's decision on a version of the report.",
                  with_case(providers.decide),
                  _object(["version", "decision"], version=_VERSION, decision={"enum": list(codes.DECISIONS)},
                          comment=_TEXT)),
        Operation("plan-of-record", "ServiceRequest", "The decision owner's plan; delivered like the report.",
                  with_case(providers.plan_of_record),
                  _object(["version", "decision", "text"], version=_VERSION, decision={"enum": list(codes.DECISIONS)},
                          text=_TEXT, items={"type": "array", "items": _TEXT})),
        Operation("disclosures", "ServiceRequest", "What has left, to whom and where, and whether it still might.",
                  _disclosures(context), reads=True, shows=("Task",)),
        Operation("replay", "ServiceRequest", "Tries a delivery on hold again.", with_case(providers.replay),
                  _object(["task", "changed"], task=_TEXT, changed=_TEXT)),
        Operation("preview-delivery", "ServiceRequest",
                  "What each delivery would do, without doing it: the rung, why, and the exact bytes.",
                  _preview(context), _object([], to={**_TEXT, "description": "a part of a recipient's name"})),
        Operation("cover-sheet", "ServiceRequest", "The cover sheet with the link of a delivery that goes by hand.",
                  _cover_sheet(context), _object(["task"], task=_TEXT)),
        Operation("invite-patient", "ServiceRequest",
                  "A link and a code for the patient or a proxy; send them by different ways. Answered once.",
                  _invite(context),
                  _object(["relationship", "name"], relationship={"enum": list(invitation.RELATIONSHIPS)},
                          name={"type": "string", "pattern": r"\S", "maxLength": 120})),
        Operation("revoke-invite", "ServiceRequest", "Calls an invitation back; who is in by it is out at once.",
                  with_case(invitations.revoke), _object(["task"], task=_TEXT)),
        Operation("package", "ServiceRequest", "Everything of the case that the caller may see, as a Bundle.",
                  _package(context), reads=True),
        Operation("audit-trail", "ServiceRequest", "Who did and who saw what of the case, newest first.",
                  _audit_trail(context),
                  _object([], _count={"type": "integer", "minimum": 1, "maximum": audit.MAX_COUNT},
                          _cursor={"type": "string", "maxLength": 80}), reads=True, tells="AuditEvent"),
        Operation("cancel", "Task", "Cancels a Task, or asks its owner to abort it.", with_case(review.cancel),
                  leaving),
    ]  # fmt: skip


def system_operations(context: Context) -> list[Operation]:
    """The rows on the base."""
    return [
        Operation("request-second-opinion", "", "Opens a case from a Bundle, or Parameters with the parts.",
                  _request(context), raw=True),
    ]  # fmt: skip


def _summary(resource: Resource) -> Plain:
    """What the JSON door says of a resource that an operation made or moved."""
    plain: Plain = {"resource": reference(resource), "status": resource.get("status", "")}
    if resource["resourceType"] == "Task":
        plain["businessStatus"] = workflow.business_status(resource)
    if resource["resourceType"] == "DiagnosticReport":
        plain["version"] = report.version_of(resource)
    if resource["resourceType"] == "CarePlan":
        plain["version"] = alignment.plan_version(resource)
    return plain


def opened(found: intake.Opened) -> Result:
    """The answer to an intake: 201 when it opened the case, 200 when it had been opened before."""
    plain: Plain = {
        "id": found.case_id,
        "serviceRequest": f"ServiceRequest/{found.case_id}",
        "task": found.task,
        "patient": found.patient,
    }
    parameters = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": name, "valueReference": {"reference": plain[name]}}
            for name in ("serviceRequest", "task", "patient")
        ],
    }
    if found.warnings:
        plain["warnings"] = [{"path": w.expression, "message": w.diagnostics} for w in found.warnings]
    location = f"ServiceRequest/{found.case_id}"
    return Result(plain, parameters, 201 if found.created else 200, location)


def _request(context: Context) -> Callable[[Caller, str, Plain], Result]:
    def handler(caller: Caller, _: str, sent: Plain) -> Result:
        if "resource" not in sent:
            raise Invalid("Send a Bundle, or Parameters with the parts.")
        resource = sent["resource"]
        if resource["resourceType"] == "Bundle":
            sent_resources = intake.sent_of_bundle(resource)
            texts = [t for t in codec.entry_resources(sent["text"]) if t is not None]
            bodies = [codec.split(text)[0] for text in texts]
            return opened(intake.open_case(context, caller, sent_resources, bodies, sent["key"]))
        if resource["resourceType"] != "Parameters":
            raise Invalid("Send a Bundle, or Parameters with the parts.", path="resourceType")
        sent_resources = intake.sent_of_parameters(resource)
        return opened(intake.open_case(context, caller, sent_resources, [None] * len(sent_resources), sent["key"]))

    return handler


def _gather(context: Context) -> Callable[[Caller, str, Plain], Result]:
    def handler(caller: Caller, case_id: str, plain: Plain) -> Result:
        tasks = gather.again(context, caller, case_id, plain.get("sources", []), full=plain.get("full", False))
        return Result({"tasks": [f"Task/{task}" for task in tasks]}, status=202)

    return handler


def _candidates(context: Context) -> Callable[[Caller, str, Plain], Result]:
    def handler(caller: Caller, case_id: str, plain: Plain) -> Result:
        return Result(confirmation.candidates(context, caller, case_id, plain))

    return handler


def _manifest(context: Context) -> Callable[[Caller, str, Plain], Result]:
    def handler(caller: Caller, case_id: str, _: Plain) -> Result:
        case = intake.find_case(context, caller, case_id)
        sources = [
            {
                "source": package.get("title", ""),
                "asOf": package["date"],
                "received": len(package.get("entry", [])),
                "types": [
                    {"type": a.type, "outcome": a.outcome, "asked": a.asked, "received": a.received,
                     "strangers": a.strangers, "unresolved": a.unresolved, "withheld": a.withheld, "asOf": a.as_of,
                     "since": a.since, "detail": a.detail}
                    for a in records.coverage(package)
                ],
            }
            for package in records.packages(case)
        ]  # fmt: skip
        open_ = [t["owner"].get("display", "") for t in case.tasks_of("gather-records")
                 if t["status"] not in ("completed", "failed", "cancelled", "rejected")]  # fmt: skip
        return Result({"sources": sources, "stillAsking": open_})

    return handler


def _completeness(context: Context) -> Callable[[Caller, str, Plain], Result]:
    def handler(caller: Caller, case_id: str, _: Plain) -> Result:
        case = intake.find_case(context, caller, case_id, gathered=True)
        items = gather.items(context, case)
        return Result(
            {
                "complete": gather.is_over(case) and not any(i.state in checklist.GAPS for i in items),
                "gaps": gather.named_gaps(case, items),
                "items": [
                    {"code": i.code, "title": i.title, "state": i.state, "because": i.because,
                     "evidence": list(i.evidence)}
                    for i in items
                ],
            }
        )  # fmt: skip

    return handler


def _requests(context: Context) -> Callable[[Caller, str, Plain], Result]:
    def handler(caller: Caller, case_id: str, plain: Plain) -> Result:
        return Result(asking.listed(context, caller, case_id, plain))

    return handler


def _merged(context: Context) -> Callable[[Caller, str, Plain], Result]:
    def handler(caller: Caller, case_id: str, _: Plain) -> Result:
        return Result(merging.merged(context, caller, case_id))

    return handler


def _invite(context: Context) -> Callable[[Caller, str, Plain], Result]:
    def handler(caller: Caller, case_id: str, plain: Plain) -> Result:
        return Result(invitations.invite(context, caller, case_id, plain), status=201)

    return handler


def _independence(context: Context) -> Callable[[Caller, str, Plain], Result]:
    def handler(caller: Caller, case_id: str, plain: Plain) -> Result:
        found = review.independence_of(context, caller, case_id, plain)
        rows = [{"result": f.result, "fact": f.fact, "about": f.about} for f in found.findings]
        return Result({"result": found.result, "findings": rows})

    return handler


def _alignment(context: Context) -> Callable[[Caller, str, Plain], Result]:
    def handler(caller: Caller, case_id: str, _: Plain) -> Result:
        return Result(board(*providers.board(context, caller, case_id)))

    return handler


def board(case: Case, found: Board | None) -> Plain:
    """The alignment board as INTERFACE gives it."""
    patient = {"name": display_name(case.patient), "role": "patient", "version": 0, "state": "shown, never blocks"}
    if found is None:
        facts_: Plain = {"id": case.id, "aligned": False, "informed": False}
        rows = [{"name": m.person.name, "role": m.role, "version": 0, "sent": "no", "copy": "none", "ack": "none",
                 "decision": "none", "state": "unknown", "aligned": False} for m in case.audience]  # fmt: skip
        return {
            "case": facts_,
            "providers": rows,
            "patient": patient,
            "waitingFor": ["the signed report"],
            "notices": _notices(case),
        }
    facts_ = {"id": case.id, "aligned": found.aligned, "informed": found.informed, "version": found.version,
              "planOfRecord": found.plan}  # fmt: skip
    return {
        "case": facts_,
        "providers": [_row(row) for row in found.rows],
        "patient": patient,
        "waitingFor": list(found.waiting_for),
        "notices": _notices(case),
    }


def _notices(case: Case) -> list[str]:
    """What blocks nothing and must be seen all the same."""
    return [] if case.pcps else ["no primary care provider is known: nobody there gets the report"]


def _row(row: Row) -> Plain:
    return {
        "name": row.member.person.name,
        "role": row.member.role,
        "version": row.version,
        "sent": row.held.sent,
        "copy": row.held.copy,
        "rung": row.held.rung,
        "ack": row.held.ack,
        "decision": row.held.decision,
        "state": alignment.words(row),
        "aligned": row.aligned,
        "waitingFor": row.waiting_for,
    }


def _disclosures(context: Context) -> Callable[[Caller, str, Plain], Result]:
    def handler(caller: Caller, case_id: str, _: Plain) -> Result:
        return Result(providers.disclosures(context, caller, case_id))

    return handler


def _preview(context: Context) -> Callable[[Caller, str, Plain], Result]:
    def handler(caller: Caller, case_id: str, plain: Plain) -> Result:
        return Result(preview.preview(context, caller, case_id, plain))

    return handler


def _cover_sheet(context: Context) -> Callable[[Caller, str, Plain], Result]:
    def handler(caller: Caller, case_id: str, plain: Plain) -> Result:
        return Result(providers.cover_sheet(context, caller, case_id, plain))

    return handler


def _package(context: Context) -> Callable[[Caller, str, Plain], Result]:
    def handler(caller: Caller, case_id: str, _: Plain) -> Result:
        visibility = context.visibility(caller)
        with context.database.reading() as connection:
            gathered = resources.sees_record(connection, visibility, case_id)
            case = load(connection, visibility, case_id, gathered=gathered, files=True)
        entries = [{"fullUrl": f"{context.base_url}/{reference(r)}", "resource": r} for r in case.resources
                   if rights.unrestricted(caller, r["resourceType"], "r")]  # fmt: skip
        bundle = {"resourceType": "Bundle", "type": "collection", "timestamp": context.instant(), "entry": entries}
        bundle = records.labelled(case, bundle)
        return Result(bundle, bundle)

    return handler


def _audit_trail(context: Context) -> Callable[[Caller, str, Plain], Result]:
    def handler(caller: Caller, case_id: str, plain: Plain) -> Result:
        return audit.trail_of(context, caller, case_id, plain)

    return handler


def case_summary(case: Case) -> Plain:
    """A case for the JSON door: what it is about and how far it has come."""
    task = case.coordination
    signed = case.report
    return {
        "id": case.id,
        "patient": display_name(case.patient),
        "placer": next((i["value"] for i in case.request.get("identifier", []) if "value" in i), ""),
        "opened": task["authoredOn"],
        "status": task["status"],
        "businessStatus": workflow.business_status(task),
        "underReview": [{"item": n, "reference": reference(i), "text": facts.item_title(i)}
                        for n, i in enumerate(case.items)],
        "questions": case.questions,
        "gathering": [{"task": reference(t), "source": t["owner"].get("display", ""), "status": t["status"],
                       "why": t.get("statusReason", {}).get("text", "")} for t in case.tasks_of("gather-records")],
        "report": {"status": signed["status"], "version": report.version_of(signed)} if signed else None,
        "deliveries": [
            {"task": t["id"], "to": t["owner"].get("display", ""),
             "what": (codes.code_of(t["code"], codes.TASK) or "").removeprefix("deliver-"),
             "version": alignment.version_of(t), "status": t["status"],
             "businessStatus": workflow.business_status(t), "why": t.get("statusReason", {}).get("text", ""),
             "evidence": alignment.evidence(t)}
            for t in case.deliveries
        ],
    }  # fmt: skip
