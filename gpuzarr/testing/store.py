"""The contract of a Store, as tests that every implementation passes; and a store that counts.

Where the store can be written, what `put`, `delete` and `delete_below` promise is tested too.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gpuzarr.errors import ReadOnlyError, StoreError
from gpuzarr.store.base import Buffer, Pieces, Place, Request, Store, Traits, WritableStore, joined, place_of

OBJECTS: dict[str, bytes] = {
    "zarr.json": b"{}",
    "a/zarr.json": b"{ }",
    "a/c/0/0": bytes(range(256)) * 4,
    "a/c/0/1": b"",
    "ab": b"neighbour",
}
"""What `StoreContract.make` puts into the store under test."""


class StoreContract:
    """Subclass it as `TestMyStore(StoreContract)` and give `make`. Needs pytest, nothing else."""

    @abstractmethod
    def make(self, objects: Mapping[str, bytes]) -> Store:
        """A store that holds exactly `objects`."""

    def test_is_a_store(self) -> None:
        """It satisfies the protocol and names itself."""
        store = self.make(OBJECTS)
        assert isinstance(store, Store)
        assert store.url
        assert isinstance(store.traits, Traits)

    def test_whole_objects(self) -> None:
        """Every object comes whole, in the order of the requests, twice if asked twice."""
        store = self.make(OBJECTS)
        keys = [*OBJECTS, *OBJECTS]
        found = store.get_ranges([Request(key) for key in keys])
        assert [bytes(one) for one in found if one is not None] == [OBJECTS[key] for key in keys]

    def test_ranges(self) -> None:
        """Inner, open-ended, suffix, empty and overlong ranges give the bytes there are."""
        store = self.make(OBJECTS)
        whole = OBJECTS["a/c/0/0"]
        ranges = {
            (0, 10): whole[:10],
            (100, 24): whole[100:124],
            (1000, None): whole[1000:],
            (-20, None): whole[-20:],
            (-20, 20): whole[-20:],
            (-20, 4): whole[-20:-16],
            (1020, 100): whole[1020:],
            (5, 0): b"",
            (-5000, None): whole,
        }
        found = store.get_ranges([Request("a/c/0/0", start, nbytes) for start, nbytes in ranges])
        assert [None if one is None else bytes(one) for one in found] == list(ranges.values())

    def test_absent_is_a_value(self) -> None:
        """A key that is not there gives None, and those beside it their bytes. A prefix is not an object."""
        store = self.make(OBJECTS)
        found = store.get_ranges([Request("nothing"), Request("ab"), Request("a/c"), Request("a/c/9", -4, 4)])
        assert [None if one is None else bytes(one) for one in found] == [None, b"neighbour", None, None]
        assert store.get_ranges([]) == []

    def test_place(self) -> None:
        """Bytes that lie where `place` wanted them are right there; the answer says where they are."""
        store = self.make(OBJECTS)
        memory: dict[int, bytearray] = {}

        def place(i: int, nbytes: int) -> memoryview:
            memory[i] = bytearray(nbytes)
            return memoryview(memory[i])

        requests = [Request("ab"), Request("none"), Request("a/c/0/0", 3, 7), Request("a/c/0/0", -6, None)]
        found = store.get_ranges(requests, place)
        expected = [b"neighbour", None, OBJECTS["a/c/0/0"][3:10], OBJECTS["a/c/0/0"][-6:]]
        assert [None if one is None else bytes(one) for one in found] == expected
        for i, held in memory.items():
            assert bytes(held) == expected[i]

    def test_unclean_keys(self) -> None:
        """A key that could leave the store is a StoreError."""
        store = self.make(OBJECTS)
        for key in ("../ab", "a/../ab", "/etc/passwd", "a//c", "", ".", "a/./c", "a\\b", "a\0b"):
            try:
                store.get_ranges([Request(key)])
            except StoreError:
                continue
            raise AssertionError(f"{key!r} was read")

    def test_exists_and_size(self) -> None:
        """Objects exist, prefixes do not; a size is right or unknown."""
        store = self.make(OBJECTS)
        assert store.exists("a/c/0/1")
        assert not store.exists("a/c")
        assert not store.exists("a/c/0/2")
        assert store.size("a/c/0/0") in (1024, None)
        assert store.size("missing") is None

    def test_listing(self) -> None:
        """Every key once; the names right below a prefix once."""
        store = self.make(OBJECTS)
        assert sorted(store.list()) == sorted(OBJECTS)
        assert sorted(store.list("a/")) == sorted(key for key in OBJECTS if key.startswith("a/"))
        assert sorted(store.list_dir()) == ["a", "ab", "zarr.json"]
        assert sorted(store.list_dir("a/c/")) == ["0"]
        assert sorted(store.list_dir("a/c/0/")) == ["0", "1"]
        assert sorted(store.list_dir("nothing/")) == []

    # ---- writing: a store that cannot be written passes these as it is

    def _writable(self, objects: Mapping[str, bytes] = OBJECTS) -> WritableStore | None:
        store = self.make(objects)
        return store if isinstance(store, WritableStore) else None

    def test_put(self) -> None:
        """New objects and new bytes for old ones, from every kind of buffer, in one piece or several."""
        store = self._writable()
        if store is None:
            return
        large = bytes(range(256)) * 2048
        put: dict[str, Buffer | Pieces] = {
            "b/c/0": b"bytes",
            "ab": bytearray(b"bytearray"),
            "a/c/0/0": memoryview(b"-memoryview-")[1:-1],
            "a/c/0/1": [b"in ", b"", bytearray(b"several "), memoryview(b"pieces")],
            "b/large": [large[i : i + 100] for i in range(0, len(large), 100)],
            "b/empty": b"",
            "b/none": [],
        }
        store.put(list(put.items()))
        expected = {**OBJECTS, **{key: bytes(joined(value)) for key, value in put.items()}}
        assert sorted(store.list()) == sorted(expected)
        found = store.get_ranges([Request(key) for key in expected])
        assert [None if one is None else bytes(one) for one in found] == list(expected.values())
        assert sorted(store.list_dir("b/")) == ["c", "empty", "large", "none"]
        store.put([])

    def test_put_copies(self) -> None:
        """What is stored does not change with the memory that it came from."""
        store = self._writable()
        if store is None:
            return
        memory = bytearray(b"before")
        store.put([("memory", memory)])
        memory[:] = b"behind"
        (found,) = store.get_ranges([Request("memory")])
        assert bytes(found or b"") == b"before"

    def test_delete(self) -> None:
        """What is there goes, what is not there is no error, what lies beside it stays."""
        store = self._writable()
        if store is None:
            return
        store.delete(["a/c/0/0", "nothing", "a/nothing/0", "ab"])
        store.delete(["ab"])
        store.delete([])
        assert sorted(store.list()) == ["a/c/0/1", "a/zarr.json", "zarr.json"]
        assert not store.exists("ab")

    def test_delete_below(self) -> None:
        """Everything below a prefix, and no neighbour whose name begins alike; then everything."""
        store = self._writable()
        if store is None:
            return
        store.delete_below("nothing/")
        store.delete_below("a/")
        assert sorted(store.list()) == ["ab", "zarr.json"]
        assert sorted(store.list_dir()) == ["ab", "zarr.json"]
        store.put([("a/again", b"1")])
        assert store.exists("a/again")
        store.delete_below("")
        assert sorted(store.list()) == []
        store.put([("zarr.json", b"{}")])
        assert sorted(store.list()) == ["zarr.json"]

    def test_unclean_keys_are_not_written(self) -> None:
        """Nothing is written or deleted outside of the store."""
        store = self._writable()
        if store is None:
            return
        for key in ("../ab", "a/../ab", "/etc/passwd", "a//c", "", ".", "a\\b", "a\0b"):
            refused = 0
            try:
                store.put([(key, b"x")])
            except StoreError:
                refused += 1
            try:
                store.delete([key])
            except StoreError:
                refused += 1
            assert refused == 2, f"{key!r} was written or deleted"
        assert sorted(store.list()) == sorted(OBJECTS)

    def test_objects_are_never_torn(self) -> None:
        """A reader beside a writer sees the old bytes or the new ones, whole, whatever their sizes."""
        store = self._writable({"object": b"\0" * 70_000})
        if store is None:
            return
        values = [bytes([i]) * (70_000 - 20_000 * (i % 4)) for i in range(24)]
        known, torn = set(values), []
        done = threading.Event()

        def watch() -> None:
            while not done.is_set():
                (found,) = store.get_ranges([Request("object")])
                if found is None or bytes(found) not in known:
                    torn.append(found)

        reader = threading.Thread(target=watch)
        reader.start()
        try:
            for value in values:
                store.put([("object", [value[:999], value[999:]])])
                assert list(store.list()) == ["object"]
        finally:
            done.set()
            reader.join()
        assert torn == []


@dataclass(slots=True)
class CountingStore:
    """A store that passes on, and keeps every request it saw, to read and to write."""

    inner: Store
    seen: list[Request] = field(default_factory=list)
    put_keys: list[str] = field(default_factory=list)
    """Keys of objects that were stored, in order."""
    deleted_keys: list[str] = field(default_factory=list)
    """Keys and prefixes that were deleted, whether or not something was there."""
    bytes_put: int = 0

    @property
    def url(self) -> str:
        """That of the inner store."""
        return self.inner.url

    @property
    def traits(self) -> Traits:
        """Those of the inner store."""
        return self.inner.traits

    def place(self, key: str) -> tuple[object, str]:
        """That of the inner store."""
        return place_of(self.inner, key)

    def get_ranges(self, requests: Sequence[Request], place: Place | None = None) -> list[Buffer | None]:
        """Count and pass on."""
        self.seen += requests
        return self.inner.get_ranges(requests, place)

    def size(self, key: str) -> int | None:
        """Pass on."""
        return self.inner.size(key)

    def exists(self, key: str) -> bool:
        """Pass on."""
        return self.inner.exists(key)

    def list(self, prefix: str = "") -> Iterator[str]:
        """Pass on."""
        return self.inner.list(prefix)

    def list_dir(self, prefix: str = "") -> Iterator[str]:
        """Pass on."""
        return self.inner.list_dir(prefix)

    def put(self, objects: Sequence[tuple[str, Buffer | Pieces]]) -> None:
        """Count and pass on."""
        self.put_keys += [key for key, _ in objects]
        self.bytes_put += sum(len(joined(value)) for _, value in objects)
        self._writable().put(objects)

    def delete(self, keys: Sequence[str]) -> None:
        """Count and pass on."""
        self.deleted_keys += keys
        self._writable().delete(keys)

    def delete_below(self, prefix: str) -> None:
        """Count and pass on."""
        self.deleted_keys.append(prefix)
        self._writable().delete_below(prefix)

    def forget(self) -> None:
        """Begin to count anew."""
        self.seen, self.put_keys, self.deleted_keys, self.bytes_put = [], [], [], 0

    def _writable(self) -> WritableStore:
        if not isinstance(self.inner, WritableStore):
            raise ReadOnlyError(f"{self.url} cannot be written")
        return self.inner
