"""Many requests in flight, each answer as soon as it is there.

    requests ─threads that wait→ answers ─next()→ whoever decodes

Threads that wait for a server are not those that decode: they are many, hold no core, and belong to one
server, so that one that is slow takes none from another.
"""

from __future__ import annotations

import atexit
import os
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

AHEAD_NBYTES = 256 << 20
"""Bytes of one stream that are asked for, or wait to be taken."""

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

MOST = 128
"""Requests in flight to one server, as a rule."""
_IDLE_S = 20.0
_LEAVING_S = 2.0
ended = threading.Event()
"""Set when the process ends: nothing is tried again."""


class Waiters:
    """Threads that wait for a server: as many as there is work for, up to a limit; those with nothing to do
    end."""

    def __init__(self, most: int) -> None:
        self.most = most
        _all.add(self)
        self._begin()

    def _begin(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = self._idle = 0

    def submit(self, work: Callable[[], None]) -> None:
        """Have it done by some thread."""
        with self._lock:
            self._work.put(work)
            if self._idle >= self._work.qsize() or self._threads >= self.most:
                return
            self._threads += 1
        # Those of a process that ends do not hold it up.
        threading.Thread(target=self._wait, name="gpuzarr-io", daemon=True).start()

    def _wait(self) -> None:
        while True:
            with self._lock:
                self._idle += 1
            try:
                work = self._work.get(timeout=_IDLE_S)
            except queue.Empty:
                with self._lock:
                    self._idle -= 1
                    if self._work.empty():
                        self._threads -= 1
                        return
                continue
            with self._lock:
                self._idle -= 1
            work()
            del work  # it may hold an answer


_all: weakref.WeakSet[Waiters] = weakref.WeakSet()
_streams: weakref.WeakSet[Any] = weakref.WeakSet()


def _child() -> None:
    """A forked child has none of the threads."""
    for waiters in _all:
        waiters._begin()


def _leave() -> None:
    """The process ends. What is in flight has a moment to come home."""
    ended.set()
    streams = list(_streams)
    for stream in streams:
        stream.close()
    until = time.monotonic() + _LEAVING_S
    for stream in streams:
        stream.drained(max(until - time.monotonic(), 0))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_child)
atexit.register(_leave)


class Stream(Generic[Asked, Answer], Iterator[tuple[int, Answer]]):
    """Answers in the order in which they come, each with the number of its request. Threads may share it. The
    first error ends it, and is raised once."""

    def __init__(
        self,
        ask: Callable[[int, threading.Event], Asked],
        sizes: Sequence[int | None],
        waiters: Waiters,
        put: Callable[[int, Asked], Answer],
        placing: threading.Lock | None = None,
        begun: Callable[[Stream[Asked, Answer]], None] | None = None,
    ) -> None:
        """`ask` gives the answer to request i; the event is set when nobody wants it any more. `sizes`: the
        bytes that each answer is expected to have, None if nobody knows before `admit`. `put` makes of an
        answer what is given, on the thread that takes it. `placing` is held by who prepares memory for an
        answer: nobody does behind `close`. `begun` hears of the stream before anything is asked."""
        self._ask, self._sizes, self._waiters, self._put = ask, sizes, waiters, put
        self._placing = placing
        self._next = self._flying = self._ahead = self._outside = 0
        self._charged: dict[int, int] = {}
        self._ready: deque[tuple[int, Asked]] = deque()
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._came = threading.Condition(threading.Lock())
        _streams.add(self)
        if begun is not None:
            begun(self)
        with self._came:
            self._pump()

    def _pump(self) -> None:
        """Send what there is room for; the lock is held."""
        most = self._waiters.most
        while self._next < len(self._sizes) and self._flying < most and len(self._ready) < most:
            size = self._sizes[self._next] or 0
            if self._ahead and self._ahead + size > AHEAD_NBYTES:
                return
            i = self._next
            self._next += 1
            self._flying += 1
            self._ahead += size
            self._charged[i] = size
            self._waiters.submit(lambda i=i: self._one(i))  # type: ignore[misc]

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
            self._came.notify_all() if self._stop.is_set() or self._outside else self._came.notify()

    def admit(self, i: int, nbytes: int) -> None:
        """An answer of so many bytes is about to come: wait until there is room for it."""
        with self._came:
            more = nbytes - self._charged.get(i, nbytes)
            if more <= 0:
                return
            self._outside += 1
            while self._ahead and self._ahead + more > AHEAD_NBYTES and not self._stop.is_set():
                self._came.wait()
            self._outside -= 1
            self._ahead += more
            self._charged[i] = nbytes

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
            self._ahead -= self._charged.pop(i)
            self._pump()
            if self._outside:
                self._came.notify_all()
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
        if self._placing is not None:
            with self._placing:
                pass  # nobody asks for memory any more

    def drained(self, seconds: float | None = None) -> bool:
        """Wait until nothing is in flight; whether it is so."""
        with self._came:
            return self._came.wait_for(lambda: not self._flying, seconds)


def finished(stream: Iterator[tuple[int, Answer]]) -> Iterator[tuple[int, Answer]]:
    """The answers of a stream that is closed behind them, or if the caller gives up."""
    try:
        yield from stream
    finally:
        with suppress(AttributeError):
            stream.close()  # type: ignore[attr-defined]
