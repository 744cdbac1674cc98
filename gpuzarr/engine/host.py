"""Reading on the host, in bundles.

A bundle is a run of requests that one worker takes through fetch → decode → scatter while it is hot in cache.
A chunk that is contiguous in the result is decoded straight into it; others go through memory that each
thread keeps. A thread takes the next bundle when it is done with one, and the calling thread works too.

A bundle with its bound chain is also the seam for a compiled core: one that knows the chain can take the
whole bundle.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import EllipsisType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuzarr import config
from gpuzarr.codecs.chain import Chain
from gpuzarr.engine.source import ReadStats, Source, body
from gpuzarr.errors import ChunkError, GpuzarrError
from gpuzarr.plan.table import ABSENT, WHOLE, Int64s, Plan
from gpuzarr.selection import Span
from gpuzarr.store.base import Buffer, Request

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

_KEPT = 8 << 20
"""Scratch memory that a thread keeps between reads."""

Box = tuple[slice | EllipsisType, ...]
_ALL: Box = (...,)  # unlike (), it gives an array where there are no dimensions


def read_host(source: Source, plan: Plan, flat: NDArray[Any], stats: ReadStats) -> None:
    """Fill `flat`, an array of the selection's flat shape and the array's carrier type, of any strides."""
    if not len(plan):
        return
    cuts = bundles(plan, source)
    work = _Work(source, plan, flat, stats)
    run_all([partial(work.run, first, last) for first, last in itertools.pairwise(cuts.tolist())])
    work.fill_absent()


def bundles(plan: Plan, source: Source) -> Int64s:
    """Where the requests are divided into bundles: the first request of each, then the number of requests."""
    settings = config.current()
    sizes = np.array([max(source.meta.chain(shape).spec.limit, 1) for shape in plan.shapes], np.float64)
    if not source.meta.has_bytes:
        sizes[:] = settings.bundle_nbytes / 4
    upto = np.concatenate((np.zeros(1), np.cumsum(sizes[plan.shape])))[
        plan.request
    ]  # decoded bytes before a request
    # Small enough that every thread gets several, large enough that a remote store sees many requests at
    # once.
    share = upto[-1] / (4 * settings.threads)
    target = min(settings.bundle_nbytes, max(share, 256 << 10))
    starts = np.flatnonzero(np.diff(upto[:-1] // target, prepend=-1.0))
    if source.store.traits.concurrency > 1 and plan.requests:
        most = max(-(-plan.requests // settings.threads), 1)
        step = min(max(most, 1), source.store.traits.concurrency)
        starts = np.arange(0, plan.requests, step)
    return np.append(starts, plan.requests).astype(np.int64)


@dataclass(slots=True)
class _Work:
    source: Source
    plan: Plan
    flat: NDArray[Any]
    stats: ReadStats
    chains: list[Chain] = field(init=False)
    whole: list[NDArray[np.bool_]] = field(init=False)
    """For each chunk shape: which rows take the whole chunk."""
    simple: bool = field(init=False)
    """Every group is a Span, so boxes are slices on both sides."""
    steps: list[int] = field(init=False)

    def __post_init__(self) -> None:
        plan, groups = self.plan, self.plan.selection.groups
        self.chains = [self.source.meta.chain(shape) for shape in plan.shapes]
        self.simple = all(isinstance(group, Span) for group in groups)
        self.steps = [group.step if isinstance(group, Span) else 1 for group in groups]

    def run(self, first: int, last: int) -> None:
        """The requests from `first` up to `last`."""
        plan, source = self.plan, self.source
        rows = plan.request[first : last + 1]
        lo, hi = int(rows[0]), int(rows[-1])
        bundle = _Rows(plan, lo, hi, self.chains, self.simple, self.steps)
        keys = [source.key(cell) for cell in plan.objects[plan.key[rows[:-1]]].tolist()]
        together = source.store.traits.concurrency > 1
        spans = [(a - lo, b - lo) for a, b in itertools.pairwise(rows.tolist())]
        requests = [bundle.request(key, a, b) for key, (a, b) in zip(keys, spans, strict=True)]
        memory = _scratch()
        counts = {"chunks": 0, "direct": 0, "filled": 0}
        for begin, end in [(0, len(requests))] if together else [(i, i + 1) for i in range(len(requests))]:
            memory.reset()
            targets = [self._raw_target(bundle, *spans[i]) for i in range(begin, end)]
            placed: list[memoryview] = []

            def place(
                i: int,
                nbytes: int,
                begin: int = begin,
                targets: list[memoryview | None] = targets,
                placed: list[memoryview] = placed,
            ) -> memoryview:
                row = spans[begin + i][0]
                if requests[begin + i].nbytes is None:
                    source.check_encoded(nbytes, plan.shapes[bundle.shape[row]], keys[begin + i])
                target = targets[i]
                if target is not None and target.nbytes == nbytes:
                    placed.append(target)
                    return target
                return memory.take(nbytes)

            try:
                found = source.fetch(requests[begin:end], self.stats, place)
            except GpuzarrError as error:
                source.located(error, keys[begin] if end - begin == 1 else None)
                raise
            for i, stored in enumerate(found, begin):
                self._rows(bundle, keys[i], requests[i], stored, *spans[i], placed, counts)
        self.stats.add(**counts)

    def _raw_target(self, bundle: _Rows, row: int, end: int) -> memoryview | None:
        """The result's own memory, if the request's bytes can lie there as they come."""
        chain = self.chains[bundle.shape[row]]
        if chain.stages or end - row != 1 or not chain.plain or not bundle.whole[row] or not self.simple:
            return None
        box = self.flat[bundle.target(row)]
        return memoryview(_flat_bytes(box)) if box.flags.c_contiguous and box.size else None

    def _rows(
        self,
        bundle: _Rows,
        key: str,
        request: Request,
        stored: Buffer | None,
        row: int,
        end: int,
        placed: list[memoryview],
        counts: dict[str, int],
    ) -> None:
        """Decode what one request brought and put it in its place."""
        if stored is None:
            if request.nbytes is not None:
                raise ChunkError("the shard vanished while it was read", array=self.source.name, chunk=key)
            for at in range(row, end):
                self._fill(bundle, at)
            counts["filled"] += end - row
            return
        if any(stored is one for one in placed):
            counts["direct"] += 1
            counts["chunks"] += 1
            return
        view = memoryview(stored)
        if request.nbytes is not None and len(view) != request.nbytes:
            raise ChunkError(
                f"{len(view)} bytes at {request.start} of the shard; its index promises {request.nbytes}",
                array=self.source.name,
                chunk=key,
                codec="sharding_indexed",
            )
        for at in range(row, end):
            part = view
            if request.nbytes is not None:
                begin = bundle.start[at] - request.start
                part = view[begin : begin + bundle.nbytes[at]]
            try:
                counts["direct"] += self._chunk(bundle, part, at)
            except GpuzarrError as error:
                self.source.located(error, bundle.chunk_name(key, at))
                raise
        counts["chunks"] += end - row

    def _chunk(self, bundle: _Rows, part: memoryview, row: int) -> bool:
        """One chunk; whether it was decoded straight into the result."""
        chain = self.chains[bundle.shape[row]]
        memory = _scratch()
        if not self.simple:
            source, target = bundle.meshes(row)
            self.flat[target] = chain.decode(part, memory.decoded(chain))[source]
            return False
        box = self.flat[bundle.target(row)]
        if not bundle.whole[row]:
            box[...] = chain.decode(part, memory.decoded(chain))[bundle.source(row)]
            return False
        if chain.plain and chain.stages and box.flags.c_contiguous and chain.spec.nbytes:
            into = _flat_bytes(box)
            decoded = chain.run(part, 0, len(chain.stages), into)
            if decoded is into:
                return True
            box[...] = chain.arranged(decoded)
            return False
        box[...] = chain.decode(part, memory.decoded(chain))
        return False

    def _fill(self, bundle: _Rows, row: int) -> None:
        target = bundle.target(row) if self.simple else bundle.meshes(row)[1]
        self.flat[target] = self.source.meta.carried_fill

    def fill_absent(self) -> None:
        """The pieces whose chunks the shard indexes say are missing."""
        plan = self.plan
        lo, hi = int(plan.request[-1]), len(plan)
        for begin in range(lo, hi, 4096):
            bundle = _Rows(plan, begin, min(begin + 4096, hi), self.chains, self.simple, self.steps)
            for row in range(min(begin + 4096, hi) - begin):
                self._fill(bundle, row)
        self.stats.add(filled=hi - lo)


class _Rows:
    """The columns of some rows as Python lists, which a loop reads faster than arrays."""

    __slots__ = ("chunk_lo", "extent", "lo", "nbytes", "out_lo", "plan", "shape", "start", "steps", "whole")

    def __init__(
        self, plan: Plan, lo: int, hi: int, chains: list[Chain], simple: bool, steps: list[int]
    ) -> None:
        self.plan, self.lo, self.steps = plan, lo, steps
        rows = slice(lo, hi)
        self.shape: list[int] = plan.shape[rows].tolist()
        self.start: list[int] = plan.start[rows].tolist()
        self.nbytes: list[int] = plan.nbytes[rows].tolist()
        self.chunk_lo: list[list[int]] = plan.chunk_lo[rows].tolist()
        self.out_lo: list[list[int]] = plan.out_lo[rows].tolist()
        self.extent: list[list[int]] = plan.extent[rows].tolist()
        shapes = np.array(plan.shapes, np.int64).reshape(len(plan.shapes), -1)
        self.whole: list[bool] = (
            np.all(plan.extent[rows] == shapes[plan.shape[rows]], axis=1).tolist()
            if simple
            else [False] * (hi - lo)
        )

    def request(self, key: str, first: int, last: int) -> Request:
        """One request for the rows from `first` up to `last`."""
        if self.nbytes[first] == WHOLE:
            return body(key, 0, WHOLE)
        start = self.start[first]
        end = max(map(int.__add__, self.start[first:last], self.nbytes[first:last]))
        return body(key, start, end - start)

    def target(self, row: int) -> Box:
        """The piece's box in the flat result."""
        return (
            tuple([slice(lo, lo + n) for lo, n in zip(self.out_lo[row], self.extent[row], strict=True)])
            or _ALL
        )

    def source(self, row: int) -> Box:
        """The piece's box in its chunk."""
        columns = zip(self.chunk_lo[row], self.extent[row], self.steps, strict=True)
        return tuple([slice(lo, lo + (n - 1) * step + 1, step) for lo, n, step in columns]) or _ALL

    def meshes(self, row: int) -> tuple[tuple[Int64s, ...], tuple[Int64s, ...]]:
        """The piece as index arrays that broadcast together: in its chunk by axis, in the flat result by
        group."""
        groups = self.plan.selection.groups
        ndim = len(self.plan.selection.shape)
        inside: list[Int64s] = [np.zeros(1, np.int64)] * ndim
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

    def chunk_name(self, key: str, row: int) -> str:
        """The chunk, for messages: its key, and its place in the shard."""
        if self.nbytes[row] in (WHOLE, ABSENT):
            return key
        return f"{key} bytes {self.start[row]} to {self.start[row] + self.nbytes[row]}"


