"""Copies, seen by zarr-python: values, attributes, names; what is taken as it is; and what a crash leaves."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from zarr.storage import MemoryStore

import gpuzarr
from gpuzarr import CopyStats, copying
from gpuzarr.engine import regions, unfinished
from gpuzarr.meta.recast import Changes, recast
from gpuzarr.store.memory import MappingStore

SHAPE = (37, 21, 10)


def numbers(dtype: str = "<i4", shape: tuple[int, ...] = SHAPE) -> NDArray[Any]:
    """Values that are the fill value within (18, 10) of the first two dimensions."""
    values = np.random.default_rng(7).integers(0, 99, shape).astype(dtype)
    values[tuple(slice(n // 2) for n in shape[:2])] = 0
    return values


def stored(values: NDArray[Any], **create: Any) -> dict[str, bytes]:
    """What zarr-python writes, as a mapping."""
    store = MemoryStore()
    array = zarr.create_array(store, shape=values.shape, dtype=values.dtype, **create)
    array[...] = values
    return {key: value.to_bytes() for key, value in store._store_dict.items()}


def seen(target: dict[str, bytes], path: str = "") -> Any:
    """What zarr-python opens."""
    buffer = zarr.core.buffer.default_buffer_prototype().buffer
    store = MemoryStore({key: buffer.from_bytes(value) for key, value in target.items()})
    return zarr.open(store, path=path, mode="r")


def copied(source: Any, **options: Any) -> tuple[dict[str, bytes], CopyStats]:
    target: dict[str, bytes] = {}
    counts = CopyStats()
    gpuzarr.copy(source, target, stats=counts, verify=True, **options)
    assert not [key for key in target if unfinished.NAME in key]
    return target, counts


# ---- what is copied into what

SOURCES: dict[str, dict[str, Any]] = {
    "v2": {"zarr_format": 2, "chunks": (16, 8, 10)},
    "v2 F": {"zarr_format": 2, "chunks": (16, 8, 10), "order": "F"},
    "v3": {"zarr_format": 3, "chunks": (8, 8, 5)},
    "v3 shards": {"zarr_format": 3, "chunks": (8, 7, 5), "shards": (16, 21, 10)},
}
TARGETS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "v2": {"zarr_format": 2},
    "v3": {"zarr_format": 3},
    "shards": {"zarr_format": 3, "shards": "auto"},
    "no shards": {"shards": False},
    "chunks": {"chunks": (5, 21, 3), "shards": False},
    "chunks in shards": {"zarr_format": 3, "chunks": (4, 7, 5), "shards": (12, 7, 10)},
    "nested": {"zarr_format": 3, "chunks": (4, 7, 5), "shards": [(16, 14, 10), (8, 7, 10)]},
    "codecs": {"codecs": [{"id": "zlib", "level": 1}]},
    "raw": {"codecs": []},
    "F": {"order": "F"},
    "index first": {"zarr_format": 3, "shards": "auto", "index_location": "start"},
    "dots": {"separator": "."},
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", SOURCES)
def test_values_are_those_of_the_source(source: str, target: str) -> None:
    values = numbers()
    given = stored(values, fill_value=0, attributes={"a": [1, {"b": None}]}, **SOURCES[source])
    made, _ = copied(given, **TARGETS[target])
    array = seen(made)
    assert np.array_equal(array[...], values)
    assert (array.dtype, array.fill_value, dict(array.attrs)) == ("i4", 0, {"a": [1, {"b": None}]})
    asked = TARGETS[target].get("zarr_format", SOURCES[source]["zarr_format"])
    assert array.metadata.zarr_format == asked
    chunks = TARGETS[target].get("chunks", SOURCES[source]["chunks"])
    assert gpuzarr.open_array(made, device="cpu").chunks == chunks


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("of", [2, 3])
@pytest.mark.parametrize(
    ("dtype", "fill"),
    [
        ("?", True),
        ("|i1", -1),
        (">u2", 7),
        ("<f4", np.nan),
        (">f8", -0.0),
        ("<f8", np.inf),
        ("<c8", 1 - 2j),
        ("<M8[s]", np.datetime64("NaT", "s")),
        ("<U3", "ab"),
        ("|S2", b"x"),
        ([("a", "<i4"), ("b", "<f8")], None),
    ],
    ids=str,
)
def test_types_and_fill_values(dtype: Any, fill: Any, of: int, zarr_format: int) -> None:
    values = np.zeros((5, 4), np.dtype(dtype))
    values[1:3] = np.ones(1, values.dtype) if values.dtype.names else np.arange(8).reshape(2, 4)
    given: dict[str, bytes] = {}
    native = values.dtype.newbyteorder("=")
    create = {"dtype": dtype, "fill_value": fill, "zarr_format": of, "codecs": ["zstd"]}
    array = gpuzarr.create_array(given, shape=(7, 4), chunks=(3, 2), device="cpu", **create)
    array[:5] = values
    made, counts = copied(given, zarr_format=zarr_format)
    found = seen(made)
    expected = array[...]
    assert found.dtype.newbyteorder("=") == native
    assert found[...].astype(native).tobytes() == expected.tobytes()
    assert counts.passed > 0  # the byte order is kept too
    assert counts.encoded == 0


def test_strings_and_bytes() -> None:
    words = np.array([["", "ab"], ["日本", "c" * 100]], object)
    given = stored(np.array(words, "T"), chunks=(1, 2))
    for options in ({}, {"zarr_format": 2}, {"chunks": (2, 1)}, {"shards": (2, 2)}):
        made, _ = copied(given, **options)
        assert gpuzarr.load(made).tolist() == words.tolist()
        assert seen(made)[...].tolist() == words.tolist()
    back, counts = copied(copied(given, zarr_format=2)[0], zarr_format=3)
    assert seen(back)[...].tolist() == words.tolist()
    assert (counts.passed, counts.encoded) == (2, 0)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (1, 1, 1)])
def test_odd_shapes(shape: tuple[int, ...]) -> None:
    values = np.ones(shape, "u2")
    given: dict[str, bytes] = {}
    gpuzarr.save(given, values, device="cpu", chunks=tuple(max(n, 1) for n in shape))
    for options in ({}, {"zarr_format": 2}, {"codecs": ["gzip"]}):
        assert np.array_equal(seen(copied(given, **options)[0])[...], values)


def test_rectilinear_chunks_stay_or_become_regular() -> None:
    values = numbers()
    given: dict[str, bytes] = {}
    array = gpuzarr.create_array(given, shape=SHAPE, dtype="i4", chunks=(8, 7, 5), device="cpu")
    array[...] = values
    lists = [[8, 20, 9], [7, 14], [4, 6]]
    document = json.loads(given["zarr.json"])
    document["chunk_grid"] = {
        "name": "rectilinear",
        "configuration": {"kind": "inline", "chunk_shapes": lists},
    }
    uneven = {"zarr.json": json.dumps(document).encode()}
    gpuzarr.open_array(uneven, mode="r+", device="cpu")[...] = values
    for options in ({}, {"codecs": ["gzip"]}):
        made, _ = copied(uneven, **options)
        assert np.array_equal(gpuzarr.load(made, device="cpu"), values)
        assert gpuzarr.open_array(made, device="cpu").chunks == ((8, 20, 9), (7, 14), (4, 6))
    assert np.array_equal(seen(copied(uneven, chunks=(10, 10, 10))[0])[...], values)
    with pytest.raises(gpuzarr.GpuzarrError, match="differ in size"):
        gpuzarr.copy(uneven, {}, zarr_format=2)


def test_transposes_and_nested_shards_of_the_source() -> None:
    values = numbers(shape=(12, 8, 12))
    inner = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [2, 4, 3],
            "codecs": [{"name": "bytes", "configuration": {"endian": "big"}}, {"name": "crc32c"}],
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
            "index_location": "start",
        },
    }
    document = {
        "zarr_format": 3, "node_type": "array", "shape": [12, 8, 12], "data_type": "int32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [6, 4, 6]}},
        "chunk_key_encoding": {"name": "v2"}, "fill_value": 0, "attributes": {},
        "codecs": [{"name": "transpose", "configuration": {"order": [2, 1, 0]}}, inner],
    }  # fmt: skip
    given = {"zarr.json": json.dumps(document).encode()}
    gpuzarr.open_array(given, mode="r+", device="cpu")[...] = values
    for options, passed in (({}, True), ({"shards": False}, True), ({"zarr_format": 2}, True)):
        made, counts = copied(given, **options)
        assert np.array_equal(seen(made)[...], values), options
        assert bool(counts.passed) == passed, options
        back, counts = copied(made, zarr_format=3, shards=[(12, 8, 12), (6, 4, 12)], index_location="start")
        assert np.array_equal(gpuzarr.load(back, device="cpu"), values)
        assert counts.encoded == 0


def test_dimension_names_change_places() -> None:
    given = stored(numbers(), chunks=(8, 8, 8), dimension_names=("z", "y", "x"), attributes={"k": 1})
    old, _ = copied(given, zarr_format=2)
    assert json.loads(old[".zattrs"]) == {"k": 1, "_ARRAY_DIMENSIONS": ["z", "y", "x"]}
    new, _ = copied(old, zarr_format=3)
    array = seen(new)
    assert (array.metadata.dimension_names, dict(array.attrs)) == (("z", "y", "x"), {"k": 1})
    odd = {**old, ".zattrs": json.dumps({"_ARRAY_DIMENSIONS": ["z"]}).encode()}
    assert dict(seen(copied(odd, zarr_format=3)[0]).attrs) == {"_ARRAY_DIMENSIONS": ["z"]}


@pytest.mark.parametrize("device", ["cpu", "sim"])
def test_devices(device: str) -> None:
    given = stored(numbers(), chunks=(8, 8, 8))
    made, counts = copied(given, chunks=(16, 16, 10), device=device)
    assert np.array_equal(seen(made)[...], numbers())
    assert counts.decoded > 0


# ---- encoded chunks


def test_what_is_taken_as_it_is() -> None:
    """Chunks (16, 8, 10) of (37, 21, 10): 3 × 3, one of them fill values alone."""
    values = numbers()
    given = stored(values, chunks=(16, 8, 10), zarr_format=2, fill_value=0)
    chunks = {key: value for key, value in given.items() if not key.startswith(".z")}
    assert len(chunks) == 8
    for options in ({}, {"zarr_format": 3}, {"separator": "/"}):
        made, counts = copied(given, **options)
        assert (counts.passed, counts.encoded, counts.objects) == (8, 0, 8)
        taken = [value for key, value in made.items() if key[-1].isdigit()]
        assert sorted(taken) == sorted(chunks.values())
    sharded, counts = copied(given, zarr_format=3, shards=(32, 16, 10))
    assert (counts.passed, counts.encoded, counts.objects) == (8, 0, 4)
    back, counts = copied(sharded, zarr_format=2, separator=".")
    assert (counts.passed, counts.encoded, counts.objects) == (8, 0, 8)
    assert {key: back[key] for key in chunks} == chunks
    again, counts = copied(sharded)  # shards as they are
    assert (counts.objects, counts.encoded) == (4, 0)
    assert again == sharded


def test_what_is_not() -> None:
    given = stored(numbers(), chunks=(16, 8, 10), zarr_format=2, fill_value=0)
    for options in ({"chunks": (8, 8, 10)}, {"codecs": ["gzip"]}, {"order": "F"}):
        made, counts = copied(given, **options)
        assert counts.passed == 0
        assert counts.encoded > 0
    values = np.array([(1, 2), (3, 4), (5, 6)], [("a", ">i4"), ("b", "<i4")])
    mixed: dict[str, bytes] = {}
    gpuzarr.save(mixed, values, chunks=2, zarr_format=2, device="cpu")
    made, counts = copied(mixed, zarr_format=3)  # fields of both byte orders have no form in v3
    assert counts.passed == 0
    assert np.array_equal(gpuzarr.load(made, device="cpu"), gpuzarr.load(mixed, device="cpu"))


def test_codecs_of_both_formats() -> None:
    """The chain of v2 as v3 has it, and back: chunks pass, and zarr-python decodes them."""
    values = numbers("<i4")
    chains: list[dict[str, Any]] = [
        {"filters": [{"id": "delta", "dtype": "<i4"}], "compressor": {"id": "zlib", "level": 1}},
        {"filters": [{"id": "shuffle", "elementsize": 4}], "compressor": {"id": "lz4", "acceleration": 1}},
        {"filters": None, "compressor": {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1}},
        {"filters": None, "compressor": {"id": "gzip", "level": 2}},
        {"filters": None, "compressor": {"id": "bz2", "level": 1}},
        {"filters": None, "compressor": None},
    ]
    for chain in chains:
        document = {
            "zarr_format": 2, "shape": list(SHAPE), "chunks": [16, 8, 10], "dtype": "<i4", "order": "C",
            "fill_value": 0, **chain,
        }  # fmt: skip
        given = {".zarray": json.dumps(document).encode()}
        gpuzarr.open_array(given, mode="r+", device="cpu")[...] = values
        made, counts = copied(given, zarr_format=3)
        assert (counts.passed, counts.encoded) == (8, 0), chain
        assert np.array_equal(seen(made)[...], values), chain
        back, counts = copied(made, zarr_format=2)
        assert (counts.passed, counts.encoded) == (8, 0), chain
        assert np.array_equal(seen(back)[...], values), chain


def test_damage_passes_unless_it_is_verified() -> None:
    given = stored(numbers(), chunks=(16, 8, 10), zarr_format=2, compressors={"id": "zlib"})
    given["1.1.0"] = b"nonsense"
    target: dict[str, bytes] = {}
    gpuzarr.copy(given, target, zarr_format=3)
    assert target["c/1/1/0"] == b"nonsense"
    with pytest.raises(gpuzarr.GpuzarrError, match=r"1\.1\.0"):
        gpuzarr.copy(given, {}, zarr_format=3, verify=True)
    with pytest.raises(gpuzarr.GpuzarrError, match=r"1\.1\.0"):
        gpuzarr.copy(given, {}, codecs=["gzip"])


def test_what_was_written_is_compared() -> None:
    class Careless(dict[str, bytes]):
        def __setitem__(self, key: str, value: bytes) -> None:
            super().__setitem__(key, value[:-1] + b"\x55" if key == "c/1/1/0" else value)

    given = stored(numbers(), chunks=(16, 8, 10))
    for options in ({"codecs": []}, {"codecs": [], "shards": False, "order": "F"}):
        with pytest.raises(gpuzarr.GpuzarrError, match="differs from"):
            gpuzarr.copy(given, Careless(), verify=True, **options)
    lossy = [{"name": "bitround", "configuration": {"keepbits": 2}}]
    floats = stored(numbers().astype("f4") / 7, chunks=(16, 8, 10))
    with pytest.raises(gpuzarr.GpuzarrError, match="lossy"):
        gpuzarr.copy(floats, {}, verify=True, codecs=lossy)


# ---- hierarchies


def hierarchy(zarr_format: int) -> dict[str, bytes]:
    """An image of two levels with labels below, and a table of another number of dimensions."""
    store = MemoryStore()
    root = zarr.create_group(store, zarr_format=zarr_format, attributes={"multiscales": [{"name": "i"}]})
    for i, n in enumerate((24, 12)):
        array = root.create_array(str(i), shape=(n, n), chunks=(8, 8), dtype="u2")
        array[...] = np.arange(n * n).reshape(n, n)
    labels = root.create_group("labels", attributes={"labels": ["cells"]})
    labels.create_group("cells").create_array("0", shape=(24, 24), chunks=(8, 8), dtype="i4")[...] = 3
    root.create_array("table", shape=(10,), chunks=(4,), dtype="f8", attributes={"unit": "µm"})[...] = 0.5
    zarr.consolidate_metadata(store)
    return {key: value.to_bytes() for key, value in store._store_dict.items()}


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("of", [2, 3])
@pytest.mark.parametrize("consolidated", [False, True])
def test_hierarchies(of: int, zarr_format: int, consolidated: bool) -> None:
    given = hierarchy(of)
    made, counts = copied(given, zarr_format=zarr_format, chunks=(6, 6), consolidated=consolidated)
    assert (counts.arrays, counts.groups) == (4, 3)
    ours, theirs = seen(made), seen(given)
    members = dict(theirs.members(max_depth=None))
    assert dict(ours.attrs) == dict(theirs.attrs)
    copies = dict(ours.members(max_depth=None))
    assert copies.keys() == members.keys()
    for name, node in members.items():
        assert dict(copies[name].attrs) == dict(node.attrs), name
        assert copies[name].metadata.zarr_format == zarr_format
        if isinstance(node, zarr.Array):
            assert np.array_equal(copies[name][...], node[...])
            assert copies[name].chunks == ((6, 6) if node.ndim == 2 else (4,))
    assert (ours.metadata.consolidated_metadata is not None) == consolidated
    assert gpuzarr.open(made).tree() == gpuzarr.open(given).tree()


def test_parts_of_hierarchies() -> None:
    given = hierarchy(3)
    target: dict[str, bytes] = {}
    gpuzarr.copy(given, target, path="labels", target_path="a/b")
    assert seen(target, "a/b/cells/0")[...].min() == 3
    above = [key for key in target if not key.startswith("a/b/")]
    assert sorted(above) == ["a/zarr.json", "zarr.json"]
    group = gpuzarr.open(given)
    node = gpuzarr.copy(group, target, path="0", target_path="a/0")
    assert (node.mode, node.shape) == ("r+", (24, 24))
    assert np.array_equal(gpuzarr.copy(group["1"], {})[...], group["1"][...])


def test_stores(tmp_path: Path) -> None:
    """From an archive, to fsspec, to a directory, and back to a mapping."""
    given = hierarchy(2)
    with zipfile.ZipFile(tmp_path / "v.zip", "w") as archive:
        for key, value in given.items():
            archive.writestr(key, value)
    gpuzarr.copy(tmp_path / "v.zip", "memory://copies/v3", zarr_format=3, target_path="deep")
    with pytest.raises(gpuzarr.GpuzarrError, match="same place"):
        gpuzarr.copy("memory://copies/v3", "memory://copies/v3/deep", path="deep/0")
    gpuzarr.copy("memory://copies/v3", tmp_path / "v", path="deep")
    gpuzarr.copy("memory://copies/v3", tmp_path / "v", path="deep", overwrite=True)
    back, _ = copied(tmp_path / "v", zarr_format=2)
    assert np.array_equal(seen(back)["labels/cells/0"][...], np.full((24, 24), 3))
    with pytest.raises(gpuzarr.GpuzarrError, match="same place"):
        gpuzarr.copy(tmp_path / "v.zip", tmp_path)
    with pytest.raises(gpuzarr.GpuzarrError, match="archives are only read"):
        gpuzarr.copy(given, tmp_path / "w.zip")
    with pytest.raises(gpuzarr.GpuzarrError, match="cannot be written"):
        gpuzarr.copy(given, tmp_path / "v.zip", overwrite=True)


def test_attributes_that_are_no_json() -> None:
    """xarray writes NaN, and strings may hold half a surrogate pair: they are kept."""
    given = stored(numbers(), chunks=(8, 8, 8), zarr_format=2)
    given[".zattrs"] = b'{"_FillValue": NaN, "half": "\\ud800", "word": "\xc2\xb5"}'
    for zarr_format in (2, 3):
        made, _ = copied(given, zarr_format=zarr_format)
        attributes = dict(gpuzarr.open(made).attrs)
        assert np.isnan(attributes.pop("_FillValue"))
        assert attributes == {"half": "\ud800", "word": "µ"}


# ---- what is refused


def test_refusals(tmp_path: Path) -> None:
    given = stored(numbers(), chunks=(8, 8, 8))
    target = dict(given)
    with pytest.raises(gpuzarr.GpuzarrError, match="there is something at"):
        gpuzarr.copy(given, target)
    assert target == given
    for path in ("", "deep"):
        with pytest.raises(gpuzarr.GpuzarrError, match="same place"):
            gpuzarr.copy(given, given, target_path=path, overwrite=True)
    (tmp_path / "a").mkdir()
    gpuzarr.copy(given, tmp_path / "a" / "v")
    for place in ("a/v", "a", "a/v/w", "b/../a/v"):
        with pytest.raises(gpuzarr.GpuzarrError, match="same place"):
            gpuzarr.copy(tmp_path / "a" / "v", tmp_path / place, overwrite=True)
    (tmp_path / "mine").write_text("a letter")
    with pytest.raises(gpuzarr.GpuzarrError, match="is not deleted"):
        gpuzarr.copy(given, tmp_path, overwrite=True)
    assert (tmp_path / "mine").read_text() == "a letter"
    with pytest.raises(gpuzarr.GpuzarrError, match="no array or group"):
        gpuzarr.copy(given, tmp_path)
    with pytest.raises(gpuzarr.GpuzarrError, match="resume alone"):
        gpuzarr.copy(given, {}, overwrite=True, resume=True)
    wrong: list[dict[str, Any]] = [{"zarr_format": 4}, {"order": "A"}, {"separator": ":"}]
    for options in (*wrong, {"shards": (9, 9, 9)}, {"chunks": (0,)}, {"codecs": ["abacus"]}):
        with pytest.raises(gpuzarr.GpuzarrError):
            gpuzarr.copy(given, (nothing := {}), **options)
        assert nothing == {}
    with pytest.raises(gpuzarr.GpuzarrError, match="no shards"):
        gpuzarr.copy(given, {}, zarr_format=2, shards=(16, 16, 16))
    with pytest.raises(gpuzarr.GpuzarrError, match="is an array"):
        gpuzarr.copy(given, dict(given), target_path="below")
    scaled = [{"name": "scale_offset", "configuration": {"scale": 1.0, "offset": 0.0}}]
    floats = gpuzarr.copy(stored(np.ones(4, "f4"), chunks=(2,)), {}, codecs=scaled)
    with pytest.raises(gpuzarr.GpuzarrError, match="cannot be written in Zarr v2"):
        gpuzarr.copy(floats, {}, zarr_format=2)


def test_overwrite() -> None:
    old, given = hierarchy(3), stored(numbers(), chunks=(8, 8, 8))
    gpuzarr.copy(given, old, overwrite=True)
    assert old == given | {"zarr.json": old["zarr.json"]}
    assert np.array_equal(seen(old)[...], numbers())


# ---- interrupted


class Stopped(BaseException):
    """Whatever happens to a process."""


class Fragile(MappingStore):
    """A store that fails from one operation on, as to a process that is killed there."""

    __slots__ = ("left",)

    def __init__(self, mapping: dict[str, bytes], left: int) -> None:
        super().__init__(mapping)
        object.__setattr__(self, "left", [left])

    def _step(self) -> None:
        if self.left[0] <= 0:
            raise Stopped
        self.left[0] -= 1

    def put(self, objects: Sequence[tuple[str, Any]]) -> None:
        for one in objects:
            self._step()
            super().put([one])

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._step()
            super().delete([key])


def steps(make: Callable[[Fragile], None], before: dict[str, bytes]) -> list[dict[str, bytes]]:
    """What is left if the process is killed before its first operation, its second, and so on."""
    found = []
    for left in range(10_000):
        mapping = dict(before)
        try:
            make(Fragile(mapping, left))
        except Stopped:
            found.append(mapping)
        else:
            return found
    raise AssertionError


@pytest.mark.parametrize("every", [0.0, 1e9])
@pytest.mark.parametrize("overwritten", [False, True])
def test_a_crash_at_any_step(monkeypatch: pytest.MonkeyPatch, every: float, overwritten: bool) -> None:
    """Nobody sees a half array, and resuming gives what an undisturbed copy gives."""
    monkeypatch.setattr(unfinished, "_EVERY", every)
    monkeypatch.setattr(regions, "_REGION", 1000)
    given, before = hierarchy(2), hierarchy(3) if overwritten else {}
    options: dict[str, Any] = {"zarr_format": 3, "chunks": (4, 8)}
    whole, _ = copied(given, **options)

    with gpuzarr.configured(threads=1):
        left = steps(lambda store: gpuzarr.copy(given, store, overwrite=overwritten, **options), before)
        assert len(left) > 40
        for i, mapping in enumerate(left):
            for path in ("0", "1", "table", "labels/cells/0"):
                if f"{path}/zarr.json" in mapping and mapping != before:
                    found = gpuzarr.load(mapping, path, device="cpu")
                    assert np.array_equal(found, gpuzarr.load(given, path, device="cpu")), i
            if "zarr.json" in mapping and mapping != before and unfinished.NAME not in mapping:
                assert mapping == whole
            if mapping and mapping != before and mapping != whole:
                with pytest.raises(gpuzarr.GpuzarrError, match="unfinished copy"):
                    gpuzarr.copy(given, dict(mapping), **options)
            if mapping == before and before:  # it never began
                gpuzarr.copy(given, mapping, overwrite=True, **options)
            else:
                gpuzarr.copy(given, mapping, resume=True, **options)
            assert mapping == whole, i


def test_what_is_done_is_not_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished, "_EVERY", 0.0)
    monkeypatch.setattr(regions, "_REGION", 1000)
    given = stored(numbers(), chunks=(8, 8, 10))
    target: dict[str, bytes] = {}
    with gpuzarr.configured(threads=1), pytest.raises(Stopped):
        gpuzarr.copy(given, Fragile(target, 20), codecs=["gzip"])
    assert [key for key in target if "zarr.json" in key] == []
    counts = CopyStats()
    gpuzarr.copy(given, target, codecs=["gzip"], resume=True, stats=counts)
    assert counts.resumed > 5
    total = counts.resumed + counts.regions
    counts = CopyStats()
    gpuzarr.copy(given, {}, codecs=["gzip"], stats=counts)
    assert (counts.regions, counts.resumed) == (total, 0)
    counts = CopyStats()
    gpuzarr.copy(given, target, codecs=["gzip"], resume=True, stats=counts)  # there is nothing to do
    assert counts.regions == 0
    assert np.array_equal(seen(target)[...], numbers())


def test_another_copy_is_not_resumed() -> None:
    given = stored(numbers(), chunks=(8, 8, 10))
    target: dict[str, bytes] = {}
    with gpuzarr.configured(threads=1), pytest.raises(Stopped):
        gpuzarr.copy(given, Fragile(target, 4))
    kept = dict(target)
    for options in ({"codecs": ["gzip"]}, {"chunks": (4, 4, 10)}, {"zarr_format": 2}):
        with pytest.raises(gpuzarr.GpuzarrError, match="with other chunks"):
            gpuzarr.copy(given, target, resume=True, **options)
    with pytest.raises(gpuzarr.GpuzarrError, match="and is of"):
        gpuzarr.copy(MappingStore(given, "memory:else"), target, resume=True)
    assert target == kept
    target[unfinished.NAME] = b"{"
    with pytest.raises(gpuzarr.GpuzarrError, match="overwrite=True starts anew"):
        gpuzarr.copy(given, target, resume=True)
    gpuzarr.copy(given, target, overwrite=True)
    assert np.array_equal(seen(target)[...], numbers())


def test_hostile_notes() -> None:
    given = stored(numbers(), chunks=(8, 8, 10))
    target: dict[str, bytes] = {}
    with gpuzarr.configured(threads=1), pytest.raises(Stopped):
        gpuzarr.copy(given, Fragile(target, 4))
    note = json.loads(target[unfinished.NAME])
    for done in ([1], {"": [[0, 9**30]]}, {"": [["a", 1]]}, {"": [[-5, -1]]}, {"": 3}, {"x": [[0, 1]]}):
        mapping = {**target, unfinished.NAME: json.dumps({**note, "done": done}).encode()}
        try:
            gpuzarr.copy(given, mapping, resume=True)
        except gpuzarr.GpuzarrError:
            continue
        assert done == {"": [[0, 9**30]]} or np.array_equal(seen(mapping)[...], numbers())


def test_errors_stop_the_copy_and_leave_a_note() -> None:
    given = stored(numbers(), chunks=(8, 8, 10))
    given["c/2/1/0"] = b"x"
    target: dict[str, bytes] = {}
    with pytest.raises(gpuzarr.GpuzarrError, match="c/2/1/0"):
        gpuzarr.copy(given, target, codecs=["gzip"])
    assert unfinished.NAME in target
    assert "zarr.json" not in target
    given["c/2/1/0"] = stored(numbers(), chunks=(8, 8, 10))["c/2/1/0"]
    gpuzarr.copy(given, target, codecs=["gzip"], resume=True)
    assert np.array_equal(seen(target)[...], numbers())


KILLED = """
import sys, gpuzarr
from gpuzarr.engine import regions, unfinished
regions._REGION, unfinished._EVERY = 1 << 14, 0.0
gpuzarr.configure(threads=2)
source, target = sys.argv[1:]
print("on", flush=True)
cut = {"chunks": (8, 16, 16), "shards": (16, 32, 32), "codecs": ["zstd"], "zarr_format": 3}
gpuzarr.copy(source, target, **cut, resume=True)
"""


@pytest.mark.slow
def test_kill_at_any_moment(tmp_path: Path) -> None:
    """A process that is killed over and over makes the copy that an undisturbed one makes."""
    values = np.random.default_rng(1).integers(0, 50, (96, 96, 96)).astype("u2")
    create = {"chunks": (16, 16, 16), "dtype": "u2", "zarr_format": 2}
    zarr.create_array(tmp_path / "v2", shape=values.shape, **create)[...] = values
    command = [sys.executable, "-c", KILLED, str(tmp_path / "v2"), str(tmp_path / "copy")]
    moments = np.random.default_rng(os.getpid()).uniform(0.0, 0.12, 10)
    for moment in moments:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(moment)
            process.send_signal(signal.SIGKILL)
        if (tmp_path / "copy" / "zarr.json").exists():
            assert np.array_equal(zarr.open_array(tmp_path / "copy")[...], values)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert np.array_equal(zarr.open_array(tmp_path / "copy")[...], values)
    assert not (tmp_path / "copy" / unfinished.NAME).exists()


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regions that run come to their end and are noted."""
    monkeypatch.setattr(regions, "_REGION", 1000)
    given = stored(numbers(), chunks=(8, 8, 10))
    target: dict[str, bytes] = {}
    calls: list[int] = []

    def stop(done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == 4:
            raise KeyboardInterrupt

    with gpuzarr.configured(threads=2), pytest.raises(KeyboardInterrupt):
        gpuzarr.copy(given, target, codecs=["gzip"], progress=stop)
    done = json.loads(target[unfinished.NAME])["done"][""]
    assert sum(end - begin for begin, end in done) >= 3
    counts = CopyStats()
    gpuzarr.copy(given, target, codecs=["gzip"], resume=True, stats=counts)
    assert counts.resumed == sum(end - begin for begin, end in done)


# ---- how much at once


def test_progress_is_told_in_decoded_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regions, "_REGION", 1000)
    told: list[tuple[int, int]] = []
    threads: set[int] = set()

    def report(done: int, total: int) -> None:
        told.append((done, total))
        threads.add(threading.get_ident())

    gpuzarr.copy(hierarchy(3), {}, codecs=["gzip"], progress=report)
    total = 2 * (24 * 24 + 12 * 12) + 4 * 24 * 24 + 8 * 10
    assert (told[0], told[-1]) == ((0, total), (total, total))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """However large the array: a budget of 512 KiB, here, for one of 4 MiB that nobody holds."""
    monkeypatch.setattr(regions, "_REGION", 1 << 16)
    monkeypatch.setattr(regions, "_LARGEST", 1 << 17)
    monkeypatch.setattr(copying, "BUDGET", 1 << 19)

    class Nowhere(dict[str, bytes]):
        """Keeps documents alone."""

        def __setitem__(self, key: str, value: bytes) -> None:
            if not key.startswith("c/"):
                super().__setitem__(key, value)

    given = stored(np.zeros((1, 1), "u2"), chunks=(64, 64), zarr_format=2, fill_value=3)
    document = json.loads(given[".zarray"])
    source = {".zarray": json.dumps({**document, "shape": [2048, 1024]}).encode()}
    gpuzarr.load(source, device="cpu")[0, 0]  # threads and modules are there
    tracemalloc.start()
    try:
        with gpuzarr.configured(threads=threads, write_empty_chunks=1):
            gpuzarr.copy(source, Nowhere(), zarr_format=3, chunks=(96, 96), shards=(192, 192), codecs=[])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 << 20


