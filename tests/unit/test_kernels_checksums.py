"""The checksum kernels against google_crc32c, zlib and numcodecs, in the four thread orders of device sim."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import pytest
from numpy.typing import NDArray

import gpuzarr
from gpuzarr import ReadStats
from gpuzarr.codecs.adler32 import Adler32
from gpuzarr.codecs.base import Batch, ChunkSpec, Codec
from gpuzarr.codecs.blosc import Blosc
from gpuzarr.codecs.chain import bind
from gpuzarr.codecs.checksum import Verified
from gpuzarr.codecs.crc32 import CRC32
from gpuzarr.codecs.crc32c import CRC32C
from gpuzarr.codecs.fletcher32 import Fletcher32
from gpuzarr.codecs.jenkins import JenkinsLookup3
from gpuzarr.codecs.shuffle import Shuffle
from gpuzarr.errors import ChecksumError, ChunkError
from gpuzarr.testing.device import download
from tests.devices import DEVICES, lane_of


def fletcher32(covered: bytes) -> int:
    """numcodecs has none of nothing."""
    return int.from_bytes(bytes(numcodecs.Fletcher32().encode(covered))[-4:], "little") if covered else 0


ORACLES: dict[str, Callable[[bytes], int]] = {
    "gz_crc32c": lambda covered: int(google_crc32c.value(covered)),
    "gz_crc32": zlib.crc32,
    "gz_adler32": zlib.adler32,
    "gz_fletcher32": fletcher32,
}
SUMS = ["gz_adler32", "gz_fletcher32"]
CODECS: list[Verified] = [
    *(cls(where) for cls in (CRC32C, CRC32, Adler32) for where in ("start", "end")),
    Fletcher32(),
]


def placed(parts: list[bytes], gaps: list[int]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Byte strings in one arena, each so many bytes behind a multiple of 16."""
    data, offset = bytearray(), []
    for part, gap in zip(parts, gaps, strict=True):
        data += b"\xee" * (-len(data) % 16 + gap)
        offset.append(len(data))
        data += part
    return np.frombuffer(bytes(data), np.uint8), np.array(offset, np.int64)


def verified(
    kernel: str,
    parts: list[bytes],
    sums: list[bytes],
    gaps: list[int],
    order: str = DEVICES[0],
    threads: int = 256,
    **changes: Any,
) -> list[int]:
    """What the kernel leaves in `fault` for these strings and their stored checksums, one owner each."""
    lane = lane_of(order)
    src, offset = placed(parts, gaps)
    stored, stored_offset = placed(sums, [gap % 5 for gap in gaps])
    count = len(parts)
    params = {
        "src": src,
        "offset": offset,
        "nbytes": np.array([len(part) for part in parts], np.int64),
        "stored": stored,
        "stored_offset": stored_offset,
        "owner": np.arange(count, dtype=np.int32),
        **({"big": 0} if kernel == "gz_adler32" else {}),
        **changes,
    }
    fault = lane.faults(count)
    lane.launch(kernel, count, threads, fault=fault, **params)
    return np.frombuffer(download(lane, fault), np.int32).tolist()


def noise(nbytes: int, seed: int = 0) -> bytes:
    return np.random.default_rng((nbytes, seed)).integers(0, 256, nbytes, dtype=np.uint8).tobytes()


@pytest.mark.parametrize("order", DEVICES)
@pytest.mark.parametrize("kernel", ORACLES)
def test_sizes_and_alignments(kernel: str, order: str) -> None:
    """Right checksums pass and wrong ones do not, whatever the ends have to do with units and blocks."""
    sizes = [*range(20), 31, 33, 255, 4079, 4080, 4095, 4096, 4097, 4099, 4111, 4112, 4113, 8193, 9000]
    gaps = [(7 * i + DEVICES.index(order)) % 16 for i in range(len(sizes))]
    parts = [noise(nbytes) for nbytes in sizes]
    sums = [ORACLES[kernel](part).to_bytes(4, "little") for part in parts]
    wrong = [(ORACLES[kernel](part) ^ 1 << i % 32).to_bytes(4, "little") for i, part in enumerate(parts)]
    assert verified(kernel, parts * 2, sums + wrong, gaps * 2, order) == [0] * len(sizes) + [1] * len(sizes)


