"""Decoded chunks that are kept: a cache for host memory and one for each device, shared by all handles of
the process.

    entry    a chunk as it is decoded, in its stored layout; or that it is not stored
    limit    bytes; the least recently used goes first
    exact    what this process writes or deletes is forgotten, also while it is being read; what other
             processes write is not seen

Reads go through it only when asked. An entry that is dropped while a read uses it is freed afterwards.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gpuzarr import config
from gpuzarr.codecs.base import pitch_of
from gpuzarr.device.base import Device, DeviceBuffer
from gpuzarr.engine.source import Source
from gpuzarr.plan.pieces import Cells
from gpuzarr.plan.shards import At, index_caches
from gpuzarr.plan.table import Plan
from gpuzarr.store.base import Store, place_of
from gpuzarr.store.caching import trust

Key = tuple[object, str, tuple[int, ...], str]
"""The object, in two parts (store/base.py, `place_of`); the chunk's grid coordinates; how it is laid out."""

_WEIGHT: Final = 256  # bytes of an entry itself
_SLAB_NBYTES: Final = 64 << 20
_REMEMBERED: Final = 1 << 16  # objects of which it is known when they were forgotten


class Slab:
    """Device memory in slots of one size."""

    def __init__(self, device: Device, pitch: int, slots: int) -> None:
        self.array = device.empty_array((pitch * slots,), np.dtype("u1"))
        self.buffer, self.base, _ = device.memory(self.array)
        self.pitch = pitch
        self.free = list(range(slots))
        self.slots = slots


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Slot:
    """Memory of one chunk on a device. It is free again when nobody refers to it."""

    slab: Slab
    offset: int
    nbytes: int

    @property
    def buffer(self) -> DeviceBuffer:
        """What it lies in."""
        return self.slab.buffer


class Slabs:
    """The device memory of one cache."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._slabs: dict[int, list[Slab]] = {}
        self._lock = threading.RLock()  # a slot may be freed by the garbage collector, within `take`

    def take(self, nbytes: int, limit: int) -> Slot:
        """A slot for a chunk of `nbytes` bytes."""
        pitch = pitch_of(nbytes)
        with self._lock:
            slabs = self._slabs.setdefault(pitch, [])
            slab = next((one for one in slabs if one.free), None)
            if slab is None:
                slots = max(min(_SLAB_NBYTES, limit // 8) // pitch, 1)
                slab = Slab(self.device, pitch, slots)
                slabs.append(slab)
            at = slab.free.pop()
        slot = Slot(slab, slab.base + at * pitch, nbytes)
        weakref.finalize(slot, self._give_back, slab, at).atexit = False
        return slot

    def _give_back(self, slab: Slab, at: int) -> None:
        with self._lock:
            slab.free.append(at)
            if len(slab.free) == slab.slots:  # nobody uses it: the device has its memory back
                self._slabs[slab.pitch].remove(slab)


Entry = NDArray[Any] | Slot | None
"""None: the chunk is not stored."""


class ChunkCache:
    """See the module. Safe between threads."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self.version = 0
        """Grows when something is forgotten."""
        self._held: OrderedDict[Key, Entry] = OrderedDict()
        self._objects: dict[tuple[object, str], set[Key]] = {}
        self._forgotten: OrderedDict[int, int] = OrderedDict()
        """By the object's hash, so that nothing is kept alive: another object's forgetting does no harm."""
        self._floor = 0
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._held)

    def find(self, keys: Sequence[Key]) -> tuple[list[Entry], NDArray[np.bool_], int]:
        """The entries under `keys`, which of them there are, and the version to hand to `put`."""
        found: list[Entry] = []
        there = np.zeros(len(keys), bool)
        with self._lock:
            for i, key in enumerate(keys):
                there[i] = key in self._held
                found.append(self._held[key] if there[i] else None)
                if there[i]:
                    self._held.move_to_end(key)
            return found, there, self.version

    def put(self, entries: Iterable[tuple[Key, Entry]], version: int) -> None:
        """Keep chunks that were read after `version` was handed out, unless they were written since."""
        with self._lock:
            for key, entry in entries:
                weight = _weight(entry)
                forgotten = max(self._forgotten.get(hash(key[:2]), 0), self._floor)
                if weight > self.limit or forgotten > version:
                    continue
                self._drop(key)
                self._held[key] = entry
                self._objects.setdefault(key[:2], set()).add(key)
                self.nbytes += weight
            while self.nbytes > self.limit:
                self._drop(next(iter(self._held)))

    def forget(self, places: Iterable[At]) -> None:
        """The objects were written or deleted."""
        with self._lock:
            self.version += 1
            for at in places:
                for key in self._objects.get(at, set()).copy():
                    self._drop(key)
                self._forgotten[hash(at)] = self.version
                self._forgotten.move_to_end(hash(at))
            while len(self._forgotten) > _REMEMBERED:
                self._floor = max(self._forgotten.popitem(last=False)[1], self._floor)

    def forget_below(self, prefix: At) -> None:
        """All objects whose names begin so may have changed."""
        with self._lock:
            self.version += 1
            self._floor = self.version
            for key in [key for key in self._held if key[0] == prefix[0] and key[1].startswith(prefix[1])]:
                self._drop(key)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self.version += 1
            self._floor = self.version
            self._held.clear()
            self._objects.clear()
            self.nbytes = 0

    def _drop(self, key: Key) -> None:
        if key in self._held:
            self.nbytes -= _weight(self._held.pop(key))
            mine = self._objects[key[:2]]
            mine.discard(key)
            if not mine:
                del self._objects[key[:2]]


