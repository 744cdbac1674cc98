"""Metadata that lie: each is one error that names the array and what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import gpuzarr
from gpuzarr import config
from gpuzarr.errors import (
    GpuzarrError,
    LimitError,
    MetadataError,
    UnsupportedError,
)
from tests.conftest import to_host
from tests.hostile import (
    DEVICES,
    LITTLE,
    fails,
    regular,
    v2,
    v3,
)


@pytest.mark.parametrize("name", ["zarr.json", ".zarray", ".zgroup"])
@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"", "not JSON"),
        (b"\xff{}", "not UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"[]", "no JSON object"),
        (b"null", "no JSON object"),
        (b'{"zarr_format": 2, "zarr_format": 3}', "twice"),
        (b'{"attributes": {"a": {"b": 1, "b": 1}}}', "twice"),
        (b'{"a":' + b"[" * 200000, "too deep"),
        (b'{"a":' * 200000, "too deep"),
        (b'{"a": ' + b"9" * 10000 + b"}", "not JSON"),
        (b"{}", "zarr_format None"),
        (b'{"zarr_format": 4}', "zarr_format 4"),
    ],
)
def test_documents(name: str, text: bytes, word: str) -> None:
    fails(MetadataError, {name: text}, word, "memory:")


def test_many_keys_and_one_twice() -> None:
    """Found without comparing each with each."""
    keys = [f'"{n}": 0' for n in range(200_000)]
    fails(
        MetadataError,
        {"zarr.json": ("{" + ", ".join([*keys, keys[-1]]) + "}").encode()},
        "'199999'",
        room=200 << 20,
    )


def test_a_document_larger_than_allowed() -> None:
    with config.configured(max_document_nbytes=100):
        fails(LimitError, v3(), "max_document_nbytes")


@pytest.mark.parametrize("depth", [100, 400, 900, 3000])
def test_nested_types(depth: int) -> None:
    """Python's own limit is never met: an error or a type, whatever the depth."""
    objects = v2(dtype="DTYPE")
    nested = b'[["a",' * depth + b'"<i4"' + b"]]" * depth
    objects[".zarray"] = objects[".zarray"].replace(b'"DTYPE"', nested)
    if depth == 100:
        assert gpuzarr.open_array(objects).dtype.itemsize == 4
        return
    try:
        found = gpuzarr.open_array(objects).dtype.itemsize
    except MetadataError:
        found = 4
    assert found == 4


NOT_SIZES = [
    None,
    5,
    "45",
    [4, -6],
    [4, 6.0],
    [4, True],
    [4, "6"],
    [4, None],
    [4, [6]],
    [4, float("nan")],
    {"4": 6},
]


@pytest.mark.parametrize("value", [*NOT_SIZES, [4, 2**62], [4, 2**64], [4, 10**30], [4, float("inf")]])
@pytest.mark.parametrize("field", ["shape", "chunks"])
def test_sizes(field: str, value: Any) -> None:
    fails(MetadataError, v2(**{field: value}), field)
    there = {"shape": value} if field == "shape" else {"chunk_grid": regular(value)}
    fails(MetadataError, v3(**there), "shape" if field == "shape" else "chunk_shape")


def test_ranks() -> None:
    for rank in (33, 1000):
        fails(MetadataError, v3([1] * rank, [1] * rank), f"{rank} dimensions", "up to 32")
        fails(MetadataError, v2(shape=[1] * rank, chunks=[1] * rank), f"{rank} dimensions")
    for shape, chunks in (([4, 6], [2]), ([4], [2, 3]), ([], [1]), ([4, 6], [2, 0])):
        fails(MetadataError, v3(shape, chunks), "chunk_shape")
        fails(MetadataError, v2(shape=shape, chunks=chunks), "chunks")
    assert gpuzarr.open_array(v3([2] + [1] * 31, [1] * 32))[...].shape == (2, *[1] * 31)


@DEVICES
def test_absurd_shapes(device: str) -> None:
    for shape, chunks in (
        ([10**6] * 3, [1, 1, 1]),
        ([2**61, 3], [2**10, 1]),
        ([2**62 - 1], [1]),
        ([2**40] * 30, [1] * 30 if device == "cpu" else [2] * 30),
    ):
        if device == "cpu" or len(shape) < 16:
            objects = v3(shape, chunks, fill_value=7)
            # Some versions of NumPy trace what they were refused.
            fails(LimitError, objects, "memory", device=device, room=1 << 63)
            corner = gpuzarr.open_array(objects, device=device).read(tuple(n - 1 for n in shape))
            assert to_host(corner) == 7


@DEVICES
@pytest.mark.parametrize("chunks", [[10**6, 10**7], [2**40, 2**40], [2**61, 1]])
def test_absurd_chunks(chunks: list[int], device: str) -> None:
    for objects in (v3([4, 6], chunks), {**v3([4, 6], chunks, codecs=[LITTLE, "zstd"]), "c/0/0": bytes(9)}):
        for key in (..., (0, 0)):
            fails(LimitError, objects, "max_chunk_nbytes", key=key, device=device)