@pytest.mark.parametrize("kernel", ORACLES)
@pytest.mark.parametrize("nbytes", [0, 1, 2, 3, 4, 5, 15, 16, 17, 4083, 4096, 4100, 4112])
def test_every_alignment(kernel: str, nbytes: int) -> None:
    """Also where the first bytes are two threads', or one's twice."""
    parts = [noise(nbytes, gap) for gap in range(16)]
    sums = [ORACLES[kernel](part).to_bytes(4, "little") for part in parts]
    assert verified(kernel, parts, sums, list(range(16))) == [0] * 16


@pytest.mark.parametrize("kernel", ORACLES)
@pytest.mark.parametrize("value", [0, 255])
def test_bytes_that_are_all_the_same(kernel: str, value: int) -> None:
    """Largest and smallest sums."""
    parts = [bytes([value]) * nbytes for nbytes in (0, 1, 2, 3, 257, 5000, 5001, 65536)]
    sums = [ORACLES[kernel](part).to_bytes(4, "little") for part in parts]
    assert verified(kernel, parts, sums, [0] * len(parts)) == [0] * len(parts)


@pytest.mark.parametrize("kernel", SUMS)
def test_sums_that_are_reduced_on_the_way(kernel: str) -> None:
    """By one warp, so that each thread has many units."""
    parts = [b"\xff" * (5 << 19), b"\xff\xff" + bytes(1 << 19) + noise(1 << 20) + b"\1"]
    sums = [ORACLES[kernel](part).to_bytes(4, "little") for part in parts]
    assert verified(kernel, parts, sums, [0, 0], threads=32) == [0, 0]


@pytest.mark.parametrize("order", DEVICES)
@pytest.mark.parametrize("kernel", SUMS)
@pytest.mark.parametrize("threads", [32, 96, 1024])
def test_sums_by_any_number_of_warps(kernel: str, threads: int, order: str) -> None:
    parts = [noise(nbytes) for nbytes in (0, 1, 700, 20001)] * 2
    sums = [ORACLES[kernel](part).to_bytes(4, "little") for part in parts[:4]]
    sums += [bytes([one[0] ^ 1]) + one[1:] for one in sums]
    assert verified(kernel, parts, sums, [0, 1, 2, 3] * 2, order, threads) == [0] * 4 + [1] * 4


