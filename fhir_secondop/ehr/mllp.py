"""One message by MLLP and its acknowledgement: one connection, and an end to how long we wait."""

from __future__ import annotations

import socket
import ssl
import time
from urllib.parse import urlsplit

from fhir_secondop.ehr import sockets
from fhir_secondop.ehr.addresses import reach_of
from fhir_secondop.ehr.failures import EhrFailure
from fhir_secondop.ehr.hl7_answers import Answer, answer_to
from fhir_secondop.errors import Malformed
from fhir_secondop.hl7v2.framing import Blocks, framed
from fhir_secondop.model import Connection

MAX_ANSWER_BYTES = 1_000_000
STRANGERS = 10  # answers to other messages that we listen past


def reach(connection: Connection) -> None:
    """Connects, and TLS where that is meant, and sends nothing. Raises EhrFailure "unreachable"."""
    _connected(connection).close()


def send(connection: Connection, message: bytes, control_id: str) -> Answer:
    """What was answered to it.

    Raises EhrFailure: "unreachable" where nothing was sent; "unknown" where it may have arrived, and nobody said so in
    time; Refused where we must not connect.
    """
    block = framed(message)
    made = _connected(connection)
    try:
        ends = time.monotonic() + connection.timeout_s
        made.settimeout(connection.timeout_s)
        made.sendall(block)
        blocks = Blocks(lambda: _received(made, ends), MAX_ANSWER_BYTES)
        for _ in range(STRANGERS):
            data = blocks.next()
            if data is None:
                break
            found = answer_to(data, control_id)
            if found is not None:  # else it answers something else: a message that somebody gave up waiting for
                return found
    except (OSError, Malformed) as error:
        raise EhrFailure("unknown", f"{connection.name}: no acknowledgement ({type(error).__name__}).") from None
    finally:
        made.close()
    raise EhrFailure("unknown", f"{connection.name}: no acknowledgement of this message.")


def _received(made: socket.socket, ends: float) -> bytes:
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    made.settimeout(left)
    return made.recv(1 << 16)


def _connected(connection: Connection) -> socket.socket:
    where = urlsplit(connection.hl7)
    host, port = where.hostname or "", where.port or 0
    try:
        plain = sockets.connect(
            host, port, reach_of(connection, connection.timeout_s), timeout_s=min(10.0, connection.timeout_s)
        )
    except OSError as error:
        raise EhrFailure("unreachable", f"{connection.name}: no connection by MLLP.") from error
    if where.scheme != "mllps":
        return plain
    try:
        context = ssl.create_default_context(cafile=connection.ca_bundle or None)
        if connection.client_cert:
            context.load_cert_chain(connection.client_cert, connection.client_key or None, password=lambda: "")
        return context.wrap_socket(plain, server_hostname=host)
    except OSError as error:  # an SSLError is one: nothing of the message was sent
        plain.close()
        raise EhrFailure("unreachable", f"{connection.name}: no TLS with what answers by MLLP.") from error
