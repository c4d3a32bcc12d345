"""Requests and answers of plain JSON."""

from __future__ import annotations

from typing import Any

from flask import Response, request

from fhir_secondop.bootstrap import Service
from fhir_secondop.errors import Malformed, UnsupportedMedia
from fhir_secondop.fhir import codec
from fhir_secondop.model import Caller
from fhir_secondop.rest import disclosure
from fhir_secondop.rest.formats import check_values

JSON = "application/json"


def signed_in(service: Service) -> Caller:
    """Who asks, as the audit is told. Raises Unauthenticated."""
    caller = service.authenticate(request)
    disclosure.signed_in(caller)
    return caller


def body(service: Service) -> dict[str, Any]:
    """The JSON object that was sent. Raises UnsupportedMedia, Malformed, Invalid."""
    if request.mimetype != JSON:
        raise UnsupportedMedia(f"Send Content-Type: {JSON}.")
    data = request.get_data()
    if not data.strip():
        raise Malformed("The body is empty.")
    limits = service.endpoint.limits
    check_values(data, limits)
    codec.check_depth(text := codec.text_of(data), limits.max_depth)
    return codec.parse(text)


def answer(plain: dict[str, Any], status: int = 200) -> Response:
    """An answer."""
    return Response(codec.dumps(plain), status, mimetype=JSON)
