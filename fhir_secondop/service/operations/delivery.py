"""Operations after the signature: what each provider holds and decides, and what has left to whom."""

from __future__ import annotations

from functools import partial

from fhir_secondop.model import Caller, Operation, Resource, Result
from fhir_secondop.opinion import alignment, checks, codes, facts, planned
from fhir_secondop.opinion.alignment import Board, Row
from fhir_secondop.opinion.case import Case
from fhir_secondop.opinion.people import display_name
from fhir_secondop.service import checks as checking
from fhir_secondop.service import preview, providers
from fhir_secondop.service.context import Context
from fhir_secondop.service.operations.shapes import TEXT, VERSION, Handler, Plain, obj, telling, with_case

_CODED = obj(["text", "kind", "system", "code"], text=TEXT, kind={"enum": list(planned.TYPES)},
             system={"type": "string", "format": "uri", "pattern": r"^\S+$", "maxLength": 200},
             code={"type": "string", "pattern": r"^\S+( \S+)*$", "maxLength": 100},
             avoid={"type": "boolean"})  # fmt: skip


def rows(context: Context) -> list[Operation]:
    """The rows."""
    act = partial(with_case, context)
    tell = partial(telling, context)
    return [
        Operation("alignment", "ServiceRequest", "What each provider holds, acknowledged and decided.",
                  _alignment(context), reads=True, shows=("Task",)),
        Operation("acknowledge", "ServiceRequest", "The caller acknowledges a version, for itself.",
                  act(providers.acknowledge),
                  obj(["version"], version=VERSION, what={"enum": ["report", "plan"]})),
        Operation("decide", "ServiceRequest", "The caller's decision on a version of the report.",
                  act(providers.decide),
                  obj(["version", "decision"], version=VERSION, decision={"enum": list(codes.DECISIONS)},
                          comment=TEXT)),
        Operation("plan-of-record", "ServiceRequest", "The decision owner's plan; delivered like the report.",
                  act(providers.plan_of_record),
                  obj(["version", "decision", "text"], version=VERSION, decision={"enum": list(codes.DECISIONS)},
                          text=TEXT, items={"type": "array", "items": TEXT},
                          coded={"type": "array", "items": _CODED, "description":
                                 "what charts are compared with later; avoid: it is not to be done"})),
        Operation("close-check", "ServiceRequest",
                  "Says what something is that a chart was seen to contradict, and why; nothing there is changed.",
                  act(checking.close),
                  obj(["task", "answer", "reason"], task=TEXT, answer={"enum": list(checks.ANSWERS)},
                          reason={**TEXT, "pattern": r"\S"})),
        Operation("disclosures", "ServiceRequest", "What has left, to whom and where, and whether it still might.",
                  tell(_disclosures), reads=True, shows=("Task",)),
        Operation("replay", "ServiceRequest", "Tries a delivery on hold again.", act(providers.replay),
                  obj(["task", "changed"], task=TEXT, changed=TEXT)),
        Operation("preview-delivery", "ServiceRequest",
                  "What each delivery would do, without doing it: the rung, why, and the exact bytes.",
                  tell(preview.preview), obj([], to={**TEXT, "description": "a part of a recipient's name"})),
        Operation("cover-sheet", "ServiceRequest", "The cover sheet with the link of a delivery that goes by hand.",
                  tell(providers.cover_sheet), obj(["task"], task=TEXT)),
    ]  # fmt: skip


def _disclosures(context: Context, caller: Caller, case_id: str, _: Plain) -> Plain:
    return providers.disclosures(context, caller, case_id)


def _alignment(context: Context) -> Handler:
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
    lacking = [] if case.pcps else ["no primary care provider is known: nobody there gets the report"]
    return [*lacking, *(_said(item) for item in checks.of_case(case) if checks.stands(item))]


def _said(item: Resource) -> str:
    state = "to check" if checks.is_open(item) else "the chart diverges"
    return f"{state}: {item['description']} (seen {facts.moment(item['authoredOn'])})"


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
