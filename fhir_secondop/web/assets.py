"""Style sheet and script of the pages, and the headers that every page goes out with. Nothing comes from elsewhere."""

from __future__ import annotations

from flask import Blueprint, Response

CONTENT_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
    "Content-Security-Policy": CONTENT_POLICY,
}


def blueprint() -> Blueprint:
    """Routes /assets/…: public, the same for everybody."""
    routes = Blueprint("assets", __name__, static_folder="static", static_url_path="/assets")

    @routes.after_request
    def kept(answer: Response) -> Response:
        answer.headers["Cache-Control"] = "public, max-age=3600"
        answer.headers["X-Content-Type-Options"] = "nosniff"
        return answer

    return routes
