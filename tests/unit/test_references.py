"""Reference sets as a store: the contract, sets that kerchunk made, few requests, what is not there."""

from __future__ import annotations

import json
import pickle
import random
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuzarr
import gpuzarr.api
from gpuzarr.engine.source import ReadStats
from gpuzarr.errors import ForbiddenError, NotFoundError, ReadOnlyError, StoreError
from gpuzarr.store.base import Buffer, PlaceIfAny, Request, Store, StreamingStore, Traits, place_of
from gpuzarr.store.local import LocalStore
from gpuzarr.store.memory import MappingStore
from gpuzarr.store.references import (
    ReferenceStore,
    StreamingReferenceStore,
    looks_like_references,
    open_reference_set,
    open_references,
)
from gpuzarr.store.urls import open_store
from gpuzarr.testing.store import CountingStore, StoreContract
from tests.servers.ranges import RangeServer

ZGROUP = '{"zarr_format": 2}'
BYTES = bytes(range(256)) * 16


def zarray(shape: Any, chunks: Any, dtype: str = "|u1") -> dict[str, Any]:
    document = {"zarr_format": 2, "shape": shape, "chunks": chunks, "dtype": dtype, "order": "C"}
    return {**document, "fill_value": 0, "filters": None, "compressor": None}


def opened(refs: Mapping[str, Any], options: Any = None, **files: bytes) -> ReferenceStore:
    """A set in memory, with its targets beside it."""
    return open_references(
        MappingStore({**files, "refs.json": json.dumps(refs).encode()}), "refs.json", options
    )


class Afar:
    """A store that streams: answers come in another order, `place` is asked as a server's answers come."""

    def __init__(self, objects: dict[str, bytes], url: str = "s3://bucket") -> None:
        self.inner, self.url = MappingStore(objects), url
        self.traits = Traits(concurrency=64, coalesce_gap=1 << 20, request_nbytes=16 << 20)
        self.seen: list[Request] = []
        self.closed = 0

    def size(self, key: str) -> int | None:
        return None

    def exists(self, key: str) -> bool:
        return self.inner.exists(key)

    def list(self, prefix: str = "") -> Iterator[str]:
        return self.inner.list(prefix)

    def list_dir(self, prefix: str = "") -> Iterator[str]:
        return self.inner.list_dir(prefix)

    def get_ranges(self, requests: Sequence[Request], place: Any = None) -> Any:
        found: list[Buffer | None] = [None] * len(requests)
        for i, answer in self.stream(requests, place):
            found[i] = answer
        return found

    def stream(
        self, requests: Sequence[Request], place: PlaceIfAny | None = None
    ) -> Iterator[tuple[int, Buffer | None]]:
        self.seen += requests
        return _Shuffled(self, requests, place)


class _Shuffled(Iterator[tuple[int, "Buffer | None"]]):
    def __init__(self, store: Afar, requests: Sequence[Request], place: PlaceIfAny | None) -> None:
        self.store, self.requests, self.place = store, requests, place
        self.left = list(range(len(requests)))
        random.Random(1).shuffle(self.left)
        self.lock = threading.Lock()

    def __next__(self) -> tuple[int, Buffer | None]:
        with self.lock:
            if not self.left:
                raise StopIteration
            i = self.left.pop()
        (answer,) = self.store.inner.get_ranges([self.requests[i]])
        if answer is not None and self.place is not None:
            into = self.place(i, len(answer))
            if into is not None:
                into[:] = answer
                answer = into
        return i, answer

    def close(self) -> None:
        self.store.closed += 1
        self.left = []


class _Contract(StoreContract):
    def make(self, objects: Mapping[str, bytes]) -> Store:
        """Every kind of reference: inline, as base64, a file, a part of a file."""
        whole = b"before"
        refs: dict[str, Any] = {}
        for i, (key, value) in enumerate(objects.items()):
            refs[key] = [f"files/{key}"] if i % 3 == 1 else [None, len(whole), len(value)]
            whole += value + b"between"
        refs["zarr.json"], refs["ab"] = "{}", "base64:bmVpZ2hib3Vy"
        files = {f"files/{key}": value for key, value in objects.items()}
        return self.open(refs, {**files, "whole": whole})

    def open(self, refs: dict[str, Any], files: dict[str, bytes]) -> Store:
        return opened(refs, {"target": "whole"}, **files)


