"""waitress with ends to what it would wait for, and refusals in our form.

waitress 3 closes a connection only after silence (`channel_timeout`): a byte now and then keeps one for as long as the
sender likes, and at `connection_limit` of these nobody else gets in. So a request has a time by which it must have
arrived, and one address a share of the connections. Its task queue holds at most one request of each connection, since
nothing is read from one before its request is answered (`channel_request_lookahead` 0): `connection_limit` bounds it.

A request for which there is no place is answered 503 by the thread that takes connections, with bytes made before, as
soon as its first line is there. Refusing it in a thread of its own would cost as much as a small answer.
"""

from __future__ import annotations

import logging
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import MultiSocketServer, TcpWSGIServer
from waitress.task import ErrorTask, WSGITask
from waitress.utilities import Error

from fhir_secondop import meters
from fhir_secondop.config import Settings
from fhir_secondop.errors import HeadersTooLarge, Malformed, SecondOpError, TooLarge, TooSlow, Unavailable, Unsupported
from fhir_secondop.web import connection, inbound, replying
from fhir_secondop.web.gate import THREADS, Arrived, class_of
from fhir_secondop.web.watching import HAS_EPOLL, Dispatcher, Watched

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

log = logging.getLogger(__name__)
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
TAKEN_AT_ONCE = 128  # connections, before what is under way has its turn again
PARTING = 64  # refused, but still sending: a reset would take the refusal from them
PARTING_S = 2.0
PARTING_BYTES = 1024 * 1024

OPTIONS: dict[str, Any] = {
    "threads": THREADS,
    "ident": None,  # no Server header
    "max_request_header_size": HEADER_BYTES,
    "connection_limit": CONNECTIONS,
    "backlog": 1024,  # what comes while a round lasts
    "cleanup_interval": 1,
    "asyncore_use_poll": True,  # select can't see file numbers from 1024 on
    "clear_untrusted_proxy_headers": False,  # inbound.behind does
    "log_socket_errors": False,
}

_KINDS: dict[int, tuple[type[SecondOpError], str]] = {
    400: (Malformed, "This is not a request in HTTP/1.1; nothing was read of it."),
    408: (TooSlow, "The request did not arrive in time; send it again, faster."),
    503: (Unavailable, "Too much is arriving at once; nothing was read of it. Send it again later."),
    413: (TooLarge, "The body is larger than is read here (max_body_bytes); send it in parts."),
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
    counted: str | None = None  # in which class, while it is at work

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
    write = replying.write

    def execute(self) -> None:
        kind, said = _KINDS.get(self.request.error.code, (SecondOpError, "This failed on our side."))
        answer = inbound.refusal(kind(said))
        body = answer.get_data()
        self.status = f"{self.request.error.code} {self.request.error.reason}"
        self.response_headers.extend(answer.headers.to_wsgi_list())
        self.content_length = len(body)
        self.close_on_finish = True
        self.write(body)


class _Task(WSGITask):  # type: ignore[misc]
    write = replying.write

    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        environ[inbound.RECEIVED_AT] = self.request.received_at
        return environ


_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r\n", re.IGNORECASE)


@cache
def busy(*, body: bool = True) -> bytes:
    """The whole answer to a request for which there is no place; the answer to HEAD has no body."""
    answer = inbound.refusal(Unavailable("Too much is asked at once; nothing was read of it. Send it again later."))
    answer.headers["Connection"] = "close"
    head = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.to_wsgi_list())
    said: bytes = answer.get_data() if body else b""
    return f"HTTP/1.1 503 Service Unavailable\r\n{head}\r\n".encode("latin-1") + said


def _is_whole(data: bytes) -> bool:
    """Whether these bytes are all of a request, so that nothing more of it will come."""
    head, ended, body = data.partition(b"\r\n\r\n")
    if not ended or b"\r\ntransfer-encoding:" in head.lower():
        return False
    length = _LENGTH.search(head + b"\r\n")
    return len(body) >= (int(length[1]) if length else 0)


def _class_of(request: Any) -> str:
    """The class of a request that has arrived; one that can't be read has none."""
    return "" if request.error else class_of(request.command, request.path, request.arriving_bytes)


