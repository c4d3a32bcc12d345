"""A connection lives on after an answer, whatever that holds; and who answers. Real sockets, our listener."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import pytest
from werkzeug.wrappers import Request, Response

from fhir_secondop.config import Settings
from fhir_secondop.web import listener
from fhir_secondop.web.watching import Dispatcher
from tests.conftest import free_port

SOON_S = 20.0
ANSWERS = {
    "/gone": lambda: Response(status=204),
    "/same": lambda: Response(status=304),
    "/short": lambda: Response("ok"),
    "/large": lambda: Response(b"x" * 5_000_000),
    "/pieces": lambda: Response(b"piece" for _ in range(3)),
    "/nothing": lambda: Response(b"" for _ in range(3)),
}


def app(environ: Any, start_response: Any) -> Any:
    request = Request(environ)
    answer = ANSWERS[request.path]()
    answer.headers["X-Thread"] = threading.current_thread().name
    return answer(environ, start_response)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    port = free_port()
    server = listener.listening(app, Settings(port=port))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield port
    server.task_dispatcher.shutdown()
    server._map.clear()  # its loop ends when there is nothing left to look after
    thread.join(SOON_S)
    server.socket.close()


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
@pytest.mark.parametrize("path", ANSWERS)
def test_the_next_request_has_the_same_connection(port: int, path: str, method: str) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=SOON_S)
    connection.connect()
    first = connection.sock
    bodies = []
    for _ in range(3):
        connection.request(method, path)
        answer = connection.getresponse()
        bodies.append(answer.read())
        assert answer.headers["Connection"] is None
        assert connection.sock is first
        if answer.status in (204, 304):
            assert answer.headers["Transfer-Encoding"] is None
            assert answer.headers["Content-Length"] is None
    expected = b"" if method == "HEAD" else b"".join(ANSWERS[path]().iter_encoded())
    assert bodies == [expected] * 3
    connection.close()


@pytest.mark.parametrize(
    ("line", "headers", "stays"),
    [
        ("GET /gone HTTP/1.1", "Connection: close", False),
        ("GET /short HTTP/1.1", "Connection: close", False),
        ("GET /short HTTP/1.0", "", False),
        ("GET /short HTTP/1.0", "Connection: keep-alive", True),
        ("GET /gone HTTP/1.0", "Connection: keep-alive", True),
        ("GET /pieces HTTP/1.0", "Connection: keep-alive", False),
    ],
)
def test_a_connection_is_closed_where_its_client_wants_it_or_could_not_see_the_end(
    port: int, line: str, headers: str, stays: bool
) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=SOON_S) as sock:
        sock.sendall(f"{line}\r\nHost: localhost\r\n{headers}{chr(13) + chr(10) if headers else ''}\r\n".encode())
        said = b""
        while b"\r\n\r\n" not in said:
            said += sock.recv(65536)
        head = said.partition(b"\r\n\r\n")[0].lower()
        assert (b"connection: keep-alive" in head) == stays
        assert (b"connection: close" in head) == (not stays)
        sock.settimeout(0.3 if stays else SOON_S)
        ended = False
        try:
            while not ended:
                ended = not sock.recv(65536)
        except TimeoutError:
            pass
        assert ended != stays


def test_one_at_a_time_is_answered_by_one_thread(port: int) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=SOON_S)
    threads = set()
    for _ in range(50):
        connection.request("GET", "/short")
        answer = connection.getresponse()
        answer.read()
        threads.add(answer.headers["X-Thread"])
    connection.close()
    assert len(threads) <= 2  # its thread may not be idle yet when the next one is there already


def test_no_request_is_forgotten_when_many_ask_at_once(port: int) -> None:
    """A connection is armed by one thread while another looks at it: each answer must come, none only after a round."""

    ends = time.monotonic() + SOON_S  # a round is a second: 200 of them would be too late

    def ask(number: int) -> int:
        connection = HTTPConnection("127.0.0.1", port, timeout=SOON_S)
        for each in range(200):
            if time.monotonic() > ends:
                return each
            connection.request("GET", ("/short", "/gone", "/pieces")[(number + each) % 3])
            connection.getresponse().read()
        connection.close()
        return 200

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(ask, range(16))) == 3200


class Held:
    """A task that stays until it is let go."""

    def __init__(self) -> None:
        self.began, self.go, self.cancelled = threading.Event(), threading.Event(), False

    def service(self) -> None:
        self.began.set()
        self.go.wait(SOON_S)

    def cancel(self) -> None:
        self.cancelled = True


def test_no_more_are_done_at_once_than_there_are_threads_and_the_rest_in_turn() -> None:
    dispatcher = Dispatcher(2)
    tasks = [Held() for _ in range(4)]
    for task in tasks:
        dispatcher.add_task(task)
    assert all(task.began.wait(SOON_S) for task in tasks[:2])
    assert not tasks[2].began.wait(0.1)
    tasks[0].go.set()
    assert tasks[2].began.wait(SOON_S)
    assert not tasks[3].began.is_set()
    ending = threading.Thread(target=dispatcher.shutdown)
    ending.start()
    tasks[1].go.set()
    tasks[2].go.set()
    ending.join(SOON_S)
    assert [task.cancelled for task in tasks] == [False, False, False, True]


def test_a_task_that_fails_takes_no_thread_with_it(caplog: pytest.LogCaptureFixture) -> None:
    dispatcher, after = Dispatcher(1), Held()

    class Failing(Held):
        def service(self) -> None:
            raise OSError("planted")

    dispatcher.add_task(Failing())
    dispatcher.add_task(after)
    assert after.began.wait(SOON_S)
    after.go.set()
    assert dispatcher.shutdown()
    assert "could not be answered" in caplog.text
