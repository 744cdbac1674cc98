"""What metadata documents mean, dialect by dialect. The oracles are NumPy, zarr-python, ml_dtypes and bytes
by hand."""

from __future__ import annotations

import base64
import json
from itertools import product
from pathlib import Path
from typing import Any

import ml_dtypes
import numcodecs
import numpy as np
import pytest
import zarr

import gpuzarr
from gpuzarr.errors import ArgumentError, MetadataError, NotFoundError, UnsupportedError
from gpuzarr.meta import dtypes
from tests.hostile import LITTLE, regular, v2, v3


def array(objects: dict[str, bytes], **options: Any) -> gpuzarr.Array:
    return gpuzarr.open_array(objects, **options)


def bits(value: Any) -> str:
    """A value's bytes, most significant first."""
    return np.asarray(value).tobytes()[::-1].hex()


# Zarr v2

V2_TYPES = [
    "|b1",
    "|i1",
    "|u1",
    "<i2",
    ">i4",
    "<u8",
    ">u2",
    "<f2",
    ">f4",
    "<f8",
    "<c8",
    ">c16",
    "|S5",
    "<U3",
    ">U2",
]
V2_TYPES += ["|V4", "<M8[s]", ">M8[ns]", "<m8[25s]", "<M8[D]"]


@pytest.mark.parametrize("text", V2_TYPES)
def test_v2_types(text: str) -> None:
    """Results have NumPy's type in native order, whatever order the bytes have."""
    dtype = np.dtype(text)
    values = np.frombuffer(bytes(range(48, 48 + 4 * dtype.itemsize)), np.uint8) % 2
    values = values.view(dtype).reshape(4)
    held = array({**v2(shape=[4], chunks=[4], dtype=text, fill_value=None), "0": values.tobytes()})
    assert held.dtype == dtype.newbyteorder("=")
    assert held[...].tobytes() == values.astype(dtype.newbyteorder("=")).tobytes()
    nothing = np.array("NaT", held.dtype) if dtype.kind in "mM" else np.zeros((), held.dtype)
    assert np.asarray(held.fill_value, held.dtype).tobytes() == nothing.tobytes()


def test_v2_structured_types() -> None:
    """Each field with its own byte order and shape."""
    fields: list[Any] = [["a", ">i2"], ["b", "<f4", [2]], ["c", "|S2"], ["d", [["e", ">u4"], ["f", "|u1"]]]]
    dtype = np.dtype([("a", ">i2"), ("b", "<f4", (2,)), ("c", "S2"), ("d", [("e", ">u4"), ("f", "u1")])])
    values = np.zeros(3, dtype)
    values["a"], values["b"], values["c"], values["d"]["e"] = [1, 2, 3], 0.5, b"xy", 70000
    for fill in (None, base64.b64encode(values[1].tobytes()).decode()):
        document = v2(shape=[6], chunks=[3], dtype=fields, fill_value=fill)
        found = array({**document, "0": values.tobytes()})[...]
        np.testing.assert_array_equal(found[:3], values)
        np.testing.assert_array_equal(found[3:], np.full(3, values[1] if fill else np.zeros((), dtype)))
        assert found.dtype["a"] == np.dtype("i2").newbyteorder("=")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("separator", [".", "/", None])
def test_v2_order_and_separator(order: str, separator: str | None) -> None:
    values = np.arange(24, dtype="<i2").reshape(4, 6)
    document = v2(
        dtype="<i2", chunks=[4, 3], order=order, **({"dimension_separator": separator} if separator else {})
    )
    halves = {f"0{separator or '.'}{i}": values[:, 3 * i : 3 * i + 3].tobytes(order) for i in (0, 1)}  # type: ignore[arg-type]
    np.testing.assert_array_equal(array({**document, **halves})[...], values)


def test_v2_filters_then_compressor() -> None:
    values = np.arange(24, dtype="<i4").reshape(4, 6)
    delta, scale, last = numcodecs.Delta("<i4"), numcodecs.Shuffle(4), numcodecs.Zlib(3)
    stored = last.encode(scale.encode(delta.encode(values.reshape(-1))))
    document = v2(
        dtype="<i4",
        chunks=[4, 6],
        filters=[delta.get_config(), scale.get_config()],
        compressor=last.get_config(),
    )
    held = array({**document, "0.0": stored})
    np.testing.assert_array_equal(held[...], values)
    assert [one.name.removeprefix("numcodecs.") for one in held.codecs[-3:]] == ["delta", "shuffle", "zlib"]


