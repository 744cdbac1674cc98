"""Byte ranges that are kept in memory: encoded, as they were fetched; least recently used out first."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gpuzarr.errors import ArgumentError
from gpuzarr.store.base import Buffer, Request
from gpuzarr.store.caching.file import Into, Loaded
from gpuzarr.store.caching.ranges import Found, Ranges, Span

_WEIGHT: Final = 512  # bytes of an entry itself


class Kept(Protocol):
    """Bytes that a cache has, and that answer a request."""

    def load(self, into: Into | None = None) -> Loaded | None:
        """The bytes, perhaps in memory that `into` gives; None: they are not there any more."""
        ...


class Cache(Protocol):
    """What keeps byte ranges for a CachedStore. Objects have names, what is kept of them has labels
    (store/caching/trust.py). It never fails: what it cannot keep, it does not have. Safe between threads."""

    @property
    def nbytes(self) -> int:
        """Bytes that it keeps at most, as far as it counts."""
        ...

    def find(self, name: str, label: str, requests: Sequence[Request]) -> list[Kept | None]:
        """What it has of one object, under this label, for each request."""
        ...

    def version(self, name: str) -> str | None:
        """A version of the object of which it has something: one to ask the store about."""
        ...

    def keep(self, name: str, label: str, version: str | None, span: Span, data: Buffer) -> None:
        """Have a copy of these bytes from now on."""
        ...

    def forget(self, name: str, but: str | None = None) -> None:
        """Have nothing of an object, except what is under the label `but`."""
        ...


@dataclass(frozen=True, slots=True)
class _InMemory:
    version: str | None
    whole: bytes
    found: Found

    def load(self, into: Into | None = None) -> Loaded:
        """A view, no copy."""
        return Loaded(self.version, memoryview(self.whole)[self.found.offset :][: self.found.nbytes])


class _Object:
    """What is kept of an object, under one label."""

    __slots__ = ("bytes_of", "label", "ranges")

    def __init__(self, label: str) -> None:
        self.label = label
        self.ranges = Ranges()
        self.bytes_of: dict[Span, tuple[str | None, bytes]] = {}
        """With the version, if it is known."""


class MemoryCache:
    """Up to `nbytes` bytes in memory of this process, for one store or many."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = positive(nbytes)
        self.held = 0
        """Bytes in use."""
        self._objects: dict[str, _Object] = {}
        self._used: OrderedDict[tuple[str, Span], None] = OrderedDict()
        self._lock = threading.Lock()
        _caches.add(self)

    def __repr__(self) -> str:
        return f"MemoryCache({self.nbytes})"

    def __reduce__(self) -> tuple[object, ...]:
        """Another process begins with an empty one."""
        return MemoryCache, (self.nbytes,)

    def find(self, name: str, label: str, requests: Sequence[Request]) -> list[Kept | None]:
        """What it has of one object, under this label, for each request."""
        with self._lock:
            held = self._objects.get(name)
            if held is None or held.label != label:
                return [None] * len(requests)
            kept: list[Kept | None] = []
            for request in requests:
                found = held.ranges.find(request)
                if found is None:
                    kept.append(None)
                    continue
                self._used.move_to_end((name, found.span))
                kept.append(_InMemory(*held.bytes_of[found.span], found))
            return kept

    def version(self, name: str) -> str | None:
        """That of which it has something."""
        with self._lock:
            held = self._objects.get(name)
            return held.label[1:] if held is not None and held.label.startswith("=") else None

    def keep(self, name: str, label: str, version: str | None, span: Span, data: Buffer) -> None:
        """A copy, unless they are `bytes`."""
        if len(data) + _WEIGHT > self.nbytes:
            return
        copy = data if isinstance(data, bytes) else bytes(data)
        with self._lock:
            held = self._objects.get(name)
            if held is not None and held.label != label:
                self._drop_object(name)
                held = None
            if held is None:
                held = self._objects[name] = _Object(label)
            gone = held.ranges.add(span)
            if gone is not None:
                held.bytes_of[span] = version, copy
                self._used[name, span] = None
                self.held += len(copy) + _WEIGHT
                for one in gone:
                    self._drop(name, held, one)
            while self.held > self.nbytes:
                oldest, least = next(iter(self._used))
                self._objects[oldest].ranges.discard(least)
                self._drop(oldest, self._objects[oldest], least)

    def forget(self, name: str, but: str | None = None) -> None:
        """Have nothing of an object, except what is under the label `but`."""
        with self._lock:
            held = self._objects.get(name)
            if held is not None and held.label != but:
                self._drop_object(name)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._objects.clear()
            self._used.clear()
            self.held = 0

    def renew(self) -> None:
        """A forked child begins with an empty one: another thread may have been in the middle of a change."""
        self._lock = threading.Lock()
        self.clear()

    def _drop(self, name: str, held: _Object, span: Span) -> None:
        """A span that `held.ranges` has no more."""
        self.held -= len(held.bytes_of.pop(span)[1]) + _WEIGHT
        del self._used[name, span]
        if not held.bytes_of:
            del self._objects[name]

    def _drop_object(self, name: str) -> None:
        held = self._objects[name]
        for span in list(held.bytes_of):
            self._drop(name, held, span)


def positive(nbytes: int) -> int:
    """A size that a user gave for a cache."""
    if isinstance(nbytes, bool) or not isinstance(nbytes, int) or nbytes < 1:
        raise ArgumentError(f"nbytes={nbytes!r} of a cache is not a whole number of at least 1")
    return nbytes


_caches: weakref.WeakSet[MemoryCache] = weakref.WeakSet()


def _child() -> None:
    for cache in list(_caches):
        cache.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_child)
