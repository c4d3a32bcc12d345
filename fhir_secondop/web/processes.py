"""Several server processes on one port: a keeper that serves nothing, and the processes that it has forked.

The first one has the worker inside, the others begin when it is ready. One that ends is made anew; when the keeper
goes, however it goes, all go. Forked before anything is opened, they share the memory of what was imported.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable

from fhir_secondop.errors import SecondOpError, Unavailable

log = logging.getLogger(__name__)
AGAIN_S = 1.0  # before one that ended is made anew: what ends at once must not be made in a loop
Work = Callable[[int, Callable[[], None]], None]
"""(place, ready) → serves until SIGTERM; calls `ready` when requests are taken."""


def check_free(host: str, port: int) -> None:
    """Raises Unavailable when somebody has that address: those who share a port would not notice."""
    for family, kind, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        with socket.socket(family, kind) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(address)
            except OSError as error:
                raise Unavailable(
                    f"{host}:{port} can't be listened on ({error.strerror}); choose another --port."
                ) from error


class Keeper:
    """Keeps `number` processes that do `work`."""

    def __init__(self, number: int, work: Work) -> None:
        self._number = number
        self._work = work
        self._lifeline = os.pipe()  # what reads from it ends with us
        self._pids: dict[int, int] = {}
        self._stopping = False

    def run(self, ready: Callable[[], None]) -> None:
        """Until SIGINT or SIGTERM. Raises SystemExit with the first one's status when it does not start."""
        gc.freeze()  # else the collector writes to what they share
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        if not self._start(0):
            self._end(1)
        for place in range(1, self._number):
            self._start(place)
        ready()
        while self._pids:
            try:
                pid, status = os.wait()
            except ChildProcessError:
                break
            place = self._pids.pop(pid)
            if self._stopping:
                continue
            log.error("server process %d ended (%d): it is made anew", place, os.waitstatus_to_exitcode(status))
            time.sleep(AGAIN_S)
            if not self._stopping:
                self._start(place)
        self._end(0)

    def _start(self, place: int) -> bool:
        """Forks one and waits until it is ready; False when it ended before."""
        told, tells = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(told)
            self._be(place, tells)
        os.close(tells)
        self._pids[pid] = place
        if self._stopping:  # a signal that came between
            os.kill(pid, signal.SIGTERM)
        said = os.read(told, 1)
        os.close(told)
        return bool(said)

    def _be(self, place: int, tells: int) -> None:
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the keeper says when
            os.close(self._lifeline[1])
            threading.Thread(target=self._end_with_keeper, daemon=True).start()
            self._work(place, lambda: _tell(tells))
            status = 0
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
        except SecondOpError as error:
            print(f"error: {error.message}", file=sys.stderr)
        except BaseException:  # nothing is above: a fork must not run what its keeper was about to do
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _end_with_keeper(self) -> None:
        os.read(self._lifeline[0], 1)
        os.kill(os.getpid(), signal.SIGTERM)

    def _stop(self, number: int, frame: object) -> None:
        self._stopping = True
        for pid in self._pids:
            os.kill(pid, signal.SIGTERM)

    def _end(self, status: int) -> None:
        self._stopping = True
        for pid in list(self._pids):
            try:
                os.kill(pid, signal.SIGTERM)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                continue
        if status:
            sys.exit(status)


def _tell(tells: int) -> None:
    os.write(tells, b"1")
    os.close(tells)
