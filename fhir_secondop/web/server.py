"""Runs the service: one process, waitress's threads in front, the embedded worker beside them."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType

from fhir_secondop.config import Settings
from fhir_secondop.errors import Unavailable
from fhir_secondop.web import app, listener


def run(settings: Settings, ready: str) -> None:
    """Serves until SIGINT or SIGTERM; `ready` is printed once requests are taken.

    Raises Unavailable when the address is taken, or another service works on the database.
    """
    signal.signal(signal.SIGTERM, _stop)
    with app.started(settings) as flask:
        try:
            server = listener.listening(flask, settings)
        except OSError as error:
            raise Unavailable(
                f"{settings.host}:{settings.port} can't be listened on ({error.strerror}); choose another --port."
            ) from error
        print(ready, flush=True)
        try:
            server.run()
        except KeyboardInterrupt:
            pass
        finally:
            # Stopping takes a moment: a second signal must not cut it short.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            server.close()


def work(settings: Settings, executor: str, ready: str) -> None:
    """Works until SIGINT or SIGTERM; `ready` is printed once it does. Raises Unavailable when the name is taken."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with app.working(settings, executor):
        print(ready, flush=True)
        ended.wait()


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(0)
