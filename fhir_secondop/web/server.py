"""Runs a WSGI application: granian, one worker process with threads, so that the embedded worker is one too."""

from __future__ import annotations

from granian import Granian
from granian.constants import Interfaces
from granian.log import LogLevels

THREADS = 16


def run(target: str, host: str, port: int) -> None:
    """Serves the application that the factory `target` ("module:function") makes, until it is told to stop."""
    Granian(
        target,
        factory=True,
        address=host,
        port=port,
        interface=Interfaces.WSGI,
        workers=1,
        blocking_threads=THREADS,
        # Its own lines for errors only; `log_enabled=False` would silence ours too.
        log_enabled=True,
        log_access=False,
        log_level=LogLevels.error,
        log_dictconfig={"version": 1, "disable_existing_loggers": False},
        respawn_failed_workers=False,
    ).serve()
