"""A proxy that writes down what passes through it: whole requests over HTTP, where a tunnel leads over HTTPS."""

from __future__ import annotations

import http.client
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

_HOP = frozenset({"connection", "proxy-connection", "keep-alive", "transfer-encoding", "content-length", "host",
                  "proxy-authorization"})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Passed:
    """One request and the status of its answer; names of headers in lower case. A tunnel has the method CONNECT."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes
    status: int

    @property
    def form(self) -> dict[str, str]:
        """The fields of a form."""
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True))

    @property
    def authorization(self) -> str:
        """Its Authorization header, or ""."""
        return self.headers.get("authorization", "")


class Proxy:
    """`passed` is what went through, in the order of the answers. `edit` may change an answer's body by its URL."""

    def __init__(self) -> None:
        self.passed: list[Passed] = []
        self.edit: Callable[[str, bytes], bytes] = lambda url, body: body
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def tokens(self) -> list[Passed]:
        """The token requests."""
        return [p for p in self.passed if "client_assertion" in p.form and p.method == "POST"]

    @property
    def fhir(self) -> list[Passed]:
        """The other requests, without that for the SMART configuration."""
        return [p for p in self.passed if p not in self.tokens and ".well-known" not in p.url]

    def close(self) -> None:
        """Stops it."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def recording() -> Iterator[Proxy]:
    """A proxy that listens."""
    proxy = Proxy()
    try:
        yield proxy
    finally:
        proxy.close()


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        there = urlsplit(self.path)
        assert there.hostname is not None, "a proxy is asked with whole URLs"
        connection = http.client.HTTPConnection(there.hostname, there.port or 80, timeout=30)
        try:
            target = there.path + (f"?{there.query}" if there.query else "")
            sent = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
            connection.request(self.command, target, body or None, {**sent, "Host": there.netloc})
            answer = connection.getresponse()
            data = self.proxy.edit(self.path, answer.read())
        except (OSError, http.client.HTTPException):
            self._note(body, 0)
            self.close_connection = True
            return
        finally:
            connection.close()
        self._note(body, answer.status)
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in (*_HOP, "server", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_DELETE = _forward

    def do_CONNECT(self) -> None:
        self._note(b"", 200)
        host, _, port = self.path.partition(":")
        with socket.create_connection((host, int(port)), timeout=30) as there:
            self.send_response(200)
            self.end_headers()
            ends = {self.connection: there, there: self.connection}
            while True:
                for end in select.select(list(ends), [], [], 30)[0]:
                    data = end.recv(1 << 16)
                    if not data:
                        self.close_connection = True
                        return
                    ends[end].sendall(data)

    def _note(self, body: bytes, status: int) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.proxy.passed.append(Passed(self.command, self.path, headers, body, status))

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the console."""