@pytest.mark.parametrize(
    ("dtype", "fill", "expected"),
    [
        ("<f8", None, 0.0),
        ("<f8", "NaN", np.nan),
        (">f4", "Infinity", np.inf),
        ("<f4", "-Infinity", -np.inf),
        ("<f8", -0.0, -0.0),
        ("<f4", 3, 3.0),
        ("|b1", True, True),
        ("|b1", 0, False),
        ("|i1", -1, -1),
        (">u8", 2**64 - 1, 2**64 - 1),
        ("<i4", 3.0, 3),
        ("<c8", [1.5, "NaN"], complex(1.5, np.nan)),
        (">c8", [1.5, "NaN"], complex(1.5, np.nan)),
        (">f4", "0x7fc00000", np.nan),
        (">M8[s]", 60, np.datetime64("1970-01-01T00:01:00")),
        ("|S4", base64.b64encode(b"ab").decode(), b"ab"),
        ("|S4", 0, b""),
        ("<U2", "é", "é"),
        ("<M8[s]", "NaT", np.datetime64("NaT")),
        ("<M8[s]", 60, np.datetime64("1970-01-01T00:01:00")),
    ],
)
def test_v2_fill_values(dtype: str, fill: Any, expected: Any) -> None:
    held = array(v2(dtype=dtype, fill_value=fill))
    wanted = np.array(expected).astype(held.dtype)
    assert held[...].tobytes() == np.full((4, 6), wanted, held.dtype).tobytes()
    assert held.fill_value.dtype.kind == held.dtype.kind


def test_v2_of_no_dimensions() -> None:
    assert array({**v2(shape=[], chunks=[], dtype="<i4"), "0": b"\7\0\0\0"})[...] == 7


def test_v2_empty_axes() -> None:
    assert array(v2(shape=[0, 6], chunks=[0, 6]))[...].shape == (0, 6)


# Zarr v3

CORE = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
CORE += ["float16", "float32", "float64", "complex64", "complex128"]


@pytest.mark.parametrize("name", CORE)
@pytest.mark.parametrize("endian", ["little", "big"])
def test_v3_types(name: str, endian: str) -> None:
    dtype = np.dtype(name)
    values = (np.arange(6) % 2).reshape(2, 3).astype(dtype)
    stored = values.astype(dtype.newbyteorder("<" if endian == "little" else ">")).tobytes()
    fill: Any = [0.0, 0.0] if dtype.kind == "c" else False if dtype.kind == "b" else 0
    for codec in ("bytes", "endian"):  # its old name
        codecs = [{"name": codec, "configuration": {"endian": endian}}]
        held = array({**v3([2, 3], codecs=codecs, data_type=name, fill_value=fill), "c/0/0": stored})
        assert held.dtype == dtype
        assert held[...].tobytes() == values.tobytes()


SMALL = [name for name in sorted(dtypes.SMALL) if hasattr(ml_dtypes, name)]


@pytest.mark.parametrize("name", SMALL)
def test_v3_small_types(name: str) -> None:
    """Types of ml_dtypes: a fill value by number and by bits."""
    dtype = np.dtype(getattr(ml_dtypes, name))
    fill: Any = 1 if "int" in name else 1.0
    held = array(v3(codecs=[LITTLE], data_type=name, fill_value=fill))
    assert held.dtype == dtype
    assert held[...].tobytes() == np.full((4, 6), fill, dtype).tobytes()
    if "int" not in name:
        same = array(v3(codecs=[LITTLE], data_type=name, fill_value="0x" + bits(np.array(fill, dtype))))
        assert same[...].tobytes() == held[...].tobytes()


