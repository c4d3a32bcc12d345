"""What passes between a client and a simulated EHR, and where a quirk steps in: around a request, like an onion.

A quirk of traffic is a function (asked, go_on) → answer: it may change what is asked, call `go_on` or not, change the
answer, or end the connection. The endpoint itself knows nothing of it.
"""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn
from urllib.parse import parse_qsl, urlencode

from werkzeug.wrappers import Request, Response

from fhir_secondop.errors import Invalid, Malformed
from fhir_secondop.fhir import codec
from fhir_secondop.model import Resource

BASE = "/fhir"

# (method, number of parts below the base) → interaction
_KINDS = {
    ("POST", 0): "transaction", ("GET", 1): "search", ("POST", 1): "create", ("GET", 2): "read", ("PUT", 2): "update",
    ("DELETE", 2): "delete",
}  # fmt: skip
_OPEN = ("metadata", ".well-known")
_WRITES = ("create", "update", "transaction")


class Asked:
    """One request below /fhir: what it wants, its parameters (a form's too), its body; all of it can be changed."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self.environ = environ
        self.method: str = environ["REQUEST_METHOD"]
        self.parts = [part for part in environ["PATH_INFO"].removeprefix(BASE).split("/") if part]
        self.type = self.parts[0] if self.parts else ""
        self.id = self.parts[1] if len(self.parts) > 1 else ""
        self.kind = self._kind()
        self.body = b""
        if self.method in ("POST", "PUT", "PATCH"):
            self.put(Request(environ).get_data(cache=False))
        self.query = parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        if self._by_form:
            self.query += parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True)

    def _kind(self) -> str:
        if self.type in _OPEN:
            return "open"
        if any(part.startswith("$") for part in self.parts):
            return "operation"
        if self.parts[1:] == ["_search"]:
            return "search"
        if "_history" in self.parts:
            return "history"
        return _KINDS.get((self.method, len(self.parts)), "other")

    @property
    def _by_form(self) -> bool:
        return self.method == "POST" and self.kind == "search"

    @property
    def writes(self) -> bool:
        """Whether it creates or updates something."""
        return self.kind in _WRITES

    @property
    def following(self) -> bool:
        """Whether it asks for a page after the first."""
        return any(name == "_page" for name, _ in self.query)

    def header(self, name: str) -> str | None:
        """A header's value."""
        value: str | None = self.environ.get("HTTP_" + name.upper().replace("-", "_"))
        return value

    def put(self, body: bytes) -> None:
        """Gives it another body."""
        self.body = body
        self.environ["wsgi.input"] = io.BytesIO(body)
        self.environ["CONTENT_LENGTH"] = str(len(body))
        for name in ("HTTP_TRANSFER_ENCODING", "wsgi.input_terminated"):
            self.environ.pop(name, None)

    def put_query(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Gives it other parameters."""
        self.query = list(pairs)
        self.environ["QUERY_STRING"] = "" if self._by_form else urlencode(pairs)
        if self._by_form:
            self.put(urlencode(pairs).encode())

    def edit(self, change: Callable[[Resource], None]) -> None:
        """Changes what it writes: one Bundle entry for each resource, {resource, request}; a create is one too.

        What can't be read is left to the endpoint's own refusal.
        """
        try:
            sent = codec.parse(self.body)
        except Malformed:
            return
        bundled = self.kind == "transaction"
        asked: Resource = {"method": self.method, "url": self.type}
        if (criteria := self.header("If-None-Exist")) is not None:
            asked["ifNoneExist"] = criteria
        entries = sent.get("entry", []) if bundled else [{"resource": sent, "request": asked}]
        for entry in entries:
            change(entry)
        self.put(codec.dumps(sent).encode())
        if not bundled:
            self.environ.pop("HTTP_IF_NONE_EXIST", None)
            if "ifNoneExist" in asked:
                self.environ["HTTP_IF_NONE_EXIST"] = asked["ifNoneExist"]

    def instead(self, path: str, query: str = "") -> Asked:
        """The same caller's GET of another address below the base."""
        environ = {
            **self.environ, "REQUEST_METHOD": "GET", "PATH_INFO": BASE + path, "QUERY_STRING": query,
            "wsgi.input": io.BytesIO(), "CONTENT_LENGTH": "0",
        }  # fmt: skip
        environ.pop("CONTENT_TYPE", None)
        return Asked(environ)


GoOn = Callable[[Asked], Response]
Around = Callable[[Asked, GoOn], Response]


def wrapped(app: Any, arounds: Sequence[Around]) -> Any:
    """The WSGI application with these around it, the first one outermost. Only what stands below /fhir is touched."""

    def innermost(asked: Asked) -> Response:
        return Response.from_app(app, asked.environ, buffered=True)

    go_on: GoOn = innermost
    for around in reversed(arounds):
        go_on = partial(around, go_on=go_on)  # type: ignore[call-arg]

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path != BASE and not path.startswith(f"{BASE}/"):
            through: Iterable[bytes] = app(environ, start_response)
            return through
        return go_on(Asked(environ))(environ, start_response)

    return application


class Times:
    """Counts down, also when several requests come at once."""

    def __init__(self, count: float) -> None:
        self._left = count
        self._lock = threading.Lock()

    def take(self) -> bool:
        """True the first `count` times."""
        with self._lock:
            self._left -= 1
            return self._left >= 0


def number(value: str, default: float) -> float:
    """The number in a quirk's VALUE. Raises Invalid."""
    try:
        return float(value) if value else default
    except ValueError as error:
        raise Invalid(f"A quirk's VALUE must be a number here, not {value!r}.") from error


def hang_up(asked: Asked) -> NoReturn:
    """Ends the connection without a word more."""
    connection: socket.socket | None = asked.environ.get("werkzeug.socket")
    if connection is not None:
        with suppress(OSError):  # the client was faster
            connection.shutdown(socket.SHUT_RDWR)
    raise ConnectionAbortedError("A quirk hangs up.")


def cut_after(asked: Asked, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """These bytes, and then the end of the connection."""
    yield from pieces
    hang_up(asked)
