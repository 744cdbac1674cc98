"""The write, top to bottom: the same table of pieces as for a read, walked the other way.

    values ─pieces→ chunks   whole ones are not read; the others are read, decoded and updated
    chunks ─encode→ objects  a chunk, or a shard that is assembled once a call
    objects ─put→ store      each appears whole or not at all

A chunk whose bits are all the fill value's is left out, and removed where there was one, unless
`write_empty_chunks` is set. Inner chunks of a shard that a write does not touch keep their encoded bytes.

Writers of one process take turns at an object. Between processes nobody takes turns: two that write parts of
one chunk or shard at the same time may lose one of the parts, never more than that.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gpuzarr import config
from gpuzarr.codecs.base import as_bytes
from gpuzarr.codecs.chain import Chain
from gpuzarr.codecs.sharding import ABSENT
from gpuzarr.engine.source import ReadStats, Source
from gpuzarr.engine.workers import run_all
from gpuzarr.errors import ArgumentError, ChunkError, GpuzarrError, LimitError, ReadOnlyError
from gpuzarr.plan.pieces import plan_pieces
from gpuzarr.plan.table import Int64s, Plan
from gpuzarr.selection import Points, Selection, Span
from gpuzarr.store.base import Buffer, Request, WritableStore

_STRIPES: Final = 256
_turns = [threading.Lock() for _ in range(_STRIPES)]
"""An object's lock is that of its name's hash."""


@dataclass(slots=True)
class WriteStats:
    """What writes cost, added up. Pass one to `Array.write`; it may be passed to many writes."""

    chunks: int = 0
    """Chunks encoded."""
    read: int = 0
    """Of these, read and decoded first, since they were written in part."""
    kept: int = 0
    """Inner chunks whose encoded bytes were taken over."""
    empty: int = 0
    """Chunks left out or removed, since they hold the fill value alone."""
    objects: int = 0
    """Objects stored."""
    removed: int = 0
    """Objects deleted."""
    bytes_written: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, **counts: int) -> None:
        """Add to the counts by name."""
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)


def write(
    source: Source,
    selection: Selection,
    values: Any,
    stats: WriteStats,
    written: tuple[int, ...] | None = None,
) -> None:
    """Set the selected elements. `values` are broadcast to the selection's shape and cast to the array's
    type. `written`: objects that lie wholly outside of this shape are nobody's, and are not read. Behind an
    error some objects have the new values, the others the old ones."""
    try:
        flat = _flat(source, selection, values)
        if selection.size:
            _Write(source, selection, flat, stats, written).run()
    except GpuzarrError as error:
        source.located(error)
        raise
    except MemoryError as error:
        raise LimitError(f"out of memory: {error}", array=source.name, hint="write it in parts") from error


def writable(source: Source) -> WritableStore:
    """The store, if it can be written."""
    if not isinstance(source.store, WritableStore):
        raise ReadOnlyError(f"{source.store.url} cannot be written", array=source.name)
    return source.store


def _flat(source: Source, selection: Selection, values: Any) -> NDArray[Any]:
    """The values as carriers, in the flat form of the selection, without copying more than a cast does."""
    dtype, carrier = source.meta.dtype, source.meta.carrier
    if hasattr(values, "__cuda_array_interface__") and hasattr(values, "get"):
        values = values.get()
    if carrier.kind == "O":
        given = np.asarray(values, object)
    else:
        given = np.asarray(values)
        if given.dtype != dtype:
            text = given.dtype.kind in "SUTOV" or dtype.kind in "SUTOV"
            if text and not np.can_cast(given.dtype, dtype, "same_kind"):
                raise ArgumentError(f"{given.dtype} values cannot be written to an array of {dtype}")
            given = given.astype(dtype)
        given = given.view(carrier) if given.dtype != carrier else given
    if given.ndim == 0:
        return np.broadcast_to(given, selection.flat_shape)
    try:
        whole = np.broadcast_to(given, selection.result_shape)
    except ValueError as error:
        raise ArgumentError(
            f"values of shape {given.shape} do not fit a selection of shape {selection.result_shape}"
        ) from error
    return whole.reshape(selection.flat_shape)[selection.flips]


class _Write:
    def __init__(
        self,
        source: Source,
        selection: Selection,
        flat: NDArray[Any],
        stats: WriteStats,
        written: tuple[int, ...] | None,
    ) -> None:
        self.source, self.meta, self.flat, self.stats = source, source.meta, flat, stats
        self.store = writable(source)
        self.plan, cells = plan_pieces(selection, source.meta.chunk_grid)
        self.cells = cells.cells
        self.groups = selection.groups
        self.whole = self._whole(self.plan)
        self.fill = source.meta.carried_fill
        self.written = source.meta.shape if written is None else written
        self.keep_empty = bool(config.current().write_empty_chunks)

    def _whole(self, plan: Plan) -> NDArray[np.bool_]:
        """[n]: every element of the chunk that the array has is written."""
        whole = np.ones(len(plan), bool)
        for g, group in enumerate(self.groups):
            if isinstance(group, Points):  # may name an element twice
                return np.zeros(len(plan), bool)
            axis = self.meta.chunk_grid.axes[group.axis]
            cell = self.cells[:, group.axis]
            there = np.minimum(axis.sizes(cell), axis.length - axis.low(cell))
            whole &= plan.extent[:, g] == there
        return whole

    def run(self) -> None:
        """Object by object, several at a time."""
        if not self.meta.levels:
            decoded = self.meta.chain(self.plan.shapes[0]).spec.limit if self.plan.shapes else 1
            many = max(min(config.current().bundle_nbytes // max(decoded, 1), 256), 1)
            rows = range(len(self.plan))
            run_all([partial(self._chunks, rows[at : at + many]) for at in range(0, len(rows), many)])
            return
        first = self.cells * np.array(self.meta.levels[-1].chunk_shape, np.int64)
        objects = np.stack(
            [axis.chunk_of(first[:, i]) for i, axis in enumerate(self.meta.grid.axes)], axis=1
        ).reshape(len(first), -1)
        unique, member = np.unique(objects, axis=0, return_inverse=True)
        order = np.argsort(member.reshape(-1), kind="stable")
        ends = np.cumsum(np.bincount(member.reshape(-1), minlength=len(unique)))
        parts = np.split(order, ends[:-1])
        shards = zip(unique.tolist(), parts, strict=True)
        run_all([partial(self._shard, tuple(cell), part) for cell, part in shards])

    # ---- chunks that are objects

    def _chunks(self, rows: Sequence[int]) -> None:
        keys = {row: self.source.key(self.plan.objects[self.plan.key[row]].tolist()) for row in rows}
        turns = sorted({hash((self.store.url, key)) % _STRIPES for key in keys.values()})
        for turn in turns:
            _turns[turn].acquire()
        try:
            partly = [row for row in rows if not self.whole[row] and self._there(self.cells[row])]
            old = dict(zip(partly, self._get([Request(keys[row]) for row in partly]), strict=True))
            put: list[tuple[str, Buffer]] = []
            gone: list[str] = []
            for row in rows:
                try:
                    stored = self._chunk(row, old.get(row))
                except GpuzarrError as error:
                    self.source.located(error, keys[row])
                    raise
                if stored is None:
                    gone.append(keys[row])
                else:
                    put.append((keys[row], stored))
            self._store(put, gone)
        finally:
            for turn in reversed(turns):
                _turns[turn].release()

    def _there(self, cell: Int64s) -> bool:
        """Whether somebody may have written the object at grid coordinates `cell`."""
        at = [axis.low(cell[i : i + 1])[0] for i, axis in enumerate(self.meta.grid.axes)]
        return all(low < n for low, n in zip(at, self.written, strict=True))

    def _get(self, requests: list[Request]) -> list[Buffer | None]:
        return self.source.fetch(requests, ReadStats()) if requests else []

    def _store(self, put: list[tuple[str, Buffer]], gone: list[str]) -> None:
        if put:
            self.store.put(put)
        if gone:
            self.store.delete(gone)
        nbytes = sum(memoryview(value).nbytes for _, value in put)
        self.stats.add(objects=len(put), removed=len(gone), bytes_written=nbytes)

    def _chunk(self, row: int, old: Buffer | None) -> Buffer | None:
        """A chunk with its new values, encoded; None if it holds the fill value alone."""
        chain = self.meta.chain(self.plan.shapes[self.plan.shape[row]])
        chunk = self._updated(row, chain, old)
        if not self.keep_empty and self._is_fill(chunk):
            self.stats.add(empty=1)
            return None
        self.stats.add(chunks=1)
        return encoded(chain, chunk)

    def _updated(self, row: int, chain: Chain, old: Buffer | None) -> NDArray[Any]:
        """The chunk's values. What lies beyond the array's end, or was never written, is the fill value."""
        spec, box, landing = chain.spec, *self._box(row)
        if self.whole[row]:
            piece: NDArray[Any] = self.flat[landing]
            if piece.shape == spec.shape:
                return piece
            chunk = np.full(spec.shape, self.fill, spec.dtype)
        elif old is None:
            chunk = np.full(spec.shape, self.fill, spec.dtype)
        else:
            decoded = chain.decode(old)
            chunk = np.array(decoded, spec.dtype, order="C", copy=True)
            self.stats.add(read=1)
        chunk[box] = self.flat[landing]
        return chunk

    def _box(self, row: int) -> tuple[Any, Any]:
        """The piece's index in its chunk and in the flat values."""
        plan = self.plan
        extent, chunk_lo, out_lo = (
            column[row].tolist() for column in (plan.extent, plan.chunk_lo, plan.out_lo)
        )
        ndim = len(self.meta.shape)
        if all(isinstance(group, Span) for group in self.groups):
            inside: list[Any] = [slice(None)] * ndim
            order = [group.axis for group in self.groups if isinstance(group, Span)]
            for group, lo, n in zip(self.groups, chunk_lo, extent, strict=True):
                if isinstance(group, Span):
                    inside[group.axis] = slice(lo, lo + (n - 1) * group.step + 1, group.step)
            landing = tuple(slice(lo, lo + n) for lo, n in zip(out_lo, extent, strict=True))
            if order == sorted(order):
                return tuple(inside) or ..., landing or ...
        meshes: list[Any] = [np.zeros(1, np.int64)] * ndim
        places: list[Int64s] = []
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
            return bool(np.all(chunk == self.fill))
        first = chunk[(0,) * chunk.ndim] if chunk.size else self.fill
        if np.asarray(first).tobytes() != self.fill.tobytes():  # most chunks show it at once
            return False
        if chunk.dtype.kind in "biumM":
            return bool((chunk == self.fill).all())
        flat = np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).reshape(-1, chunk.dtype.itemsize)
        return bool((flat == np.frombuffer(self.fill.tobytes(), np.uint8)).all())

    # ---- shards

    def _shard(self, cell: tuple[int, ...], rows: Int64s) -> None:
        key = self.source.key(cell)
        with _turns[hash((self.store.url, key)) % _STRIPES]:
            meta = self.meta
            at = np.array(cell, np.int64)
            first = np.array([axis.low(at[i : i + 1])[0] for i, axis in enumerate(meta.grid.axes)], np.int64)
            shape = meta.grid.chunk_shapes(np.array([cell], np.int64).reshape(1, -1))[0]
            inner = np.array(meta.levels[-1].chunk_shape, np.int64)
            there = -(-np.minimum(shape, np.array(meta.shape) - first) // inner)
            of = {tuple(one): row for one, row in zip(self.cells[rows].tolist(), rows.tolist(), strict=True)}
            old: Buffer | None = None
            partly = prod(there.tolist()) > len(rows) or not self.whole[rows].all()
            if partly and self._there(at):
                (old,) = self._get([Request(key)])
            try:
                stored = self._assemble(0, first, shape, of, old)
            except GpuzarrError as error:
                self.source.located(error, key)
                raise
            self._store([(key, stored)] if stored is not None else [], [] if stored is not None else [key])
            self.source.indexes.forget(key)

    def _assemble(
        self, depth: int, first: Int64s, shape: Int64s, of: dict[tuple[int, ...], int], old: Buffer | None
    ) -> Buffer | None:
        """A shard, whose first element is `first`, with its new chunks; None if it has none at all."""
        level, inner = self.meta.levels[depth], np.array(self.meta.levels[-1].chunk_shape, np.int64)
        size = np.array(level.chunk_shape, np.int64)
        axes = list(level.axes)
        counts = tuple((shape // size)[axes].tolist())
        table = np.full((prod(counts), 2), ABSENT, np.int64)
        before: memoryview | None = None
        if old is not None:
            before = memoryview(old).cast("B")
            table = self._index(depth, before, counts)
        parts: list[Buffer] = []
        made = np.full((prod(counts), 2), ABSENT, np.int64)
        chain = level.index.chain(counts)
        at = index_nbytes = level.index.nbytes(counts)
        at = at if level.index.location == "start" else 0
        for i, place in enumerate(np.ndindex(counts)):
            child = np.empty(len(counts), np.int64)
            child[axes] = place
            begin = first + child * size
            lowest = begin // inner
            start, nbytes = table[i].tolist()
            held = None if before is None or nbytes == ABSENT else before[start : start + nbytes]
            stored: Buffer | None
            if depth + 1 < len(self.meta.levels):
                highest = lowest + size // inner
                within = {one: row for one, row in of.items() if _inside(one, lowest, highest)}
                stored = held if not within else self._assemble(depth + 1, begin, size, within, held)
                touched = bool(within)
            else:
                row = of.get(tuple(lowest.tolist()))
                touched = row is not None
                stored = held if row is None else self._chunk(row, held)
            if stored is None:
                continue
            if not touched:
                self.stats.add(kept=1)
            made[i] = at, memoryview(stored).nbytes
            at += int(made[i, 1])
            parts.append(stored)
        if not parts:
            return None
        index = as_bytes(chain.encode(made.view(np.uint64).reshape(*counts, 2))).data
        if index.nbytes != index_nbytes:
            raise ChunkError("the shard index changed its size", codec="sharding_indexed")
        return b"".join([index, *parts] if level.index.location == "start" else [*parts, index])

    def _index(self, depth: int, shard: memoryview, counts: tuple[int, ...]) -> Int64s:
        level = self.meta.levels[depth]
        size = level.index.nbytes(counts)
        if len(shard) < size:
            raise ChunkError(
                f"a shard of {len(shard)} bytes has no room for its index of {size}", codec="sharding_indexed"
            )
        stored = shard[:size] if level.index.location == "start" else shard[len(shard) - size :]
        return level.index.parse(stored, counts, len(shard))


def _inside(cell: tuple[int, ...], low: Int64s, high: Int64s) -> bool:
    return all(lo <= at < hi for at, lo, hi in zip(cell, low.tolist(), high.tolist(), strict=True))


def encoded(chain: Chain, chunk: NDArray[Any]) -> Buffer:
    """One chunk, encoded; with `verify` decoded again and compared."""
    try:
        stored = as_bytes(chain.encode(chunk)).data
    except GpuzarrError:
        raise
    except Exception as error:  # codec libraries raise what they like; here it gets one form
        raise ChunkError(f"cannot encode: {error}") from error
    if config.current().verify:
        again = chain.decode(stored)
        same = (
            np.array_equal(again, chunk)
            if chunk.dtype.kind == "O"
            else np.ascontiguousarray(again).astype(chunk.dtype, copy=False).tobytes() == chunk.tobytes()
        )
        if not same:
            raise ChunkError("a chunk that was encoded does not decode to its values: is a codec lossy?")
    return stored
