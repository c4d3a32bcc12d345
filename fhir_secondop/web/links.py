"""Single-use links: GET shows the document, POST acknowledges. Mail scanners GET; only a person posts."""

from __future__ import annotations

from flask import Blueprint, Response, render_template, request

from fhir_secondop.ehr.documents import Deliverable
from fhir_secondop.errors import Conflict, SecondOpError, http_status
from fhir_secondop.opinion import alignment
from fhir_secondop.rest import disclosure
from fhir_secondop.service import deliverables, providers, tokens
from fhir_secondop.service.context import Context
from fhir_secondop.web import headers
from fhir_secondop.web.inbound import field


def by_link(context: Context, use: bytes) -> None:
    """Tells the audit which Task a link is for, before it is looked at: refused or not."""
    token = (request.view_args or {}).get("token", "")
    try:
        task_id = tokens.task_of(context, use, token)
    except SecondOpError:
        return  # no link of ours; the handler says so
    disclosure.asked("Task", task_id)
    disclosure.access().caller = f"link:Task/{task_id}"


def blueprint(context: Context) -> Blueprint:
    """Routes /ack/{token}, its PDF, and the signed bytes with their signature."""
    routes = Blueprint("links", __name__, template_folder="templates")
    headers.protect(routes)

    def document(token: str) -> tuple[str, Deliverable | None]:
        """The state of a link, and its document; that not any more once it is used or replaced."""
        case, task, state = providers.open_link(context, token)
        if state != "open":
            return state, None
        person = case.directory.person(task["owner"]["reference"])
        if person is None:
            raise Conflict("This link's recipient is not known any more.")
        found = deliverables.deliverable(context, case, task, person)
        disclosure.disclosed_of(case.id)
        return state, found

    def still_open(token: str) -> Deliverable:
        _, found = document(token)
        if found is None:
            raise Conflict("This link has been used or replaced.")
        return found

    @routes.get("/ack/<token>")
    def show(token: str) -> Response:
        state, found = document(token)
        _, task, _ = providers.open_link(context, token)
        said = alignment.evidence(task)
        page = render_template("ack.html", state=state, title=found.title if found else "",
                               text=found.text if found else "", signed=bool(found and found.signed), token=token,
                               said=said, recipient=task["owner"].get("display", ""))  # fmt: skip
        return Response(page, mimetype="text/html")

    @routes.get("/ack/<token>/document.pdf")
    def pdf(token: str) -> Response:
        return Response(still_open(token).pdf, mimetype="application/pdf")

    @routes.get("/ack/<token>/report.json")
    def signed_document(token: str) -> Response:
        return headers.saved(still_open(token).signed)

    @routes.get("/ack/<token>/report.jws")
    def signature(token: str) -> Response:
        return headers.saved(still_open(token).signature.encode())

    @routes.post("/ack/<token>")
    def acknowledge(token: str) -> Response:
        providers.acknowledge_link(context, token, field(request, "name"), field(request, "role"))
        _, task, _ = providers.open_link(context, token)
        page = render_template("ack.html", state="thanks", title="", text="", token=token,
                               said=alignment.evidence(task), recipient=task["owner"].get("display", ""))  # fmt: skip
        return Response(page, mimetype="text/html")

    @routes.before_request
    def note() -> None:
        by_link(context, tokens.ACKNOWLEDGE)

    def failed(error: SecondOpError) -> Response:
        page = render_template("ack.html", state="failed", title="", text="", token="", said={}, recipient="",
                               message=error.message)  # fmt: skip
        return Response(page, http_status(error), mimetype="text/html")

    routes.register_error_handler(SecondOpError, failed)
    return routes
