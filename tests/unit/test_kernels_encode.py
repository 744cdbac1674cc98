"""The kernels that encode, against NumPy, numcodecs, c-blosc and google_crc32c: shuffle.cu, differences.cu,
encoded.cu and the part of crc.cu that computes. Bytes that are no kernel's to write are looked at too."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import pytest
from numcodecs import blosc
from numpy.typing import NDArray

from gpuzarr.codecs import planes
from gpuzarr.device.base import DeviceBuffer, Lane
from gpuzarr.testing.device import download
from tests.devices import DEVICES, lane_of

Bytes = NDArray[np.uint8]
NONE, BYTES, BITS = 0, 1, 2
TILE, ROUND, SHARE = 16384, 16384, 8192
UNTOUCHED = 0x3C
INTEGERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]


@pytest.fixture(params=DEVICES)
def lane(request: pytest.FixtureRequest) -> Lane:
    return lane_of(request.param)


def noise(nbytes: int, *seed: int) -> Bytes:
    return np.random.default_rng((nbytes, *seed)).integers(0, 256, nbytes, dtype=np.uint8)


def up(nbytes: int, gap: int = 0) -> int:
    """A pitch: a multiple of 16, or, with a gap, some bytes more."""
    return -(-nbytes // 16) * 16 + gap


def rows(chunks: Sequence[Bytes], pitch: int, gap: int = 0) -> Bytes:
    """An arena: each chunk `pitch` bytes behind the one before, the first behind `gap` bytes."""
    arena = np.full(gap + pitch * len(chunks), UNTOUCHED, np.uint8)
    for i, chunk in enumerate(chunks):
        arena[gap + i * pitch :][: len(chunk)] = chunk
    return arena


def read_only(chunks: Sequence[Bytes], pitch: int, gap: int = 0) -> Bytes:
    """The same, as far as the last chunk goes: what is read behind it lies outside of the allocation."""
    return rows(chunks, pitch, gap)[: gap + pitch * (len(chunks) - 1) + len(chunks[-1])]


def at(lane: Lane, arena: Bytes, gap: int = 0) -> tuple[DeviceBuffer, DeviceBuffer]:
    """An arena on the device, all of it and what lies behind the gap."""
    whole = lane.upload(arena)
    return whole, whole.part(gap, whole.nbytes - gap)


def found(lane: Lane, buffer: DeviceBuffer) -> Bytes:
    down = np.frombuffer(download(lane, buffer), np.uint8)
    lane.reset()
    return down


def same(left: Bytes, right: Bytes) -> None:
    assert left.shape == right.shape
    wrong = np.flatnonzero(left != right)
    assert not len(wrong), f"{len(wrong)} of {len(left)} bytes differ, from {wrong[0]} on"


# ---- shuffle


def by_numpy(plain: Bytes, kind: int, typesize: int, blocksize: int) -> Bytes:
    """As c-blosc shuffles blocks, and numcodecs whole chunks."""
    return np.concatenate(
        [_by_numpy(plain[i : i + blocksize], kind, typesize) for i in range(0, len(plain), blocksize)]
    )


def _by_numpy(block: Bytes, kind: int, typesize: int) -> Bytes:
    items = len(block) // typesize
    if not items or kind == NONE or (kind == BITS and items % 8):
        return block
    sorted_bytes = block[: items * typesize].reshape(items, typesize).T
    if kind == BITS:
        bits = np.unpackbits(sorted_bytes[..., None], axis=2, bitorder="little")  # plane, item, bit
        sorted_bytes = np.packbits(bits.transpose(0, 2, 1), axis=2, bitorder="little")
    return np.concatenate((sorted_bytes.reshape(-1), block[items * typesize :]))


def tiles(nbytes: int, blocksize: int, typesize: int) -> int:
    """What kernels/shuffle.cu asks for."""
    blocksize = min(blocksize, nbytes)
    width = max(TILE // typesize // 64 * 64, 64)
    return -(-nbytes // blocksize) * max(-(-(blocksize // typesize) // width), 1)


def shuffled(
    lane: Lane,
    chunks: Sequence[Bytes],
    kind: int,
    typesize: int,
    blocksize: int,
    most: int | None = None,
    gaps: tuple[int, int] = (0, 0),
) -> list[Bytes]:
    """What the device makes of chunks of one size, which writes nothing else."""
    nbytes = len(chunks[0])
    pitch, to = up(nbytes, gaps[0]), up(nbytes + 1, gaps[1])
    _, src = at(lane, read_only(chunks, pitch, gaps[0]), gaps[0])
    untouched = rows([np.empty(0, np.uint8)] * len(chunks), to, gaps[1])
    whole, dst = at(lane, untouched, gaps[1])
    number = tiles(nbytes, blocksize, typesize) if most is None else most
    lane.launch(
        *("gz_shuffle", len(chunks) * number, 256),
        src=src,
        dst=dst,
        src_pitch=pitch,
        dst_pitch=to,
        nbytes=nbytes,
        blocksize=blocksize,
        typesize=typesize,
        kind=kind,
        tiles=number,
    )
    arena = found(lane, whole)
    parts = [arena[gaps[1] + i * to :][:nbytes].copy() for i in range(len(chunks))]
    same(rows(parts, to, gaps[1]), arena)
    return parts


def check_shuffle(
    lane: Lane, nbytes: int, kind: int, typesize: int, blocksize: int, count: int = 2, **how: Any
) -> None:
    """Chunks of noise."""
    chunks = [noise(nbytes, typesize, i) for i in range(count)]
    for plain, one in zip(chunks, shuffled(lane, chunks, kind, typesize, blocksize, **how), strict=True):
        same(one, by_numpy(plain, kind, typesize, blocksize))


@pytest.mark.parametrize("kind", [NONE, BYTES, BITS])
@pytest.mark.parametrize("typesize", [1, 2, 3, 4, 8, 12, 16, 17, 255])
def test_shuffle_sizes(lane: Lane, typesize: int, kind: int) -> None:
    """One block: a few items, odd tails, units and cells of 16 bytes that are not full, up to two tiles."""
    for items in (0, 1, 3, 7, 8, 9, 16, 31, 64, 100, 296):
        for tail in {0, 1, typesize - 1} - {typesize}:
            if nbytes := items * typesize + tail:
                check_shuffle(lane, nbytes, kind, typesize, nbytes)
    for nbytes in (TILE + 8 * typesize, TILE + 64 * typesize + typesize // 2):
        check_shuffle(lane, nbytes, kind, typesize, nbytes, 1)


@pytest.mark.parametrize("kind", [NONE, BYTES, BITS])
@pytest.mark.parametrize("typesize", [1, 2, 3, 4, 8, 12, 16, 17, 255])
def test_shuffle_blocks(lane: Lane, typesize: int, kind: int) -> None:
    """Blocks that are smaller than the chunk, or larger; that divide it or do not; that begin anywhere."""
    for nbytes, blocksize in (
        (100, 1),
        (1000, 64),
        (1000, 250),
        (1003, 400),
        (1003, 16 * typesize),
        (1003, 1002),
        (1003, 1 << 40),
        (3 * 8 * typesize + 5, 8 * typesize),
        (40000, 20000),
    ):
        check_shuffle(lane, nbytes, kind, typesize, blocksize)


@pytest.mark.parametrize("kind", [BYTES, BITS])
@pytest.mark.parametrize("typesize", [1, 2, 4, 8, 16, 24])
def test_shuffle_tiles(lane: Lane, typesize: int, kind: int) -> None:
    """Too few blocks of threads, the number that it asks for, too many."""
    nbytes, blocksize = 3 * TILE + 40, 2 * TILE + 16 * typesize
    for most in (1, 2, 3, 4, 11):
        check_shuffle(lane, nbytes, kind, typesize, blocksize, most=most)
    for most in (1, 7):
        check_shuffle(lane, 5000, kind, typesize, 512, most=most)


@pytest.mark.parametrize("kind", [BYTES, BITS])
@pytest.mark.parametrize("typesize", [1, 2, 4, 8, 16, 5])
def test_shuffle_addresses(lane: Lane, typesize: int, kind: int) -> None:
    """Arenas that begin, and chunks that lie, at no multiple of 16."""
    for gaps in ((0, 1), (1, 0), (4, 8), (8, 4), (15, 3)):
        check_shuffle(lane, 160 * typesize, kind, typesize, 160 * typesize, gaps=gaps)
        check_shuffle(lane, 160 * typesize, kind, typesize, 64 * typesize, gaps=gaps)


@pytest.mark.parametrize("typesize", [1, 2, 4, 5, 16, 200])
def test_shuffle_is_that_of_numcodecs(lane: Lane, typesize: int) -> None:
    """The filter, which has no blocks."""
    chunks = [noise(typesize * 137, i) for i in range(3)]
    codec = numcodecs.Shuffle(typesize)
    for plain, one in zip(chunks, shuffled(lane, chunks, BYTES, typesize, len(chunks[0])), strict=True):
        same(one, np.frombuffer(codec.encode(plain), np.uint8))


@pytest.mark.parametrize("kind", [NONE, BYTES, BITS])
@pytest.mark.parametrize("typesize", [1, 2, 3, 4, 8, 12, 16, 17, 255])
def test_shuffle_is_that_of_blosc(lane: Lane, typesize: int, kind: int) -> None:
    """Which undoes it, in containers whose streams are stored as they are, one a block."""
    flags = (0x30, 0x31, 0x34)[kind]  # lz4, not split
    for nbytes in (1, 7, 128, 4099, 8 * typesize * 20):
        for blocksize in sorted({nbytes, min(nbytes, 1001), min(nbytes, 16 * typesize)}):
            plain = noise(nbytes, typesize)
            [one] = shuffled(lane, [plain], kind, typesize, blocksize)
            blocks = [one[i : i + blocksize].tobytes() for i in range(0, nbytes, blocksize)]
            starts = np.arange(len(blocks)) * (blocksize + 4) + 16 + 4 * len(blocks)
            payload = b"".join(struct.pack("<i", len(block)) + block for block in blocks)
            sizes = struct.pack("<3i", nbytes, blocksize, 16 + 4 * len(blocks) + len(payload))
            header = bytes([2, 1, flags, typesize]) + sizes + starts.astype("<i4").tobytes()
            assert blosc.decompress(header + payload) == plain.tobytes()


def test_shuffle_tiles_are_those_of_unshuffle() -> None:
    """One function tells both kernels how many blocks of threads a chunk takes."""
    for nbytes, blocksize, typesize in (
        (1, 1, 1),
        (100000, 100000, 4),
        (100000, 4096, 2),
        (99999, 7000, 255),
    ):
        column = np.array([[BYTES, typesize, blocksize]], np.int64)
        assert planes.tiles(column, nbytes) == tiles(nbytes, blocksize, typesize)


# ---- differences


def differences(
    lane: Lane, chunks: Sequence[Bytes], dtype: str, astype: str, number: int, threads: int, gap: int
) -> list[bytes]:
    """What the device makes of chunks of as many values, which writes nothing else."""
    plain, stored = np.dtype(dtype), np.dtype(astype)
    items = len(chunks[0]) // plain.itemsize
    nbytes = items * stored.itemsize
    pitch, to = up(len(chunks[0]), gap), up(nbytes + 1, gap)
    _, src = at(lane, read_only(chunks, pitch, gap), gap)
    whole, dst = at(lane, rows([np.empty(0, np.uint8)] * len(chunks), to, gap), gap)
    lane.launch(
        *("gz_differences", len(chunks) * number, threads),
        src=src,
        dst=dst,
        src_pitch=pitch,
        dst_pitch=to,
        items=items,
        size=plain.itemsize,
        is_signed=int(plain.kind == "i"),
        stored_size=stored.itemsize,
        tiles=number,
    )
    arena = found(lane, whole)
    parts = [arena[gap + i * to :][:nbytes].copy() for i in range(len(chunks))]
    same(rows(parts, to, gap), arena)
    return [part.tobytes() for part in parts]


def fits(value: int, dtype: str) -> bool:
    info = np.iinfo(dtype)
    return int(info.min) <= value <= int(info.max)


@pytest.mark.parametrize("astype", INTEGERS)
@pytest.mark.parametrize("dtype", INTEGERS)
def test_differences(lane: Lane, dtype: str, astype: str) -> None:
    """As numcodecs, where differences wrap, in types that are wider or narrower; from a first value that a
    signed stored type holds."""
    for items, number, threads, gap in ((1, 1, 256, 0), (37, 2, 32, 0), (129, 1, 64, 1), (700, 3, 256, 0)):
        chunks = []
        for i in range(2):
            values = noise(items * np.dtype(dtype).itemsize, i).view(dtype)
            if astype[0] == "i" and not fits(int(values[0]), astype):
                values[0] = (-100 if dtype[0] == "i" else 100) + i
            chunks.append(values.view(np.uint8))
        expected = [numcodecs.Delta(dtype, astype).encode(chunk).tobytes() for chunk in chunks]
        assert differences(lane, chunks, dtype, astype, number, threads, gap) == expected


@pytest.mark.parametrize("dtype", INTEGERS)
def test_differences_of_the_largest(lane: Lane, dtype: str) -> None:
    """From one end of the type to the other, and back."""
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    values = np.array([0, high, low, high, low, low, high, 1, 0, low, 1, high] * 3, dtype)
    for astype in INTEGERS:
        expected = numcodecs.Delta(dtype, astype).encode(values).tobytes()
        assert differences(lane, [values.view(np.uint8)], dtype, astype, 1, 256, 0) == [expected]


def test_first_values_that_numpy_refuses() -> None:
    """Signed types take none that they do not hold, unsigned ones take all: so the kernel's header says."""
    for dtype in INTEGERS:
        low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
        for astype in INTEGERS:
            for first in (low, high, 127, 128):
                if not fits(first, dtype):
                    continue
                values = np.array([first, 1], dtype)
                if astype[0] == "i" and not fits(first, astype):
                    with pytest.raises(OverflowError):
                        numcodecs.Delta(dtype, astype).encode(values)
                else:
                    stored = numcodecs.Delta(dtype, astype).encode(values)
                    assert stored[0] == values.astype(astype)[0]


