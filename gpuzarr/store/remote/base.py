"""Objects behind a server: S3, Google Cloud Storage, Azure, plain HTTP.

    RemoteStore   prefix, batches, versions, what is absent and what is forbidden
      └ retry     when a request is sent again, how many are in flight
        └ Transport   one request: obstore, or fsspec

Every byte that comes is checked against what was asked: the range, its length, the version. What a server
says wrongly, or not to the end, is asked again.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from gpuzarr.errors import ChangedError, StoreError
from gpuzarr.store.base import (
    Buffer,
    Pieces,
    Place,
    PlaceIfAny,
    Request,
    Traits,
    Versioned,
    clean_key,
)
from gpuzarr.store.remote.flow import MOST, Stream, finished
from gpuzarr.store.remote.retry import PATIENCE, Again, Limit, Patience, persist
from gpuzarr.store.remote.transport import (
    DeniedError,
    Got,
    OutOfRange,
    Room,
    Transport,
    Unchanged,
    is_strong,
)

REMOTE = Traits(concurrency=64, coalesce_gap=1 << 20, request_nbytes=16 << 20)
"""A round trip costs as much as moving about a megabyte, while nobody has measured it."""
_BANDWIDTH = 64 << 20
"""Bytes a second that one connection to an object store gives."""
_GAPS = 1 << 18, 1 << 23

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class RemoteStore:
    """What lies below `prefix` behind one server."""

    transport: Transport
    prefix: str
    """Ends at a `/`, or is empty."""
    url: str
    given: Traits | None = None
    """What a caller knows better."""
    patience: Patience = PATIENCE
    missing_on_403: bool = False
    limit: Limit = field(default_factory=lambda: Limit(64, MOST), repr=False, compare=False)
    reopen: tuple[Callable[..., Any], tuple[Any, ...]] | None = field(default=None, repr=False, compare=False)
    """How another process makes the same store."""

    @property
    def traits(self) -> Traits:
        """Two ranges are one request where the bytes between them come sooner than another answer would: what
        that takes is the quickest answer so far, rounded to a power of two."""
        if self.given is not None:
            return self.given
        if not self.limit.quickest:
            return REMOTE
        least, most = _GAPS
        gap = 1 << round(math.log2(max(self.limit.quickest * _BANDWIDTH, least)))
        seen = round(min(self.limit.quickest * self.limit.rate, most)) if self.limit.rate else None
        return replace(REMOTE, coalesce_gap=min(gap, most), round_trip_nbytes=seen)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.reopen is None:
            raise StoreError(f"{self.url} cannot be opened again in another process")
        return self.reopen

    def place(self, key: str) -> tuple[object, str]:
        """Host or bucket, and the path there."""
        return self.transport.place, self.prefix + key

    def get_ranges(self, requests: Sequence[Request], place: Place | None = None) -> list[Buffer | None]:
        """All in flight at once. `place` is called from other threads, one call at a time."""
        found: list[Buffer | None] = [None] * len(requests)
        for i, answer in finished(self.stream(requests, place)):
            found[i] = answer
        return found

    def get_versioned(
        self,
        requests: Sequence[Request],
        unless: Sequence[str | None] | None = None,
        place: PlaceIfAny | None = None,
    ) -> list[Versioned | None]:
        """The same with ETags, and with `If-None-Match` for those of `unless`."""
        found: list[Versioned | None] = [None] * len(requests)
        for i, answer in finished(self.stream_versioned(requests, unless, place)):
            found[i] = answer
        return found

    def stream(
        self, requests: Sequence[Request], place: PlaceIfAny | None = None
    ) -> Iterator[tuple[int, Buffer | None]]:
        """Each as soon as it is there. `place` is called from other threads, one call at a time, before the
        bytes come; None leaves them where they are. They are put there by the thread that takes them."""
        return self._stream(requests, None, place, _data)

    def stream_versioned(
        self,
        requests: Sequence[Request],
        unless: Sequence[str | None] | None = None,
        place: PlaceIfAny | None = None,
    ) -> Iterator[tuple[int, Versioned | None]]:
        """The same with versions, as `get_versioned` gives them."""
        return self._stream(requests, unless, place, _all)

    def _stream(
        self,
        requests: Sequence[Request],
        unless: Sequence[str | None] | None,
        place: PlaceIfAny | None,
        give: Callable[[Versioned | None], Answer],
    ) -> Iterator[tuple[int, Answer]]:
        for request in requests:
            clean_key(request.key)
        places: dict[int, memoryview | None] = {}
        placing = threading.Lock()

        streams: list[Stream[Any, Any]] = []

        def room(i: int, stop: threading.Event, nbytes: int) -> None:
            if streams and requests[i].nbytes is None:
                streams[0].admit(i, nbytes)
            if place is None:
                return
            with placing:
                held = places.get(i)
                # A caller who has gone has no memory for it; and the one that another try had will do.
                if not stop.is_set() and (held is None or held.nbytes != nbytes):
                    places[i] = place(i, nbytes)

        def ask(i: int, stop: threading.Event) -> Versioned | None:
            known = unless[i] if unless else None
            return self._answer(requests[i], known, partial(room, i, stop), stop)

        def put(i: int, answer: Versioned | None) -> Answer:
            into = places.pop(i, None)
            if answer is None or answer.data is None or into is None or into.nbytes != len(answer.data):
                return give(answer)
            # A memoryview's own copy would hold the interpreter's lock.
            np.frombuffer(into, np.uint8)[:] = np.frombuffer(answer.data, np.uint8)
            return give(Versioned(into, answer.version))

        # No other thread has to wait for a single one; but Ctrl-C reaches the main thread only where it
        # waits.
        if len(requests) == 1 and threading.current_thread() is not threading.main_thread():
            return iter([(0, put(0, ask(0, threading.Event())))])
        sizes = [request.nbytes for request in requests]
        return Stream(ask, sizes, self.limit.waiters, put, placing, streams.append)

    def _answer(
        self, request: Request, unless: str | None, room: Room, stop: threading.Event
    ) -> Versioned | None:
        """One request, with all its tries. Runs on any thread."""
        path = self.prefix + request.key
        try:
            if request.nbytes == 0 or (request.nbytes is None and request.start < 0 and not request.start):
                return (
                    None if self._do(f"look for {request.key}", self.transport.size, path) is None else _EMPTY
                )
            got = self._do(f"read {request.key}", partial(self._get, request, path, unless, room), stop=stop)
        except Unchanged:
            return Versioned(None, unless)
        except OutOfRange:
            if request.version is not None and not is_strong(request.version):
                raise ChangedError(f"{request.key} was replaced while it was read") from None
            return _EMPTY
        except DeniedError as error:
            if self.missing_on_403:
                return None
            error.hint = error.hint or _DENIED
            raise
        if got is None:
            return None
        data = got.data
        if request.start < 0 and request.nbytes is not None:
            data = memoryview(data)[: request.nbytes]
        return Versioned(data, got.version)

    def _get(self, request: Request, path: str, unless: str | None, room: Room) -> Got | None:
        """One try, and whether its answer is what was asked for."""
        start, nbytes = request.start, request.nbytes
        began = time.monotonic()
        got = self.transport.get(path, start, nbytes, request.version, unless, room)
        if got is None:
            return None
        self.limit.carried(len(memoryview(got.data)), time.monotonic() - began)
        n, total = len(memoryview(got.data)), got.total
        if start < 0:  # from the end, and not further than its begin
            right = total is None or (n == min(-start, total) and got.start == total - n)
            right &= n <= -start
        else:
            right = got.start == start and (nbytes is None or n <= nbytes)
            if total is not None:
                right &= n == (total - start if nbytes is None else min(nbytes, total - start))
        if request.version not in (None, got.version) and got.version is not None:
            raise ChangedError(f"{request.key} was replaced while it was read", chunk=request.key)
        if not right:
            raise Again(
                f"{n} bytes came from {got.start} on, of {total}, where {nbytes} from {start} were asked for"
            )
        return got

    def _do(
        self, what: str, attempt: Callable[..., Any], *given: Any, stop: threading.Event | None = None
    ) -> Any:
        return persist(partial(attempt, *given), f"{what} at {self.url}", self.patience, self.limit, stop)

    def size(self, key: str) -> int | None:
        """Unknown: asking costs a round trip."""
        return None

    def look(self, keys: Sequence[str]) -> list[tuple[int | None, str | None] | None]:
        """Sizes and versions as far as the server says them, by a request for one byte of each; None: no such
        object."""

        def ask(i: int, stop: threading.Event) -> tuple[int | None, str | None] | None:
            path = self.prefix + clean_key(keys[i])
            get = partial(self.transport.get, path, 0, 1, None, None, _one)
            try:
                got = self._do(f"look for {keys[i]}", get, stop=stop)
            except OutOfRange:
                return 0, None
            return None if got is None else (got.total, got.version)

        stream = Stream(ask, [1] * len(keys), self.limit.waiters, lambda i, answer: answer)
        found = dict(finished(stream))
        return [found[i] for i in range(len(keys))]

    def exists(self, key: str) -> bool:
        """Whether a HEAD request finds it."""
        try:
            found = self._do(f"look for {key}", self.transport.size, self.prefix + clean_key(key))
        except DeniedError as error:
            if self.missing_on_403:
                return False
            error.hint = error.hint or _DENIED
            raise
        return found is not None

    def list(self, prefix: str = "") -> Iterator[str]:
        """Every key below."""
        found = self._do(f"list {prefix}", lambda: list(self.transport.list(self.prefix + prefix)))
        return (path[len(self.prefix) :] for path in found)

    def list_dir(self, prefix: str = "") -> Iterator[str]:
        """The names in one directory."""
        return iter(self._do(f"list {prefix}", lambda: list(self.transport.list_dir(self.prefix + prefix))))


@dataclass(frozen=True, slots=True)
class BucketStore(RemoteStore):
    """What lies below a prefix of a bucket, which can be written."""

    def put(self, objects: Sequence[tuple[str, Buffer | Pieces]]) -> None:
        """All in flight at once; large ones in several parts."""
        self._put([(self.transport.put, key, value) for key, value in objects])

    def put_if(self, objects: Sequence[tuple[str, Buffer | Pieces, str | None]]) -> list[bool]:
        """With `If-Match` and `If-None-Match`. Where an answer is lost, what was stored may be told as not
        stored: whoever looks again finds it there."""
        put = self.transport.put_if
        return self._put([(partial(put, version=version), key, value) for key, value, version in objects])

    def _put(self, objects: Sequence[tuple[Callable[..., Any], str, Buffer | Pieces]]) -> list[Any]:
        told: list[Any] = [None] * len(objects)

        def ask(i: int, stop: threading.Event) -> None:
            put, key, value = objects[i]
            try:
                told[i] = self._do(f"write {key}", put, self.prefix + key, value, stop=stop)
            except StoreError as error:
                raise error.located(chunk=key) from None

        sizes: list[int | None] = []
        for _, key, value in objects:
            clean_key(key)
            sizes.append(
                sum(memoryview(one).nbytes for one in (value if isinstance(value, list) else [value]))
            )
        stream = Stream(ask, sizes, self.limit.waiters, lambda i, answer: None)
        try:
            for _ in stream:
                pass
        finally:
            # What is lent is not given back, nor is the turn at an object, before the last has landed.
            stream.close()
            stream.drained()
        return told

    def delete(self, keys: Sequence[str]) -> None:
        """In one request for many, where the server has that."""
        if paths := [self.prefix + clean_key(key) for key in keys]:
            self._do(f"delete {keys[0]}", self.transport.delete, paths)

    def delete_below(self, prefix: str) -> None:
        """What a listing finds."""
        paths = list(self._do("list", lambda: list(self.transport.list(self.prefix + prefix))))
        for first in range(0, len(paths), 1000):
            self._do(f"delete {prefix}", self.transport.delete, paths[first : first + 1000])


_EMPTY = Versioned(b"", None)
_DENIED = (
    "a bucket that may not be listed says so of objects that are missing too: "
    'storage_options={"missing_on_403": True} takes them for missing'
)


def _one(nbytes: int) -> None:
    if nbytes > 1:
        raise Again(f"{nbytes} bytes where one was asked for", most=4)


def _data(answer: Versioned | None) -> Buffer | None:
    return None if answer is None else answer.data


def _all(answer: Versioned | None) -> Versioned | None:
    return answer
