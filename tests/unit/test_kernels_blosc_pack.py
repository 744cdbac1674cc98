"""Blosc containers that the device puts together: byte by byte as they should be, and c-blosc reads them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numcodecs import blosc, lz4

from gpuzarr.codecs.blosc import Blosc
from gpuzarr.testing.device import download
from tests.devices import DEVICES, lane_of
from tests.fuzz_kernels import on_device, values
from tests.unit.test_kernels_lz4_encode import UNTOUCHED, bound, encoded, mixture, noise

BYTE_SHUFFLED, MEMCPYED, BIT_SHUFFLED, UNSPLIT = 1, 2, 4, 16
LZ4 = 1


class Geometry(NamedTuple):
    """How all chunks of a batch are cut."""

    nbytes: int
    blocksize: int
    typesize: int
    flags: int = LZ4 << 5

    @property
    def splits(self) -> int:
        """As c-blosc reads it."""
        many = self.typesize <= 16 and self.blocksize // self.typesize >= 128 and not self.flags & UNSPLIT
        return self.typesize if many else 1

    @property
    def blocks(self) -> list[range]:
        """The bytes of each."""
        starts = range(0, self.nbytes, self.blocksize)
        return [range(start, min(start + self.blocksize, self.nbytes)) for start in starts]

    @property
    def shares(self) -> list[range]:
        """The bytes of each stream."""
        found = []
        for block in self.blocks:
            splits = self.splits if len(block) == self.blocksize else 1
            size = len(block) // splits
            found += [range(block.start + k * size, block.start + (k + 1) * size) for k in range(splits)]
        return found


def packed(
    geometry: Geometry,
    plain: Sequence[bytes],
    shuffled: Sequence[bytes],
    streams: Sequence[bytes | int],
    order: str = DEVICES[0],
    *,
    pitch: int | None = None,
    threads: int = 256,
) -> list[bytes]:
    """The containers of these chunks. A number in the place of a stream is its size. What lies behind a
    container is left as it is."""
    nbytes, count, rows = geometry.nbytes, len(plain), len(streams)
    assert rows == count * len(geometry.shares)
    pitch = pitch or nbytes + 16 + 7
    stream_pitch = max([32, *(len(one) for one in streams if isinstance(one, bytes))])
    held = b"".join((one if isinstance(one, bytes) else b"").ljust(stream_pitch, b"\xee") for one in streams)
    sizes = [len(one) if isinstance(one, bytes) else one for one in streams]
    lane = lane_of(order)
    containers = lane.upload(np.full(count * pitch, UNTOUCHED, np.uint8))
    stream_nbytes = lane.upload(np.array(sizes, np.int64))
    place, nbytes_out = lane.empty(8 * rows), lane.empty(8 * count)
    common = {
        "stream_nbytes": stream_nbytes,
        "place": place,
        "containers": containers,
        "pitch": pitch,
        "nbytes": nbytes,
        "blocksize": geometry.blocksize,
        "splits": geometry.splits,
    }
    lane.launch(
        "gz_blosc_plan",
        count,
        threads,
        **common,
        nbytes_out=nbytes_out,
        typesize=geometry.typesize,
        flags=geometry.flags,
    )
    lane.launch(
        "gz_blosc_pack",
        -(-rows * 32 // threads),
        threads,
        **common,
        streams=np.frombuffer(held or b"\0", np.uint8),
        shuffled=np.frombuffer(b"".join(one + b"\xee" * 3 for one in shuffled), np.uint8),
        plain=np.frombuffer(b"".join(one + b"\xee" for one in plain), np.uint8),
        stream_pitch=stream_pitch,
        shuffled_pitch=nbytes + 3,
        plain_pitch=nbytes + 1,
        rows=rows,
    )
    made = np.frombuffer(download(lane, containers), np.uint8).reshape(count, pitch)
    ends = np.frombuffer(download(lane, nbytes_out), np.int64).tolist()
    lane.reset()
    assert all((row[end:] == UNTOUCHED).all() for row, end in zip(made, ends, strict=True))
    return [row[:end].tobytes() for row, end in zip(made, ends, strict=True)]


def expected(geometry: Geometry, plain: bytes, shuffled: bytes, streams: Sequence[bytes | int]) -> bytes:
    """The same, one piece behind the other."""
    nbytes, blocksize, typesize, flags = geometry
    starts, body = [], b""
    begins = {block.start for block in geometry.blocks}
    for share, stream in zip(geometry.shares, streams, strict=True):
        stored = stream if isinstance(stream, bytes) else b""
        if not 0 < len(stored) < len(share):
            stored = shuffled[share.start : share.stop]
        if share.start in begins:
            starts.append(16 + 4 * len(geometry.blocks) + len(body))
        body += struct.pack("<i", len(stored)) + stored
    body = struct.pack(f"<{len(starts)}i", *starts) + body
    if len(body) >= nbytes:
        flags, body = flags | MEMCPYED, plain
    return struct.pack("<4B3i", 2, 1, flags, typesize, nbytes, blocksize, 16 + len(body)) + body


GEOMETRIES = [
    Geometry(1, 1, 1),
    Geometry(40, 40, 4),
    Geometry(1000, 1000, 4),
    Geometry(1024, 512, 4),
    Geometry(1025, 512, 4),
    Geometry(5000, 512, 4, LZ4 << 5 | UNSPLIT),
    Geometry(5000, 768, 3),
    Geometry(9999, 2048, 16),
    Geometry(9999, 3400, 17),
    Geometry(3000, 700, 255),
    Geometry(40000, 512, 4),
    Geometry(40000, 128, 1),
]


@pytest.mark.parametrize("order", DEVICES)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_byte_by_byte(geometry: Geometry, order: str) -> None:
    """Streams of any size, none, too large, or as large as their share; plain chunks among the others."""
    rng, nbytes = np.random.default_rng(geometry.nbytes), geometry.nbytes
    plain, shuffled, streams = [], [], []
    for chunk in range(4):
        plain.append(noise(nbytes, 2 * chunk))
        shuffled.append(noise(nbytes, 2 * chunk + 1))
        for share in geometry.shares:
            most = len(share)
            size = int(rng.choice([0, -1, 1, most // 9, most // 2, most - 1, most, most + 5]))
            if chunk == 1:
                size = -1  # all of them: more than the chunk has
            streams.append(rng.bytes(size) if size >= 0 else size)
    per_chunk = len(geometry.shares)
    wanted = [
        expected(geometry, plain[k], shuffled[k], streams[k * per_chunk : (k + 1) * per_chunk])
        for k in range(4)
    ]
    assert wanted[1][2] & MEMCPYED
    assert packed(geometry, plain, shuffled, streams, order) == wanted
    assert packed(geometry, plain, shuffled, streams, order, pitch=nbytes + 16, threads=32) == wanted
    assert packed(geometry, plain, shuffled, streams, order, pitch=-(-nbytes // 16) * 16 + 16) == wanted


@pytest.mark.parametrize("order", DEVICES)
def test_when_it_is_worth_it(order: str) -> None:
    """A container as large as the chunk and a header is none; one byte less is one."""
    geometry = Geometry(4096, 1024, 4)
    plain, shuffled, shares = noise(4096, 1), noise(4096, 2), geometry.shares
    head = 4 * 4 + 4 * len(shares)
    for less in (-1, 0, 1, 2):
        sizes = [len(share) - 1 for share in shares]
        sizes[5] -= head + less - len(shares)
        streams = [noise(size, k) for k, size in enumerate(sizes)]
        wanted = expected(geometry, plain, shuffled, streams)
        assert len(wanted) == 4096 + 16 - max(less, 0)
        assert bool(wanted[2] & MEMCPYED) == (less <= 0)
        assert packed(geometry, [plain], [shuffled], streams, order) == [wanted]


def test_nothing() -> None:
    """As c-blosc has it."""
    made = packed(Geometry(0, 1, 4, LZ4 << 5 | UNSPLIT | BYTE_SHUFFLED), [b""], [b""], [], threads=64)
    assert made == [bytes(blosc.compress(b"", b"lz4", 5, 1, 0, 4))]


def shuffled_as_blosc_does(geometry: Geometry, plain: bytes) -> bytes:
    """The bytes of each block's whole items, first by first."""
    size, made = geometry.typesize, b""
    for block in geometry.blocks:
        part = np.frombuffer(plain[block.start : block.stop], np.uint8)
        whole = len(part) // size * size
        made += part[:whole].reshape(-1, size).T.tobytes() + part[whole:].tobytes()
    return made


