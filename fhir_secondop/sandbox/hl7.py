"""A simulated receiver of HL7 v2 messages by MLLP, with the faults that real ones show. Its own acknowledgements are
put together here: it must not be mistaken in the same way as what it stands against.
"""

from __future__ import annotations

import socketserver
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from fhir_secondop.errors import Invalid, Malformed
from fhir_secondop.hl7v2.framing import Blocks, framed

MOST_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Heard:
    """One message as it came, with its MSH-10."""

    control_id: str
    data: bytes

    @property
    def text(self) -> str:
        """As text."""
        return self.data.decode("utf-8")

    def fields(self, segment: str, number: int = 1) -> list[str]:
        """The fields of a segment, as they are: [0] is its name, so [n] is field n (of MSH: n - 1)."""
        return [line.split("|") for line in self.text.split("\r") if line.startswith(segment)][number - 1]


Reply = Callable[[Heard, str], bytes | None]
"""What is answered: a block, or bytes that are none; None closes the connection."""


def _ack(heard: Heard, code: str, error: str = "", control_id: str = "") -> bytes:
    sent = heard.fields("MSH")
    event = sent[8].split("^")[1:2] or [""]
    lines = [
        f"MSH|^~\\&|{sent[4]}|{sent[5]}|{sent[2]}|{sent[3]}|20261129||ACK^{event[0]}^ACK|A{heard.control_id}|P|2.5.1",
        f"MSA|{code}|{control_id or heard.control_id}",
    ]
    if error:
        lines.append(f"ERR||PID^1^3|{error}^of a simulation^HL70357|E")
    return "".join(f"{line}\r" for line in lines).encode()


def _late(heard: Heard, value: str) -> bytes:
    time.sleep(float(value or 3))
    return framed(_ack(heard, "AA"))


def _silent(heard: Heard, value: str) -> bytes:
    time.sleep(float(value or 60))
    return b""


QUIRKS: dict[str, tuple[str, Reply]] = {
    "ae": ("answers AE; VALUE is the code of table 0357 (204)", lambda h, v: framed(_ack(h, "AE", v or "204"))),
    "ar": ("answers AR; VALUE is the code of table 0357 (none)", lambda h, v: framed(_ack(h, "AR", v))),
    "ca": ("answers CA, a commit", lambda h, v: framed(_ack(h, "CA"))),
    "silent": ("takes it and never answers; VALUE: seconds until it closes (60)", _silent),
    "late": ("answers AA; VALUE: seconds later (3)", _late),
    "another": ("answers AA, to another control id", lambda h, v: framed(_ack(h, "AA", control_id="ANOTHER"))),
    "garbage": ("answers with bytes that are no message", lambda h, v: framed(b"\xff\xfe HTTP/1.1 200 OK")),
    "drops": ("takes it and closes the connection", lambda h, v: None),
    "twice": ("answers AA twice", lambda h, v: framed(_ack(h, "AA")) * 2),
    "first-another": ("first answers another message, then this one",
                      lambda h, v: framed(_ack(h, "AE", "101", "EARLIER")) + framed(_ack(h, "AA"))),
}  # fmt: skip


def chosen(quirk: str) -> tuple[Reply, str]:
    """The quirk of "NAME" or "NAME=VALUE", and its value. Raises Invalid."""
    name, _, value = quirk.partition("=")
    if name not in QUIRKS:
        raise Invalid(f"There is no quirk {name!r}; known are {', '.join(QUIRKS)}.")
    return QUIRKS[name][1], value


@dataclass
class Receiver:
    """Keeps what it hears, in memory and (with `folder`) in files. `quirk` may change meanwhile; "" answers AA.

    `times`: how many messages the quirk is for, 0 is all.
    """

    quirk: str = ""
    times: int = 0
    folder: Path | None = None
    heard: list[Heard] = field(default_factory=list)
    port: int = 0
    _server: socketserver.ThreadingTCPServer | None = None

    def start(self, port: int = 0, tls: ssl.SSLContext | None = None) -> Receiver:
        """Listens on loopback, on a free port by default, with TLS where a context for that is given."""
        receiver = self

        class Conversation(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                blocks = Blocks(lambda: self.request.recv(1 << 16), MOST_BYTES)
                try:
                    while (data := blocks.next()) is not None:
                        reply = receiver.answer(data)
                        if reply is None:
                            return
                        self.request.sendall(reply)
                except (OSError, Malformed):
                    return  # the other side went away, or can't speak MLLP

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = True
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """Nothing: a handshake that failed is the other side's business."""

        self._server = Server(("127.0.0.1", port), Conversation)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def answer(self, data: bytes) -> bytes | None:
        """What it answers to a message."""
        head = data.split(b"\r")[0].split(b"|")
        heard = Heard(head[9].decode() if len(head) > 9 else "", data)
        self.heard.append(heard)
        if self.folder is not None:
            (self.folder / f"{len(self.heard):06}.hl7").write_bytes(data)
        if not self.quirk or (self.times and len(self.heard) > self.times):
            return framed(_ack(heard, "AA"))
        reply, value = chosen(self.quirk)
        return reply(heard, value)

    def stop(self) -> None:
        """Stops listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