def test_differences_of_nothing(lane: Lane) -> None:
    assert differences(lane, [np.empty(0, np.uint8)] * 2, "i4", "i2", 2, 256, 0) == [b"", b""]


# ---- which chunks differ from the fill value


def differing(
    lane: Lane, chunks: Sequence[Bytes], fill: Bytes, number: int = 1, gap: int = 0, before: int = 0
) -> list[int]:
    """What the kernel leaves in `differs`."""
    pitch = up(len(chunks[0]), gap)
    _, src = at(lane, read_only(chunks, pitch, gap), gap)
    differs = lane.upload(np.full(len(chunks), before, np.int32))
    lane.launch(
        *("gz_differs", len(chunks) * number, 256),
        src=src,
        fill=fill,
        differs=differs,
        pitch=pitch,
        nbytes=len(chunks[0]),
        itemsize=len(fill),
        tiles=number,
    )
    return [int(one) for one in found(lane, differs).view(np.int32)]


def with_one_changed(chunk: Bytes, place: int) -> Bytes:
    changed = chunk.copy()
    changed[place] ^= 0x40
    return changed


@pytest.mark.parametrize("itemsize", [1, 2, 3, 4, 8, 12, 16, 17, 100, 1024])
def test_differs(lane: Lane, itemsize: int) -> None:
    """One byte anywhere shows, at every size and address; what lies behind the chunk does not."""
    fill = noise(itemsize, 1)
    for items, number, gap in ((1, 1, 0), (1, 3, 1), (2, 1, 0), (5, 2, 5), (21, 1, 0)):
        nbytes = items * itemsize
        filled = np.tile(fill, items)
        places = sorted({0, nbytes // 3, nbytes // 2, max(nbytes - 17, 0), nbytes - 1})
        chunks = [filled, *(with_one_changed(filled, place) for place in places), filled]
        expected = [0] + [1] * len(places) + [0]
        assert differing(lane, chunks, fill, number, gap) == expected


@pytest.mark.parametrize("itemsize", [1, 3, 4, 16, 1000])
def test_differs_in_any_round(lane: Lane, itemsize: int) -> None:
    """Chunks of several rounds, whoever takes them; the last one is cut short, and so is its last item."""
    nbytes = 3 * ROUND + 1234 + 5
    fill = noise(itemsize, 2)
    filled = np.resize(fill, nbytes)
    places = [0, ROUND - 1, ROUND, 2 * ROUND + 77, 3 * ROUND - 1, 3 * ROUND, nbytes - 1]
    chunks = [filled, *(with_one_changed(filled, place) for place in places)]
    for number in (1, 2, 4, 5):
        assert differing(lane, chunks, fill, number) == [0] + [1] * len(places)


def test_differs_by_bits(lane: Lane) -> None:
    """Zeros of either sign are not the same, and NaNs are."""
    zeros = np.zeros(9, "<f4")
    nans = np.full(9, np.nan, "<f4")
    chunks = [one.view(np.uint8) for one in (zeros, -zeros, nans)]
    assert differing(lane, chunks, chunks[0][:4]) == [0, 1, 1]
    assert differing(lane, chunks, chunks[2][:4]) == [1, 1, 0]


def test_differs_leaves_the_others(lane: Lane) -> None:
    """What was set before stays; an empty chunk is all fill value. What cannot be compared differs."""
    fill = np.array([7], np.uint8)
    assert differing(lane, [np.full(100, 7, np.uint8)] * 2, fill, before=1) == [1, 1]
    for nbytes, itemsize, threads in (
        *((0, 1, 256), (-5, 1, 256), (16, 1, 256)),
        *((16, 0, 256), (16, 1025, 256), (16, -1, 256), (16, 1, 128), (16, 1, 512)),
    ):
        differs = lane.upload(np.zeros(3, np.int32))
        lane.launch(
            *("gz_differs", 6, threads),
            src=np.full(48, 7, np.uint8),
            fill=fill,
            differs=differs,
            pitch=16,
            nbytes=nbytes,
            itemsize=itemsize,
            tiles=2,
        )
        expected = int(itemsize != 1 or threads != 256)
        assert found(lane, differs).view(np.int32).tolist() == [expected] * 3


# ---- put side by side


@pytest.mark.parametrize("threads", [256, 32])
@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("on_device", [False, True])
def test_pack(lane: Lane, number: int, threads: int, on_device: bool) -> None:
    """Strings of all sizes and addresses, some of none or fewer, side by side with nothing between."""
    sizes = [0, 1, 15, 16, 17, 100, -1, 2047, SHARE - 1, SHARE, SHARE + 1, -(1 << 60), 3 * SHARE + 77, 5, 20]
    pitch = 4 * SHARE + 16
    chunks = [noise(max(nbytes, 0), i) for i, nbytes in enumerate(sizes)]
    offset = np.arange(len(sizes), dtype=np.int64) * pitch + np.arange(len(sizes)) * 3 % 16
    src = np.full(pitch * len(sizes), UNTOUCHED, np.uint8)
    for start, chunk in zip(offset.tolist(), chunks, strict=True):
        src[start : start + len(chunk)] = chunk
    src = src[: int(offset[-1]) + len(chunks[-1])]
    packed = np.array([len(chunk) for chunk in chunks], np.int64)
    column = np.array(sizes, np.int64)
    dst = lane.upload(np.full(int(packed.sum()) + 32, UNTOUCHED, np.uint8))
    lane.launch(
        *("gz_pack", len(sizes) * number, threads),
        src=src,
        src_offset=offset,
        nbytes=lane.upload(column) if on_device else column,
        dst=dst,
        dst_offset=16 + np.cumsum(packed) - packed,
        largest=max(sizes),
        tiles=number,
    )
    edge = np.full(16, UNTOUCHED, np.uint8)
    same(found(lane, dst), np.concatenate((edge, *chunks, edge)))


def test_pack_no_more_than_the_largest(lane: Lane) -> None:
    """A size that is not true takes no more bytes than were promised."""
    src, dst = noise(300), lane.upload(np.full(300, UNTOUCHED, np.uint8))
    zero = np.zeros(1, np.int64)
    lane.launch(
        *("gz_pack", 1, 256),
        src=src,
        src_offset=zero,
        nbytes=zero + (1 << 62),
        dst=dst,
        dst_offset=zero,
        largest=200,
        tiles=1,
    )
    same(found(lane, dst), np.concatenate((src[:200], np.full(100, UNTOUCHED, np.uint8))))


# ---- checksums


def appended(
    lane: Lane, parts: Sequence[Bytes], sizes: Sequence[int], pitch: int, gap: int = 0, threads: int = 256
) -> tuple[Bytes, list[int]]:
    """The arena afterwards, and the totals."""
    whole, data = at(lane, rows(parts, pitch, gap), gap)
    total = lane.empty(8 * len(parts))
    column = lane.upload(np.array(sizes, np.int64))
    lane.launch("gz_crc32c_append", len(parts), threads, data=data, pitch=pitch, nbytes=column, total=total)
    totals = np.frombuffer(download(lane, total), np.int64).tolist()
    return found(lane, whole), totals


def with_crc32c(part: Bytes) -> Bytes:
    crc = int(google_crc32c.value(part.tobytes()))
    return np.concatenate((part, np.frombuffer(crc.to_bytes(4, "little"), np.uint8)))


def test_crc32c_append(lane: Lane) -> None:
    """Every size up to some units, and around what all threads take; the last one fills its room."""
    sizes = [*range(40), 255, 256, 4079, 4080, 4081, 4095, 4096, 4097, 4112, 8191, 8204]
    parts = [noise(nbytes) for nbytes in sizes]
    pitch = 8208
    arena, totals = appended(lane, parts, sizes, pitch)
    assert totals == [nbytes + 4 for nbytes in sizes]
    same(arena, rows([with_crc32c(part) for part in parts], pitch))


@pytest.mark.parametrize("gap", [1, 4, 15])
def test_crc32c_append_at_any_address(lane: Lane, gap: int) -> None:
    sizes = [0, 1, 2, 3, 4, 5, 15, 16, 17, 100, 4083, 4100]
    parts = [noise(nbytes, gap) for nbytes in sizes]
    arena, totals = appended(lane, parts, sizes, 4107, gap)
    assert totals == [nbytes + 4 for nbytes in sizes]
    same(arena, rows([with_crc32c(part) for part in parts], 4107, gap))


def test_crc32c_append_of_what_numcodecs_verifies(lane: Lane) -> None:
    part = noise(1000)
    arena, [total] = appended(lane, [part], [1000], 1008)
    assert bytes(numcodecs.CRC32C().decode(arena[:total].tobytes())) == part.tobytes()


def test_crc32c_append_where_there_is_no_room(lane: Lane) -> None:
    """Sizes that cannot be, and another number of threads: nothing is written but the totals."""
    parts = [noise(32, i) for i in range(5)]
    sizes = [-1, 29, 1 << 62, -(1 << 63), 28]
    arena, totals = appended(lane, parts, sizes, 32)
    assert totals == [-1, -1, -1, -1, 32]
    parts[4] = with_crc32c(parts[4][:28])
    same(arena, rows(parts, 32))
    for threads in (32, 512):
        arena, totals = appended(lane, parts, [0] * 5, 32, threads=threads)
        assert totals == [-1] * 5
        same(arena, rows(parts, 32))
