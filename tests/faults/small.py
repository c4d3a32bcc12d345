"""A file system that is small, and full when a test wants it to be."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import TracebackType

import pytest


class SmallDisk:
    """Mounted at `place`, which is an empty folder, until it is closed; skips where nothing can be mounted."""

    def __init__(self, place: Path, megabytes: int) -> None:
        self.place = place
        self._ballast = place / "ballast"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", place], capture_output=True)
        if done.returncode:
            pytest.skip("no file system can be mounted here: be root")

    def fill(self) -> None:
        """To the last byte."""
        with open(self._ballast, "ab", buffering=0) as handle:
            size = 1 << 20
            while size:
                try:
                    handle.write(b"\0" * size)
                except OSError:
                    size //= 2

    def empty(self) -> None:
        """What filled it is gone."""
        self._ballast.unlink()

    def __enter__(self) -> SmallDisk:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gone, with what was on it."""
        subprocess.run(["umount", "-l", self.place], check=True)
