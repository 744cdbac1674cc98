"""One write, as every chunk of it sees it: which part is new, what is there already, what comes of both."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gpuzarr import config
from gpuzarr.codecs.base import as_bytes
from gpuzarr.codecs.chain import Chain
from gpuzarr.engine.source import Source
from gpuzarr.engine.stats import WriteStats
from gpuzarr.errors import ArgumentError, ChunkError, GpuzarrError
from gpuzarr.plan.pieces import plan_pieces
from gpuzarr.selection import Points, Selection, Span
from gpuzarr.store.base import Buffer

_TOGETHER: Final = 256 << 10
"""Decoded bytes that a thread encodes at a time."""


class Update:
    """The table of pieces of a write, and the values. Shared by all threads.

    `flat`: carriers, of the selection's flat shape. `written`: elements outside of this shape are nobody's,
    and count as fill values whatever is stored. `lazy`: chunks that have their new values already stay.
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
        self.source, self.meta, self.flat, self.stats, self.lazy = source, source.meta, flat, stats, lazy
        self.written = source.meta.shape if written is None else written
        self.plan, cells = plan_pieces(selection, source.meta.chunk_grid)
        self.cells = cells.cells  # [n, d]
        self.groups = selection.groups
        self.fill = source.meta.carried_fill
        self.keep_empty = bool(config.current().write_empty_chunks)
        axes = source.meta.chunk_grid.axes
        self.low = np.empty_like(self.cells)  # [n, d], the first element of each chunk
        for i, axis in enumerate(axes):
            self.low[:, i] = axis.low(self.cells[:, i])
        self.there = np.all(self.low < np.array(self.written, np.int64).reshape(1, -1), axis=1)
        """[n]: the chunk may have been stored before."""
        self.whole = self._whole()
        self.steps = [group.step for group in self.groups if isinstance(group, Span)]
        self.simple = len(self.steps) == len(self.groups)

        self.decoded_nbytes = max([1, *(self.meta.chain(shape).spec.limit for shape in self.plan.shapes)])
        """Of the largest chunk."""

    def together(self, count: int) -> int:
        """How many of `count` chunks a thread takes at a time: so few that all threads end together, so many
        that small chunks are worth the turn."""
        share = count // (4 * config.current().threads)
        return max(min(_TOGETHER // self.decoded_nbytes, share, 256), 1)

    def _whole(self) -> NDArray[np.bool_]:
        """[n]: every element of the chunk that the array has is written."""
        whole = np.ones(len(self.plan), bool)
        for g, group in enumerate(self.groups):
            if isinstance(group, Points):  # may name an element twice
                return np.zeros(len(self.plan), bool)
            axis = self.meta.chunk_grid.axes[group.axis]
            held = np.minimum(axis.sizes(self.cells[:, group.axis]), axis.length - self.low[:, group.axis])
            whole &= self.plan.extent[:, g] == held
        return whole

    def encoded(self, row: int, old: Buffer | None) -> Buffer | None:
        """The chunk of a row with its new values. `old`: its encoded bytes so far, where it has any and is
        not written whole. None if it holds the fill value alone; `old` itself if nothing changes."""
        chain = self.meta.chain(self.plan.shapes[self.plan.shape[row]])
        chunk, before = self._updated(row, chain, old)
        if self.lazy and before is not None and same_bits(before, chunk):
            return old
        if not self.keep_empty and self._is_fill(chunk):
            self.stats.add(empty=1)
            return None
        self.stats.add(chunks=1, read=int(before is not None))
        return encoded(chain, chunk)

    def _updated(
        self, row: int, chain: Chain, old: Buffer | None
    ) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """The chunk's values, and those that it had. What lies beyond the array's end, or was never written,
        is the fill value."""
        spec, (box, landing) = chain.spec, self._box(row)
        before: NDArray[Any] | None = None
        if self.whole[row]:
            piece: NDArray[Any] = self.flat[landing]
            if piece.shape == spec.shape:
                return piece, None
        elif old is not None and self.there[row]:
            self.source.check_encoded(memoryview(old).nbytes, spec.shape)
            before = chain.decode(old)
        chunk = np.empty(spec.shape, spec.dtype)
        chunk[...] = self.fill if before is None else before
        if before is not None:
            for axis, left in enumerate((np.array(self.written, np.int64) - self.low[row]).tolist()):
                if left < spec.shape[axis]:
                    chunk[(slice(None),) * axis + (slice(left, None),)] = self.fill
        chunk[box] = self.flat[landing]
        return chunk, before

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


def encoded(chain: Chain, chunk: NDArray[Any]) -> Buffer:
    """One chunk, encoded; with `verify` decoded again and compared."""
    try:
        stored = as_bytes(chain.encode(chunk)).data
    except GpuzarrError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # codec libraries raise what they like; here it gets one form
        raise ArgumentError(f"the values cannot be encoded: {error}") from error
    if config.current().verify and not same_bits(chain.decode(stored), chunk):
        raise ChunkError("a chunk that was encoded does not decode to its values: is a codec lossy?")
    return stored
