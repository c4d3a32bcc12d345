"""HL7 v2 by file: what is dropped into a folder is taken once, and then stands in `done` or `failed`.

Beside it stands the answer (`NAME.ack`), and in `failed` why (`NAME.reason`). A sender writes elsewhere on the same
file system and renames it to NAME.hl7: half a file is never seen then.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

from fhir_secondop.bootstrap import Service
from fhir_secondop.errors import SecondOpError
from fhir_secondop.web.hl7 import Handled, handle
from fhir_secondop.web.mllp import MOST_BYTES

log = logging.getLogger(__name__)
SUFFIX = ".hl7"
DONE, FAILED = "done", "failed"


@dataclass(frozen=True, slots=True)
class Polled:
    """How many files were taken, and how many refused; `left` are those that are tried again."""

    done: int = 0
    failed: int = 0
    left: int = 0


def poll(service: Service, folder: Path, *, settled_s: float = 1.0) -> Polled:
    """Takes what is there, oldest name first. A file that was changed within `settled_s` is left for the next time.

    A process that ends in between leaves the file: it is taken again, and answered as the first time.
    """
    for name in (DONE, FAILED):
        (folder / name).mkdir(exist_ok=True)
    counts = {DONE: 0, FAILED: 0, "": 0}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        counts[_take(service, path, settled_s)] += 1
    return Polled(counts[DONE], counts[FAILED], counts[""])


def _take(service: Service, path: Path, settled_s: float) -> str:
    """The folder that it was moved to; "" where it stays."""
    try:
        stat = path.stat()
        # The file's time is the file system's clock, and so is how old it is.
        if time.time() - stat.st_mtime < settled_s:
            return ""
        if stat.st_size > MOST_BYTES:
            handled = Handled(b"", False, f"It has more than {MOST_BYTES} bytes.")
        else:
            handled = handle(service, path.read_bytes(), "")
    except FileNotFoundError:
        return ""  # another process has taken it
    except SecondOpError as error:
        handled = Handled(b"", False, error.message, error.retryable)
    except OSError as error:  # it is a folder, say, or not for us to read: the next one is
        log.warning("a file of the folder can't be read: %s", type(error).__name__)
        return ""
    if not handled.accepted and handled.retryable:
        return ""
    where = path.parent / (DONE if handled.accepted else FAILED)
    if handled.answer:
        _write(where / f"{path.stem}.ack", handled.answer)
    if handled.why:
        _write(where / f"{path.stem}.reason", f"{handled.why}\n".encode())
    try:
        path.rename(where / path.name)
    except FileNotFoundError:
        return ""
    _synced(where)
    _synced(path.parent)
    return where.name


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, and durable once the folder is."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _synced(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
