"""A proxy in front of a simulated EHR, from which a test cuts the conversation at an exact point."""

from __future__ import annotations

import contextlib
import http.client
import os
import threading
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

POINTS = ("before-send", "after-send", "after-answer")


class Proxy:
    """Forwards to the EHR on `port`; when a request fits, calls `strike` at the point and answers nothing more.

    Each side believes that the other is where the proxy is: the port stands in URLs, and is exchanged in the bytes.
    """

    def __init__(self, port: int, listens: str = "127.0.0.1") -> None:
        self.target = port
        self.fits: Callable[[str, str], bool] = lambda method, path: False
        self.point = ""
        self.strike: Callable[[], None] = lambda: None
        self.struck = threading.Event()
        self.asking = 0  # the port that the request which was struck came from
        self.asking_host = ""
        self.requests: list[tuple[str, str]] = []
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer((listens, 0), handler)
        self._server.handle_error = lambda request, client_address: None  # the dead send resets
        self.port = self._server.server_address[1]
        assert len(str(self.port)) == len(str(port)), "ports must be of one length: lengths of bodies are kept"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def arm(self, point: str, fits: Callable[[str, str], bool], strike: Callable[[], None]) -> None:
        """Strikes once, at the first request that fits."""
        self.fits, self.point, self.strike = fits, point, strike
        self.struck.clear()

    def close(self) -> None:
        """Stops the proxy."""
        self._server.shutdown()
        self._server.server_close()


def process_at(port: int, pids: Iterable[int]) -> int:
    """Which of these processes has the connection whose local port that is; 0 when none has. Linux only."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]" for row in rows if int(row[1].partition(":")[2], 16) == port}
    for pid in pids:
        with contextlib.suppress(OSError):
            for held in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if os.readlink(held) in sockets:
                        return pid
    return 0


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    protocol_version = "HTTP/1.1"

    def _forward(self) -> None:
        proxy = self.proxy
        proxy.requests.append((self.command, self.path))
        ours, theirs = str(proxy.port).encode(), str(proxy.target).encode()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).replace(ours, theirs)
        hit = not proxy.struck.is_set() and proxy.fits(self.command, self.path)
        if hit and proxy.point == "before-send":
            return self._strike()
        try:
            connection = http.client.HTTPConnection("127.0.0.1", proxy.target, timeout=30)
            sent = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
            connection.request(self.command, self.path, body, sent)
            answer = connection.getresponse()
            data = answer.read().replace(theirs, ours)
        except OSError:
            self.close_connection = True
            return None
        if hit and proxy.point == "after-send":
            return self._strike()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "connection", "server", "date", "transfer-encoding"):
                self.send_header(name, value.replace(theirs.decode(), ours.decode()))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        if hit:
            self.wfile.flush()
            self._strike()
        return None

    def _strike(self) -> None:
        self.proxy.struck.set()
        self.proxy.asking_host, self.proxy.asking = self.client_address[:2]
        self.proxy.strike()
        self.close_connection = True

    do_GET = do_POST = do_PUT = do_DELETE = _forward

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the console."""
