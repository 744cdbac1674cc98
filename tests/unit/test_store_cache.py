"""Cached stores: what is asked of the store behind, and what is never answered. Requests are counted."""

from __future__ import annotations

import gc
import pickle
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import gpuzarr
from gpuzarr.errors import ArgumentError, ChangedError, StoreError
from gpuzarr.store.base import (
    Buffer,
    Pieces,
    Place,
    Request,
    Store,
    StreamingStore,
    Traits,
    Versioned,
    VersionedStore,
    WritableStore,
    clean_key,
    cut,
    place_of,
)
from gpuzarr.store.caching import opening as door
from gpuzarr.store.caching import trust as cache_trust
from gpuzarr.store.caching.disk import DiskCache
from gpuzarr.store.caching.memory import MemoryCache
from gpuzarr.store.caching.opening import cached
from gpuzarr.store.caching.ranges import Span
from gpuzarr.store.caching.store import CachedStore, cached_store
from gpuzarr.store.caching.trust import forget, forget_below
from gpuzarr.store.local import LocalStore
from gpuzarr.store.memory import MappingStore
from gpuzarr.testing.store import CountingStore, StoreContract


class Server:
    """A store that knows versions, as a server does: they count up. It keeps what it was asked."""

    def __init__(self, objects: Mapping[str, bytes] | None = None, name: str = "server") -> None:
        self.objects: dict[str, tuple[bytes, str]] = {}
        self.name, self.url, self.traits = name, f"test://{name}", Traits(concurrency=8)
        self.seen: list[tuple[Request, str | None]] = []
        self.calls = 0
        self.ever: dict[tuple[str, str | None], bytes] = {}
        self._n = 0
        for key, value in (objects or {}).items():
            self.change(key, value)

    def change(self, key: str, value: bytes, version: str | None = None) -> None:
        """Somebody else stores an object."""
        self._n += 1
        self.objects[key] = value, version or f'"{self._n}"'
        self.ever[key, self.objects[key][1]] = value

    def place(self, key: str) -> tuple[object, str]:
        return ("test", self.name), key

    def one(self, request: Request, unless: str | None) -> Versioned | None:
        self.seen.append((request, unless))
        value, version = self.objects.get(clean_key(request.key), (None, ""))
        if value is None:
            return None
        if request.version not in (None, version):
            raise ChangedError(f"{request.key} is not what it was")
        if unless == version:
            return Versioned(None, version)
        return Versioned(MappingStore({"k": value}).get_ranges([request._replace(key="k")])[0], version)

    def get_versioned(
        self,
        requests: Sequence[Request],
        unless: Sequence[str | None] | None = None,
        place: Place | None = None,
    ) -> list[Versioned | None]:
        self.calls += 1
        return [self.one(*pair) for pair in zip(requests, unless or [None] * len(requests), strict=True)]

    def get_ranges(self, requests: Sequence[Request], place: Place | None = None) -> list[Buffer | None]:
        self.calls += 1
        return [answer and answer.data for answer in (self.one(request, None) for request in requests)]

    def put(self, objects: Sequence[tuple[str, Buffer | Pieces]]) -> None:
        for key, value in objects:
            clean_key(key)
            self.change(key, b"".join(value) if isinstance(value, list) else bytes(value))

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.objects.pop(clean_key(key), None)

    def delete_below(self, prefix: str) -> None:
        self.delete([key for key in self.objects if key.startswith(prefix)])

    def size(self, key: str) -> int | None:
        return None

    def exists(self, key: str) -> bool:
        return key in self.objects

    def list(self, prefix: str = "") -> Iterator[str]:
        return iter([key for key in self.objects if key.startswith(prefix)])

    def list_dir(self, prefix: str = "") -> Iterator[str]:
        return MappingStore(dict.fromkeys(self.objects, b"")).list_dir(prefix)

    @property
    def asked(self) -> int:
        """How many requests it had since it was last asked so."""
        n = len(self.seen)
        self.seen.clear()
        return n


class Streaming(Server):
    """One whose answers come last first."""

    closed = 0
    with_place = 0

    def stream(self, requests: Sequence[Request], place: Place | None = None) -> Iterator[Any]:
        self.with_place += place is not None
        try:
            for i in reversed(range(len(requests))):
                answer = self.one(requests[i], None)
                yield i, answer and answer.data
        finally:
            self.closed += 1


