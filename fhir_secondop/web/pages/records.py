"""The record of a case in full: every copy by chapter, with its source; conflicts; what is linked and by whom."""

from __future__ import annotations

from flask import Blueprint, Response

from fhir_secondop.opinion import lines, proposals
from fhir_secondop.service.arrivals import is_result
from fhir_secondop.web.pages import offers
from fhir_secondop.web.pages.frame import Frame


def add(routes: Blueprint, frame: Frame) -> None:
    """Route /cases/{id}/records."""

    @routes.get("/cases/<case_id>/records")
    def record(case_id: str) -> Response:
        case = frame.find(case_id, gathered=True)
        entries = lines.of_case(case)
        return frame.page(
            "records",
            case_id=case_id,
            chapters=by_chapter(entries),
            merged=frame.run("merged-record", case_id),
            manifest=frame.run("manifest", case_id),
            able=offers.of_case(case, frame.caller),
            proposals=[
                p for p in proposals.told(case) if p["outcome"] is None or p["outcome"]["outcome"] == "accepted"
            ],
            results=[line for entry in entries for line in entry.copies if is_result(line.reference)],
        )


def by_chapter(found: list[lines.Entry]) -> list[tuple[str, list[lines.Entry]]]:
    """The entries under their chapters, without the empty ones."""
    return [(c, mine) for c in lines.CHAPTERS if (mine := [one for one in found if one.chapter == c])]
