"""Reference sets as Parquet files: what fsspec writes and reads, which files are read, files that lie."""

from __future__ import annotations

import json
import random
import threading
import tracemalloc
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuzarr
from gpuzarr.errors import GpuzarrError, LimitError, MetadataError, MissingDependencyError, StoreError
from gpuzarr.store.base import Request, Store
from gpuzarr.store.local import LocalStore
from gpuzarr.store.memory import MappingStore
from gpuzarr.store.references import (
    ReferenceStore,
    StreamingReferenceStore,
    open_reference_set,
    open_references,
)
from gpuzarr.testing.store import CountingStore
from tests.unit.test_references import BYTES, Afar, zarray

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed, which reads Parquet files")
parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

ROWS = 10


def table(rows: int = ROWS, **columns: Any) -> bytes:
    """A record file: `path`, `offset`, `size`, `raw`, by default a part of `x` each."""
    held = {
        "path": ["x"] * rows,
        "offset": [i * 16 for i in range(rows)],
        "size": [16] * rows,
        "raw": pyarrow.array([None] * rows, pyarrow.binary()),
    }
    columns = {name: column for name, column in {**held, **columns}.items() if column is not None}
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(columns), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def objects(shape: Any = (160,), chunks: Any = (16,), size: Any = ROWS, **records: bytes) -> dict[str, bytes]:
    metadata = {".zgroup": {"zarr_format": 2}, "v/.zarray": zarray(list(shape), list(chunks))}
    document = {"metadata": metadata, "record_size": size}
    files = {f"set.parq/v/refs.{name[1:]}.parq": stored for name, stored in records.items()}
    return {"set.parq/.zmetadata": json.dumps(document).encode(), "x": BYTES, **files}


def opened(held: dict[str, bytes], options: Any = None) -> ReferenceStore:
    return open_references(MappingStore(held), "set.parq", options)


# ---- what fsspec writes


