"""What writes cost, counted; what they refuse; and what they do to chunks that are damaged."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuzarr
from gpuzarr import WriteStats
from gpuzarr.codecs.zstd import Zstd
from gpuzarr.errors import (
    ArgumentError,
    ChunkError,
    GpuzarrError,
    NotFoundError,
    SelectionError,
)
from gpuzarr.store.memory import MappingStore
from gpuzarr.testing.store import CountingStore
from tests import kills, rounds

VALUES = np.random.default_rng(3).integers(1, 2000, (32, 32), np.uint16)
LAYOUTS = {"chunks": None, "shards": (16, 32), "nested": [(32, 32), (16, 16)]}


def counted(values: np.ndarray = VALUES, **options: Any) -> tuple[CountingStore, gpuzarr.Array]:
    store = CountingStore(MappingStore({}))
    array = gpuzarr.save(store, values, **{"chunks": (8, 8), "device": "cpu", **options})
    store.forget()
    return store, array


# ---- what writes cost


def test_whole_chunks_are_not_read() -> None:
    store, array = counted()
    stats = WriteStats()
    array.write(np.s_[8:24], VALUES[:16], stats=stats)
    assert (store.seen, len(store.put_keys), store.deleted_keys) == ([], 8, [])
    assert (stats.chunks, stats.read, stats.objects, stats.bytes_written) == (8, 0, 8, store.bytes_put)


def test_chunks_at_the_edge_are_whole_where_the_array_ends() -> None:
    store, array = counted(VALUES[:30, :30])
    array[24:, 24:] = 5
    assert store.seen == []
    array[24:, 24:29] = 5
    assert [request.key for request in store.seen] == ["c/3/3"]


def test_partial_chunks_are_read_once() -> None:
    store, array = counted()
    stats = WriteStats()
    array.write(np.s_[4:20, 8:24], 7, stats=stats)
    assert sorted(request.key for request in store.seen) == ["c/0/1", "c/0/2", "c/2/1", "c/2/2"]
    assert (stats.chunks, stats.read, stats.objects) == (6, 4, 6)


@pytest.mark.parametrize("location", ["start", "end"])
def test_a_shard_is_rewritten_once(location: str) -> None:
    """Whole: without a request. In part: with one, and the chunks beside keep their bytes."""
    store, array = counted(shards=(16, 32), index_location=location)
    array[16:] = VALUES[16:]
    assert (store.seen, store.put_keys) == ([], ["c/1/0"])
    store.forget()
    stats = WriteStats()
    array.write(np.s_[3:5, ::9], 3, stats=stats)
    assert [request.key for request in store.seen] == ["c/0/0"]
    assert store.put_keys == ["c/0/0"]
    assert (stats.chunks, stats.read, stats.kept, stats.objects) == (4, 4, 4, 1)
    expected = VALUES.copy()
    expected[3:5, ::9] = 3
    assert np.array_equal(array[...], expected)


def test_appending_whole_chunks_reads_the_document_alone() -> None:
    store, array = counted()
    array.append(VALUES[:8])
    assert [request.key for request in store.seen] == ["zarr.json"]
    assert store.put_keys[-1] == "zarr.json"  # data before metadata
    assert len(store.put_keys) == 5


def test_growing_reads_no_chunk_but_those_at_the_edge() -> None:
    store, array = counted(VALUES[:30, :32])
    array.resize((64, 64))
    assert {request.key for request in store.seen} == {"zarr.json", *(f"c/3/{i}" for i in range(4))}
    assert store.put_keys == ["zarr.json"]
    assert store.deleted_keys == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_falls_outside_does_not_come_back(layout: str) -> None:
    """Neither whole objects nor parts of those that stay, nor corners, nor inner chunks of shards."""
    for smaller in ((9, 9), (8, 32), (32, 3), (0, 5), (17, 31)):
        _, array = counted(shards=LAYOUTS[layout], fill_value=9)
        array.resize(smaller)
        array.resize((40, 40))
        expected = np.full((40, 40), 9, np.uint16)
        expected[: smaller[0], : smaller[1]] = VALUES[: smaller[0], : smaller[1]]
        assert np.array_equal(array[...], expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_lies_past_the_end_of_chunks_is_nobodys(layout: str) -> None:
    """Others may have put anything there, or a writer died before the new shape was stored."""
    for grow in ("resize", "append", "append one"):
        store, array = counted(VALUES, shards=LAYOUTS[layout])
        document = json.loads(store.inner.mapping["zarr.json"])  # type: ignore[attr-defined]
        store.put([("zarr.json", json.dumps({**document, "shape": [13, 32]}).encode())])
        array = gpuzarr.open_array(store, mode="r+", device="cpu")
        expected = np.zeros((20, 32), np.uint16)
        expected[:13] = VALUES[:13]
        if grow == "resize":
            array.resize((20, 32))
        else:
            expected[13:14] = 5
            array.append(expected[13:14] if grow == "append one" else expected[13:])
            array.resize((20, 32))
        assert np.array_equal(array[...], expected), grow


# ---- empty chunks


@pytest.mark.parametrize(
    ("dtype", "fill", "other"),
    [
        ("f4", np.nan, np.array(0x7FC00001, "u4").view("f4")),
        ("f8", 0.0, -0.0),
        ("f8", -0.0, 0.0),
        ("M8[s]", np.datetime64("NaT", "s"), np.datetime64(0, "s")),
        ("c16", complex(0, -0.0), 0j),
        ("S3", b"ab", b"a"),
        ("i2", -1, 0),
    ],
)
def test_empty_is_what_has_the_bits_of_the_fill_value(dtype: str, fill: Any, other: Any) -> None:
    objects: dict[str, bytes] = {}
    array = gpuzarr.create_array(objects, shape=(4,), dtype=dtype, chunks=(2,), fill_value=fill, device="cpu")
    array[...] = np.full(4, fill, dtype)
    assert set(objects) == {"zarr.json"}
    array[1] = np.asarray(other, dtype)
    array[2:] = np.asarray(other, dtype)
    assert set(objects) == {"zarr.json", "c/0", "c/1"}
    expected = np.full(4, fill, dtype)
    expected[1:] = np.asarray(other, dtype)
    assert gpuzarr.open_array(objects, device="cpu")[...].tobytes() == expected.tobytes()
    array[...] = np.full(4, fill, dtype)
    assert set(objects) == {"zarr.json"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_write_empty_chunks(layout: str) -> None:
    store, array = counted(np.zeros((32, 32), "u2"), shards=LAYOUTS[layout])
    assert set(store.inner.list()) == {"zarr.json"}
    with gpuzarr.configured(write_empty_chunks=1):
        stats = WriteStats()
        array.write(..., 0, stats=stats)
    assert (stats.chunks, stats.empty) == (16, 0)
    assert len(list(store.inner.list())) > 1
    array[...] = 0
    assert set(store.inner.list()) == {"zarr.json"}


def test_no_chunk_left_no_shard_left() -> None:
    store, array = counted(shards=(16, 32))
    for low in range(0, 32, 8):
        array[:16, low : low + 8] = 0
    assert sorted(store.inner.list()) == ["c/1/0", "zarr.json"]


# ---- values and keys


@pytest.mark.parametrize(
    ("dtype", "value", "message"),
    [
        ("u1", 300, "uint8"),
        ("u1", -1, "uint8"),
        ("u1", [1, 2, 300, 4], "uint8"),
        ("i4", "12", "cannot be written"),
        ("i4", None, "cannot be written"),
        ("i4", float("nan"), "int32"),
        ("i4", 2**70, "int32|cannot be written"),
        ("i4", {}, "cannot be written"),
        ("f4", [1, [2]], "float32"),
        ("S3", 5, "cannot be written"),
        ("S3", "é", "S3"),
        ("M8[s]", "text", "cannot be written|datetime"),
        ([("a", "i4"), ("b", "f8")], np.zeros(4), "cannot be written"),
        ("string", 5, "encoded"),
        ("string", [1, 2, 3, 4], "encoded"),
        ("string", "\ud800", "encoded"),
        ("bytes", "text", "encoded"),
        ("i4", np.zeros(3, "i4"), "do not fit"),
        ("i4", np.zeros((2, 4), "i4"), "do not fit"),
    ],
)
def test_values_that_do_not_fit(dtype: Any, value: Any, message: str) -> None:
    objects: dict[str, bytes] = {}
    array = gpuzarr.create_array(objects, shape=(4,), dtype=dtype, chunks=(2,), device="cpu")
    before = dict(objects)
    with pytest.raises(ArgumentError, match=message):
        array[...] = value
    assert objects == before


def test_values_are_cast_and_broadcast_as_numpy_does() -> None:
    expected = np.zeros((3, 4), "i2")
    array = gpuzarr.save({}, expected, chunks=(2, 3), device="cpu")
    for key, value in [
        (np.s_[...], 1.9),
        (np.s_[0], np.arange(4)),
        (np.s_[1:], np.arange(2)[:, None]),
        (np.s_[0, ::-2], np.ones((1, 1, 2), "f8")),
        (np.s_[2, 1], True),
        (np.s_[[2, 0], :], [[1, 2, 3, 4], [5, 6, 7, 8]]),
        (np.s_[0:0], np.zeros((0, 4))),
        (np.s_[:, 1], np.array([70000, -1, 3])),
    ]:
        expected[key] = value
        array[key] = value
        assert np.array_equal(array[...], expected)


def test_nan_into_integers_warns_as_numpy_does() -> None:
    array = gpuzarr.save({}, np.ones(4, "i2"), device="cpu")
    with pytest.warns(RuntimeWarning, match="invalid value"):
        array[...] = np.array([np.nan] * 4)


def test_structured_values() -> None:
    dtype = np.dtype([("a", "<i4"), ("b", ">f8", (2,)), ("c", "S2")])
    array = gpuzarr.create_array({}, shape=(4,), dtype=dtype, chunks=(3,), zarr_format=2, device="cpu")
    expected = np.zeros(4, array.dtype)
    for key, value in [(1, (5, [1.5, -0.0], b"xy")), (np.s_[2:], [(1, [2, 3], b"a"), (4, [5, 6], b"b")])]:
        array[key] = value
        expected[key] = value
        assert array[...].tobytes() == expected.tobytes()


def test_objects_with_none_are_empty_ones() -> None:
    """As numcodecs has it, which every reader of these arrays uses."""
    array = gpuzarr.create_array({}, shape=(3,), dtype="string", chunks=(2,), device="cpu")
    array[...] = np.array(["a", None, "c"], object)
    assert array[...].tolist() == ["a", "", "c"]


def test_arrays_without_elements_or_dimensions() -> None:
    objects: dict[str, bytes] = {}
    nothing = gpuzarr.create_array(objects, "nothing", shape=(0, 4), dtype="u1", device="cpu")
    nothing[...] = 5
    nothing[...] = np.zeros((0, 4))
    nothing.append(np.ones((2, 4), "u1"))
    assert nothing[...].tolist() == [[1] * 4] * 2
    for shards in (None, ()):
        one = gpuzarr.create_array(
            objects, "one", shape=(), dtype="u1", shards=shards, overwrite=True, device="cpu"
        )
        one[...] = 5
        one[()] = 6
        assert one[()] == 6
        with pytest.raises(ArgumentError, match="axis 0"):
            one.append(np.ones(2))
        with pytest.raises(SelectionError):
            one[0] = 1


def test_huge_arrays_are_written_in_places() -> None:
    store = CountingStore(MappingStore({}))
    array = gpuzarr.create_array(
        store, shape=(1 << 50, 1 << 50), dtype="u1", chunks=(64, 64), shards=(1 << 20, 128), device="cpu"
    )
    array[1 << 49, -5:] = 7
    assert array[(1 << 49) : (1 << 49) + 2, -6:].tolist() == [[0, 7, 7, 7, 7, 7], [0] * 6]
    array.resize((1 << 51, 1 << 51))
    assert array[1 << 49, 1 << 50] == 0
    with pytest.raises(MemoryError):
        array[...] = 1


def test_chunks_of_several_sizes() -> None:
    """Written as they are."""
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [10],
        "data_type": "uint8",
        "fill_value": 0,
        "chunk_grid": {
            "name": "rectilinear",
            "configuration": {"kind": "inline", "chunk_shapes": [[2, 5, 3]]},
        },
        "chunk_key_encoding": {"name": "default"},
        "codecs": [{"name": "bytes"}],
    }
    objects = {"zarr.json": json.dumps(document).encode()}
    array = gpuzarr.open_array(objects, mode="r+", device="cpu")
    array[1:9] = np.arange(1, 9)
    assert array[...].tolist() == [0, *range(1, 9), 0]
    assert {key: len(value) for key, value in objects.items() if key != "zarr.json"} == {
        "c/0": 2,
        "c/1": 5,
        "c/2": 3,
    }


# ---- damaged chunks


@pytest.mark.parametrize("layout", LAYOUTS)
def test_damaged_chunks_are_kept_or_replaced_whole(layout: str) -> None:
    store, array = counted(shards=LAYOUTS[layout], codecs=["crc32c"])
    objects: dict[str, bytes] = store.inner.mapping  # type: ignore[attr-defined,assignment]
    key = "c/0/0"
    damaged = bytearray(objects[key])
    damaged[len(damaged) // 2 if layout == "chunks" else -9] ^= 1
    objects[key] = bytes(damaged)
    array = gpuzarr.open_array(store, mode="r+", device="cpu")
    with pytest.raises(ChunkError) as caught:
        array[0:3, 0:3] = 1
    assert caught.value.chunk == key
    assert objects[key] == bytes(damaged)
    array[...] = VALUES
    assert np.array_equal(array[...], VALUES)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_chunk_of_a_terabyte_is_not_read(layout: str, tmp_path: Path) -> None:
    array = gpuzarr.save(tmp_path / "a", VALUES, chunks=(8, 8), shards=LAYOUTS[layout], device="cpu")
    os.truncate(tmp_path / "a" / "c" / "0" / "0", 1 << 40)
    with pytest.raises(ChunkError, match="1099511627776"):
        array[0:3, 0:3] = 1
    array[...] = VALUES
    assert np.array_equal(array[...], VALUES)


def test_verify_finds_an_encoder_that_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    store, array = counted(codecs=["zstd"])
    real = Zstd.encode

    def lie(self: Zstd, chunk: Any, decoded: Any) -> Any:
        wrong = np.array(chunk, copy=True)
        wrong.flat[-1] += 1
        return real(self, wrong, decoded)

    monkeypatch.setattr(Zstd, "encode", lie)
    before = dict(store.inner.mapping)  # type: ignore[attr-defined]
    with gpuzarr.configured(verify=1), pytest.raises(ChunkError, match="does not decode to its values"):
        array[...] = VALUES + 1
    assert dict(store.inner.mapping) == before  # type: ignore[attr-defined]
    monkeypatch.undo()
    with gpuzarr.configured(verify=1):
        array[...] = VALUES + 1
    assert np.array_equal(array[...], VALUES + 1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_verify_passes_what_is_right(layout: str) -> None:
    values = np.array([[np.nan, -0.0], [1, np.inf]], ">f4").repeat(8, 0).repeat(8, 1)
    with gpuzarr.configured(verify=1):
        array = gpuzarr.save({}, values, chunks=(8, 8), order="F", codecs=["gzip"], device="cpu")
        array[3:5] = np.nan
        words = gpuzarr.save({}, np.array(["a", "bc"], object), dtype="string", device="cpu")
    assert np.isnan(array[3:5]).all()
    assert words[...].tolist() == ["a", "bc"]


# ---- places


def test_there_is_something_already(tmp_path: Path) -> None:
    for path in ("a", "g/b"):
        gpuzarr.save(tmp_path, VALUES, path, chunks=(8, 8))
    for path in ("a", "g", ""):
        with pytest.raises(ArgumentError, match="there is something"):
            gpuzarr.create_array(tmp_path, path, shape=(1,), dtype="u1")
        with pytest.raises(ArgumentError, match="there is something"):
            gpuzarr.create_group(tmp_path, path)
    for path in ("a/b", "a/b/c"):
        with pytest.raises(ArgumentError, match="is an array"):
            gpuzarr.create_array(tmp_path, path, shape=(1,), dtype="u1")
    with pytest.raises(ArgumentError, match="not JSON"):
        gpuzarr.create_array(
            tmp_path, "a", shape=(1,), dtype="u1", overwrite=True, attributes={"a": np.float32(1)}
        )
    assert np.array_equal(gpuzarr.load(tmp_path, "a", device="cpu"), VALUES)
    gpuzarr.create_group(tmp_path, "a", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["zarr.json"]
    gpuzarr.create_array(tmp_path, "g", shape=(1,), dtype="u1", overwrite=True)
    with pytest.raises(NotFoundError):
        gpuzarr.open(tmp_path, "g/b")


def test_an_array_can_be_saved_over_itself(tmp_path: Path) -> None:
    array = gpuzarr.save(tmp_path / "a", VALUES, chunks=(8, 8), device="cpu")
    gpuzarr.save(tmp_path / "a", array, chunks=(16, 16), overwrite=True, device="cpu")
    assert np.array_equal(gpuzarr.load(tmp_path / "a", device="cpu"), VALUES)


@pytest.mark.parametrize("overwrite", [False, True])
def test_chunks_without_a_document_do_not_come_back(tmp_path: Path, overwrite: bool) -> None:
    """A `save` that did not end; and files that are nobody's stay."""
    gpuzarr.save(tmp_path / "a", VALUES, chunks=(8, 8))
    (tmp_path / "a" / "zarr.json").unlink()
    (tmp_path / "a" / "notes.txt").write_text("mine")
    array = gpuzarr.create_array(
        tmp_path / "a", shape=(32, 32), dtype="u2", chunks=(8, 8), overwrite=overwrite, device="cpu"
    )
    assert not array[...].any()
    assert (tmp_path / "a" / "notes.txt").read_text() == "mine"


