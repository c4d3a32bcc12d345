"""Which connections are looked after, and who answers: epoll and threads in the place of waitress's own.

waitress asks each connection before each wait whether it would read or write, hands all of them to poll, and is woken
through a pipe by each thread that has answered. Here the system keeps what is watched: for one event (EPOLLONESHOT),
then it is armed anew by whoever changed something about it, which after an answer is the thread that gave it.
"""

from __future__ import annotations

import logging
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from waitress import wasyncore
from waitress.channel import HTTPChannel

log = logging.getLogger(__name__)
HAS_EPOLL = hasattr(select, "epoll")  # Linux; elsewhere waitress's own loop stays
ROUND_S = 1.0


def _wanted(each: Any) -> int:
    """What it waits for now; nothing while it is being answered."""
    flags = select.EPOLLIN if each.readable() else 0
    return flags | select.EPOLLOUT if each.writable() and not each.accepting else flags


class Watched(dict[int, Any]):
    """waitress's map of sockets by their number: what is in it is watched."""

    def __init__(self) -> None:
        super().__init__()
        self._epoll = select.epoll()
        self._lock = threading.Lock()  # what a connection waits for is asked and told in one
        self._lasting: dict[int, int] = {}  # the listening sockets and the pipe, and what each is watched for

    def __setitem__(self, number: int, each: Any) -> None:
        super().__setitem__(number, each)
        if isinstance(each, HTTPChannel):
            self._epoll.register(number, select.EPOLLIN | select.EPOLLONESHOT)
        else:
            self._lasting[number] = select.EPOLLIN
            self._epoll.register(number, select.EPOLLIN)

    def __delitem__(self, number: int) -> None:
        with self._lock:
            super().__delitem__(number)
            self._lasting.pop(number, None)
            self._epoll.unregister(number)

    def arm(self, each: Any) -> None:
        """Watches a connection for what it waits for now; to be called after what changes that."""
        with self._lock:
            number, wanted = each._fileno, _wanted(each)
            if wanted and self.get(number) is each:  # it may have been closed meanwhile
                self._epoll.modify(number, wanted | select.EPOLLONESHOT)

    def run(self, stop: Callable[[], None]) -> None:
        """Looks after all until there are none, or until it is interrupted, which calls `stop`."""
        try:
            self._look_after()
        except (SystemExit, KeyboardInterrupt):
            stop()

    def _look_after(self) -> None:
        while self:
            for number, watched in self._lasting.items():
                wanted = _wanted(self[number])  # a listening socket has its maintenance when it is asked
                if wanted != watched:
                    self._lasting[number] = wanted
                    self._epoll.modify(number, wanted)
            for number, flags in self._epoll.poll(ROUND_S):
                self._happened(number, flags)

    def _happened(self, number: int, flags: int) -> None:
        each: Any = self.get(number)
        if number in self._lasting:
            wasyncore.readwrite(each, flags)
        elif each is not None and (wanted := _wanted(each)):  # None: one before it in this round closed it
            wasyncore.readwrite(each, flags & (wanted | select.EPOLLERR | select.EPOLLHUP))
            self.arm(each)


class Task(Protocol):
    """What a thread does; nothing may come out of `service` but what is a fault of ours."""

    def service(self) -> None:
        """Answers."""

    def cancel(self) -> None:
        """It will not be answered."""


class _Worker:
    """One thread, and what it does next."""

    def __init__(self) -> None:
        self.task: Task | None = None
        self.go = threading.Lock()
        self.go.acquire()


class Dispatcher:
    """Gives each request to the thread that was idle last: what it used is still warm, and of the others, which are
    made when they are first needed, none takes memory. waitress's takes them in turn.
    """

    def __init__(self, threads: int, ending: Callable[[], None] = lambda: None) -> None:
        """`ending` is called when it is to stop: whoever waits in a thread for something must not hold it up."""
        self._most = threads
        self._ending = ending
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._idle: list[_Worker] = []
        self._queue: deque[Task] = deque()
        self._number = 0
        self._stopping = False

    def add_task(self, task: Task) -> None:
        """Has it done as soon as a thread is idle."""
        with self._lock:
            if self._idle:
                worker = self._idle.pop()
                worker.task = task
                worker.go.release()
                return
            if self._number >= self._most or self._stopping:
                self._queue.append(task)
                return
            self._number += 1
            name = f"answers-{self._number}"
        worker = _Worker()
        worker.task = task
        threading.Thread(target=self._work, args=(worker,), name=name, daemon=True).start()

    def _work(self, worker: _Worker) -> None:
        while (task := self._next(worker)) is not None:
            try:
                task.service()
            except BaseException:  # the thread goes on with the next one
                log.exception("a request could not be answered")
            del task  # an idle thread must not hold a request and its body

    def _next(self, worker: _Worker) -> Task | None:
        task, worker.task = worker.task, None
        if task is not None:
            return task
        with self._lock:
            if self._queue and not self._stopping:
                return self._queue.popleft()
            if self._stopping:
                self._number -= 1
                self._ended.notify()
                return None
            self._idle.append(worker)
        worker.go.acquire()
        task, worker.task = worker.task, None
        return task if task is not None else self._next(worker)

    def shutdown(self, cancel_pending: bool = True, timeout: float = 5) -> bool:
        """Waits until what was begun is done; what was not begun is cancelled."""
        ends = time.monotonic() + timeout
        self._ending()
        with self._lock:
            self._stopping = True
            for worker in self._idle:
                worker.go.release()
            self._idle.clear()
            while self._number and (left_s := ends - time.monotonic()) > 0:
                self._ended.wait(left_s)
            if self._number:
                log.warning("%d requests are still being answered.", self._number)
            if not cancel_pending:
                return False
            while self._queue:
                self._queue.popleft().cancel()
        return True
