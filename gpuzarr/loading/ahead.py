"""Things that threads make ahead of the one who takes them, in order, and never more than a few.

    make(i), i = first, first + step, ...    by threads, at most `ahead` made or in the making
    take                                     the next one; an error comes where its thing would have come

Threads end when all is made, at the first error, with `close`, when the taker is dropped, and when the
interpreter ends. They hold nothing of the taker, so that dropping it is noticed.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

from gpuzarr.errors import GpuzarrError

T = TypeVar("T")

_PATIENCE = 10.0
"""Seconds that a dropped taker waits for its threads: they may wait for what the dropping thread holds."""


class Ahead(Generic[T]):
    """Takes `make(i)` for i in `range(first, stop, step)`, without end where `stop` is None."""

    def __init__(
        self, make: Callable[[int], T], first: int, stop: int | None, step: int, ahead: int, threads: int
    ) -> None:
        self._shared = _Shared(make, first, stop, step, ahead)
        self._stop: weakref.finalize[[_Shared[T]], Ahead[T]] | None = None
        if ahead:
            self._shared.start(max(min(threads, ahead), 1))
            self._stop = weakref.finalize(self, _Shared.end, self._shared)

    @property
    def over(self) -> bool:
        """Whether everything was taken."""
        shared = self._shared
        return shared.stop is not None and shared.taken >= shared.stop

    def take(self) -> T:
        """The next one. What its making raised is raised here; then nothing more comes."""
        shared = self._shared
        if shared.process != os.getpid():
            raise GpuzarrError(
                "this loop was begun in another process", hint="begin a loop in each process, after the fork"
            )
        if not shared.ahead:
            made = shared.make(shared.taken)
            shared.taken += shared.step
            return made
        return shared.take()

    def close(self) -> None:
        """Let threads come to their end, and wait for that."""
        if self._stop is not None:
            self._stop.detach()
            self._shared.end(None)


class _Shared(Generic[T]):
    """What the taker and the threads know."""

    def __init__(self, make: Callable[[int], T], first: int, stop: int | None, step: int, ahead: int) -> None:
        self.make, self.stop, self.step, self.ahead = make, stop, step, ahead
        self.taken = self.begun = first
        """The next to be taken, and to be begun."""
        self.made: dict[int, tuple[T | None, BaseException | None]] = {}
        self.ended = False
        self.changed = threading.Condition()
        self.threads: list[threading.Thread] = []
        self.process = os.getpid()

    def start(self, threads: int) -> None:
        """Start threads. They do not keep the interpreter from ending."""
        for i in range(threads):
            thread = threading.Thread(target=self.work, name=f"gpuzarr-loader-{i}", daemon=True)
            self.threads.append(thread)
            thread.start()

    def work(self) -> None:
        """Make what comes next, until nothing does."""
        while True:
            with self.changed:
                while not self.ended and not self._all_begun and not self._room:
                    self.changed.wait()
                if self.ended or self._all_begun:
                    return
                mine = self.begun
                self.begun += self.step
            made: T | None = None
            failed: BaseException | None = None
            try:
                made = self.make(mine)
            except BaseException as error:
                failed = error
            with self.changed:
                if not self.ended:
                    self.made[mine] = made, failed
                    if failed is not None:  # nothing behind it is begun any more
                        self.stop = (
                            mine + self.step if self.stop is None else min(self.stop, mine + self.step)
                        )
                self.changed.notify_all()
            del made, failed

    @property
    def _all_begun(self) -> bool:
        return self.stop is not None and self.begun >= self.stop

    @property
    def _room(self) -> bool:
        return self.begun - self.taken < self.ahead * self.step

    def take(self) -> T:
        """See Ahead."""
        with self.changed:
            while self.taken not in self.made:
                if self.ended:
                    raise GpuzarrError("this loop was closed")
                self.changed.wait()
            made, failed = self.made.pop(self.taken)
            self.taken += self.step
            self.changed.notify_all()
        if failed is not None:
            self.end(None)
            try:
                raise failed
            finally:
                del failed  # else the error holds this frame, and the frame the error
        return made  # type: ignore[return-value]

    def end(self, patience: float | None = _PATIENCE) -> None:
        """Say that nothing more is wanted; wait until threads have noticed, each at the end of what it
        makes."""
        if self.process != os.getpid():
            return  # a forked child has none of them
        with self.changed:
            self.ended = True
            self.made.clear()
            self.changed.notify_all()
        for thread in self.threads:
            if thread is not threading.current_thread():
                thread.join(patience)
