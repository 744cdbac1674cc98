"""One write, as every chunk of it sees it: which part is new, what is there already, what comes of both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gpuzarr import config
from gpuzarr.codecs.base import as_bytes
from gpuzarr.codecs.chain import Chain
from gpuzarr.engine.extents import extent_of
from gpuzarr.engine.scratch import scratch
from gpuzarr.engine.source import Source
from gpuzarr.engine.stats import WriteStats
from gpuzarr.errors import ArgumentError, ChunkError, GpuzarrError
from gpuzarr.plan.pieces import plan_pieces
from gpuzarr.selection import Points, Selection, Span
from gpuzarr.store.base import Buffer

_TOGETHER: Final = 256 << 10
"""Decoded bytes that a thread encodes at a time."""


class Update(ABC):
    """The table of pieces of a write. Shared by all threads.

    `written`: elements outside of this shape are nobody's, and count as fill values whatever is stored.
    """

    def __init__(
        self, source: Source, selection: Selection, stats: WriteStats, written: tuple[int, ...] | None = None
    ) -> None:
        self.source, self.meta, self.stats = source, source.meta, stats
        self.written = written
        self.extent = extent_of(source)
        self.plan, cells = plan_pieces(selection, source.meta.chunk_grid)
        self.cells = cells.cells  # [n, d]
        self.groups = selection.groups
        self.fill = source.meta.carried_fill
        self.keep_empty = bool(config.current().write_empty_chunks)
        axes = source.meta.chunk_grid.axes
        self.low = np.empty_like(self.cells)  # [n, d], the first element of each chunk
        for i, axis in enumerate(axes):
            self.low[:, i] = axis.low(self.cells[:, i])
        self._locate()
        self.decoded_nbytes = max([1, *(self.meta.chain(shape).spec.limit for shape in self.plan.shapes)])
        """Of the largest chunk."""

    @abstractmethod
    def together(self, count: int) -> int:
        """How many of `count` chunks a thread takes at a time."""

    @abstractmethod
    def encode(self, rows: Sequence[int], old: Mapping[int, Buffer | None]) -> dict[int, Buffer | None]:
        """The chunks of some rows with their new values. `old`: the encoded bytes so far of those that have
        any and are not written whole. None for one that holds the fill value alone; the old bytes themselves
        if nothing changes."""

    def settle(self) -> None:
        """Look again how large the array is, in one's turn at an object: others may have let it grow."""
        extent = extent_of(self.source)
        if extent != self.extent:
            self.extent = extent
            self._locate()

    @property
    def stored(self) -> tuple[int, ...]:
        """Elements outside of this shape were never stored."""
        return self.extent if self.written is None else self.written

    def _locate(self) -> None:
        self.there = np.all(self.low < np.array(self.stored, np.int64).reshape(1, -1), axis=1)
        """[n]: the chunk may have been stored before."""
        self.whole = self._whole()

    def _whole(self) -> NDArray[np.bool_]:
        """[n]: every element of the chunk that the array has is written."""
        whole = np.ones(len(self.plan), bool)
        for g, group in enumerate(self.groups):
            if isinstance(group, Points):  # may name an element twice
                return np.zeros(len(self.plan), bool)
            axis = self.meta.chunk_grid.axes[group.axis]
            left = self.extent[group.axis] - self.low[:, group.axis]
            held = np.minimum(axis.sizes(self.cells[:, group.axis]), left)
            whole &= self.plan.extent[:, g] == held
        return whole

    def chain(self, row: int) -> Chain:
        """The codecs of a row's chunk."""
        return self.meta.chain(self.plan.shapes[self.plan.shape[row]])

    def blank(self, row: int) -> Buffer:
        """A row's chunk, encoded, that holds the fill value alone."""
        spec = self.chain(row).spec
        chunk = np.empty(spec.shape, spec.dtype)
        chunk[...] = self.fill
        return encoded(self.chain(row), chunk, False)

    def covers(self, row: int) -> bool:
        """Whether a row's piece is its whole chunk."""
        return bool(self.whole[row]) and self._inside(row) == self.plan.shapes[self.plan.shape[row]]

    def _inside(self, row: int) -> tuple[int, ...]:
        """The shape of a row's piece, for spans."""
        return tuple(self.plan.extent[row].tolist())

    def base(
        self, row: int, old: Buffer | None, memory: NDArray[np.uint8] | None = None
    ) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """What a row's piece is written into: the chunk's values so far, and the fill value where it has none
        or nothing was ever written; in `memory`, where that is given. And the values alone, where there are
        any."""
        spec, before = self.chain(row).spec, None
        if memory is None:
            chunk = np.empty(spec.shape, spec.dtype)
        else:
            chunk = memory.view(spec.dtype).reshape(spec.shape)
        if old is None or self.whole[row] or not self.there[row]:
            chunk[...] = self.fill
            return chunk, None
        self.source.check_encoded(memoryview(old).nbytes, spec.shape)
        chunk[...] = before = self.chain(row).decode(old)
        ends = () if self.written is None else (np.array(self.written, np.int64) - self.low[row]).tolist()
        for axis, left in enumerate(ends):
            if left < spec.shape[axis]:
                chunk[(slice(None),) * axis + (slice(left, None),)] = self.fill
        return chunk, before

    def located(self, error: GpuzarrError, row: int) -> GpuzarrError:
        """The error with the array's name and the key of the object that a row is in."""
        cell = [axis.chunk_of(self.low[row, i]) for i, axis in enumerate(self.meta.grid.axes)]
        return self.source.located(error, self.source.key([int(i) for i in cell]))


