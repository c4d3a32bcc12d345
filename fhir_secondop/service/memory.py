"""Memory goes back to the system when a large block is freed."""

from __future__ import annotations

import ctypes
import sys

_M_MMAP_THRESHOLD = -3  # malloc.h
LARGE_BYTES = 1_000_000


def give_back_large_blocks() -> None:
    """Keeps glibc from growing its own bound for that, up to 32 MB: pages and files of a record are below it.

    What it brings stands in docs/measured.md. Other C libraries than glibc are left as they are. Source: mallopt(3)
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
