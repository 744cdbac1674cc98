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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gpuzarr import config
from gpuzarr.codecs.base import pitch_of
from gpuzarr.device.base import Device, DeviceBuffer
from gpuzarr.engine.source import Source
from gpuzarr.plan.pieces import Cells
from gpuzarr.plan.table import Plan
from gpuzarr.store.base import Store

Key = tuple[object, str, tuple[int, ...], str]
"""The store, the object's key, the chunk's grid coordinates, and how it is laid out."""

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
        self._forgotten: OrderedDict[tuple[object, str], int] = OrderedDict()
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
                if weight > self.limit or self._forgotten.get(key[:2], self._floor) > version:
                    continue
                self._drop(key)
                self._held[key] = entry
                self._objects.setdefault(key[:2], set()).add(key)
                self.nbytes += weight
            while self.nbytes > self.limit:
                self._drop(next(iter(self._held)))

    def forget(self, store: object, names: Iterable[str]) -> None:
        """The objects called `names` were written or deleted."""
        with self._lock:
            self.version += 1
            for name in names:
                place = (store, name)
                for key in self._objects.get(place, set()).copy():
                    self._drop(key)
                self._forgotten[place] = self.version
                self._forgotten.move_to_end(place)
            while len(self._forgotten) > _REMEMBERED:
                self._floor = self._forgotten.popitem(last=False)[1]

    def forget_below(self, store: object, prefix: str) -> None:
        """All objects whose keys begin with `prefix` may have changed."""
        with self._lock:
            self.version += 1
            self._floor = self.version
            for key in [key for key in self._held if key[0] == store and key[1].startswith(prefix)]:
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


def keys_of(source: Source, cells: NDArray[np.int64], shapes: Sequence[tuple[int, ...]]) -> list[Key]:
    """The keys of the chunks at `cells` [n, d] of an array's grid of innermost chunks."""
    meta = source.meta
    first = (
        np.stack([axis.low(cells[:, i]) for i, axis in enumerate(meta.chunk_grid.axes)], 1)
        if cells.size
        else cells
    )
    objects = [axis.chunk_of(first[:, i]) for i, axis in enumerate(meta.grid.axes)]
    store = identity(source.store)
    layout = f"{meta.dtype.str} {meta.codecs!r} {shapes!r}"
    places = np.stack(objects, axis=1).tolist() if objects else [[]] * len(cells)
    return [
        (store, source.key(place), tuple(cell), layout)
        for place, cell in zip(places, cells.tolist(), strict=True)
    ]


class Known:
    """The part of the cache in one read: what it has, and what it is to keep."""

    def __init__(self, cache: ChunkCache, keys: list[Key], plan: Plan) -> None:
        self.cache, self.keys, self.plan = cache, keys, plan
        self.entries, self.there, self.version = cache.find(keys)
        self.new: dict[int, Entry] = {}
        """By the chunk's place in `Pieces`."""

    @classmethod
    def of(cls, source: Source, plan: Plan, cells: Cells, device: Device | None) -> Known:
        """For the chunks of a plan that was not resolved yet."""
        return cls(cache_of(device), keys_of(source, cells.cells, plan.shapes), plan)

    @property
    def hits(self) -> list[int]:
        """The chunks that it has."""
        return np.flatnonzero(self.there).tolist()

    def keep(self) -> None:
        """Hand over what was read."""
        self.cache.put(((self.keys[slot], entry) for slot, entry in self.new.items()), self.version)


def identity(store: Store) -> object:
    """What tells a store from others: handles of the same place share it."""
    return getattr(store, "identity", None) or store.url


def forget(store: Store, names: Iterable[str]) -> None:
    """Objects were written or deleted: no cache of this process has them any more."""
    if _caches:
        names = list(names)
        for cache in list(_caches.values()):
            cache.forget(identity(store), names)


def forget_below(store: Store, prefix: str) -> None:
    """The same for all objects whose keys begin with `prefix`."""
    for cache in list(_caches.values()):
        cache.forget_below(identity(store), prefix)


def clear() -> None:
    """Forget all decoded chunks, on the host and on devices."""
    for cache in list(_caches.values()):
        cache.clear()


def _child() -> None:
    """A forked child has none of the threads that may hold a lock, and no device."""
    _caches.clear()
    _slabs.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_child)
