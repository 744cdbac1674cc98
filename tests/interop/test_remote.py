"""Hierarchies written by zarr-python, read from real servers: moto's S3, an S3 and an HTTP server of ranges;
what it costs in requests; and written there, read back by zarr-python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import zarr

import gpuzarr
from gpuzarr.errors import ArgumentError, ChangedError
from gpuzarr.store.remote import BucketStore
from tests.conftest import to_host
from tests.devices import SOME
from tests.servers.ranges import RangeServer
from tests.servers.s3 import S3Server

RNG = np.random.default_rng(5)
VOLUME = RNG.integers(1, 2000, (48, 40, 56), np.uint16)
IMAGE = RNG.normal(size=(70, 90)).astype(np.float32)
IMAGE[:20] = 0
SAMPLES = ("v2", "v3", "v3 consolidated", "v2 consolidated")


def sample(name: str) -> dict[str, bytes]:
    """A group with arrays of many kinds, as zarr-python stores them."""
    held: dict[str, Any] = {}
    store, zarr_format = zarr.storage.MemoryStore(held), int(name[1])
    root = zarr.create_group(store, zarr_format=zarr_format, attributes={"of": "root"})
    few: dict[str, Any] = {"shape": VOLUME.shape, "dtype": VOLUME.dtype, "chunks": (16, 16, 16)}
    root.create_array("volume", **few)[...] = VOLUME
    root.create_array("deep/image", shape=IMAGE.shape, dtype="f4", chunks=(20, 30), fill_value=0)[...] = IMAGE
    if zarr_format == 3:
        shards = {"shards": (32, 32, 32), "compressors": zarr.codecs.ZstdCodec(checksum=True)}
        root.create_array("sharded", **few, **shards)[...] = VOLUME
        root.create_array("raw", **few, compressors=None)[...] = VOLUME
    else:
        root.create_array("fortran", **few, order="F")[...] = VOLUME
    if "consolidated" in name:
        zarr.consolidate_metadata(store)
    return {key: value.to_bytes() for key, value in held.items()}


OBJECTS = {
    f"{name.replace(' ', '-')}/{key}": value for name in SAMPLES for key, value in sample(name).items()
}
Place = Callable[[str], tuple[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def ranges() -> Iterator[RangeServer]:
    with RangeServer({f"bucket/{key}": value for key, value in OBJECTS.items()}, s3=True) as server:
        yield server


@pytest.fixture(scope="module")
def moto() -> Iterator[S3Server]:
    with S3Server() as server:
        server.fill("bucket", OBJECTS)
        yield server


@pytest.fixture(params=["http", "http fsspec", "s3", "s3 fsspec", "moto"])
def place(request: pytest.FixtureRequest) -> Place:
    """A sample's name -> where it is, with storage options."""
    kind, _, backend = str(request.param).partition(" ")
    options: dict[str, Any] = {"backend": backend or "auto"}
    if kind == "moto":
        options |= request.getfixturevalue("moto").fsspec_options
    else:
        server = request.getfixturevalue("ranges")
        if kind == "http":
            return lambda name: (f"{server.url}/bucket/{name}", options)
        options |= {"endpoint_url": server.url, "key": "key", "secret": "secret"}
    return lambda name: (f"s3://bucket/{name}", options)


@pytest.mark.parametrize("device", list(SOME))
@pytest.mark.parametrize("name", SAMPLES)
def test_samples_from_servers(name: str, place: Place, device: str) -> None:
    target, options = place(name.replace(" ", "-"))
    root = gpuzarr.open(target, storage_options=options, device=device)
    assert isinstance(root, gpuzarr.Group)
    assert root.attrs["of"] == "root"
    assert np.array_equal(to_host(root["deep/image"][...]), IMAGE)  # type: ignore[index]
    for array in ("volume", *(("sharded", "raw") if "3" in name else ("fortran",))):
        node = gpuzarr.open_array(target, array, storage_options=options, device=device)
        assert np.array_equal(to_host(node[...]), VOLUME), array
        assert np.array_equal(to_host(node[5:40:3, ::-1, 7]), VOLUME[5:40:3, ::-1, 7])
        boxes = to_host(node.patches([[0, 0, 0], [20, 9, 30]], (16, 16, 16)))
        assert np.array_equal(boxes[1], VOLUME[20:36, 9:25, 30:46])
    if "consolidated" in name:
        assert sorted(path for path, _ in root.walk()) == sorted(
            ["deep", "deep/image", "volume", *(["raw", "sharded"] if "3" in name else ["fortran"])]
        )