def _flat_bytes(box: NDArray[Any]) -> NDArray[np.uint8]:
    return box.reshape(-1).view(np.uint8)


class _Scratch:
    """Memory that one thread reuses: for encoded bytes, and for decoded chunks that do not fit into the
    result as is."""

    def __init__(self) -> None:
        self.encoded = np.empty(0, np.uint8)
        self.chunk = np.empty(0, np.uint8)
        self.used = 0

    def reset(self) -> None:
        """What was taken is free again. More than a modest size is given back."""
        self.used = 0
        if self.encoded.nbytes > _KEPT:
            self.encoded = np.empty(0, np.uint8)
        if self.chunk.nbytes > _KEPT:
            self.chunk = np.empty(0, np.uint8)

    def take(self, nbytes: int) -> memoryview:
        """Memory for encoded bytes, until `reset`."""
        if self.used + nbytes > self.encoded.nbytes:
            # What was taken before keeps the old memory alive as long as it is needed; else it goes first.
            self.encoded = np.empty(0, np.uint8)
            self.encoded, self.used = np.empty(max(nbytes, 1 << 20), np.uint8), 0
        taken = memoryview(self.encoded)[self.used : self.used + nbytes]
        self.used += nbytes
        return taken

    def decoded(self, chain: Chain) -> NDArray[np.uint8] | None:
        """Memory for one decoded chunk, until the next one."""
        nbytes = chain.layout.nbytes
        if nbytes is None or not chain.stages:
            return None
        if nbytes > self.chunk.nbytes:
            if nbytes > _KEPT:
                return None  # let the codec allocate what the chunk's bytes bear out
            self.chunk = np.empty(nbytes, np.uint8)
        return self.chunk[:nbytes]


