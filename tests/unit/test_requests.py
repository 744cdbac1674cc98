"""What reads cost, counted: requests, bytes, chunks decoded, copies. Never times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import gpuzarr
from gpuzarr import ReadStats
from gpuzarr.store.base import Request, Traits
from gpuzarr.store.memory import MappingStore
from gpuzarr.store.urls import open_store
from gpuzarr.testing.store import CountingStore
from tests.conftest import to_host

VALUES = np.random.default_rng(7).integers(1, 2000, (64, 64, 64), np.uint16)


def stored(values: np.ndarray = VALUES, **options: Any) -> CountingStore:
    """An array written by zarr-python to memory, behind a store that counts."""
    held: dict[str, Any] = {}
    array = zarr.create_array(
        zarr.storage.MemoryStore(held), shape=values.shape, dtype=values.dtype, **options
    )
    array[...] = values
    return CountingStore(MappingStore({key: value.to_bytes() for key, value in held.items()}))


def test_opening_v3_costs_one_request() -> None:
    store = stored(chunks=(32, 32, 32))
    array = gpuzarr.open_array(store)
    assert dict(array.attrs) == {}
    assert store.seen == [Request("zarr.json")]


def test_opening_v2_costs_two_requests_and_attributes_one() -> None:
    store = stored(chunks=(32, 32, 32), zarr_format=2)
    array = gpuzarr.open_array(store)
    assert store.seen == [Request("zarr.json"), Request(".zarray")]
    assert dict(array.attrs) == {} == dict(array.attrs)
    assert store.seen[2:] == [Request(".zattrs")]


@pytest.mark.parametrize(("zarr_format", "requests"), [(3, 1), (2, 4)])
def test_consolidated_metadata_opens_everything(zarr_format: Any, requests: int) -> None:
    held: dict[str, Any] = {}
    memory = zarr.storage.MemoryStore(held)
    group = zarr.create_group(memory, zarr_format=zarr_format, attributes={"of": "root"})
    group.create_group("a").create_array("b", shape=(4,), dtype="i4", attributes={"of": "b"})
    group.create_array("c", shape=(4,), dtype="f8")
    zarr.consolidate_metadata(memory)
    store = CountingStore(MappingStore({key: value.to_bytes() for key, value in held.items()}))
    root = gpuzarr.open(store)
    assert isinstance(root, gpuzarr.Group)
    assert [name for name, _ in root.walk()] == ["a", "a/b", "c"]
    assert root["a"]["b"].attrs["of"] == "b"  # type: ignore[index]
    assert root["a/b"].shape == (4,)  # type: ignore[union-attr]
    assert root.attrs["of"] == "root"
    assert len(store.seen) == requests


@pytest.mark.parametrize("location", ["start", "end"])
def test_neighbours_in_a_shard_cost_two_requests(location: Any, device: str) -> None:
    """32 inner chunks of one shard: its index and one body. Reading again: the body alone."""
    shards = {"shape": (64, 64, 64), "index_location": location}
    store = stored(chunks=(8, 16, 16), shards=shards, compressors=zarr.codecs.ZstdCodec(level=1))
    array = gpuzarr.open_array(store, device=device)
    store.seen.clear()
    stats = ReadStats()
    found = array.read(np.s_[0:16], stats=stats)
    assert np.array_equal(to_host(found), VALUES[0:16])
    assert (len(store.seen), stats.requests, stats.chunks) == (2, 2, 32)
    index, body = store.seen
    assert index.nbytes == 16 * 128 + 4
    assert (index.start < 0) == (location == "end")
    assert body.nbytes == stats.bytes_read - index.nbytes
    array.read(np.s_[16:32], stats=stats)
    assert stats.requests == 3


def test_far_chunks_of_a_shard_are_not_read_together() -> None:
    store = stored(chunks=(8, 64, 64), shards=(64, 64, 64), compressors=None)
    array = gpuzarr.open_array(store, device="cpu")
    store.seen.clear()
    with gpuzarr.configured(coalesce_gap=0):
        assert np.array_equal(array[::32], VALUES[::32])
    assert len(store.seen) == 3  # index, first and fifth chunk
    store.seen.clear()
    with gpuzarr.configured(coalesce_gap=1 << 20):
        assert np.array_equal(array[::32], VALUES[::32])
    assert len(store.seen) == 1


def test_coalesced_requests_have_a_limit() -> None:
    store = stored(chunks=(8, 64, 64), shards=(64, 64, 64), compressors=None)
    array = gpuzarr.open_array(store, device="cpu")
    store.seen.clear()
    with gpuzarr.configured(request_nbytes=3 * VALUES[:8].nbytes):
        assert np.array_equal(array[...], VALUES)
    bodies = [request.nbytes // VALUES[:8].nbytes for request in store.seen[1:] if request.nbytes]
    assert sum(bodies) == 8
    assert max(bodies) <= 3


def test_missing_inner_chunks_are_not_asked_for(device: str) -> None:
    values = VALUES.copy()
    values[:32] = 0
    store = stored(values, chunks=(8, 64, 64), shards=(64, 64, 64))
    stats = ReadStats()
    found = gpuzarr.open_array(store, device=device).read(..., stats=stats)
    assert np.array_equal(to_host(found), values)
    assert (stats.chunks, stats.filled, stats.requests) == (4, 4, 2)
    absent = gpuzarr.open_array(store, device=device)
    before = ReadStats()
    assert not to_host(absent.read(np.s_[:8], stats=before)).any()
    assert (before.requests, before.chunks, before.filled) == (1, 0, 1)  # the index alone


def test_one_element_costs_one_chunk(device: str) -> None:
    store = stored(chunks=(16, 16, 16))
    array = gpuzarr.open_array(store, device=device)
    store.seen.clear()
    stats = ReadStats()
    assert to_host(array.read((5, 17, 40), stats=stats)) == VALUES[5, 17, 40]
    assert (stats.requests, stats.chunks) == (1, 1)
    assert store.seen == [Request("c/0/1/2")]


def test_whole_chunks_are_decoded_straight_into_the_result(tmp_path: Path) -> None:
    """Contiguous in the result: neither a copy nor memory between. Raw chunks are even read there."""
    for name, compressor in {
        "zstd": zarr.codecs.ZstdCodec(),
        "raw": None,
        "lz4": zarr.codecs.BloscCodec(),
    }.items():
        written = zarr.create_array(
            tmp_path / name, shape=(64, 64, 64), chunks=(8, 64, 64), dtype="u2", compressors=compressor
        )
        written[...] = VALUES
        stats = ReadStats()
        assert np.array_equal(gpuzarr.open_array(tmp_path / name, device="cpu").read(stats=stats), VALUES)
        assert (stats.chunks, stats.direct) == (8, 8), name
        strided = ReadStats()
        gpuzarr.open_array(tmp_path / name, device="cpu").read(np.s_[:, 1:], stats=strided)
        assert (strided.chunks, strided.direct) == (8, 0), name


def test_each_chunk_once_however_many_points_fall_into_it(device: str) -> None:
    store = stored(chunks=(16, 16, 16))
    rng = np.random.default_rng(1)
    points = tuple(rng.integers(0, 32, 500) for _ in range(3))
    stats = ReadStats()
    array = gpuzarr.open_array(store, device=device)
    assert np.array_equal(to_host(array.read(points, stats=stats)), VALUES[points])
    assert (stats.requests, stats.chunks) == (8, 8)


def test_device_reads_cross_once_and_keep_their_budget() -> None:
    """What crosses is counted, and device memory stays under the setting."""
    store = stored(chunks=(16, 16, 16), compressors=None)
    for budget in (1 << 16, 1 << 18, 1 << 24):
        stats = ReadStats()
        with gpuzarr.configured(wave_nbytes=budget):
            found = gpuzarr.open_array(store, device="sim").read(stats=stats)
        assert np.array_equal(found.get(), VALUES)
        assert stats.bytes_crossed == VALUES.nbytes
        assert stats.chunks == 64
        assert 0 < stats.peak_device_bytes <= budget
    assert stats.waves == 1


def test_stores_that_take_many_requests_get_them_together() -> None:
    """One call for a bundle of requests where latency counts."""

    class Remote(CountingStore):
        calls = 0

        @property
        def traits(self) -> Traits:
            return Traits(concurrency=64)

        def get_ranges(self, requests: Any, place: Any = None) -> Any:
            self.calls += 1
            return super().get_ranges(requests, place)

    store = Remote(stored(chunks=(16, 16, 16)).inner)
    array = gpuzarr.open_array(store, device="cpu")
    store.calls = 0
    with gpuzarr.configured(threads=2):
        assert np.array_equal(array[...], VALUES)
    assert len(store.seen) - 1 == 64
    assert store.calls <= 4


def test_read_only_the_bytes_of_a_zipped_chunk(tmp_path: Path) -> None:
    with zarr.storage.ZipStore(tmp_path / "a.zip", mode="w") as target:
        written = zarr.create_array(target, shape=(64,), chunks=(16,), dtype="u2", compressors=None)
        written[...] = VALUES[0, 0]
    store = CountingStore(open_store(tmp_path / "a.zip"))
    stats = ReadStats()
    assert np.array_equal(
        gpuzarr.open_array(store, device="cpu").read(np.s_[:16], stats=stats), VALUES[0, 0, :16]
    )
    assert stats.bytes_read == 32
