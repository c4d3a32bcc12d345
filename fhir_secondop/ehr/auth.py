"""Signing in: none, basic, bearer, SMART Backend Services; each a requests AuthBase. Secrets come from files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from requests import PreparedRequest
from requests.auth import AuthBase, HTTPBasicAuth

from fhir_secondop.ehr import plan
from fhir_secondop.ehr.scopes import Wanted
from fhir_secondop.ehr.smart import TOKEN, BackendServices
from fhir_secondop.errors import Invalid
from fhir_secondop.model import Connection


class NoAuth(AuthBase):
    """Nothing is added."""

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        return request


class Bearer(AuthBase):
    """A fixed token."""

    def __init__(self, connection: Connection) -> None:
        self._token = _secret(connection)
        # What no header can carry would be quoted by the error that says so.
        if not TOKEN.fullmatch(self._token):
            raise Invalid(f"{connection.secret_file} holds more than a token: one word of ASCII characters.")

    def __call__(self, request: PreparedRequest) -> PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _secret(connection: Connection) -> str:
    if not connection.secret_file:
        raise Invalid(f"The connection {connection.name} needs secret_file for auth={connection.auth}.")
    try:
        secret = Path(connection.secret_file).read_text("utf-8").strip()
    except OSError as error:
        raise Invalid(f"{connection.secret_file} can't be read ({error.strerror}).") from error
    except UnicodeDecodeError:
        raise Invalid(f"{connection.secret_file} is not UTF-8 text.") from None
    if not secret:
        raise Invalid(f"{connection.secret_file} is empty.")
    return secret


def _basic(connection: Connection) -> AuthBase:
    # UTF-8, as RFC 7617 recommends: a string would be sent as Latin-1, or not at all.
    return HTTPBasicAuth(connection.username.encode(), _secret(connection).encode())


_Way = Callable[[Connection, Callable[[], int]], AuthBase]
_WAYS: dict[str, _Way] = {
    "none": lambda connection, now: NoAuth(),
    "basic": lambda connection, now: _basic(connection),
    "bearer": lambda connection, now: Bearer(connection),
    "smart": lambda connection, now: BackendServices(connection, Wanted(plan.READ, plan.WRITTEN), now=now),
}
WAYS = tuple(_WAYS)


def auth_of(connection: Connection, now: Callable[[], int]) -> AuthBase:
    """How this connection signs in, one for all its threads. Raises Invalid when its secret is missing."""
    way = _WAYS.get(connection.auth)
    if way is None:
        raise Invalid(f"The connection {connection.name} has auth={connection.auth}; known are {', '.join(WAYS)}.")
    return way(connection, now)
