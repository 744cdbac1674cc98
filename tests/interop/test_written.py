"""What gpuzarr writes, others read: zarr-python, its pipeline zarrs, and tensorstore, each what it has.

Every data type of both formats; codecs, layouts and orders take turns.
"""

from __future__ import annotations

import importlib.util
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.version import Version

import gpuzarr
from gpuzarr import WriteStats
from tests.devices import SOME, on_device

zarr = pytest.importorskip("zarr", reason="zarr-python, which reads what was written, is not installed")

RECORD = [("a", "<i4"), ("b", ">f8"), ("c", "S3")]
DTYPES: list[Any] = [
    *("?", "i1", "<i2", ">i4", "i8", "u1", ">u2", "<u4", "u8", "<f2", ">f4", "f8", "<c8", ">c16"),
    *("<M8[s]", ">m8[10ms]", "S5", "<U3", ">U2", "V6", RECORD, "string", "bytes"),
    *("bfloat16", "float8_e4m3fn"),
]
CODECS: list[Any] = [
    None,
    "auto",
    ["zstd"],
    [{"name": "gzip", "configuration": {"level": 1}}],
    [{"id": "blosc", "cname": "zstd", "clevel": 1, "shuffle": 2}],
    [{"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 0}],
    [{"id": "zlib", "level": 1}],
    [{"id": "lz4"}],
    [{"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 2}],
    ["zstd", "crc32c"],
]
LAYOUTS: list[dict[str, Any]] = [
    {},
    {"shards": (8, 12)},
    {"shards": (8, 12), "index_location": "start"},
    {"shards": [(16, 24), (8, 12)]},
    {"shards": "auto"},
]
SHAPE, CHUNKS = (13, 19), (4, 6)


def some(dtype: Any) -> np.ndarray:
    """Values of a type, with the odd ones among them."""
    rng = np.random.default_rng(5)
    numbers = rng.integers(0, 120, SHAPE)
    if dtype == "string":
        return np.array([f"é{n}" * (n % 3) for n in numbers.flat], object).reshape(SHAPE)
    if dtype == "bytes":
        return np.array([b"\0%d" % n * (n % 3) for n in numbers.flat], object).reshape(SHAPE)
    if dtype is RECORD:
        values = np.zeros(SHAPE, RECORD)
        values["a"], values["b"], values["c"] = numbers, -numbers, numbers.astype("S3")
        return values
    if dtype in ("bfloat16", "float8_e4m3fn"):
        ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
        return numbers.astype(getattr(ml_dtypes, dtype))
    made = np.dtype(dtype)
    if made.kind == "V":
        return rng.integers(0, 256, (*SHAPE, made.itemsize), np.uint8).view(made).reshape(SHAPE)
    values = np.char.mod("%d", numbers).astype(made) if made.kind in "SU" else numbers.astype(made)
    if made.kind in "fc":
        values[0, :4] = [np.nan, -0.0, np.inf, -np.inf]
    if made.kind in "mM":
        values[0, 0] = np.array("NaT", made)
    return values


def written(path: Path, dtype: Any, values: np.ndarray, device: str, **options: Any) -> np.ndarray:
    """Store the values, some of them more than once; what the array holds then, by our own account."""
    array = gpuzarr.create_array(path, shape=SHAPE, dtype=dtype, chunks=CHUNKS, device=device, **options)
    stats = WriteStats()
    array.write(..., on_device(values.astype(array.metadata.dtype, copy=False), device), stats=stats)
    host_only = device == "cpu" or dtype is RECORD or not array.metadata.has_bytes  # byte orders are mixed
    assert stats.waves > 0 or host_only
    array[3:9, ::4] = on_device(values[3:9, ::4][::-1].astype(array.metadata.dtype, copy=False), device)
    array = gpuzarr.open_array(path, mode="r+", device="cpu")
    values = values.copy()
    values[3:9, ::4] = values[3:9, ::4][::-1].copy()
    array.oindex[[1, 5], [2, 18, 3]] = values[7, 7]
    values[np.ix_([1, 5], [2, 18, 3])] = values[7, 7]
    same(array[...], values)
    return values


def same(found: Any, expected: np.ndarray) -> None:
    found = np.asarray(found)
    assert found.shape == expected.shape
    if expected.dtype.kind == "O":
        assert found.tolist() == expected.tolist()
    else:
        native = expected.dtype.newbyteorder("=")
        assert found.astype(native).tobytes() == expected.astype(native).tobytes()


def zarr_lacks(dtype: Any, zarr_format: int, sharded: bool = False) -> bool:
    void = dtype not in ("string", "bytes") and np.dtype(_known(dtype)).kind == "V"
    if void and sharded and Version(version("zarr")) < Version("3.2"):
        return True  # it cannot hash the fill values of such types
    return dtype in ("bfloat16", "float8_e4m3fn") or (dtype == "bytes" and zarr_format == 2)


def check_zarr_python(path: Path, expected: np.ndarray) -> None:
    same(zarr.open_array(path, mode="r")[...], expected)


def check_zarrs(path: Path, expected: np.ndarray) -> None:
    import zarrs  # noqa: F401  # registers its pipeline

    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        same(zarr.open_array(path, mode="r")[...], expected)


def check_tensorstore(path: Path, expected: np.ndarray, zarr_format: int) -> None:
    import tensorstore as ts

    driver = {2: "zarr", 3: "zarr3"}[zarr_format]
    store = ts.open({"driver": driver, "kvstore": {"driver": "file", "path": str(path)}}).result()
    same(store.read().result(), expected)


def ts_lacks(dtype: Any, codecs: Any, zarr_format: int) -> bool:
    if dtype in ("string", "bytes", RECORD) or np.dtype(_known(dtype)).kind in "mMSUV":
        return True
    named = [one.get("id") for one in codecs if isinstance(one, dict)] if isinstance(codecs, list) else []
    if zarr_format == 2 and codecs == ["zstd", "crc32c"]:
        return True
    return "lz4" in named or ("zlib" in named and zarr_format == 3)


def _known(dtype: Any) -> Any:
    return "u1" if dtype in ("bfloat16", "float8_e4m3fn") else dtype


def zarrs_lacks(dtype: Any, codecs: Any, zarr_format: int) -> bool:
    """What its Python pipeline hands back to zarr-python, or refuses."""
    if zarr_lacks(dtype, zarr_format) or dtype in ("string", "bytes", RECORD, ">c16"):
        return True  # of complex numbers it turns real and imaginary parts around together
    named = [one.get("id") for one in codecs if isinstance(one, dict)] if isinstance(codecs, list) else []
    return np.dtype(_known(dtype)).kind in "mMSUV" or "lz4" in named or "zlib" in named or zarr_format == 2


@pytest.mark.parametrize("device", SOME)
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("number", range(len(DTYPES)), ids=[str(one) for one in DTYPES])
def test_others_read_what_is_written(number: int, zarr_format: Any, device: str, tmp_path: Path) -> None:
    dtype = DTYPES[number]
    if dtype == "float8_e4m3fn" and zarr_format == 2:
        dtype = "bfloat16"
    start = some(dtype)
    for i in range(number % 2, len(CODECS), 2):
        codecs, turn = CODECS[i], number + i // 2
        options = LAYOUTS[turn % len(LAYOUTS)] if zarr_format == 3 else {}
        path = tmp_path / str(i)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = written(
                *(path, dtype, start, device),
                codecs=codecs,
                order="CF"[turn % 2],
                zarr_format=zarr_format,
                **options,
            )
            read = 0
            if not zarr_lacks(dtype, zarr_format, "shards" in options):
                check_zarr_python(path, values)
                read += 1
            if not ts_lacks(dtype, codecs, zarr_format) and importlib.util.find_spec("tensorstore"):
                check_tensorstore(path, values, zarr_format)
                read += 1
            if not zarrs_lacks(dtype, codecs, zarr_format) and importlib.util.find_spec("zarrs"):
                check_zarrs(path, values)
                read += 1
        assert read or dtype in ("bytes", "bfloat16", "float8_e4m3fn") or zarr_lacks(dtype, 3, True)


QUIET, LOUD = np.array([0x7FC00123], "u4").view("f4")[0], np.array([0xFFF8000000000001], "u8").view("f8")[0]
FILLS: list[tuple[Any, Any, int | None]] = [
    ("?", True, None),
    ("i8", -(2**63), None),
    ("u8", 2**64 - 1, None),
    ("f2", 1.5, None),
    ("f4", np.nan, None),
    ("f4", QUIET, 3),
    ("f8", LOUD, 3),
    ("f8", -0.0, None),
    ("f8", -np.inf, None),
    ("f8", 0.1, None),
    ("c8", complex(np.inf, -0.0), None),
    ("c16", complex(np.nan, 1), None),
    ("M8[s]", np.datetime64("NaT"), None),
    ("m8[ms]", np.timedelta64(-5, "ms"), None),
    ("S4", b"ab", None),
    ("U3", "éa", None),
    ("V3", np.void(b"\1\0\2"), None),
    (RECORD, (1, -0.0, b"xy"), None),
    ("string", "é", None),
    ("bytes", b"\0\xff", None),
]


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(("dtype", "fill", "only"), FILLS, ids=[f"{one[0]}-{one[1]}" for one in FILLS])
def test_fill_values_to_the_last_bit(dtype: Any, fill: Any, only: int | None, zarr_format: Any) -> None:
    """Here and in zarr-python."""
    if only not in (None, zarr_format):
        with pytest.raises(gpuzarr.GpuzarrError, match="to the last bit"):
            gpuzarr.create_array({}, shape=(2,), dtype=dtype, fill_value=fill, zarr_format=zarr_format)
        return
    objects: dict[str, bytes] = {}
    made = gpuzarr.create_array(
        objects, shape=(2,), dtype=dtype, fill_value=fill, zarr_format=zarr_format, device="cpu"
    )
    text = dtype in ("string", "bytes")
    expected = np.array([fill] * 2, object) if text else np.full(2, np.array(fill, dtype))
    same(made[...], expected)
    if zarr_lacks(dtype, zarr_format):
        return
    buffer = zarr.core.buffer.default_buffer_prototype().buffer
    held = {key: buffer.from_bytes(value) for key, value in objects.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = zarr.open_array(zarr.storage.MemoryStore(held), mode="r")
        same(peer[...], expected)


@pytest.mark.parametrize("chunks", [[(4, 1, 8), 6], [(13,), (5, 5, 9)], [5, (6, 6, 6, 1)]], ids=str)
@pytest.mark.parametrize("dtype", ["?", ">u2", "f8", "string", RECORD], ids=str)
def test_chunks_of_several_sizes(dtype: Any, chunks: Any, tmp_path: Path) -> None:
    """Rectilinear grids (ZEP 3), which zarr-python has behind a setting; tensorstore does not know them."""
    if "rectilinear_chunks" not in zarr.config.get("array", {}):
        pytest.skip("this zarr-python has no rectilinear chunk grids")
    with zarr.config.set({"array.rectilinear_chunks": True}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for i, codecs in enumerate((None, "auto", ["zstd", "crc32c"])):
            array = gpuzarr.create_array(
                tmp_path / str(i), shape=SHAPE, dtype=dtype, chunks=chunks, codecs=codecs, order="CF"[i % 2]
            )
            values = some(dtype)
            array[...] = values
            array.append(values[:7], 0)
            expected = np.concatenate((values, values[:7]))
            same(array[...], expected)
            check_zarr_python(tmp_path / str(i), expected)
            if not zarrs_lacks(dtype, codecs, 3) and importlib.util.find_spec("zarrs"):
                check_zarrs(tmp_path / str(i), expected)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_consolidated_metadata(zarr_format: Any, tmp_path: Path) -> None:
    """zarr-python looks at them alone, and what it reads through them is there."""
    common: dict[str, Any] = {"zarr_format": zarr_format, "device": "cpu"}
    gpuzarr.create_group(tmp_path, attributes={"of": "root"}, **common)
    gpuzarr.save(tmp_path, some("f8"), "a/b", attributes={"of": "b"}, **common)
    gpuzarr.consolidate(tmp_path)
    gpuzarr.save(tmp_path, some("<i2"), "a/c", **common).append(some("<i2"))
    gpuzarr.create_group(tmp_path, "e", attributes={"of": "e"}, **common)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root = zarr.open_consolidated(tmp_path)
        assert sorted(path for path, _ in root.members(max_depth=None)) == ["a", "a/b", "a/c", "e"]
        assert [dict(node.attrs)["of"] for node in (root, root["a/b"], root["e"])] == ["root", "b", "e"]
        same(root["a/b"][...], some("f8"))
        same(root["a/c"][...], np.concatenate((some("<i2"), some("<i2"))))
