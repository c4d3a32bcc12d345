"""A case: what is asked, where it stands, who holds what, what happened; and what its reader can do now."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, redirect, request
from flask.typing import ResponseReturnValue

from fhir_secondop.errors import NotFound
from fhir_secondop.opinion import blinding, codes, consultation, facts, lines, progress, urgent, workflow
from fhir_secondop.opinion.case import Case
from fhir_secondop.opinion.clocks import AWAITING
from fhir_secondop.opinion.people import display_name
from fhir_secondop.service import cases, drafts, history
from fhir_secondop.service.operations.case import case_summary
from fhir_secondop.web.pages import offers, signatures
from fhir_secondop.web.pages.frame import Frame

Plain = dict[str, Any]


def add(routes: Blueprint, frame: Frame) -> None:
    """Routes /cases/{id}, its candidates, who may review it, and what one of its deliveries would do."""

    @routes.get("/cases/<case_id>")
    def show(case_id: str) -> ResponseReturnValue:
        if frame.caller.roles == {"patient"}:
            done = request.args.get("done", "")
            return redirect(f"/my/{case_id}" + (f"?{urlencode({'done': done})}" if done else ""), 303)
        return _page(frame, case_id)

    @routes.get("/cases/<case_id>/confirm/<task_id>")
    def choose(case_id: str, task_id: str) -> Response:
        found = frame.run("candidates", case_id, {"task": task_id})
        return frame.page("confirm", case_id=case_id, task_id=task_id, found=found)

    @routes.get("/cases/<case_id>/reviewers")
    def reviewers(case_id: str) -> Response:
        able = offers.of_case(frame.find(case_id), frame.caller).names_reviewer
        return frame.page("reviewers", case_id=case_id, found=frame.run("match-reviewer", case_id), able=able)

    @routes.get("/cases/<case_id>/deliveries/<task_id>")
    def delivery(case_id: str, task_id: str) -> Response:
        case = frame.find(case_id)
        listed = case_summary(case)["deliveries"]
        one = next((d for d in listed if d["task"] == task_id), None)
        if one is None:
            raise NotFound("The case has no such delivery.")
        able = offers.of_case(case, frame.caller)
        would: Plain | None = None
        if request.args.get("would"):  # it asks the EHR: not each time somebody looks
            rehearsed = frame.run("preview-delivery", case_id, {"to": one["to"]})["deliveries"]
            would = next(
                (d for d in rehearsed if d["task"] == task_id), {"why": "a newer version goes there", "rung": 0}
            )
        return frame.page("delivery", case_id=case_id, one=one, would=would, able=able)


def asked(case: Case) -> Plain:
    """What is asked, by whom and until when."""
    requester = case.requester
    return {
        "patient": facts.patient(case),
        "requester": requester.name if requester else display_name(case.patient),
        "organization": requester.organization_name if requester else "",
        "on": case.request.get("authoredOn") or case.coordination["authoredOn"],
        "priority": case.request.get("priority", ""),
        "reasons": [facts.reason_text(r) for r in case.request.get("reasonCode", []) if facts.reason_text(r)],
        "decision": facts.decision(case),
        "items": [
            {"title": facts.item_title(i), "by": ", ".join(p.name for p in case.authors_of(i)),
             "kind": "diagnosis" if i["resourceType"] == "Condition" else "plan"}
            for i in case.items
        ],
        "questions": case.questions,
        "placer": next((i["value"] for i in case.request.get("identifier", []) if "value" in i), ""),
    }  # fmt: skip


def _page(frame: Frame, case_id: str) -> Response:
    case = frame.find(case_id)
    able = offers.of_case(case, frame.caller)
    candidates = cases.candidates(frame.context, case) if able.coordinates else frozenset()
    summary, stage = case_summary(case), progress.stage(case)
    return frame.page(
        "case",
        case_id=case_id,
        asked=asked(case),
        stage=stage,
        waiting=progress.waiting_for(case, stage),
        needs=progress.needs(case, candidates) if able.coordinates else [],
        board=frame.run("alignment", case_id),
        summary=summary,
        results=_results(frame, case_id, summary),
        urgent=urgent.told(case),
        clinicians=case.audience,
        deliveries=summary["deliveries"],
        manifest=frame.run("manifest", case_id),
        complete=frame.run("completeness", case_id) if frame.sees_record(case_id) else None,
        requests=frame.run("requests", case_id)["requests"],
        merged=frame.run("merged-record", case_id) if frame.sees_record(case_id) else None,
        consultation={"how": consultation.said(case), "appointments": consultation.listed(case)},
        clocks=frame.run("clocks", case_id),
        awaiting=AWAITING,
        held_by_reason=case.coordination["status"] in workflow.HOLDABLE,
        events=history.events(frame.context, frame.caller, case_id),
        able=able,
        blind=frame.is_blind(case_id),
        blindness=blinding.of_case(case),
        third=summary["thirdOpinion"],
        thirds=frame.third_opinions(case_id),
        compared=frame.run("compare", case_id) if drafts.is_signed(case) else None,
        signed=drafts.is_signed(case),
        signatures=signatures.of_case(frame, case),
        plan=_plan_version(summary),
        mine=_mine(able, summary),
        decisions=codes.DECISIONS,
        reasons=[r for r in codes.STATUS_REASONS if r != "not-selected"],
        coordination=case.coordination["id"],
    )


def _plan_version(summary: Plain) -> int:
    """The newest version of the plan of record, 0 before there is one."""
    return max((d["version"] for d in summary["deliveries"] if d["what"] == "plan"), default=0)


def _results(frame: Frame, case_id: str, summary: Plain) -> dict[str, str]:
    """What came of proposals, as the record names it, by reference; nothing for who does not see the record."""
    cited = {result for one in summary.get("proposals", []) for result in one["results"]}
    if not cited or not frame.sees_record(case_id):
        return {}
    copies = [copy for entry in lines.of_case(frame.find(case_id, gathered=True)) for copy in entry.copies]
    return {
        c.reference: f"{c.about}{f', {c.date}' if c.date else ''}, {c.source}" for c in copies if c.reference in cited
    }


def _mine(able: offers.Offers, summary: Plain) -> dict[str, Plain]:
    """The newest delivery of report and plan to the reader, by what it carries. A proposal is answered elsewhere."""
    found: dict[str, Plain] = {}
    for one in summary["deliveries"]:
        is_mine = able.member is not None and one["to"] == able.member.person.name and one["status"] != "cancelled"
        is_mine = is_mine and one["what"] in ("report", "plan")
        if is_mine and one["version"] >= found.get(one["what"], {"version": 0})["version"]:
            found[one["what"]] = one
    return found
