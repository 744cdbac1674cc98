"""What a Blosc header may say, and what is refused before c-blosc sees it."""

from __future__ import annotations

import contextlib
import struct
import threading

import numcodecs
import numpy as np
import pytest

from gpuzarr.codecs import blosc as blosc_codec
from gpuzarr.codecs import blosc_header as module
from gpuzarr.codecs.base import ChunkSpec, as_bytes
from gpuzarr.codecs.blosc import Blosc
from gpuzarr.codecs.blosc_header import read_header
from gpuzarr.errors import ArgumentError, ChunkError, MetadataError, UnsupportedError

VALUES = (np.arange(3000) // 7).astype("<i4")
SPEC = ChunkSpec.of(VALUES.shape, VALUES.dtype)
ONE = numcodecs.Blosc("lz4", 5, 1).encode(VALUES)
MANY = numcodecs.Blosc("lz4", 5, 1, 256).encode(VALUES)
RAW = numcodecs.Blosc("lz4", 0, 1).encode(VALUES)


def changed(chunk: bytes, form: str, offset: int, value: int) -> bytes:
    damaged = bytearray(chunk)
    struct.pack_into(form, damaged, offset, value)
    return bytes(damaged)


@pytest.mark.parametrize("chunk", [ONE, MANY, RAW])
def test_header_is_what_numcodecs_reads(chunk: bytes) -> None:
    header = read_header(as_bytes(chunk))
    nbytes, cbytes, blocksize = numcodecs.blosc._cbuffer_sizes(chunk)
    typesize, shuffle, memcpyed = numcodecs.blosc._cbuffer_metainfo(chunk)
    assert (header.nbytes, header.cbytes, header.blocksize, header.typesize) == (
        nbytes,
        cbytes,
        blocksize,
        typesize,
    )
    assert bool(header.flags & module.MEMCPYED) == bool(memcpyed)
    assert bool(header.flags & module.BYTE_SHUFFLED) == (shuffle == 1)
    assert header.inner == 1


LIES = [
    (ONE[:15], "cannot hold a Blosc header"),
    (changed(ONE, "<B", 0, 3), "format 3"),
    (changed(ONE, "<B", 2, ONE[2] | 8), "not a Blosc 1 container"),
    (changed(ONE, "<B", 3, 0), "typesize=0"),
    (changed(ONE, "<i", 4, -1), "nbytes=-1"),
    (changed(ONE, "<i", 4, 0), "nbytes=0"),
    (changed(ONE, "<i", 4, 2**31 - 1), "cannot hold 178957 Blosc blocks"),
    (changed(ONE, "<i", 8, 0), "blocksize=0"),
    (changed(ONE, "<i", 8, 12001), "blocksize=12001"),
    (changed(ONE, "<i", 8, 1), "cannot hold 12000 Blosc blocks"),
    (changed(ONE, "<i", 12, len(ONE) + 1), f"a Blosc container of {len(ONE) + 1} bytes"),
    (changed(ONE, "<i", 12, 15), "a Blosc container of 15 bytes"),
    (changed(ONE, "<i", 16, 0), "a Blosc block starts outside"),
    (changed(ONE, "<i", 16, -5), "a Blosc block starts outside"),
    (changed(ONE, "<i", 16, len(ONE) - 3), "a Blosc block starts outside"),
    (changed(MANY, "<i", 20, 2**31 - 1), "a Blosc block starts outside"),
    (changed(RAW, "<i", 12, len(RAW) - 1), "stored uncompressed"),
    (changed(ONE, "<i", 20, -7), "damaged Blosc blocks"),
]


@pytest.mark.parametrize(("chunk", "message"), LIES)
def test_lies(chunk: bytes, message: str) -> None:
    with pytest.raises(ChunkError, match=message):
        Blosc().decode(chunk, SPEC)


def test_trailing_bytes_are_not_read() -> None:
    assert bytes(Blosc().decode(ONE + b"behind", SPEC)) == VALUES.tobytes()


def test_snappy_is_named() -> None:
    snappy = changed(ONE, "<B", 2, ONE[2] & 0x1F | 2 << 5)
    with pytest.raises(UnsupportedError, match="snappy"):
        Blosc().decode(snappy, SPEC)
    with pytest.raises(UnsupportedError, match="snappy"):
        Blosc("snappy").encode(VALUES, SPEC)


def test_type_size_is_the_values_unless_given() -> None:
    for typesize, stored in ((None, 4), (2, 2), (1, 1)):
        assert read_header(as_bytes(Blosc(typesize=typesize).encode(VALUES, SPEC))).typesize == stored
    assert read_header(as_bytes(Blosc().encode(VALUES.tobytes(), SPEC.opaque(12000)))).typesize == 1


def test_the_same_bytes_as_numcodecs() -> None:
    for cname in ("lz4", "zstd", "zlib"):
        for number, name in enumerate(("noshuffle", "shuffle", "bitshuffle")):
            expected = numcodecs.Blosc(cname, 3, number).encode(VALUES)
            assert bytes(Blosc(cname, 3, number).encode(VALUES, SPEC)) == expected
            assert bytes(Blosc(cname, 3, name).encode(VALUES, SPEC)) == expected


def test_a_chunk_beyond_int32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blosc_codec, "MAX_NBYTES", 11999)
    with pytest.raises(ArgumentError, match="use smaller chunks"):
        Blosc().encode(VALUES, SPEC)


