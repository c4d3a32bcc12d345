"""Upload links: GET shows what is asked for, POST takes one file. Nothing of the patient is shown."""

from __future__ import annotations

from flask import Blueprint, Response, render_template, request
from werkzeug.exceptions import RequestEntityTooLarge

from fhir_secondop.errors import Invalid, SecondOpError, http_status
from fhir_secondop.opinion.uploads import MAX_BYTES
from fhir_secondop.service import asking, tokens
from fhir_secondop.service.context import Context
from fhir_secondop.web import headers
from fhir_secondop.web.inbound import field
from fhir_secondop.web.links import by_link


def blueprint(context: Context) -> Blueprint:
    """Route /upload/{token}."""
    routes = Blueprint("uploads", __name__, template_folder="templates")
    headers.protect(routes)

    def page(state: str, status: int = 200, **said: str) -> Response:
        limit = MAX_BYTES // 1024 // 1024
        text = render_template("upload.html", state=state, limit=limit, **said)
        return Response(text, status=status, mimetype="text/html")

    @routes.get("/upload/<token>")
    def show(token: str) -> Response:
        _, task = asking.open_link(context, token)
        return page("open", token=token, what=task["code"].get("text", ""), holder=task["owner"].get("display", ""))

    @routes.post("/upload/<token>")
    def take(token: str) -> Response:
        asking.open_link(context, token)  # before anything is read: a stranger sends no file
        # This route alone takes a file; the bound of the other routes is for resources.
        request.max_content_length = MAX_BYTES + 64 * 1024
        file = request.files.get("file")
        if file is None:
            raise Invalid("Choose a file.", path="file")
        done = asking.upload(context, token, file.read(), field(request, "birthDate"), field(request, "name"))
        return page("thanks" if done["status"] == "completed" else "held")

    @routes.before_request
    def note() -> None:
        by_link(context, tokens.UPLOAD)

    @routes.errorhandler(SecondOpError)
    def refused(error: SecondOpError) -> Response:
        return page("failed", http_status(error), message=error.message)

    @routes.errorhandler(RequestEntityTooLarge)
    def too_large(error: RequestEntityTooLarge) -> Response:
        said = f"The file has over {MAX_BYTES // 1024 // 1024} MB; send it in parts."
        return page("failed", 413, message=said)

    return routes
