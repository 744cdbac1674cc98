"""Codecs of strings and other objects, and the wrapper of numcodecs' registry."""

from __future__ import annotations

import json
import struct
import sys
import tracemalloc
from typing import Any

import numcodecs
import numcodecs.abc
import numpy as np
import pytest

from gpuzarr import config
from gpuzarr.codecs import generic as generic_module
from gpuzarr.codecs import msgpack2, pcodec, registry, zfpy
from gpuzarr.codecs.base import ChunkSpec, as_array, as_bytes
from gpuzarr.codecs.generic import Generic
from gpuzarr.codecs.json2 import JSON2
from gpuzarr.codecs.vlen_array import VLenArray
from gpuzarr.codecs.vlen_bytes import VLenBytes
from gpuzarr.codecs.vlen_utf8 import VLenUTF8
from gpuzarr.errors import ChunkError, LimitError, MetadataError, MissingDependencyError, UnsupportedError

OBJECT = np.dtype(object)
VLEN = (VLenUTF8(), VLenBytes(), VLenArray("<i2"))


def spec(*shape: int) -> ChunkSpec:
    return ChunkSpec.of(shape, OBJECT)


def vlen(*items: bytes, count: int | None = None) -> bytes:
    body = b"".join(struct.pack("<I", len(item)) + item for item in items)
    return struct.pack("<I", len(items) if count is None else count) + body


@pytest.mark.parametrize("codec", VLEN)
def test_vlen_lies(codec: Any) -> None:
    """A number of values or a length that is not true is found before room is made for it."""
    assert codec.decode(vlen(b"ab", b""), spec(2)).shape == (2,)
    lies = [
        b"",
        b"\1\0\0",
        vlen(b"ab", b"", count=2**32 - 1),
        vlen(b"ab", b"", count=1),
        vlen(b"ab", b"", count=3),
        vlen(b"ab"),
        vlen(b"ab", b"")[:-1],
        vlen(b"ab", b"") + b"\0",
        struct.pack("<II", 2, 2**32 - 1) + b"ab" * 9,
        struct.pack("<IIHI", 2, 2**31, 0, 0),
    ]
    for lie in lies:
        with pytest.raises(ChunkError):
            codec.decode(lie, spec(2))
    with pytest.raises(ChunkError, match="cannot hold"):
        codec.decode(struct.pack("<I", 2**31) + bytes(64), spec(2**31))


def test_vlen_items() -> None:
    with pytest.raises(ChunkError, match="damaged strings"):
        VLenUTF8().decode(vlen(b"ok", b"\xff\xfe"), spec(2))
    with pytest.raises(ChunkError, match="damaged arrays"):
        VLenArray("<i2").decode(vlen(b"abc"), spec(1))
    assert VLenUTF8().decode(vlen(b"a", b"", b"c", b"d"), spec(2, 2)).tolist() == [["a", ""], ["c", "d"]]
    assert VLenBytes().decode(vlen(b"\xff"), spec()).tolist() == b"\xff"


def test_vlen_takes_every_kind_of_string_array() -> None:
    expected = numcodecs.VLenUTF8().encode(np.array(["a", "", "日本"], object))
    for values in (
        np.array(["a", "", "日本"], object),
        np.array(["a", None, "日本"], object),
        np.array(["a", "", "日本"], np.dtypes.StringDType()),
    ):
        encoded = VLenUTF8().encode(values, ChunkSpec.of((3,), values.dtype))
        assert bytes(encoded) == bytes(expected)
    with pytest.raises(MetadataError, match="one length"):
        VLenUTF8().encoded(ChunkSpec.of((3,), np.dtype("<U4")))


def test_vlen_keeps_the_order_of_axes() -> None:
    values = np.asfortranarray(np.array([["a", "b"], ["c", "d"]], object))
    encoded = VLenUTF8().encode(values, spec(2, 2))
    assert VLenUTF8().decode(encoded, spec(2, 2)).tolist() == [["a", "b"], ["c", "d"]]


@pytest.mark.parametrize(
    "document",
    [
        "",
        "nonsense",
        "{}",
        "[]",
        '["|O"]',
        '["a", "|O", [2]]',
        '["a", "b", "|O", [-2]]',
        '["a", "b", "|O", [1]]',
        '["a", "b", "|O", "ab"]',
        '["a", "b", "|O", [2.0]]',
        '["a", "b", "|O", [true, 2]]',
        '["a", "b", "|O", [1000000000000]]',
        '["a", "b", "|O", [1, 2]]',
        '[["a"], ["b", "c"], "|O", [2, 1]]',
        '["a", "b", "|O", [2]] trailing',
        "[" * 100000,
        '["\\ud800", "b", "|O"',
    ],
)
def test_json_lies(document: str) -> None:
    with pytest.raises(ChunkError):
        JSON2().decode(document.encode(), spec(2))


