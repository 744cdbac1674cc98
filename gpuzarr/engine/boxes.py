"""Reading many boxes of one shape: each chunk is fetched and decoded once, however many boxes touch it.

    boxes ─plan_boxes→ chunks with their pieces ─as any read→ decoded chunks ─pieces→ result [n, *shape]

Bundles and waves are those of any read; what differs is the landing, where a chunk has many places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.chain import Chain
from gpuzarr.device.base import Device
from gpuzarr.device.choose import Place
from gpuzarr.engine.arriving import read_arriving, streams
from gpuzarr.engine.cache import Known, Slot
from gpuzarr.engine.convert import Finish
from gpuzarr.engine.core import Core, Table, core_for
from gpuzarr.engine.fetch import Fetched, Part, Rows
from gpuzarr.engine.host import bundles, together
from gpuzarr.engine.planning import check_exact, resolved
from gpuzarr.engine.read import carried, empty
from gpuzarr.engine.scratch import scratch
from gpuzarr.engine.source import ReadStats, Source
from gpuzarr.engine.workers import run_all
from gpuzarr.errors import ArgumentError, GpuzarrError, LimitError
from gpuzarr.meta.model import ArrayMeta
from gpuzarr.plan.boxes import Extent, Pieces, plan_boxes
from gpuzarr.plan.pieces import Cells
from gpuzarr.plan.table import Int64s, Plan, hulls


def read_boxes(
    source: Source,
    origins: Int64s,
    shape: Sequence[Extent],
    mode: str,
    fill: Any,
    out: Any,
    stats: ReadStats,
    place: Place,
    finish: Finish,
    cached: bool = False,
) -> Any:
    """The boxes at `origins` [n, d], one behind the other: [n, *shape], or what `finish` makes of it, in
    `out` if it is given. `cached`: through the cache of decoded chunks."""
    try:
        device = place.device if source.meta.has_bytes else None
        outside = source.meta.carried_fill if fill is None else _fill(source.meta, fill)
        plan, cells, pieces = plan_boxes(origins, shape, source.meta.shape, source.meta.chunk_grid, mode)

        def read() -> Any:
            return _read(source, plan, cells, pieces, outside, out, stats, device, finish, cached)

        return source.settled(read)
    except GpuzarrError as error:
        source.located(error)
        raise
    except MemoryError as error:
        raise LimitError(f"out of memory: {error}", array=source.name, hint="read fewer boxes") from error


def _read(
    source: Source,
    plan: Plan,
    cells: Cells,
    pieces: Pieces,
    outside: NDArray[Any],
    out: Any,
    stats: ReadStats,
    device: Device | None,
    finish: Finish,
    cached: bool,
) -> Any:
    """What a plan of boxes gives: chunks of the cache, and of the store."""
    known = None
    if cached and source.meta.has_bytes:
        known = Known.of(source, plan, cells, device)
        missing = np.flatnonzero(~known.there)
        stats.add(hits=len(plan) - len(missing))
        plan, cells = plan.taken(missing), Cells(cells.cells[missing])
    plan = resolved(source, plan, cells, stats, host=device is None)
    if device is None:
        return _on_host(source, plan, pieces, outside, out, stats, known, finish)
    from gpuzarr.engine.boxes_device import on_device

    return on_device(source, plan, pieces, outside, out, stats, known, device, finish)


def _fill(meta: ArrayMeta, fill: Any) -> NDArray[Any]:
    """A caller's value for what lies outside of the array, as a carrier."""
    try:
        whole = np.asarray(fill, object if meta.carrier.kind == "O" else meta.dtype)
        if whole.ndim or (whole.dtype.kind in "iub" and whole[()] != fill):
            raise ValueError("it cannot be held")
    except (TypeError, ValueError, OverflowError) as error:
        raise ArgumentError(f"fill={fill!r} is no value of {meta.dtype}: {error}") from error
    return whole if whole.dtype == meta.carrier else whole.view(meta.carrier)