@pytest.fixture(scope="module", params=["pyarrow", "fastparquet"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A group with arrays of several records, of one, of no dimension, and with holes; relative targets."""
    pytest.importorskip("pandas", reason="pandas is not installed, with which fsspec writes Parquet files")
    pytest.importorskip(request.param, reason=f"{request.param} is not installed, which writes them")
    import fsspec
    from fsspec.implementations.reference import LazyReferenceMapper

    folder = tmp_path_factory.mktemp(request.param)
    (folder / "x").write_bytes(BYTES)
    refs: dict[str, Any] = {
        ".zgroup": '{"zarr_format": 2}',
        ".zattrs": '{"title": "many"}',
        "v/.zarray": json.dumps(zarray([37, 50], [5, 7])),
        "v/.zattrs": "{}",
        "g/.zgroup": '{"zarr_format": 2}',
        "g/s/.zarray": json.dumps(zarray([], [], "<i4")),
        "g/s/0": b"\1\2\3\4",
        "g/e/.zarray": json.dumps(zarray([0, 3], [2, 2])),
        "w/.zarray": json.dumps(zarray([4096], [4096])),
        "w/0": [f"{folder}/x"],
    }
    for i in range(64):
        if i % 7 != 3:
            at = [f"{folder}/x", 35 * i, 35] if i % 2 else bytes([i]) * 35
            refs[f"v/{i // 8}.{i % 8}"] = at
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = LazyReferenceMapper.create(
            str(folder / "set.parquet"),
            fs=fsspec.filesystem("file"),
            record_size=20,
            engine=request.param,
            categorical_threshold=request.param == "pyarrow" and 1,
        )
        for key, value in refs.items():
            made[key] = value
        made.flush()
    (folder / "refs.json").write_text(
        json.dumps({k: v.decode("latin1") if isinstance(v, bytes) else v for k, v in refs.items()})
    )
    return folder


def test_as_fsspec_reads_it(written: Path, device: str) -> None:
    """Each object by its reader; and the set as JSON gives the same arrays."""
    import fsspec

    store = open_reference_set(written / "set.parquet")
    # What it writes with pyarrow it does not read where a column is empty.
    name = "set.parquet" if written.name.startswith("fastparquet") else "refs.json"
    theirs = fsspec.filesystem("reference", fo=str(written / name), remote_protocol="file")
    keys = [key for key in store.list() if not key.endswith(".zmetadata")]
    assert len(keys) == 55 + 8 + 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = {key: theirs.cat_file(key) for key in keys}
    found = dict(zip(keys, store.get_ranges([Request(key) for key in keys]), strict=True))
    for key, value in expected.items():
        if "/." in f"/{key}":
            assert json.loads(bytes(found[key] or b"")) == json.loads(value)
        else:
            assert bytes(found[key] or b"") == value
    group = gpuzarr.open(store, device=device)
    assert isinstance(group, gpuzarr.Group)
    assert group.attrs == {"title": "many"}
    assert sorted(name for name, _ in group.groups()) == ["g"]
    same = open_reference_set(written / "refs.json")
    for path in ("v", "w", "g/s"):
        assert np.array_equal(gpuzarr.load(store, path), gpuzarr.load(same, path))


def test_listing(written: Path) -> None:
    store = open_reference_set(written / "set.parquet")
    same = open_reference_set(written / "refs.json")
    assert set(store.list()) == {*same.list(), ".zmetadata"}
    assert set(store.list("v/")) == set(same.list("v/"))
    assert set(store.list_dir()) == {*same.list_dir(), ".zmetadata"}
    for prefix in ("v/", "g/", "g/s/", "nothing/"):
        assert set(store.list_dir(prefix)) == set(same.list_dir(prefix))
    assert store.exists("v/1.1")
    assert not store.exists("v/0.3")
    assert store.size("v/0.1") == 35


# ---- which files are read


def test_records_are_read_once_and_when_they_are_needed() -> None:
    """Of 100 million references those of the wanted chunks."""
    held = objects((16 * 100_000_000,), (16,), r0=table(), r5=table(), r9999999=table())
    counted = CountingStore(MappingStore(held))
    store = open_references(counted, "set.parq/")
    counted.forget()
    array = gpuzarr.open_array(store, "v")
    assert counted.seen == []
    assert array[160 * 5 : 160 * 5 + 32].tobytes() == BYTES[:32]
    assert [one.key for one in counted.seen if "refs" in one.key] == ["set.parq/v/refs.5.parq"]
    assert array[160 * 5 + 40 : 160 * 6 + 10].tobytes() == BYTES[40:160] + bytes(10)
    assert array[-16:].tobytes() == BYTES[144:160]
    assert array[160 * 6 : 160 * 6 + 32].tobytes() == bytes(32)
    names = [one.key.split("/")[-1] for one in counted.seen if "refs" in one.key]
    assert names == ["refs.5.parq", "refs.6.parq", "refs.9999999.parq"]


def test_records_are_kept_within_a_budget() -> None:
    held = objects((160 * 50,), (16,), **{f"r{i}": table() for i in range(50)})
    counted = CountingStore(MappingStore(held))
    store = open_references(counted, "set.parq")
    with gpuzarr.configured(index_cache_nbytes=4000):
        for record in (1, 2, 1, 3, 1):
            store.get_ranges([Request(f"v/{record * 10}")])
        before = len([one for one in counted.seen if one.key.endswith("parq")])
        assert before == 4  # with the one of the first look
        store.get_ranges([Request(f"v/{i * 10}") for i in range(50)])
        assert len([one for one in counted.seen if one.key.endswith("parq")]) - before >= 46
        assert len(store._references._kept) < 12  # type: ignore[union-attr]


def test_threads_do_not_read_a_record_twice() -> None:
    class Slow(CountingStore):
        def get_ranges(self, requests: Any, place: Any = None) -> Any:
            if any("refs.1" in request.key for request in requests):
                everybody.wait(0.02)
            return CountingStore.get_ranges(self, requests, place)

    everybody = threading.Event()
    counted = Slow(MappingStore(objects((160 * 2,), (16,), r0=table(), r1=table())))
    store = open_references(counted, "set.parq")
    found: list[bytes] = []

    def read(i: int) -> None:
        found.append(bytes(store.get_ranges([Request(f"v/{10 + i}")])[0] or b""))

    threads = [threading.Thread(target=read, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(BYTES[16 * i : 16 * i + 16] for i in range(8))
    assert [one.key for one in counted.seen].count("set.parq/v/refs.1.parq") == 1


def test_a_set_from_afar_streams() -> None:
    """Whether it lies afar itself, or only its targets do."""
    far = table(path=["s3://bucket/x"] * ROWS)
    afar = Afar(objects(r0=far))
    store = open_references(afar, "set.parq")
    assert [one.key for one in afar.seen] == ["set.parq/.zmetadata"]
    assert isinstance(store, StreamingReferenceStore)
    assert gpuzarr.load(store, "v").tobytes() == BYTES[:160]

    def open_target(root: str, options: Mapping[str, Any]) -> Store:
        return afar if root == "s3://bucket" else LocalStore(root)

    near = open_references(MappingStore(objects(r0=far)), "set.parq", None, open_target)
    assert isinstance(near, StreamingReferenceStore)
    assert gpuzarr.load(near, "v").tobytes() == BYTES[:160]


@pytest.mark.parametrize("separator", [".", "/"])
def test_keys(separator: str) -> None:
    """Chunks in C order; names that are none are absent, and no file is read for them."""
    held = objects((32, 80), (16, 16), 3, **{f"r{i}": table() for i in range(4)})
    document = json.loads(held["set.parq/.zmetadata"])
    document["metadata"]["v/.zarray"]["dimension_separator"] = separator
    held["set.parq/.zmetadata"] = json.dumps(document).encode()
    counted = CountingStore(MappingStore(held))
    store = open_references(counted, "set.parq")
    counted.forget()
    wrong = [
        "0",
        "0.5",
        "2.0",
        "0.0.0",
        "00.0",
        "+1.0",
        "1_0.0",
        "a.b",
        "0.-1",
        "9" * 40 + ".0",
        ".zattrs",
        "zarr.json",
    ]
    keys = [f"v/{name if name[0] == '.' else name.replace('.', separator)}" for name in wrong]
    assert store.get_ranges([Request(key) for key in keys]) == [None] * len(keys)
    assert counted.seen == []
    for i, j in [(0, 0), (1, 4), (0, 3), (1, 0)]:
        row = (i * 5 + j) % 3
        (found,) = store.get_ranges([Request(f"v/{i}{separator}{j}")])
        assert bytes(found or b"") == BYTES[16 * row : 16 * row + 16]
        assert f"v/{i}{separator}{j}" in set(store.list())


def test_kinds_of_rows() -> None:
    raw = [None] * 5 + [b"inline", b"", b"base64:AAEC", None, None]
    path = ["x", "x", "x", None, "memory://else", "x", None, None, "x", "x"]
    held = objects(
        r0=table(
            path=path, raw=raw, offset=[0, 5, 7, 0, 0, 1, 0, 0, 0, 1], size=[0, 9, 0, 0, 3, 1, 0, 0, 4096, 9]
        )
    )
    store = opened(held)
    keys = [0, 1, 2, 3, 5, 6, 7, 8, 9]
    expected = [BYTES, BYTES[5:14], b"", None, b"inline", b"", b"\0\1\2", BYTES, BYTES[1:10]]
    found = store.get_ranges([Request(f"v/{i}") for i in keys])
    assert [None if one is None else bytes(one) for one in found] == expected


@pytest.mark.parametrize(
    "columns",
    [
        {"raw": None},
        {"path": pyarrow.array(["x"] * ROWS).dictionary_encode()},
        {"path": pyarrow.array(["x"] * ROWS, pyarrow.large_string())},
        {"path": pyarrow.array([b"x"] * ROWS)},
        {"offset": pyarrow.array([i * 16 for i in range(ROWS)], pyarrow.uint32())},
        {"size": pyarrow.array([16.0] * ROWS)},
        {"more": [1] * ROWS},
        {"raw": pyarrow.nulls(ROWS)},
        {"raw": pyarrow.array([float("nan")] * ROWS)},
        {"raw": pyarrow.nulls(ROWS, pyarrow.float64())},
    ],
)
def test_types_of_columns(columns: dict[str, Any]) -> None:
    assert gpuzarr.load(opened(objects(r0=table(**columns))), "v").tobytes() == BYTES[:160]


def test_columns_that_are_missing() -> None:
    inline = table(path=None, offset=None, size=None, raw=[bytes([i]) * 16 for i in range(ROWS)])
    assert gpuzarr.load(opened(objects(r0=inline)), "v")[::16].tolist() == list(range(10))
    nothing = table(path=None, raw=None)
    assert not gpuzarr.load(opened(objects(r0=nothing)), "v").any()


# ---- files that lie


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"PAR1",
        b"PAR1" + bytes(100) + b"PAR1",
        table()[:-20],
        table()[:100] + bytes(40) + table()[140:],
        table(path=[1] * ROWS),
        table(path=[["x"]] * ROWS),
        table(raw=[1.5] * ROWS),
        table(offset=["a"] * ROWS),
        table(offset=[0.5] * ROWS),
        table(size=pyarrow.array([1 << 63] * ROWS, pyarrow.uint64())),
    ],
)
def test_records_that_are_none(record: bytes) -> None:
    """One error that names the file, when a chunk is asked for."""
    array = gpuzarr.open_array(opened(objects(r0=record)), "v")
    with pytest.raises(MetadataError, match=r"set\.parq/v/refs\.0\.parq is no Parquet file"):
        array[...]


def test_records_whose_numbers_are_none() -> None:
    held = objects(r0=table(offset=[-1, 1 << 62, 0] + [0] * 7, size=[1, 1 << 62, -1] + [16] * 7))
    store = opened(held)
    for i in range(3):
        with pytest.raises(StoreError, match=f"v/{i}"):
            store.get_ranges([Request(f"v/{i}")])
    short = opened(objects(r0=table(3)))
    with pytest.raises(StoreError, match=r"v/7 .* has 3 rows"):
        short.get_ranges([Request("v/7")])


def test_damaged_bytes() -> None:
    """Whatever is flipped, it is an error of ours or values; pyarrow checks little."""
    good, rng = table(), random.Random(7)
    for _ in range(150):
        bad = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        with suppress(GpuzarrError):
            opened(objects(r0=bytes(bad))).get_ranges([Request(f"v/{i}") for i in range(ROWS)])


def test_texts_are_not_spelled_out() -> None:
    """A long text in each of very many rows is a small file, and takes little memory."""
    rows = 100_000
    indices = pyarrow.array(np.zeros(rows, np.int32))
    long = pyarrow.DictionaryArray.from_arrays(indices, pyarrow.array(["y" * 100_000]))
    zeros = pyarrow.array(np.zeros(rows, np.int64))
    record = table(rows, path=long, offset=zeros, size=zeros, raw=pyarrow.nulls(rows, pyarrow.binary()))
    assert len(record) < 1 << 16
    store = opened(objects((16 * rows,), (16,), rows, r0=record))
    before = pyarrow.total_allocated_bytes()
    with pytest.raises(StoreError):
        store.get_ranges([Request("v/99999")])
    assert pyarrow.total_allocated_bytes() - before < 8 << 20
    with gpuzarr.configured(max_document_nbytes=1 << 19), pytest.raises(LimitError, match="max_document"):
        opened(objects((16 * rows,), (16,), rows, r0=record)).get_ranges([Request("v/0")])


@pytest.mark.parametrize(
    "document",
    [
        {"metadata": {}},
        {"metadata": [], "record_size": 1},
        *({"metadata": {}, "record_size": size} for size in (0, -1, 1.5, True, "1", 1 << 70, None)),
        {"metadata": {"v/.zarray": "{"}, "record_size": 1},
        [],
    ],
)
def test_metadata_that_is_none(document: Any) -> None:
    with pytest.raises(MetadataError, match=r"set\.parq/\.zmetadata"):
        opened({"set.parq/.zmetadata": json.dumps(document).encode()})


@pytest.mark.parametrize(
    "zarray",
    [
        None,
        [],
        {},
        {"shape": [3], "chunks": []},
        {"shape": [3], "chunks": [0]},
        {"shape": [-3], "chunks": [1]},
        {"shape": [1 << 70], "chunks": [1]},
        {"shape": [1.5], "chunks": [1]},
        {"shape": [1], "chunks": [1], "dimension_separator": "x"},
        {"shape": [1] * 33, "chunks": [1] * 33},
    ],
)
def test_arrays_that_are_none(zarray: Any) -> None:
    document = {"metadata": {"v/.zarray": zarray, "w/.zattrs": {}}, "record_size": 10}
    store = opened({"set.parq/.zmetadata": json.dumps(document).encode()})
    with pytest.raises(MetadataError):
        store.get_ranges([Request("v/0")])
    assert store.get_ranges([Request("w/.zattrs")]) == [b"{}"]


def test_huge_arrays_are_counted_by_their_files() -> None:
    """Listing goes by the files that there are, not by the chunks that there could be."""
    held = objects((1 << 61,), (1,), 10, r0=table(), r7=table(), r99999999999999999=table())
    tracemalloc.start()
    store = opened(held)
    assert len(list(store.list("v/"))) == 31
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20
    assert store.get_ranges([Request(f"v/{(1 << 61) - 1}")]) == [None]


def test_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents are read all the same; chunks are an error that names the extra."""
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    array = gpuzarr.open_array(opened(objects(r0=table_before)), "v")
    with pytest.raises(MissingDependencyError, match=r"gpuzarr\[parquet\]"):
        array[...]


table_before = table()
