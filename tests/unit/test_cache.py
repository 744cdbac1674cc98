"""The cache of decoded chunks: what it saves, what it forgets, what it holds. Counts, not times."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuzarr
from gpuzarr import ReadStats
from gpuzarr.engine import cache as module
from gpuzarr.engine.cache import ChunkCache, cache_of, slabs_of
from tests.devices import DEVICES, SOME, device_named, to_host

VALUES = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32)
BOXES = [[0, 0], [3, 3], [10, 20]]


@pytest.fixture(autouse=True)
def _empty() -> Iterator[None]:
    module.clear()
    yield
    module.clear()


def objects_of(**options: Any) -> dict[str, bytes]:
    """`VALUES` in 12 chunks of 8 × 8."""
    objects: dict[str, bytes] = {}
    gpuzarr.create_array(
        objects, shape=VALUES.shape, dtype=VALUES.dtype, chunks=(8, 8), device="cpu", **options
    )[...] = VALUES
    return objects


def expected(boxes: list[list[int]], values: np.ndarray = VALUES) -> np.ndarray:
    return np.stack([values[row : row + 5, column : column + 6] for row, column in boxes])


def counts(array: Any, boxes: list[list[int]], values: np.ndarray = VALUES) -> tuple[int, int, int]:
    """Chunks decoded, chunks that the cache had, requests; the result is compared."""
    stats = ReadStats()
    found = to_host(array.patches(boxes, (5, 6), cache=True, stats=stats))
    assert np.array_equal(found, expected(boxes, values))
    return stats.chunks, stats.hits, stats.requests


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("shards", [None, (16, 16)])
def test_a_chunk_is_read_once(name: str, shards: Any) -> None:
    objects = objects_of(shards=shards)
    array = gpuzarr.open_array(objects, device=name)
    first = counts(array, BOXES)
    assert first[0] == 4
    assert counts(array, BOXES) == (0, 4, 0)
    other = gpuzarr.open_array(objects, device=name)
    assert counts(other, [[0, 0], [8, 0]])[:2] == (1, 1), "handles share it"
    assert counts(gpuzarr.open_array(dict(objects), device=name), BOXES)[:2] == (4, 0), "other objects"
    stats = ReadStats()
    array.patches(BOXES, (5, 6), stats=stats)
    assert (stats.chunks, stats.hits) == (4, 0), "nobody asked for it"


@pytest.mark.parametrize("name", SOME)
def test_missing_chunks_are_known_too(name: str) -> None:
    objects: dict[str, bytes] = {}
    gpuzarr.create_array(objects, shape=(16, 16), dtype="u2", chunks=(8, 8), fill_value=3, device="cpu")
    array = gpuzarr.open_array(objects, device=name)
    stats = ReadStats()
    for _ in range(2):
        assert (to_host(array.patches([[4, 4]], (6, 6), cache=True, stats=stats)) == 3).all()
    assert (stats.requests, stats.hits, stats.filled) == (4, 4, 4)


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("shards", [None, (16, 16)])
def test_what_is_written_is_forgotten(name: str, shards: Any) -> None:
    objects, values = objects_of(shards=shards), VALUES.copy()
    array = gpuzarr.open_array(objects, device=name)
    counts(array, BOXES)
    writer = gpuzarr.open_array(objects, mode="r+", device="cpu")
    writer[2, 3] = values[2, 3] = 60_000
    assert counts(gpuzarr.open_array(objects, device=name), BOXES, values)[0] == (1 if shards is None else 2)
    writer.resize((20, 30))
    writer.resize(VALUES.shape)
    values[20:], values[:, 30:] = 0, 0
    assert counts(gpuzarr.open_array(objects, device=name), [[19, 26]], values)[0] > 0
    gpuzarr.create_array(
        objects, shape=VALUES.shape, dtype=VALUES.dtype, chunks=(8, 8), device="cpu", overwrite=True
    )
    found = gpuzarr.open_array(objects, device=name).patches(BOXES, (5, 6), cache=True)
    assert not to_host(found).any()


def test_a_copy_over_an_array_is_seen(tmp_path: Path) -> None:
    gpuzarr.save(tmp_path / "a", VALUES, chunks=(8, 8), device="cpu")
    gpuzarr.save(tmp_path / "b", VALUES + 1, chunks=(8, 8), device="cpu")
    counts(gpuzarr.open_array(tmp_path / "a", device="cpu"), BOXES)
    gpuzarr.copy(tmp_path / "b", tmp_path / "a", overwrite=True)
    assert counts(gpuzarr.open_array(tmp_path / "a", device="cpu"), BOXES, VALUES + 1)[1] == 0


def test_a_write_during_a_read_is_not_undone() -> None:
    """What was read before it is not kept behind it."""
    held = ChunkCache(1000)
    key = ("store", "c/0", (0,), "")
    _, _, version = held.find([key])
    held.forget("store", ["c/0"])
    held.put([(key, np.zeros(10, np.uint8))], version)
    assert not held.find([key])[1].any()
    _, _, version = held.find([key])
    held.put([(key, np.zeros(10, np.uint8))], version)
    assert held.find([key])[1].all()
    other = ("store", "c/1", (0,), "")
    _, _, version = held.find([other])
    held.forget_below("store", "c/")
    held.put([(other, np.zeros(10, np.uint8))], version)
    assert len(held) == 0
    assert held.nbytes == 0


@pytest.mark.parametrize("name", SOME)
def test_the_least_recently_used_goes_first(name: str) -> None:
    array = gpuzarr.open_array(objects_of(), device=name)
    room = 3 * (8 * 8 * 2 + 16 + 256)
    with gpuzarr.configured(cache_nbytes=room, device_cache_nbytes=room):
        for box in ([0, 0], [0, 8], [0, 16], [0, 0], [8, 0]):
            counts(array, [box])
        assert counts(array, [[0, 0]])[:2] == (0, 1)
        assert counts(array, [[0, 8]])[:2] == (1, 0)
        held = cache_of(None if name == "cpu" else device_named(name))
        assert held.nbytes <= room
        assert counts(array, BOXES)[0] > 0, "a read may be larger than the cache"
    with gpuzarr.configured(cache_nbytes=1, device_cache_nbytes=1):
        array.patches(BOXES, (5, 6), cache=True)  # drops what was there
        assert counts(array, BOXES)[0] == 4


@pytest.mark.parametrize("name", DEVICES[:1])
def test_device_memory_is_given_back(name: str) -> None:
    array, device = gpuzarr.open_array(objects_of(), device=name), device_named(name)
    counts(array, BOXES)
    slabs = slabs_of(device)
    assert sum(len(some) for some in slabs._slabs.values()) == 1
    module.clear()
    gc.collect()
    assert not any(slabs._slabs.values())


def test_what_is_kept_is_nobodys_to_change() -> None:
    array = gpuzarr.open_array(objects_of(codecs=[]), device="cpu")
    found = array.patches([[0, 0]], (8, 8), cache=True)
    found[...] = 9
    assert counts(array, [[0, 0]])[1] == 1


def test_from_many_threads() -> None:
    array = gpuzarr.open_array(objects_of(), device="cpu")
    rng, failed = np.random.default_rng(0), []
    lists = [rng.integers(0, 19, (8, 5, 2)).tolist() for _ in range(4)]

    def work(mine: list[Any]) -> None:
        for boxes in mine:
            try:
                with gpuzarr.configured(cache_nbytes=1500):
                    counts(array, boxes)
            except BaseException as error:
                failed.append(error)

    threads = [threading.Thread(target=work, args=(one,)) for one in lists]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
