"""Runs the service: waitress's threads in front, the embedded worker beside them; one process, or several."""

from __future__ import annotations

import gc
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

from fhir_secondop.bootstrap import log_to_stderr
from fhir_secondop.config import Settings
from fhir_secondop.errors import Unavailable
from fhir_secondop.service.memory import give_back_large_blocks
from fhir_secondop.web import app, listener
from fhir_secondop.web.processes import Keeper, check_free


def run(settings: Settings, ready: str, processes: int = 1) -> None:
    """Serves until SIGINT or SIGTERM; `ready` is printed once requests are taken.

    Raises Unavailable when the address is taken, or another service works on the database.
    """
    give_back_large_blocks()
    if processes == 1:
        signal.signal(signal.SIGTERM, _stop)
        _serve(settings, lambda: print(ready, flush=True))
        return
    check_free(settings.host, settings.port)
    log_to_stderr(settings.log_level)
    keeper = Keeper(processes, lambda place, told: _one_of_several(settings, place, told))
    keeper.run(lambda: print(ready, flush=True))


def _one_of_several(settings: Settings, place: int, told: Callable[[], None]) -> None:
    signal.signal(signal.SIGTERM, _stop)
    _serve(settings, told, works=place == 0, shares_port=True)


def _serve(settings: Settings, told: Callable[[], None], *, works: bool = True, shares_port: bool = False) -> None:
    with app.started(settings, works=works) as flask:
        try:
            server = listener.listening(flask, settings, shares_port=shares_port)
        except OSError as error:
            raise Unavailable(
                f"{settings.host}:{settings.port} can't be listened on ({error.strerror}); choose another --port."
            ) from error
        # What a start makes stays for good: the collector need not look through it time and again. It is not collected
        # either: of 150,000 objects fewer than 2,000 would go, and that takes 0.1 s.
        gc.freeze()
        gc.enable()
        told()
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