_local = threading.local()


def _scratch() -> _Scratch:
    found: _Scratch | None = getattr(_local, "scratch", None)
    if found is None:
        found = _local.scratch = _Scratch()
    return found


_pool: tuple[int, int, ThreadPoolExecutor] | None = None  # process, threads, pool
_pool_lock = threading.Lock()


def pool() -> ThreadPoolExecutor:
    """The process's worker threads, made anew after a fork or a change of settings."""
    global _pool
    threads = config.current().threads
    with _pool_lock:
        from concurrent.futures import ThreadPoolExecutor

        if _pool is None or _pool[:2] != (os.getpid(), threads):
            _pool = (os.getpid(), threads, ThreadPoolExecutor(threads, "gpuzarr"))
        return _pool[2]


def run_all(tasks: list[Callable[[], None]]) -> None:
    """Run tasks on the calling thread and the pool's. The first error stops the rest and is raised."""
    helpers = min(config.current().threads, len(tasks)) - 1
    if helpers <= 0 or threading.current_thread().name.startswith("gpuzarr"):
        for task in tasks:
            task()
        return
    turn = itertools.count()
    failed: list[BaseException] = []

    def work() -> None:
        while not failed and (i := next(turn)) < len(tasks):
            try:
                tasks[i]()
            except BaseException as error:
                failed.append(error)

    from concurrent.futures import wait

    futures = [pool().submit(work) for _ in range(helpers)]
    work()
    wait(futures)
    if failed:
        raise failed[0]
