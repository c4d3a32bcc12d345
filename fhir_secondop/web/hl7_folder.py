"""HL7 v2 by file: what is dropped into a folder is taken once, and then stands in `done` or `failed`.

Beside it stands the answer (`NAME.ack`), and in `failed` why (`NAME.reason`). A sender writes elsewhere on the same
file system and renames it to NAME.hl7: half a file is never seen then. A file is moved to `work` before it is read, so
that what is read is what is moved on, and the next one of that name is another.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fhir_secondop import durable
from fhir_secondop.bootstrap import Service
from fhir_secondop.errors import SecondOpError, Unavailable
from fhir_secondop.web.hl7 import Handled, handle
from fhir_secondop.web.mllp import MOST_BYTES

log = logging.getLogger(__name__)
SUFFIX = ".hl7"
WORK, DONE, FAILED = "work", "done", "failed"


@dataclass(frozen=True, slots=True)
class Polled:
    """How many files were taken, and how many refused; `left` are those that are tried again."""

    done: int = 0
    failed: int = 0
    left: int = 0


def poll(service: Service, folder: Path, *, settled_s: float = 1.0) -> Polled:
    """Takes what is there, oldest name first. A file that was changed within `settled_s` is left for the next time.

    A process that ends in between leaves the file in `work`: it is taken again, and answered as the first time. While
    another process polls the folder nothing is taken. Raises Unavailable where the folder can't be used.
    """
    try:
        for name in (WORK, DONE, FAILED):
            _made(folder / name)
        with open(folder / WORK / ".lock", "wb") as lock:
            return _polled(service, folder, settled_s) if _alone(lock) else Polled(left=len(_named(folder)))
    except OSError as error:
        raise Unavailable(f"{folder} can't be used for messages ({type(error).__name__}).") from error


def _polled(service: Service, folder: Path, settled_s: float) -> Polled:
    counts = {DONE: 0, FAILED: 0, "": 0}
    for path in _named(folder / WORK):
        counts[_take(service, folder, path, settled_s)] += 1
    for path in _named(folder):
        claimed = _claimed(folder, path, settled_s)
        counts[_take(service, folder, claimed, settled_s) if claimed else ""] += 1
    return Polled(counts[DONE], counts[FAILED], counts[""])


def _made(folder: Path) -> None:
    if not folder.exists():
        folder.mkdir(exist_ok=True)
        durable.share(folder, folder.parent)


def _named(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


def _alone(lock: IO[bytes]) -> bool:
    """Whether nobody else polls; the lock ends with the process, however that ends."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _settled(path: Path, settled_s: float) -> bool:
    """Whether it is a file that nobody writes any more. Its time is the file system's clock, and so is its age."""
    found = path.lstat()
    return stat.S_ISREG(found.st_mode) and time.time() - found.st_mtime >= settled_s


def _claimed(folder: Path, path: Path, settled_s: float) -> Path | None:
    """The file in `work`; None where it stays, while an earlier one of that name is there too."""
    claimed = folder / WORK / path.name
    try:
        if claimed.exists() or not _settled(path, settled_s):
            return None
        path.rename(claimed)
    except OSError as error:
        log.warning("a file of the folder can't be taken: %s", type(error).__name__)
        return None
    return claimed


def _take(service: Service, folder: Path, path: Path, settled_s: float) -> str:
    """The folder that it was moved to; "" where it stays in `work`."""
    try:
        if not _settled(path, settled_s):
            return ""
        handled = _handled(service, path)
        if not handled.accepted and handled.retryable:
            return ""
        return _moved(path, folder / (DONE if handled.accepted else FAILED), handled)
    except OSError as error:  # not for us to read, say, or the disk is full: the next one is taken
        log.warning("a file of the folder can't be taken: %s", type(error).__name__)
        return ""


def _handled(service: Service, path: Path) -> Handled:
    if path.stat().st_size > MOST_BYTES:
        return Handled(b"", False, f"It has more than {MOST_BYTES} bytes.")
    try:
        return handle(service, path.read_bytes(), "")
    except SecondOpError as error:
        return Handled(b"", False, error.message, error.retryable)


def _moved(path: Path, where: Path, handled: Handled) -> str:
    """Puts it there with its answer, under a name that no other has there."""
    stem = next(s for s in _stems(path.stem) if not (where / f"{s}{SUFFIX}").exists())
    if handled.answer:
        _write(where / f"{stem}.ack", handled.answer)
    if handled.why:
        _write(where / f"{stem}.reason", f"{handled.why}\n".encode())
    path.rename(where / f"{stem}{SUFFIX}")
    durable.keep_names(where)
    durable.keep_names(path.parent)
    return where.name


def _stems(stem: str) -> Iterator[str]:
    yield stem
    yield from (f"{stem}.{number}" for number in itertools.count(2))


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, and durable once the folder is."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    durable.share(temporary, path.parent)
    temporary.replace(path)
