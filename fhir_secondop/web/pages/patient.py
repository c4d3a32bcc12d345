"""The patient's own pages: where it stands in plain language, the questions, the report, and who gets it."""

from __future__ import annotations

import base64
from typing import Any

from flask import Blueprint, Response, redirect
from flask.typing import ResponseReturnValue

from fhir_secondop.errors import NotFound
from fhir_secondop.fhir import times
from fhir_secondop.opinion import facts, lines, plain_language, progress, report
from fhir_secondop.opinion.case import Case
from fhir_secondop.rest import disclosure
from fhir_secondop.service import drafts, files, worklist
from fhir_secondop.service.operations.case import case_summary
from fhir_secondop.web.pages import actions, offers
from fhir_secondop.web.pages.frame import Frame

PLAIN = {
    "gathering": "We are collecting your records from the places that treat you.",
    "to-assign": "Your records are in. We are looking for the right specialist.",
    "asked": "Your records are in. We have asked a specialist to look at them.",
    "review": "A specialist is reading your records and answering your questions.",
    "delivering": "The second opinion is written and signed. It is on its way to your doctors.",
    "responses": "Your doctors have the second opinion or are getting it. They are deciding what to do with it.",
    "aligned": "All your doctors have the second opinion and know the plan.",
    "closed": "This second opinion was ended without a report. Ask the practice that requested it.",
}
STEPS = (
    ("Records collected", ("gathering",)),
    ("Specialist found", ("gathering", "to-assign", "asked")),
    ("Report written", ("gathering", "to-assign", "asked", "review")),
    ("Your doctors informed", ("gathering", "to-assign", "asked", "review", "delivering", "responses")),
)
"""The four steps, each with the stages in which it is still to come."""


def add(routes: Blueprint, frame: Frame) -> None:
    """Routes /my and /my/{id}."""

    @routes.get("/my")
    def mine() -> ResponseReturnValue:
        found = worklist.listed(frame.context, frame.caller, 20)
        for one in found:
            disclosure.disclosed_of(one.case.id)
        if len(found) == 1:
            return redirect(f"/my/{found[0].case.id}", 303)
        rows = [(one.case.id, [facts.item_title(i) for i in one.case.items], PLAIN[one.stage],
                 times.instant(one.clocks.request.started)[:10])
                for one in found]  # fmt: skip
        return frame.page("my", rows=rows)

    @routes.get("/my/<case_id>")
    def my_case(case_id: str) -> Response:
        case = frame.find(case_id)
        stage = progress.stage(case)
        board = frame.run("alignment", case_id)
        steps = [(title, stage != "closed" and stage not in before) for title, before in STEPS]
        trail = frame.run("audit-trail", case_id)["rows"]
        seen_by = [row for row in trail if (row["status"] or 0) < 300 and row["caller"] != frame.caller.id]
        return frame.page(
            "my_case", case_id=case_id, stage=stage, said=PLAIN[stage], steps=steps, questions=case.questions,
            board=board, text=_text(frame, case), summary=case_summary(case), seen_by=seen_by,
            able=offers.of_case(case, frame.caller),
            told=_told(case), decision=facts.decision(case), items=[facts.item_title(i) for i in case.items],
        )  # fmt: skip

    @routes.get("/cases/<case_id>/report.pdf")
    def report_pdf(case_id: str) -> Response:
        return _form(frame, frame.find(case_id), "application/pdf")

    @routes.get("/cases/<case_id>/report.txt")
    def report_text(case_id: str) -> Response:
        return _form(frame, frame.find(case_id), "text/plain")

    @routes.get("/cases/<case_id>/report.html")
    def report_html(case_id: str) -> Response:
        return _form(frame, frame.find(case_id), "text/html")


def _form(frame: Frame, case: Case, kind: str) -> Response:
    """The signed report in one of the forms in which every recipient gets it."""
    if not drafts.is_signed(case) or case.report is None:
        raise NotFound("There is no signed report yet.")
    for place, one in enumerate(lines.attachments(case.report)):
        if str(one.get("contentType", "")).startswith(kind):
            data, media = files.read(
                frame.context, frame.caller, case.id, f"DiagnosticReport/{case.report['id']}", place
            )
            return actions.document(data, media, ours=True)
    raise NotFound("The report has no such form.")


def _told(case: Case) -> dict[str, Any] | None:
    """What the signed report says, in plain language; None before the signature."""
    if not drafts.is_signed(case) or case.report is None:
        return None
    # Of the record nothing is said here: what was there when it was signed stands in the report itself.
    said = facts.of_report(
        case, report.from_fhir(case), status=case.report["status"], version=report.version_of(case.report),
        issued=case.report["issued"], reviewer=case.report["performer"][0]["reference"], items=[],
        stated=drafts.stated(case),
    )  # fmt: skip
    return plain_language.of_facts(said)


def _text(frame: Frame, case: Case) -> str:
    if not drafts.is_signed(case) or case.report is None:
        return ""
    found = (a for a in lines.attachments(case.report) if str(a.get("contentType", "")).startswith("text/plain"))
    return base64.b64decode(next(found, {}).get("data", "")).decode("utf-8", "replace")
