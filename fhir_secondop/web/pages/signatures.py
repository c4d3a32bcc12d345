"""The signatures of a case's report: whether each holds, and the signed bytes to take away and verify elsewhere."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from fhir_secondop.errors import NotFound
from fhir_secondop.opinion import report
from fhir_secondop.opinion.case import Case
from fhir_secondop.service import drafts, sealing
from fhir_secondop.web.pages.frame import Frame


def add(routes: Blueprint, frame: Frame) -> None:
    """Routes /cases/{id}/signed/{version}/report.json and report.jws."""

    @routes.get("/cases/<case_id>/signed/<int:version>/report.json")
    def signed_document(case_id: str, version: int) -> Response:
        _, found = sealing.read(frame.context, frame.caller, case_id, version)
        if not found.data:
            raise NotFound("The signed bytes of this version are not there.")
        return _saved(found.data)

    @routes.get("/cases/<case_id>/signed/<int:version>/report.jws")
    def signature(case_id: str, version: int) -> Response:
        _, found = sealing.read(frame.context, frame.caller, case_id, version)
        if not found.jws:
            raise NotFound("This version has no signature.")
        return _saved(found.jws.encode())


def of_case(frame: Frame, case: Case) -> list[dict[str, Any]]:
    """What `$verify` says of each signed version, newest first."""
    current = report.version_of(case.report) if case.report is not None and drafts.is_signed(case) else 0
    return [frame.run("verify", case.id, {"version": version}) for version in range(current, 0, -1)]


def _saved(data: bytes) -> Response:
    # To be kept to the byte: no browser shows it, or takes it for a page.
    headers = {"Content-Disposition": "attachment", "Content-Security-Policy": "default-src 'none'; sandbox"}
    return Response(data, headers=headers, content_type="application/octet-stream")