def test_old_handles_undo_nothing(tmp_path: Path) -> None:
    """Attributes, shapes and appended rows that came by another handle."""
    first = gpuzarr.save(tmp_path / "a", VALUES, chunks=(8, 8), attributes={"a": 1}, device="cpu")
    second = gpuzarr.open_array(tmp_path / "a", mode="r+", device="cpu")
    assert second.attrs["a"] == 1
    first.update_attributes({"b": 2})
    first.append(VALUES)
    second.update_attributes({"c": 3})
    assert second.shape == (64, 32)
    second.append(VALUES)
    assert dict(second.attrs) == {"a": 1, "b": 2, "c": 3}
    assert np.array_equal(second[...], np.concatenate([VALUES] * 3))
    group = gpuzarr.create_group(tmp_path / "g", attributes={"a": 1})
    again = gpuzarr.open(tmp_path / "g", mode="r+")
    group.update_attributes({"b": 2})
    again.update_attributes({"a": None})
    assert dict(again.attrs) == {"b": 2}


class Late(CountingStore):
    """Answers come when somebody has changed what they were about."""

    meanwhile: Callable[[], None] | None = None

    def get_ranges(self, requests: Any, place: Any = None) -> Any:
        answer = super().get_ranges(requests, place)
        change, self.meanwhile = self.meanwhile, None
        if change is not None:
            change()
        return answer


