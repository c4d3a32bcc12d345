"""The pages: what reviewer, requesting doctor, coordinator and patient see. Server-rendered; works without a script."""

from __future__ import annotations

from urllib.parse import quote

from flask import Blueprint, Response, g, redirect, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from fhir_secondop.access import rights
from fhir_secondop.bootstrap import Service
from fhir_secondop.errors import NotFound, SecondOpError, Unauthenticated, http_status
from fhir_secondop.rest import disclosure
from fhir_secondop.rest.failures import unforeseen
from fhir_secondop.web import headers
from fhir_secondop.web.pages import (
    actions,
    blind,
    case,
    connections,
    learned,
    patient,
    records,
    review,
    signatures,
    worklist,
)
from fhir_secondop.web.pages.frame import Frame, Signed, SignIn, by_script

__all__ = ["SignIn", "Signed", "blueprint"]


def blueprint(service: Service, sign_in: SignIn) -> Blueprint:
    """Routes / (the work list), /cases, /my and /connections; every one of them only for somebody who is signed in."""
    routes = Blueprint("pages", __name__, template_folder="../templates")
    frame = Frame(service, sign_in, {(row.type, row.code): row for row in service.operations})

    @routes.before_request
    def known() -> None:
        g.signed = sign_in.require(request)
        disclosure.signed_in(g.signed.caller)
        if "case_id" in (request.view_args or {}) and rights.summary_scopes_missing(g.signed.caller):
            raise NotFound("There is no such case.")
        if request.method != "GET":
            sign_in.check_csrf(request)

    @routes.before_request
    def note() -> None:
        disclosure.asked("ServiceRequest", (request.view_args or {}).get("case_id", ""))

    @routes.after_request
    def told(answer: Response) -> Response:
        case_id = (request.view_args or {}).get("case_id")
        if case_id and answer.status_code < 300:
            disclosure.disclosed_of(case_id)
        return answer

    headers.protect(routes)
    for part in (worklist, case, blind, records, actions, review, patient, connections, learned, signatures):
        part.add(routes, frame)
    _handle(routes, frame)
    return routes


def _handle(routes: Blueprint, frame: Frame) -> None:
    """Failures as pages; to a script as JSON."""

    def signed_out(error: Unauthenticated) -> ResponseReturnValue:
        if by_script():
            return {"message": "You are signed out. Sign in in another window, then save again."}, 401
        # A form that was lost to a sign-out leads back to its page, and is not sent again.
        back = request.full_path.rstrip("?") if request.method == "GET" else _page_of(request.path)
        return redirect(f"/sign-in?next={quote(back, safe='/')}", 303)

    def refused(error: SecondOpError) -> ResponseReturnValue:
        return _problem(frame, error, http_status(error))

    def of_http(error: HTTPException) -> ResponseReturnValue:
        code = error.code or 500
        return _problem(frame, NotFound("There is no such page.") if code == 404 else SecondOpError(error.name), code)

    def broken(error: Exception) -> ResponseReturnValue:
        found = unforeseen(error)
        return _problem(frame, found, http_status(found))

    routes.register_error_handler(Unauthenticated, signed_out)
    routes.register_error_handler(SecondOpError, refused)
    routes.register_error_handler(HTTPException, of_http)
    routes.register_error_handler(Exception, broken)


def _page_of(path: str) -> str:
    """The page that a form stands on: what is posted below /cases/{id} belongs to the case."""
    parts = path.split("/")
    if parts[1:2] == ["cases"] and len(parts) > 2:
        return "/".join([*parts[:3], "review"]) if "review" in parts[3:4] else "/".join(parts[:3])
    return "/"


def _problem(frame: Frame, error: SecondOpError, status: int) -> ResponseReturnValue:
    more = [issue.diagnostics for issue in error.issues if issue.diagnostics != error.message]
    if by_script():
        return {"message": " ".join([error.message, *more])}, status
    answer: Response = frame.page("problem", status, message=error.message, more=more, back=_page_of(request.path))
    return answer