class VersionedStream(Streaming):
    """One whose streams have versions."""

    def stream_versioned(
        self,
        requests: Sequence[Request],
        unless: Sequence[str | None] | None = None,
        place: Place | None = None,
    ) -> Iterator[tuple[int, Versioned | None]]:
        for i in reversed(range(len(requests))):
            yield i, self.one(requests[i], unless[i] if unless else None)


class Unversioned(MappingStore):
    """A store without versions, whose place is lasting."""

    def place(self, key: str) -> tuple[object, str]:
        return ("test", "unversioned"), key


def got(store: Store, *requests: Request | str) -> list[bytes | None]:
    asked = [Request(one) if isinstance(one, str) else one for one in requests]
    return [None if one is None else bytes(one) for one in store.get_ranges(asked)]


@pytest.fixture(params=["memory", "disk", "both"])
def caches(request: pytest.FixtureRequest, tmp_path: Path) -> list[Any]:
    return make_caches(request.param, tmp_path)


def make_caches(kind: str, directory: Path) -> list[Any]:
    memory, disk = MemoryCache(1 << 20), DiskCache(directory / "cache", 1 << 20)
    return {"memory": [memory], "disk": [disk], "both": [memory, disk]}[kind]


# ---- the contract, cold and warm


class _Contract(StoreContract):
    kind, check, behind = "memory", "once", Server

    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> None:
        self.directory = tmp_path

    def make(self, objects: Mapping[str, bytes]) -> Store:
        store = cached_store(self.behind(dict(objects)), make_caches(self.kind, self.directory), self.check)
        assert [*got(store, *objects)] == [*objects.values()]
        return store


class TestMemory(_Contract):
    pass


class TestMemoryAlways(_Contract):
    check = "always"


class TestDisk(_Contract):
    kind = "disk"


class TestDiskNever(_Contract):
    kind, check = "disk", "never"


class TestBoth(_Contract):
    kind = "both"


class TestStreaming(_Contract):
    behind, kind = VersionedStream, "both"


class TestBeforeAStoreWithoutVersions(_Contract):
    kind = "both"

    def make(self, objects: Mapping[str, bytes]) -> Store:
        self.behind = lambda objects: CountingStore(MappingStore(objects))  # type: ignore[assignment]
        return super().make(objects)


class TestCold(StoreContract):
    def make(self, objects: Mapping[str, bytes]) -> Store:
        return cached_store(Server(objects), [MemoryCache(1 << 20)])


# ---- what is asked


def test_once_is_asked_once(caches: list[Any]) -> None:
    """A handle confirms an object at its first use, all its ranges together, and asks no more."""
    server = Server({"a": bytes(range(100)), "b": b"bb"})
    ranges = [Request("a", 0, 10), Request("a", 20, 30), Request("a", -5, None)]
    first = cached_store(server, caches)
    expected = [bytes(range(10)), bytes(range(20, 50)), bytes(range(95, 100)), b"bb"]
    assert got(first, *ranges, "b") == expected
    assert server.asked == 4
    assert got(first, *ranges, "b") == expected
    assert got(first, Request("a", 22, 5), Request("a", -3, 2)) == [bytes(range(22, 27)), b"\x61\x62"]
    assert server.asked == 0
    assert (first.cache_stats.hits, first.cache_stats.misses, first.cache_stats.checks) == (6, 4, 0)
    assert (first.cache_stats.bytes_hit, first.cache_stats.bytes_missed) == (54, 47)
    again = cached_store(server, caches)
    assert got(again, *ranges, "b") == expected
    assert [unless for _, unless in server.seen] == ['"1"', '"2"'], "one conditional request an object"
    assert server.asked == 2
    assert got(again, *ranges, "b") == expected
    assert server.asked == 0
    assert again.cache_stats.checks == 2


def test_a_miss_confirms_what_is_kept(caches: list[Any]) -> None:
    """Where a range is missing, its answer tells the version, and nothing else is asked."""
    server = Server({"a": bytes(range(100))})
    got(cached_store(server, caches), Request("a", 0, 10))
    assert server.asked == 1
    assert got(cached_store(server, caches), Request("a", 5, 5), Request("a", 50, 2)) == [
        bytes(range(5, 10)),
        b"\x32\x33",
    ]
    assert server.seen == [(Request("a", 50, 2), None)]


