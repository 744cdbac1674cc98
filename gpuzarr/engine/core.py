"""Rows of a plan through the host core (native/core.c): fetched bytes, or files, to their places in the
result, many chunks in one call, during which the interpreter runs on.

It is the same read as the one in Python. What the core leaves, because it is damaged, odd or unreadable, is
decoded by the codecs, chunk by chunk, and they say what is wrong. Reads that it does not take at all
(`core_for` is None) go without it: other codecs, values that are no plain bytes, points, conversions.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuzarr import config
from gpuzarr.codecs.base import Codec
from gpuzarr.codecs.chain import Chain
from gpuzarr.engine.fetch import Part, Rows
from gpuzarr.engine.scratch import scratch
from gpuzarr.engine.source import ReadStats, Source
from gpuzarr.errors import GpuzarrError
from gpuzarr.plan.table import ABSENT, WHOLE, Int64s, Plan
from gpuzarr.store.local import LocalStore

if TYPE_CHECKING:  # loaded with the first read: it brings the codecs' libraries
    from gpuzarr.native import library

Left = Callable[[int], None]
"""Takes a row that the core left."""

_TOGETHER = 1024
"""Rows of one call: Ctrl-C waits for its end."""
_FILES = 64
"""Requests whose files are open at a time."""
_MOST = 2**63 - 1
_EMPTY = np.zeros(1, np.uint8)  # where a chunk of no bytes lies


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Pieces: `chunk_lo, out_lo, extent` int64[p, dims], `step` int64[p, dims], or [dims] for all. A row of
    the plan has those of its `slot`, from `first[slot]` on; without slots, the one of its own number."""

    chunk_lo: Int64s
    out_lo: Int64s
    extent: Int64s
    step: Int64s
    first: Int64s | None = None
    slot: Int64s | None = None


def core_for(source: Source, chains: Sequence[Chain], ndim: int) -> library.Core | None:
    """The host core, if it takes reads of these chains into results of so many dimensions."""
    settings = config.current()
    if not settings.native or not source.meta.has_bytes:
        return None
    from gpuzarr.native import library

    core, _ = library.loaded(settings.native_library)
    if core is None or ndim > core.most_dims or not all(_taken(chain, core) for chain in chains):
        return None
    return core


