"""Requests of a store that has many in flight: every thread takes what is answered next.

Nobody waits for one bundle while another is there, and decoding hides what the server takes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import numpy as np

from gpuzarr import config
from gpuzarr.engine.fetch import Part, Rows, Target
from gpuzarr.engine.scratch import scratch
from gpuzarr.engine.source import ReadStats, Source
from gpuzarr.engine.workers import run_all
from gpuzarr.errors import GpuzarrError
from gpuzarr.plan.table import Plan
from gpuzarr.store.base import Buffer, StreamingStore, Versioned, streaming

Land = Callable[[Rows, Iterator[Part]], None]
"""Decodes rows as they come, and puts them into their places. Runs on several threads at once."""

_TOGETHER = 16384
"""Requests that are listed at once."""
_PART_NBYTES = 128 << 10
"""Encoded bytes that a thread takes of an answer, if it has several chunks."""


def streams(source: Source, plan: Plan) -> bool:
    """Whether a plan is read so."""
    return plan.requests > 1 and streaming(source.store) is not None


def read_arriving(
    source: Source, plan: Plan, stats: ReadStats, land: Land, target: Callable[[Rows], Target] | None = None
) -> None:
    """All requests of a plan. `target` gives for some rows where an encoded chunk may lie for good."""
    store = streaming(source.store)
    assert store is not None
    for first in range(0, plan.requests, _TOGETHER):
        rows = Rows(source, plan, first, min(first + _TOGETHER, plan.requests))
        arriving = _Arriving(rows, store, stats, None if target is None else target(rows))
        try:
            take = partial(_take, rows, arriving, land)
            run_all([take] * min(config.current().threads, len(rows.requests)))
        finally:
            arriving.close()


def _take(rows: Rows, arriving: _Arriving, land: Land) -> None:
    try:
        land(rows, iter(arriving))
    except BaseException:
        arriving.close()  # for the other threads
        raise
    finally:
        scratch().release()


class _Arriving:
    """Rows with their bytes, as they are answered. Threads share it: an answer of many chunks is for all of
    them. One thread waits for the next answer, the others for what it brings."""

    def __init__(self, rows: Rows, store: StreamingStore, stats: ReadStats, target: Target | None) -> None:
        self.rows, self.stats, self.target = rows, stats, target
        self.wanted: dict[int, memoryview] = {}
        self._parts: deque[Part] = deque()
        # Indexes that come with their shards are kept under the version that they are of.
        versions = getattr(store, "stream_versioned", None) if rows.in_shards else None
        self._answers: Iterator[tuple[int, Buffer | Versioned | None]]
        if versions is None:
            self._answers = store.stream(rows.requests, self._place)
        else:
            self._answers = versions(rows.requests, None, self._place)
        self._waited_for = self._ended = False
        self._came = threading.Condition(threading.Lock())

    def _place(self, i: int, nbytes: int) -> memoryview | None:
        self.rows.check_whole(i, nbytes)
        row, end = self.rows.spans[i]
        into = None if self.target is None or end - row > 1 else self.target(row)
        if into is None or into.nbytes != nbytes:
            return None
        self.wanted[i] = into
        return into

    def __iter__(self) -> Iterator[Part]:
        """As they come."""
        while part := self._next():
            yield part

    def _next(self) -> Part | None:
        """Some rows that nobody has; None at the end."""
        while True:
            with self._came:
                while not self._parts and self._waited_for and not self._ended:
                    self._came.wait()
                if self._parts:
                    return self._parts.popleft()
                if self._ended:
                    return None
                self._waited_for = True
            parts: list[Part] = []
            try:
                parts = self._answer()
            finally:
                with self._came:
                    self._parts += parts
                    self._waited_for = False
                    self._ended |= not parts
                    self._came.notify_all()

    def _answer(self) -> list[Part]:
        """The rows of the next answer, in parts; none at the end."""
        rows = self.rows
        try:
            i, answer = next(self._answers)
            view = rows.checked(i, answer)
        except StopIteration:
            return []
        except GpuzarrError as error:
            rows.source.located(error)
            raise
        self.stats.add(requests=1, bytes_read=0 if view is None else view.nbytes)
        return self._cut(i, view)

    def _cut(self, i: int, view: memoryview | None) -> list[Part]:
        """The rows of a request, in parts."""
        rows = self.rows
        part = rows.part(i, view, self.wanted.pop(i, None))
        if view is None or part.hi - part.lo == 1:
            return [part]
        stored = rows.plan.nbytes[rows.first + part.lo : rows.first + part.hi - 1]
        before = np.cumsum(np.maximum(stored, 0))  # there may be missing chunks among them
        cuts = (np.flatnonzero(np.diff(before // _PART_NBYTES, prepend=0)) + 1 + part.lo).tolist()
        return [part._replace(lo=lo, hi=hi) for lo, hi in pairwise([part.lo, *cuts, part.hi])]

    def close(self) -> None:
        """Nobody takes any more."""
        with self._came:
            self._ended = True
            self._parts.clear()
            self._came.notify_all()
        close = getattr(self._answers, "close", None)
        if close is not None:
            close()
