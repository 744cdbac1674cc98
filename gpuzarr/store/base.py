"""A store maps keys to bytes. It knows nothing of arrays.

Reading is one call for many byte ranges, writing one for many objects, so that a store can open a file once,
pool connections, or send requests at the same time. Keys are relative, `/`-separated and clean: no empty, `.`
or `..` part. An absent key is a value (None); a key that cannot be read is a StoreError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast, runtime_checkable

from gpuzarr.errors import StoreError

Buffer = bytes | bytearray | memoryview

Pieces = list[Buffer]
"""One object's bytes in several pieces, one behind the other."""

Place = Callable[[int, int], memoryview]
"""`place(i, nbytes)`: where the bytes of request i shall lie. It may raise, if they are too many."""


PlaceIfAny = Callable[[int, int], memoryview | None]
"""The same; None: anywhere."""


class Request(NamedTuple):
    """A byte range of one object: `nbytes` bytes at `start`, or all that follow where `nbytes` is None. A
    negative `start` counts from the object's end. With `version`, only of that version of the object: a store
    that knows versions raises ChangedError where it is another by now."""

    key: str
    start: int = 0
    nbytes: int | None = None
    version: str | None = None


class Versioned(NamedTuple):
    """An answer, and the version of the object that it is of: what a server calls its ETag."""

    data: Buffer | None
    """None: the object is still the version that the caller said it has."""
    version: str | None
    """None: the server gives none."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What the engine should know of a store's cost."""

    concurrency: int = 1
    """Requests in flight that pay off in one `get_ranges`; 1 for memory and disks."""
    coalesce_gap: int | None = None
    """Overrides the configured gap, where a request is dear."""
    request_nbytes: int | None = None
    """Overrides the configured largest request."""
    round_trip_nbytes: int | None = None
    """Bytes of one answer that come in the time of a round trip, as far as was seen. None: as many as
    `coalesce_gap`."""
    transactional: bool = False
    """Nothing is seen before the caller commits, and chunks belong to an array: its document is stored before
    them, and is the last to go. Other objects there are none."""


@runtime_checkable
class Store(Protocol):
    """The contract; `gpuzarr.testing.StoreContract` is its test."""

    @property
    def url(self) -> str:
        """Names the store in messages. Holds no credentials."""
        ...

    @property
    def traits(self) -> Traits:
        """What reading costs."""
        ...

    def get_ranges(self, requests: Sequence[Request], place: Place | None = None) -> list[Buffer | None]:
        """The bytes of each request, None where there is no such key. With `place`, a store that can choose
        where its bytes go puts those of request i into `place(i, nbytes)` and returns that. A range that
        reaches past the object's end gives the bytes there are."""
        ...

    def size(self, key: str) -> int | None:
        """The object's size in bytes if that is known without another round trip, else None."""
        ...

    def exists(self, key: str) -> bool:
        """Whether there is an object under `key`."""
        ...

    def list(self, prefix: str = "") -> Iterator[str]:
        """Every key that begins with `prefix`, in no order. A prefix ends at a `/` or is empty."""
        ...

    def list_dir(self, prefix: str = "") -> Iterator[str]:
        """The names right below `prefix`, of objects and of prefixes alike, each once."""
        ...


@runtime_checkable
class WritableStore(Store, Protocol):
    """A store that can be written. An object appears whole or not at all: whoever reads sees the old bytes or
    the new ones."""

    def put(self, objects: Sequence[tuple[str, Buffer | Pieces]]) -> None:
        """Store each under its key, in place of what was there, in any order. A StoreError names the first
        that failed; its old bytes are still there, others may have been stored. A store that turns out to
        be open for reading alone raises ReadOnlyError."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; those that are not there are no error."""
        ...

    def delete_below(self, prefix: str) -> None:
        """Remove every object whose key begins with `prefix`, which ends at a `/` or is empty."""
        ...


