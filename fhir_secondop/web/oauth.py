"""The token endpoint and what belongs to it: /auth/token, /auth/introspect, /auth/revoke; and the SMART configuration.

Source: https://hl7.org/fhir/smart-app-launch/conformance.html and https://www.rfc-editor.org/rfc/rfc6749
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, g, jsonify, request

from fhir_secondop.access import assertions, scopes
from fhir_secondop.errors import TokenRefused, Unauthenticated
from fhir_secondop.rest.endpoint import Endpoint
from fhir_secondop.service.authority import Authority, ExternalAuthority, Form, OwnAuthority

_FORM = "application/x-www-form-urlencoded"
_MAX_BYTES = 64 * 1024
_ONCE_AT_MOST = "is there more than once."
_NO_TEXT = re.compile(r"[^\x20\x21\x23-\x5b\x5d-\x7e]")  # https://www.rfc-editor.org/rfc/rfc6749#section-5.2
_LETTER = {"create": "c", "read": "r", "update": "u", "delete": "d", "search-type": "s"}
Plain = dict[str, Any]


def blueprint(authority: Authority, endpoint: Endpoint, public_url: str) -> Blueprint:
    """The routes of this authority; of an external one only where its token endpoint is."""
    routes = Blueprint("oauth", __name__)
    configuration: Callable[[], Plain]
    if isinstance(authority, OwnAuthority):
        _serve(routes, authority)
        configuration = lambda: _own(public_url, authority)  # noqa: E731
    elif isinstance(authority, ExternalAuthority):
        configuration = lambda: _theirs(authority)  # noqa: E731

    @routes.get("/fhir/.well-known/smart-configuration")
    def smart() -> Response:
        letters = {_LETTER[code] for code in endpoint.interactions if code in _LETTER}
        offered = "".join(letter for letter in scopes.LETTERS if letter in letters)
        return jsonify({
            **configuration(),
            "scopes_supported": [f"system/*.{offered}", "system/*.rs", "system/*.read"],
            "capabilities": [*_ways(authority), "permission-v1", "permission-v2"],
        })  # fmt: skip

    return routes


def _ways(authority: Authority) -> list[str]:
    return ["client-confidential-asymmetric"] if isinstance(authority, OwnAuthority) else []


def _own(public_url: str, authority: OwnAuthority) -> Plain:
    ways = {
        f"{name}_auth_{what}": value
        for name in ("token_endpoint", "introspection_endpoint", "revocation_endpoint")
        for what, value in (("methods_supported", ["private_key_jwt"]),
                            ("signing_alg_values_supported", list(assertions.ALGORITHMS)))
    }  # fmt: skip
    return {
        "token_endpoint": authority.token_url,
        "introspection_endpoint": f"{public_url}/auth/introspect",
        "revocation_endpoint": f"{public_url}/auth/revoke",
        "grant_types_supported": ["client_credentials"],
        **ways,
    }


def _theirs(authority: ExternalAuthority) -> Plain:
    """What the issuer says that a client needs; nothing of it is ours."""
    said = authority.issuer.discovery.said()
    kept = ("issuer", "jwks_uri", "token_endpoint", "grant_types_supported", "token_endpoint_auth_methods_supported",
            "token_endpoint_auth_signing_alg_values_supported")  # fmt: skip
    return {name: said[name] for name in kept if name in said}


def _serve(routes: Blueprint, authority: OwnAuthority) -> None:
    @routes.post("/auth/token")
    def token() -> Response:
        return _answer(authority.token(_form(), request.headers.get("Authorization", "")))

    @routes.post("/auth/introspect")
    def introspect() -> Response:
        return _answer(authority.introspect(_form(), request.headers.get("Authorization", "")))

    @routes.post("/auth/revoke")
    def revoke() -> Response:
        authority.revoke(_form(), request.headers.get("Authorization", ""))
        return _answer({})

    @routes.errorhandler(TokenRefused)
    def refused(error: TokenRefused) -> Response:
        status = 401 if error.code == "invalid_client" else 400
        return _answer({"error": error.code, "error_description": _NO_TEXT.sub("'", error.message)}, status)

    @routes.errorhandler(Unauthenticated)
    def unauthenticated(error: Unauthenticated) -> Response:
        answer = _answer({"error": "invalid_token", "error_description": error.message}, 401)
        answer.headers["WWW-Authenticate"] = 'Bearer error="invalid_token"'
        return answer


def _form() -> Form:
    """The parameters of the body, each once. What stands in the address is not read: addresses are logged."""
    g.caller = "-"
    if request.mimetype != _FORM:
        raise TokenRefused("invalid_request", f"Send Content-Type: {_FORM}.")
    request.max_content_length = request.max_form_memory_size = _MAX_BYTES
    for name, values in request.form.lists():
        if len(values) > 1:
            # Only names that we know are said again: https://www.rfc-editor.org/rfc/rfc6749#section-3.2
            raise TokenRefused("invalid_request", f"{name if name.isidentifier() else 'A parameter'} {_ONCE_AT_MOST}")
    return request.form


def _answer(plain: Plain, status: int = 200) -> Response:
    answer = jsonify(plain)
    answer.status_code = status
    answer.headers["Cache-Control"] = "no-store"
    answer.headers["Pragma"] = "no-cache"
    return answer
