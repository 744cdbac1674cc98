"""Chunks of several sizes along an axis (ZEP 3): made, written, resized, appended to, beside zarr-python."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuzarr
from gpuzarr.cli import main
from gpuzarr.errors import ArgumentError, GpuzarrError, LimitError
from gpuzarr.meta import encode

Objects = dict[str, bytes]


@pytest.fixture(autouse=True)
def _rectilinear() -> Iterator[None]:
    """zarr-python has it behind a setting, where it has it."""
    if "rectilinear_chunks" not in zarr.config.get("array", {}):
        pytest.skip("this zarr-python has no rectilinear chunk grids")
    with zarr.config.set({"array.rectilinear_chunks": True}):
        yield


def peer(objects: Objects) -> zarr.Array:
    buffer = zarr.core.buffer.default_buffer_prototype().buffer
    held = {key: buffer.from_bytes(value) for key, value in objects.items()}
    return zarr.open_array(zarr.storage.MemoryStore(held))


def theirs(**options: Any) -> tuple[Objects, zarr.Array]:
    """An array of zarr-python's, and what it stores."""
    held: dict[str, Any] = {}
    array = zarr.create_array(zarr.storage.MemoryStore(held), compressors=None, **options)
    return {key: value.to_bytes() for key, value in held.items()}, array


def lists(chunks: Any) -> list[Any]:
    return [[*one] if isinstance(one, tuple) else one for one in chunks]


def grid(objects: Objects) -> Any:
    return json.loads(objects["zarr.json"])["chunk_grid"]


def same(objects: Objects, expected: np.ndarray) -> gpuzarr.Array:
    """Opened anew, here and by zarr-python."""
    array = gpuzarr.open_array(objects, mode="r+", device="cpu")
    assert array.shape == expected.shape
    assert np.array_equal(array[...], expected)
    assert np.array_equal(peer(objects)[...], expected)
    return array


VALUES = np.arange(60 * 150, dtype="i4").reshape(60, 150)


# ---- creation


@pytest.mark.parametrize(
    "chunks",
    [
        [(10, 20, 30), 64],
        [[10, 20, 30], [50, 50, 50]],
        (64, (150,)),
        [[60], [150]],
        [(1,) * 60, 150],
        [(5, 5, 10, 10, 10, 20), 7],
    ],
    ids=str,
)
def test_it_is_what_zarr_python_makes(chunks: Any) -> None:
    expected, _ = theirs(shape=VALUES.shape, dtype="i4", chunks=lists(chunks))
    objects: Objects = {}
    array = gpuzarr.create_array(objects, shape=VALUES.shape, dtype="i4", chunks=chunks, device="cpu")
    assert grid(objects) == grid(expected)
    array[...] = VALUES
    array[7:33, 40:] = -1
    changed = VALUES.copy()
    changed[7:33, 40:] = -1
    same(objects, changed)


def test_sizes_of_any_kind_of_sequence() -> None:
    objects: Objects = {}
    for sizes in ([2, 3], (2, 3), np.array([2, 3]), range(2, 4)):
        array = gpuzarr.create_array(objects, shape=(5,), dtype="u1", chunks=[sizes], overwrite=True)
        assert array.chunks == ((2, 3),)


def test_one_shape_for_all_stays_regular() -> None:
    objects: Objects = {}
    gpuzarr.create_array(objects, shape=(5, 6), dtype="u1", chunks=[2, 3])
    assert grid(objects)["name"] == "regular"


