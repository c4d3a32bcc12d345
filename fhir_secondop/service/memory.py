"""Memory goes back to the system when it is freed."""

from __future__ import annotations

import ctypes
import sys

# malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
LARGE_BYTES = 1_000_000
# At the end of a heap. A page of 150 resources takes less; given back each time, to get it again was a quarter of what
# the answer cost.
LEFT_BYTES = 2 * 1024 * 1024
ARENAS = 2


def give_back_large_blocks() -> None:
    """Keeps glibc from growing its own bounds, up to 32 MB for a block and 64 MB at the end of the heap: pages and
    files of a record are below them. Nor may each thread have an arena of its own: what another left is lost to it.

    What it brings stands in docs/measured.md and docs/performance.md. Other C libraries than glibc are left as they
    are. Source: mallopt(3)
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
            mallopt(_M_TRIM_THRESHOLD, LEFT_BYTES)
            mallopt(_M_ARENA_MAX, ARENAS)