def opened(server: RangeServer, name: str, path: str = "", device: str = "cpu") -> Any:
    node = gpuzarr.open(f"{server.url}/bucket/{name}", path, device=device)
    server.forget()
    return node


@pytest.mark.parametrize("device", list(SOME))
def test_requests_that_go_over_the_wire(ranges: RangeServer, device: str) -> None:
    """A consolidated store opens with one, a patch of one shard takes two, a whole sharded array two a
    shard."""
    ranges.forget()
    root = gpuzarr.open(f"{ranges.url}/bucket/v3-consolidated", device=device)
    array = root["sharded"]  # type: ignore[index]
    assert [one.path for one in ranges.seen] == ["/bucket/v3-consolidated/zarr.json"]
    ranges.forget()
    array[3:16, 5:16, 1:9]
    assert [(one.method, one.status) for one in ranges.seen] == [("GET", 206)] * 2
    assert (ranges.seen[0].range or "").startswith("bytes=-")
    ranges.forget()
    array[3:16, 5:16, 1:9]
    assert len(ranges.seen) == 1  # the index is known
    whole = opened(ranges, "v3-consolidated", "sharded", device)
    whole[...]
    assert len(ranges.seen) == 2 * 2 * 2  # small shards that are wanted whole come with their index
    assert {one.method for one in ranges.seen} == {"GET"}
    plain = opened(ranges, "v3", "volume", device)
    plain[...]
    assert len(ranges.seen) == 3 * 3 * 4
    plain.patches([[0, 0, 0], [1, 1, 1], [2, 2, 2]], (8, 8, 8))
    assert len(ranges.seen) == 3 * 3 * 4 + 1


def test_version_2_opens_in_two_round_trips(ranges: RangeServer) -> None:
    ranges.forget()
    root = gpuzarr.open(f"{ranges.url}/bucket/v2-consolidated")
    assert root["deep/image"].shape == IMAGE.shape  # type: ignore[index]
    assert [one.path.rpartition("/")[2] for one in ranges.seen][:1] == ["zarr.json"]
    assert sorted(one.path.rpartition("/")[2] for one in ranges.seen[1:]) == [
        ".zarray",
        ".zgroup",
        ".zmetadata",
    ]


def test_whose_format_is_said_takes_fewer_requests(ranges: RangeServer) -> None:
    """One for a consolidated group, also of version 2."""
    for name, zarr_format, asked in (
        ("v2-consolidated", 2, [".zmetadata"]),
        ("v2", 2, [".zarray", ".zgroup", ".zmetadata"]),
        ("v3-consolidated", 3, ["zarr.json"]),
    ):
        ranges.forget()
        root: Any = gpuzarr.open(f"{ranges.url}/bucket/{name}", zarr_format=zarr_format)
        assert sorted(one.path.rpartition("/")[2] for one in ranges.seen) == asked
        found = gpuzarr.open(f"{ranges.url}/bucket/{name}")
        assert dict(root.attrs) == dict(found.attrs)
        assert root.metadata.document == found.metadata.document
        assert root["volume"].shape == VOLUME.shape
    for name, zarr_format in (("v2", 3), ("v3", 2)):
        with pytest.raises(gpuzarr.errors.NotFoundError, match=r"zarr.json at|\.zarray or \.zgroup at"):
            gpuzarr.open(f"{ranges.url}/bucket/{name}", zarr_format=zarr_format)
    with pytest.raises(gpuzarr.errors.ArgumentError, match="neither 2 nor 3"):
        gpuzarr.open(f"{ranges.url}/bucket/v2", zarr_format=4)


@pytest.mark.parametrize("kind", ["ranges", "moto"])
@pytest.mark.parametrize("backend", ["obstore", "fsspec"])
def test_writing_to_s3(request: pytest.FixtureRequest, kind: str, backend: str) -> None:
    """What is written there, in several parts too, is what zarr-python reads."""
    server = request.getfixturevalue(kind)
    endpoint = server.url if kind == "ranges" else server.endpoint_url
    options = {"endpoint_url": endpoint, "key": "key", "secret": "secret", "backend": backend}
    target = f"s3://bucket/written-{backend}"
    array = gpuzarr.create_array(
        *(target, "group/array"), shape=VOLUME.shape, dtype="u2", chunks=(16, 16, 16), storage_options=options
    )
    array[...] = VOLUME
    array[3:20, 4:9] = 7
    large = RNG.integers(0, 255, 18 << 20, np.uint8)
    gpuzarr.save(target, large, "large", chunks=len(large), codecs=None, storage_options=options)
    expected = VOLUME.copy()
    expected[3:20, 4:9] = 7
    theirs = {"endpoint_url": endpoint, "key": "key", "secret": "secret", "skip_instance_cache": True}
    found = zarr.open_group(target, mode="r", storage_options=theirs)
    assert np.array_equal(found["group/array"][...], expected)  # type: ignore[index]
    assert np.array_equal(found["large"][...], large)  # type: ignore[index]
    array = gpuzarr.open_array(target, "group/array", mode="r+", storage_options=options)
    array.resize((16, 40, 56))
    assert np.array_equal(array[...], expected[:16])
    gpuzarr.create_group(target, overwrite=True, storage_options=options)
    assert sorted(gpuzarr.open(target, storage_options=options).store.list()) == ["zarr.json"]  # type: ignore[union-attr]
    if kind == "ranges":
        assert server.uploads.parts == {}  # none is left half-way


