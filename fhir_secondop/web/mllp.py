"""Listens for HL7 v2 by MLLP: several connections at once, each message answered before the next of that connection.

Loopback unless somebody says otherwise, and then with TLS: the messages are patients' data.
"""

from __future__ import annotations

import logging
import socket
import socketserver
import ssl
import sys
import threading
import time
from pathlib import Path
from typing import Any

from fhir_secondop.bootstrap import Service
from fhir_secondop.errors import Invalid, Malformed, Unavailable
from fhir_secondop.hl7v2.framing import BEGIN, Blocks, framed
from fhir_secondop.web.hl7 import handle, known

log = logging.getLogger(__name__)
MOST_BYTES = 4 * 1024 * 1024
IDLE_S = 300.0  # how long nobody need send a message
MESSAGE_S = 60.0  # from the first byte of a message to its last; and for its answer to be taken
HANDSHAKE_S = 10.0
MOST_CONNECTIONS = 64
MOST_OF_ONE = 16  # connections from one address


class _Conversation(socketserver.BaseRequestHandler):
    """One connection."""

    server: Listener

    def handle(self) -> None:
        """Answers messages until the other side closes, stays silent, or can't speak MLLP."""
        peer = str(self.client_address[0])
        try:
            if isinstance(self.request, ssl.SSLSocket):
                self.request.settimeout(HANDSHAKE_S)
                self.request.do_handshake()
            blocks = Blocks(self._received, self.server.most_bytes)
            while (data := self._next(blocks)) is not None:
                answer = framed(handle(self.server.service, data, peer).answer)
                self.request.settimeout(self.server.message_s)
                self.request.sendall(answer)
        except Malformed as error:
            log.warning("an MLLP connection is closed: %s", error.message)
        except OSError as error:
            log.info("an MLLP connection ended: %s", type(error).__name__)

    def _next(self, blocks: Blocks) -> bytes | None:
        self._ends, self._begun = time.monotonic() + self.server.idle_s, False
        return blocks.next()

    def _received(self) -> bytes:
        """More bytes. Raises TimeoutError at the end of the time for the message, however little comes now and then."""
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.request.settimeout(left)
        found: bytes = self.request.recv(1 << 16)
        if BEGIN in found and not self._begun:
            self._ends, self._begun = time.monotonic() + self.server.message_s, True
        return found


class Listener(socketserver.ThreadingTCPServer):
    """Serves until `shutdown`. Raises Unavailable where the port can't be listened on."""

    allow_reuse_address = True
    daemon_threads = False  # what was begun is answered before the process ends
    block_on_close = True

    def __init__(
        self, service: Service, host: str, port: int, tls: ssl.SSLContext | None = None, *,
        most_bytes: int = MOST_BYTES, idle_s: float = IDLE_S, message_s: float = MESSAGE_S,
        most: int = MOST_CONNECTIONS, most_of_one: int = MOST_OF_ONE,
    ) -> None:  # fmt: skip
        self.service = service
        self.most_bytes = most_bytes
        self.idle_s = idle_s
        self.message_s = message_s
        self._most, self._most_of_one = most, most_of_one
        self._lock = threading.Lock()
        self._open: dict[socket.socket, str] = {}
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Conversation)
        except OSError as error:
            raise Unavailable(f"Port {port} can't be listened on ({error.strerror}); choose another --port.") from error
        if tls is not None:  # each handshake is its own thread's: nobody holds up the others by theirs
            self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.server_address[1])

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Takes a connection from where a sender may be, while there is a place, and one of that address; else it is
        closed.
        """
        peer = str(client_address[0])
        if not known(self.service, peer):
            log.warning("an MLLP connection from %s is closed: it is in the networks of no sender", peer)
            if self.service.context.database.audit is not None:
                self.service.context.database.audit.refused("", 403)
            return False
        with self._lock:
            if len(self._open) < self._most and list(self._open.values()).count(peer) < self._most_of_one:
                self._open[request] = peer
                return True
        log.warning("an MLLP connection is closed: there are as many as may be")
        return False

    def shutdown_request(self, request: Any) -> None:
        """Gives its place back."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A fault of ours in a conversation: the connection is closed, and nothing was acknowledged."""
        log.error("an MLLP connection failed on our side: %s", getattr(sys.exc_info()[0], "__name__", ""))

    def stop(self) -> None:
        """Stops listening; a message that has arrived is answered first."""
        self.shutdown()
        with self._lock:
            still = tuple(self._open)
        for request in still:
            try:
                # Of the socket below, never SSLSocket.shutdown: that takes the TLS away, and the answer that is still
                # to be sent would go out in clear.
                socket.socket.shutdown(request, socket.SHUT_RD)
            except OSError:
                continue  # it has gone by itself
        self.server_close()


def tls_context(certificate: str, key: str, client_ca: str) -> ssl.SSLContext:
    """TLS of a listener; with `client_ca` whoever connects must show a certificate of it. Raises Invalid."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for path in filter(None, (certificate, key, client_ca)):
        if not Path(path).is_file():
            raise Invalid(f"There is no file {path}.")
    try:
        context.load_cert_chain(certificate, key or None, password=lambda: "")
        if client_ca:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ValueError) as error:
        raise Invalid("The certificate, its key or the CA is not PEM without a password.") from error
    return context