def test_an_index_that_was_read_before_a_write_is_not_kept() -> None:
    store = Late(MappingStore({}))
    array = gpuzarr.save(store, VALUES, chunks=(8, 8), shards=(16, 32), device="cpu")
    store.meanwhile = lambda: array.__setitem__(..., VALUES % 7)
    with suppress(GpuzarrError):  # this read may see anything but wrong sizes
        array[...]
    assert np.array_equal(array[...], VALUES % 7)


@pytest.mark.parametrize("own", [False, True], ids=["one handle", "handles"])
def test_writers_beside_one_another(own: bool, tmp_path: Path) -> None:
    """`python -m tests.rounds` has more of it."""
    rounds.threads(tmp_path / "a", None, (32, 32), own)
    rounds.threads({}, (32, 32), (8, 8), own)
    rounds.appends(tmp_path / "b", own)


def test_processes_beside_one_another(tmp_path: Path) -> None:
    rounds.processes(tmp_path, 0, (8, 32))


@pytest.mark.parametrize("kind", kills.KINDS)
@pytest.mark.parametrize("layout", kills.LAYOUTS)
def test_writers_that_are_killed(kind: str, layout: str, tmp_path: Path) -> None:
    """`python -m tests.kills` kills more of them."""
    pytest.importorskip("zarr", reason="zarr-python, which reads what is left, is not installed")
    gpuzarr.create_group(tmp_path)
    assert kills.kill_once(kind, layout, 0.02 * np.random.default_rng().random(), tmp_path) is None


