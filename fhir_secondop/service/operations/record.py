"""Operations on the record of a case: gathered, complete or not, merged, asked for."""

from __future__ import annotations

from functools import partial

from fhir_secondop.model import Caller, Operation, Result
from fhir_secondop.opinion import checklist, records, requests
from fhir_secondop.service import asking, confirmation, gather, intake, merging
from fhir_secondop.service.context import Context
from fhir_secondop.service.operations.shapes import TEXT, Handler, Plain, obj, telling, with_case


def rows(context: Context) -> list[Operation]:
    """The rows."""
    act = partial(with_case, context)
    tell = partial(telling, context)
    return [
        Operation("gather", "ServiceRequest", "Gathers the record again.", _gather(context),
                  obj([], sources={"type": "array", "items": TEXT},
                          full={"type": "boolean", "description": "everything, not only what changed"})),
        Operation("candidates", "ServiceRequest", "Who may be the patient at an EHR where that is not certain.",
                  tell(confirmation.candidates), obj(["task"], task=TEXT)),
        Operation("confirm-patient", "ServiceRequest", "Says which candidate is the patient there, or none.",
                  act(confirmation.confirm),
                  obj(["task", "patient"], task=TEXT,
                          patient={**TEXT, "description": 'the id there of a candidate, or "none"'})),
        Operation("manifest", "ServiceRequest", "What was asked of each source, got, refused and is missing.",
                  _manifest(context), reads=True, shows=("List", "Task")),
        Operation("completeness", "ServiceRequest", "The checklist, with the state of each item and its evidence.",
                  _completeness(context), reads=True, shows=("*",)),
        Operation("requests", "ServiceRequest", "What was asked of whom because the record lacks it, and what came.",
                  tell(asking.listed), reads=True, shows=("Task",)),
        Operation("request-item", "ServiceRequest", "Asks for an item, or sends an open request another way.",
                  act(asking.request),
                  obj(["item"], item=TEXT, title=TEXT, holder=TEXT, address=TEXT,
                          channel={"enum": list(requests.CHANNELS)})),
        Operation("merged-record", "ServiceRequest",
                  "The same facts from several sources in groups, and what the sources say differently.",
                  tell(_merged), reads=True, shows=("*",)),
        Operation("unlink", "ServiceRequest", "Takes a group of the merged record apart; it stays so.",
                  act(merging.unlink), obj(["group", "reason"], group=TEXT, reason=TEXT,
                          copy={**TEXT, "description": "the one to take out; else all are apart"})),
        Operation("link", "ServiceRequest", "Links copies of the record by hand, or an undone group again.",
                  act(merging.link),
                  obj(["reason"], group=TEXT, reason=TEXT,
                          copies={"type": "array", "items": TEXT, "minItems": 2})),
    ]  # fmt: skip


def _merged(context: Context, caller: Caller, case_id: str, _: Plain) -> Plain:
    return merging.merged(context, caller, case_id)


def _gather(context: Context) -> Handler:
    def handler(caller: Caller, case_id: str, plain: Plain) -> Result:
        tasks = gather.again(context, caller, case_id, plain.get("sources", []), full=plain.get("full", False))
        return Result({"tasks": [f"Task/{task}" for task in tasks]}, status=202)

    return handler


def _manifest(context: Context) -> Handler:
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


def _completeness(context: Context) -> Handler:
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