@pytest.mark.parametrize("check", ["once", "always"])
def test_what_has_changed_is_brought_by_the_question(caches: list[Any], check: str) -> None:
    server = Server({"a": b"old bytes"})
    first = cached_store(server, caches, check)
    assert got(first, Request("a", 0, 3), Request("a", 4, 5)) == [b"old", b"bytes"]
    server.change("a", b"new words")
    assert server.asked == 2
    other = cached_store(server, caches, check)
    assert got(other, Request("a", 0, 3), Request("a", 4, 5)) == [b"new", b"words"]
    assert [unless for _, unless in server.seen] == ['"1"', None], (
        "the second range of the old one is useless"
    )
    server.seen.clear()
    assert got(other, Request("a", 0, 3), Request("a", 4, 5)) == [b"new", b"words"]
    assert server.asked == (0 if check == "once" else 1)
    late = got(first, Request("a", 0, 3))
    assert late == ([b"new"] if check == "always" else late)


def test_never_is_never_asked(caches: list[Any]) -> None:
    server = Server({"a": bytes(range(100))})
    got(cached_store(server, caches, "never"), "a", Request("a", 3, 4))
    assert server.asked == 2
    again = cached_store(server, caches, "never")
    assert got(again, "a", Request("a", -4)) == [bytes(range(100)), bytes(range(96, 100))]
    assert server.asked == 0


def test_without_versions_once_is_for_one_handle(caches: list[Any]) -> None:
    """Nothing can be confirmed, so another handle starts anew; `never` is for good where the place is."""
    objects = {"a": b"bytes"}
    store = CountingStore(Unversioned(objects))
    for check, expected in (("once", 1), ("never", 0)):
        store.forget()
        first = cached_store(store, caches, check)
        assert got(first, "a") == got(first, "a") == [b"bytes"]
        assert len(store.seen) == 1
        assert got(cached_store(store, caches, check), "a") == [b"bytes"]
        assert len(store.seen) == 1 + expected
    objects["a"] = b"old bytes"
    first = cached_store(store, caches)
    start, end = Request("a", 0, 3, "its version"), Request("a", 4, 5)
    assert got(first, start, end) == [b"old", b"bytes"]
    objects["a"] = b"new words"
    other = cached_store(store, caches)
    assert [*got(other, start), *got(other, end)] == [b"new", b"words"]
    with pytest.raises(ArgumentError, match="cannot be checked"):
        cached_store(store, caches, "always")
    with pytest.raises(ArgumentError, match="none of once"):
        cached_store(store, caches, "sometimes")


def test_stores_whose_place_is_not_lasting_share_nothing(caches: list[Any]) -> None:
    """Two mappings have one URL."""
    stores = [cached_store(MappingStore({"a": value}), caches, "never") for value in (b"1", b"2")]
    assert [got(store, "a") for store in stores * 2] == [[b"1"], [b"2"]] * 2


def test_versions_that_are_asked_for(caches: list[Any]) -> None:
    """A kept range of that version is a hit, unasked; of another version it is none."""
    server = Server({"a": b"old bytes"})
    store = cached_store(server, caches)
    assert got(store, Request("a", 0, 3)) == [b"old"]
    other = cached_store(server, caches)
    assert got(other, Request("a", 0, 3, '"1"')) == [b"old"]
    assert server.asked == 1
    server.change("a", b"new words")
    assert got(other, Request("a", 0, 3, '"1"')) == [b"old"], "the version says which"
    assert server.asked == 0
    for request in (Request("a", 4, 5, '"1"'), Request("a", 0, 3, '"9"')):
        with pytest.raises(ChangedError):
            got(store, request)
    assert server.asked == 2
    assert got(store, Request("a", 0, 3)) == [b"new"], "trust ends where a version is gone"
    assert got(store, Request("a", 4, 5, '"2"')) == [b"words"]
    assert got(cached_store(server, caches), Request("a", 4, 5, '"2"')) == [b"words"]
    assert server.asked == 2