def read(geometry: Geometry, container: bytes, plain: bytes, shuffle: int, order: str) -> None:
    """c-blosc has it as it is meant, and so has the device."""
    nbytes, blocksize, typesize, _ = geometry
    assert blosc._cbuffer_sizes(container) == (nbytes, len(container), blocksize)
    stated = blosc._cbuffer_metainfo(container)
    assert (stated[0], stated[1], bool(stated[2])) == (typesize, shuffle, bool(container[2] & MEMCPYED))
    assert blosc.cbuffer_complib(container) == "LZ4"
    assert bytes(blosc.decompress(container)) == plain
    assert on_device(Blosc(), [container], nbytes, order) == [plain]


@pytest.mark.parametrize("order", DEVICES)
@pytest.mark.parametrize("typesize", [1, 2, 4, 8, 16, 17])
def test_c_blosc_reads_them(typesize: int, order: str) -> None:
    """Streams of the library, shuffled or not, in blocks that are split or not, with something left over."""
    sizes = (4096 * typesize, 2048 * typesize), (10007, 3000 // typesize * typesize), (200, 200)
    for nbytes, blocksize in sizes:
        for flags in (0, BYTE_SHUFFLED, UNSPLIT | BYTE_SHUFFLED):
            geometry = Geometry(nbytes, blocksize, typesize, LZ4 << 5 | flags)
            plain = list(values(nbytes))
            shuffled = [shuffled_as_blosc_does(geometry, one) if flags & 1 else one for one in plain]
            streams: list[bytes | int] = [
                bytes(lz4.compress(one[share.start : share.stop]))[4:]
                for one in shuffled
                for share in geometry.shares
            ]
            containers = packed(geometry, plain, shuffled, streams, order)
            shuffle = flags & BYTE_SHUFFLED
            for container, one in zip(containers, plain, strict=True):
                read(geometry, container, one, shuffle, order)
            assert {bool(one[2] & MEMCPYED) for one in containers} == {True, False}


def test_bits() -> None:
    """Bits that c-blosc shuffled itself come back through a container of the same kind."""
    nbytes = 4096
    geometry = Geometry(nbytes, nbytes, 4, LZ4 << 5 | BIT_SHUFFLED | UNSPLIT)
    for plain in list(values(nbytes))[1:]:
        bits = np.unpackbits(np.frombuffer(plain, np.uint8), bitorder="little").reshape(-1, 32)
        shuffled = np.packbits(bits.T, bitorder="little").tobytes()
        stream = bytes(lz4.compress(shuffled))[4:]
        (container,) = packed(geometry, [plain], [shuffled], [stream])
        read(geometry, container, plain, 2, DEVICES[0])


def through_the_device(geometry: Geometry, plain: Sequence[bytes], order: str) -> list[bytes]:
    """Shuffled here; encoded and packed there."""
    shuffled = [shuffled_as_blosc_does(geometry, one) for one in plain]
    parts = [one[share.start : share.stop] for one in shuffled for share in geometry.shares]
    room = max(map(len, parts)) - 1
    blocks = encoded(parts, order, room=room)
    return packed(geometry, plain, shuffled, [-1 if one is None else one for one in blocks], order)


@pytest.mark.parametrize("order", DEVICES)
def test_encoded_on_the_device(order: str) -> None:
    """From end to end, and hardly larger than c-blosc makes them."""
    geometry = Geometry(40000, 16384, 4, LZ4 << 5 | BYTE_SHUFFLED)
    rng = np.random.default_rng(3)
    walk = (np.cumsum(rng.integers(-300, 301, 10000)) + 500).astype("<i4").tobytes()
    plain = [walk, mixture(40000), noise(40000), bytes(40000)]
    found = through_the_device(geometry, plain, order)
    for container, one in zip(found, plain, strict=True):
        read(geometry, container, one, 1, order)
        library = blosc.compress(one, b"lz4", 5, 1, 0, 4)  # in one block
        assert len(container) <= 1.03 * len(library) + 100
    assert found == through_the_device(geometry, plain, DEVICES[0])


def test_streams_without_room() -> None:
    """A share of which the encoder makes nothing is stored as it is."""
    geometry = Geometry(2000, 1000, 1)
    plain = noise(1000) + bytes(1000)
    (container,) = through_the_device(geometry, [plain], DEVICES[0])
    read(geometry, container, plain, 0, DEVICES[0])
    assert 1000 < len(container) < 1100
    assert bound(1000) > 1000


@settings(max_examples=40)
@given(
    nbytes=st.integers(1, 4000),
    blocksize=st.integers(1, 4000),
    typesize=st.integers(1, 20),
    unsplit=st.booleans(),
    kinds=st.lists(st.integers(0, 8), min_size=1, max_size=3),
    order=st.sampled_from(DEVICES),
)
def test_any_geometry(
    nbytes: int, blocksize: int, typesize: int, unsplit: bool, kinds: list[int], order: str
) -> None:
    """What comes out is what went in."""
    blocksize = min(blocksize, nbytes)
    geometry = Geometry(nbytes, blocksize, typesize, LZ4 << 5 | BYTE_SHUFFLED | unsplit * UNSPLIT)
    assume(blocksize % geometry.splits == 0)
    plain = [[*values(nbytes), mixture(nbytes)][kind] for kind in kinds]
    for container, one in zip(through_the_device(geometry, plain, order), plain, strict=True):
        assert bytes(blosc.decompress(container)) == one
        assert on_device(Blosc(), [container], nbytes, order) == [one]
