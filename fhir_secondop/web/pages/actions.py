"""Every form of a case: a row of the table of operations takes it, with the caller who is signed in."""

from __future__ import annotations

import base64

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue

from fhir_secondop.errors import NotFound
from fhir_secondop.service import files
from fhir_secondop.web.pages import forms
from fhir_secondop.web.pages.frame import Frame, seen

# What a browser may show by itself: nothing that could run.
_SHOWN = ("application/pdf", "image/png", "image/jpeg", "text/plain")
# These have pages of their own: a draft has a version, and a signature wants a fresh proof of who signs.
_ELSEWHERE = ("submit-report", "amend-report", "sign")


def add(routes: Blueprint, frame: Frame) -> None:
    """Routes /cases/{id}/do/{operation}, independence, cancellation, the cover sheet, and files."""

    @routes.post("/cases/<case_id>/do/<code>")
    def act(case_id: str, code: str) -> ResponseReturnValue:
        row = frame.rows.get(("ServiceRequest", code))
        if row is None or row.reads or code in _ELSEWHERE:
            raise NotFound(f"There is no operation {code!r} to be done here.")
        frame.run(code, case_id, forms.plain_of(request.form, row.schema))
        # Who gives a case back may not see it any more.
        return seen("/?done=" + code if code in ("decline", "withdraw") else f"/cases/{case_id}?done={code}")

    @routes.post("/cases/<case_id>/independence")
    def independence(case_id: str) -> Response:
        row = frame.rows["ServiceRequest", "independence"]
        found = frame.run("independence", case_id, forms.plain_of(request.form, row.schema))
        kept = [(name, value) for name, value in request.form.items(multi=True) if name not in forms.NOT_INPUT]
        return frame.page("independence", case_id=case_id, found=found, kept=kept)

    @routes.post("/cases/<case_id>/tasks/<task_id>/cancel")
    def cancel(case_id: str, task_id: str) -> ResponseReturnValue:
        row = frame.rows["Task", "cancel"]
        frame.find(case_id).one("Task", task_id)
        frame.run("cancel", task_id, forms.plain_of(request.form, row.schema), on="Task")
        return seen(f"/cases/{case_id}?done=cancel")

    @routes.get("/cases/<case_id>/cover-sheet/<task_id>.pdf")
    def cover_sheet(case_id: str, task_id: str) -> Response:
        sheet = frame.run("cover-sheet", case_id, {"task": task_id})
        return document(base64.b64decode(sheet["pdf"]), "application/pdf")

    @routes.get("/cases/<case_id>/files/<kind>/<resource_id>/<int:place>")
    def file(case_id: str, kind: str, resource_id: str, place: int) -> Response:
        data, media = files.read(frame.context, frame.caller, case_id, f"{kind}/{resource_id}", place)
        return document(data, media)


def document(data: bytes, media: str, *, ours: bool = False) -> Response:
    """A file to look at; what a browser might run is only handed over to be saved.

    HTML that is `ours` is shown, in a sandbox without scripts; anybody else's never.
    """
    kind = media.partition(";")[0].strip().lower()
    page = ours and kind == "text/html"
    shown = kind in _SHOWN or page
    # The browser's own PDF viewer needs style; nothing in the file may run or load anything.
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"
    headers = {"Content-Security-Policy": policy if shown and not page else f"{policy}; sandbox"}
    if not shown:
        headers["Content-Disposition"] = "attachment"
    wanted = f"{kind}; charset=utf-8" if kind.startswith("text/") else kind
    return Response(data, headers=headers, content_type=wanted if shown else "application/octet-stream")
