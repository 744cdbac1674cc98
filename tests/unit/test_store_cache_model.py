"""Random lives of cached stores. The oracle: a dict of all that each object ever was, in order.

What is read is always the slice of one thing that the object was: of what it is now where every use is
checked; of nothing older than what the handle first used, or than the last write of this process, where the
first use is; of anything at all where the user says that it never changes.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gpuzarr.errors import ChangedError
from gpuzarr.store.base import Buffer, Request, Store, StreamingStore, VersionedStore, WritableStore
from gpuzarr.store.caching.disk import DiskCache
from gpuzarr.store.caching.memory import Cache, MemoryCache
from gpuzarr.store.caching.store import CachedStore, cached_store
from tests.unit.test_store_cache import Server, Streaming, Unversioned, VersionedStream

KEYS = ["a", "p/b"]


class Life:
    """A store, handles before it, and what they may answer."""

    def __init__(self, rng: random.Random, directory: Path) -> None:
        self.rng, self.directory = rng, directory
        kind = rng.choice([Server, Streaming, VersionedStream, None])
        self.server = kind() if kind else None
        self.mapping: dict[str, bytes] = {}
        self.store: Store = self.server or Unversioned(self.mapping)
        self.checks = ["once", "once", "never"] + ["always"] * (kind is not None)
        self.was: dict[str, list[bytes | None]] = {key: [] for key in KEYS}
        for key in KEYS:
            self.change_behind(key)
        self.caches: list[Cache] = []
        self.new_caches()
        self.handles: list[tuple[CachedStore, dict[str, int]]] = []
        """With the place in `was` of the oldest thing that an object may be taken for."""
        self.open()

    # ---- what happens

    def new_caches(self) -> None:
        """As in another process: the memory is empty, the disk is what it was."""
        nbytes = self.rng.choice([1 << 20, 6000])
        kinds = self.rng.choice(["m", "d", "md"])
        self.caches = [
            MemoryCache(nbytes) if kind == "m" else DiskCache(self.directory, nbytes) for kind in kinds
        ]

    def open(self) -> None:
        self.handles.append((cached_store(self.store, self.caches, self.rng.choice(self.checks)), {}))
        del self.handles[:-3]

    def change_behind(self, key: str | None = None) -> None:
        key, value = key or self.rng.choice(KEYS), self.rng.randbytes(self.rng.choice([0, 9, 30, 40]))
        self.server.change(key, value) if self.server else self.mapping.__setitem__(key, value)
        self.was[key].append(value)

    def delete_behind(self) -> None:
        key = self.rng.choice(KEYS)
        objects: dict[str, Any] = self.server.objects if self.server else self.mapping
        objects.pop(key, None)
        self.was[key].append(None)

    def write(self) -> None:
        """Every handle of the process hears of it."""
        handle, _ = self.rng.choice(self.handles)
        assert isinstance(handle, WritableStore)
        key = self.rng.choice(KEYS)
        value: bytes | None = self.rng.randbytes(30)
        if self.rng.random() < 0.7:
            handle.put([(key, [value[:7], value[7:]])])
        elif key == "p/b" and self.rng.random() < 0.5:
            value = handle.delete_below("p/")
        else:
            value = handle.delete([key])
        self.was[key].append(value)
        for _, oldest in self.handles:
            oldest[key] = len(self.was[key]) - 1

    def evict(self) -> None:
        for cache in self.caches:
            cache.forget("('test', 'server')\0a")

    # ---- what is read

    def request(self) -> Request:
        key = self.rng.choice(KEYS)
        if self.rng.random() < 0.3:
            return Request(key)
        start = self.rng.choice([0, 3, 10, 25, 40, -4, -10, -30, -50])
        return Request(key, start, self.rng.choice([None, 0, 1, 4, 10, 30]))

    def first(self, handle: CachedStore, oldest: dict[str, int], key: str) -> int:
        """The oldest thing that the handle may take an object for, now that it uses it."""
        now = len(self.was[key]) - 1
        return {"never": 0, "always": now}.get(handle.trust.check, oldest.setdefault(key, now))

    def check(self, first: int, request: Request, answer: Buffer | None) -> None:
        was = self.was[request.key]
        if answer is None:
            assert was[-1] is None, "what is there was said to be missing"
            return
        parts = [slice_of(one, request) for one in was[first:] if one is not None]
        assert bytes(answer) in parts, f"{request} of {was}, not older than {first}, gave {bytes(answer)!r}"

    def read(self) -> None:
        handle, oldest = self.rng.choice(self.handles)
        requests = [self.request() for _ in range(self.rng.randint(1, 4))]
        first = [self.first(handle, oldest, request.key) for request in requests]

        def place(i: int, nbytes: int) -> memoryview:
            return memoryview(bytearray(nbytes))

        how = self.rng.choice([None, place])
        assert isinstance(handle, StreamingStore)
        answers = dict(
            self.rng.choice(
                [lambda: enumerate(handle.get_ranges(requests, how)), lambda: handle.stream(requests, how)]
            )()
        )
        assert sorted(answers) == list(range(len(requests)))
        for i, answer in answers.items():
            self.check(first[i], requests[i], answer)

    def read_versioned(self) -> None:
        """With `unless`; and what belongs to it, of the same version."""
        handle, oldest = self.rng.choice(self.handles)
        if self.server is None or not isinstance(handle, VersionedStore):
            return
        request = self.request()
        first = self.first(handle, oldest, request.key)
        known = self.server.objects.get(request.key, (b"", None))[1]
        unless = self.rng.choice([None, None, known, '"1"'])
        (answer,) = handle.get_versioned([request], [unless])
        if answer is not None and answer.data is None:
            assert unless == answer.version
            whole = self.server.ever[request.key, unless]
            assert whole in self.was[request.key][first:], "an old version was said to be the one"
        else:
            self.check(first, request, answer and answer.data)
        if answer is not None and answer.version is not None:
            self.read_pinned(handle, self.request()._replace(key=request.key, version=answer.version))

    def read_pinned(self, handle: CachedStore, request: Request) -> None:
        assert self.server is not None
        try:
            (answer,) = handle.get_ranges([request])
        except ChangedError:
            assert self.server.objects[request.key][1] != request.version
            return
        if answer is not None and handle.trust.check != "never":
            assert bytes(answer) == slice_of(self.server.ever[request.key, request.version], request)


def slice_of(whole: bytes, request: Request) -> bytes:
    """What a request asks of an object, by slices of bytes."""
    start = request.start if request.start >= 0 else max(len(whole) + request.start, 0)
    return whole[start:] if request.nbytes is None else whole[start:][: request.nbytes]


@settings(max_examples=60)
@given(st.randoms(use_true_random=True))
def test_random_lives(rng: random.Random) -> None:
    with tempfile.TemporaryDirectory() as directory:
        life = Life(rng, Path(directory) / "cache")
        often = [life.read] * 12 + [life.read_versioned] * 4 + [life.open] * 2
        for _ in range(60):
            rng.choice([*often, life.change_behind, life.write])()
            if rng.random() < 0.05:
                rng.choice([life.delete_behind, life.evict, life.new_caches])()
