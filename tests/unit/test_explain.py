"""What `explain` says is what a read then does."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from zarr.codecs.numcodecs import BZ2

import gpuzarr
from gpuzarr import ReadStats
from tests.unit.test_requests import VALUES, stored


@pytest.mark.parametrize("options", [{}, {"shards": (32, 32, 32)}, {"zarr_format": 2}])
@pytest.mark.parametrize("key", [np.s_[...], np.s_[3:40, 5], np.s_[0, 0, 0], np.s_[:0]])
def test_it_foretells_the_read(options: dict, key: object) -> None:
    store = stored(chunks=(16, 16, 16), **options)
    array = gpuzarr.open_array(store, device="cpu")
    told = array.explain(key)
    stats = ReadStats()
    result = array.read(key, stats=stats)
    assert told.shape == result.shape
    assert told.result_nbytes == result.nbytes
    assert told.chunks - told.absent == stats.chunks
    assert told.requests == stats.requests  # the indexes were read to explain, and are kept
    assert told.stored_nbytes is not None
    assert told.stored_nbytes <= stats.bytes_read


def test_it_says_what_runs_where_and_why() -> None:
    store = stored(chunks=(16, 16, 16), filters=None, compressors=[BZ2(level=1), zarr.codecs.Crc32cCodec()])
    on_host = gpuzarr.open_array(store, device="cpu").explain()
    assert [(stage.name, stage.place) for stage in on_host.stages] == [
        ("crc32c", "cpu"),
        ("numcodecs.bz2", "cpu"),
        ("scatter", "cpu"),
    ]
    on_device = gpuzarr.open_array(store, device="sim").explain()
    crc32c, bz2, scatter = on_device.stages
    assert (crc32c.place, bz2.place, scatter.place) == ("cpu", "cpu", "sim")
    assert bz2.why == "no device form"
    assert crc32c.why == "before a stage that has no device form"
    text = str(on_device)
    for word in ("64 chunks in 64 objects", "64 requests", "512.0 KiB", "bz2", "no device form", "on sim"):
        assert word in text, text


def test_layout_is_folded_into_the_copy() -> None:
    store = stored(
        chunks=(16, 16, 16),
        filters=[zarr.codecs.TransposeCodec(order=(2, 0, 1))],
        serializer=zarr.codecs.BytesCodec(endian="big"),
        compressors=None,
    )
    (scatter,) = gpuzarr.open_array(store, device="sim").explain().stages
    assert scatter.why == "with byte order and order of axes"


def test_values_without_bytes_are_read_on_the_host() -> None:
    held: dict = {}
    zarr.create_array(zarr.storage.MemoryStore(held), shape=(4,), chunks=(2,), dtype=str)[...] = list("abcd")
    array = gpuzarr.open_array({key: value.to_bytes() for key, value in held.items()}, device="sim")
    assert isinstance(array[...], np.ndarray)
    told = array.explain()
    assert {stage.place for stage in told.stages} == {"cpu"}
    assert told.decoded_nbytes is None
    assert "variable length" in str(told)


def test_missing_chunks_are_told() -> None:
    values = VALUES.copy()
    values[:32] = 0
    told = gpuzarr.open_array(stored(values, chunks=(8, 64, 64), shards=(64, 64, 64))).explain()
    assert told.absent == 4
    assert "4 missing (filled)" in str(told)
