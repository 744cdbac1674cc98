"""One loop over a loader: batches read ahead, in order, each counted and shown when it is handed out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np

from gpuzarr.errors import GpuzarrError
from gpuzarr.loading.ahead import Ahead
from gpuzarr.loading.bar import Bar
from gpuzarr.loading.batches import Batches
from gpuzarr.loading.chance import Int64s
from gpuzarr.loading.reading import Arrays, Ring
from gpuzarr.loading.stats import LoaderStats

Moved = Callable[[int, bool], None]
"""Told the position of the next batch, and whether it was asked for and failed."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How batches are read."""

    ahead: int
    """Batches that are read before they are asked for."""
    threads: int
    """Batches that are read at a time."""
    reuse: bool
    """Into the arrays of earlier batches."""


class Loop(Iterator[Any]):
    """The batches at positions `first`, `first + step`, ... before `stop`; a position is epoch × batches of
    an epoch + batch. Dropping a loop ends its threads, as does `close`."""

    def __init__(
        self,
        batches: Batches,
        positions: tuple[int, int | None, int],
        stats: LoaderStats,
        moved: Moved,
        reading: Reading,
        progress: bool,
    ) -> None:
        self._batches, self._moved = batches, moved
        self._tally = Tally(batches, stats, progress)
        first, stop, self._step = positions
        self._next = first
        self._ring = Ring(reading.ahead + 1) if reading.reuse else None
        self._lent: Arrays | None = None
        self._ended = self._closed = False
        make = _Maker(batches, self._ring, stats)
        self._ahead = Ahead(make, first, stop, self._step, reading.ahead, reading.threads)

    def __next__(self) -> Any:
        """The next batch, or the error that came in its place."""
        asked = perf_counter()
        if self._closed and not self._ended:
            raise GpuzarrError(
                "this loop was ended before its last batch",
                hint="by an error, by close(), or by another loop: a loader has one at a time",
            )
        if self._ended or self._ahead.over:
            self._ended = True
            self.close()
            raise StopIteration
        if self._ring is not None and self._lent is not None:
            self._ring.give(self._lent)
            self._lent = None
        epoch, number = divmod(self._next, self._batches.length)
        try:
            made = self._ahead.take()
            batch = made.batch
            if not made.finished:
                batch = self._batches.finished(made.batch, made.origins, epoch, number)
        except Exception as error:
            error.add_note(f"in batch {number} of epoch {epoch}")
            self.close()
            self._moved(self._next, True)
            raise
        self._lent = made.lent
        self._tally.handed_out(self._next, len(made.origins), asked)
        self._next += self._step
        self._moved(self._next, False)
        return batch

    def close(self) -> None:
        """End the loop: its threads end with what they are reading, and are waited for."""
        self._closed = True
        self._ahead.close()
        self._tally.close()


class Tally:
    """Counts the batches that are handed out, and shows them if they are to be shown."""

    def __init__(self, batches: Batches, stats: LoaderStats, progress: bool) -> None:
        self._batches, self._stats, self._progress = batches, stats, progress
        self._bar: Bar | None = None
        self._epoch = -1
        self._last = 0.0

    def handed_out(self, position: int, patches: int, asked: float) -> None:
        """The batch at `position`, which was asked for at the time `asked`, now goes to its consumer."""
        now, length = perf_counter(), self._batches.length
        began, self._last = self._last or asked, now
        nbytes = patches * self._batches.patch_nbytes
        self._stats.add(batches=1, patches=patches, bytes=nbytes, wait_s=now - asked, elapsed_s=now - began)
        if not self._progress:
            return
        epoch, number = divmod(position, length)
        if self._bar is None:
            self._bar = Bar(self._batches.numbering.batch_size, self._stats)
            self._bar.__enter__()
        if epoch != self._epoch:
            self._epoch = epoch
            self._bar.begin(epoch)
        self._bar(number + 1, length)

    def close(self) -> None:
        """Nothing of the bar stays."""
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None


@dataclass(slots=True)
class _Made:
    """A batch, and what there is to know of it."""

    batch: Any
    finished: bool
    """Else it lies on a device, and is finished on the thread that takes it, behind what that has queued."""
    origins: Int64s
    lent: Arrays | None
    """Arrays of the ring that are in use until the next batch is asked for."""


@dataclass(slots=True)
class _Maker:
    """Makes the batch at a position. Threads hold it, and never the loop."""

    batches: Batches
    ring: Ring | None
    stats: LoaderStats

    def __call__(self, position: int) -> _Made:
        batches = self.batches
        epoch, number = divmod(position, batches.length)
        origins = batches.origins(number, epoch)
        lent = None if self.ring is None else self.ring.take()
        whole = len(origins) == batches.numbering.batch_size
        arrays = batches.read(origins, self.stats, lent if whole else None)
        if lent is not None and whole:
            lent.update(arrays)
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            return _Made(arrays, False, origins, lent)
        return _Made(batches.finished(arrays, origins, epoch, number), True, origins, lent)
