"""Runs the service: waitress's threads in front, the embedded worker beside them; one process, or several."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from types import FrameType

from fhir_secondop import meters
from fhir_secondop.bootstrap import log_to_stderr
from fhir_secondop.config import Settings
from fhir_secondop.errors import Unavailable
from fhir_secondop.service.memory import give_back_large_blocks
from fhir_secondop.web import app, events, listener, metrics
from fhir_secondop.web.processes import Keeper, check_free


def run(settings: Settings, ready: str, processes: int = 1, *, works: bool = True, workers: int = 0) -> None:
    """Serves until SIGINT or SIGTERM; `ready` is printed once requests are taken.

    The first of the processes works, too, unless there are `workers`, processes that do nothing else, or `works` is
    False: other machines do. Raises Unavailable when the address is taken, or another service works on the database.
    """
    give_back_large_blocks()
    embedded = works and not workers
    if processes + workers == 1:
        signal.signal(signal.SIGTERM, _stop)
        meters.begin("serve")
        _serve(settings, lambda: print(ready, flush=True), works=embedded)
        return
    check_free(settings.host, settings.port)
    log_to_stderr(settings.log_level, settings.log_format)
    name = own_name()

    def be(place: int, told: Callable[[], None]) -> None:
        meters.begin(str(place))
        if place < processes:
            signal.signal(signal.SIGTERM, _stop)
            _serve(settings, told, works=embedded and place == 0, shares_port=processes > 1)
        else:
            # Of the same name again, when it is made anew: what it left goes on at once.
            _work(settings, f"{name}-{place - processes + 1}", told)

    Keeper(processes + workers, be).run(lambda: print(ready, flush=True))


def own_name() -> str:
    """A name for the worker of this process that none has on another machine."""
    host = "".join(c if c.isalnum() else "-" for c in socket.gethostname())[:48]
    return f"{host}-{os.getpid()}"


def _serve(settings: Settings, told: Callable[[], None], *, works: bool = True, shares_port: bool = False) -> None:
    with app.started(settings, works=works) as flask:
        try:
            ending = flask.extensions[events.FOLLOWERS].end
            server = listener.listening(flask, settings, shares_port=shares_port, ending=ending)
        except OSError as error:
            raise Unavailable(
                f"{settings.host}:{settings.port} can't be listened on ({error.strerror}); choose another --port."
            ) from error
        _collect_from_now_on()
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


def work(settings: Settings, executor: str, ready: str, metrics_at: tuple[str, int] | None = None) -> None:
    """Works until SIGINT or SIGTERM; `ready` is printed once it does. It tells what it counts at `metrics_at`.

    Raises Unavailable when the name is taken, or the address.
    """
    meters.begin("work")
    _work(settings, executor, lambda: print(ready, flush=True), metrics_at)


def _work(
    settings: Settings, executor: str, told: Callable[[], None], metrics_at: tuple[str, int] | None = None
) -> None:
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with (
        app.working(settings, executor) as service,
        metrics.beside(service, *metrics_at) if metrics_at else nullcontext(),
    ):
        _collect_from_now_on()
        told()
        ended.wait()


def _collect_from_now_on() -> None:
    """What a start makes stays for good: the collector need not look through it time and again.

    It is not collected either: of 150,000 objects fewer than 2,000 would go, and that takes 0.1 s.
    """
    gc.freeze()
    gc.enable()


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(0)