class HostUpdate(Update):
    """A write of values in host memory: chunk by chunk, on many threads.

    `flat`: carriers, of the selection's flat shape. `lazy`: chunks that have their new values already stay.
    """

    def __init__(
        self,
        source: Source,
        selection: Selection,
        flat: NDArray[Any],
        stats: WriteStats,
        written: tuple[int, ...] | None = None,
        lazy: bool = False,
    ) -> None:
        super().__init__(source, selection, stats, written)
        self.flat, self.lazy = flat, lazy
        self.steps = [group.step for group in self.groups if isinstance(group, Span)]
        self.simple = len(self.steps) == len(self.groups)

    def together(self, count: int) -> int:
        """So few that all threads end together, so many that small chunks are worth the turn."""
        share = count // (4 * config.current().threads)
        return max(min(_TOGETHER // self.decoded_nbytes, share, 256), 1)

    def encode(self, rows: Sequence[int], old: Mapping[int, Buffer | None]) -> dict[int, Buffer | None]:
        """See `Update`."""
        made: dict[int, Buffer | None] = {}
        lent = len(rows) == 1 and not self.meta.levels  # stored before this thread encodes another
        for row in rows:
            try:
                made[row] = self._encode(row, old.get(row), lent)
            except GpuzarrError as error:
                self.located(error, row)
                raise
        return made

    def _encode(self, row: int, old: Buffer | None, lent: bool) -> Buffer | None:
        chain = self.chain(row)
        box, landing = self._box(row)
        piece: NDArray[Any] = self.flat[landing]
        before: NDArray[Any] | None = None
        if self.covers(row):
            chunk = piece
        else:
            memory = scratch().laid_out(chain) if chain.plain else None
            chunk, before = self.base(row, old, memory)
            chunk[box] = piece
        if self.lazy and before is not None and same_bits(before, chunk):
            return old
        if not self.keep_empty and self._is_fill(chunk):
            self.stats.add(empty=1)
            return None
        self.stats.add(chunks=1, read=int(before is not None))
        return encoded(chain, chunk, lent)

    def _box(self, row: int) -> tuple[Any, Any]:
        """The piece's index in its chunk and in the flat values."""
        plan = self.plan
        extent, chunk_lo = plan.extent[row].tolist(), plan.chunk_lo[row].tolist()
        out_lo = plan.out_lo[row].tolist()
        if self.simple:  # spans come in the order of axes
            columns = zip(chunk_lo, extent, self.steps, strict=True)
            inside = tuple([slice(lo, lo + (n - 1) * step + 1, step) for lo, n, step in columns])
            landing = tuple([slice(lo, lo + n) for lo, n in zip(out_lo, extent, strict=True)])
            return inside or ..., landing or ...
        meshes: list[Any] = [np.zeros(1, np.int64)] * len(self.meta.shape)
        places: list[NDArray[np.int64]] = []
        for g, (group, table) in enumerate(zip(self.groups, plan.points, strict=True)):
            along = [1] * len(self.groups)
            along[g] = n = extent[g]
            if isinstance(group, Span):
                meshes[group.axis] = (chunk_lo[g] + group.step * np.arange(n)).reshape(along)
                places.append((out_lo[g] + np.arange(n)).reshape(along))
            elif table is not None:
                for axis, at in zip(group.axes, table.inside, strict=True):
                    meshes[axis] = at[chunk_lo[g] : chunk_lo[g] + n].reshape(along)
                places.append(table.landing[out_lo[g] : out_lo[g] + n].reshape(along))
        return tuple(meshes) or ..., tuple(places) or ...

    def _is_fill(self, chunk: NDArray[Any]) -> bool:
        """Whether every value has the bits of the fill value."""
        if chunk.dtype.kind == "O":
            fill = self.fill[()]
            return all(type(one) is type(fill) and one == fill for one in chunk.flat)
        if not chunk.size:
            return True
        corner: tuple[Any, ...] = (..., *[slice(1)] * chunk.ndim)
        if chunk[corner].tobytes() != self.fill.tobytes():  # most chunks show it at once
            return False
        if chunk.dtype.itemsize in (1, 2, 4, 8):
            bits = np.dtype(f"u{chunk.dtype.itemsize}")
            return bool((chunk.view(bits) == self.fill.view(bits)).all())
        return same_bits(chunk, np.broadcast_to(self.fill, chunk.shape))


def same_bits(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two arrays of one shape hold the same values, bit by bit and whatever their byte order."""
    if one.dtype.kind == "O":
        return bool(np.array_equal(one, other))
    other = np.ascontiguousarray(other.astype(one.dtype, copy=False))
    flat = np.ascontiguousarray(one).reshape(-1).view(np.uint8)
    return bool(np.array_equal(flat, other.reshape(-1).view(np.uint8)))


def encoded(chain: Chain, chunk: NDArray[Any], lent: bool) -> Buffer:
    """One chunk, encoded; with `verify` decoded again and compared. `lent`: it may lie in memory that the
    thread uses for its next chunk."""
    memory = scratch().laid_out(chain)
    stored = encode_stages(chain, chain.laid_out(chunk, memory), len(chain.stages))
    if memory is not None and not lent and np.may_share_memory(np.frombuffer(stored, np.uint8), memory):
        stored = np.frombuffer(stored, np.uint8).copy().data
    if config.current().verify:
        check_decodes(chain, stored, chunk)
    return stored


def encode_stages(chain: Chain, value: Buffer | NDArray[Any], count: int) -> Buffer:
    """The encoders of the first `count` stages. Values that one of them does not take are an
    ArgumentError."""
    try:
        return as_bytes(chain.encode_stages(value, count)).data
    except (GpuzarrError, MemoryError):
        raise
    except Exception as error:  # codec libraries raise what they like; here it gets one form
        raise ArgumentError(f"the values cannot be encoded: {error}") from error


def check_decodes(chain: Chain, stored: Buffer, chunk: NDArray[Any]) -> None:
    """Raise unless a chunk that was encoded decodes to its values."""
    if not same_bits(chain.decode(stored), chunk):
        raise ChunkError("a chunk that was encoded does not decode to its values: is a codec lossy?")
