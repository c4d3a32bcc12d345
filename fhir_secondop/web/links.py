"""Single-use links: GET shows the document, POST acknowledges. Mail scanners GET; only a person posts."""

from __future__ import annotations

from flask import Blueprint, Response, render_template, request

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
    """Routes /ack/{token} and its PDF."""
    routes = Blueprint("links", __name__, template_folder="templates")
    headers.protect(routes)

    def document(token: str) -> tuple[str, str, bytes, str]:
        """State, title, PDF and text of a link's document; nothing but the state once it is used or replaced."""
        case, task, state = providers.open_link(context, token)
        if state != "open":
            return state, "", b"", ""
        person = case.directory.person(task["owner"]["reference"])
        if person is None:
            raise Conflict("This link's recipient is not known any more.")
        found = deliverables.deliverable(context, case, task, person)
        disclosure.disclosed_of(case.id)
        return state, found.title, found.pdf, found.text

    @routes.get("/ack/<token>")
    def show(token: str) -> Response:
        state, title, _, text = document(token)
        _, task, _ = providers.open_link(context, token)
        said = alignment.evidence(task)
        page = render_template("ack.html", state=state, title=title, text=text, token=token, said=said,
                               recipient=task["owner"].get("display", ""))  # fmt: skip
        return Response(page, mimetype="text/html")

    @routes.get("/ack/<token>/document.pdf")
    def pdf(token: str) -> Response:
        state, _, data, _ = document(token)
        if state != "open":
            raise Conflict("This link has been used or replaced.")
        return Response(data, mimetype="application/pdf")

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