def test_regions_are_whole_objects_and_few_chunks_are_read_twice() -> None:
    def meta(**options: Any) -> Any:
        array = gpuzarr.create_array({}, dtype="u2", device="cpu", **options)
        return array.metadata, array.attrs

    source, attrs = meta(shape=(1000, 1000, 1000), chunks=(64, 64, 64))
    for changes in (
        Changes(chunks=(50, 50, 50)),
        Changes(chunks=(1, 1000, 1000)),
        Changes(chunks=(1000, 10, 10)),
        Changes(shards=(256, 256, 256)),
    ):
        document, _ = recast(source, attrs, changes)
        target = gpuzarr.open_array({"zarr.json": json.dumps(document).encode()}, device="cpu").metadata
        sides = regions.sides(source, target, 2, aligned=False)
        decoded = np.prod([min(side, 1000) for side in sides]) * 2
        assert decoded <= 128 << 20
        units = regions.sizes(target.grid)
        assert all(side % unit == 0 or side >= 1000 for side, unit in zip(sides, units, strict=True))
        again = np.prod([-(-1000 // side) * (-(-side // 64) + 1) / 16 for side in sides if side < 1000])
        assert again < 6, changes


@pytest.mark.parametrize("seed", range(8))
def test_any_cut_becomes_any_other(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random shapes, chunks, shards, codecs and formats, interrupted now and then."""
    rng = random.Random(seed)

    def cut(shape: tuple[int, ...]) -> dict[str, Any]:
        levels = [tuple(rng.randint(1, n + 2) for n in shape)]
        for _ in range(rng.choice([0, 0, 1, 2])):
            levels.insert(0, tuple(n * rng.randint(1, 3) for n in levels[0]))
        return {"chunks": levels[-1], "shards": levels[:-1] or None}

    def asked(zarr_format: int, shape: tuple[int, ...]) -> dict[str, Any]:
        codecs = rng.choice([[], ["zstd"], ["crc32c"], [{"id": "zlib", "level": 1}], "auto"])
        made = {**cut(shape), "codecs": codecs, "order": rng.choice("CF"), "separator": rng.choice("./")}
        return {**made, "index_location": rng.choice(["start", "end"])} | (
            {"shards": None} if zarr_format == 2 else {}
        )

    for _ in range(10):
        shape = tuple(rng.randint(rng.random() > 0.1, 12) for _ in range(rng.randint(0, 4)))
        of, zarr_format = rng.choice([2, 3]), rng.choice([2, 3])
        dtype = rng.choice(["u1", "<i2", ">i4", "<f4", "<c8", "<M8[s]", "S3", "<U2"])
        values = np.random.default_rng(rng.random().__hash__()).integers(0, 2, shape).astype(dtype)
        given: dict[str, bytes] = {}
        gpuzarr.save(given, values, zarr_format=of, device="cpu", **asked(of, shape))
        changes = {name: one for name, one in asked(zarr_format, shape).items() if rng.random() < 0.5}
        if zarr_format == 3 and "chunks" in changes:
            changes["shards"] = changes.get("shards") or False
        elif changes.get("shards"):
            del changes["shards"]
        monkeypatch.setattr(regions, "_REGION", rng.choice([1, 100, 1 << 24]))
        monkeypatch.setattr(regions, "_LARGEST", rng.choice([1, 1000, 1 << 27]))
        target: dict[str, bytes] = {}
        with contextlib.suppress(Stopped), gpuzarr.configured(threads=rng.choice([1, 2])):
            gpuzarr.copy(given, Fragile(target, rng.randint(0, 20)), zarr_format=zarr_format, **changes)
        gpuzarr.copy(given, target, zarr_format=zarr_format, resume=True, verify=True, **changes)
        native = values.dtype.newbyteorder("=")
        found = gpuzarr.load(target, device="cpu")
        assert np.asarray(found, native).tobytes() == values.astype(native).tobytes(), (shape, of, changes)
