"""Codecs that change values one by one: casts, scales, rounding, bit packing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuzarr.codecs import registry
from gpuzarr.codecs.base import ChunkSpec, Codec, as_array, as_bytes
from gpuzarr.codecs.bitround import BitRound
from gpuzarr.codecs.cast_value import CastValue
from gpuzarr.codecs.packbits import PackBits
from gpuzarr.codecs.scale_offset import ScaleOffset
from gpuzarr.errors import ArgumentError, ChunkError, GpuzarrError, MetadataError

CASTS = Path(__file__).parents[1] / "data" / "codecs" / "casts.json"


def spec(values: np.ndarray) -> ChunkSpec:
    return ChunkSpec.of(values.shape, values.dtype)


@pytest.mark.parametrize(
    "pair", json.loads(CASTS.read_text(encoding="utf-8")), ids=lambda p: f"{p['source']}-{p['target']}"
)
def test_casts(pair: dict[str, Any]) -> None:
    """Value by value what cast-value-rs gives, which zarr-python uses; and all of them in one array."""
    with np.errstate(all="ignore"):
        values = np.array(pair["values"], pair["source"])
    for run in pair["runs"]:
        codec = CastValue(pair["target"], run["rounding"], run["out_of_range"])
        fitting = []
        for value, expected in zip(values, run["results"], strict=True):
            one = np.array([value])
            if expected is None:
                with pytest.raises(ChunkError, match="has no"):
                    codec.encode(one, spec(one))
                continue
            fitting.append((value, expected))
            found = as_array(codec.encode(one, spec(one)), codec.encoded(spec(one)))
            assert found.tobytes() == np.array([expected], pair["target"]).tobytes() or expected != expected
        together = np.array([value for value, _ in fitting])
        expected = np.array([result for _, result in fitting], pair["target"])
        found = as_array(codec.encode(together, spec(together)), codec.encoded(spec(together)))
        np.testing.assert_array_equal(found, expected)


def test_scalar_map() -> None:
    values = np.array([np.nan, 1.4, -0.0, np.inf, 300])
    pairs = [["NaN", -1], [0, 7], ["Infinity", 9], [300.0, 127]]
    codec = CastValue.from_config(
        {"data_type": "int8", "scalar_map": {"encode": pairs, "decode": [[-1, "NaN"]]}}
    )
    encoded = codec.encode(values, spec(values))
    assert as_array(encoded, codec.encoded(spec(values))).tolist() == [-1, 1, 7, 9, 127]
    np.testing.assert_array_equal(codec.decode(encoded, spec(values)), [np.nan, 1, 7, 9, 127])
    wrong = CastValue.from_config({"data_type": "int8", "scalar_map": {"encode": [[1, 300]]}})
    with pytest.raises(MetadataError, match="300"):
        wrong.encode(values, spec(values))


@pytest.mark.parametrize("order", ["<", ">"])
def test_cast_byte_orders(order: str) -> None:
    values = np.arange(5).astype(f"{order}f4")
    codec = CastValue("int16")
    decoded = codec.decode(codec.encode(values, spec(values)), spec(values))
    assert as_array(decoded, spec(values)).tolist() == values.tolist()


def test_cast_small_types() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    values = np.array([1.0, -2.0, 7.0], "f4")
    for name in ("int4", "bfloat16"):
        stored = values.astype(getattr(ml_dtypes, name))
        codec = CastValue(name)
        assert as_array(codec.decode(stored, spec(values)), spec(values)).tolist() == values.tolist()
    assert np.array_equal(CastValue("int4").encode(values, spec(values)), values.astype(ml_dtypes.int4))
    wide = np.array([9.0, -9.0])
    assert CastValue("int4", out_of_range="clamp").encode(wide, spec(wide)).astype(int).tolist() == [7, -8]
    assert CastValue("int4", out_of_range="wrap").encode(wide, spec(wide)).astype(int).tolist() == [-7, 7]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"data_type": "string"},
        {"data_type": ["int8"]},
        {"data_type": "int8", "rounding": "up"},
        {"data_type": "int8", "out_of_range": "error"},
        {"data_type": "float32", "out_of_range": "wrap"},
        {"data_type": "int8", "scalar_map": [1]},
        {"data_type": "int8", "scalar_map": {"both": []}},
        {"data_type": "int8", "scalar_map": {"encode": [[1]]}},
        {"data_type": "int8", "unknown": 1},
    ],
)
def test_cast_options(options: dict[str, Any]) -> None:
    with pytest.raises(MetadataError, match="cast_value"):
        CastValue.from_config(options)


@given(st.sampled_from("bBhHiIqQ"), st.data())
def test_scales_of_integers_are_exact(kind: str, data: st.DataObject) -> None:
    """Python's integers are the oracle: a result that does not fit, or leaves a remainder, is an error."""
    dtype = np.dtype(kind)
    info = np.iinfo(dtype)
    numbers = st.one_of(st.integers(-9, 9), st.integers(int(info.min), int(info.max)))
    numbers = numbers.filter(lambda number: info.min <= number <= info.max)
    values = np.array(data.draw(st.lists(numbers, min_size=1, max_size=5)), dtype)
    offset, scale = data.draw(numbers), data.draw(numbers.filter(bool))
    codec = ScaleOffset(offset, scale)
    exact = [(int(value) - offset) * scale for value in values]
    if all(info.min <= number <= info.max for number in exact):
        encoded = as_array(codec.encode(values, spec(values)), spec(values))
        assert encoded.tolist() == exact
        assert as_array(codec.decode(encoded, spec(values)), spec(values)).tolist() == values.tolist()
    else:
        with pytest.raises(ArgumentError, match="do not fit"):
            codec.encode(values, spec(values))
    quotients = [divmod(int(value), scale) for value in values]
    plain = [quotient + offset for quotient, _ in quotients]
    if not any(rest for _, rest in quotients) and all(info.min <= number <= info.max for number in plain):
        assert as_array(codec.decode(values, spec(values)), spec(values)).tolist() == plain
    else:
        with pytest.raises(ChunkError):
            codec.decode(values, spec(values))


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
def test_scales_of_floats_stay_in_their_type(dtype: str) -> None:
    values = np.array([0.1, -2.5, 1e4, np.inf, np.nan, -0.0], dtype)
    codec, native = ScaleOffset("0.3", 7), np.dtype(dtype).newbyteorder("=").type
    with np.errstate(all="ignore"):
        expected = values.astype(native) / native(7) + native(0.3)
    found = as_array(codec.decode(values, spec(values)), spec(values))
    assert found.dtype == values.dtype
    assert found.astype(native).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({"scale": 0}, "i4"),
        ({"scale": "0"}, "f4"),
        ({"scale": 0.5}, "i4"),
        ({"offset": 128}, "i1"),
        ({"offset": "NaN"}, "i4"),
        ({"offset": "x"}, "f4"),
        ({"offset": 1}, "c8"),
        ({"offset": 1}, "?"),
    ],
)
def test_scales_that_the_type_has_not(options: dict[str, Any], dtype: str) -> None:
    with pytest.raises(MetadataError):
        ScaleOffset.from_config(options).encoded(ChunkSpec.of((3,), np.dtype(dtype)))


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
@pytest.mark.parametrize("keepbits", [0, 1, 5, 9])
def test_bitround_is_numcodecs(dtype: str, keepbits: int) -> None:
    random = np.random.default_rng(3)
    values = np.frombuffer(random.bytes(800), dtype)
    expected = numcodecs.BitRound(keepbits).encode(values.astype(np.dtype(dtype).newbyteorder("=")))
    found = np.asarray(BitRound(keepbits).encode(values, spec(values)))
    assert found.astype(found.dtype.newbyteorder("=")).tobytes() == expected.tobytes()


