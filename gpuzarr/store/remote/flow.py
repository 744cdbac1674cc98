"""Many requests in flight, each answer as soon as it is there.

    requests ─threads that wait→ answers ─next()→ whoever decodes

Threads that wait for a server are not those that decode: they are many, and hold no core.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

AHEAD_NBYTES = 256 << 20
"""Bytes of one stream that are asked for, or wait to be taken."""

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

_waiters: tuple[int, ThreadPoolExecutor] | None = None
_lock = threading.Lock()
MOST = 128
"""Threads that wait, and so requests in flight in one process."""


def waiters() -> ThreadPoolExecutor:
    """The threads that wait for servers; others after a fork."""
    global _waiters
    with _lock:
        if _waiters is None or _waiters[0] != os.getpid():
            _waiters = os.getpid(), ThreadPoolExecutor(MOST, "gpuzarr-io")
        return _waiters[1]


def _child() -> None:
    """A forked child has none of the threads that may hold the lock."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_child)


class Stream(Generic[Asked, Answer], Iterator[tuple[int, Answer]]):
    """Answers in the order in which they come, each with the number of its request. Threads may share it. The
    first error ends it, and is raised once."""

    def __init__(
        self,
        ask: Callable[[int, threading.Event], Asked],
        sizes: Sequence[int],
        window: int,
        put: Callable[[int, Asked], Answer],
    ) -> None:
        """`ask` gives the answer to request i; the event is set when nobody wants it any more. `sizes`: the
        bytes that each answer is expected to have. `window`: requests in flight at most. `put` makes of an
        answer what is given, on the thread that takes it."""
        self._ask, self._sizes, self._window, self._put = ask, sizes, window, put
        self._next = self._flying = self._ahead = 0
        self._ready: deque[tuple[int, Asked]] = deque()
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._came = threading.Condition(threading.Lock())
        with self._came:
            self._pump()

    def _pump(self) -> None:
        """Send what there is room for; the lock is held."""
        while self._next < len(self._sizes) and self._flying + len(self._ready) < 2 * self._window:
            size = self._sizes[self._next]
            if self._flying >= self._window or (self._ahead and self._ahead + size > AHEAD_NBYTES):
                return
            waiters().submit(self._one, self._next)
            self._next += 1
            self._flying += 1
            self._ahead += size

    def _one(self, i: int) -> None:
        error: BaseException | None = None
        answers: list[tuple[int, Asked]] = []
        try:
            if not self._stop.is_set():
                answers.append((i, self._ask(i, self._stop)))
        except BaseException as raised:
            error = raised
        with self._came:
            self._flying -= 1
            if error is not None and not self._stop.is_set():
                self._error = error
                self._end()
            elif not self._stop.is_set():
                self._ready += answers
            self._came.notify_all() if self._stop.is_set() else self._came.notify()

    def __next__(self) -> tuple[int, Answer]:
        with self._came:
            while not self._ready:
                if self._error is not None:
                    error, self._error = self._error, None
                    raise error
                if self._stop.is_set() or (self._next >= len(self._sizes) and not self._flying):
                    self._came.notify_all()
                    raise StopIteration
                self._came.wait()
            i, answer = self._ready.popleft()
            self._ahead -= self._sizes[i]
            self._pump()
        return i, self._put(i, answer)

    def _end(self) -> None:
        self._next = len(self._sizes)
        self._ready.clear()
        self._stop.set()

    def close(self) -> None:
        """Ask for no more. What is in flight is forgotten when it comes: it lies in memory of its own."""
        with self._came:
            self._end()
            self._came.notify_all()