@pytest.mark.parametrize(
    ("name", "values"),
    [("int4", [-8, -1, 0, 7, 3, -5]), ("uint4", [0, 15, 1, 14, 7, 8]), ("int2", [-2, -1, 0, 1, 1, 0])],
)
def test_v3_packed_types(name: str, values: list[int]) -> None:
    """`packbits` puts the first value in the lowest bits."""
    width = int(name[-1])
    packed = sum((value & (1 << width) - 1) << width * i for i, value in enumerate(values))
    stored = packed.to_bytes(-(-6 * width // 8), "little")
    held = array({**v3([2, 3], codecs=["packbits"], data_type=name), "c/0/0": stored})
    assert held[...].astype(int).reshape(-1).tolist() == values
    inner = {
        "chunk_shape": [2, 3],
        "codecs": ["packbits"],
        "index_codecs": [LITTLE],
        "index_location": "end",
    }
    index = (0).to_bytes(8, "little") + len(stored).to_bytes(8, "little")
    sharded = v3([2, 3], codecs=[{"name": "sharding_indexed", "configuration": inner}], data_type=name)
    assert array({**sharded, "c/0/0": stored + index})[...].astype(int).reshape(-1).tolist() == values


@pytest.mark.parametrize("unit", ["Y", "M", "D", "h", "s", "ms", "us", "ns", "generic"])
@pytest.mark.parametrize("kind", ["datetime64", "timedelta64"])
def test_v3_times(unit: str, kind: str) -> None:
    data_type = {"name": f"numpy.{kind}", "configuration": {"unit": unit, "scale_factor": 1}}
    held = array(v3(codecs=[LITTLE], data_type=data_type, fill_value="NaT"))
    assert held.dtype == np.dtype(kind if unit == "generic" else f"{kind}[{unit}]")
    assert np.isnat(held[...]).all()


def test_v3_fixed_types() -> None:
    for data_type, dtype in (
        ({"name": "null_terminated_bytes", "configuration": {"length_bytes": 3}}, "S3"),
        ({"name": "fixed_length_utf32", "configuration": {"length_bytes": 8}}, "U2"),
        ({"name": "raw_bytes", "configuration": {"length_bytes": 3}}, "V3"),
        ("r24", "V3"),
    ):
        fill: Any = "" if dtype[0] in "SU" else [1, 2, 3]
        held = array(
            v3(codecs=[LITTLE if dtype[0] == "U" else "bytes"], data_type=data_type, fill_value=fill)
        )
        assert held.dtype == np.dtype(dtype)
        assert held.read((0, 0)).tobytes() == (b"\1\2\3" if fill else bytes(held.dtype.itemsize))


def test_v3_structured_types() -> None:
    dtype = np.dtype([("a", "<i2"), ("b", "<f8")])
    for fields in (
        [["a", "int16"], ["b", "float64"]],
        [{"name": "a", "data_type": "int16"}, {"name": "b", "data_type": "float64"}],
    ):
        data_type = {"name": "structured", "configuration": {"fields": fields}}
        for fill in ({"a": 3, "b": "NaN"}, base64.b64encode(np.array((3, np.nan), dtype).tobytes()).decode()):
            held = array(v3(codecs=[LITTLE], data_type=data_type, fill_value=fill))
            assert held.dtype == dtype
            assert held[1, 1].tobytes() == np.array((3, np.nan), dtype).tobytes()


@pytest.mark.parametrize(
    ("name", "fill", "expected"),
    [
        ("float32", "NaN", "7fc00000"),
        ("float32", "0x7fc00001", "7fc00001"),
        ("float64", "0xfff8000000000123", "fff8000000000123"),
        ("float32", -0.0, "80000000"),
        ("float16", "-Infinity", "fc00"),
        ("float64", 1e400, "7ff0000000000000"),
        ("float32", 16777217, "4b800000"),
        ("bool", True, "01"),
        ("uint64", 2**64 - 1, "ffffffffffffffff"),
        ("int16", -2, "fffe"),
        ("complex64", ["NaN", -0.0], "80000000" + "7fc00000"),
        ("complex64", ["0x7fc00007", 1.0], "3f800000" + "7fc00007"),
    ],
)
def test_v3_fill_values_are_bits(name: str, fill: Any, expected: str) -> None:
    held = array(v3(codecs=[LITTLE], data_type=name, fill_value=fill))
    assert bits(held.fill_value) == expected
    assert bits(held[3, 5]) == expected


@pytest.mark.parametrize(
    ("encoding", "separator"), [*product(("default", "v2"), "/."), ("default", None), ("v2", None)]
)
def test_v3_keys(encoding: str, separator: str | None) -> None:
    held: dict[str, Any] = {}
    options = {"name": encoding, "separator": separator or {"default": "/", "v2": "."}[encoding]}
    written = zarr.create_array(
        zarr.storage.MemoryStore(held), shape=(4, 6), chunks=(2, 3), dtype="u1", chunk_key_encoding=options
    )
    written[...] = np.arange(24, dtype="u1").reshape(4, 6)
    objects = {key: value.to_bytes() for key, value in held.items()}
    if separator is None:
        document = json.loads(objects["zarr.json"])
        document["chunk_key_encoding"] = {"name": encoding}
        objects["zarr.json"] = json.dumps(document).encode()
    np.testing.assert_array_equal(array(objects)[...], np.arange(24).reshape(4, 6))


@pytest.mark.parametrize(("encoding", "key"), [("default", "c"), ("v2", "0")])
def test_v3_of_no_dimensions(encoding: str, key: str) -> None:
    objects = {**v3([], [], chunk_key_encoding={"name": encoding}), key: b"\7"}
    assert array(objects)[()] == 7


def test_v3_rectilinear() -> None:
    """Chunk sizes by axis: listed, run-length encoded, or one for all."""
    values = np.arange(35, dtype="u1").reshape(5, 7)
    for rows, columns in (([2, 3], [3, 3, 1]), ([2, 3], [[3, 2], 1]), ([2, 3], [[3, 3]])):
        grid = {"name": "rectilinear", "configuration": {"kind": "inline", "chunk_shapes": [rows, columns]}}
        widths = [3, 3, 3] if columns == [[3, 3]] else [3, 3, 1]
        padded = np.pad(values, ((0, 0), (0, sum(widths) - 7)))
        objects = v3([5, 7], chunk_grid=grid)
        for i, j in product(range(2), range(3)):
            objects[f"c/{i}/{j}"] = padded[2 * i : 2 + 3 * i, 3 * j : 3 * j + widths[j]].tobytes()
        held = array(objects)
        np.testing.assert_array_equal(held[...], values)
        np.testing.assert_array_equal(held[1:4, ::-2], values[1:4, ::-2])
        assert held.chunks == ((2, 3), tuple(widths))


@pytest.mark.parametrize("order", [[1, 0], "F"])
def test_v3_transpose(order: Any) -> None:
    values = np.arange(24, dtype="u1").reshape(4, 6)
    codecs = [{"name": "transpose", "configuration": {"order": order}}, "bytes"]
    objects = {**v3(chunks=[4, 6], codecs=codecs), "c/0/0": values.T.tobytes()}
    np.testing.assert_array_equal(array(objects)[...], values)


def test_v3_extensions_that_need_not_be_understood() -> None:
    extended = v3(**{"https://x.org/new": {"must_understand": False, "of": 1}}, storage_transformers=[])
    assert array(extended).shape == (4, 6)


def test_v3_dimension_names() -> None:
    assert array(v3(dimension_names=["y", None])).dimension_names == ("y", None)
    assert array(v3()).dimension_names is None
    assert array({**v2(), ".zattrs": b'{"_ARRAY_DIMENSIONS": ["y", "x"]}'}).dimension_names == ("y", "x")
    assert array({**v2(), ".zattrs": b'{"_ARRAY_DIMENSIONS": ["y"]}'}).dimension_names is None


def test_v3_codecs_by_name_alone() -> None:
    """`"bytes"` for `{"name": "bytes"}`, as the specification allows."""
    for codecs in (["bytes"], [{"name": "bytes"}], [{"name": "bytes", "configuration": {}}]):
        assert array({**v3(codecs=codecs), "c/0/0": bytes([9] * 6)})[0, 0] == 9


# Groups


def tree(zarr_format: Any, consolidate: bool) -> dict[str, bytes]:
    """A group of a group of an array, and an array, by zarr-python."""
    held: dict[str, Any] = {}
    store = zarr.storage.MemoryStore(held)
    root = zarr.create_group(store, zarr_format=zarr_format, attributes={"of": "root"})
    below = root.create_group("g", attributes={"of": "g"}).create_array(
        "a", shape=(3,), dtype="i4", attributes={"of": "a"}
    )
    below[...] = [1, 2, 3]
    root.create_array("b", shape=(2,), dtype="f8")
    if consolidate:
        zarr.consolidate_metadata(store)
    return {key: value.to_bytes() for key, value in held.items()}


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("consolidate", [True, False])
def test_groups(zarr_format: int, consolidate: bool) -> None:
    root = gpuzarr.open(tree(zarr_format, consolidate))
    assert isinstance(root, gpuzarr.Group)
    assert (root.zarr_format, list(root), "g/a" in root, "g/c" in root) == (
        zarr_format,
        ["b", "g"],
        True,
        False,
    )
    assert [name for name, _ in root.arrays()] == ["b"]
    assert [name for name, _ in root.groups()] == ["g"]
    assert dict(root.attrs) == {"of": "root"}
    nested = root["g"]
    assert isinstance(nested, gpuzarr.Group)
    for found in (root["g/a"], nested["a"], gpuzarr.open(tree(zarr_format, consolidate), "g/a")):
        assert isinstance(found, gpuzarr.Array)
        assert found[...].tolist() == [1, 2, 3]
        assert found.attrs["of"] == "a"
    assert [name for name, _ in root.walk()] == ["b", "g", "g/a"]
    with pytest.raises(NotFoundError, match="nothere"):
        root["nothere"]


def test_consolidated_attributes_are_the_nodes_own() -> None:
    objects = tree(2, True)
    del objects["g/a/.zattrs"], objects["g/.zattrs"]
    root = gpuzarr.open(objects)
    assert dict(root["g"].attrs) == {"of": "g"}  # type: ignore[index]
    assert dict(root["g/a"].attrs) == {"of": "a"}  # type: ignore[index]


# What lies at a path


def test_v3_comes_first() -> None:
    objects = {**v2(shape=[1], chunks=[1]), **v3()}
    assert (array(objects).zarr_format, array(objects).shape) == (3, (4, 6))
    assert array(v2()).zarr_format == 2


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nothing at all"):
        gpuzarr.open({})
    with pytest.raises(NotFoundError, match=r"did you mean memory:/image\?"):
        gpuzarr.open({"image/zarr.json": b"{}", "other/file": b""})
    with pytest.raises(NotFoundError, match="N5"):
        gpuzarr.open({"attributes.json": b"{}"})
    with pytest.raises(NotFoundError, match="there is other"):
        gpuzarr.open({"other/file": b""})
    with pytest.raises(NotFoundError, match="no such directory"):
        gpuzarr.open(tmp_path / "none")


@pytest.mark.parametrize(
    "document", [{"zarr_format": 3}, {"zarr_format": 3, "node_type": "group", "extra": 1}]
)
def test_documents_that_are_no_nodes(document: dict[str, Any]) -> None:
    kind = UnsupportedError if "extra" in document else MetadataError
    with pytest.raises(kind) as raised:
        gpuzarr.open({"zarr.json": json.dumps(document).encode()})
    assert type(raised.value) is kind


def test_an_array_is_not_a_group() -> None:
    with pytest.raises(ArgumentError, match="is a group"):
        gpuzarr.open_array(tree(3, False))


@pytest.mark.parametrize("name", [name for name in CORE if name != "bool"])
def test_zarr_python_writes_the_fill_values_that_we_read(name: str) -> None:
    info = np.iinfo(name) if np.dtype(name).kind in "iu" else np.finfo(name)
    for fill in (info.max, info.min, info.max // 3 if np.dtype(name).kind in "iu" else info.tiny):
        held: dict[str, Any] = {}
        value = np.dtype(name).type(fill)
        zarr.create_array(zarr.storage.MemoryStore(held), shape=(2,), dtype=name, fill_value=value)
        found = array({key: stored.to_bytes() for key, stored in held.items()}).fill_value
        assert found.tobytes() == value.tobytes()


def test_the_document_is_kept() -> None:
    held = array(v3([5, 6], attributes={"unit": "m"}))
    assert held.metadata.document["chunk_grid"] == regular([2, 3])
    assert held.attrs["unit"] == "m"
    assert held.metadata.grid.shape == (3, 2)
