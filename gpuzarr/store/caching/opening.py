"""What a user says of caches → a store that has them: `cached(store, "disk")`.

"memory"    one cache of 1 GiB for all stores of the process
"disk"      10 GiB below the setting `cache_dir`, for all processes of the user
{"kind": "disk", "directory": "/scratch/me/zarr", "nbytes": 500 << 30, "check": "never"}
["memory", "disk"]     the one before the other
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping
from typing import Any

from gpuzarr import config
from gpuzarr.errors import ArgumentError
from gpuzarr.store.base import Store
from gpuzarr.store.caching.memory import Cache, MemoryCache
from gpuzarr.store.caching.store import CachedStore, cached_store

MEMORY_NBYTES = 1 << 30
DISK_NBYTES = 10 << 30

_OPTIONS = {"memory": ("kind", "nbytes", "check"), "disk": ("kind", "nbytes", "check", "directory")}
_shared: MemoryCache | None = None
_disks: weakref.WeakValueDictionary[tuple[str, int], Cache] = weakref.WeakValueDictionary()
_lock = threading.Lock()


def cached(store: Store, cache: Any) -> CachedStore:
    """A store that keeps what it reads of `store`; `cache` as above, or a MemoryCache or DiskCache. Raises
    ArgumentError, and StoreError where there can be no such directory."""
    specs = cache if isinstance(cache, (list, tuple)) else [cache]
    if not specs:
        raise ArgumentError("a list of no caches", hint='say "memory", "disk", or both')
    caches, checks = [], []
    for spec in specs:
        one, check = _made(spec)
        caches.append(one)
        if check is not None:
            checks.append(check)
    if any(check != checks[0] for check in checks):
        raise ArgumentError(f"caches of one store have one check, not {checks}")
    return cached_store(store, caches, checks[0] if checks else "once")


def _made(spec: Any) -> tuple[Cache, Any]:
    """A cache, and what is said of how it is checked."""
    if isinstance(spec, str):
        spec = {"kind": spec}
    if not isinstance(spec, Mapping):
        if all(hasattr(spec, name) for name in ("find", "keep", "forget", "version")):
            return spec, None
        raise ArgumentError(f"a {type(spec).__name__} says nothing of a cache", hint=_HINT)
    kind = spec.get("kind")
    if kind not in _OPTIONS:
        raise ArgumentError(f"no cache of kind {kind!r}", hint=_HINT)
    if unknown := [str(name) for name in spec if name not in _OPTIONS[kind]]:
        raise ArgumentError(f"a {kind} cache has no option {', '.join(unknown)}", hint=_HINT)
    make = _memory if kind == "memory" else _disk
    return make(spec), spec.get("check")


_HINT = 'say "memory", "disk", {"kind": "disk", "directory": …, "nbytes": …, "check": …}, or a list of these'


class _Shared(MemoryCache):
    """That of the whole process."""

    def __reduce__(self) -> tuple[object, ...]:
        """Another process has its own."""
        return _memory, ({},)


def _memory(spec: Mapping[str, Any]) -> MemoryCache:
    global _shared
    if spec.get("nbytes") is not None:
        return MemoryCache(spec["nbytes"])
    with _lock:
        if _shared is None:
            _shared = _Shared(MEMORY_NBYTES)
        return _shared


def _disk(spec: Mapping[str, Any]) -> Cache:
    """Stores with the same directory share what is counted of it."""
    from gpuzarr.store.caching.disk import DiskCache

    directory = spec.get("directory")
    if directory is None:
        directory = os.path.join(config.current().cache_dir, "chunks")
    elif not isinstance(directory, (str, os.PathLike)):
        raise ArgumentError(f"directory={directory!r} is no path", hint=_HINT)
    nbytes = spec.get("nbytes")
    made = DiskCache(directory, DISK_NBYTES if nbytes is None else nbytes)
    with _lock:
        return _disks.setdefault((made.directory, made.nbytes), made)


def _child() -> None:
    """A forked child has none of the threads that may hold the lock."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_child)
