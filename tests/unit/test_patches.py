"""Many boxes in one read: what it costs, and what it refuses. Values: tests/property/test_patches.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpuzarr
from gpuzarr import ReadStats
from gpuzarr.codecs import zstd_library
from gpuzarr.errors import ArgumentError, ChunkError, LimitError, SelectionError
from tests.devices import SOME, to_host

VALUES = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32)


def array_of(device: str = "cpu", **options: Any) -> Any:
    """`VALUES` in chunks of 8 × 8."""
    objects: dict[str, bytes] = {}
    gpuzarr.create_array(
        objects, shape=VALUES.shape, dtype=VALUES.dtype, chunks=(8, 8), device="cpu", **options
    )[...] = VALUES
    return gpuzarr.open_array(objects, device=device)


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("shards", [None, (16, 16)])
def test_a_chunk_is_fetched_and_decoded_once(name: str, shards: Any) -> None:
    array, stats = array_of(name, shards=shards), ReadStats()
    origins = [[row, column] for row in range(6) for column in range(6)]
    found = to_host(array.patches(origins, (10, 10), stats=stats))
    for box, (row, column) in zip(found, origins, strict=True):
        assert np.array_equal(box, VALUES[row : row + 10, column : column + 10])
    assert stats.chunks == 4
    assert stats.requests == (4 if shards is None else 2)  # one shard: its index, and all its chunks


@pytest.mark.parametrize("name", SOME)
def test_missing_chunks_are_fill_values(name: str) -> None:
    objects: dict[str, bytes] = {}
    made = gpuzarr.create_array(objects, shape=(8, 8), dtype="i4", chunks=(4, 4), fill_value=-3, device="cpu")
    made[:4, :4] = 7
    stats = ReadStats()
    array = gpuzarr.open_array(objects, device=name)
    found = to_host(array.patches([[2, 2], [-1, -1]], (4, 4), mode="constant", fill=9, stats=stats))
    assert found[0].tolist() == [[7, 7, -3, -3]] * 2 + [[-3] * 4] * 2
    assert found[1].tolist() == [[9] * 4] + [[9, 7, 7, 7]] * 3
    assert stats.chunks == 1


@pytest.mark.parametrize("name", SOME)
def test_an_out_array_is_filled(name: str) -> None:
    array = array_of(name)
    out = array.patches([[0, 0], [1, 1]], (3, 4))
    assert array.patches([[5, 5], [6, 7]], (3, 4), out=out) is out
    assert np.array_equal(to_host(out)[1], VALUES[6:9, 7:11])
    with pytest.raises(ArgumentError, match="out is"):
        array.patches([[5, 5]], (3, 4), out=out)
    with pytest.raises(ArgumentError, match="out is"):
        array.patches([[5, 5], [6, 7]], (3, 4), out=np.zeros((2, 3, 4), np.float32))


def test_strided_and_read_only_out() -> None:
    array, big = array_of(), np.zeros((2, 6, 8), np.uint16)
    array.patches([[5, 5], [6, 7]], (3, 4), out=big[:, ::2, ::2])
    assert np.array_equal(big[0, ::2, ::2], VALUES[5:8, 5:9])
    assert not big[:, 1::2].any()
    big.flags.writeable = False
    with pytest.raises(ArgumentError, match="written"):
        array.patches([[5, 5], [6, 7]], (6, 8), out=big)


@pytest.mark.parametrize("name", SOME)
def test_leading_dimensions_are_whole_and_channels_may_be_chosen(name: str) -> None:
    values = np.arange(5 * 9 * 9, dtype="f4").reshape(5, 9, 9)
    objects: dict[str, bytes] = {}
    gpuzarr.create_array(objects, shape=values.shape, dtype="f4", chunks=(2, 4, 4), device="cpu")[...] = (
        values
    )
    array = gpuzarr.open_array(objects, device=name)
    assert np.array_equal(to_host(array.patches([[1, 2]], (3, 3)))[0], values[:, 1:4, 2:5])
    stats = ReadStats()
    found = to_host(array.patches([[1, 2], [0, 0]], ([4, 0, -1], 3, 3), stats=stats))
    assert np.array_equal(found[0], values[[4, 0, 4], 1:4, 2:5])
    assert stats.chunks == 2 * 2, "the middle pair of channels is not read"
    with pytest.raises(SelectionError, match="index 5 of dimension 0"):
        array.patches([[1, 2]], ([5], 3, 3))


@pytest.mark.parametrize(
    ("origins", "shape", "said"),
    [
        ([[0, 23]], (3, 10), "box 0 takes elements 23 to 33 of dimension 1, which has 32"),
        ([[3, 3], [-1, 0]], (3, 3), "box 1 takes elements -1 to 2 of dimension 0"),
        ([[0.5, 1]], (3, 3), "float64"),
        ([0, 1], (3, 3), "one row a box"),
        ([[0, 1, 2]], (3, 3, 3), "one row a box"),
        ([[0, 1]], (3, 3, 3), "dimensions"),
        ([[0, 1]], (-3, 3), "shape"),
        ([[0, 1]], (3, "3"), "shape"),
        ([[0, 1 << 62]], (3, 3), "further"),
        ([[True, False]], (3, 3), "bool"),
        ([[0, 1]], 64, "not iterable"),
        ([[0, 1]], ([0.5], 3), "float"),
        ([[0, 1]], ([True, False], 3), "truth value"),
        ([[0, 1], [2]], (3, 3), "inhomogeneous"),
    ],
)
def test_boxes_that_cannot_be(origins: Any, shape: Any, said: str) -> None:
    with pytest.raises(SelectionError, match=said):
        array_of().patches(origins, shape)


@pytest.mark.parametrize("mode", ["wrap", "reflect"])
def test_a_box_of_more_turns_than_can_be_planned(mode: str) -> None:
    array = gpuzarr.create_array({}, shape=1, dtype="u1", chunks=1, device="cpu")
    for boxes in (1, 16, 17):
        with pytest.raises(LimitError, match="pieces"):
            array.patches(np.zeros((boxes, 1), np.int64), (2**60,), mode=mode)


def test_many_small_boxes_of_a_large_chunk_are_one_small_launch() -> None:
    """As many blocks of threads as the boxes need, not as the chunk has bytes."""
    objects: dict[str, bytes] = {}
    gpuzarr.create_array(objects, shape=16 << 20, dtype="u1", chunks=16 << 20, codecs=[], device="cpu")
    objects["c/0"] = bytes(range(256)) * (1 << 16)
    array = gpuzarr.open_array(objects, device="sim")
    found = array.patches(np.arange(3000)[:, None] * 1000, (1,)).get()
    assert np.array_equal(found[:, 0], (np.arange(3000) * 1000 % 256).astype(np.uint8))


def test_a_mode_or_a_fill_that_is_not_known() -> None:
    with pytest.raises(ArgumentError, match="constant, edge"):
        array_of().patches([[0, 0]], (3, 3), mode="mirror")
    for fill in (1.5, -1, "x", [1, 2], 1 << 16):
        with pytest.raises(ArgumentError, match="fill="):
            array_of().patches([[0, 0]], (3, 3), mode="constant", fill=fill)


@pytest.mark.parametrize("name", SOME)
def test_no_boxes_and_empty_boxes(name: str) -> None:
    array, stats = array_of(name), ReadStats()
    assert array.patches([], (3, 3), stats=stats).shape == (0, 3, 3)
    assert array.patches(np.zeros((0, 2), np.int64), (3, 3), stats=stats).shape == (0, 3, 3)
    assert array.patches([[0, 0], [1, 1]], (0, 3), stats=stats).shape == (2, 0, 3)
    outside = array.patches([[100, 100], [-50, 3]], (2, 2), mode="constant", fill=4, stats=stats)
    assert (to_host(outside) == 4).all()
    assert (stats.requests, stats.chunks) == (0, 0)


@pytest.mark.parametrize("name", SOME)
def test_a_damaged_chunk_is_named(name: str) -> None:
    objects: dict[str, bytes] = {}
    gpuzarr.create_array(objects, shape=(8, 8), dtype="u2", chunks=(4, 4), codecs=["zstd"], device="cpu")[
        ...
    ] = 7
    objects["c/1/0"] = objects["c/1/0"][:-3]
    array = gpuzarr.open_array(objects, device=name)
    assert (to_host(array.patches([[0, 0], [0, 3]], (3, 4))) == 7).all()
    with pytest.raises(ChunkError, match="c/1/0"):
        array.patches([[0, 0], [3, 3]], (3, 4))


def test_boxes_need_the_beginning_of_a_zstd_chunk_only() -> None:
    """Damage behind the boxes is not looked for, unless a checksum covers it; damage before them is found."""
    values = np.random.default_rng(1).integers(0, 30, (16, 128, 128), np.uint16)
    origins, shape = [[0, 5, 7], [2, 60, 50], [1, 0, 0]], (3, 60, 70)
    expected = np.stack([values[z : z + 3, y : y + 60, x : x + 70] for z, y, x in origins])

    def stored(checksum: bool, at: int | None) -> Any:
        objects: dict[str, bytes] = {}
        codecs = [{"name": "zstd", "configuration": {"level": 1, "checksum": checksum}}]
        gpuzarr.create_array(
            objects, shape=values.shape, dtype=values.dtype, chunks=values.shape, codecs=codecs, device="cpu"
        )[...] = values
        if at is not None:
            damaged = bytearray(objects["c/0/0/0"])
            damaged[at : at + 8] = b"\xff" * 8
            objects["c/0/0/0"] = bytes(damaged)
        return gpuzarr.open_array(objects, device="cpu")

    readable: list[tuple[bool, int | None]] = [(False, None), (True, None)]
    if zstd_library.decoder() is not None:
        readable.append((False, -60))
    for checksum, at in readable:
        assert np.array_equal(stored(checksum, at).patches(origins, shape), expected)
        assert np.array_equal(stored(checksum, at)[2:5, 60:120, 50:120], expected[1])
    for checksum, at in ((True, -60), (False, 9), (True, 9)):
        with pytest.raises(ChunkError, match="c/0/0/0"):
            stored(checksum, at).patches(origins, shape)
        with pytest.raises(ChunkError, match="c/0/0/0"):
            stored(checksum, at)[2:5, 60:120, 50:120]


def test_boxes_of_objects() -> None:
    values = np.array([[f"{row}-{column}" for column in range(7)] for row in range(5)], object)
    objects: dict[str, bytes] = {}
    made = gpuzarr.create_array(objects, shape=(5, 7), dtype=str, chunks=(2, 3), device="cpu")
    made[...] = values
    found = gpuzarr.open_array(objects, device="cpu").patches([[3, 5], [0, 0]], (2, 3), mode="edge")
    assert found[0].tolist() == [["3-5", "3-6", "3-6"], ["4-5", "4-6", "4-6"]]


def test_boxes_of_an_array_without_dimensions() -> None:
    objects: dict[str, bytes] = {}
    gpuzarr.create_array(objects, shape=(), dtype="i2", device="cpu")[...] = 5
    array = gpuzarr.open_array(objects, device="cpu")
    assert array.patches(np.zeros((3, 0), np.int64), ()).tolist() == [5, 5, 5]


def test_pieces_are_planned_without_a_step_for_each_box() -> None:
    """A hundred thousand boxes of a large array, none of which is stored."""
    objects: dict[str, bytes] = {}
    gpuzarr.create_array(
        objects, shape=(10_000, 10_000, 10_000), dtype="u1", chunks=(1000,) * 3, device="cpu"
    )
    from gpuzarr.plan.boxes import plan_boxes

    array = gpuzarr.open_array(objects, device="cpu")
    origins = np.random.default_rng(0).integers(0, 9_990, (100_000, 3))
    plan, cells, pieces = plan_boxes(origins, (2, 2, 2), array.shape, array.metadata.chunk_grid, "error")
    assert len(plan) == len(cells.cells) <= 1000
    assert len(pieces.chunk_lo) == pieces.first[-1] >= 100_000
