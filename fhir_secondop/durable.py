"""Files that others find: still there whatever happens to the machine, and for who may read the folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def keep_names(folder: Path) -> None:
    """Makes durable which names the folder has. A file's own bytes are another matter: fsync of the file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def share(made: Path, folder: Path) -> None:
    """Lets the folder's group at a file (to read) or a folder (as at that one) of ours that is for who uses it.

    We write for ourselves alone else. Nobody beyond the group is let in, and no group that may not read the folder.
    Raises OSError where we can't give it to that group.
    """
    found = folder.stat()
    if not found.st_mode & stat.S_IRGRP:
        return
    if made.stat().st_gid != found.st_gid:
        os.chown(made, -1, found.st_gid)
    made.chmod(0o700 | found.st_mode & (stat.S_IRWXG | stat.S_ISGID) if made.is_dir() else 0o640)


def can_share(folder: Path) -> bool:
    """Whether `share` could give anything to that folder's group."""
    found = folder.stat()
    own = {os.getegid(), *os.getgroups()}
    return os.geteuid() == 0 or not found.st_mode & stat.S_IRGRP or found.st_gid in own
