"""What the browser is told with every page: run nothing that is not ours, show it in no frame, keep no copy."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Blueprint, Flask, Response

# Neither styles nor scripts stand in a page.
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
PAGE: Mapping[str, str] = {
    "Content-Security-Policy": CSP,
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}


def protect(routes: Blueprint | Flask) -> None:
    """Sends these headers with every answer of these routes; what a route set itself stays."""

    @routes.after_request
    def add(answer: Response) -> Response:
        for name, value in PAGE.items():
            answer.headers.setdefault(name, value)
        return answer


def saved(data: bytes) -> Response:
    """A file to be kept to the byte: no browser shows it, or takes it for a page."""
    headers = {"Content-Disposition": "attachment", "Content-Security-Policy": "default-src 'none'; sandbox"}
    return Response(data, headers=headers, content_type="application/octet-stream")
