"""A thread that does the same again and again, whatever becomes of it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Repeated:
    """Does `act` every `every_s` seconds from its start until it is stopped.

    What fails is said in the log once, and done again: a worker without its heart, say, would be given up by others.
    """

    def __init__(self, name: str, every_s: float, act: Callable[[], object]) -> None:
        self._name, self._every_s, self._act = name, every_s, act
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends after what is being done; what has not begun never does."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def is_stopped(self) -> bool:
        """Whether it is to end: what consists of several parts leaves the rest of them."""
        return self._stopped.is_set()

    def _run(self) -> None:
        failed = ""
        while not self._stopped.wait(self._every_s):
            try:
                self._act()
                failed = ""
            except Exception as error:
                # The type only: a message may quote what it handled.
                if failed != type(error).__name__:
                    failed = type(error).__name__
                    log.error("%s failed (%s); it goes on trying", self._name, failed)