class Core:
    """Of one read."""

    def __init__(
        self,
        core: library.Core,
        source: Source,
        plan: Plan,
        chains: Sequence[Chain],
        table: Table,
        strides: Sequence[Sequence[int]],
        result: NDArray[Any],
        fill: NDArray[Any],
        stats: ReadStats,
    ) -> None:
        """For a read into `result`, an array of carriers of any strides. `strides` are those of each chain's
        decoded chunks, along the dimensions of `result`."""
        self.core, self.source, self.plan, self.stats = core, source, plan, stats
        self.files = _files(source, plan)
        """How it may read files itself: `whole`, `ranges`; empty if it may not."""
        self.largest = max(chain.layout.limit for chain in chains)
        self.decodes = any(chain.stages for chain in chains)
        self.containers = any(stage.name == "blosc" for chain in chains for stage in chain.stages)
        self.shape, self.slot = _column(plan.shape), None if table.slot is None else _column(table.slot)
        job = core.job(library=ctypes.pointer(core.functions), dims=result.ndim, itemsize=result.itemsize)
        held: dict[str, Any] = {
            "chunk_lo": _column(table.chunk_lo),
            "out_lo": _column(table.out_lo),
            "extent": _column(table.extent),
            "step": _column(table.step),
            "result": result,
            "stride": np.array(result.strides, np.int64),
            "fill": np.ascontiguousarray(fill, result.dtype),
        }
        if table.first is not None:
            held["first"] = _column(table.first)
        for name, column in held.items():
            setattr(job, name, _at(column))
        job.steps_differ, job.parts = table.step.ndim == 2, len(chains) == 1
        bound = (core.chain * len(chains))()
        for into, chain, own in zip(bound, chains, strides, strict=True):
            _bind(into, core, chain, own, whole=table.slot is None)
        job.chains = bound
        self.template, self.held = bytes(job), (held, bound, job)

    def fetched(self, rows: Rows, parts: Sequence[Part], left: Left) -> None:
        """The rows of parts that lie one behind the other."""
        lo, hi = parts[0].lo, parts[-1].hi
        of = slice(rows.first + lo, rows.first + hi)
        try:
            columns = [(*_bytes(part.view), part.begin) for part in parts]
        except (BufferError, ValueError):  # not contiguous, which the codecs say again
            _all(lo, hi, left)
            return
        counts = [part.hi - part.lo for part in parts]
        base, size, begin = np.repeat(np.array(columns, np.int64), counts, axis=0).T
        nbytes = self.plan.nbytes[of]
        base = np.where(nbytes == ABSENT, 0, base)
        whole = (nbytes == WHOLE) | (base == 0)
        address = np.where(whole, base, base + self.plan.start[of] - begin)
        nbytes = np.where(base == 0, 0, np.where(whole, size, nbytes))
        # Rows have been held against their answers before; reading outside of them is not for C to find out.
        if not bool(((address >= base) & (nbytes >= 0) & (nbytes <= base + size - address)).all()):
            _all(lo, hi, left)
            return

        def place(job: library.Job, row: int) -> None:
            self._lend(job)
            job.address, job.nbytes = _at(address) + 8 * row, _at(nbytes) + 8 * row

        self._take(rows.first + lo, hi - lo, place, lambda row: left(lo + row))

    def read(self, rows: Rows, left: Left) -> None:
        """All rows, from their files."""
        if self.files == "whole":
            self._read_whole(rows, left)
        else:
            self._read_ranges(rows, left)

    def _read_ranges(self, rows: Rows, left: Left) -> None:
        """Of some files at a time: a process may have only so many open."""
        for first in range(0, len(rows.requests), _FILES):
            self._read_some(rows, first, min(first + _FILES, len(rows.requests)), left)

    def _read_some(self, rows: Rows, first: int, last: int, left: Left) -> None:
        store, requests, spans = self.source.store, rows.requests[first:last], rows.spans[first:last]
        assert isinstance(store, LocalStore)
        lo, hi = spans[0][0], spans[-1][1]
        of = slice(rows.first + lo, rows.first + hi)
        begin = np.array([request.start for request in requests], np.int64)
        size = np.array([request.nbytes for request in requests], np.int64)
        range_ = np.repeat(np.arange(len(requests)), [end - start for start, end in spans])
        nbytes = np.ascontiguousarray(self.plan.nbytes[of])
        within = self.plan.start[of] - begin[range_]
        if not bool(((within >= 0) & (nbytes >= 0) & (nbytes <= size[range_] - within)).all()):
            _all(lo, hi, left)
            return
        with store.opened(requests) as opened:
            fds = np.array(opened, np.int64)

            def place(job: library.Job, row: int) -> None:
                self._lend(job)
                stored = scratch().file(max(self.largest, int(size.max())))
                job.stored, job.stored_room = _at(stored), stored.nbytes
                job.fd, job.begin, job.size = _at(fds), _at(begin), _at(size)
                job.range, job.within = _at(range_) + 8 * row, _at(within) + 8 * row
                job.nbytes = _at(nbytes) + 8 * row

            self._take(rows.first + lo, hi - lo, place, lambda row: left(lo + row))

    def _read_whole(self, rows: Rows, left: Left) -> None:
        store, count = self.source.store, len(rows.keys)
        assert isinstance(store, LocalStore)
        try:
            paths = store.paths(rows.keys)
        except GpuzarrError:  # which the store says again, of the row that it is about
            _all(0, count, left)
            return
        joined = b"".join([path + b"\0" for path in paths])
        ends = np.cumsum([len(path) + 1 for path in paths], dtype=np.int64)
        begins = np.append(np.zeros(1, np.int64), ends)

        def place(job: library.Job, row: int) -> None:
            self._lend(job)
            stored = scratch().file(self.largest)
            job.paths, job.path = joined, _at(begins) + 8 * row
            job.stored, job.stored_room = _at(stored), stored.nbytes

        self._take(rows.first, count, place, left)

    def missing(self, first: int, last: int) -> None:
        """Rows of the plan from `first` to `last` (exclusive), whose chunks are known to be missing."""
        nothing = np.zeros(last - first, np.int64)

        def place(job: library.Job, row: int) -> None:
            job.address, job.nbytes = _at(nothing) + 8 * row, _at(nothing) + 8 * row

        def left(row: int) -> None:
            raise AssertionError(f"a missing chunk was left: row {row}")

        self._take(first, last - first, place, left)

    def _take(self, first: int, count: int, place: Callable[[library.Job, int], None], left: Left) -> None:
        """Rows of the plan from `first` on. `place` says where the bytes lie, counted from there."""
        row, loaded = 0, -1
        while row < count:
            asked = min(count - row, _TOGETHER)
            job = self._job(first + row, asked)
            try:
                place(job, row)
            except MemoryError:  # the codecs may take less, or say so themselves
                _all(row, count, left)
                return
            job.loaded = loaded
            taken = self.core.rows(ctypes.byref(job))
            row, loaded = row + taken, job.loaded
            counts = ("chunks", "direct", "filled", "requests", "bytes_read")
            self.stats.add(**{name: getattr(job, name) for name in counts})
            if taken < asked:
                left(row)
                row, loaded = row + 1, -1

    def _lend(self, job: library.Job) -> None:
        """The calling thread's memory, to decode into."""
        memory = scratch()
        if self.decodes:
            job.decoded = _at(memory.chunk(self.largest))
        if self.containers:
            container = memory.container(self.largest)
            job.container, job.container_room = _at(container), container.nbytes

    def _job(self, number: int, count: int) -> library.Job:
        """For rows of the plan from `number` on."""
        from gpuzarr.codecs.zstd_library import decoder

        job = self.core.job.from_buffer_copy(self.template)
        job.rows, job.number, job.chain = count, number, _at(self.shape) + 8 * number
        if self.slot is not None:
            job.slot = _at(self.slot) + 8 * number
        if (found := decoder()) is not None:
            job.decoder, job.streams = found.address, found.streams
        return job


