"""Requests of a store that has many in flight: every thread takes what is answered next.

Nobody waits for one bundle while another is there, and decoding hides what the server takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from gpuzarr import config
from gpuzarr.engine.fetch import Fetched, Rows, Target
from gpuzarr.engine.scratch import scratch
from gpuzarr.engine.source import ReadStats, Source
from gpuzarr.engine.workers import run_all
from gpuzarr.errors import GpuzarrError
from gpuzarr.plan.table import Plan
from gpuzarr.store.base import Buffer, StreamingStore

Land = Callable[[Rows, Iterator[Fetched]], None]
"""Decodes rows as they come, and puts them into their places. Runs on several threads at once."""

_TOGETHER = 16384
"""Requests that are listed at once."""


def streams(source: Source, plan: Plan) -> bool:
    """Whether a plan is read so."""
    return plan.requests > 1 and isinstance(source.store, StreamingStore)


def read_arriving(
    source: Source, plan: Plan, stats: ReadStats, land: Land, target: Callable[[Rows], Target] | None = None
) -> None:
    """All requests of a plan. `target` gives for some rows where an encoded chunk may lie for good."""
    store = source.store
    assert isinstance(store, StreamingStore)
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
    """Rows with their bytes, as they are answered. Threads share it."""

    def __init__(self, rows: Rows, store: StreamingStore, stats: ReadStats, target: Target | None) -> None:
        self.rows, self.stats, self.target = rows, stats, target
        self.wanted: dict[int, memoryview] = {}
        self._answers: Iterator[tuple[int, Buffer | None]] = store.stream(rows.requests, self._place)

    def _place(self, i: int, nbytes: int) -> memoryview | None:
        self.rows.check_whole(i, nbytes)
        row, end = self.rows.spans[i]
        into = None if self.target is None or end - row > 1 else self.target(row)
        if into is None or into.nbytes != nbytes:
            return None
        self.wanted[i] = into
        return into

    def __iter__(self) -> Iterator[Fetched]:
        """As `Rows.fetch` gives them."""
        rows = self.rows
        while True:
            try:
                i, stored = next(self._answers)
                view = rows.checked(i, stored)
            except StopIteration:
                return
            except GpuzarrError as error:
                rows.source.located(error)
                raise
            self.stats.add(requests=1, bytes_read=0 if view is None else view.nbytes)
            yield from rows.chunks(i, view, self.wanted.pop(i, None))

    def close(self) -> None:
        """Nobody takes any more."""
        close = getattr(self._answers, "close", None)
        if close is not None:
            close()
