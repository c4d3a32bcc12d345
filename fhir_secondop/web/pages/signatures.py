"""The signatures of a case's report: whether each holds, and the signed bytes to take away and verify elsewhere."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from fhir_secondop.errors import NotFound
from fhir_secondop.opinion import report
from fhir_secondop.opinion.case import Case
from fhir_secondop.service import sealing
from fhir_secondop.web import headers
from fhir_secondop.web.pages.frame import Frame


def add(routes: Blueprint, frame: Frame) -> None:
    """Routes /cases/{id}/signed/{version}/report.json and report.jws."""

    @routes.get("/cases/<case_id>/signed/<int:version>/report.json")
    def signed_document(case_id: str, version: int) -> Response:
        _, found = sealing.read(frame.context, frame.caller, case_id, version)
        if not found.data:
            raise NotFound("The signed bytes of this version are not there.")
        return headers.saved(found.data)

    @routes.get("/cases/<case_id>/signed/<int:version>/report.jws")
    def signature(case_id: str, version: int) -> Response:
        _, found = sealing.read(frame.context, frame.caller, case_id, version)
        if not found.jws:
            raise NotFound("This version has no signature.")
        return headers.saved(found.jws.encode())


def of_case(frame: Frame, case: Case) -> list[dict[str, Any]]:
    """What `$verify` says of each signed version, newest first."""
    current = report.version_of(case.report) if case.report is not None else 0
    return [frame.run("verify", case.id, {"version": version}) for version in range(current, 0, -1)]
