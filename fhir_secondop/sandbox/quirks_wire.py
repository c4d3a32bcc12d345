"""Quirks on the wire: answers that dribble, break off, come late or not at all. Rows of the table in `quirks`."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

from werkzeug.wrappers import Response

from fhir_secondop.sandbox.answers import refusal
from fhir_secondop.sandbox.traffic import Around, Asked, GoOn, Times, cut_after, hang_up, number

_PIECES = 20


def hangs(asked: Asked, go_on: GoOn) -> Response:
    """Says nothing until the client gives up."""
    connection: socket.socket | None = asked.environ.get("werkzeug.socket")
    try:
        while connection is not None and connection.recv(1 << 16):
            pass
    except OSError:  # reset: it gave up rudely
        pass
    hang_up(asked)


def closes(asked: Asked, go_on: GoOn) -> Response:
    """Ends every connection without an answer."""
    hang_up(asked)


def slow_bytes(value: str) -> Around:
    """The answer comes in twenty pieces over s seconds."""
    pause_s = number(value, 3) / _PIECES

    def around(asked: Asked, go_on: GoOn) -> Response:
        answer = go_on(asked)
        body = answer.get_data()
        size = len(body) // _PIECES + 1

        def dribble() -> Iterator[bytes]:
            for at in range(0, len(body), size):
                time.sleep(pause_s)
                yield body[at : at + size]

        answer.response = dribble()
        return answer

    return around


def truncated_json(asked: Asked, go_on: GoOn) -> Response:
    """The length of the whole is announced, half of it comes, and the connection ends."""
    answer = go_on(asked)
    if asked.kind in ("read", "search"):
        body = answer.get_data()
        answer.response = cut_after(asked, [body[: len(body) // 2]])
    return answer


def half_json(asked: Asked, go_on: GoOn) -> Response:
    """Half of the JSON, as if that were the whole."""
    answer = go_on(asked)
    if asked.kind in ("read", "search"):
        body = answer.get_data()
        answer.set_data(body[: len(body) // 2])
    return answer


def storm_429(value: str) -> Around:
    """The first n requests are too many."""
    times = Times(number(value, 3))

    def around(asked: Asked, go_on: GoOn) -> Response:
        if not times.take():
            return go_on(asked)
        answer = refusal(429, "throttled", "Too many requests.")
        answer.headers["Retry-After"] = "1"
        return answer

    return around


def redirects(value: str) -> Around:
    """Sends everything but /metadata to another base."""

    def around(asked: Asked, go_on: GoOn) -> Response:
        if asked.kind == "open":
            return go_on(asked)
        query = asked.environ.get("QUERY_STRING", "")
        there = "/".join([value.rstrip("/"), *asked.parts]) + (f"?{query}" if query else "")
        return Response(b"", 302, headers={"Location": there})

    return around


# ---- writes whose answer does not come


def late_answer(value: str) -> Around:
    """What was written is stored at once; the answer comes s seconds later."""
    late_s = number(value, 5)

    def around(asked: Asked, go_on: GoOn) -> Response:
        answer = go_on(asked)
        if asked.writes:
            time.sleep(late_s)
        return answer

    return around


def late_store(value: str) -> Around:
    """A write is stored s seconds after it came, whether or not the client still waits for the answer."""
    late_s = number(value, 5)

    def around(asked: Asked, go_on: GoOn) -> Response:
        if asked.writes:
            time.sleep(late_s)
        return go_on(asked)

    return around


def lost_answer(value: str) -> Around:
    """The first n writes are stored, and then the connection ends without an answer."""
    times = Times(number(value, 1))

    def around(asked: Asked, go_on: GoOn) -> Response:
        answer = go_on(asked)
        if asked.writes and answer.status_code < 300 and times.take():
            hang_up(asked)
        return answer

    return around


def refused_late(value: str) -> Around:
    """The connection of the first n writes ends before anything is stored."""
    times = Times(number(value, 1))

    def around(asked: Asked, go_on: GoOn) -> Response:
        if asked.writes and times.take():
            hang_up(asked)
        return go_on(asked)

    return around
