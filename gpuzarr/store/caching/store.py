"""A store before another, which asks caches first: memory, a disk, or the one before the other.

What is kept is encoded bytes, as they were requested; what is absent is not kept. When something kept may be
used is a matter of trust (store/caching/trust.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

from gpuzarr.errors import ArgumentError
from gpuzarr.store.base import (
    Buffer,
    Pieces,
    Place,
    PlaceIfAny,
    Request,
    Store,
    StreamingStore,
    Traits,
    Versioned,
    VersionedStore,
    WritableStore,
    place_of,
)
from gpuzarr.store.caching.answers import Answer, Answers, Hit
from gpuzarr.store.caching.memory import Cache
from gpuzarr.store.caching.ranges import span_of
from gpuzarr.store.caching.stats import CacheStats, Counts
from gpuzarr.store.caching.trust import CHECKS, At, Trust, forget, forget_below, written

_AT_LEAST = 64  # requests that go to a store together, which does not stream


class CachedStore:
    """See the module; `cached_store` makes one. Safe between threads and after a fork."""

    def __init__(self, store: Store, caches: Sequence[Cache], check: str) -> None:
        self.store, self.caches = store, tuple(caches)
        """What stands behind; what is asked before it, in this order."""
        self._versions = store if isinstance(store, VersionedStore) else None
        self._streams = store if isinstance(store, StreamingStore) else None
        self.trust = Trust(check)
        self._own = os.urandom(16).hex()
        self._counts = Counts()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r}, {list(self.caches)}, {self.trust.check!r})"

    def __reduce__(self) -> tuple[object, ...]:
        """Another handle, which asks before it trusts."""
        return cached_store, (self.store, self.caches, self.trust.check)

    @property
    def url(self) -> str:
        """That of the store behind."""
        return self.store.url

    @property
    def traits(self) -> Traits:
        """Those of the store behind."""
        return self.store.traits

    @property
    def versioned(self) -> bool:
        """Whether the store behind knows versions."""
        return self._versions is not None

    @property
    def cache_stats(self) -> CacheStats:
        """What it has done so far."""
        return self._counts.stats

    def place(self, key: str) -> tuple[object, str]:
        """That of the store behind."""
        return place_of(self.store, key)

    def get_ranges(self, requests: Sequence[Request], place: Place | None = None) -> list[Buffer | None]:
        """What is kept, and the rest from the store behind, in one call."""
        found: list[Buffer | None] = [None] * len(requests)
        for i, answer in Answers(self, requests, place=place, at_once=True):
            found[i] = None if answer is None else answer.data
        return found

    def stream(
        self, requests: Sequence[Request], place: PlaceIfAny | None = None
    ) -> Iterator[tuple[int, Buffer | None]]:
        """What is kept at once, the rest as it comes."""
        return _Bytes(Answers(self, requests, place=place, at_once=False))

    def size(self, key: str) -> int | None:
        """What the store behind knows."""
        return self.store.size(key)

    def exists(self, key: str) -> bool:
        """What the store behind says."""
        return self.store.exists(key)

    # ---- for Answers

    def ask(
        self,
        requests: Sequence[Request],
        unless: Sequence[str | None],
        place: PlaceIfAny | None,
        *,
        at_once: bool,
        versions: bool,
    ) -> Iterator[tuple[int, Answer]]:
        """The store behind. Best where it has a `stream_versioned`, a stream of what `get_versioned` gives;
        else versions cost the stream, and are asked for where `versions`, or where they tell what to keep the
        answers under."""
        if not requests:
            return iter(())
        knows, nbatch = self._versions, len(requests) if at_once else max(self.traits.concurrency, _AT_LEAST)
        stream = getattr(knows, "stream_versioned", None)
        if stream is not None:
            answers: Iterator[tuple[int, Answer]] = stream(requests, unless, place)
            return answers
        new = any(request.version is None for request in requests)
        if knows is not None and (versions or (new and self.trust.check != "never")):
            return _in_batches(
                lambda part: knows.get_versioned(requests[part], unless[part]), len(requests), nbatch
            )
        if self._streams is not None and not at_once:
            return self._streams.stream(requests, place)
        return _in_batches(
            lambda part: self.store.get_ranges(requests[part], _anywhere(place, part.start)),
            len(requests),
            nbatch,
        )

    def find(self, at: At, label: str, requests: Sequence[Request]) -> list[Hit | None]:
        """What the first cache that has it has, for each request of an object."""
        hits: list[Hit | None] = [None] * len(requests)
        for number, cache in enumerate(self.caches):
            left = [i for i, hit in enumerate(hits) if hit is None]
            if left:
                asked = [requests[i] for i in left]
                for i, kept in zip(left, cache.find(self._name(at), label, asked), strict=True):
                    hits[i] = None if kept is None else Hit(number, kept)
        return hits

    def version(self, at: At) -> str | None:
        """A version of an object of which something is kept."""
        found = (cache.version(self._name(at)) for cache in self.caches)
        return next((version for version in found if version is not None), None)

    def keep(
        self, at: At, label: str, request: Request, answer: Versioned, since: int, below: int | None = None
    ) -> None:
        """Keep an answer in all caches, or in those before the one that it came from."""
        if answer.data is None or (span := span_of(request, len(answer.data))) is None:
            return
        for cache in self.caches[:below]:
            cache.keep(self._name(at), label, answer.version, span, answer.data)
        if written(at, since):
            self.forget(at)

    def drop(self, at: At) -> None:
        """An object is not what it was thought to be."""
        self.trust.drop(at)
        if self.trust.check == "never":
            self.forget(at)

    def forget(self, at: At, but: str | None = None) -> None:
        """Keep nothing of an object, except what is under the label `but`."""
        if but is None:
            self.trust.drop(at)
        for cache in self.caches:
            cache.forget(self._name(at), but)

    def count(self, **more: int) -> None:
        """Add to the statistics."""
        self._counts.add(**more)

    def _name(self, at: At) -> str:
        """An object's name for the caches: the same in every process, if its place is. A place that is no
        words means something in this process only; so does the name then, and for this store only."""
        where, key = at
        words = where if isinstance(where, tuple) else (where,) if where == "file" else None
        lasting = words is not None and all(word is None or isinstance(word, str) for word in words)
        return f"{words if lasting else self._own}\0{key}"

    def list(self, prefix: str = "") -> Iterator[str]:
        """What the store behind lists."""
        return self.store.list(prefix)

    def list_dir(self, prefix: str = "") -> Iterator[str]:
        """What the store behind lists."""
        return self.store.list_dir(prefix)


class _Versioned(CachedStore):
    """Before a store that knows versions."""

    def get_versioned(
        self,
        requests: Sequence[Request],
        unless: Sequence[str | None] | None = None,
        place: PlaceIfAny | None = None,
    ) -> list[Versioned | None]:
        """As `get_ranges`, with the versions."""
        found: list[Versioned | None] = [None] * len(requests)
        for i, answer in Answers(self, requests, unless, place, at_once=True, versions=True):
            found[i] = answer
        return found


class _Writable(CachedStore):
    """Before a store that can be written. What is written is not kept: it may not be read again."""

    store: WritableStore

    def put(self, objects: Sequence[tuple[str, Buffer | Pieces]]) -> None:
        """Write to the store behind, and forget what is kept of these objects."""
        try:
            self.store.put(objects)
        finally:
            self._written([key for key, _ in objects])

    def delete(self, keys: Sequence[str]) -> None:
        """Delete behind, and here."""
        try:
            self.store.delete(keys)
        finally:
            self._written(keys)

    def delete_below(self, prefix: str) -> None:
        """Delete behind, and trust nothing that is kept. Where nobody asks, it is listed first."""
        keys = [*self.store.list(prefix)] if self.trust.check == "never" else []
        try:
            self.store.delete_below(prefix)
        finally:
            forget_below(self.place(prefix))
            self._written(keys)

    def _written(self, keys: Sequence[str]) -> None:
        places = [self.place(key) for key in keys]
        forget(places)
        for at in places:
            self.forget(at)


class _VersionedWritable(_Versioned, _Writable):
    """Before a store that knows versions and can be written."""


_KINDS = {
    (False, False): CachedStore,
    (True, False): _Versioned,
    (False, True): _Writable,
    (True, True): _VersionedWritable,
}


def cached_store(store: Store, caches: Sequence[Cache], check: str = "once") -> CachedStore:
    """A store before `store`, which asks `caches` in this order. It can be written, and knows versions, if
    `store` does.

    `check`: `once`, `always` or `never` (docs/caching.md). Raises ArgumentError.
    """
    if check not in CHECKS:
        raise ArgumentError(f"check={check!r} is none of {', '.join(CHECKS)}")
    versioned = isinstance(store, VersionedStore)
    if check == "always" and not versioned:
        raise ArgumentError(
            f"{store.url} does not tell versions of an object apart: what is kept of it cannot be checked",
            hint='check="once" keeps it for one handle; check="never" takes it for immutable',
        )
    return _KINDS[versioned, isinstance(store, WritableStore)](store, caches, check)


class _Bytes(Iterator[tuple[int, Buffer | None]]):
    """Answers without their versions."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self.close = answers.close

    def __next__(self) -> tuple[int, Buffer | None]:
        i, answer = next(self._answers)
        return i, None if answer is None else answer.data


def _in_batches(
    call: Callable[[slice], Sequence[Answer]], n: int, nbatch: int
) -> Iterator[tuple[int, Answer]]:
    for first in range(0, n, nbatch):
        yield from enumerate(call(slice(first, first + nbatch)), first)


def _anywhere(place: PlaceIfAny | None, first: int) -> Place | None:
    """Memory for the requests from `first` on, also where the caller has none for them."""
    if place is None:
        return None

    def there(i: int, nbytes: int) -> memoryview:
        given = place(first + i, nbytes)
        return memoryview(bytearray(nbytes)) if given is None else given

    return there