def _taken(chain: Chain, core: library.Core) -> bool:
    """Whether the core knows a chain: checksums, then at most one codec that decompresses."""
    kinds = [_kind(stage.codec, core) for stage in chain.stages]
    return (
        all(kinds)
        and len(kinds) <= core.most_steps
        and all(stage.name == "crc32c" for stage in chain.stages[:-1])
        and chain.swap is not None
        and bool(chain.layout.nbytes)
    )


def _kind(codec: Codec, core: library.Core) -> int:
    """0: the core does not know it."""
    return 0 if getattr(codec, "at_start", False) else core.kinds.get(codec.name, 0)


def _bind(into: library.Chain, core: library.Core, chain: Chain, strides: Sequence[int], whole: bool) -> None:
    """The chain as the core sees it. `whole`: chunks that are one piece may be decoded to where they land."""
    into.steps, into.nbytes, into.swap = len(chain.stages), chain.layout.nbytes, chain.swap
    for step, stage in zip(into.step, chain.stages, strict=False):
        step.kind = _kind(stage.codec, core)
        limit = min(stage.decoded.limit, _MOST)
        step.nbytes = ~limit if stage.decoded.nbytes is None else limit
    into.plain = whole and chain.plain
    into.stride[: len(strides)] = list(strides)
    if whole:
        into.shape[: len(chain.spec.shape)] = list(chain.spec.shape)


def _files(source: Source, plan: Plan) -> str:
    """See `Core.files`. The store is a directory, and each request is for one chunk that is a file, or all of
    them are for ranges."""
    if type(source.store) is not LocalStore or source.store.follow_symlinks:
        return ""
    rows = plan.nbytes[: int(plan.request[-1])]
    if len(rows) == plan.requests and bool((rows == WHOLE).all()) and not plan.versions:
        return "whole"
    return "ranges" if bool((rows >= 0).all()) else ""


def _all(lo: int, hi: int, left: Left) -> None:
    for row in range(lo, hi):
        left(row)


def _column(column: Int64s) -> Int64s:
    return np.ascontiguousarray(column, np.int64)


def _at(array: NDArray[Any]) -> int:
    """The address of its first element."""
    found: int = array.__array_interface__["data"][0]
    return found


def _bytes(view: memoryview | None) -> tuple[int, int]:
    """Address and size; 0 for what is missing."""
    if view is None:
        return 0, 0
    return _at(np.frombuffer(view, np.uint8) if len(view) else _EMPTY), len(view)
