"""How an answer goes out: its head, and that its request has left before its last byte.

waitress closes a connection after every answer that says no length, also where none may stand (204, 304) or none need
(chunked): the next request would have to connect again, for a DELETE each time.
"""

from __future__ import annotations

import time
from email.utils import formatdate
from functools import lru_cache
from typing import Any

from waitress.task import Task

JOINED_BYTES = 64 * 1024  # what is larger goes out behind its head instead of being copied to it


@lru_cache(maxsize=4)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


def head(task: Any) -> bytes:
    """The first line and the headers; decides whether the connection stays open, and whether the body is chunked."""
    said: list[str] = []
    length = ""
    has_date = False
    for name, value in task.response_headers:
        match name.lower():
            case "content-length":
                length = value
                continue
            case "date":
                has_date = True
            case "connection":
                continue  # said below
        said.append(f"{name}: {value}")
    if not length and task.content_length is not None:
        length = str(task.content_length)
    request = task.request
    has_body = task.has_body and getattr(request, "command", "") != "HEAD"
    is_known = bool(length) or not has_body  # where it ends
    asked = request.headers.get("CONNECTION", "").lower()
    if task.has_body and length:
        said.append(f"Content-Length: {length}")
    if task.version == "1.1":
        if not is_known:
            said.append("Transfer-Encoding: chunked")
            task.chunked_response = True
        if asked == "close":
            task.close_on_finish = True
    elif asked != "keep-alive" or not is_known:
        task.close_on_finish = True
    elif not task.close_on_finish:
        said.append("Connection: Keep-Alive")
    if task.close_on_finish:
        said.append("Connection: close")
    if not has_date:
        said.append(f"Date: {_date(int(task.start_time or time.time()))}")
    return "\r\n".join([f"HTTP/{task.version} {task.status}", *said, "\r\n"]).encode("latin-1")


def write(task: Any, data: bytes) -> None:
    """Writes a part of an answer, its head with the first one; before the last one the request has left.

    A client may ask again as soon as it has the last byte: counted a second time, eight at once would be sixteen.
    """
    first = b""
    if not task.wrote_header and task.complete:
        first = head(task)
        task.wrote_header = True
    length = task.content_length
    if not task.has_body or (length is not None and task.content_bytes_written + len(data) >= length):
        task.channel.leave(task.request)
    is_whole = task.has_body and not task.chunked_response and (length is None or len(data) <= length)
    if first and data and is_whole and len(data) <= JOINED_BYTES:
        task.content_bytes_written += len(data)
        task.channel.write_soon(first + data)
        return
    if first:
        task.channel.write_soon(first)
    Task.write(task, data)