class TestNear(_Contract):
    pass


class TestFar(_Contract):
    def open(self, refs: dict[str, Any], files: dict[str, bytes]) -> Store:
        afar = Afar({**files, "refs.json": json.dumps({"version": 1, "refs": refs}).encode()})
        store = open_references(afar, "refs.json", {"target": "whole"})
        assert isinstance(store, StreamingStore)
        return store


def test_what_it_is() -> None:
    store = opened({".zgroup": ZGROUP})
    assert not isinstance(store, StreamingStore)
    assert store.url == "memory:/refs.json"
    with pytest.raises(ReadOnlyError):
        gpuzarr.create_array(store, "a", shape=3, dtype="u1")
    assert looks_like_references("a/b.json")
    assert looks_like_references("S3://bucket/x.PARQ/")
    assert looks_like_references("https://host/a.json?sig=x/y")
    assert looks_like_references("reference://")
    assert looks_like_references("reference::x")
    assert not looks_like_references("https://host.json")
    assert not looks_like_references("s3://bucket/a.zarr")


# ---- sets that other software made


@pytest.fixture(scope="module")
def netcdf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of HDF5 with a thousand small chunks, and what kerchunk makes of it."""
    h5py = pytest.importorskip("h5py", reason="h5py is not installed, which makes the file")
    hdf = pytest.importorskip("kerchunk.hdf", reason="kerchunk is not installed, which reads it")
    folder = tmp_path_factory.mktemp("netcdf")
    with h5py.File(folder / "x.nc", "w") as file:
        file.create_dataset("v", data=np.arange(50000, dtype="<f4").reshape(1000, 50), chunks=(1, 50))
        noise = np.random.default_rng(1).integers(0, 9, (31, 40), "<i2")
        file.create_dataset("g/w", data=noise, chunks=(8, 9), compression="gzip", shuffle=True)
        file.create_dataset("s", data=np.float64(2.5))
    refs = hdf.SingleHdf5ToZarr(str(folder / "x.nc"), inline_threshold=60).translate()
    (folder / "absolute.json").write_text(json.dumps(refs))
    text = json.dumps(refs).replace(json.dumps(str(folder / "x.nc")), '"../netcdf/x.nc"')
    (folder / "sub").mkdir()
    (folder / "sub" / "relative.json").write_text(text.replace("../netcdf", ".."))
    return folder


@pytest.mark.parametrize("name", ["absolute.json", "sub/relative.json"])
def test_kerchunk(netcdf: Path, name: str, device: str) -> None:
    """As h5py reads the file, and as zarr-python reads the set through fsspec."""
    import fsspec
    import h5py
    import zarr

    group = gpuzarr.open(open_reference_set(netcdf / name), device=device)
    assert isinstance(group, gpuzarr.Group)
    found = {path: gpuzarr.load(open_reference_set(netcdf / name), path) for path in ("v", "g/w", "s")}
    with h5py.File(netcdf / "x.nc") as file:
        for path, values in found.items():
            assert np.array_equal(values, file[path][()])
    mapper = fsspec.filesystem("reference", fo=str(netcdf / "absolute.json"), asynchronous=True)
    theirs = zarr.open_group(zarr.storage.FsspecStore(mapper), mode="r", zarr_format=2)
    for path, values in found.items():
        assert np.array_equal(values, np.asarray(theirs[path]))


def test_a_thousand_small_chunks_are_a_few_requests(netcdf: Path) -> None:
    stores: list[CountingStore] = []

    def open_target(root: str, options: Mapping[str, Any]) -> Store:
        stores.append(CountingStore(open_store(root, options)))
        return stores[-1]

    counted = CountingStore(LocalStore(str(netcdf)))
    store = open_references(counted, "absolute.json", open_target=open_target)
    assert [request.key for request in counted.seen] == ["absolute.json"]
    array = gpuzarr.open_array(store, "v")
    stats = ReadStats()
    assert array.read(stats=stats)[999, 49] == 49999
    assert (stats.chunks, stats.requests) == (1000, 1000)
    targets = [request for one in (counted, *stores) for request in one.seen if request.key.endswith("x.nc")]
    assert 1 <= len(targets) <= 4
    # Between them lies HDF5's own index.
    assert sum(request.nbytes or 0 for request in targets) < 1.3 * array.nbytes


def test_virtualizarr(netcdf: Path, tmp_path: Path) -> None:
    """Its Parquet sets and its JSON, by a manifest that it holds in memory."""
    arrays = pytest.importorskip("virtualizarr.manifests", reason="VirtualiZarr is not installed")
    import virtualizarr  # noqa: F401
    import xarray
    from virtualizarr.manifests.utils import create_v3_array_metadata

    url = f"file://{netcdf}/x.nc"
    refs = json.loads((netcdf / "absolute.json").read_text())["refs"]
    entries = {
        key.split("/")[1]: {"path": url, "offset": value[1], "length": value[2]}
        for key, value in refs.items()
        if re.fullmatch(r"v/\d+\.\d+", key)
    }
    metadata = create_v3_array_metadata(
        shape=(1000, 50),
        data_type=np.dtype("<f4"),
        chunk_shape=(1, 50),
        codecs=[{"name": "bytes", "configuration": {"endian": "little"}}],
        fill_value=0.0,
    )
    held = arrays.ManifestArray(metadata=metadata, chunkmanifest=arrays.ChunkManifest(entries))
    dataset = xarray.Dataset({"v": (("t", "x"), held)})
    dataset.vz.to_kerchunk(str(tmp_path / "v.json"), format="json")
    expected = np.arange(50000, dtype="<f4").reshape(1000, 50)
    assert np.array_equal(gpuzarr.load(open_reference_set(tmp_path / "v.json"), "v"), expected)


# ---- what is asked, and what is answered


def test_near_parts_share_requests() -> None:
    refs = {f"c/{i}": ["x", i * 20, 10] for i in range(40)} | {"c/far": ["x", 3000, 10], "c/all": ["y"]}
    counted = CountingStore(MappingStore({"refs.json": json.dumps(refs).encode(), "x": BYTES, "y": b"all"}))
    store = open_references(counted, "refs.json")
    counted.forget()
    keys = random.Random(3).sample(list(refs), len(refs))
    with gpuzarr.configured(coalesce_gap=100, request_nbytes=400):
        found = store.get_ranges([Request(key) for key in keys])
    whole = {key: BYTES[value[1] : value[1] + 10] for key, value in refs.items() if len(value) == 3}
    assert [bytes(one or b"") for one in found] == [whole.get(key, b"all") for key in keys]
    # 20 parts of 20 bytes fill 400: 0 up to 390, then 400 up to 790; and the two others.
    assert sorted(counted.seen) == [
        Request("x", 0, 390),
        Request("x", 400, 390),
        Request("x", 3000, 10),
        Request("y"),
    ]


def test_ranges_stay_inside_of_their_reference() -> None:
    """However they are asked for, as Python cuts the bytes that the reference names."""
    store = opened({"a": ["x", 100, 50]}, x=BYTES)
    part, rng = BYTES[100:150], random.Random(5)
    asked = [Request("a", rng.randrange(-70, 70), rng.choice([None, 0, 1, 20, 1 << 40])) for _ in range(300)]
    for request, found in zip(asked, store.get_ranges(asked), strict=True):
        start = max(50 + request.start, 0) if request.start < 0 else request.start
        end = None if request.nbytes is None else start + request.nbytes
        assert bytes(found or b"") == part[start:end]
    assert store.size("a") == 50


def test_bytes_go_where_they_are_wanted(tmp_path: Path) -> None:
    """Those of a request of its own; others lie where they came."""
    (tmp_path / "x").write_bytes(BYTES)
    (tmp_path / "y").write_bytes(BYTES)
    (tmp_path / "r.json").write_text('{"a": ["x", 5, 10], "b": ["y", 1, 4], "c": ["y", 6, 4]}')
    store = open_reference_set(tmp_path / "r.json")
    memory = {i: bytearray(10) for i in range(3)}
    found = store.get_ranges(
        [Request(key) for key in "abc"], lambda i, nbytes: memoryview(memory[i])[:nbytes]
    )
    assert bytes(memory[0]) == BYTES[5:15] == bytes(found[0] or b"")
    assert [bytes(one or b"") for one in found[1:]] == [BYTES[1:5], BYTES[6:10]]


@pytest.mark.parametrize("far", [False, True])
def test_targets_that_are_not_as_they_were(far: bool) -> None:
    """Never a missing chunk, which would be fill values."""
    refs = {"v/.zarray": zarray([40], [10]), "v/0": ["gone.nc", 0, 10], "v/1": ["gone.nc"]}
    refs |= {"v/2": ["short.nc", 0, 10], "v/3": ["short.nc", 5, 10]}
    objects = {"refs.json": json.dumps(refs).encode(), "short.nc": bytes(12)}
    inner = Afar(objects) if far else MappingStore(objects)
    array = gpuzarr.open_array(open_references(inner, "refs.json"), "v")
    for key in (slice(0, 10), slice(10, 20), slice(0, 20)):
        with pytest.raises(StoreError, match=r"gone\.nc, which is not there") as raised:
            array[key]
        assert "moved" in str(raised.value)
    for key in (slice(30, 40), slice(20, 40)):
        with pytest.raises(StoreError, match=r"v/3 .*bytes 5 to 15 of .*short\.nc, which ends at 12"):
            array[key]
    assert not array[20:30].any()


def test_what_a_target_refuses_stays_what_it_is() -> None:
    class Refusing(Afar):
        def stream(self, requests: Sequence[Request], place: Any = None) -> Any:
            if requests[0].key != "refs.json":
                raise ForbiddenError(f"may not read {requests[0].key}", hint="ask")
            return super().stream(requests, place)

    refs = {"v/.zarray": zarray([20], [10]), "v/0": ["x", 0, 10], "v/1": ["y", 0, 10]}
    array = gpuzarr.open_array(
        open_references(Refusing({"refs.json": json.dumps(refs).encode()}), "refs.json"), "v"
    )
    with pytest.raises(ForbiddenError, match="may not read"):
        array[...]


def test_no_set() -> None:
    with pytest.raises(NotFoundError, match=r"memory:/none\.json"):
        open_references(MappingStore({}), "none.json")
    with pytest.raises(NotFoundError, match=r"no such|no reference set"):
        open_reference_set("/does/not/exist.json")


# ---- from afar


def test_streams_are_shared_by_threads(device: str) -> None:
    """Chunks of two buckets and of the set itself, on every device, with answers in any order."""
    one, two = Afar({"x": BYTES}), Afar({"y": BYTES[::-1]}, "s3://other")
    refs: dict[str, Any] = {"v/.zarray": zarray([4096], [16])}
    for i in range(256):
        part = [["s3://bucket/x", 16 * i, 16], ["s3://other/y", 4080 - 16 * i, 16]][i % 2]
        refs[f"v/{i}"] = part if i % 5 else "ABCDEFGHIJKLMNOP"
    del refs["v/7"]
    expected = np.frombuffer(BYTES, np.uint8).copy()
    for i in range(256):
        if i % 5 == 0:
            expected[16 * i : 16 * i + 16] = np.frombuffer(b"ABCDEFGHIJKLMNOP", np.uint8)
        elif i % 2:
            at = 4080 - 16 * i
            expected[16 * i : 16 * i + 16] = np.frombuffer(BYTES[::-1][at : at + 16], np.uint8)
    expected[7 * 16 : 8 * 16] = 0
    roots = {"s3://bucket": one, "s3://other": two}
    store = open_reference_set(refs, None, lambda root, options: roots.get(root) or open_store(root, options))
    assert isinstance(store, StreamingReferenceStore)
    with gpuzarr.configured(threads=4, strict=1):
        found = gpuzarr.open_array(store, "v", device=device)[...]
    assert np.array_equal(found if isinstance(found, np.ndarray) else np.asarray(found.get()), expected)
    assert len(one.seen) + len(two.seen) < 10


def test_a_stream_that_is_closed_asks_no_more() -> None:
    afar = Afar({"x": BYTES, "y": BYTES})
    store = open_reference_set(
        {f"a{i}": [f"s3://bucket/{'xy'[i % 2]}", i, 1] for i in range(9)}, None, lambda root, options: afar
    )
    assert isinstance(store, StreamingReferenceStore)
    stream = store.stream([Request(f"a{i}") for i in range(9)])
    next(stream)
    stream.close()
    assert list(stream) == []
    assert afar.closed == 1


def test_over_http() -> None:
    """A set and its file on a server, by a relative name."""
    refs = {"v/.zarray": zarray([4096], [16])} | {f"v/{i}": ["../x.nc", 16 * i, 16] for i in range(256)}
    with RangeServer({"d/x.nc": BYTES, "d/sub/refs.json": json.dumps(refs).encode()}) as server:
        store = open_reference_set(f"{server.url}/d/sub/refs.json")
        assert isinstance(store, StreamingReferenceStore)
        assert gpuzarr.load(store, "v").tobytes() == BYTES
        paths = [one.path for one in server.seen]
        assert paths[0] == "/d/sub/refs.json"
        assert set(paths[1:]) == {"/d/x.nc"}
        assert len(paths) < 6


def test_signed_urls() -> None:
    """The query goes with the request, and nobody gets to see it."""
    pytest.importorskip("obstore", reason="obstore is not installed")
    secret = "X-Signature=do-not-show-this/even"
    with RangeServer({"d/x.nc": BYTES}) as server:
        refs = {"v/.zarray": zarray([32], [16]), "v/0": [f"{server.url}/d/x.nc?{secret}", 0, 16]}
        refs["v/1"] = [f"{server.url}/d/gone%20away.nc?{secret}", 0, 16]
        array = gpuzarr.open_array(opened(refs), "v")
        assert array[:16].tobytes() == BYTES[:16]
        assert [one.path for one in server.seen] == [f"/d/x.nc?{secret}"]
        with pytest.raises(StoreError, match=r"d/gone away\.nc, which is not there") as raised:
            array[...]
        assert "do-not-show" not in f"{raised.value!r} {raised.value}"


# ---- in other processes, and as the same place


def test_pickled(netcdf: Path) -> None:
    store = open_reference_set(netcdf / "absolute.json")
    again = pickle.loads(pickle.dumps(store))
    assert gpuzarr.load(again, "g/w").sum() == gpuzarr.load(store, "g/w").sum()
    assert place_of(again, "v/0.0") == place_of(store, "v/0.0")


def test_places(tmp_path: Path) -> None:
    """One set is one place, until it is another set."""
    file = tmp_path / "refs.json"
    file.write_text(json.dumps({"a": "text"}))
    first = place_of(open_reference_set(file), "a")
    assert first == place_of(open_reference_set(file), "a")
    assert first != place_of(open_reference_set(file, {"target": "x"}), "a")
    file.write_text(json.dumps({"a": "texts"}))
    assert first != place_of(open_reference_set(file), "a")


# ---- the page of the documentation


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, netcdf: Path) -> None:
    """Every block of Python in docs/references.md, in order."""

    def opens(target: Any, options: Any = None, create: bool = False) -> Store:
        if isinstance(target, str) and looks_like_references(target):
            return open_reference_set(target, options)
        return open_store(target, options, create)

    monkeypatch.setattr(gpuzarr.api, "open_store", opens)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.nc").write_bytes((netcdf / "x.nc").read_bytes())
    page = (Path(__file__).parents[2] / "docs" / "references.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 3
    names: dict[str, Any] = {}
    for block in blocks:
        exec(block, names)
