"""The answers to some requests, from caches and the store behind them, as they come.

    planned   each request: kept and trusted → a hit · kept, to be confirmed → it waits · else → a miss
    asked     all misses; and of an object of which all others wait, one: "unless it is still version v"
    judged    an answer tells the object's version: those that wait become hits, or misses of a second round

Hits come first, while the misses are under way. Threads may share the answers.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from gpuzarr.errors import ChangedError, StoreError
from gpuzarr.store.base import Buffer, PlaceIfAny, Request, Versioned, place_of
from gpuzarr.store.caching.memory import Kept
from gpuzarr.store.caching.trust import At, label_of, started

if TYPE_CHECKING:
    from gpuzarr.store.caching.store import CachedStore

Answer = Buffer | Versioned | None
"""What a store gave: some of its calls give versions too."""


class Hit(NamedTuple):
    """What one of the caches has."""

    cache: int
    """Its number."""
    kept: Kept


class _Step(NamedTuple):
    """What a thread does next: load a hit, or hand out an answer and keep it under `label`, if it has one."""

    i: int
    hit: Hit | None = None
    answer: Versioned | None = None
    label: str | None = None


class Answers(Iterator[tuple[int, Versioned | None]]):
    """See the module. The first error ends it."""

    def __init__(
        self,
        store: CachedStore,
        requests: Sequence[Request],
        unless: Sequence[str | None] | None = None,
        place: PlaceIfAny | None = None,
        *,
        at_once: bool,
        versions: bool = False,
    ) -> None:
        """`at_once`: the misses are one call of the store behind, no stream. `versions`: the caller wants to
        know them."""
        self._store, self._requests, self._at_once, self._versions = store, requests, at_once, versions
        self._unless: Sequence[str | None] = unless or [None] * len(requests)
        self._place, self._placing = place, threading.Lock()
        self._at: list[At] = [place_of(store.store, request.key) for request in requests]
        self._since = started()
        self._steps: deque[_Step] = deque()
        self._misses: list[int] = []
        self._sent: dict[int, str] = {}
        """By request: the version that the store is asked about."""
        self._waiting: dict[At, list[int]] = {}
        """Requests for which something is kept, of a version that the store is asked about."""
        self._known: dict[At, str] = {}
        """What that is kept under."""
        self._lock = threading.Lock()
        self._ended = False
        self._plan()
        try:
            self._source = self._ask()
        except ChangedError:
            self._changed()
            raise

    def __next__(self) -> tuple[int, Versioned | None]:
        try:
            with self._lock:
                step = self._take()
            i, answer = step.i, step.answer
            if step.hit is not None:
                answer = self._load(i, step.hit, step.label)
            elif answer is not None and step.label is not None:
                self._store.keep(self._at[i], step.label, self._requests[i], answer, self._since)
        except BaseException as error:  # the end, too
            self._ended = True
            if isinstance(error, ChangedError):
                self._changed()
            raise
        if answer is not None and answer.version is not None and answer.version == self._unless[i]:
            answer = Versioned(None, answer.version)
        return i, answer

    def close(self) -> None:
        """Ask for no more."""
        self._ended = True
        close = getattr(self._source, "close", None)
        if close is not None:
            with suppress(ValueError):  # another thread is within a generator
                close()

    # ---- planned

    def _plan(self) -> None:
        store = self._store
        groups: dict[tuple[At, str | None, bool], list[int]] = {}
        for i, request in enumerate(self._requests):
            at = self._at[i]
            pinned = store.versioned and request.version is not None and store.trust.check != "never"
            label = label_of(request.version) if pinned else store.trust.label(at)
            groups.setdefault((at, label, pinned), []).append(i)
        for (at, label, pinned), group in groups.items():
            known = None if pinned or label is not None or not store.versioned else store.version(at)
            if known is None:
                self._sort(at, group, label)
            else:
                self._confirm(at, group, known)

    def _sort(self, at: At, group: list[int], label: str | None) -> None:
        """Requests of one object: hits are those for which something is kept under `label`."""
        found: list[Hit | None] = [None] * len(group)
        if label is not None:
            found = self._store.find(at, label, [self._requests[i] for i in group])
        for i, hit in zip(group, found, strict=True):
            unless = self._unless[i]
            if unless is not None and label is not None and label == label_of(unless):
                self._store.count(hits=1)
                self._steps.append(_Step(i, answer=Versioned(None, unless)))
            elif hit is not None:
                self._steps.append(_Step(i, hit, label=label))
            else:
                self._miss(i, unless)

    def _confirm(self, at: At, group: list[int], known: str) -> None:
        """Requests of one object, of which something is kept: one answer will tell whether it is still so."""
        label = f"={known}"
        found = self._store.find(at, label, [self._requests[i] for i in group])
        waiting = [i for i, hit in zip(group, found, strict=True) if hit is not None]
        lacking = [i for i, hit in zip(group, found, strict=True) if hit is None]
        for i in lacking:
            self._miss(i, self._unless[i])
        if not lacking:
            self._miss(waiting.pop(0), known)
        self._waiting[at] = waiting
        self._known[at] = label

    def _miss(self, i: int, unless: str | None) -> None:
        self._misses.append(i)
        self._sent.pop(i, None)
        if unless is not None and self._store.versioned:
            self._sent[i] = unless

    # ---- asked

    def _ask(self) -> Iterator[tuple[int, Answer]]:
        self._asked, self._misses = self._misses, []
        return self._call(self._asked, self._at_once)

    def _call(self, asked: list[int], at_once: bool) -> Iterator[tuple[int, Answer]]:
        def place(j: int, nbytes: int) -> memoryview | None:
            return self._put(asked[j], nbytes)

        requests, unless = [self._requests[i] for i in asked], [self._sent.get(i) for i in asked]
        given = None if self._place is None else place
        return self._store.ask(requests, unless, given, at_once=at_once, versions=self._versions)

    def _put(self, i: int, nbytes: int) -> memoryview | None:
        """Where the caller wants the bytes of request i; it is asked by one thread at a time."""
        assert self._place is not None
        with self._placing:
            return self._place(i, nbytes)

    def _changed(self) -> None:
        """A version that was asked for is not there any more."""
        for at, request in zip(self._at, self._requests, strict=True):
            if request.version is not None:
                self._store.drop(at)

    # ---- judged

    def _take(self) -> _Step:
        """The next step; the lock is held."""
        while not self._ended:
            if self._steps:
                return self._steps.popleft()
            came = next(self._source, None)
            if came is not None:
                step = self._judge(self._asked[came[0]], came[1])
                if step is not None:
                    return step
            elif self._misses:
                self._source = self._ask()
            else:
                break
        raise StopIteration

    def _judge(self, i: int, came: Answer) -> _Step | None:
        """What an answer says of its object, for all requests that wait for it; the lock is held."""
        store, request, at = self._store, self._requests[i], self._at[i]
        waiting = self._waiting.pop(at, [])
        if came is None:
            store.count(misses=1)
            store.forget(at)
            self._steps.extend(_Step(j) for j in waiting)
            return _Step(i)
        if not isinstance(came, Versioned):
            came = Versioned(came, request.version if store.versioned else None)
        sent = self._sent.get(i)
        if came.data is None:
            if sent is None:
                raise StoreError(f"{store.url} sends no bytes of {request.key}, without having been asked")
            store.count(checks=1)
            came = Versioned(None, sent)
        else:
            store.count(misses=1, bytes_missed=len(came.data))
        says = came.version is not None or bool(came.data)  # no bytes, no version: nothing
        label = store.trust.settle(at, came.version, self._since) if says else None
        known = self._known.pop(at, label)
        if label is not None and label != known:
            store.forget(at, but=label)
        self._sort(at, waiting, label)
        if came.data is not None or sent == self._unless[i]:
            return _Step(i, answer=came, label=label)
        kept = label_of(sent) or ""
        (hit,) = store.find(at, kept, [request])
        if hit is None:
            self._miss(i, None)
            return None
        return _Step(i, hit, label=kept)

    def _load(self, i: int, hit: Hit, label: str | None) -> Versioned | None:
        """The bytes of a hit; if they are lost, or of another version than was asked for, from the store."""
        request, at = self._requests[i], self._at[i]
        loaded = hit.kept.load(None if self._place is None else lambda nbytes: self._put(i, nbytes))
        if loaded is not None:
            versions = {loaded.version, request.version if self._store.versioned else None} - {None}
            if len(versions) <= 1:
                answer = Versioned(loaded.data, loaded.version)
                self._store.count(hits=1, bytes_hit=len(loaded.data))
                if label is not None and hit.cache:
                    self._store.keep(at, label, request, answer, self._since, below=hit.cache)
                return answer
            self._store.forget(at)  # what was said never to change did
        self._sent.pop(i, None)
        for _, came in self._call([i], at_once=True):
            with self._lock:
                step = self._judge(i, came)
            if step is not None:
                if step.label is not None and step.answer is not None:
                    self._store.keep(at, step.label, request, step.answer, self._since)
                return step.answer
        raise StoreError(f"{self._store.url} gives no answer for {request.key}")
