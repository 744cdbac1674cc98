"""The contract of a Store, as tests that every implementation passes; and a store that counts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gpuzarr.errors import StoreError
from gpuzarr.store.base import Buffer, Place, Request, Store, Traits

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


@dataclass(slots=True)
class CountingStore:
    """A store that passes on, and keeps every request it saw."""

    inner: Store
    seen: list[Request] = field(default_factory=list)

    @property
    def url(self) -> str:
        """That of the inner store."""
        return self.inner.url

    @property
    def traits(self) -> Traits:
        """Those of the inner store."""
        return self.inner.traits

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
