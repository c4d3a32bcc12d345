"""A message as a file for an interface engine that polls a folder: there whole or not at all, and never twice.
The engine may run as another user: who reads the folder by its group reads the file.

What was put there once leaves an empty mark in `.sent`: the file itself may have been taken long since.
"""

from __future__ import annotations

import os
from pathlib import Path

from fhir_secondop import durable
from fhir_secondop.ehr.failures import EhrFailure

MARKS = ".sent"
WORK = ".work"


def usable(folder: str) -> str:
    """Why nothing could be put there; "" when it can."""
    path = Path(folder)
    if not path.is_dir():
        return "the folder is not there"
    if not os.access(path, os.W_OK | os.X_OK):
        return "the folder can't be written"
    return "" if durable.can_share(path) else "its group can't be let at what is put there: we are not in it"


def put(folder: str, control_id: str, message: bytes) -> bool:
    """Puts the message there under its control id, durably. False when it had been put there before.

    Raises EhrFailure: "unreachable" where the folder can't take it; "conflict" where a person must look: an earlier
    process ended between putting and marking and the file is not there (any more), or another of that name is.
    """
    name, base = f"{control_id}.hl7", Path(folder)
    target, mark, work = base / name, base / MARKS / name, base / WORK / name
    try:
        for made in (base / MARKS, base / WORK):
            made.mkdir(exist_ok=True)
        if mark.exists():
            return False
        if work.exists() and work.stat().st_size == len(message):  # an earlier process came as far as this
            if not (target.exists() and target.samefile(work)):
                raise EhrFailure("conflict", "It can't be told whether the file was put there; a person must look.")
            _marked(mark, work)
            return False
        _write(work, message, base)
        try:
            os.link(work, target)
        except FileExistsError:
            work.unlink()
            raise EhrFailure("conflict", "Another file of that name is there; a person must look.") from None
        durable.keep_names(base)
        _marked(mark, work)
    except OSError as error:
        raise EhrFailure("unreachable", f"The folder can't take it ({type(error).__name__}).") from error
    return True


def _write(work: Path, message: bytes, folder: Path) -> None:
    with open(work, "wb") as file:
        durable.share(work, folder)  # while it is empty: a whole one says that an earlier process came so far
        file.write(message)
        file.flush()
        os.fsync(file.fileno())
    durable.keep_names(work.parent)


def _marked(mark: Path, work: Path) -> None:
    with open(mark, "wb") as file:
        os.fsync(file.fileno())
    durable.keep_names(mark.parent)
    work.unlink()