def test_json_of_other_types() -> None:
    with pytest.raises(ChunkError, match="promises int32"):
        JSON2().decode(b'[1, 2, "<i8", [2]]', ChunkSpec.of((2,), np.dtype("<i4")))
    with pytest.raises(ChunkError, match="not values"):
        JSON2().decode(b'[1, 400, "|u1", [2]]', ChunkSpec.of((2,), np.dtype("u1")))
    with pytest.raises(ChunkError):
        JSON2().decode(b'[1, [2], "|u1", [2]]', ChunkSpec.of((2,), np.dtype("u1")))
    with pytest.raises(ChunkError, match="not a JSON document"):
        JSON2().decode(b'["\xff", "|O", [1]]', spec(1))


def test_json_lists_stay_lists() -> None:
    """numcodecs itself fails where all the lists are of one length."""
    values = np.empty(2, object)
    values[:] = [[1, 2], [3, 4]]
    encoded = numcodecs.JSON().encode(values)
    assert JSON2().decode(encoded, spec(2)).tolist() == [[1, 2], [3, 4]]
    assert JSON2().decode(b'["x", "|O", []]', spec()).tolist() == "x"


@pytest.mark.parametrize(
    "options", [{"encoding": "zip"}, {"encoding": "zlib"}, {"encoding": 1}, {"separators": ","}]
)
def test_json_options(options: dict[str, object]) -> None:
    with pytest.raises(MetadataError, match="json2"):
        JSON2.from_config(options)


