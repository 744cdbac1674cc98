"""Reading on the host, in bundles.

A bundle is a run of requests that one worker takes through fetch → decode → scatter while it is hot in
cache. A chunk that is contiguous in the result is decoded straight into it; others go through memory that
each thread keeps. A thread takes the next bundle when it is done with one, and the calling thread works too.

Where the host core knows the chain, it takes whole bundles (engine/core.py); what it leaves comes back here,
chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property, partial
from itertools import pairwise
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuzarr import config
from gpuzarr.engine.arriving import read_arriving, streams
from gpuzarr.engine.core import Core, Table, core_for
from gpuzarr.engine.fetch import Fetched, Part, Rows, Target
from gpuzarr.engine.scratch import scratch
from gpuzarr.engine.source import ReadStats, Source
from gpuzarr.engine.workers import run_all
from gpuzarr.errors import GpuzarrError
from gpuzarr.plan.table import Int64s, Plan, hulls
from gpuzarr.selection import Span

_TOGETHER = 256 << 10
"""Decoded bytes that are fetched from a local store at a time: few enough to stay in cache."""
_REMOTE_BUNDLE = 64 << 20
"""Decoded bytes of a bundle where a round trip is dear."""

Box = tuple[slice | EllipsisType, ...]
_ALL: Box = (...,)  # unlike (), it gives an array where there are no dimensions


def read_host(source: Source, plan: Plan, flat: NDArray[Any], stats: ReadStats) -> None:
    """Fill `flat`, an array of the selection's flat shape and the array's carrier type, of any strides."""
    if not len(plan):
        return
    work = _Work(source, plan, flat, stats)
    if streams(source, plan):
        read_arriving(source, plan, stats, work.arriving, work.target)
    else:
        run_all([partial(work.run, first, last) for first, last in pairwise(bundles(plan, source).tolist())])
    work.fill_absent()


def bundles(plan: Plan, source: Source) -> Int64s:
    """Where the requests are divided into bundles: the first request of each, then the number of requests."""
    settings, traits = config.current(), source.store.traits
    sizes = np.array([max(source.meta.chain(shape).spec.limit, 1) for shape in plan.shapes], np.float64)
    if not source.meta.has_bytes:
        sizes[:] = settings.bundle_nbytes / 4
    decoded_before = np.concatenate((np.zeros(1), np.cumsum(sizes[plan.shape])))[plan.request]
    if traits.concurrency == 1:
        return _guided(decoded_before, settings.threads, settings.bundle_nbytes)
    # Large enough that the store sees many requests at once.
    share = min(max(-(-plan.requests // settings.threads), 1), traits.concurrency)
    cut = np.arange(plan.requests) // share + np.floor(decoded_before[:-1] / _REMOTE_BUNDLE)
    starts = np.flatnonzero(np.diff(cut, prepend=-1.0))
    return np.append(starts, plan.requests).astype(np.int64)


def _guided(decoded_before: NDArray[np.float64], threads: int, most: int) -> Int64s:
    """Large bundles first, which cost less, then ever smaller ones, so that no thread waits for another's
    last. `decoded_before` [requests + 1] are the decoded bytes before each request, and all."""
    total, first, starts = float(decoded_before[-1]), 0, list[int]()
    while first < len(decoded_before) - 1:
        starts.append(first)
        begin = float(decoded_before[first])
        end = begin + min(max((total - begin) / (3 * threads), _TOGETHER), most)
        first = max(int(np.searchsorted(decoded_before, end)), first + 1)
    return np.array([*starts, len(decoded_before) - 1], np.int64)


def together(rows: Rows, nbytes: int | None, concurrency: int) -> int:
    """How many requests, for chunks of so many decoded bytes, are fetched before any is decoded."""
    return len(rows.requests) if concurrency > 1 else max(_TOGETHER // (nbytes or _TOGETHER), 1)


class _Work:
    """One read: what every bundle of it shares."""

    def __init__(self, source: Source, plan: Plan, flat: NDArray[Any], stats: ReadStats) -> None:
        self.source, self.plan, self.flat, self.stats = source, plan, flat, stats
        self.fill = source.meta.carried_fill
        self.chains = [source.meta.chain(shape) for shape in plan.shapes]
        groups = plan.selection.groups
        self.simple = all(isinstance(group, Span) for group in groups)
        """Every group is a Span, so boxes are slices on both sides."""
        self.spans = [group for group in groups if isinstance(group, Span)]
        self.steps = [group.step if isinstance(group, Span) else 1 for group in groups]
        self.core = self._core() if self.simple else None

    def _core(self) -> Core | None:
        core = core_for(self.source, self.chains, self.flat.ndim)
        if core is None:
            return None
        plan, axes = self.plan, [group.axis for group in self.spans]
        table = Table(plan.chunk_lo, plan.out_lo, plan.extent, np.array(self.steps, np.int64))
        strides = [[chain.strides[axis] for axis in axes] for chain in self.chains]
        return Core(core, self.source, plan, self.chains, table, strides, self.flat, self.fill, self.stats)

    def run(self, first: int, last: int) -> None:
        """The requests from `first` up to `last`."""
        rows, memory = Rows(self.source, self.plan, first, last), scratch()
        boxes = _Boxes(self, rows.first, rows.end)
        try:
            if self.core is not None and self.core.files:
                self.core.read(rows, partial(self._again, rows, boxes))
                return
            nbytes = self.chains[rows.shape[0]].spec.nbytes
            many = together(rows, nbytes, self.source.store.traits.concurrency)
            target = self._target(rows, boxes)
            for begin in range(0, len(rows.requests), many):
                memory.reset()
                end = min(begin + many, len(rows.requests))
                self._land(rows, boxes, rows.parts(begin, end, self.stats, memory.take, target))
        finally:
            memory.release()

    def arriving(self, rows: Rows, parts: Iterator[Part]) -> None:
        """Rows in any order."""
        boxes = _Boxes(self, rows.first, rows.end)
        for part in parts:
            self._land(rows, boxes, [part])

    def target(self, rows: Rows) -> Target:
        """Where encoded chunks may lie for good."""
        return self._target(rows, _Boxes(self, rows.first, rows.end))

    def _target(self, rows: Rows, boxes: _Boxes) -> Target:
        raw = any(not chain.stages and chain.plain for chain in self.chains)
        return partial(self._raw_target, rows, boxes) if raw and self.simple else _nowhere

    def _land(self, rows: Rows, boxes: _Boxes, parts: list[Part]) -> None:
        """Decode chunks into their places."""
        if self.core is None:
            self._decode(rows, boxes, (one for part in parts for one in rows.chunks(part)))
        else:
            self.core.fetched(rows, parts, lambda row: self._decode(rows, boxes, rows.one(parts, row)))

    def _again(self, rows: Rows, boxes: _Boxes, row: int) -> None:
        """A file that the core left."""
        scratch().reset()
        self._decode(rows, boxes, rows.again(row, self.stats, scratch().take))

    def _decode(self, rows: Rows, boxes: _Boxes, fetched: Iterable[Fetched]) -> None:
        """The same by the codecs themselves."""
        chunks = direct = filled = 0
        for row, key, stored, placed in fetched:
            if stored is None:
                self.flat[boxes.target(row) if self.simple else boxes.meshes(row)[1]] = self.fill
                filled += 1
                continue
            chunks += 1
            try:
                direct += placed or self._chunk(boxes, rows.shape[row], stored, row)
            except GpuzarrError as error:
                self.source.located(error, rows.name(row, key))
                raise
        self.stats.add(chunks=chunks, direct=direct, filled=filled)

    def _raw_target(self, rows: Rows, boxes: _Boxes, row: int) -> memoryview | None:
        """The result's own memory, if the chunk's bytes can lie there as they come."""
        chain = self.chains[rows.shape[row]]
        if chain.stages or not chain.plain or not boxes.whole[row]:
            return None
        box = self.flat[boxes.target(row)]
        return memoryview(_flat_bytes(box)) if box.flags.c_contiguous and box.size else None

    def _chunk(self, boxes: _Boxes, shape: int, stored: memoryview, row: int) -> bool:
        """Decode one chunk into its place; whether that took no copy."""
        chain = self.chains[shape]
        if not self.simple:
            inside, landing = boxes.meshes(row)
            self.flat[landing] = chain.decode(stored, scratch().decoded(chain))[inside]
            return False
        box = self.flat[boxes.target(row)]
        if boxes.whole[row] and chain.plain and chain.stages and chain.spec.nbytes and box.flags.c_contiguous:
            into = _flat_bytes(box)
            decoded = chain.run(stored, 0, len(chain.stages), into)
            if decoded is into:
                return True
            box[...] = chain.arranged(decoded)
            return False
        part = None if boxes.whole[row] or not boxes.parts else boxes.parts[row]
        chunk = chain.decode(stored, scratch().decoded(chain), part)
        box[...] = chunk if boxes.whole[row] else chunk[boxes.inside(row)]
        return False

    def fill_absent(self) -> None:
        """The pieces whose chunks the shard indexes say are missing."""
        lo, hi = int(self.plan.request[-1]), len(self.plan)
        if self.core is not None:
            self.core.missing(lo, hi)
            return
        for begin in range(lo, hi, 4096):
            end = min(begin + 4096, hi)
            boxes = _Boxes(self, begin, end)
            for row in range(end - begin):
                self.flat[boxes.target(row) if self.simple else boxes.meshes(row)[1]] = self.fill
        self.stats.add(filled=hi - lo)


class _Boxes:
    """Where the pieces of some rows lie, in their chunks and in the flat result. As lists, which loops read
    faster than columns, and only when somebody asks."""

    def __init__(self, work: _Work, lo: int, hi: int) -> None:
        self.work, self.plan, self.steps, self.rows = work, work.plan, work.steps, slice(lo, hi)

    @cached_property
    def chunk_lo(self) -> list[list[int]]:
        found: list[list[int]] = self.plan.chunk_lo[self.rows].tolist()
        return found

    @cached_property
    def out_lo(self) -> list[list[int]]:
        found: list[list[int]] = self.plan.out_lo[self.rows].tolist()
        return found

    @cached_property
    def extent(self) -> list[list[int]]:
        found: list[list[int]] = self.plan.extent[self.rows].tolist()
        return found

    @cached_property
    def whole(self) -> list[bool]:
        """Whether a row takes its chunk whole."""
        if not self.work.simple:
            return []
        plan = self.plan
        shapes = np.array(plan.shapes, np.int64).reshape(len(plan.shapes), -1)
        found: list[bool] = np.all(plan.extent[self.rows] == shapes[plan.shape[self.rows]], axis=1).tolist()
        return found

    @cached_property
    def parts(self) -> list[tuple[int, int]]:
        """The bytes of the decoded chunk that a row's piece lies between, where a codec wants to know."""
        work, plan = self.work, self.plan
        if not work.simple or len(work.chains) > 1 or not work.chains[0].parts or all(self.whole):
            return []
        chain, steps = work.chains[0], np.array(work.steps, np.int64)
        strides = np.array([chain.strides[g.axis] for g in work.spans], np.int64)
        bounds = hulls(
            plan.chunk_lo[self.rows],
            plan.extent[self.rows],
            steps,
            strides,
            chain.layout.dtype.itemsize,
        )
        return list(zip(*(bound.tolist() for bound in bounds), strict=True))

    def target(self, row: int) -> Box:
        """The piece's box in the flat result."""
        columns = zip(self.out_lo[row], self.extent[row], strict=True)
        return tuple([slice(lo, lo + n) for lo, n in columns]) or _ALL

    def inside(self, row: int) -> Box:
        """The piece's box in its chunk."""
        columns = zip(self.chunk_lo[row], self.extent[row], self.steps, strict=True)
        return tuple([slice(lo, lo + (n - 1) * step + 1, step) for lo, n, step in columns]) or _ALL

    def meshes(self, row: int) -> tuple[tuple[Int64s, ...], tuple[Int64s, ...]]:
        """The piece as index arrays that broadcast together: in its chunk by axis, in the result by group."""
        groups = self.plan.selection.groups
        inside: list[Int64s] = [np.zeros(1, np.int64)] * len(self.plan.selection.shape)
        landing: list[Int64s] = []
        for g, (group, table) in enumerate(zip(groups, self.plan.points, strict=True)):
            along = [1] * len(groups)
            along[g] = n = self.extent[row][g]
            chunk_lo, out_lo = self.chunk_lo[row][g], self.out_lo[row][g]
            if isinstance(group, Span):
                inside[group.axis] = (chunk_lo + group.step * np.arange(n)).reshape(along)
                landing.append((out_lo + np.arange(n)).reshape(along))
            elif table is not None:
                for axis, at in zip(group.axes, table.inside, strict=True):
                    inside[axis] = at[chunk_lo : chunk_lo + n].reshape(along)
                landing.append(table.landing[out_lo : out_lo + n].reshape(along))
        return tuple(inside), tuple(landing)


def _nowhere(row: int) -> None:
    return None


def _flat_bytes(box: NDArray[Any]) -> NDArray[np.uint8]:
    return box.reshape(-1).view(np.uint8)