@runtime_checkable
class VersionedStore(Store, Protocol):
    """A store that tells versions of an object apart, so that what is read of it in several requests, or
    kept, is all of one."""

    def get_versioned(
        self,
        requests: Sequence[Request],
        unless: Sequence[str | None] | None = None,
        place: PlaceIfAny | None = None,
    ) -> list[Versioned | None]:
        """As `get_ranges`, with the versions. Of an object that is still the version `unless[i]` no bytes
        come."""
        ...


@runtime_checkable
class StreamingStore(Store, Protocol):
    """A store whose requests take long, and of which many are in flight at once."""

    def stream(
        self, requests: Sequence[Request], place: PlaceIfAny | None = None
    ) -> Iterator[tuple[int, Buffer | None]]:
        """As `get_ranges`, but each answer comes as soon as it is there, with the number of its request. Any
        number of threads may take from the iterator; if it has a `close`, that ends it and forgets what is in
        flight. `place` is called from any thread, one call at a time, and written to by the thread that takes
        the answer."""
        ...


@runtime_checkable
class ConditionalStore(WritableStore, VersionedStore, Protocol):
    """A store that replaces an object only if nobody else did meanwhile."""

    def put_if(self, objects: Sequence[tuple[str, Buffer | Pieces, str | None]]) -> list[bool]:
        """Store each if its object still is of that version, or with None if there still is none; and whether
        it was."""
        ...


_KNOWN: dict[tuple[type, type], bool] = {}


def streaming(store: Store) -> StreamingStore | None:
    """The store if it is one that streams. Protocols take ten microseconds to look at: once for each
    class."""
    return cast(StreamingStore, store) if _is(store, StreamingStore) else None


def versioned(store: Store) -> VersionedStore | None:
    """The store if it knows versions."""
    return cast(VersionedStore, store) if _is(store, VersionedStore) else None


def conditional(store: Store) -> ConditionalStore | None:
    """The store if it puts under conditions."""
    return cast(ConditionalStore, store) if _is(store, ConditionalStore) else None


def _is(store: Store, protocol: type) -> bool:
    known = _KNOWN.get((type(store), protocol))
    if known is None:
        known = _KNOWN[type(store), protocol] = isinstance(store, protocol)
    return known


def clean_key(key: str) -> str:
    """The key itself, or a StoreError if it could leave the store."""
    parts = key.split("/")
    if "" in parts or "." in parts or ".." in parts or "\\" in key or "\0" in key:
        raise StoreError(f"{key!r} is not a key", hint="keys are relative, without empty, '.' or '..' parts")
    if not key.isascii():
        try:
            key.encode()
        except UnicodeEncodeError:
            raise StoreError(f"{key!r} is not a key", hint="it holds half a surrogate pair") from None
    return key


def joined(value: Buffer | Pieces) -> Buffer:
    """An object's bytes in one piece."""
    if not isinstance(value, list):
        return value
    return value[0] if len(value) == 1 else b"".join(value)


def cut(whole: memoryview, request: Request) -> memoryview:
    """The part of an object that a request asks for."""
    start = max(len(whole) + request.start, 0) if request.start < 0 else request.start
    return whole[start:] if request.nbytes is None else whole[start : start + request.nbytes]


def below(keys: Iterator[str], prefix: str) -> Iterator[str]:
    """The names right below `prefix` among `keys`, each once."""
    return iter(dict.fromkeys(key[len(prefix) :].split("/", 1)[0] for key in keys if key.startswith(prefix)))


class Same:
    """Equal to what wraps the same object."""

    __slots__ = ("of",)

    def __init__(self, of: object) -> None:
        self.of = of

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.of is self.of

    def __hash__(self) -> int:
        return id(self.of)


def place_of(store: Store, key: str) -> tuple[object, str]:
    """What names an object for the whole process, whatever store it is reached through. Stores that know no
    better, by a method `place`, are told apart as Python objects."""
    place = getattr(store, "place", None)
    return (Same(store), key) if place is None else place(key)
