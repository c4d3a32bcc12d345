"""MLLP: a message between a start and an end mark, so that a stream of bytes has messages in it.

Source: HL7 v2 transport specification, MLLP release 1: <VT> message <FS><CR>
"""

from __future__ import annotations

from collections.abc import Callable

from fhir_secondop.errors import Malformed

BEGIN, END = b"\x0b", b"\x1c\r"


def framed(message: bytes) -> bytes:
    """A block. Raises Malformed where the message holds a mark of its own, which would end it early."""
    if BEGIN in message or END[:1] in message:
        raise Malformed("A message that holds a mark of MLLP can't be sent by it.")
    return BEGIN + message + END


class Blocks:
    """The messages in what `receive` gives: bytes as they come, b"" at the end.

    Bytes between blocks are thrown away: some send a line feed there. Blocks that follow each other at once are kept
    apart.
    """

    def __init__(self, receive: Callable[[], bytes], most: int) -> None:
        self._receive = receive
        self._most = most
        self._buffer = bytearray()

    def next(self) -> bytes | None:
        """The next message; None where the stream has ended between two.

        Raises Malformed where one is larger than `most` bytes, or breaks off.
        """
        begin = self._until(BEGIN, 0)
        if begin < 0:
            return None
        del self._buffer[: begin + 1]
        end = self._until(END, 0, bounded=True)
        if end < 0:
            raise Malformed("A message broke off before its end.")
        message = bytes(self._buffer[:end])
        del self._buffer[: end + len(END)]
        return message

    def _until(self, mark: bytes, at: int, *, bounded: bool = False) -> int:
        """Where the mark stands, receiving until it does; -1 at the end of the stream."""
        while (found := self._buffer.find(mark, at)) < 0:
            if len(self._buffer) > self._most:
                if bounded:
                    raise Malformed(f"A message has more than {self._most} bytes.")
                del self._buffer[:]
            at = max(0, len(self._buffer) - len(mark) + 1)
            more = self._receive()
            if not more:
                return -1
            self._buffer += more
        if bounded and found > self._most:
            raise Malformed(f"A message has more than {self._most} bytes.")
        return found
