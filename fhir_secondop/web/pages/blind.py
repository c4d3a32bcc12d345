"""The blind first read: the record without the first opinion, and the form that locks what the reviewer thinks."""

from __future__ import annotations

from flask import Blueprint
from flask.typing import ResponseReturnValue

from fhir_secondop.opinion import blinding, lines
from fhir_secondop.service import drafts
from fhir_secondop.web.pages.frame import Frame, seen
from fhir_secondop.web.pages.records import by_chapter


def add(routes: Blueprint, frame: Frame) -> None:
    """Route /cases/{id}/first-read."""

    @routes.get("/cases/<case_id>/first-read")
    def first_read(case_id: str) -> ResponseReturnValue:
        case = frame.find(case_id, gathered=True)
        drafts.as_reviewer(case, frame.caller)
        if not frame.is_blind(case_id):
            return seen(f"/cases/{case_id}/review" if blinding.of_case(case) is None else f"/cases/{case_id}")
        return frame.page(
            "first_read", case_id=case_id, questions=case.questions, chapters=by_chapter(lines.of_case(case)),
            merged=frame.run("merged-record", case_id),
        )  # fmt: skip
