"""The program itself, to which the kernel refuses each fsync after SIGUSR1: python -m tests.faults.unsynced serve …

A filter of system calls (seccomp) answers EIO in the place of fsync and fdatasync, for every thread of the process.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import signal
import struct
from typing import Any

_NUMBERS = {"x86_64": (74, 75), "aarch64": (82, 83)}  # fsync, fdatasync
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_NO_NEW_PRIVILEGES, _SET_FILTER, _ALL_THREADS = 38, 1, 1
_LOAD, _IF_EQUAL, _ANSWER = 0x20, 0x15, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000 | errno.EIO


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def refuse_fsync(number: int = 0, frame: Any = None) -> None:
    """From now on no fsync of this process succeeds."""
    fsync, fdatasync = _NUMBERS[platform.machine()]
    steps = [
        (_LOAD, 0, 0, 0), (_IF_EQUAL, 2, 0, fsync), (_IF_EQUAL, 1, 0, fdatasync), (_ANSWER, 0, 0, _ALLOW),
        (_ANSWER, 0, 0, _FAIL),
    ]  # fmt: skip
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    program = _Program(len(steps), code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if libc.syscall(_SECCOMP[platform.machine()], _SET_FILTER, _ALL_THREADS, ctypes.byref(program)):
        raise OSError(ctypes.get_errno(), "seccomp")


def main() -> None:
    """Runs the command line."""
    from fhir_secondop.cli import main as command

    signal.signal(signal.SIGUSR1, refuse_fsync)
    command()


if __name__ == "__main__":
    main()
