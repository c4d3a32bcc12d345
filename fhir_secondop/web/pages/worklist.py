"""The work list: what needs a person, then every case with its state, its clocks and whom it waits for."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Blueprint, Response, redirect, request
from flask.typing import ResponseReturnValue

from fhir_secondop.access import rights
from fhir_secondop.model import Caller
from fhir_secondop.opinion import facts, progress
from fhir_secondop.opinion.clocks import Clocks
from fhir_secondop.opinion.people import display_name
from fhir_secondop.opinion.progress import Need
from fhir_secondop.rest import disclosure
from fhir_secondop.service import worklist
from fhir_secondop.service.checks import may_close
from fhir_secondop.service.worklist import Listed
from fhir_secondop.web.pages.frame import Frame

SHOWN = 200
OPEN = "open"


@dataclass(frozen=True, slots=True)
class Row:
    """A case as the list shows it."""

    id: str
    patient: str
    born: str
    placer: str
    about: tuple[str, ...]
    priority: str
    deadline: str
    stage: str
    waiting: tuple[str, ...]
    clocks: Clocks
    needs: tuple[Need, ...]


def add(routes: Blueprint, frame: Frame) -> None:
    """Route /."""

    @routes.get("/")
    def work_list() -> ResponseReturnValue:
        roles = frame.caller.roles
        if roles == {"patient"}:
            return redirect("/my", 303)
        if roles == {"operator"}:
            return redirect("/connections", 303)
        return _page(frame, request.args.get("stage", ""), request.args.get("before", ""))


def _page(frame: Frame, wanted: str, before: str) -> Response:
    found: list[Listed] = []
    older = ""
    if not rights.summary_scopes_missing(frame.caller):
        found, older = worklist.listed(frame.context, frame.caller, SHOWN, before)
    for one in found:
        disclosure.disclosed_of(one.case.id)
    rows = [row_of(one, frame.caller) for one in found]
    counts = {stage: sum(1 for row in rows if row.stage == stage) for stage in progress.STAGES}
    shown = [row for row in rows if not wanted or row.stage == wanted]
    return frame.page("worklist", rows=shown, counts=counts, total=len(rows), wanted=wanted,
                      before=before, older=older, needing=needing(rows))  # fmt: skip


def needing(rows: list[Row]) -> list[tuple[str, list[tuple[Row, list[Need]]]]]:
    """What needs a person, by kind, the gravest first: each case once, with all that it needs of that kind."""
    found = []
    for kind in progress.NEEDS:
        pairs = [(row, mine) for row in rows if (mine := [need for need in row.needs if need.kind == kind])]
        if pairs:
            found.append((kind, pairs))
    return found


def row_of(one: Listed, caller: Caller) -> Row:
    """A listed case as a row; what needs a person is the coordinator's, a call everybody's whom it may reach, what a
    chart shows also theirs who decide.
    """
    case, decision = one.case, facts.decision(one.case)
    return Row(
        id=case.id,
        patient=display_name(case.patient),
        born=case.patient.get("birthDate", ""),
        placer=next((i["value"] for i in case.request.get("identifier", []) if "value" in i), ""),
        about=tuple(facts.item_title(item) for item in case.items),
        priority=case.request.get("priority", ""),
        deadline=decision["deadline"],
        stage=one.stage,
        waiting=progress.waiting_for(case),
        clocks=one.clocks,
        needs=tuple(_needs(one, caller)),
    )


def _needs(one: Listed, caller: Caller) -> list[Need]:
    if "coordinator" in caller.roles:
        return progress.needs(one.case, one.candidates)
    mine = progress.check_needs(one.case) if may_close(one.case, caller) else ()
    return [*progress.urgent_needs(one.case), *mine]