def test_get_versioned(caches: list[Any]) -> None:
    server = Server({"a": b"bytes"})
    store = cached_store(server, caches)
    assert isinstance(store, VersionedStore)

    def versioned(*unless: str | None) -> list[tuple[bytes | None, str | None] | None]:
        found = store.get_versioned([Request("a")] * len(unless), unless)
        return [one and (None if one.data is None else bytes(one.data), one.version) for one in found]

    assert versioned('"1"') == [(None, '"1"')]
    assert versioned('"0"') == [(b"bytes", '"1"')]
    assert server.asked == 2
    assert versioned('"1"', None, '"0"') == [(None, '"1"'), (b"bytes", '"1"'), (b"bytes", '"1"')]
    assert server.asked == 0
    store = cached_store(server, caches)
    assert versioned(None, '"1"') == [(b"bytes", '"1"'), (None, '"1"')]
    assert server.asked == 1
    server.change("a", b"words")
    store = cached_store(server, caches)
    assert versioned('"2"', '"1"') == [(None, '"2"'), (b"words", '"2"')]
    assert store.get_versioned([Request("none")]) == [None]


def test_weak_and_missing_versions_are_none(caches: list[Any]) -> None:
    """A weak ETag does not name bytes: what has one is kept for its handle alone, or not at all."""
    server = Server()
    server.change("a", b"bytes", 'W/"1"')
    for check, asked in (("once", [1, 0, 1]), ("always", [1, 1, 1])):
        store = cached_store(server, caches, check)
        counts = []
        for one in (store, store, cached_store(server, caches, check)):
            assert got(one, "a") == [b"bytes"]
            assert all(unless is None for _, unless in server.seen)
            counts.append(server.asked)
        assert counts == asked


def test_what_is_absent_is_asked_for_again(caches: list[Any]) -> None:
    server = Server({"a": b"bytes"})
    store = cached_store(server, caches)
    assert got(store, "later", "a") == [None, b"bytes"]
    server.change("later", b"here")
    assert got(store, "later") == [b"here"]
    server.delete(["a"])
    other = cached_store(server, caches)
    assert got(other, Request("a", 0, 2), Request("a", 2, 2)) == [None, None]
    server.change("a", b"bytes", '"1"')
    server.seen.clear()
    assert got(other, "a") == [b"bytes"]
    assert server.seen == [(Request("a"), None)], "nothing was kept of what was gone"


def test_a_cache_in_memory_takes_from_the_disk(tmp_path: Path) -> None:
    server = Server({"a": b"bytes"})
    memory, disk = make_caches("both", tmp_path)
    got(cached_store(server, [disk], "never"), "a")
    assert got(cached_store(server, [memory, disk], "never"), Request("a", 1, 3)) == [b"yte"]
    assert len([*(tmp_path / "cache").glob("??/*/*")]) == 1, "and the disk nothing from itself"
    disk.forget("('test', 'server')\0a")
    assert got(cached_store(server, [memory, disk], "never"), Request("a", 2, 1)) == [b"t"]
    assert server.asked == 1


def test_an_answer_without_bytes_and_version_says_nothing(caches: list[Any]) -> None:
    """Servers that are asked for what lies behind an object's end do not say of which."""

    class Curt(Server):
        def one(self, request: Request, unless: str | None) -> Versioned | None:
            answer = super().one(request, unless)
            return Versioned(b"", None) if answer is not None and answer.data == b"" else answer

    server = Curt({"a": b"bytes"})
    store = cached_store(server, caches)
    for request in (Request("a", 0, 2), Request("a", 9, 2), Request("a", 0, 2)):
        got(store, request)
    assert [request.start for request, _ in server.seen] == [0, 9]
    got(cached_store(server, caches), Request("a", 9, 2), Request("a", 0, 2))
    assert [unless for _, unless in server.seen][2:] == [None, None], "the other one asks for itself"


def test_what_never_changes_and_does(caches: list[Any]) -> None:
    """A version that is asked for is not mixed up with another; what is wrong is forgotten."""
    server = Server({"a": b"old bytes"})
    store = cached_store(server, caches, "never")
    assert isinstance(store, VersionedStore)
    assert store.get_versioned([Request("a")]) == [(b"old bytes", '"1"')]
    server.change("a", b"new words")
    assert got(store, "a") == [b"old bytes"]
    assert got(store, Request("a", 0, 3, '"2"')) == [b"new"]
    server.change("a", b"3rd words")
    with pytest.raises(ChangedError):
        got(store, Request("a", 0, 3, '"9"'))
    assert got(store, Request("a", 0, 3)) == [b"3rd"]


