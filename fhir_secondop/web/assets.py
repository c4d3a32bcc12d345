"""Style sheet and script of the pages. Nothing comes from elsewhere."""

from __future__ import annotations

from flask import Blueprint, Response


def blueprint() -> Blueprint:
    """Routes /assets/…: public, the same for everybody."""
    routes = Blueprint("assets", __name__, static_folder="static", static_url_path="/assets")

    @routes.after_request
    def kept(answer: Response) -> Response:
        answer.headers["Cache-Control"] = "public, max-age=3600"
        answer.headers["X-Content-Type-Options"] = "nosniff"
        return answer

    return routes
