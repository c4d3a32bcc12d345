"""The HTTP sessions towards one EHR: its proxy, the CA that it is checked against, our client certificate."""

from __future__ import annotations

import ssl
import traceback
from collections.abc import Iterator
from urllib.parse import urlsplit

import requests
import urllib3

from fhir_secondop.ehr.addresses import reach_of
from fhir_secondop.ehr.sockets import Adapter
from fhir_secondop.errors import Invalid
from fhir_secondop.model import Connection

POOL_SIZE = 16


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: no redirect is followed. Even to say where one leads requests would read its whole body, unbounded."""


def session(connection: Connection, *, longest_s: float) -> requests.Session:
    """A session of this connection. A request raises Refused where it must not connect.

    No answer may take longer than `longest_s`; no redirect is followed. Nothing comes from the environment, neither
    netrc nor proxy: a password of the operator's must not go to an EHR.

    Raises Invalid for a file or a proxy that can't be used.
    """
    _check(connection)
    made = _Session()
    made.trust_env = False
    made.verify = connection.ca_bundle or True
    if connection.client_cert:
        made.cert = (connection.client_cert, connection.client_key) if connection.client_key else connection.client_cert
    if connection.proxy:
        made.proxies = {"http": connection.proxy, "https": connection.proxy}
    guard(made, connection, longest_s=longest_s)
    return made


def guard(made: requests.Session, connection: Connection, *, longest_s: float) -> None:
    """Lets a session, of whatever library, connect only where this connection may."""
    adapter = Adapter(reach_of(connection, longest_s), pool_size=POOL_SIZE)
    made.mount("http://", adapter)
    made.mount("https://", adapter)


def _check(connection: Connection) -> None:
    """What requests would only find out when it connects, and call an EHR that does not answer."""
    if connection.proxy and urlsplit(connection.proxy).scheme not in ("http", "https"):
        raise Invalid(f"{connection.name}: a proxy is written http://host:port.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if connection.ca_bundle:
            context.load_verify_locations(connection.ca_bundle)
    except (OSError, ValueError) as error:
        raise Invalid(f"{connection.name}: {connection.ca_bundle} holds no CA certificates in PEM.") from error
    try:
        if connection.client_cert:
            # Without a password OpenSSL would ask for one on the terminal, and wait.
            context.load_cert_chain(connection.client_cert, connection.client_key or None, password=lambda: "")
    except (OSError, ValueError) as error:
        raise Invalid(
            f"{connection.name}: {connection.client_cert} is no client certificate with its key, in PEM and without "
            "a password."
        ) from error


def pieces(answer: requests.Response) -> Iterator[bytes]:
    """The bytes of a streamed answer as they come. Raises requests.ConnectionError where they break off.

    `iter_content` waits until a piece is full, and a server that dribbles can let it wait for days.
    """
    try:
        while piece := answer.raw.read1(1 << 16, decode_content=True):
            yield piece
    except urllib3.exceptions.HTTPError as error:
        raise requests.ConnectionError(error) from error


class TooMuch(Exception):
    """An answer is larger than it may be."""


def whole(answer: requests.Response, most: int) -> bytes:
    """The bytes of a streamed answer. Raises TooMuch beyond `most` of them, which are counted as they are unpacked."""
    size, got = 0, []
    for piece in pieces(answer):
        size += len(piece)
        if size > most:
            raise TooMuch
        got.append(piece)
    return b"".join(got)


def never_sent(error: BaseException) -> bool:
    """Whether it failed before anything was sent: no address, no connection, or a TLS handshake that failed.

    TLS may also break after what was written.
    """
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, urllib3.exceptions.NewConnectionError) or any(
            frame.f_code.co_name == "do_handshake" for frame, _ in traceback.walk_tb(seen.__traceback__)
        ):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def timeout(connection: Connection) -> tuple[float, float]:
    """Seconds to connect, and between two bytes of an answer."""
    return min(10.0, connection.timeout_s), connection.timeout_s