def test_other_labels_are_forgotten_alone(caches: list[Any]) -> None:
    for cache in caches:
        cache.keep("name", "=1", "1", Span(0, 3, 3), b"old")
        cache.forget("name", but="=1")
        assert cache.version("name") == "1"
        cache.forget("name", but="=2")
        assert cache.version("name") is None


# ---- streams


def streamed(store: Any, *requests: Request | str) -> list[tuple[int, bytes | None]]:
    asked = [Request(one) if isinstance(one, str) else one for one in requests]
    return [(i, None if one is None else bytes(one)) for i, one in store.stream(asked)]


@pytest.mark.parametrize("kind", [Server, Streaming, VersionedStream])
def test_hits_come_first_and_each_answer_once(caches: list[Any], kind: type[Server]) -> None:
    server = kind({key: key.encode() for key in "abcdef"})
    store = cached_store(server, caches)
    assert isinstance(store, StreamingStore)
    got(store, "b", "d")
    assert server.asked == 2
    answers = streamed(store, *"abcde", "none")
    assert [i for i, _ in answers][:2] == [1, 3]
    assert dict(answers) == {0: b"a", 1: b"b", 2: b"c", 3: b"d", 4: b"e", 5: None}
    assert len(answers) == 6
    assert server.asked == 4
    assert dict(streamed(store, *"abcde")) == dict(enumerate([b"a", b"b", b"c", b"d", b"e"]))
    assert server.asked == 0
    again = cached_store(server, caches)
    server.change("c", b"changed")
    assert dict(streamed(again, *"abc", Request("c", 1, 2))) == {0: b"a", 1: b"b", 2: b"changed", 3: b"ha"}
    assert [unless for _, unless in server.seen].count(None) == 1


def test_a_stream_of_a_store_without_versions() -> None:
    store = cached_store(CountingStore(MappingStore({"a": b"1", "b": b"2"})), [MemoryCache(1 << 20)])
    assert dict(streamed(store, "a", "b")) == dict(streamed(store, "a", "b")) == {0: b"1", 1: b"2"}
    assert isinstance(store.store, CountingStore)
    assert len(store.store.seen) == 2


def test_streams_go_through_where_no_version_is_needed(caches: list[Any]) -> None:
    """Immutable data and versions that are asked for: the store behind streams, into the caller's memory."""
    server = Streaming({"a": b"1", "b": b"2"})
    memory: dict[int, bytearray] = {}

    def place(i: int, nbytes: int) -> memoryview:
        memory[i] = bytearray(nbytes)
        return memoryview(memory[i])

    store = cached_store(server, caches, "never")
    assert isinstance(store, StreamingStore)
    assert sorted(i for i, _ in store.stream([Request("a"), Request("b")], place)) == [0, 1]
    assert (server.with_place, server.calls) == (1, 0)
    once = cached_store(server, caches)
    assert streamed(once, Request("a", 0, 1, '"1"'), Request("b", 0, 1, '"2"')) == [(1, b"2"), (0, b"1")]
    assert server.calls == 0
    server.seen.clear()
    assert dict(streamed(once, Request("a", 0, 1), Request("b", 0, 1))) == {0: b"1", 1: b"2"}
    assert server.asked == 0


def test_threads_share_a_stream(caches: list[Any]) -> None:
    keys = [f"k{i}" for i in range(60)]
    server = VersionedStream({key: key.encode() * 3 for key in keys})
    got(cached_store(server, caches), *keys[::2])
    store = cached_store(server, caches)
    answers = store.stream([Request(key) for key in keys])
    came: list[tuple[int, bytes]] = []

    def take() -> None:
        came.extend((i, bytes(one or b"")) for i, one in answers)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(came) == [(i, key.encode() * 3) for i, key in enumerate(keys)]


def test_a_stream_that_is_closed_asks_no_more() -> None:
    server = Streaming({"a": b"1", "b": b"2", "c": b"3"})
    answers: Any = cached_store(server, [MemoryCache(1 << 20)], "never").stream(
        [Request(key) for key in "abc"]
    )
    assert next(answers)[0] == 2
    answers.close()
    assert list(answers) == []
    assert (server.asked, server.closed) == (1, 1)