class _Channel(HTTPChannel):  # type: ignore[misc]
    parser_class = _Parser
    task_class = _Task
    error_task_class = _Refusal
    served = False
    parting_until = 0.0
    discarded_bytes = 0
    request: _Parser | None
    will_close: bool

    def service(self) -> None:
        self.served = True
        self.server.answering(self)
        request = self.requests[0]
        request.counted = _class_of(request)
        try:
            super().service()
        finally:
            self.leave(request)

    def leave(self, request: _Parser) -> None:
        """A request has its answer, and makes room for another; once is enough."""
        kind, request.counted = request.counted, None
        if kind is not None:
            self.server.arrived.leave(kind, self.addr[0])

    def write_soon(self, data: Any) -> int:
        """Sends at once what the system takes; the rest is kept, and goes out when there is room again."""
        sent = 0
        if isinstance(data, bytes) and not self.total_outbufs_len and self.connected:
            with self.outbuf_lock:
                if not self.total_outbufs_len and self.connected:
                    try:
                        sent = self.socket.send(data)
                        self.last_activity = time.time()
                    except OSError:  # there is no room, or it has gone: what follows finds out which
                        sent = 0
        if sent < len(data):
            super().write_soon(data[sent:] if sent else data)
        return len(data)

    def handle_read(self) -> None:
        """Reads what there is; waitress's would close a connection of which nothing has come yet."""
        try:
            data = self.recv(self.adj.recv_bytes)
        except BlockingIOError:
            return
        except OSError:
            self.handle_close()
            return
        if data:
            self.last_activity = time.time()
            self.received(data)

    def del_channel(self, map: Any = None) -> None:
        """See wasyncore.dispatcher; the address has one less."""
        if self._fileno is not None:
            self.server.gone(self.addr[0])
        super().del_channel(map)

    @property
    def is_parting(self) -> bool:
        """Whether it was refused, and what still comes is thrown away."""
        return self.parting_until > 0

    def received(self, data: bytes) -> bool:
        if self.is_parting:
            self.discarded_bytes += len(data)
            if self.discarded_bytes > PARTING_BYTES:
                self.handle_close()
            return False
        if self.request is None and not self.requests and self.server.has_no_place(data, self.addr[0]):
            self._refuse(data)
            return False
        first = self.request is None or not self.request.headers_finished
        taken: bool = super().received(data)
        if first and self.request is not None and self.request.content_length and self.server.is_full():
            self._end(_Busy(""))
        return taken

    def hang_up(self) -> None:
        """Refuses whatever it would ask."""
        try:
            data = self.recv(self.adj.recv_bytes)  # closing over what was not read would be a reset
        except BlockingIOError:
            data = b""
        if self.socket is not None:
            self.server.refused += 1
            self.send(busy(body=not data.startswith(b"HEAD ")))
            self.handle_close()

    def _refuse(self, data: bytes) -> None:
        """Answers at once what begins with these bytes, and hangs up when there is nothing more to come."""
        self.server.refused += 1
        sent = self.send(busy(body=not data.startswith(b"HEAD ")))
        if not sent or _is_whole(data) or not self.server.may_part():
            self.handle_close()
            return
        self.parting_until = time.time() + PARTING_S
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:  # it hung up already
            self.handle_close()

    def expire(self, now: float, idle_s: float) -> None:
        """Ends the wait for a request that is late, for the next one, or for an answer to be taken."""
        if self.is_parting:
            if now > self.parting_until:
                self.handle_close()
            return
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

    def __init__(self, *given: Any, arrived: Arrived, shares_port: bool, **named: Any) -> None:
        self.arrived = arrived
        self.shares_port = shares_port
        self.refused = 0  # since it was last said
        self._of: Counter[str] = Counter()  # connections of an address
        self._thread = threading.local()  # which connection it answers
        super().__init__(*given, **named)

    def bind_server_socket(self) -> None:
        """See waitress.server.TcpWSGIServer."""
        if self.shares_port:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        super().bind_server_socket()

    def answering(self, channel: _Channel) -> None:
        """This thread answers a request of that connection from now on."""
        self._thread.channel = channel

    def pull_trigger(self) -> None:
        """Called by the thread that answers, when what its connection waits for may have changed."""
        self._changed(getattr(self._thread, "channel", None))

    def _changed(self, channel: _Channel | None) -> None:
        if channel is not None and isinstance(self._map, Watched):
            self._map.arm(channel)
        else:
            super().pull_trigger()

    def run(self) -> None:
        """Serves until it is interrupted."""
        if isinstance(self._map, Watched):
            self._map.run(self.task_dispatcher.shutdown)
        else:
            super().run()

    def add_task(self, task: _Channel) -> None:
        """Queues the request that has arrived on a connection."""
        self.arrived.enter(_class_of(task.requests[0]), task.addr[0])
        super().add_task(task)

    def has_no_place(self, data: bytes, address: str) -> bool:
        """Whether the request that begins with these bytes must be refused; of less than a line nobody knows."""
        line, ended, _ = data.partition(b"\r\n")
        if not ended:
            return False
        method, _, target = line.decode("latin-1").partition(" ")
        kind = class_of(method, target.partition(" ")[0].partition("?")[0], 0)
        return self.arrived.is_full(kind, address, alone=inbound.is_trusted(address, self.trusted_proxy))

    def may_part(self) -> bool:
        """Whether one more may go on sending after it was refused."""
        return sum(1 for channel in self.active_channels.values() if channel.is_parting) < PARTING

    def gone(self, address: str) -> None:
        """A connection of this address was closed."""
        self._of[address] -= 1
        if not self._of[address]:
            del self._of[address]

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
            if isinstance(self._map, Watched):
                self._map.arm(channel)
        if self.refused:
            log.warning("%d requests were refused unread: too much is asked at once.", self.refused)
            meters.refused.labels("unread").inc(self.refused)
            self.refused = 0
        meters.connections.labels(meters.place()).set(
            sum(isinstance(one, _Channel) for one in list(self._map.values()))
        )

    def handle_accept(self) -> None:
        """Takes the connections that wait, as many as there is room for, and reads what came with them."""
        for _ in range(TAKEN_AT_ONCE):
            if len(self._map) >= self.adj.connection_limit:
                return
            try:
                taken = connection.accept(self.socket)
            except OSError as error:
                log.warning("A connection could not be taken: %s", error.strerror)
                return
            if taken is None:
                return
            self._take(*taken)

    def _take(self, sock: socket.socket, address: tuple[Any, ...]) -> None:
        """Looks after a connection, or refuses it when its address has its share already."""
        self.set_socket_options(sock)
        self._of[address[0]] += 1
        channel = self.channel_class(self, sock, address, self.adj, map=self._map)
        if self._of[address[0]] > CONNECTIONS_OF_ONE and not inbound.is_trusted(address[0], self.trusted_proxy):
            channel.hang_up()
        else:
            wasyncore.read(channel)


