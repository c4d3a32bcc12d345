"""Signing in: none, basic, bearer; each a requests AuthBase made from a Connection. Secrets come from files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from requests import PreparedRequest
from requests.auth import AuthBase, HTTPBasicAuth

from fhir_secondop.errors import Invalid
from fhir_secondop.model import Connection


class NoAuth(AuthBase):
    """Nothing is added."""

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        return request


class Bearer(AuthBase):
    """A fixed token."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _secret(connection: Connection) -> str:
    if not connection.secret_file:
        raise Invalid(f"The connection {connection.name} needs secret_file for auth={connection.auth}.")
    return Path(connection.secret_file).read_text("utf-8").strip()


_WAYS: dict[str, Callable[[Connection], AuthBase]] = {
    "none": lambda connection: NoAuth(),
    "basic": lambda connection: HTTPBasicAuth(connection.username, _secret(connection)),
    "bearer": lambda connection: Bearer(_secret(connection)),
}
WAYS = tuple(_WAYS)


def auth_of(connection: Connection) -> AuthBase:
    """How this connection signs in. Raises Invalid when its secret is missing."""
    way = _WAYS.get(connection.auth)
    if way is None:
        raise Invalid(f"The connection {connection.name} has auth={connection.auth}; known are {', '.join(WAYS)}.")
    return way(connection)
