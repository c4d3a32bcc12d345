"""Operations on a case as a whole: everything of it, who saw it, and the link of its patient."""

from __future__ import annotations

from functools import partial

from fhir_secondop.access import rights
from fhir_secondop.model import Caller, Operation, Result
from fhir_secondop.opinion import (
    alignment,
    checks,
    codes,
    consultation,
    eligibility,
    facts,
    invitation,
    proposals,
    records,
    report,
    urgent,
    watches,
    workflow,
)
from fhir_secondop.opinion.case import Case, reference
from fhir_secondop.opinion.clocks import AWAITING
from fhir_secondop.opinion.people import display_name
from fhir_secondop.opinion.third import suggested
from fhir_secondop.service import audit, clocks, follow_up, holds, invitations, preliminary, scheduling, third
from fhir_secondop.service.context import Context, load
from fhir_secondop.service.operations.shapes import TEXT, Handler, Plain, obj, telling, with_case
from fhir_secondop.store import resources

_SHORT = {"type": "string", "pattern": r"\S", "maxLength": 200}
_TIME = {"type": "string", "maxLength": 40,
         "description": "2026-11-23T09:30:00Z; without the zone in the site's own"}  # fmt: skip


def rows(context: Context) -> list[Operation]:
    """The rows."""
    act = partial(with_case, context)
    tell = partial(telling, context)
    return [
        Operation("invite-patient", "ServiceRequest",
                  "A link and a code for the patient or a proxy; send them by different ways. Answered once.",
                  tell(invitations.invite, 201),
                  obj(["relationship", "name"], relationship={"enum": list(invitation.RELATIONSHIPS)},
                          name={"type": "string", "pattern": r"\S", "maxLength": 120})),
        Operation("revoke-invite", "ServiceRequest", "Calls an invitation back; who is in by it is out at once.",
                  act(invitations.revoke), obj(["task"], task=TEXT)),
        Operation("third-opinion", "ServiceRequest",
                  "Opens a case for a third opinion, read blind to both; suggested when the two are discordant.",
                  tell(third.ask, 201), obj(["reason"], reason=TEXT)),
        Operation("ask-follow-up", "ServiceRequest", "A question about the signed report; an addendum answers it.",
                  act(follow_up.ask), obj(["text"], text={**TEXT, "pattern": r"\S"})),
        Operation("clocks", "ServiceRequest",
                  "How long since the request and since the record was complete, pauses, when it is due, notices.",
                  tell(clocks.told), reads=True, shows=("Task", "Communication")),
        Operation("pause", "ServiceRequest", "The case waits for somebody else; its clocks stand still.",
                  act(holds.pause),
                  obj(["reason"], text=TEXT, reason={"enum": [*AWAITING, *codes.STATUS_REASONS],
                          "description": "what it waits for, or why it is on hold"})),
        Operation("resume", "ServiceRequest", "The case goes on where it was.", act(holds.resume)),
        Operation("schedule", "ServiceRequest",
                  "Records what was booked elsewhere, and what became of it: Appointment and Encounter.",
                  tell(scheduling.schedule),
                  obj([], **{"for": {"enum": list(consultation.PURPOSES), "default": consultation.CONSULTATION}},
                          mode={"enum": list(consultation.MODES)},
                          status={"enum": list(consultation.STATUSES), "default": "booked"},
                          start=_TIME, end=_TIME, booking={**_SHORT, "description": "its identifier elsewhere"},
                          place=_SHORT, reason=_SHORT)),
        Operation("package", "ServiceRequest", "Everything of the case that the caller may see, as a Bundle.",
                  _package(context), reads=True),
        Operation("audit-trail", "ServiceRequest", "Who did and who saw what of the case, newest first.",
                  _audit_trail(context),
                  obj([], _count={"type": "integer", "minimum": 1, "maximum": audit.MAX_COUNT},
                          _cursor={"type": "string", "maxLength": 80}), reads=True, tells="AuditEvent"),
    ]  # fmt: skip


def _package(context: Context) -> Handler:
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


def _audit_trail(context: Context) -> Handler:
    def handler(caller: Caller, case_id: str, plain: Plain) -> Result:
        return audit.trail_of(context, caller, case_id, plain)

    return handler


LINE_TYPES = ("ServiceRequest", "Patient", "Task", "DiagnosticReport")
"""The types that `case_line` reads."""


def case_line(case: Case) -> Plain:
    """A case in a list of many: whose it is and how far it has come."""
    task = case.coordination
    signed = case.report
    return {
        "id": case.id,
        "patient": display_name(case.patient),
        "placer": next((i["value"] for i in case.request.get("identifier", []) if "value" in i), ""),
        "opened": task["authoredOn"],
        "status": task["status"],
        "businessStatus": workflow.business_status(task),
        "report": {"status": signed["status"], "version": report.version_of(signed)} if signed else None,
    }


def case_summary(case: Case) -> Plain:
    """A case for the JSON door: what it is about and how far it has come."""
    return {
        **case_line(case),
        "underReview": [{"item": n, "reference": reference(i), "text": facts.item_title(i)}
                        for n, i in enumerate(case.items)],
        "questions": case.questions,
        "followUps": follow_up.about(case),
        "preliminary": preliminary.told(case),
        "proposals": proposals.told(case),
        "gathering": [{"task": reference(t), "source": t["owner"].get("display", ""), "status": t["status"],
                       "why": t.get("statusReason", {}).get("text", "")} for t in case.tasks_of("gather-records")],
        "thirdOpinion": {"suggested": bool(suggested(case)), "why": suggested(case)},
        **({"urgent": urgent.told(case)} if urgent.of_case(case) else {}),
        **({"watched": watches.told(case)} if case.tasks_of(workflow.WATCH) else {}),
        **({"toCheck": checks.told(case)} if checks.of_case(case) else {}),
        "insurance": eligibility.told(case),
        "deliveries": [
            {"task": t["id"], "to": t["owner"].get("display", ""),
             "what": (codes.code_of(t["code"], codes.TASK) or "").removeprefix("deliver-"),
             "version": alignment.version_of(t), "status": t["status"],
             "businessStatus": workflow.business_status(t), "why": t.get("statusReason", {}).get("text", ""),
             "evidence": alignment.evidence(t)}
            for t in case.deliveries
        ],
    }  # fmt: skip