def _on_host(
    source: Source,
    plan: Plan,
    pieces: Pieces,
    outside: NDArray[Any],
    out: Any,
    stats: ReadStats,
    known: Known | None,
    finish: Finish,
) -> Any:
    meta, shape = source.meta, finish.shape(plan.selection.result_shape)
    if out is None:
        result = empty(shape, finish.carrier, source.name)
    else:
        check_exact(out, shape, finish.dtype)
        if not isinstance(out, np.ndarray) or not out.flags.writeable:
            raise ArgumentError("out is no array that can be written")
        strings = meta.dtype.kind == "T"
        result = empty(shape, meta.carrier, source.name) if strings else carried(out, finish.carrier)
    if len(pieces.outside):
        result[pieces.outside] = finish.fill(outside)
    if result.size:
        work = _HostBoxes(source, plan, pieces, finish.straight(result), stats, known, finish)
        tasks: list[Callable[[], None]] = []
        if streams(source, plan):
            read_arriving(source, plan, stats, work.arriving)
        else:
            tasks += [partial(work.run, lo, hi) for lo, hi in pairwise(bundles(plan, source).tolist())]
        if known is not None:
            hits = known.hits
            tasks += [partial(work.land_known, hits[i : i + 16]) for i in range(0, len(hits), 16)]
        run_all(tasks)
        work.fill_absent()
        if known is not None:
            known.keep()
    if out is None:
        return result.astype(meta.dtype) if meta.dtype.kind == "T" else result.view(finish.dtype)
    if meta.dtype.kind == "T":
        out[...] = result
    return out


