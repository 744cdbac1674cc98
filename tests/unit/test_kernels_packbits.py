"""The packbits kernel against numcodecs and NumPy, in the four thread orders of device sim."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numcodecs
import numpy as np
import pytest

import gpuzarr
from gpuzarr import ReadStats
from gpuzarr.codecs.base import Batch, ChunkSpec, Codec, as_bytes
from gpuzarr.codecs.packbits import NARROW, PackBits, PackBooleans
from gpuzarr.errors import ChunkError
from gpuzarr.testing.device import download
from tests.devices import DEVICES, lane_of


def decoded(codec: Codec, chunks: list[bytes], spec: ChunkSpec, order: str = DEVICES[0]) -> list[bytes | str]:
    """What the device form makes of them, each at another alignment."""
    assert codec.host_only(spec) is None
    data, offset = bytearray(), []
    for i, chunk in enumerate(chunks):
        data += b"\xee" * (-len(data) % 16 + i % 7)
        offset.append(len(data))
        data += chunk
    lane = lane_of(order)
    arena = lane.upload(np.frombuffer(bytes(data), np.uint8))
    sizes = np.array([len(chunk) for chunk in chunks], np.int64)
    batch = codec.decode_batch(Batch(arena, np.array(offset, np.int64), sizes), spec, lane)
    plain, faults = download(lane, batch.data), lane.take_faults().tolist()
    rows = zip(batch.offset.tolist(), batch.nbytes.tolist(), strict=True)
    return ["fault" if i in faults else plain[at : at + n] for i, (at, n) in enumerate(rows)]


def noise(nbytes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((nbytes, seed)).integers(0, 256, nbytes, dtype=np.uint8)


@pytest.mark.parametrize("order", DEVICES)
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 15, 16, 17, 31, 33, 1000, 4101, 40003])
def test_booleans(count: int, order: str) -> None:
    """As numcodecs, whatever number of bits is left over."""
    plain = [noise(count, seed) > 127 for seed in range(3)]
    chunks = [bytes(numcodecs.PackBits().encode(one)) for one in plain]
    spec = ChunkSpec.of((count,), np.dtype(bool))
    assert decoded(PackBooleans(), chunks, spec, order) == [one.tobytes() for one in plain]


@pytest.mark.parametrize("count", [0, 1, 8, 13])
def test_the_counter_of_booleans(count: int) -> None:
    """Only one of its 256 values is right."""
    plain = noise(count) > 127
    chunk = bytes(numcodecs.PackBits().encode(plain))
    found = decoded(
        PackBooleans(), [bytes([i]) + chunk[1:] for i in range(256)], ChunkSpec.of((count,), np.dtype(bool))
    )
    expected: list[bytes | str] = ["fault"] * 256
    expected[-count % 8] = plain.tobytes()
    assert found == expected


def packed(codes: list[int], bits: int, padding_encoding: str) -> bytes:
    """The numbers in `bits` bits each, the first in the lowest ones, by Python's own arithmetic."""
    nbytes = -(-len(codes) * bits // 8)
    whole = sum((code & (1 << bits) - 1) << bits * i for i, code in enumerate(codes))
    body, counter = whole.to_bytes(nbytes, "little"), bytes([8 * nbytes - len(codes) * bits])
    return {"none": body, "first_byte": counter + body, "last_byte": body + counter}[padding_encoding]


@pytest.mark.parametrize("order", DEVICES)
@pytest.mark.parametrize("padding_encoding", ["none", "first_byte", "last_byte"])
@pytest.mark.parametrize("name", NARROW)
def test_small_types(name: str, padding_encoding: Any, order: str) -> None:
    """Values of less than a byte, as the host form decodes them."""
    if name != "bool" and not hasattr(ml_dtypes, name):
        pytest.skip(f"this ml_dtypes has no {name}")
    dtype, bits = np.dtype(bool if name == "bool" else getattr(ml_dtypes, name)), NARROW[name]
    codec = PackBits(padding_encoding)
    for count in (0, 1, 5, 16, 19, 1001):
        codes = [int(code) for code in noise(count) % (1 << bits)]
        chunk, spec = packed(codes, bits, padding_encoding), ChunkSpec.of((count,), dtype)
        host = as_bytes(codec.decode(chunk, spec)).tobytes()
        assert host == bytes(codes)
        assert decoded(codec, [chunk] * 2, spec, order) == [host] * 2


FIELDS = [
    *(("u1", 0, 0), ("u1", 7, 7), ("u1", 1, 3), ("u1", 0, 7), ("i1", 0, 2), ("i1", 3, 6), ("u2", 0, 11)),
    *(("<i2", 0, 9), ("<i2", 2, 8), (">i2", 0, 12), (">u2", 4, 15), ("<i4", 0, 16), (">i4", 5, 30)),
    *(("<u4", 0, 31), ("<i8", 0, 39), ("<i8", 1, 63), (">u8", 0, 62), ("<u8", 0, 63), ("<f4", 9, 31)),
    *(("<f8", None, None), (">f2", None, None), ("<c8", None, None), (">c16", 0, 51), ("<M8[s]", 0, 30)),
    *(("<m8[ms]", 0, 34), ("?", None, None), ("?", 0, 0)),
]


@pytest.mark.parametrize(("dtype", "first", "last"), FIELDS)
def test_fields(dtype: str, first: int | None, last: int | None) -> None:
    """Any bits of values of any size, signed or not, in either byte order: as the host form decodes them."""
    for number, count in enumerate((1, 3, 50, 333)):
        codec = PackBits(("none", "first_byte", "last_byte")[number % 3], first, last)  # type: ignore[arg-type]
        spec = ChunkSpec.of((count,), np.dtype(dtype))
        plain = noise(spec.nbytes or 0) & (1 if dtype == "?" else 255)
        chunk = as_bytes(codec.encode(plain.view(dtype), spec)).tobytes()
        host = as_bytes(codec.decode(chunk, spec)).tobytes()
        assert decoded(codec, [chunk] * 2, spec, DEVICES[number % len(DEVICES)]) == [host] * 2
        if first is None:
            assert host == plain.tobytes()


def test_fields_by_arithmetic() -> None:
    """12 bits of signed numbers, which the host form does not say."""
    numbers = np.random.default_rng(0).integers(-2048, 2048, 77).astype(">i2")
    chunk = packed(numbers.tolist(), 12, "last_byte")
    spec = ChunkSpec.of((77,), numbers.dtype)
    assert decoded(PackBits("last_byte", 0, 11), [chunk], spec) == [numbers.tobytes()]


@pytest.mark.parametrize("padding_encoding", ["first_byte", "last_byte"])
def test_the_counter_of_values(padding_encoding: Any) -> None:
    """Where it lies, and what it is."""
    codec, spec = PackBits(padding_encoding), ChunkSpec.of((5,), np.dtype(bool))
    counters = [0, 1, 2, 3, 4, 7, 8, 11, 255]
    step = 1 if padding_encoding == "first_byte" else -1
    chunks = [bytes([c, 0x15][::step]) for c in counters]
    assert decoded(codec, chunks, spec) == [b"\1\0\1\0\1" if c == 3 else "fault" for c in counters]


def test_what_has_no_device_form() -> None:
    if np.dtype("g").itemsize != 16:
        pytest.skip("no type here has more than 64 bits")
    assert PackBits().host_only(ChunkSpec.of((3,), np.dtype("g"))) == "values of more than 64 bits"
    assert PackBits().host_only(ChunkSpec.of((3,), np.dtype("c16"))) is None


@pytest.mark.parametrize("codec", [PackBits(), PackBooleans()])
def test_batches_of_another_size_are_refused(codec: Codec) -> None:
    """A stage before gave less than it promised."""
    with pytest.raises(ChunkError, match="decodes to 1 bytes"):
        decoded(codec, [b"\0"], ChunkSpec.of((20,), np.dtype(bool)))


def test_arrays() -> None:
    """Packed bytes cross; a wrong counter is what the host says it is."""
    flags = noise(9 * 50).reshape(9, 50) > 127
    v2 = {
        "zarr_format": 2,
        "shape": [9, 50],
        "chunks": [9, 50],
        "dtype": "|b1",
        "order": "C",
        "fill_value": False,
        "dimension_separator": ".",
        "filters": [{"id": "packbits"}],
        "compressor": None,
    }
    v3 = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [9, 50],
        "data_type": "bool",
        "fill_value": False,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [9, 50]}},
        "chunk_key_encoding": {"name": "default"},
        "codecs": [{"name": "packbits", "configuration": {"padding_encoding": "first_byte"}}],
    }
    for document, name, key, order in ((v2, ".zarray", "0.0", "big"), (v3, "zarr.json", "c/0/0", "little")):
        chunk = bytes([6]) + np.packbits(flags, bitorder=order).tobytes()  # type: ignore[call-overload]
        objects = {name: json.dumps(document).encode(), key: chunk}
        array, stats = gpuzarr.open_array(objects, device=DEVICES[0]), ReadStats()
        assert (array.read(stats=stats).get() == flags).all()
        assert stats.bytes_crossed < 100
        assert {stage.place for stage in array.explain().stages} == {DEVICES[0]}
        objects[key] = b"\2" + chunk[1:]
        with pytest.raises(ChunkError, match="2 padding bits instead of 6"):
            gpuzarr.open_array(objects, device=DEVICES[0])[...]