@pytest.mark.parametrize("eager", [False, True])
def test_a_stream_that_meets_another_version_ends_trust(eager: bool) -> None:
    class Eager(Streaming):
        def stream(self, requests: Sequence[Request], place: Place | None = None) -> Iterator[Any]:
            return iter(list(super().stream(requests, place)))

    server = (Eager if eager else Streaming)({"a": b"old bytes"})
    store = cached_store(server, [MemoryCache(1 << 20)])
    got(store, Request("a", 0, 3))
    server.change("a", b"new words")
    with pytest.raises(ChangedError):
        streamed(store, Request("a", 4, 5, '"1"'))
    assert got(store, Request("a", 0, 3)) == [b"new"]


def test_an_error_ends_a_stream() -> None:
    class Broken(VersionedStream):
        def one(self, request: Request, unless: str | None) -> Versioned | None:
            if request.key == "b":
                raise StoreError("broken")
            return super().one(request, unless)

    store = cached_store(Broken({"a": b"1", "c": b"3"}), [MemoryCache(1 << 20)])
    answers = store.stream([Request(key) for key in "abc"])
    assert bytes(next(answers)[1] or b"") == b"3"
    with pytest.raises(StoreError, match="broken"):
        next(answers)
    assert list(answers) == []
    assert got(store, "c") == [b"3"]


def test_a_store_that_talks_nonsense_is_an_error() -> None:
    class Silent(Server):
        def one(self, request: Request, unless: str | None) -> Versioned | None:
            return Versioned(None, '"1"')

    with pytest.raises(StoreError, match="without having been asked"):
        got(cached_store(Silent(), [MemoryCache(1 << 20)]), "a")


# ---- writes


@pytest.mark.parametrize("check", ["once", "always", "never"])
def test_writes_go_through_and_are_seen(caches: list[Any], check: str) -> None:
    server = Server({"a": b"old", "p/b": b"old", "p/c": b"old"})
    store, other = cached_store(server, caches, check), cached_store(server, caches, check)
    assert isinstance(store, WritableStore)
    for one in (store, other):
        got(one, "a", "p/b", "p/c")
    store.put([("a", [b"n", b"ew"])])
    store.delete(["p/b"])
    for one in (store, other):
        assert got(one, "a", "p/b", "p/c") == [b"new", None, b"old"]
    store.delete_below("p/")
    for one in (store, other):
        assert got(one, "a", "p/b", "p/c") == [b"new", None, None]
    assert [*store.list()] == ["a"]


def test_writes_through_other_stores_of_the_process(caches: list[Any]) -> None:
    """`forget` is how a cached store hears of them."""
    server = Server({"a": b"old", "p/b": b"old"})
    plain = CountingStore(MappingStore({"a": b"old"}))
    store, without = cached_store(server, caches), cached_store(plain, caches)
    got(store, "a", "p/b")
    got(without, "a")
    server.put([("a", b"new"), ("p/b", b"new")])
    plain.put([("a", b"new")])
    assert got(store, "a", "p/b") == [b"old", b"old"]
    forget([place_of(server, "a")])
    forget_below(place_of(server, "p/"))
    forget([place_of(plain, "a")])
    assert got(store, "a", "p/b") == [b"new", b"new"]
    assert got(without, "a") == [b"new"]


@pytest.mark.parametrize("check", ["once", "never"])
@pytest.mark.parametrize("request_", [Request("a"), Request("a", -3, 1)], ids=["whole", "part"])
def test_what_is_written_while_it_is_read_is_not_kept(
    caches: list[Any], check: str, request_: Request
) -> None:
    class Slow(Server):
        def one(self, request: Request, unless: str | None) -> Versioned | None:
            answer = super().one(request, unless)
            if self.meanwhile:
                value, self.meanwhile = self.meanwhile, b""
                assert isinstance(store, WritableStore)
                store.put([("a", value)])
            return answer

        meanwhile = b""

    server = Slow({"a": b"old"})
    store = cached_store(server, caches, check)
    server.meanwhile = b"new"
    assert got(store, request_) == [cut(memoryview(b"old"), request_)]
    assert isinstance(store, VersionedStore)
    assert store.get_versioned([request_], ['"1"']) == [(cut(memoryview(b"new"), request_), '"2"')]
    assert got(store, request_) == [cut(memoryview(b"new"), request_)]
    assert got(store, request_, "a") == [cut(memoryview(b"new"), request_), b"new"]