class _HostBoxes:
    def __init__(
        self,
        source: Source,
        plan: Plan,
        pieces: Pieces,
        result: NDArray[Any],
        stats: ReadStats,
        known: Known | None,
        finish: Finish,
    ) -> None:
        self.source, self.plan, self.pieces, self.result, self.stats = source, plan, pieces, result, stats
        self.known, self.finish = known, finish
        self.fill = finish.fill(source.meta.carried_fill)
        self.chains = [source.meta.chain(shape) for shape in plan.shapes]
        self.hulls = (
            self._hulls() if known is None and len(self.chains) == 1 and self.chains[0].parts else None
        )
        """[chunks, 2]: the bytes of each decoded chunk that its pieces lie between."""
        self.core = self._core() if known is None and finish.conversion is None else None

    def _core(self) -> Core | None:
        core = core_for(self.source, self.chains, self.result.ndim)
        if core is None:
            return None
        pieces, plan = self.pieces, self.plan
        table = Table(pieces.chunk_lo, pieces.out_lo, pieces.extent, pieces.step, pieces.first, plan.slot)
        strides = [[0, *chain.strides] for chain in self.chains]
        return Core(core, self.source, plan, self.chains, table, strides, self.result, self.fill, self.stats)

    def _hulls(self) -> Int64s:
        pieces, chain = self.pieces, self.chains[0]
        strides = np.array([0, *chain.strides], np.int64)
        first, last = hulls(pieces.chunk_lo, pieces.extent, pieces.step, strides, chain.layout.dtype.itemsize)
        starts = pieces.first[:-1]
        return np.stack([np.minimum.reduceat(first, starts), np.maximum.reduceat(last, starts)], axis=1)

    def run(self, first: int, last: int) -> None:
        """The requests from `first` up to `last`."""
        rows, memory = Rows(self.source, self.plan, first, last), scratch()
        try:
            if self.core is not None and self.core.files:
                self.core.read(rows, partial(self._again, rows))
            else:
                nbytes = self.chains[rows.shape[0]].spec.nbytes
                many = together(rows, nbytes, self.source.store.traits.concurrency)
                for begin in range(0, len(rows.requests), many):
                    memory.reset()
                    end = min(begin + many, len(rows.requests))
                    self._read(rows, rows.parts(begin, end, self.stats, memory.take))
        finally:
            memory.release()

    def arriving(self, rows: Rows, parts: Iterator[Part]) -> None:
        """Rows in any order."""
        for part in parts:
            self._read(rows, [part])

    def _read(self, rows: Rows, parts: list[Part]) -> None:
        """Decode chunks into their places."""
        if self.core is None:
            self._decode(rows, (one for part in parts for one in rows.chunks(part)))
        else:
            self.core.fetched(rows, parts, lambda row: self._decode(rows, rows.one(parts, row)))

    def _again(self, rows: Rows, row: int) -> None:
        """A file that the core left."""
        scratch().reset()
        self._decode(rows, rows.again(row, self.stats, scratch().take))

    def _decode(self, rows: Rows, fetched: Iterable[Fetched]) -> None:
        """The same by the codecs themselves."""
        chunks = filled = 0
        for row, key, stored, _ in fetched:
            slot = self._slot(rows.first + row)
            if stored is None:
                filled += self._land(slot, None)
                continue
            try:
                self._land(slot, self._decoded(slot, stored, self.chains[rows.shape[row]]))
            except GpuzarrError as error:
                self.source.located(error, rows.name(row, key))
                raise
            chunks += 1
        self.stats.add(chunks=chunks, filled=filled)

    def _decoded(self, slot: int, stored: memoryview, chain: Chain) -> NDArray[Any]:
        """One chunk; in memory of its own if it is to be kept."""
        if self.known is None:
            part = None if self.hulls is None else (int(self.hulls[slot, 0]), int(self.hulls[slot, 1]))
            return chain.decode(stored, scratch().decoded(chain), part)
        chunk = chain.decode(stored, np.empty(chain.layout.limit, np.uint8) if chain.stages else None)
        # Codecs that change nothing give what they got: memory of the thread, or of a whole shard.
        return chunk.copy() if np.may_share_memory(chunk, np.frombuffer(stored, np.uint8)) else chunk

    def land_known(self, slots: list[int]) -> None:
        """Chunks that the cache has."""
        assert self.known is not None
        for slot in slots:
            entry = self.known.entries[slot]
            assert not isinstance(entry, Slot)
            self._place(slot, entry)

    def _land(self, slot: int, chunk: NDArray[Any] | None) -> int:
        """A chunk that was read to its places; how many they are."""
        if self.known is not None and self.known.room(0 if chunk is None else chunk.nbytes):
            self.known.new[slot] = chunk
        return self._place(slot, chunk)

    def _place(self, slot: int, chunk: NDArray[Any] | None) -> int:
        pieces = self.pieces
        lo, hi = int(pieces.first[slot]), int(pieces.first[slot + 1])
        columns = (pieces.chunk_lo, pieces.out_lo, pieces.extent, pieces.step)
        for starts, lands, extents, steps in zip(
            *(column[lo:hi].tolist() for column in columns), strict=True
        ):
            columns_of = zip(lands[1:], extents[1:], strict=True)
            target = (lands[0], *[slice(at, at + n) for at, n in columns_of], ...)
            if chunk is None:
                self.result[target] = self.fill
                continue
            inside = tuple(map(_along, starts[1:], extents[1:], steps[1:]))
            self.finish.put(self.result[target], chunk[inside])
        return hi - lo

    def _slot(self, row: int) -> int:
        assert self.plan.slot is not None
        return int(self.plan.slot[row])

    def fill_absent(self) -> None:
        """The pieces whose chunks the shard indexes say are missing."""
        absent = range(int(self.plan.request[-1]), len(self.plan))
        if self.core is not None:
            self.core.missing(absent.start, absent.stop)
            return
        self.stats.add(filled=sum(self._land(self._slot(row), None) for row in absent))


def _along(start: int, count: int, step: int) -> slice:
    """The elements of a piece along one axis of its chunk; one that repeats is broadcast."""
    if step == 1:
        return slice(start, start + count)
    if step == 0:
        return slice(start, start + 1)
    end = start - count
    return slice(start, None if end < 0 else end, -1)
