"""What every request passes before the application sees it: its size and form, its caller's limit, the gate.

The order is that of cost: what is refused early costs nothing, what waits holds a thread.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

from flask import Flask
from waitress.proxy_headers import proxy_headers_middleware
from werkzeug.wrappers import Request, Response
from werkzeug.wsgi import ClosingIterator

from fhir_secondop import meters
from fhir_secondop.errors import AddressTooLong, Forbidden, Malformed, SecondOpError, TooLarge, UnsupportedMedia
from fhir_secondop.rest import failures, formats
from fhir_secondop.web.gate import HEALTH, ROOMS, Gate, class_of
from fhir_secondop.web.throttle import Throttle, caller_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger(__name__)
MAX_TARGET_BYTES = 8192  # path and query: what goes beyond is a search for POST
MAX_FORM_BYTES = 256 * 1024
MAX_FORM_PARTS = 20
RECEIVED_AT = "secondop.received_at"  # in the environ: time.monotonic() when the request was complete
_FORM = "application/x-www-form-urlencoded"
# A page has its own policies; these are for what is no page, and where none were said.
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}
_NO_PAGE = "default-src 'none'; frame-ancestors 'none'"
Refused = Callable[[str, int], None]


def uncounted(caller: str, status: int) -> None:
    """Where nothing is recorded."""


def bound(app: Flask) -> None:
    """Bounds an application's forms, and puts the security headers on each of its answers."""
    app.config["MAX_FORM_MEMORY_SIZE"] = MAX_FORM_BYTES
    app.config["MAX_FORM_PARTS"] = MAX_FORM_PARTS
    app.after_request(secured)


def secured(answer: Response) -> Any:
    """The answer with the security headers that it does not have yet."""
    for name, value in _HEADERS.items():
        answer.headers.setdefault(name, value)
    if answer.mimetype != "text/html":
        answer.headers.setdefault("Content-Security-Policy", _NO_PAGE)
    return answer


def refusal(error: SecondOpError, mimetype: str = formats.JSON) -> Response:
    """The answer to what is refused before the application sees it."""
    answer: Response = secured(failures.answer(error, mimetype))
    if isinstance(error, UnsupportedMedia):
        answer.headers["Accept-Encoding"] = "identity"
    return answer


def check_shape(request: Request) -> None:
    """Raises AddressTooLong, Malformed of a NUL in it, TooLarge of a form, and UnsupportedMedia of a compressed body.

    Nothing that is compressed is unpacked, so that no bomb is.
    """
    environ = request.environ
    target = environ.get("REQUEST_URI") or environ.get("PATH_INFO", "") + environ.get("QUERY_STRING", "")
    if len(target) > MAX_TARGET_BYTES:
        raise AddressTooLong(f"The address is longer than {MAX_TARGET_BYTES} bytes; POST a long search to _search.")
    if "\0" in request.path or "%00" in environ.get("QUERY_STRING", ""):
        raise Malformed("The address holds a NUL; PostgreSQL can't hold one, and nothing here is named so.")
    if request.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise UnsupportedMedia("Content-Encoding: send the body as it is, not compressed.")
    # Werkzeug bounds the fields of a multipart body, not these (since 3.1.9).
    if request.mimetype == _FORM and (request.content_length or 0) > MAX_FORM_BYTES:
        raise TooLarge(f"The form is larger than {MAX_FORM_BYTES} bytes.")


def field(request: Request, name: str) -> str:
    """A field of a form, "" where it was not filled in. Raises Malformed of a NUL in it, as of one in JSON."""
    text = request.form.get(name, "")
    if "\0" in text:
        raise Malformed("A field holds a NUL.", path=name)
    return text


def guarded(app: WSGIApplication, throttle: Throttle, refused: Refused = uncounted) -> WSGIApplication:
    """The application behind all checks. `refused` is told who was refused (an id, or "") and with which status."""
    gates = {name: Gate(room) for name, room in ROOMS.items()}

    def run(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        try:
            check_shape(request)
            throttle.check(request)
            gate = gates.get(class_of(request.method, request.path, request.content_length or 0))
            if gate is not None:
                now = time.monotonic()
                gate.enter(now - environ.get(RECEIVED_AT, now))
        except SecondOpError as error:
            kind = formats.JSON if request.path.startswith("/fhir") else "application/json"
            answer = refusal(error, kind)
            log.info("- %s - %s %s", request.method, answer.status_code, type(error).__name__)
            meters.refused.labels(str(answer.status_code)).inc()
            refused(caller_of(request), answer.status_code)
            return answer(environ, start_response)
        if gate is None:
            return app(environ, start_response)
        try:
            return ClosingIterator(app(environ, start_response), gate.leave)
        except BaseException:
            gate.leave()
            raise

    return run


def behind(
    app: WSGIApplication, trusted_proxy: str, *, only: bool = False, refused: Refused = uncounted
) -> WSGIApplication:
    """The application that knows a client's own address, where the peer is the trusted proxy: an address or a network.

    Of everybody else what the headers say is thrown away. waitress's own setting takes single addresses only. With
    `only`, nobody but the proxy is served, and nothing that came to it without TLS: what others say on the way could be
    read along. Health may be asked by anybody: what watches a machine asks that machine, not its proxy.
    """
    believing = proxy_headers_middleware(
        app, trusted_proxy="*", trusted_proxy_count=1, clear_untrusted=True,
        trusted_proxy_headers={"x-forwarded-for", "x-forwarded-proto"},
    )  # fmt: skip
    doubting = proxy_headers_middleware(app, trusted_proxy=None, clear_untrusted=True)

    def run(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        trusted = is_trusted(environ.get("REMOTE_ADDR", ""), trusted_proxy)
        if only and environ.get("PATH_INFO") not in HEALTH:
            secured_there = environ.get("HTTP_X_FORWARDED_PROTO", "").strip().lower() == "https"
            if not (trusted and secured_there):
                meters.refused.labels("403").inc()
                refused("", 403)
                why = "Use https." if trusted else "This is reached by its proxy alone."
                return refusal(Forbidden(why), "application/json")(environ, start_response)
        chosen = believing if trusted else doubting
        answered: Iterable[bytes] = chosen(environ, start_response)
        return answered

    return run


def is_trusted(peer: str, trusted_proxy: str) -> bool:
    """Whether a peer's address is that of the trusted proxy, or in its network."""
    try:
        return bool(trusted_proxy) and ip_address(peer) in ip_network(trusted_proxy)
    except ValueError:
        return False


def complete(
    app: WSGIApplication, throttle: Throttle, trusted_proxy: str, *, only: bool = False, refused: Refused = uncounted
) -> WSGIApplication:
    """What a server is given: the application, behind the checks, behind the proxy; the rest as those two say."""
    return behind(guarded(app, throttle, refused), trusted_proxy, only=only, refused=refused)