def test_trust_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more objects than a handle remembers, it asks again."""
    monkeypatch.setattr(cache_trust, "_MOST_TRUSTED", 2)
    server = Server({"a": b"1", "b": b"2", "c": b"3"})
    store = cached_store(server, [MemoryCache(1 << 20)])
    for key in ("a", "b", "c", "b", "c", "a"):
        got(store, key)
    assert [(request.key, unless) for request, unless in server.seen[3:]] == [("a", '"1"')]


def test_a_failed_write_is_forgotten_too() -> None:
    class Half(Server):
        def put(self, objects: Sequence[tuple[str, Buffer | Pieces]]) -> None:
            super().put(objects)
            raise StoreError("no answer came")

    server = Half({"a": b"old"})
    store = cached_store(server, [MemoryCache(1 << 20)])
    assert isinstance(store, WritableStore)
    got(store, "a")
    with pytest.raises(StoreError):
        store.put([("a", b"new")])
    assert got(store, "a") == [b"new"]


def test_kinds_are_truthful() -> None:
    class ReadOnly:
        def __init__(self, of: type[Any]) -> None:
            for name in dir(Store) + ["get_versioned"] * (of is Server):
                if not name.startswith("_"):
                    setattr(self, name, getattr(of({}), name))

    cache = MemoryCache(1 << 20)
    for store, versioned, writable in (
        (Server(), True, True),
        (ReadOnly(Server), True, False),
        (MappingStore({}), False, True),
        (ReadOnly(MappingStore), False, False),
    ):
        one = cached_store(store, [cache])  # type: ignore[arg-type]
        assert isinstance(one, Store)
        assert isinstance(one, StreamingStore)
        assert isinstance(one, VersionedStore) is versioned
        assert isinstance(one, WritableStore) is writable


def test_places_are_those_of_the_store_behind(tmp_path: Path) -> None:
    """So that turns, decoded chunks and shard indexes are those of the object."""
    store = LocalStore(str(tmp_path))
    one = cached(store, {"kind": "memory", "nbytes": 1000})
    assert place_of(one, "a/b") == place_of(store, "a/b")
    assert one.url == store.url


# ---- memory


def test_the_least_recently_used_goes_first() -> None:
    server = Server({key: bytes(1000) for key in "abcd"})
    cache = MemoryCache(3 * (1000 + 512))
    store = cached_store(server, [cache])
    for key in "abcad":
        got(store, key)
    assert cache.held == cache.nbytes
    server.seen.clear()
    got(store, "a", "c", "d")
    assert server.asked == 0
    got(store, "b")
    assert server.asked == 1
    got(store, "d", "b", "c")
    assert server.asked == 0
    got(store, "a")
    assert server.asked == 1


def test_what_is_larger_than_the_cache_passes_through() -> None:
    server = Server({"a": bytes(1000), "b": b"b"})
    cache = MemoryCache(1000)
    store = cached_store(server, [cache])
    for _ in range(2):
        assert got(store, "b", "a") == [b"b", bytes(1000)]
    assert [request.key for request, _ in server.seen] == ["b", "a", "a"]
    assert cache.held == 513


def test_what_is_kept_is_a_copy() -> None:
    memory = bytearray(b"bytes")

    class Lends(Server):
        def one(self, request: Request, unless: str | None) -> Versioned | None:
            return Versioned(memoryview(memory), '"1"')

    store = cached_store(Lends(), [MemoryCache(1 << 20)])
    assert got(store, "a") == [b"bytes"]
    memory[:] = b"other"
    (kept,) = store.get_ranges([Request("a")])
    assert bytes(kept or b"") == b"bytes"
    assert isinstance(kept, memoryview)
    assert kept.readonly


def test_clear_and_a_smaller_range_inside_a_larger_one() -> None:
    server = Server({"a": bytes(range(100))})
    cache = MemoryCache(1 << 20)
    store = cached_store(server, [cache])
    for request in (Request("a", 10, 10), Request("a", 30, 10), Request("a", 0, 60)):
        got(store, request)
    assert cache.held == 60 + 512
    assert got(store, Request("a", 35, 20)) == [bytes(range(35, 55))]
    assert server.asked == 3
    cache.clear()
    assert cache.held == 0
    got(store, Request("a", 35, 20))
    assert server.asked == 1


# ---- what users say


def test_what_users_say(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    first, second = cached(store, "memory"), cached(MappingStore({}), ["memory"])
    assert first.caches[0] is second.caches[0]
    assert first.caches[0].nbytes == door.MEMORY_NBYTES
    assert cached(store, {"kind": "memory", "nbytes": 10}).caches[0].nbytes == 10
    with gpuzarr.configured(cache_dir=str(tmp_path / "home")):
        disk = cached(store, "disk")
        assert cached(store, "disk").caches[0] is disk.caches[0]
        both = cached(store, ["memory", "disk"])
    assert (tmp_path / "home" / "chunks").stat().st_mode & 0o777 == 0o700
    assert disk.caches[0].nbytes == door.DISK_NBYTES
    assert [type(one).__name__ for one in both.caches] == ["_Shared", "DiskCache"]
    given = cached(
        store, [{"kind": "memory"}, {"kind": "disk", "directory": tmp_path / "c", "check": "never"}]
    )
    assert given.trust.check == "never"
    assert (tmp_path / "c").is_dir()
    assert cached(store, MemoryCache(5)).caches[0].nbytes == 5
    assert "never" in repr(given)


@pytest.mark.parametrize(
    ("cache", "match"),
    [
        ("tape", "no cache of kind 'tape'"),
        (True, "a bool says nothing"),
        (None, "a NoneType says nothing"),
        ([], "no caches"),
        ({"kind": "memory", "directory": "/tmp/x"}, "no option directory"),
        ({"kind": "disk", "size": 3}, "no option size"),
        ({"kind": "memory", "nbytes": 0}, "at least 1"),
        ({"kind": "memory", "nbytes": True}, "at least 1"),
        ({"kind": "disk", "directory": 3}, "no path"),
        ({"kind": "memory", "check": "perhaps"}, "none of once, always, never"),
        ([{"kind": "memory", "check": "once"}, {"kind": "memory", "check": "never"}], "one check"),
    ],
)
def test_what_users_say_wrongly(cache: Any, match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        cached(MappingStore({}), cache)


def test_another_process_asks_anew(tmp_path: Path) -> None:
    """Handles travel to workers with their caches, and without their trust."""
    behind = CountingStore(LocalStore(str(tmp_path)))
    store = cached(behind, ["memory", {"kind": "disk", "directory": tmp_path / "c"}])
    (tmp_path / "a").write_bytes(b"bytes")
    assert got(store, "a") == [b"bytes"]
    there = pickle.loads(pickle.dumps(store))
    assert type(there) is type(store)
    assert there.caches[0] is store.caches[0], "the process has one"
    assert there.cache_stats.hits == 0
    assert got(there, "a") == [b"bytes"]
    assert there.cache_stats.hits == 0
    own = pickle.loads(pickle.dumps(cached(store.store, {"kind": "memory", "nbytes": 7})))
    assert own.caches[0].nbytes == 7


def test_a_handle_that_is_dropped_is_not_held() -> None:
    gc.collect()
    before = len(cache_trust._trusts)
    store: CachedStore | None = cached_store(Server({"a": b"1"}), [MemoryCache(100)])
    assert store is not None
    got(store, "a")
    assert len(cache_trust._trusts) == before + 1
    store = None
    gc.collect()
    assert len(cache_trust._trusts) == before


def test_arrays_are_read_through_a_cache(tmp_path: Path) -> None:
    """The engine reads and writes through it; the second read asks the store behind for nothing."""
    import numpy as np

    objects: dict[str, bytes] = {}
    values = np.arange(600, dtype="i4").reshape(20, 30)
    gpuzarr.save(objects, values, chunks=(5, 5), shards=(10, 10), codecs=["zstd"], device="cpu")
    store = Server(objects)
    cache = cached(store, {"kind": "disk", "directory": tmp_path / "c"})
    array = gpuzarr.open_array(cache, mode="r+", device="cpu")
    np.testing.assert_array_equal(array[...], values)
    np.testing.assert_array_equal(array[3:17, 4:22], values[3:17, 4:22])
    store.seen.clear()
    np.testing.assert_array_equal(array[...], values)
    assert store.asked == 0
    array[2:4] = 7
    values[2:4] = 7
    np.testing.assert_array_equal(array[...], values)
    np.testing.assert_array_equal(gpuzarr.open_array(store, device="cpu")[...], values)
