"""HTTP as a hostile server speaks it: late, never, in drops, of a wrong length, without end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Plain = dict[str, Any]
JSON = "application/fhir+json"
HUGE_MB = 500


@dataclass
class Answer:
    """What goes back; `how` is honest, or what the tables of the peer call it."""

    status: int = 200
    body: bytes = b""
    location: str = ""
    kind: str = JSON
    how: str = "honest"
    retry_after: str = ""


def json_answer(status: int, resource: Plain, location: str = "") -> Answer:
    """A resource as the body."""
    return Answer(status, json.dumps(resource).encode(), location)


async def _request(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str], bytes] | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
        return None
    method, url, _ = first.split(" ")
    return method, url, headers, body


def _head(answer: Answer, length: int) -> bytes:
    lines = [f"HTTP/1.1 {answer.status} X", f"Content-Type: {answer.kind}", f"Content-Length: {length}"]
    lines += [f"Location: {answer.location}"] if answer.location else []
    lines += [f"Retry-After: {answer.retry_after}"] if answer.retry_after else []
    return "\r\n".join([*lines, "", ""]).encode()


async def _say(answer: Answer, writer: asyncio.StreamWriter, reader: asyncio.StreamReader, timeout_s: float) -> bool:
    """Whether the connection goes on afterwards."""
    body = answer.body
    if answer.how in ("cut off before", "cut off after"):
        return False
    if answer.how == "never answered":
        await reader.read()  # until the other side has had enough
        return False
    if answer.how == "answered late":
        await asyncio.sleep(timeout_s * 1.3)
    if answer.how == "500 MB":
        writer.write(_head(answer, HUGE_MB * 1_000_000))
        for _ in range(HUGE_MB):
            writer.write(b" " * 1_000_000)
            await writer.drain()
        return False
    if answer.how == "slow bytes":
        writer.write(_head(answer, len(body)))
        step = max(1, len(body) // 8)
        for at in range(0, len(body), step):
            writer.write(body[at : at + step])
            await writer.drain()
            await asyncio.sleep(0.03)
        return True
    change = {"length too long": 7, "length too short": -min(7, len(body))}.get(answer.how, 0)
    writer.write(_head(answer, len(body) + change) + body)
    await writer.drain()
    return change == 0


def listener(act: Callable[..., Answer], timeout_s: float, pause_s: float = 0.0) -> Callable[..., Any]:
    """What takes connections and answers each request by `act`, `pause_s` after it came."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
            while (asked := await _request(reader)) is not None:
                await asyncio.sleep(pause_s)  # what had come to the other ports before this is taken first
                if not await _say(act(*asked), writer, reader, timeout_s):
                    break
        writer.close()

    return talk