def test_too_many_pieces() -> None:
    """A result that fits, from more chunks than a plan can list."""
    fails(LimitError, v3([2**31], [1]), "parts", key=slice(0, 2**28), room=300 << 20)


@pytest.mark.parametrize(
    "dtype",
    ["|V999999999", "|S999999999", "|S0", "<U0", "|V0", [["a", "|S99999999"]], [["a", "<f8", [9999, 9999]]]],
)
def test_absurd_types(dtype: Any) -> None:
    fails(UnsupportedError, v2(dtype=dtype, fill_value=None), "bytes")


@pytest.mark.parametrize(
    ("data_type", "kind"),
    [
        ("r800000000000", UnsupportedError),
        ("r0", UnsupportedError),
        ("r7", MetadataError),
        ("uint7", UnsupportedError),
        ({"name": "null_terminated_bytes", "configuration": {"length_bytes": 2**31 - 1}}, UnsupportedError),
        ({"name": "null_terminated_bytes", "configuration": {"length_bytes": -1}}, MetadataError),
        ({"name": "fixed_length_utf32", "configuration": {"length_bytes": 5}}, MetadataError),
        ({"name": "numpy.datetime64", "configuration": {"unit": "s", "scale_factor": 2**31}}, MetadataError),
        ({"name": "numpy.datetime64", "configuration": {"unit": "x"}}, MetadataError),
        ({"name": "structured", "configuration": {"fields": []}}, MetadataError),
        ({"name": "structured", "configuration": {"fields": [["a", "string"]]}}, UnsupportedError),
        ({"name": "structured", "configuration": {"fields": [["a", "int8"], ["a", "int8"]]}}, MetadataError),
        (None, MetadataError),
        ([], MetadataError),
    ],
)
def test_types(data_type: Any, kind: type[GpuzarrError]) -> None:
    fails(kind, v3(data_type=data_type))


@pytest.mark.parametrize(
    "dtype", ["|u3", "<i5", ">f1", "int32", "", "<M8[x]", "<c4", 5, None, [["a"]], [["a", 5]], [5]]
)
def test_v2_types(dtype: Any) -> None:
    with pytest.raises(MetadataError):
        gpuzarr.open(v2(dtype=dtype))


@pytest.mark.parametrize(
    "fill", [256, -1, 0.5, "0", True, [0], {}, float("nan"), 10**400, "NaN", "\ud800", [[[[0]]]], None]
)
def test_fill_values(fill: Any) -> None:
    fails(MetadataError, v3(fill_value=fill), "fill_value")


def test_rectilinear_grids() -> None:
    def grid(*axes: Any) -> dict[str, Any]:
        return {"name": "rectilinear", "configuration": {"kind": "inline", "chunk_shapes": list(axes)}}

    for axis in (
        [2, 1],
        [0, 4],
        [-1, 5],
        [[2, 0]],
        [[2, -2]],
        [[2]],
        [True, 3],
        [2.0, 2],
        [[4, 2**40]],
        0,
        "4",
        None,
    ):
        fails(MetadataError, v3(chunk_grid=grid(axis, [6])), "chunk")
    for many in ([[1, 2**40]], 1):
        fails(LimitError, v3([2**40, 6], chunk_grid=grid(many, [6])), "listed chunk sizes")
    fails(MetadataError, v3(chunk_grid=grid(2**70, [6])), "chunk")
    for wrong in ({"kind": "outline"}, {"chunk_shapes": 5}, {"chunk_shapes": [[4]]}):
        document = grid([4], [6])
        document["configuration"].update(wrong)
        fails(MetadataError, v3(chunk_grid=document), "chunk_grid")