def test_threads_and_processes_open_the_same(ranges: RangeServer) -> None:
    import pickle

    array = opened(ranges, "v3", "raw")
    again = pickle.loads(pickle.dumps(array.store))
    assert again == array.store or again.url == array.store.url
    assert np.array_equal(gpuzarr.open_array(again, "raw")[...], VOLUME)


@pytest.mark.parametrize("shards", [None, (16,)])
def test_writers_of_one_chunk_lose_nothing(ranges: RangeServer, shards: tuple[int, ...] | None) -> None:
    """Two who write parts of one object at the same time: the second sees that it changed, and writes again
    over it."""
    options = {"endpoint_url": ranges.url, "key": "key", "secret": "secret"}
    target = f"s3://bucket/both-{shards}"
    array = gpuzarr.create_array(
        target, shape=16, dtype="i4", chunks=8, shards=shards, fill_value=0, storage_options=options
    )
    array[...] = 1
    store = array.store
    assert isinstance(store, BucketStore)
    put, beaten = store.transport.put_if, []

    def beaten_once(path: str, value: Any, version: str | None) -> bool:
        if not beaten:
            beaten.append(path)
            theirs = {
                "endpoint_url": ranges.url,
                "key": "key",
                "secret": "secret",
                "skip_instance_cache": True,
            }
            zarr.open_array(target, mode="r+", storage_options=theirs)[4:8] = 5
        return put(path, value, version)

    for value in (4, 0):  # 0: what is written in part, and is fill values then, stays
        beaten.clear()
        slow = Beside(store.transport, beaten_once)
        mine = gpuzarr.open_array(replace(store, transport=slow), mode="r+", device="cpu")
        mine[0:4] = value
        assert len(beaten) == 1
        assert mine[...].tolist() == [value] * 4 + [5] * 4 + [1] * 8
        mine[4:16] = 0
        mine[0:4] = 0
        mine[0:16] = 1
    with pytest.raises(ArgumentError, match="there is something"):
        gpuzarr.create_array(target, shape=1, dtype="i4", storage_options=options)


class Beside:
    """A transport with another `put_if`."""

    def __init__(self, transport: Any, put_if: Callable[..., bool]) -> None:
        self._transport, self.put_if = transport, put_if

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def test_what_another_has_changed_is_not_replaced(ranges: RangeServer) -> None:
    """A document is replaced only if it is still the one that was read."""
    options = {"endpoint_url": ranges.url, "key": "key", "secret": "secret"}
    target = "s3://bucket/documents"
    array = gpuzarr.create_array(target, "a", shape=4, dtype="i4", chunks=4, storage_options=options)
    store = array.store
    assert isinstance(store, BucketStore)
    put = store.transport.put_if

    def beaten(path: str, value: Any, version: str | None) -> bool:
        if path.endswith("zarr.json"):
            theirs = {
                "endpoint_url": ranges.url,
                "key": "key",
                "secret": "secret",
                "skip_instance_cache": True,
            }
            zarr.open_array(target, path="a", mode="r+", storage_options=theirs).attrs["n"] = len(value)
        return put(path, value, version)

    mine = gpuzarr.open_array(replace(store, transport=Beside(store.transport, beaten)), "a", mode="r+")
    for change in (
        lambda: mine.resize(8),
        lambda: mine.append([1]),
        lambda: mine.update_attributes({"a": 1}),
    ):
        with pytest.raises(ChangedError, match="somebody else"):
            change()
    assert gpuzarr.open_array(target, "a", storage_options=options).shape == (4,)
    assert "n" in gpuzarr.open_array(target, "a", storage_options=options).attrs