@pytest.mark.parametrize("kernel", ORACLES)
def test_one_bit_anywhere(kernel: str) -> None:
    """In the covered bytes, or in what is stored."""
    part = noise(45)
    right = ORACLES[kernel](part).to_bytes(4, "little")
    parts, sums = [], []
    for bit in range(8 * 49):
        whole = bytearray(part + right)
        whole[bit // 8] ^= 1 << bit % 8
        parts.append(bytes(whole[:45]))
        sums.append(bytes(whole[45:]))
    assert verified(kernel, parts, sums, [3] * len(parts)) == [1] * len(parts)


@pytest.mark.parametrize("order", DEVICES)
@pytest.mark.parametrize("kernel", ORACLES)
def test_rows_of_a_table(kernel: str, order: str) -> None:
    """Rows have owners; some are not checked; a size below zero is a fault in any case."""
    parts = [noise(100, i) for i in range(6)]
    sums = [ORACLES[kernel](part).to_bytes(4, "little") for part in parts]
    sums[1] = sums[4] = bytes(4)
    offset = placed(sums, [0] * 6)[1]
    offset[4], offset[5] = -1, -1
    nbytes = np.array([100, 100, 100, -1, 100, -7], np.int64)
    owner = np.array([3, 3, 2, 0, 4, 5], np.int32)
    found = verified(kernel, parts, sums, [0] * 6, order, stored_offset=offset, nbytes=nbytes, owner=owner)
    assert found == [1, 0, 0, 1, 0, 1]


@pytest.mark.parametrize("kernel", ["gz_crc32c", "gz_crc32"])
@pytest.mark.parametrize("threads", [1, 64, 512, 1024])
def test_crcs_by_another_number_of_threads(kernel: str, threads: int) -> None:
    """Nothing is taken that was not verified."""
    parts = [b"", b"abcd", noise(5000)]
    sums = [ORACLES[kernel](part).to_bytes(4, "little") for part in parts]
    assert verified(kernel, parts, sums, [0] * 3, threads=threads) == [1] * 3


@pytest.mark.parametrize("order", DEVICES)
def test_adler32_in_either_byte_order(order: str) -> None:
    """zlib stores it with the highest byte first."""
    parts = [noise(nbytes) for nbytes in (0, 5, 1000)] * 2
    sums = [zlib.adler32(part).to_bytes(4, "big") for part in parts[:3]]
    sums += [zlib.adler32(part).to_bytes(4, "little") for part in parts[:3]]
    assert verified("gz_adler32", parts, sums, [2] * 6, order, big=1) == [0, 0, 0, 1, 1, 1]


# ---- the codecs


def decoded(codec: Codec, chunks: list[bytes], spec: ChunkSpec, order: str) -> list[bytes | str]:
    """What the device form makes of them."""
    lane = lane_of(order)
    data, offset = placed(chunks, [i % 5 for i in range(len(chunks))])
    sizes = np.array([len(chunk) for chunk in chunks], np.int64)
    batch = codec.decode_batch(Batch(lane.upload(data), offset, sizes), spec, lane)
    plain = download(lane, batch.data)
    faults = lane.take_faults().tolist()
    rows = zip(batch.offset.tolist(), batch.nbytes.tolist(), strict=True)
    return ["fault" if i in faults else plain[at : at + n] for i, (at, n) in enumerate(rows)]


@pytest.mark.parametrize("order", DEVICES)
@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_codecs(codec: Verified, order: str) -> None:
    """Chunks of one size, and chunks of sizes that only they know, one too short for a checksum."""
    spec = ChunkSpec((), np.dtype("u1"), 500)
    plain = [noise(500, seed) for seed in range(3)]
    chunks = [np.asarray(codec.encode(one, spec)).tobytes() for one in plain]
    broken = [bytes([chunk[0] ^ 4]) + chunk[1:] for chunk in chunks]
    assert decoded(codec, chunks + broken, spec, order) == plain + ["fault"] * 3
    unknown = replace(spec, nbytes=None)
    plain = [noise(nbytes) for nbytes in (0, 1, 77, 3)]
    chunks = [np.asarray(codec.encode(one, unknown)).tobytes() for one in plain]
    assert decoded(codec, [b"", b"abc", *chunks], unknown, order) == ["fault", "fault", *plain]


def test_batches_of_another_size_are_refused() -> None:
    """A stage before gave less than it promised."""
    for codec in CODECS:
        with pytest.raises(ChunkError, match="decodes to 2 bytes where the metadata promises 3"):
            decoded(codec, [bytes(6)], ChunkSpec((), np.dtype("u1"), 3), DEVICES[0])


def test_where_headers_can_be_read() -> None:
    """A checksum at the end leaves the bytes before it where they are; one at the start does not, so the host
    verifies it before it reads a header."""
    for codec in CODECS:
        assert codec.trailer == (None if codec.at_start else 4)
        assert codec.host_only(ChunkSpec((), np.dtype("u1"), None)) is None
        chain = bind((Blosc(), codec), (100,), np.dtype("<u2"))
        assert chain.device_from == int(codec.at_start)
    assert JenkinsLookup3().host_only(ChunkSpec((), np.dtype("u1"), 9)) == "no device form"


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_arrays(codec: Verified) -> None:
    """A read verifies on the device, and the host says what is wrong."""
    values = np.arange(60, dtype="<i4").reshape(6, 10)
    document = {
        "zarr_format": 2,
        "shape": [6, 10],
        "chunks": [3, 10],
        "dtype": "<i4",
        "order": "C",
        "fill_value": 0,
        "dimension_separator": ".",
        "filters": [
            {"id": "shuffle", "elementsize": 4},
            {"id": codec.name.split(".")[-1], **codec.to_config()},
        ],
        "compressor": None,
    }
    objects: dict[str, bytes] = {".zarray": json.dumps(document).encode()}
    for row in range(2):
        part = np.ascontiguousarray(values[3 * row : 3 * row + 3])
        shuffled = Shuffle(4).encode(part, ChunkSpec.of(part.shape, part.dtype))
        objects[f"{row}.0"] = np.asarray(codec.encode(shuffled, ChunkSpec((), np.dtype("u1"), 120))).tobytes()
    array, stats = gpuzarr.open_array(objects, device=DEVICES[0]), ReadStats()
    assert (array.read(stats=stats).get() == values).all()
    assert {stage.place for stage in array.explain().stages} == {DEVICES[0]}
    objects["1.0"] = objects["1.0"][:50] + b"?" + objects["1.0"][51:]
    with pytest.raises(ChecksumError, match=r"chunk 1\.0"):
        gpuzarr.open_array(objects, device=DEVICES[0])[...]
