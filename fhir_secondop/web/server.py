"""Runs a WSGI application: granian, one worker process with threads, so that the embedded worker is one too."""

from __future__ import annotations

from granian import Granian
from granian.constants import Interfaces

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
        log_enabled=False,
        respawn_failed_workers=False,
    ).serve()
