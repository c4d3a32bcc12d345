"""Files that stay where they were put, whatever happens to the machine."""

from __future__ import annotations

import os
from pathlib import Path


def keep_names(folder: Path) -> None:
    """Makes durable which names the folder has. A file's own bytes are another matter: fsync of the file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
