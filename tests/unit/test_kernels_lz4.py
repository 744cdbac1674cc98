"""LZ4 blocks on the simulated device against numcodecs, in the four thread orders."""

from __future__ import annotations

import random
import struct

import numcodecs
import numpy as np
import pytest
import zarr

import gpuzarr
from gpuzarr import ReadStats
from gpuzarr.codecs.base import ChunkSpec
from gpuzarr.codecs.blosc import Blosc
from gpuzarr.codecs.lz4 import LZ4
from gpuzarr.errors import ChunkError
from tests.devices import DEVICES
from tests.fuzz_kernels import (
    Sample,
    container,
    from_nowhere,
    lz4_sequence,
    on_device,
    on_host,
    random_block,
    values,
)

ORDER = list(DEVICES)


@pytest.mark.parametrize("order", DEVICES)
@pytest.mark.parametrize("nbytes", [1, 2, 5, 12, 13, 16, 17, 31, 33, 64, 65, 300, 1000, 5000, 20011])
def test_as_numcodecs(order: str, nbytes: int) -> None:
    plain = list(values(nbytes))
    for acceleration in (1, 20):
        chunks = [bytes(numcodecs.LZ4(acceleration).encode(one)) for one in plain]
        assert on_device(LZ4(), chunks, nbytes, order, nbytes % 4) == plain


def chunk(*sequences: tuple[bytes, int, int], last: bytes) -> tuple[bytes, bytes]:
    """An LZ4 chunk of these literals, offsets and lengths; and what it stands for, byte by byte."""
    block, plain = b"", bytearray()
    for literals, offset, length in sequences:
        block += lz4_sequence(literals, offset, length)
        plain += literals
        for _ in range(length):
            plain.append(plain[-offset])
    plain += last
    return struct.pack("<i", len(plain)) + block + lz4_sequence(last), bytes(plain)


@pytest.mark.parametrize("order", DEVICES)
@pytest.mark.parametrize("offset", [*range(1, 20), 31, 32, 33, 63, 64, 65, 127, 128, 1000, 4095])
def test_matches_of_every_kind(order: str, offset: int) -> None:
    """Patterns, overlaps and copies of all lengths that are told apart, from aligned and unaligned places."""
    before = np.random.default_rng(offset).integers(0, 256, 4096, dtype=np.uint8).tobytes()
    for length in (4, 18, 19, 20, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129, 273, 274, 1000, 5001):
        stored, plain = chunk((before, offset, length), (b"a", 1, 4), last=b"123456789012")
        assert on_device(LZ4(), [stored], len(plain), order, length % 3) == [plain]
        assert bytes(numcodecs.LZ4().decode(stored)) == plain


@pytest.mark.parametrize("order", DEVICES)
@pytest.mark.parametrize("run", [0, 1, 14, 15, 16, 31, 32, 33, 47, 48, 64, 269, 270, 271, 525, 9000])
def test_runs_of_literals(order: str, run: int) -> None:
    literals = np.random.default_rng(run).integers(0, 256, run, dtype=np.uint8).tobytes()
    stored, plain = chunk((b"start", 5, 9), (literals, 4, 6), last=literals + b"123456789012")
    assert on_device(LZ4(), [stored] * 3, len(plain), order, run % 4) == [plain] * 3


def test_the_farthest_match() -> None:
    before = np.random.default_rng(0).integers(0, 256, 65535, dtype=np.uint8).tobytes()
    stored, plain = chunk((before, 65535, 70000), last=b"12345678")
    assert on_device(LZ4(), [stored], len(plain)) == [plain]


@pytest.mark.parametrize("order", DEVICES)
def test_it_refuses_what_numcodecs_refuses(order: str) -> None:
    """Random sequences: matches from before the start, beyond the end, or too near to it; wrong sizes."""
    rng, taken = random.Random(7), 0
    for _ in range(300):
        one = random_block(rng)
        if not isinstance(one.codec, LZ4) or one.codec.host_only(ChunkSpec((), np.dtype("u1"), one.nbytes)):
            continue
        (device,) = on_device(one.codec, [one.chunk], one.nbytes, order)
        host = on_host(one.codec, one.chunk, one.nbytes)
        assert device == (host if isinstance(host, bytes) else "fault")
        taken += isinstance(host, bytes)
    assert taken > 5


@pytest.mark.parametrize("order", DEVICES)
def test_damage(order: str) -> None:
    """Cut off anywhere, overlong, of another size: a fault, and the neighbours are whole."""
    plain = list(values(300))[3]
    whole = bytes(numcodecs.LZ4().encode(plain))
    wrong = [whole[:length] for length in range(len(whole))]
    wrong += [whole + b"\0", struct.pack("<i", 299) + whole[4:], struct.pack("<i", -300) + whole[4:]]
    wrong += [struct.pack("<i", 300) + lz4_sequence(b"a" * 8, 9, 280) + lz4_sequence(b"b" * 12)]
    mixed = [item for one in wrong for item in (one, whole)]
    assert on_device(LZ4(), mixed, 300, order) == ["fault", plain] * len(wrong)