def test_claims_take_no_memory() -> None:
    """Chunks of a few bytes that claim gigabytes."""
    blosc = bytearray(numcodecs.Blosc("lz4").encode(bytes(100)))
    blosc[4:8] = (2**31 - 17).to_bytes(4, "little")
    zstd = b"\x28\xb5\x2f\xfd\xe0" + (2**40).to_bytes(8, "little") + b"\1\0\0"
    claims: list[tuple[str, bytes, ChunkSpec]] = [
        ("vlen-utf8", b"\xff\xff\xff\xff" + bytes(40), spec(3)),
        ("json2", b'["a", "|O", [4000000000]]', spec(1)),
        ("json2", b'["a", "<U99999999", [1]]', ChunkSpec.of((1,), np.dtype("<U1"))),
    ]
    for nbytes in (100, None):
        for name, chunk in (("blosc", bytes(blosc)), ("zstd", zstd), ("lz4", b"\xff\xff\xff\x7f" + bytes(9))):
            claims.append((name, chunk, ChunkSpec((), np.dtype("u1"), nbytes)))
    for name, chunk, decoded in claims:
        codec = registry.from_v2({"id": name})
        tracemalloc.start()
        try:
            with config.configured(max_chunk_nbytes=1 << 20), pytest.raises((ChunkError, LimitError)):
                codec.decode(chunk, decoded)
            assert tracemalloc.get_traced_memory()[1] < 1 << 20, name
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    ("module", "package", "make"),
    [
        (msgpack2, "msgpack", lambda: msgpack2.MsgPack2().decode(b"\x90", spec(0))),
        (
            pcodec,
            "pcodec",
            lambda: pcodec.PCodec().encode(np.arange(3, dtype="i4"), ChunkSpec.of((3,), np.dtype("i4"))),
        ),
        (zfpy, "zfpy", lambda: zfpy.ZFPY().encode(np.arange(3.0), ChunkSpec.of((3,), np.dtype("f8")))),
        (generic_module, "imagecodecs", lambda: registry.from_v2({"id": "imagecodecs_png"})),
    ],
)
def test_missing_packages_are_named(
    module: Any, package: str, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = getattr(module, "_register_imagecodecs" if package == "imagecodecs" else f"_{package}")
    for name in (package, f"{package}.numcodecs"):
        monkeypatch.setitem(sys.modules, name, None)
    loader.cache_clear()
    with pytest.raises(MissingDependencyError, match="pip install 'gpuzarr"):
        make()
    loader.cache_clear()


def test_zfp_streams_that_were_cut() -> None:
    pytest.importorskip("zfpy", reason="zfpy is not installed")
    values = np.random.default_rng(5).normal(size=(5, 9, 11))
    decoded = ChunkSpec.of(values.shape, values.dtype)
    for codec in (zfpy.ZFPY(2, rate=9), zfpy.ZFPY(3, precision=20), zfpy.ZFPY(4, tolerance=1e-3)):
        encoded = bytes(as_bytes(codec.encode(values, decoded)))
        assert np.allclose(as_array(codec.decode(encoded, decoded), decoded), values, atol=1.5)
        for length in range(8, len(encoded), 8):
            with pytest.raises(ChunkError):
                codec.decode(encoded[:length], decoded)
        other = ChunkSpec.of(values.shape, np.dtype("f4"))
        for wrong in (other, ChunkSpec.of((5, 9, 12), values.dtype)):
            with pytest.raises(ChunkError, match="where the metadata promises"):
                codec.decode(encoded, wrong)


class Upside(numcodecs.abc.Codec):  # type: ignore[misc]
    """A codec of somebody's own: every bit the other way."""

    codec_id = "test-upside"

    def __init__(self, shift: int = 0) -> None:
        self.shift = shift

    def encode(self, buf: Any) -> Any:
        return (~np.asarray(buf).reshape(-1).view("u1")).tobytes()

    def decode(self, buf: Any, out: Any = None) -> Any:
        return ~np.frombuffer(buf, "u1")


@pytest.fixture
def upside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(numcodecs.registry.codec_registry, "test-upside", Upside)


@pytest.mark.usefixtures("upside")
def test_registered_codecs_are_wrapped() -> None:
    codec = registry.from_v2({"id": "test-upside", "shift": 3})
    assert codec == registry.from_v3("numcodecs.test-upside", {"shift": 3}) or codec.name == "test-upside"
    assert isinstance(codec, Generic)
    assert codec.to_config() == {"shift": 3}
    values = np.arange(6, dtype="<i2").reshape(2, 3)
    decoded = ChunkSpec.of(values.shape, values.dtype)
    encoded = codec.encode(values, decoded)
    assert np.array_equal(as_array(codec.decode(encoded, decoded), decoded), values)
    with pytest.raises(ChunkError, match="where the metadata promises 14"):
        codec.decode(encoded, ChunkSpec.of((7,), values.dtype))
    with pytest.raises(MetadataError, match="test-upside"):
        registry.from_v2({"id": "test-upside", "shade": 3})


def test_unknown_codecs_are_named() -> None:
    with pytest.raises(UnsupportedError, match=r"no codec is called 'bolsc'.*is it blosc"):
        registry.from_v3("bolsc", {})
    with pytest.raises(UnsupportedError, match="register_codec"):
        registry.from_v2({"id": "qwxyz"})


@pytest.mark.parametrize("name", ["pickle", "numcodecs.pickle"])
def test_pickle_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedError, match="pickle"):
        registry.from_v3(name, {"protocol": 5})
    with pytest.raises(UnsupportedError, match="pickle"):
        Generic.find(name, "pickle", {})


def test_image_codecs() -> None:
    imagecodecs = pytest.importorskip("imagecodecs", reason="imagecodecs is not installed")
    values = np.random.default_rng(2).integers(0, 255, (12, 10, 3)).astype("u1")
    decoded = ChunkSpec.of(values.shape, values.dtype)
    codec = registry.from_v2({"id": "imagecodecs_png"})
    assert np.array_equal(as_array(codec.decode(imagecodecs.png_encode(values), decoded), decoded), values)
    assert np.array_equal(imagecodecs.png_decode(bytes(as_bytes(codec.encode(values, decoded)))), values)
    with pytest.raises(ChunkError, match="decodes to 360 bytes"):
        codec.decode(imagecodecs.png_encode(values), ChunkSpec.of((12, 10), values.dtype))
    predicted = imagecodecs.delta_encode(values[..., 0], axis=-1)
    delta = registry.from_v2(
        {"id": "imagecodecs_delta", "shape": [12, 10], "dtype": "|u1", "axis": -1, "dist": 1}
    )
    plane = ChunkSpec.of((12, 10), np.dtype("u1"))
    assert np.array_equal(as_array(delta.decode(predicted.tobytes(), plane), plane), values[..., 0])


def test_configurations_are_json() -> None:
    """Every name has a codec whose class makes itself from its own defaults, or says which option it
    lacks."""
    v3, v2 = registry.names()
    for name, cls in {**v3, **v2}.items():
        try:
            codec = cls.from_config({})
        except MetadataError:
            continue
        assert json.loads(json.dumps(codec.to_config())) is not None, name
        assert cls.from_config(json.loads(json.dumps(codec.to_config()))) == codec