def _weight(entry: Entry) -> int:
    if entry is None:
        return _WEIGHT
    return _WEIGHT + (pitch_of(entry.nbytes) if isinstance(entry, Slot) else entry.nbytes)


_caches: dict[str, ChunkCache] = {}
_slabs: dict[str, Slabs] = {}
_making = threading.Lock()


def cache_of(device: Device | None) -> ChunkCache:
    """The cache of a device; None: of host memory."""
    settings = config.current()
    name, limit = (
        ("cpu", settings.cache_nbytes) if device is None else (device.name, settings.device_cache_nbytes)
    )
    with _making:
        found = _caches.setdefault(name, ChunkCache(limit))
        found.limit = limit
        return found


def slabs_of(device: Device) -> Slabs:
    """The memory of a device's cache."""
    with _making:
        return _slabs.setdefault(device.name, Slabs(device))


def keys_of(
    source: Source, cells: NDArray[np.int64], shape: NDArray[np.int64], shapes: Sequence[tuple[int, ...]]
) -> list[Key]:
    """The keys of the chunks at `cells` [n, d] of an array's grid of innermost chunks."""
    meta = source.meta
    axes = enumerate(zip(meta.chunk_grid.axes, meta.grid.axes, strict=True))
    objects = [outer.chunk_of(inner.low(cells[:, i])) for i, (inner, outer) in axes]
    layouts = [f"{meta.dtype.str} {meta.codecs!r} {one}" for one in shapes]
    places = np.stack(objects, axis=1).tolist() if objects else [[]] * len(cells)
    rows = zip(places, cells.tolist(), shape.tolist(), strict=True)
    return [
        (*place_of(source.store, source.key(place)), tuple(cell), layouts[one]) for place, cell, one in rows
    ]


@contextmanager
def changing(store: Store, names: Iterable[str]) -> Iterator[None]:
    """Objects are written or deleted within: whatever comes of it, nobody of this process has them any more
    afterwards, neither decoded, nor in an index of shards, nor as they were stored."""
    places = [place_of(store, name) for name in names]
    try:
        yield
    finally:
        trust.forget(places)
        for cache in list(_caches.values()):
            cache.forget(places)
        for indexes in index_caches():
            for at in places:
                indexes.forget(at)


@contextmanager
def changing_below(store: Store, prefix: str) -> Iterator[None]:
    """The same for all objects whose keys begin with `prefix`."""
    at = place_of(store, prefix)
    try:
        yield
    finally:
        trust.forget_below(at)
        for cache in list(_caches.values()):
            cache.forget_below(at)
        for indexes in index_caches():
            indexes.forget_below(at)


class Known:
    """The part of the cache in one read: what it has, and what it is to keep."""

    def __init__(self, cache: ChunkCache, keys: list[Key], plan: Plan) -> None:
        self.cache, self.keys, self.plan = cache, keys, plan
        self.entries, self.there, self.version = cache.find(keys)
        self.new: dict[int, Entry] = {}
        """By the chunk's place in `Pieces`."""
        self._left = cache.limit

    @classmethod
    def of(cls, source: Source, plan: Plan, cells: Cells, device: Device | None) -> Known:
        """For the chunks of a plan that was not resolved yet."""
        return cls(cache_of(device), keys_of(source, cells.cells, plan.shape, plan.shapes), plan)

    @property
    def hits(self) -> list[int]:
        """The chunks that it has."""
        return np.flatnonzero(self.there).tolist()

    def room(self, nbytes: int) -> bool:
        """Whether there is room for a chunk more: no more is held for the cache than it may keep."""
        self._left -= nbytes + _WEIGHT
        return self._left >= 0

    def keep(self) -> None:
        """Hand over what was read."""
        self.cache.put(((self.keys[slot], entry) for slot, entry in self.new.items()), self.version)


def clear() -> None:
    """Forget all decoded chunks, on the host and on devices."""
    for cache in list(_caches.values()):
        cache.clear()


def _child() -> None:
    """A forked child has none of the threads that may hold a lock, and no device."""
    global _making
    _making = threading.Lock()
    _caches.clear()
    _slabs.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_child)