def test_bitround_of_all_bytes() -> None:
    """To the nearest of the numbers with three bits from the highest on, ties to even, 224 being the
    largest."""
    values = np.arange(256, dtype=np.uint8)
    found = np.asarray(BitRound(3).encode(values, spec(values))).astype(int)
    for value, rounded in zip(range(256), found, strict=True):
        step = max(1 << max(value.bit_length() - 3, 0), 1)
        low = value // step * step
        near = min((low, low + step), key=lambda number: (abs(value - number), number // step % 2))
        assert rounded == (near if near < 256 else 224)
    for dtype in ("i1", "u2", "i4", "u8"):
        numbers = np.array([0, 1, 7, 100, 127], dtype)
        assert np.asarray(BitRound(8).encode(numbers, spec(numbers))).tolist() == numbers.tolist()


@pytest.mark.parametrize("name", ["int2", "uint2", "int4", "uint4", "float4_e2m1fn", "float6_e3m2fn"])
def test_packbits_of_small_types(name: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    if not hasattr(ml_dtypes, name):
        pytest.skip(f"this ml_dtypes has no {name}")
    numbers = np.array([0, 1, 1, 0, 1, 1, 0], "f4") * (-1 if name.startswith("int") else 1)
    values = numbers.astype(getattr(ml_dtypes, name))
    bits = int(name.split("_")[0].strip("uintfloa"))
    mask = (1 << bits) - 1
    packed = sum((int(byte) & mask) << bits * i for i, byte in enumerate(values.view(np.uint8)))
    codec = PackBits("last_byte")
    encoded = as_bytes(codec.encode(values, spec(values)))
    nbytes = -(-7 * bits // 8)
    assert encoded.tobytes() == packed.to_bytes(nbytes, "little") + bytes([8 * nbytes - 7 * bits])
    assert as_array(codec.decode(encoded, spec(values)), spec(values)).tobytes() == values.tobytes()


@pytest.mark.parametrize("dtype", [">i2", "<c8", ">c8", "<f8", "<M8[s]"])
def test_packbits_of_whole_types(dtype: str) -> None:
    """With all their bits, values are their little-endian bytes."""
    values = np.arange(6).astype("i8").astype(dtype)
    encoded = as_bytes(PackBits().encode(values, spec(values)))
    assert encoded.tobytes() == values.astype(values.dtype.newbyteorder("<")).tobytes()
    assert as_array(PackBits().decode(encoded, spec(values)), spec(values)).tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({"padding_encoding": "start_byte"}, "?"),
        ({"first_bit": -1}, "u1"),
        ({"first_bit": 3, "last_bit": 2}, "u1"),
        ({"last_bit": 8}, "u1"),
        ({"last_bit": 1}, "?"),
        ({}, "S3"),
        ({}, "O"),
    ],
)
def test_packbits_options(options: dict[str, Any], dtype: str) -> None:
    with pytest.raises(MetadataError, match="packbits"):
        PackBits.from_config(options).encoded(ChunkSpec.of((3,), np.dtype(dtype)))


@pytest.mark.parametrize("padding", ["first_byte", "last_byte"])
def test_packbits_checks_its_padding(padding: Any) -> None:
    values = np.array([1, 0, 1], bool)
    codec = PackBits(padding)
    encoded = as_bytes(codec.encode(values, spec(values))).copy()
    encoded[0 if padding == "first_byte" else -1] = 3
    with pytest.raises(ChunkError, match="3 padding bits instead of 5"):
        codec.decode(encoded, spec(values))


FILTERS: list[tuple[dict[str, Any], np.ndarray]] = [
    ({"id": "astype", "encode_dtype": "<f4", "decode_dtype": "<f8"}, np.array([1.5, np.nan, 1e300])),
    ({"id": "astype", "encode_dtype": "|i1", "decode_dtype": ">i4"}, np.array([1, -2, 300], ">i4")),
    ({"id": "quantize", "digits": 3, "dtype": "<f4", "astype": "<f2"}, np.array([1.23456, -7.7], "<f4")),
    ({"id": "quantize", "digits": 1, "dtype": "<f8"}, np.array([1.23456, np.inf, -7.77])),
]


@pytest.mark.parametrize(("configuration", "values"), FILTERS)
def test_filters_are_numcodecs(configuration: dict[str, Any], values: np.ndarray) -> None:
    codec, oracle = registry.from_v2(configuration), numcodecs.get_codec(dict(configuration))
    with np.errstate(all="ignore"):
        encoded = oracle.encode(values)
        assert np.asarray(codec.encode(values, spec(values))).tobytes() == encoded.tobytes()
        decoded = as_array(codec.decode(encoded, spec(values)), spec(values))
        assert decoded.tobytes() == oracle.decode(encoded).tobytes()


@pytest.mark.parametrize("encode_dtype", ["O", "f4,i4", "S0", "(2,)f4", "nothing", 3, None, "T"])
def test_types_of_options_are_checked(encode_dtype: object) -> None:
    for configuration in (
        {"id": "astype", "encode_dtype": encode_dtype},
        {"id": "vlen-array", "dtype": encode_dtype},
    ):
        with pytest.raises(MetadataError, match=str(configuration["id"])):
            registry.from_v2(configuration)


def test_filters_read_what_the_array_calls_something_else() -> None:
    """A v2 filter's `dtype` is of the same bytes, not always of the same name."""
    values = np.arange(8, dtype="<u4")
    codec = registry.from_v2({"id": "astype", "encode_dtype": "<i8", "decode_dtype": "<i4"})
    assert codec.encoded(spec(values)).nbytes == 64
    encoded = codec.encode(values, spec(values))
    assert as_array(codec.decode(encoded, spec(values)), spec(values)).tolist() == values.tolist()
    with pytest.raises(MetadataError, match="cannot be read as"):
        codec.encoded(ChunkSpec.of((3,), np.dtype("u1")))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("bitround", "?"),
        ("quantize", "i4"),
        ("cast_value", "c8"),
        ("scale_offset", "M8[s]"),
        ("pcodec", "u1"),
        ("zfpy", "f2"),
    ],
)
def test_types_that_a_codec_does_not_take(name: str, dtype: str) -> None:
    options: dict[str, Any] = {
        "bitround": {"keepbits": 3},
        "quantize": {"digits": 1},
        "cast_value": {"data_type": "int8"},
    }
    codec: Codec = registry.from_v3(name, options.get(name, {}))
    with pytest.raises(GpuzarrError, match=name):
        codec.encoded(ChunkSpec.of((3,), np.dtype(dtype)))