@pytest.mark.parametrize("preamble", [0, 10, 28, 29, 30, 60])
def test_ends_as_numcodecs_takes_them(preamble: int) -> None:
    """What lies near the ends of a block, one by one: the format's rules hold there, but not for short
    sequences far from both ends."""
    blocks: dict[int, list[bytes]] = {}
    for run in range(17):
        for offset in (0, 7, 8):
            for length in (4, 17, 18, 19, 20):
                for last in range(14):
                    stream = lz4_sequence(b"abcdefgh", 8, 4 + preamble)
                    stream += lz4_sequence(b"r" * run, offset, length) + lz4_sequence(b"l" * last)
                    nbytes = 12 + preamble + run + length + last
                    blocks.setdefault(nbytes, []).append(struct.pack("<i", nbytes) + stream)
    taken = refused = 0
    for nbytes, chunks in blocks.items():
        host = [on_host(LZ4(), one, nbytes) for one in chunks]
        device = on_device(LZ4(), chunks, nbytes, ORDER[nbytes % 4])
        assert device == [one if isinstance(one, bytes) else "fault" for one in host]
        taken += sum(isinstance(one, bytes) for one in host)
        refused += sum(isinstance(one, str) for one in host)
    assert min(taken, refused) > 500


@pytest.mark.parametrize("order", DEVICES)
def test_offset_0(order: str) -> None:
    """The format forbids it and the library makes zeros of it: of any length, anywhere a match may be."""
    rng, made = random.Random(5), []
    for preamble in (b"", b"abcdefg"):
        for length in (4, 8, 18, 19, 33, 274):
            for last in (4, 5, 12, 26, 40):
                stream = lz4_sequence(preamble, 0, length) + lz4_sequence(b"l" * last)
                nbytes = len(preamble) + length + last
                made.append(Sample(LZ4(), struct.pack("<i", nbytes) + stream, nbytes))
                made.append(Sample(Blosc("lz4"), container(stream, nbytes, 1), nbytes))
    made += [from_nowhere(rng) for _ in range(20)]
    taken = 0
    for one in made:
        host = on_host(one.codec, one.chunk, one.nbytes)
        (device,) = on_device(one.codec, [one.chunk], one.nbytes, order, one.nbytes % 4)
        assert device == (host if isinstance(host, bytes) else "fault")
        taken += isinstance(host, bytes) and bytes(4) in host
    assert taken > len(made) / 2


@pytest.mark.parametrize("order", DEVICES)
def test_what_lies_behind_is_not_read(order: str) -> None:
    """A chunk that was cut off, with the rest of it there all the same, or with the end of the arena."""
    for sequences in (
        [(b"abcdefgh", 8, 4000), (b"x" * 300, 3, 19)],
        [(b"abcd", 1, 4), (b"e", 2, 6), (b"", 3, 30)],
    ):
        whole, plain = chunk(*sequences, last=b"y" * 20)
        for cut in range(len(whole)):
            for behind in (whole[cut:], b""):
                found = on_device(LZ4(), [whole[:cut]], len(plain), order, behind=behind)
                assert found == ["fault"], cut


def test_a_length_beyond_32_bits() -> None:
    """It must not come round to one that fits."""
    full = (1 << 32) // 255
    length = b"\xff" * full + bytes([(1 << 32) - 255 * full + 100])
    wrong = struct.pack("<i", 115) + b"\xf0" + length + bytes(115)
    assert on_device(LZ4(), [wrong], 115) == ["fault"]


def test_lengths_that_never_end() -> None:
    """Bytes of 255 up to the end, more than any output has."""
    wrong = [
        struct.pack("<i", 1000) + token + b"\xff" * n
        for token in (b"\xf0", b"\x1fa\x01\x00")
        for n in (0, 9, 9000)
    ]
    assert on_device(LZ4(), wrong, 1000) == ["fault"] * len(wrong)


def stored(values: np.ndarray, **options: object) -> dict[str, bytes]:
    held: dict = {}
    array = zarr.create_array(
        zarr.storage.MemoryStore(held), shape=values.shape, dtype=values.dtype, **options
    )
    array[...] = values
    return {key: value.to_bytes() for key, value in held.items()}


def test_arrays() -> None:
    """Compressed bytes cross, in front of another stage or not."""
    grid = (np.arange(40 * 50).reshape(40, 50) // 7).astype("<i4")
    for filters in (None, [numcodecs.Shuffle(4)], [numcodecs.Delta("<i4")]):
        objects = stored(grid, chunks=(16, 16), zarr_format=2, filters=filters, compressors=numcodecs.LZ4())
        array, stats = gpuzarr.open_array(objects, device=DEVICES[0]), ReadStats()
        assert (array.read(stats=stats).get() == grid).all()
        nbytes = sum(len(one) for key, one in objects.items() if key[0].isdigit())
        assert nbytes <= stats.bytes_crossed <= nbytes + 12 * 16
        assert {stage.place for stage in array.explain().stages} == {DEVICES[0]}


def test_a_damaged_array_names_its_chunk() -> None:
    grid = np.zeros((40, 50), "<i4")
    objects = stored(
        grid, chunks=(16, 16), zarr_format=2, compressors=numcodecs.LZ4(), filters=None, fill_value=1
    )
    objects["1.2"] = objects["1.2"][:-1]
    with pytest.raises(ChunkError, match=r"not 1024 bytes in an LZ4 block.*chunk 1\.2, codec"):
        gpuzarr.open_array(objects, device=DEVICES[0])[...]


def test_what_has_no_device_form() -> None:
    unknown = ChunkSpec((), np.dtype("u1"), None)
    assert LZ4().host_only(unknown) == "size known only from the stream"
    assert LZ4().host_only(unknown.opaque(0)) == "0 bytes are no LZ4 block"
    assert LZ4().host_only(unknown.opaque(1)) is None
