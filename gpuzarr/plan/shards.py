"""Sharding is addressing: shard indexes fill the byte-range columns. Nothing is decoded here but the indexes.

One batched request a level of nesting, for the indexes that are not in the cache. Small shards of which much
is wanted from far away are fetched whole: their index comes with them, and `unpack` fills the columns then.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.sharding import ABSENT as MISSING
from gpuzarr.errors import ChangedError, ChunkError, GpuzarrError
from gpuzarr.meta.model import ArrayMeta, ShardLevel
from gpuzarr.plan.pieces import Cells
from gpuzarr.plan.table import ABSENT, IN_SHARD, WHOLE, Int64s, Plan, unique_rows
from gpuzarr.store.base import Buffer, Request, Versioned

Read = Callable[[Sequence[Request]], list[Versioned | None]]
Index = Int64s | None
"""int64[chunks, 2], offset and size of each; None for a shard that does not exist."""


class Known(NamedTuple):
    """An index, and the version of the shard that it is of, where the store tells versions apart."""

    entries: Index
    version: str | None


At = tuple[object, str]
"""An object, as the whole process names it (store/base.py, `place_of`)."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class IndexCache:
    """Shard indexes of one array handle, least recently used out first. Safe between threads."""

    limit: int
    place: Callable[[str], At]
    """An object's key -> what the process calls it."""
    prefix: str
    """What the keys of the array's objects begin with."""
    nbytes: int = 0
    version: int = 0
    """Grows with every `forget`."""
    _held: OrderedDict[tuple[str, int, int], Known] = field(default_factory=OrderedDict)
    _objects: dict[At, set[tuple[str, int, int]]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def share(self) -> IndexCache:
        """Hear of what other handles write."""
        _caches.add(self)
        return self

    def get(self, shard: tuple[str, int, int]) -> Known | None:
        """The index of a shard, if it is known."""
        with self._lock:
            if shard not in self._held:
                return None
            self._held.move_to_end(shard)
            return self._held[shard]

    def forget(self, at: At) -> None:
        """The object was rewritten, or is about to be."""
        mine = self.place(self.prefix)
        if at[0] != mine[0] or not at[1].startswith(mine[1]):
            return  # another array's
        with self._lock:
            self.version += 1
            for shard in self._objects.pop(at, ()):
                self.nbytes -= _weight(self._held.pop(shard))

    def forget_below(self, prefix: At) -> None:
        """The same for all objects whose names begin so."""
        for at in [at for at in list(self._objects) if at[0] == prefix[0] and at[1].startswith(prefix[1])]:
            self.forget(at)
        with self._lock:
            self.version += 1

    def put(self, shard: tuple[str, int, int], index: Known, version: int) -> None:
        """Keep an index, and forget the oldest ones past the limit. What was read before something was
        forgotten, at an earlier `version`, may be that, and is not kept."""
        at = self.place(shard[0])
        with self._lock:
            if shard in self._held or version != self.version:
                return
            self._held[shard] = index
            self._objects.setdefault(at, set()).add(shard)
            self.nbytes += _weight(index)
            while self.nbytes > self.limit and self._held:
                gone, oldest = self._held.popitem(last=False)
                self.nbytes -= _weight(oldest)
                mine = self._objects[self.place(gone[0])]
                mine.discard(gone)
                if not mine:
                    del self._objects[self.place(gone[0])]


_caches: weakref.WeakSet[IndexCache] = weakref.WeakSet()


def index_caches() -> list[IndexCache]:
    """Those of all handles of sharded arrays in the process."""
    return list(_caches)


def _weight(known: Known) -> int:
    return 256 + (0 if known.entries is None else known.entries.nbytes)


@dataclass(frozen=True, slots=True)
class Whole:
    """When a shard is fetched whole: where a round trip costs more than the bytes that nobody asked for."""

    gap: int
    """Bytes that come in the time of a round trip."""
    most: int
    """Bytes of one shard, decoded."""

    def worth(self, decoded: Int64s, needed: Int64s, total: Int64s) -> NDArray[np.bool_]:
        """[u], for shards of so many decoded bytes, of whose `total` chunks so many are needed. Stored bytes,
        which nobody knows yet, are taken for half as many."""
        wanted: NDArray[np.bool_] = (decoded <= self.most) & (2 * needed >= total)
        return wanted & (decoded * (total - needed) <= 2 * self.gap * total)

    def check(self, nbytes: int, key: str) -> None:
        """Refuse shards far larger than what they can hold."""
        most = 4 * self.most + (16 << 20)
        if nbytes > most:
            raise ChunkError(f"a shard of {nbytes} bytes, which could need {most}", chunk=key)


@dataclass(frozen=True, slots=True)
class Shards:
    """How a handle finds the chunks of its shards."""

    meta: ArrayMeta
    key: Callable[[Sequence[int]], str]
    """Grid coordinates of an object -> its key in the store."""
    read: Read
    size: Callable[[str], int | None]
    cache: IndexCache
    whole: Whole | None = None
    """None: the index is read first."""

    def resolve(self, plan: Plan, cells: Cells) -> Plan:
        """The plan with byte ranges inside shards. A shard that is missing makes its chunks ABSENT."""
        meta = self.meta
        if not meta.levels:
            return plan
        first = (
            np.array(meta.levels[-1].chunk_shape, np.int64) * cells.cells
        )  # [n, d], first element of each chunk
        shard, inside = np.empty_like(first), np.empty_like(first)
        for i, axis in enumerate(meta.grid.axes):
            shard[:, i] = axis.chunk_of(first[:, i])
            inside[:, i] = first[:, i] - axis.low(shard[:, i])
        objects, key = unique_rows(shard)
        plan = replace(plan, objects=objects, key=key, versions=[None] * len(objects))
        shapes = meta.grid.chunk_shapes(objects)
        for level in meta.levels:
            plan = self._level(plan, level, inside // np.array(level.chunk_shape, np.int64), shapes)
            inside = inside % np.array(level.chunk_shape, np.int64)
            shapes = np.broadcast_to(np.array(level.chunk_shape, np.int64), shapes.shape)
        return plan

    def _level(self, plan: Plan, level: ShardLevel, cell: Int64s, shapes: Int64s) -> Plan:
        """Go one level in: rows that point at shards come to point at chunks."""
        present = np.flatnonzero(plan.nbytes != ABSENT)
        place = np.stack((plan.key[present], plan.start[present], plan.nbytes[present]), axis=1)
        shards, member = unique_rows(place)
        counts = shapes[shards[:, 0]] // np.array(level.chunk_shape, np.int64)
        counts = counts[:, list(level.axes)]  # in the order of the index's axes
        strides = np.ones_like(counts)
        for axis in range(counts.shape[1] - 2, -1, -1):
            strides[:, axis] = strides[:, axis + 1] * counts[:, axis + 1]
        entry = (cell[present][:, list(level.axes)] * strides[member]).sum(axis=1)
        whole = np.zeros(len(shards), bool)
        if self.whole is not None and len(self.meta.levels) == 1:
            held = self._held(plan, level, shards, shapes)
            nbytes = held * (prod(level.chunk_shape) * self.meta.carrier.itemsize)
            whole = self.whole.worth(nbytes, np.bincount(member, minlength=len(shards)), held)
        since = self.cache.version
        indexes = self._indexes(plan, level, shards, counts, whole)
        # All indexes behind one another, so that one gather finds every row's entry.
        sizes = np.array([0 if index is None else len(index) for index in indexes], np.int64)
        known = [index for index in indexes if index is not None] or [np.zeros((0, 2), np.int64)]
        entries = np.concatenate([*known, np.full((1, 2), MISSING, np.int64)])
        base = np.cumsum(sizes) - sizes
        at = base[member] + entry
        at[sizes[member] == 0] = len(entries) - 1
        found = entries[at]
        start, nbytes = plan.start.copy(), plan.nbytes.copy()
        start[present] += np.where(found[:, 1] == MISSING, 0, found[:, 0])
        nbytes[present] = np.where(found[:, 1] == MISSING, ABSENT, found[:, 1])
        if not whole.any():
            return replace(plan, start=start, nbytes=nbytes)
        nbytes[whole[member]] = IN_SHARD  # one level, so every row is present
        grids = dict(zip(shards[whole, 0].tolist(), map(tuple, counts[whole].tolist()), strict=True))
        return replace(plan, start=start, nbytes=nbytes, entry=entry, shards=grids, since=since)

    def unpack(
        self,
        plan: Plan,
        first: int,
        last: int,
        key: str,
        body: memoryview,
        version: str | None,
        keep: bool,
    ) -> None:
        """Fill the columns of the rows from `first` to `last` (exclusive), all of one shard, which is `body`:
        byte ranges of it, or ABSENT. `keep` the index in the cache."""
        (level,) = self.meta.levels
        grid = plan.shards[int(plan.key[first])]
        size = level.index.nbytes(grid)
        try:
            stored = body[:size] if level.index.location == "start" else body[max(len(body) - size, 0) :]
            entries = level.index.parse(bytes(stored), grid, len(body))  # the body's memory is not ours
        except GpuzarrError as error:
            error.located(chunk=key, codec="sharding_indexed")
            raise
        if keep:
            self.cache.put((key, 0, WHOLE), Known(entries, version), plan.since)
        assert plan.entry is not None
        found = entries[plan.entry[first:last]]
        missing = found[:, 1] == MISSING
        plan.start[first:last] = np.where(missing, 0, found[:, 0])
        plan.nbytes[first:last] = np.where(missing, ABSENT, found[:, 1])

    def _held(self, plan: Plan, level: ShardLevel, shards: Int64s, shapes: Int64s) -> Int64s:
        """[u], the chunks of each shard that lie in the array: others are not stored."""
        objects = shards[:, 0]
        held = np.ones(len(shards), np.int64)
        for i, axis in enumerate(self.meta.grid.axes):
            left = np.minimum(shapes[objects, i], axis.length - axis.low(plan.objects[objects, i]))
            held *= -(-left // level.chunk_shape[i])
        return held

    def _indexes(
        self, plan: Plan, level: ShardLevel, shards: Int64s, counts: Int64s, whole: NDArray[np.bool_]
    ) -> list[Index]:
        """The index of each of `shards` [u, (key, start, nbytes)]: from the cache, the rest in one batched
        read; None for those that are fetched whole, which `whole` says no more where the index is known.
        Writes down in the plan which versions they are of."""
        rows = shards[:, 0].tolist()
        names = [self.key(cell) for cell in plan.objects[shards[:, 0]].tolist()]
        # The size tells a shard from the first shard inside it, which starts at the same byte.
        places = list(zip(names, *shards[:, 1:].T.tolist(), strict=True))
        before = self.cache.version
        found = [self.cache.get(place) for place in places]
        for i, known in enumerate(found):
            if known is not None:
                whole[i] = False
            elif whole[i]:
                found[i] = Known(None, None)
        missing = [i for i, known in enumerate(found) if known is None]
        grids = [tuple(one) for one in counts.tolist()]
        sizes = {grid: level.index.nbytes(grid) for grid in {grids[i] for i in missing}}
        requests = []
        for i in missing:
            start, nbytes, size = int(shards[i, 1]), int(shards[i, 2]), sizes[grids[i]]
            if level.index.location == "end":
                start = -size if nbytes == WHOLE else start + max(nbytes - size, 0)
            requests.append(Request(names[i], start, size, plan.versions[rows[i]]))

        for i, stored in zip(missing, self.read(requests) if requests else [], strict=True):
            if stored is None:  # a shard that is not there yet may be written any time
                found[i] = Known(None, None)
                continue
            try:
                nbytes = int(shards[i, 2])
                nbytes_known = self.size(names[i]) if nbytes == WHOLE else nbytes
                known = Known(level.index.parse(_there(stored), grids[i], nbytes_known), stored.version)
            except GpuzarrError as error:
                error.located(chunk=names[i], codec="sharding_indexed")
                raise
            self.cache.put(places[i], known, before)
            found[i] = known
        for row, one in zip(rows, found, strict=True):
            assert one is not None
            if plan.versions[row] not in (None, one.version):
                raise ChangedError(f"{self.key(plan.objects[row].tolist())} was replaced while it was read")
            plan.versions[row] = one.version
        return [one.entries for one in found if one is not None]


def _there(stored: Versioned) -> Buffer:
    assert stored.data is not None  # nothing was said to be known
    return stored.data