@pytest.mark.parametrize(
    ("sizes", "written"),
    [
        ([7], [7]),
        ([7, 7], [[7, 2]]),
        ([1, 2, 3], [1, 2, 3]),
        ([10, 10, 10, 5], [[10, 3], 5]),
        ([5, 10, 10, 5, 5], [5, [10, 2], [5, 2]]),
    ],
)
def test_run_lengths(sizes: list[int], written: Any) -> None:
    from zarr.core.common import compress_rle

    assert encode.run_lengths(sizes) == written
    assert len(set(sizes)) == len(sizes) or compress_rle(sizes) == written


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"chunks": [(10, 20), 64]}, "axis 0 add up to 30, not to its 60"),
        ({"chunks": [(10, 20, 31), 64]}, "axis 0 add up to 61, not to its 60"),
        ({"chunks": [(10, 20, 30)]}, "1 axes do not fit 2 dimensions"),
        ({"chunks": [(10, 20, 30), 64, 3]}, "3 axes do not fit 2 dimensions"),
        ({"chunks": [(60, 0), 64]}, "chunks along axis 0, .* whole numbers from 1"),
        ({"chunks": [(60,), -1]}, "chunks along axis 1, .* whole numbers from 1"),
        ({"chunks": [(30.0, 30), 64]}, "chunks along axis 0, .* whole numbers"),
        ({"chunks": [(60,), "x"]}, "chunks along axis 1, 'x'"),
        ({"chunks": [(), 64]}, "axis 0 add up to 0"),
        ({"chunks": [(10, 20, 30), 64], "zarr_format": 2}, "differ in size in Zarr v2"),
        ({"chunks": [(10, 20, 30), 64], "shards": (60, 64)}, "differ in size in shards"),
        ({"chunks": [(10, 20, 30), 64], "shards": "auto"}, "differ in size in shards"),
    ],
)
def test_what_does_not_fit_is_refused(options: Any, match: str) -> None:
    objects: Objects = {}
    with pytest.raises(ArgumentError, match=match):
        gpuzarr.create_array(objects, shape=(60, 150), dtype="i4", **options)
    assert objects == {}


def test_too_many_chunks_are_refused() -> None:
    with pytest.raises(LimitError, match="listed chunk sizes"):
        gpuzarr.create_array({}, shape=(1 << 40, 3), dtype="i4", chunks=[1, (1, 2)])


def test_an_axis_of_none_grows_into_its_chunks() -> None:
    """As in zarr-python: where there is nothing, the sizes need not add up."""
    objects: Objects = {}
    array = gpuzarr.create_array(objects, shape=(0, 3), dtype="i4", chunks=[(4, 2), (1, 2)], device="cpu")
    array.append(np.ones((5, 3), "i4"))
    assert same(objects, np.ones((5, 3), "i4")).chunks == ((4, 2), (1, 2))
    assert sorted(key for key in objects if key != "zarr.json") == ["c/0/0", "c/0/1", "c/1/0", "c/1/1"]


def test_save_and_copy(tmp_path: Path) -> None:
    gpuzarr.save(tmp_path / "a", VALUES, chunks=[(10, 20, 30), 64], device="cpu")
    assert np.array_equal(zarr.open_array(tmp_path / "a")[...], VALUES)
    regular: Objects = {}
    gpuzarr.save(regular, VALUES, "x", chunks=(16, 64), zarr_format=2, device="cpu")
    gpuzarr.save(regular, VALUES[0], "line", zarr_format=2, device="cpu")
    made: Objects = {}
    gpuzarr.copy(regular, made, path="x", chunks=[(10, 20, 30), 64], zarr_format=3, verify=True)
    assert same(made, VALUES).chunks == ((10, 20, 30), (64, 64, 64))
    whole: Objects = {}
    gpuzarr.copy(regular, whole, chunks=[(10, 20, 30), 64], zarr_format=3)
    assert gpuzarr.open_array(whole, "x").chunks == ((10, 20, 30), (64, 64, 64))
    assert gpuzarr.open_array(whole, "line").chunks == gpuzarr.open_array(regular, "line").chunks
    back: Objects = {}
    gpuzarr.copy(made, back, chunks=(20, 20))
    assert np.array_equal(peer(back)[...], VALUES)


# ---- other shapes


