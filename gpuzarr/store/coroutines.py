"""Many coroutines at once on the event loop of another thread, each answer as soon as it is there: what
`remote.flow` is for requests that hold a thread.

    one(0) one(1) … ─loop→ answers ─next()→ whoever decodes
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any

from gpuzarr.errors import GpuzarrError, StoreError
from gpuzarr.store.remote.flow import AHEAD_NBYTES

IN_FLIGHT = 64
"""Requests of one call that are in flight, or whose answers wait to be taken."""
_UNKNOWN_NBYTES = 1 << 20
"""What an object of unknown size is taken for, until there was a larger one."""


class Many(Iterator[tuple[int, Any]]):
    """What `one(i)` gives for every i, as it comes. Requests are begun by those who take answers: so many
    that what is in flight, or waits to be taken, stays within bounds. The first error ends it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        one: Callable[[int], Awaitable[Any]],
        sizes: Sequence[int | None],
    ) -> None:
        """`sizes`: the bytes that each moves, as far as that is known."""
        self._one, self._sizes, self._loop = one, sizes, loop
        self._lock = threading.Lock()
        self._begun = self._taken = 0
        self._ahead: dict[int, int] = {}
        """Bytes of what is in flight or waits to be taken."""
        self._unknown_nbytes = _UNKNOWN_NBYTES
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready: SimpleQueue[tuple[int, Any, GpuzarrError | None] | None] = SimpleQueue()
        self._closed = False
        self._begin()

    def __next__(self) -> tuple[int, Any]:
        with self._lock:
            if self._closed or self._taken == len(self._sizes):
                raise StopIteration
            self._taken += 1  # by this thread, as soon as it comes
        try:
            came = self._ready.get()
        except BaseException:  # an interrupt
            self.close()
            raise
        if came is None:
            self._ready.put(None)  # for the next thread that waits
            raise StopIteration
        i, answer, error = came
        if error is not None:
            if self._end():
                raise error
            raise StopIteration  # one came before, or this one is of having been closed
        self._begin(i)
        return i, answer

    def _begin(self, taken: int | None = None) -> None:
        """Send what there is room for."""
        with self._lock:
            if taken is not None:
                del self._ahead[taken]
            first, ahead = self._begun, sum(self._ahead.values())
            while not self._closed and self._begun < len(self._sizes) and len(self._ahead) < IN_FLIGHT:
                nbytes = self._sizes[self._begun]
                nbytes = self._unknown_nbytes if nbytes is None else nbytes
                if self._ahead and ahead + nbytes > AHEAD_NBYTES:
                    break
                self._ahead[self._begun] = nbytes
                ahead += nbytes
                self._begun += 1
            fresh = range(first, self._begun)
        if fresh:
            self._loop.call_soon_threadsafe(self._start, fresh)

    def _start(self, numbers: range) -> None:
        for i in () if self._closed else numbers:
            task = self._loop.create_task(self._run(i))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, i: int) -> None:
        answer, failed = None, None
        try:
            answer = await self._one(i)
        except GpuzarrError as error:
            failed = error
        except BaseException as error:  # given up; or what a store must not do to the loop, like SystemExit
            failed = StoreError(f"a request was given up: {type(error).__name__}")
        if self._sizes[i] is None and answer is not None:
            with self._lock:
                self._ahead[i] = len(answer)
                self._unknown_nbytes = max(self._unknown_nbytes, len(answer))
        self._ready.put((i, answer, failed))

    def close(self) -> None:
        """Ask for no more, and give up what is in flight."""
        self._end()

    def _end(self) -> bool:
        """Close; whether it was open."""
        with self._lock:
            if self._closed:
                return False
            self._closed = True
        self._ready.put(None)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancel)
        return True

    def _cancel(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    def all(self) -> list[Any]:
        """Every answer, in order."""
        answers = dict(self)
        return [answers[i] for i in range(len(answers))]
