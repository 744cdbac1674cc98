"""Shards are rewritten as wholes: what changes is encoded, what does not keeps its encoded bytes.

    open    the old shard is read, once, where it is written in part; its indexes say where chunks lie
    encode  the chunks that are written, on all threads
    close   old and new chunks in the order of the index, the index, one put

Threads take chunks in the order of shards, so few shards are open at a time, and one large shard keeps all
threads busy. Who encodes the last chunk of a shard closes it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.base import as_bytes
from gpuzarr.codecs.sharding import ABSENT
from gpuzarr.engine.cache import changing
from gpuzarr.engine.source import MODEST_NBYTES, ReadStats
from gpuzarr.engine.turns import give, take
from gpuzarr.engine.update import Update
from gpuzarr.engine.workers import run_all
from gpuzarr.errors import ChangedError, ChunkError, GpuzarrError
from gpuzarr.meta.model import ShardLevel
from gpuzarr.plan.table import Int64s
from gpuzarr.store.base import Buffer, Pieces, Request, WritableStore, conditional

TRIES: Final = 50
"""How often an object is written again because others were quicker."""


def write_shards(update: Update, store: WritableStore) -> None:
    """Every shard that the write touches."""
    meta = update.meta
    objects = np.empty_like(update.low)  # [n, d], the shard of each chunk
    for i, axis in enumerate(meta.grid.axes):
        objects[:, i] = axis.chunk_of(update.low[:, i])
    unique, member = np.unique(objects, axis=0, return_inverse=True)
    member = member.reshape(-1)
    order = np.argsort(member, kind="stable")
    ends = np.cumsum(np.bincount(member, minlength=len(unique)))
    shards = [
        _Shard(update, store, tuple(cell), rows)
        for cell, rows in zip(unique.tolist(), np.split(order, ends[:-1]), strict=True)
    ]
    tasks: list[Callable[[], None]] = []
    for shard in shards:
        many = update.together(len(shard.rows))
        parts = [shard.rows[at : at + many].tolist() for at in range(0, len(shard.rows), many)]
        shard.left = len(parts)
        tasks += [partial(shard.run, part) for part in parts]
    try:
        run_all(tasks)
    finally:  # behind an error some are still open
        for shard in shards:
            shard.release()


@dataclass(slots=True)
class _Node:
    """A shard, or one inside of another, that is being rewritten."""

    level: ShardLevel
    counts: tuple[int, ...]
    old: memoryview | None
    table: Int64s  # [chunks, 2]
    below: dict[int, _Node | int]
    """What changes, by its place in the index: shards, or rows of the write."""


class _Shard:
    def __init__(self, update: Update, store: WritableStore, cell: tuple[int, ...], rows: Int64s) -> None:
        self.update, self.store, self.cell, self.rows = update, store, cell, rows
        self.key = update.source.key(cell)
        self.left = 0
        """Parts that are not done."""
        self.root: _Node | None = None
        self.held: dict[int, memoryview] = {}
        self.made: dict[int, Buffer | None] = {}
        self.taken = self.failed = False
        self.partly = False
        self.version: str | None = None
        """Whether some of it stays, and what version that was read from."""
        self.lock = threading.Lock()

    def run(self, rows: list[int]) -> None:
        """Encode some chunks; the last one who does closes the shard."""
        try:
            with self.lock:
                if self.root is None and not self.failed:
                    self.failed = True
                    self.root = self._open()
                    self.failed = False
            if self.failed:
                return
            made = self.update.encode(rows, self.held)
            with self.lock:
                self.made |= made
                self.left -= 1
                last = self.left == 0
            if last:
                self._close()
        except GpuzarrError as error:
            self.update.source.located(error, self.key)
            raise

    def release(self) -> None:
        """Let others write the shard."""
        if self.taken:
            self.taken = False
            give(self.store, [self.key])
        self.root, self.held, self.made = None, {}, {}

    # ---- what is there

    def _open(self) -> _Node:
        take(self.store, [self.key])
        self.taken = True
        self.update.settle()
        return self._look()

    def _look(self) -> _Node:
        """The shard as it is now, and what of it changes."""
        update, meta = self.update, self.update.meta
        at = np.array(self.cell, np.int64)
        axes = meta.grid.axes
        first = np.array([axis.low(at[i : i + 1])[0] for i, axis in enumerate(axes)], np.int64)
        shape = meta.grid.chunk_shapes(at.reshape(1, -1))[0]
        inner = np.array(meta.levels[-1].chunk_shape, np.int64)
        there = -(-np.minimum(shape, np.array(update.extent, np.int64) - first) // inner)
        old: Buffer | None = None
        written = np.array(update.stored, np.int64)
        partly = prod(there.tolist()) > len(self.rows) or not update.whole[self.rows].all()
        if partly and (first < written).all():
            most = prod((shape // inner).tolist()) * (4 * update.decoded_nbytes + 64) + MODEST_NBYTES

            def place(_: int, nbytes: int) -> memoryview:
                if nbytes > most:
                    raise ChunkError(f"a shard of {nbytes} bytes, which could need {most}", chunk=self.key)
                return memoryview(bytearray(nbytes))

            if conditional(self.store) is not None:
                (found,) = update.source.fetch_versioned([Request(self.key)], ReadStats(), place)
                self.partly, self.version = True, None if found is None else found.version
                old = None if found is None else found.data
            else:
                (old,) = update.source.fetch([Request(self.key)], ReadStats(), place)
        return self._node(0, first, shape, self.rows, old)

    def _node(self, depth: int, first: Int64s, shape: Int64s, rows: Int64s, old: Buffer | None) -> _Node:
        """The part of the shard from `first` on, `depth` levels in, and what of it the `rows` change."""
        level = self.update.meta.levels[depth]
        axes, size = list(level.axes), np.array(level.chunk_shape, np.int64)
        counts = tuple((shape // size)[axes].tolist())
        table, before = np.full((prod(counts), 2), ABSENT, np.int64), None
        if old is not None:
            before = memoryview(old).cast("B")
            table = _index(level, before, counts)
        node = _Node(level, counts, before, table, {})
        cells = (self.update.low[rows] - first) // size  # [rows, d]
        places = _ravel(cells[:, axes], counts)
        if depth + 1 == len(self.update.meta.levels):
            for place, row in zip(places.tolist(), rows.tolist(), strict=True):
                node.below[place] = row
                held = _held(node, place)
                if held is not None:
                    self.held[row] = held
            return node
        for place in np.unique(places).tolist():
            inside = np.flatnonzero(places == place)
            begin = first + cells[inside[0]] * size
            node.below[place] = self._node(depth + 1, begin, size, rows[inside], _held(node, place))
        return node

    # ---- what comes of it

    def _close(self) -> None:
        for _ in range(TRIES):
            assert self.root is not None
            if self.root.old is not None and all(self.made[row] is self.held.get(row) for row in self.made):
                self.release()  # nothing changed
                return
            # Objects can be replaced under conditions, not deleted: an empty shard stays.
            pieces = self._pieces(self.root, self.partly and self.version is not None)
            if self._put(pieces):
                break
            self.held.clear()  # another has written it meanwhile
            self.root = self._look()
            self.made = self.update.encode(self.rows.tolist(), self.held)
        else:
            raise ChangedError("others write the same shard all the time", chunk=self.key)
        self.release()
        nbytes = sum(memoryview(piece).nbytes for piece in pieces)
        self.update.stats.add(objects=int(bool(pieces)), removed=int(not pieces), bytes_written=nbytes)

    def _put(self, pieces: Pieces) -> bool:
        """Whether the shard is stored; False if it is another by now."""
        store = self.store
        with changing(store, [self.key]):
            if not pieces:
                if not self.partly:  # else there was none
                    store.delete([self.key])
            elif self.partly and (under_conditions := conditional(store)) is not None:
                return under_conditions.put_if([(self.key, pieces, self.version)])[0]
            else:
                store.put([(self.key, pieces)])
        return True

    def _pieces(self, node: _Node, keep: bool = False) -> Pieces:
        """A shard with its new chunks, in the order of its index; nothing if it has no chunk at all, unless
        it is to be kept."""
        sizes = node.table[:, 1].copy()
        new: dict[int, Pieces] = {}
        for place, below in node.below.items():
            if isinstance(below, _Node):
                new[place] = self._pieces(below)
            else:
                stored = self.made[below]
                new[place] = [] if stored is None else [stored]
            nbytes = sum(memoryview(piece).nbytes for piece in new[place])
            sizes[place] = nbytes if new[place] else ABSENT
        present = sizes != ABSENT
        if not present.any() and not keep:
            return []
        index_nbytes = node.level.index.nbytes(node.counts)
        start = np.cumsum(np.where(present, sizes, 0)) - np.where(present, sizes, 0)
        start += index_nbytes if node.level.index.location == "start" else 0
        made = np.where(present[:, None], np.stack((start, sizes), axis=1), ABSENT)
        pieces = list(_in_order(node, present, new))
        self.update.stats.add(kept=int(present.sum()) - sum(map(bool, new.values())))
        entries = made.view(np.uint64).reshape(*node.counts, 2)
        index = as_bytes(node.level.index.chain(node.counts).encode(entries)).data
        if index.nbytes != index_nbytes:
            raise ChunkError("the shard index changed its size", codec="sharding_indexed")
        return [index, *pieces] if node.level.index.location == "start" else [*pieces, index]


def _in_order(node: _Node, present: NDArray[np.bool_], new: dict[int, Pieces]) -> Pieces:
    """The chunks of a shard. Old ones that lie behind one another are one piece."""
    pieces: Pieces = []
    changed = np.zeros(len(present), bool)
    changed[list(new)] = True
    kept = np.flatnonzero(present & ~changed)
    runs: dict[int, tuple[int, int]] = {}
    if len(kept):
        start, nbytes = node.table[kept, 0], node.table[kept, 1]
        between = np.cumsum(changed)[kept]  # a new chunk ends a run
        ends = (start[1:] != start[:-1] + nbytes[:-1]) | (between[1:] != between[:-1])
        lo = np.concatenate(([0], np.flatnonzero(ends) + 1))
        hi = np.append(lo[1:], len(kept)) - 1
        stops = start[hi] + nbytes[hi]
        runs = dict(zip(kept[lo].tolist(), zip(start[lo].tolist(), stops.tolist(), strict=True), strict=True))
    for place in sorted(runs.keys() | new.keys()):
        if place in new:
            pieces += new[place]
        elif node.old is not None:
            pieces.append(node.old[slice(*runs[place])])
    return pieces


def _held(node: _Node, place: int) -> memoryview | None:
    """The encoded bytes of the chunk at a place of the index."""
    start, nbytes = node.table[place].tolist()
    return None if node.old is None or nbytes == ABSENT else node.old[start : start + nbytes]


def _ravel(cells: Int64s, counts: tuple[int, ...]) -> Int64s:
    place = np.zeros(len(cells), np.int64)
    for axis, count in enumerate(counts):
        place = place * count + cells[:, axis]
    return place


def _index(level: ShardLevel, shard: memoryview, counts: tuple[int, ...]) -> Int64s:
    size = level.index.nbytes(counts)
    if len(shard) < size:
        what = f"a shard of {len(shard)} bytes has no room for its index of {size}"
        raise ChunkError(what, codec="sharding_indexed")
    stored = shard[:size] if level.index.location == "start" else shard[len(shard) - size :]
    return level.index.parse(stored, counts, len(shard))