@pytest.mark.parametrize("shards", [None, 8])
def test_a_handle_with_an_older_shape_leaves_alone_what_was_appended(shards: int | None) -> None:
    objects: dict[str, bytes] = {}
    one = gpuzarr.create_array(objects, shape=4, dtype="u1", chunks=8, shards=shards, device="cpu")
    one[...] = 1
    other = gpuzarr.open_array(objects, mode="r+", device="cpu")
    other.append([2, 2, 2])
    one[0] = 9
    assert gpuzarr.open_array(objects, device="cpu")[...].tolist() == [9, 1, 1, 1, 2, 2, 2]
    one[...] = 3
    assert gpuzarr.open_array(objects, device="cpu")[...].tolist() == [3, 3, 3, 3, 2, 2, 2]


@pytest.mark.parametrize("shards", [None, 64])
def test_threads_append_and_write_one_array(shards: int | None) -> None:
    objects: dict[str, bytes] = {}
    array = gpuzarr.create_array(objects, shape=4, dtype="u1", chunks=64, shards=shards, device="cpu")
    array[...] = 1
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            array[0] = 7

    thread = threading.Thread(target=write)
    thread.start()
    for _ in range(40):
        array.append([2, 2, 2])
    stop.set()
    thread.join()
    assert gpuzarr.open_array(objects, device="cpu")[1:].tolist() == [1] * 3 + [2] * 120