class _Several(MultiSocketServer):  # type: ignore[misc]
    """The servers of several addresses."""

    def run(self) -> None:
        """Serves until it is interrupted."""
        if isinstance(self.map, Watched):
            self.map.run(self.close)
        else:
            super().run()


def listening(
    app: WSGIApplication, settings: Settings, *, shares_port: bool = False, ending: Callable[[], None] = lambda: None
) -> Listener | MultiSocketServer:  # fmt: skip
    """A server of the application on the address of the settings, to be run; with `shares_port` beside others of this
    user, and the system deals the connections out. `ending` is called when it is to stop, before it waits for what is
    being answered. Raises OSError when the address is taken.
    """
    largest = settings.max_body_bytes + 1  # the application refuses with more words what says its length
    adjustments = Adjustments(host=settings.host, port=settings.port, max_request_body_size=largest, **OPTIONS)
    dispatcher = Dispatcher(adjustments.threads, ending)
    sockets: dict[int, Any] = Watched() if HAS_EPOLL else {}
    servers = []
    arrived = Arrived()
    for place in adjustments.listen:  # "localhost" is two
        server = Listener(
            app, sockets, dispatcher=dispatcher, adj=adjustments, sockinfo=place, arrived=arrived,
            shares_port=shares_port,
        )  # fmt: skip
        server.trusted_proxy = settings.trusted_proxy
        servers.append(server)
    if len(servers) == 1:
        return servers[0]
    addresses = [(server.effective_host, server.effective_port) for server in servers]
    return _Several(sockets, adjustments, addresses, dispatcher)
