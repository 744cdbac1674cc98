"""When a request is sent again, and how many may be in flight: what every remote store needs, and no server
tells beforehand.
"""

from __future__ import annotations

import os
import random
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from gpuzarr.errors import StoreError
from gpuzarr.store.remote.flow import Waiters, ended

Answer = TypeVar("Answer")


class Again(Exception):
    """A request failed in a way that may not last: a reset, a timeout, a server that is busy."""

    def __init__(
        self,
        what: str,
        *,
        slow: bool = False,
        alive: bool = True,
        most: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(what)
        self.hint = hint
        self.slow = slow
        """The server asks for fewer requests."""
        self.alive = alive
        """Somebody answered at all."""
        self.most = most
        """How often that may come in one request before it is as good as certain that it lasts."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to go on, in seconds and in tries."""

    timeout: float = 20.0
    """Without a single byte."""
    deadline: float = 120.0
    """For one request, with all its tries."""
    tries: int = 12
    tries_unanswered: int = 3
    """While the server has not answered anything yet: its name may be wrong."""
    base: float = 0.1
    """The first wait is up to this, each further one up to twice as long."""
    longest: float = 10.0


PATIENCE = Patience()
_LEAST = 4.0
"""Requests in flight that any server bears."""
_ROUND_S = 0.5
_LARGE = 256 << 10  # answers that tell how fast bytes come


class Limit:
    """Requests in flight. One more for each round of answers; half as many when the server asks for it (AIMD,
    as TCP shares a line). Used as a context around each try."""

    def __init__(self, start: int, most: int) -> None:
        self.now = float(min(start, most))
        self.most = most
        self.waiters = Waiters(most)
        self.answered = False
        """Whether the server ever did."""
        self.quickest = 0.0
        """Seconds that the quickest answer took; 0 before there is one."""
        self.rate = 0.0
        """Bytes a second of one large answer once it has begun, as of late; 0 before there is one."""
        self._since = 0.0
        self._begin()
        _limits.add(self)

    def _begin(self) -> None:
        self._active = 0
        self._free = threading.Condition(threading.Lock())

    def __enter__(self) -> float:
        with self._free:
            while self._active >= int(self.now):
                self._free.wait()
            self._active += 1
        return time.monotonic()

    def __exit__(self, *_: object) -> None:
        with self._free:
            self._active -= 1
            self._free.notify()

    def went_well(self, started: float) -> None:
        """An answer came."""
        spent = max(time.monotonic() - started, 1e-6)
        with self._free:
            self.answered = True
            self.quickest = min(self.quickest or spent, spent)
            self.now = min(self.now + 1 / self.now, self.most)

    def carried(self, nbytes: int, spent: float) -> None:
        """An answer of so many bytes took so many seconds, those before its first byte among them."""
        with self._free:
            if nbytes < _LARGE or not self.quickest or spent <= self.quickest:
                return
            rate = nbytes / (spent - self.quickest)
            self.rate += (rate - self.rate) / 4 if self.rate else rate

    def slow_down(self, started: float) -> None:
        """The server asked for fewer. Those that were in flight when it first did so, or soon after, count
        once: servers count by the second."""
        with self._free:
            self.answered = True
            if started > self._since + _ROUND_S:
                self.now, self._since = max(self.now / 2, _LEAST), time.monotonic()


_limits: weakref.WeakSet[Limit] = weakref.WeakSet()


def _child() -> None:
    """A forked child has none of the threads that hold places, or the lock."""
    for limit in _limits:
        limit._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_child)


def persist(
    attempt: Callable[[], Answer],
    what: str,
    patience: Patience,
    limit: Limit,
    stop: threading.Event | None = None,
) -> Answer:
    """The answer of the first try that gives one. `Again` is waited for with jitter, twice as long each time;
    past the deadline or the number of tries it is a StoreError that says `what` could not be done, and why.
    When `stop` is set nobody wants the answer any more."""
    began, n, odd = 0.0, 0, 0
    while True:
        n += 1
        try:
            with limit as started:
                began = began or started  # the time in which others are served first does not count
                answer = attempt()
            limit.went_well(started)
            return answer
        except Again as again:
            if again.slow:
                limit.slow_down(started)
            limit.answered |= again.alive
            odd += again.most is not None
            most = patience.tries if limit.answered else patience.tries_unanswered
            wait = random.uniform(0, min(patience.base * 2 ** (n - 1), patience.longest))
            spent = time.monotonic() - began
            if n >= most or (again.most and odd >= again.most) or spent + wait > patience.deadline:
                tried = f" (tried {n} times in {spent:.1f} s)" if n > 1 else ""
                hint = again.hint
                if not limit.answered:
                    hint = hint or "nobody answers there: is the name of the host right?"
                raise StoreError(f"cannot {what}: {again}{tried}", hint=hint) from None
        if (stop or ended).wait(wait) or ended.is_set():
            raise StoreError(f"cannot {what}: the read was given up") from None