SHAPES: list[list[tuple[int, int]]] = [
    [(60, 150), (70, 150)],
    [(60, 150), (60, 200), (61, 201), (62, 202)],
    [(60, 150), (15, 150), (35, 150), (75, 150)],
    [(60, 150), (15, 3), (60, 150)],
    [(60, 150), (0, 150), (60, 150)],
    [(60, 150), (0, 0), (100, 300)],
    [(60, 150), (30, 170), (90, 10), (60, 150)],
]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("chunks", [[(10, 20, 30), 64], [(10, 10, 40), (50, 50, 50)]], ids=str)
def test_resize_cuts_as_zarr_python_does(chunks: Any, shapes: list[tuple[int, int]]) -> None:
    """Documents are the same, and so are values: what comes back is the fill value."""
    before, reference = theirs(shape=(60, 150), dtype="i4", chunks=lists(chunks), fill_value=9)
    objects: Objects = {}
    array = gpuzarr.create_array(
        objects, shape=(60, 150), dtype="i4", chunks=chunks, fill_value=9, codecs=None, device="cpu"
    )
    array[...] = expected = VALUES
    assert grid(objects) == grid(before)
    for shape in shapes[1:]:
        array.resize(shape)
        reference.resize(shape)
        kept = expected[: shape[0], : shape[1]]
        expected = np.full(shape, 9, "i4")
        expected[: kept.shape[0], : kept.shape[1]] = kept
        held = reference.store._store_dict  # type: ignore[attr-defined]
        assert grid(objects) == grid({key: value.to_bytes() for key, value in held.items()})
        array = same(objects, expected)
    for key in objects.keys() - {"zarr.json"}:  # nothing is left of what fell outside
        assert all(int(i) < n for i, n in zip(key.split("/")[1:], array.metadata.grid.shape, strict=True))


def test_append() -> None:
    """What is behind the listed chunks gets one of its own, as in zarr-python."""
    objects: Objects = {}
    array = gpuzarr.create_array(
        objects, shape=(60, 150), dtype="i4", chunks=[(10, 20, 30), (70, 80)], device="cpu"
    )
    array[...] = expected = VALUES
    for more, axis in ((5, 0), (1, 1), (0, 0), (12, 0), (3, -1)):
        shape = [more if i == axis % 2 else n for i, n in enumerate(expected.shape)]
        values = np.full(shape, more, "i4")
        array.append(values, axis)
        expected = np.concatenate((expected, values), axis)
        same(objects, expected)
    assert array.chunks == ((10, 20, 30, 5, 12), (70, 80, 1, 3))
    assert grid(objects)["configuration"]["chunk_shapes"] == [[10, 20, 30, 5, 12], [70, 80, 1, 3]]
    array.resize((62, 151))
    array.append(np.zeros((20, 151), "i4"))  # the rest of a chunk of 5, one of 12, and 3 more
    assert array.chunks == ((10, 20, 30, 5, 12, 5), (70, 80, 1))
    same(objects, np.concatenate((expected[:62, :151], np.zeros((20, 151), "i4"))))


def test_appending_again_and_again_stays_short() -> None:
    objects: Objects = {}
    array = gpuzarr.create_array(objects, shape=(3,), dtype="i4", chunks=[(1, 2)], device="cpu")
    for step in range(9):
        array.append(np.full(4, step, "i4"))
    assert grid(objects)["configuration"]["chunk_shapes"] == [[1, 2, [4, 9]]]


def test_chunks_that_could_never_be_written_are_not_made() -> None:
    objects: Objects = {}
    array = gpuzarr.create_array(objects, shape=(3,), dtype="i4", chunks=[(1, 2)], device="cpu")
    before = dict(objects)
    with pytest.raises(LimitError, match="decode to more"):
        array.resize((1 << 50,))
    assert objects == before


