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
    held.forget([("store", "c/0")])
    held.put([(key, np.zeros(10, np.uint8))], version)
    assert not held.find([key])[1].any()
    _, _, version = held.find([key])
    held.put([(key, np.zeros(10, np.uint8))], version)
    assert held.find([key])[1].all()
    other = ("store", "c/1", (0,), "")
    _, _, version = held.find([other])
    held.forget_below(("store", "c/"))
    held.put([(other, np.zeros(10, np.uint8))], version)
    assert len(held) == 0
    assert held.nbytes == 0


def test_what_was_forgotten_once_is_forgotten_with_all_below_it() -> None:
    held, key = ChunkCache(1000), ("store", "a/c/0", (0,), "")
    held.forget([key[:2]])
    _, _, version = held.find([key])
    held.forget_below(("store", "a/"))
    held.put([(key, np.zeros(4, np.uint8))], version)
    assert len(held) == 0
    _, _, version = held.find([key])
    held.clear()
    held.put([(key, np.zeros(4, np.uint8))], version)
    assert len(held) == 0


@pytest.mark.parametrize("codecs", [["crc32c"], [], ["zstd"]], ids=str)
def test_entries_have_memory_of_their_own(tmp_path: Path, codecs: Any) -> None:
    """Not that of the thread that read them, whose next read would change them."""
    gpuzarr.save(tmp_path / "a", VALUES, chunks=(8, 8), codecs=codecs, device="cpu")
    gpuzarr.save(tmp_path / "b", VALUES * 0 + 1, chunks=(8, 8), codecs=codecs, device="cpu")
    array = gpuzarr.open_array(tmp_path / "a", device="cpu")
    counts(array, BOXES)
    gpuzarr.open_array(tmp_path / "b", device="cpu")[...]
    assert counts(array, BOXES) == (0, 4, 0)


@pytest.mark.parametrize("name", SOME)
def test_a_shard_that_another_handle_rewrote(tmp_path: Path, name: str) -> None:
    """Neither its index nor its chunks are those that were read before."""
    made = gpuzarr.create_array(tmp_path, shape=8, dtype="u2", chunks=2, shards=8, codecs=[], device="cpu")
    made[...] = np.arange(1, 9)
    reader = gpuzarr.open_array(tmp_path, device=name)
    assert to_host(reader[...]).tolist() == list(range(1, 9))
    made[0:2] = 0  # is left out, so that the others move
    expected = [0, 0, 3, 4, 5, 6, 7, 8]
    assert to_host(reader[...]).tolist() == expected
    for array in (reader, made, reader):
        assert to_host(array.patches([[0]], (8,), cache=True))[0].tolist() == expected


def test_one_place_through_two_doors(tmp_path: Path) -> None:
    """Directories, links to them, and URLs of them."""
    writer = gpuzarr.create_array(tmp_path / "g", "a", shape=8, dtype="u2", chunks=2, device="cpu")
    (tmp_path / "link").symlink_to(tmp_path / "g")
    doors = [
        gpuzarr.open_array(tmp_path / "g" / "a", device="cpu"),
        gpuzarr.open_array(tmp_path / "link", "a", device="cpu"),
        gpuzarr.open_array((tmp_path / "g" / "a").as_uri(), device="cpu"),
    ]
    for value in (1, 2):
        writer[...] = value
        for door in doors:
            assert door.patches([[0]], (8,), cache=True).tolist() == [[value] * 8]


def test_two_places_of_one_name() -> None:
    """Reference file systems all have the same URL."""
    pytest.importorskip("fsspec")

    def opened(value: int) -> Any:
        objects: dict[str, bytes] = {}
        gpuzarr.create_array(objects, shape=4, dtype="u1", chunks=4, codecs=[], device="cpu")[...] = value
        texts = {key: bytes(one).decode("latin1") for key, one in objects.items()}
        return gpuzarr.open_array("reference://", storage_options={"fo": texts}, device="cpu")

    arrays = opened(65), opened(66)
    assert [one.patches([[0]], (4,), cache=True).tolist()[0][0] for one in arrays] == [65, 66]


def test_a_write_that_fails_half_way_is_forgotten_too() -> None:
    class Full(dict[str, bytes]):
        bad = ""

        def __setitem__(self, key: str, value: bytes) -> None:
            if key == self.bad:
                raise OSError("full")
            super().__setitem__(key, value)

    objects = Full()
    array = gpuzarr.create_array(objects, shape=256, dtype="u1", chunks=1, codecs=[], device="cpu")
    array[...] = 1
    origins = np.arange(256)[:, None]
    array.patches(origins, (1,), cache=True)
    objects.bad = "c/255"
    with pytest.raises(gpuzarr.GpuzarrError):
        array[...] = 2
    assert np.array_equal(array.patches(origins, (1,), cache=True)[:, 0], array[...])


@pytest.mark.parametrize("name", SOME)
def test_a_read_holds_no_more_for_the_cache_than_it_keeps(name: str) -> None:
    array = gpuzarr.open_array(objects_of(), device=name)
    room = 2 * (8 * 8 * 2 + 16 + 256)
    with gpuzarr.configured(cache_nbytes=room, device_cache_nbytes=room):
        array.patches([[0, 0], [0, 8], [0, 16], [8, 0]], (8, 8), cache=True)
        assert len(cache_of(None if name == "cpu" else device_named(name))) == 2
    with gpuzarr.configured(cache_nbytes=0, device_cache_nbytes=0):
        assert counts(array, BOXES)[0] > 0
        assert counts(array, BOXES)[:2] == (4, 0), "off"


def test_chunks_that_differ_in_size_are_found_again() -> None:
    objects: dict[str, bytes] = {}
    made = gpuzarr.create_array(objects, shape=60, dtype="u2", chunks=[(10, 20, 30)], device="cpu")
    made[...] = np.arange(60)
    stats = ReadStats()
    for origins in ([[0]], [[0], [15]], [[15], [40]]):
        made.patches(origins, (5,), cache=True, stats=stats)
    assert (stats.chunks, stats.hits) == (3, 2)


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
                counts(array, boxes)
            except BaseException as error:
                failed.append(error)

    threads = [threading.Thread(target=work, args=(one,)) for one in lists]
    with gpuzarr.configured(cache_nbytes=1500):  # of the process: not for a thread to change
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed
