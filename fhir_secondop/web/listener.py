"""waitress with ends to what it would wait for, and refusals in our form.

waitress 3 closes a connection only after silence (`channel_timeout`): a byte now and then keeps one for as long as the
sender likes, and at `connection_limit` of these nobody else gets in. So a request has a time by which it must have
arrived, and one address a share of the connections. Its task queue holds at most one request of each connection, since
nothing is read from one before its request is answered (`channel_request_lookahead` 0): `connection_limit` bounds it.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import MultiSocketServer, TcpWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher, WSGITask
from waitress.utilities import Error

from fhir_secondop.config import Settings
from fhir_secondop.errors import HeadersTooLarge, Malformed, SecondOpError, TooLarge, TooSlow, Unavailable, Unsupported
from fhir_secondop.rest.app import MAX_BODY_BYTES
from fhir_secondop.web import inbound
from fhir_secondop.web.gate import THREADS

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

HEADER_S = 10.0  # until the headers are there, from the first byte or the connection
BODY_S = 30.0  # until the body is there, and a second more for each of
BODY_BYTES_PER_S = 16 * 1024
HEADER_BYTES = 32 * 1024
ARRIVING_BYTES = 1024 * 1024 * 1024  # of all bodies at once: waitress keeps them in temporary files
CONNECTIONS = 256
IDLE_S = 75.0  # between requests; longer than the 60 s for which the usual proxies keep an idle connection
IDLE_WHEN_FULL_S = 5.0
UNTAKEN_S = 30.0  # without a byte of an answer taken; what is streamed holds a thread meanwhile
CONNECTIONS_OF_ONE = 128  # of one address; the trusted proxy's are as many as there are

OPTIONS: dict[str, Any] = {
    "threads": THREADS,
    "ident": None,  # no Server header
    "max_request_body_size": MAX_BODY_BYTES + 1,
    "max_request_header_size": HEADER_BYTES,
    "connection_limit": CONNECTIONS,
    "backlog": 256,
    "cleanup_interval": 1,
    "asyncore_use_poll": True,  # select can't see file numbers from 1024 on
    "clear_untrusted_proxy_headers": False,  # inbound.behind does
    "log_socket_errors": False,
}

_KINDS: dict[int, tuple[type[SecondOpError], str]] = {
    400: (Malformed, "This is not a request in HTTP/1.1; nothing was read of it."),
    408: (TooSlow, "The request did not arrive in time; send it again, faster."),
    503: (Unavailable, "Too much is arriving at once; nothing was read of it. Send it again later."),
    413: (TooLarge, f"The body is larger than {MAX_BODY_BYTES} bytes."),
    431: (HeadersTooLarge, f"The request's headers are larger than {HEADER_BYTES} bytes."),
    501: (Unsupported, "Transfer-Encoding: send the body as it is, or chunked."),
}


class _Late(Error):  # type: ignore[misc]
    code = 408
    reason = "Request Timeout"


class _Busy(Error):  # type: ignore[misc]
    code = 503
    reason = "Service Unavailable"


class _Parser(HTTPRequestParser):  # type: ignore[misc]
    def __init__(self, adj: Any) -> None:
        super().__init__(adj)
        self.began_at = time.time()
        self.received_at = time.monotonic()

    def received(self, data: bytes) -> int:
        taken: int = super().received(data)
        if self.completed:
            self.received_at = time.monotonic()
        return taken

    def parse_header(self, header_plus: bytes) -> None:
        super().parse_header(header_plus)
        # Two lengths of one body: a proxy before us may have believed the other one (RFC 9112, 6.1 and 6.3).
        if (self.chunked and "CONTENT_LENGTH" in self.headers) or "TRANSFER_ENCODING" in self.headers:
            raise ParsingError("Transfer-Encoding and Content-Length, or HTTP/1.0")
        if self.version not in ("1.0", "1.1"):
            raise ParsingError("HTTP/0.9, or a version that is not spoken here")

    @property
    def arriving_bytes(self) -> int:
        """What it says that its body has, or of a chunked one what has come of it."""
        return int(self.content_length or self.body_bytes_received)

    def is_late(self, now: float) -> bool:
        """Whether more time has gone by than this request may take to arrive."""
        if not self.headers_finished:
            return now > self.began_at + HEADER_S
        return now > self.began_at + BODY_S + float(self.body_bytes_received) / BODY_BYTES_PER_S


class _Refusal(ErrorTask):  # type: ignore[misc]
    def execute(self) -> None:
        kind, said = _KINDS.get(self.request.error.code, (SecondOpError, "This failed on our side."))
        answer = inbound.refusal(kind(said))
        body = answer.get_data()
        self.status = f"{self.request.error.code} {self.request.error.reason}"
        self.response_headers.extend(answer.headers.to_wsgi_list())
        self.content_length = len(body)
        self.set_close_on_finish()
        self.write(body)


class _Task(WSGITask):  # type: ignore[misc]
    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        environ[inbound.RECEIVED_AT] = self.request.received_at
        return environ


class _Channel(HTTPChannel):  # type: ignore[misc]
    parser_class = _Parser
    task_class = _Task
    error_task_class = _Refusal
    served = False
    request: _Parser | None
    will_close: bool

    def service(self) -> None:
        self.served = True
        super().service()

    def received(self, data: bytes) -> bool:
        first = self.request is None or not self.request.headers_finished
        taken: bool = super().received(data)
        if first and self.request is not None and self.request.content_length and self.server.is_full():
            self._end(_Busy(""))
        return taken

    def expire(self, now: float, idle_s: float) -> None:
        """Ends the wait for a request that is late, for the next one, or for an answer to be taken."""
        if self.total_outbufs_len and now > self.last_activity + UNTAKEN_S:
            self.handle_close()  # will_close would wait until it can be written to
        if self.requests or self.total_outbufs_len or self.will_close or self.close_when_flushed:
            return
        if self.request is None:
            self.will_close = now > self.last_activity + (idle_s if self.served else HEADER_S)
        elif self.request.is_late(now):
            self._end(_Late(""))
        elif self.request.chunked and self.server.is_full():
            self._end(_Busy(""))

    def _end(self, why: Error) -> None:
        """Answers the request that is still arriving, which closes the connection."""
        with self.requests_lock:
            if self.request is None or self.requests:  # one before it is being answered: the next round will do
                return
            self.request.error = why
            self.request.completed = True
            self.requests.append(self.request)
            self.request = None
            self.server.add_task(self)


class Listener(TcpWSGIServer):  # type: ignore[misc]
    """The server of one address; `trusted_proxy` may hold as many connections as there are."""

    channel_class = _Channel
    trusted_proxy = ""

    def is_full(self) -> bool:
        """Whether the bodies that are here or announced are more than we keep at once."""
        held = (request for c in list(self.active_channels.values()) for request in (c.request, *c.requests) if request)
        return sum(int(request.arriving_bytes) for request in held) > ARRIVING_BYTES

    def maintenance(self, now: float) -> None:
        """Looks each second after connections that are silent or late."""
        super().maintenance(now)
        idle_s = IDLE_WHEN_FULL_S if self.in_connection_overflow else IDLE_S
        for channel in list(self.active_channels.values()):
            channel.expire(now, idle_s)

    def handle_accept(self) -> None:
        """Takes a connection, and closes it at once when its address has its share already."""
        before = set(self.active_channels)
        super().handle_accept()
        for number in set(self.active_channels) - before:
            taken = self.active_channels[number]
            address = taken.addr[0]
            held = sum(channel.addr[0] == address for channel in self.active_channels.values())
            if held > CONNECTIONS_OF_ONE and not inbound.is_trusted(address, self.trusted_proxy):
                taken.handle_close()


def listening(app: WSGIApplication, settings: Settings) -> Listener | MultiSocketServer:
    """A server of the application on the address of the settings, to be run. Raises OSError when it is taken."""
    adjustments = Adjustments(host=settings.host, port=settings.port, **OPTIONS)
    # It says at each request how long its queue is, just when there is no time for that.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    dispatcher = ThreadedTaskDispatcher()
    dispatcher.set_thread_count(adjustments.threads)
    sockets: dict[int, Any] = {}
    servers = []
    for place in adjustments.listen:  # "localhost" is two
        server = Listener(app, sockets, dispatcher=dispatcher, adj=adjustments, sockinfo=place)
        server.trusted_proxy = settings.trusted_proxy
        servers.append(server)
    if len(servers) == 1:
        return servers[0]
    addresses = [(server.effective_host, server.effective_port) for server in servers]
    return MultiSocketServer(sockets, adjustments, addresses, dispatcher)