def test_shards_of_several_sizes_grow_by_whole_chunks() -> None:
    """zarr-python makes them; there the new shard has to fit the chunks by itself."""
    objects, reference = theirs(shape=(24, 8), dtype="i4", chunks=(4, 8), shards=[[8, 16], [8]])
    reference[...] = expected = np.arange(24 * 8).reshape(24, 8)
    held = reference.store._store_dict  # type: ignore[attr-defined]
    objects = {key: value.to_bytes() for key, value in held.items()}
    array = same(objects, expected)
    array.append(np.ones((6, 8)))
    array = same(objects, np.concatenate((expected, np.ones((6, 8), int))))
    assert grid(objects)["configuration"]["chunk_shapes"] == [[8, 16, 8], [8]]
    array.resize((3, 8))
    array.resize((40, 8))
    same(objects, np.concatenate((expected[:3], np.zeros((37, 8), int))))


def test_what_zarr_python_has_shrunk_is_read() -> None:
    """Listed chunks behind the end, more than there are elements."""
    _, reference = theirs(shape=(600,), dtype="u1", chunks=[[10] * 60])
    reference[...] = 1
    reference.resize((3,))
    held = reference.store._store_dict  # type: ignore[attr-defined]
    objects = {key: value.to_bytes() for key, value in held.items()}
    assert grid(objects)["configuration"]["chunk_shapes"] == [[[10, 60]]]
    array = same(objects, np.ones(3, "u1"))
    array.append(np.ones(30, "u1"))
    assert same(objects, np.ones(33, "u1")).chunks == ((10, 10, 10, 10),)


def sizes_along(length: int) -> st.SearchStrategy[Any]:
    """One size, or a list that adds up."""
    cuts = st.sets(st.integers(1, length - 1), max_size=5).map(
        lambda found: np.diff([0, *sorted(found), length]).tolist()
    )
    return st.integers(1, length + 3) | cuts


@settings(max_examples=40)
@given(data=st.data())
def test_any_grid_and_any_writes(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    chunks = [data.draw(sizes_along(n) if n > 1 else st.just([1])) for n in shape]
    objects: Objects = {}
    array = gpuzarr.create_array(
        objects, shape=shape, dtype="i2", chunks=chunks, codecs=["zstd"], fill_value=-1, device="cpu"
    )
    expected = np.full(shape, -1, "i2")
    for step in range(data.draw(st.integers(1, 5))):
        if data.draw(st.booleans()):
            low = [data.draw(st.integers(0, n)) for n in array.shape]
            key = tuple(slice(a, data.draw(st.integers(a, n))) for a, n in zip(low, array.shape, strict=True))
            array[key] = step
            expected[key] = step
        elif data.draw(st.booleans()):
            new = data.draw(st.tuples(st.integers(0, 15), st.integers(0, 15)))
            array.resize(new)
            kept = expected[: new[0], : new[1]]
            expected = np.full(new, -1, "i2")
            expected[: kept.shape[0], : kept.shape[1]] = kept
        else:
            axis = data.draw(st.integers(0, 1))
            more = [data.draw(st.integers(0, 4)) if i == axis else n for i, n in enumerate(array.shape)]
            array.append(np.full(more, step, "i2"), axis)
            expected = np.concatenate((expected, np.full(more, step, "i2")), axis)
        assert np.array_equal(array[...], expected)
    same(objects, expected)


# ---- the command line


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = tmp_path / "v"
    code = main(["create", str(at), "--shape", "60,150", "--dtype", "i4", "--chunks", "10+20+30,64"])
    assert (code, capsys.readouterr().err) == (0, "")
    assert gpuzarr.open_array(at).chunks == ((10, 20, 30), (64, 64, 64))
    code = main(["copy", str(at), str(tmp_path / "w"), "--chunks", "60,100 + 50"])
    assert (code, capsys.readouterr().err) == (0, "")
    assert gpuzarr.open_array(tmp_path / "w").chunks == ((60,), (100, 50))
    for text in ("10+,64", "+,4", "1+-2"):
        assert main(["create", str(tmp_path / "x"), "--shape", "9", "--dtype", "i4", "--chunks", text]) == 2
        assert "is no shape" in capsys.readouterr().err
    with pytest.raises(GpuzarrError):
        gpuzarr.open(tmp_path / "x")
