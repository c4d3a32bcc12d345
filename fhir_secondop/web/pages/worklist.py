"""The work list: what needs a person, then every case with its state, its clocks and whom it waits for."""

from __future__ import annotations

from collections.abc import Iterable
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
from fhir_secondop.store.case_states import MOST_COUNTED, Wanted
from fhir_secondop.web.pages.frame import Frame

SHOWN = 50
OF_A_KIND, OF_A_KIND_ELSE = 10, 200
"""Cases of a kind of need that are read for who coordinates, and for others."""
OF_ALL = ("urgent", "to-check")
"""What may be somebody's who does not coordinate."""


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
        return _page(frame, *(request.args.get(name, "") for name in ("stage", "need", "before")))


def _page(frame: Frame, stage: str, need: str, before: str) -> Response:
    caller = frame.caller
    if rights.summary_scopes_missing(caller):
        return frame.page("worklist", rows=(), stages={}, total=0, stage=stage, need=need, before="", older="",
                          needs={}, needing=(), unreadable=())  # fmt: skip
    coordinates = "coordinator" in caller.roles
    kinds = tuple(progress.NEEDS) if coordinates else OF_ALL
    wanted = Wanted(stage, need if need in kinds else "", before)
    # What of all this is theirs who do not coordinate says each case alone.
    of_a_kind = OF_A_KIND if coordinates else OF_A_KIND_ELSE
    overview = worklist.overview(frame.context, caller, kinds, wanted, SHOWN, of_a_kind)
    rows = {one.case.id: row_of(one, caller) for one in (*overview.page, *overview.needing)}
    waiting = needing([rows[one.case.id] for one in overview.needing], overview.needs, of_a_kind)
    needs = overview.needs if coordinates else {kind: len(pairs) for kind, pairs in waiting if pairs}
    for case_id in rows:
        disclosure.disclosed_of(case_id)
    return frame.page(
        "worklist", rows=[rows[one.case.id] for one in overview.page], stages=overview.stages,
        total=sum(overview.stages.values()), most=MOST_COUNTED, stage=stage, need=wanted.need, before=before,
        older=overview.older, needs=needs, needing=[(kind, pairs) for kind, pairs in waiting if kind in needs],
        unreadable=overview.unreadable if coordinates else (),
    )  # fmt: skip


def needing(rows: list[Row], kinds: Iterable[str], most: int) -> list[tuple[str, list[tuple[Row, list[Need]]]]]:
    """What needs a person, by kind, the gravest first: of each the first cases, with all that they need of it."""
    found = []
    for kind in kinds:
        pairs = [(row, mine) for row in rows if (mine := [need for need in row.needs if need.kind == kind])]
        found.append((kind, pairs[:most]))
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
        waiting=progress.waiting_for(case, one.stage),
        clocks=one.clocks,
        needs=tuple(_needs(one, caller)),
    )


def _needs(one: Listed, caller: Caller) -> list[Need]:
    if "coordinator" in caller.roles:
        return progress.needs(one.case, one.candidates)
    mine = progress.check_needs(one.case) if may_close(one.case, caller) else ()
    return [*progress.urgent_needs(one.case), *mine]