def test_workers_use_no_threads_of_blosc() -> None:
    """Where blosc's own threads are off, numcodecs takes no lock; off they are outside of the main thread."""
    found: list[bool] = []
    worker = threading.Thread(target=lambda: found.append(numcodecs.blosc._get_use_threads()))
    worker.start()
    worker.join()
    assert found == [False]


@pytest.mark.parametrize(
    "options",
    [
        {"cname": "lzma"},
        {"clevel": 10},
        {"clevel": True},
        {"shuffle": "byteshuffle"},
        {"shuffle": 3},
        {"blocksize": -1},
        {"typesize": 0},
        {"typesize": "4"},
    ],
)
def test_options_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(MetadataError, match=f"{next(iter(options))} .* is not one of Blosc's"):
        Blosc.from_config(options)


def test_documents() -> None:
    """v2 has a number and no type size, v3 a name and one: each comes back as it was."""
    v2 = {"cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}
    v3 = {"cname": "zstd", "clevel": 1, "shuffle": "bitshuffle", "typesize": 4, "blocksize": 0}
    assert Blosc.from_config(v2).to_config() == v2
    assert Blosc.from_config(v3).to_config() == v3


def test_a_part_of_a_chunk() -> None:
    """Some blocks are decoded alone, and give what they give with all the others; at most the whole is
    decoded, never less than is asked for."""
    rng, alone = np.random.default_rng(0), 0
    for trial in range(300):
        size, blocksize = int(rng.choice([1, 2, 4, 8, 17])), int(rng.choice([256, 1000, 4096]))
        nbytes = int(rng.integers(1, 30)) * 500 // size * size or size
        plain = rng.integers(0, rng.choice([2, 256]), nbytes, np.uint8)
        cname = str(rng.choice(["lz4", "zstd", "blosclz", "zlib"]))
        stored = numcodecs.blosc.compress(plain, cname.encode(), 5, int(rng.integers(3)), blocksize, size)
        begin = int(rng.integers(nbytes))
        end = int(rng.integers(begin, nbytes)) + 1
        spec, out = ChunkSpec((nbytes,), np.dtype("u1"), nbytes), np.full(nbytes, 0xA5, np.uint8)
        done = Blosc().decode_part(stored, spec, out, begin, end)
        alone += done
        if done:
            assert np.array_equal(out[begin:end], plain[begin:end]), trial
        else:
            assert (out == 0xA5).all()
    assert alone > 100


@pytest.mark.parametrize("begin", [0, 5000, 11_000])
def test_a_part_of_a_damaged_chunk(begin: int) -> None:
    """A container that lies of itself is refused, whatever is asked of it; other damage gives an error or
    bytes, as with the whole."""
    plain = np.tile(np.arange(60, dtype=np.uint8), 200)
    whole = bytearray(numcodecs.blosc.compress(plain, b"lz4", 5, 1, 1000, 4))
    spec, rng = ChunkSpec((12_000,), np.dtype("u1"), 12_000), np.random.default_rng(1)
    for _ in range(400):
        stored = whole.copy()
        for at in rng.integers(0, len(stored), 3):
            stored[at] = rng.integers(256)
        out = np.zeros(12_000, np.uint8)
        with contextlib.suppress(ChunkError):
            Blosc().decode_part(
                bytes(stored[: rng.integers(len(stored) // 2, len(stored) + 1)]),
                spec,
                out,
                begin,
                begin + 900,
            )