@pytest.mark.parametrize(
    ("changes", "kind", "word"),
    [
        ({"extension": {"a": 1}}, UnsupportedError, "extension"),
        ({"extension": {"must_understand": True}}, UnsupportedError, "extension"),
        ({"extension": {"must_understand": 0}}, UnsupportedError, "extension"),
        ({"extension": 5}, UnsupportedError, "extension"),
        ({"\ud800": 5}, UnsupportedError, "\\ud800"),
        ({"storage_transformers": [{"name": "sharding"}]}, UnsupportedError, "sharding"),
        ({"storage_transformers": 5}, UnsupportedError, "5"),
        ({"chunk_key_encoding": "v9"}, UnsupportedError, "v9"),
        (
            {"chunk_key_encoding": {"name": "v2", "configuration": {"separator": ".."}}},
            MetadataError,
            "separator",
        ),
        ({"chunk_key_encoding": None}, MetadataError, "chunk_key_encoding"),
        ({"chunk_grid": "hexagonal"}, UnsupportedError, "hexagonal"),
        ({"node_type": "table"}, MetadataError, "table"),
        ({"attributes": []}, MetadataError, "attributes"),
        ({"dimension_names": ["x"]}, MetadataError, "dimension_names"),
        ({"dimension_names": [1, 2]}, MetadataError, "dimension_names"),
        ({"codecs": []}, MetadataError, "serializer"),
        ({"codecs": None}, MetadataError, "codecs"),
        ({"codecs": [5]}, MetadataError, "codecs"),
        ({"codecs": ["gzip"]}, MetadataError, "serializer"),
        ({"codecs": ["bytes", "bytes"]}, MetadataError, "serializer"),
        ({"codecs": ["gzip", "bytes"]}, MetadataError, "array codecs"),
        (
            {"codecs": ["bytes", {"name": "transpose", "configuration": {"order": [1, 0]}}]},
            MetadataError,
            "array codecs",
        ),
        ({"codecs": ["bytes", "gzp"]}, UnsupportedError, "is it gzip"),
        ({"codecs": ["bytes", "zstandard"]}, UnsupportedError, "zstd"),
        (
            {"codecs": ["bytes", {"name": "gzip", "configuration": {"level": 1, "x": 2}}]},
            MetadataError,
            "option x",
        ),
        ({"codecs": ["bytes", {"name": "gzip", "configuration": {"level": True}}]}, MetadataError, "gzip"),
        ({"codecs": ["bytes", {"name": "gzip", "configuration": []}]}, None, ""),
        ({"codecs": ["bytes", "numcodecs.pickle"]}, UnsupportedError, "pickle runs code"),
        ({"codecs": ["vlen-utf8"]}, MetadataError, "vlen-utf8"),
        ({"codecs": [{"name": "bytes", "configuration": {"endian": "middle"}}]}, MetadataError, "endian"),
    ],
)
def test_v3_documents(changes: dict[str, Any], kind: type[GpuzarrError] | None, word: str) -> None:
    if kind is None:  # an empty list for an empty object, as some writers have it
        assert gpuzarr.open_array(v3(**changes)).shape == (4, 6)
    else:
        fails(kind, v3(**changes), word)


@pytest.mark.parametrize(
    "order", [[0, 0], [0], [0, 1, 2], [0, 2], [-1, 0], [True, False], [0.0, 1.0], "CF", None, {}]
)
def test_transposes(order: Any) -> None:
    codecs = [{"name": "transpose", "configuration": {"order": order}}, "bytes"]
    fails(MetadataError, v3(codecs=codecs), "order", "transpose")


@pytest.mark.parametrize(
    ("changes", "kind", "word"),
    [
        ({"zarr_format": "2"}, MetadataError, "zarr_format"),
        ({"order": "A"}, MetadataError, "order"),
        ({"dimension_separator": "\\"}, MetadataError, "dimension_separator"),
        ({"dimension_separator": "/../"}, MetadataError, "dimension_separator"),
        ({"filters": 5}, MetadataError, "filters"),
        ({"filters": True}, MetadataError, "filters"),
        ({"filters": "zlib"}, MetadataError, "filters"),
        ({"filters": [5]}, MetadataError, "filters"),
        ({"filters": {}}, MetadataError, "filters"),
        ({"compressor": []}, MetadataError, "compressor"),
        ({"compressor": {}}, MetadataError, "id"),
        ({"compressor": {"id": 5}}, MetadataError, "id"),
        ({"compressor": {"id": "zlb"}}, UnsupportedError, "zlib"),
        ({"compressor": {"id": "pickle"}}, UnsupportedError, "pickle runs code"),
        ({"filters": [{"id": "pickle"}], "dtype": "|O"}, UnsupportedError, "pickle runs code"),
        ({"dtype": "|O"}, MetadataError, "object codec"),
        ({"dtype": "|O", "filters": [{"id": "zlib", "level": 1}]}, MetadataError, "object codec"),
    ],
)
def test_v2_documents(changes: dict[str, Any], kind: type[GpuzarrError], word: str) -> None:
    fails(kind, v2(**changes), word)


def test_pickle_is_never_run(tmp_path: Path) -> None:
    """A chunk that would leave a file behind."""
    left = tmp_path / "left"
    chunk = b"cbuiltins\nopen\n(S'" + str(left).encode() + b"'\nS'w'\ntR."
    fails(UnsupportedError, {**v2(dtype="|O", filters=[{"id": "pickle"}]), "0.0": chunk}, "pickle")
    assert not left.exists()


def test_messages_are_short_and_printable() -> None:
    error = fails(MetadataError, v3(fill_value="x" * 10**6), "fill_value", room=200 << 20)
    assert len(str(error)) < 1500
    assert str(fails(UnsupportedError, v3(codecs=["bytes", "\ud800"]))).encode()
