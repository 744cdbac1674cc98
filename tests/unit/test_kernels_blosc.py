"""Blosc containers on the simulated device against numcodecs, in the four thread orders."""

from __future__ import annotations

import random
import struct
from collections import Counter
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from numcodecs import blosc

import gpuzarr
from gpuzarr import ReadStats
from gpuzarr.codecs import blosc_header as module
from gpuzarr.codecs.base import Batch, ChunkSpec, Stored
from gpuzarr.codecs.blosc import Blosc, Notes
from gpuzarr.codecs.chain import bind
from gpuzarr.codecs.crc32c import CRC32C
from gpuzarr.codecs.lz4 import LZ4
from gpuzarr.codecs.shuffle import Shuffle
from gpuzarr.device.sim import SimDevice
from gpuzarr.errors import ChunkError
from tests.devices import DEVICES
from tests.fuzz_kernels import (
    blosclz_literals,
    blosclz_match,
    container,
    lz4_sequence,
    on_device,
    on_host,
    random_block,
    values,
    violations,
)
from tests.unit.test_kernels_lz4 import stored

INNER = ["blosclz", "lz4", "lz4hc", "zlib", "zstd"]
TYPESIZES = [1, 2, 3, 4, 7, 8, 16, 17, 32, 255]


def inspected(chunk: bytes, nbytes: int) -> Any:
    """The chunk's notes; None if it is left to the host."""
    data, size = np.frombuffer(chunk, np.uint8), np.array([len(chunk)], np.int64)
    notes, taken = Blosc("zstd").inspect(Stored(data, size * 0, size), ChunkSpec((), np.dtype("u1"), nbytes))
    return Notes(*notes[0].tolist()) if taken[0] else None


@pytest.mark.parametrize("order", DEVICES)
@pytest.mark.parametrize("cname", INNER)
@pytest.mark.parametrize("typesize", TYPESIZES)
def test_as_numcodecs(order: str, cname: str, typesize: int) -> None:
    """Every shuffle, blocks of any size, what is left over, sizes that are no whole items."""
    sizes = (
        (1, 0),
        (15, 0),
        (16, 0),
        (17, 0),
        (127, 0),
        (130, 0),
        (4096, 0),
        (5003, 256),
        (20011, 3000),
        (9000, 4097),
    )
    for nbytes, blocksize in sizes:
        plain = list(values(nbytes, typesize))
        for shuffle in (0, 1, 2):
            chunks = [blosc.compress(one, cname.encode(), 5, shuffle, blocksize, typesize) for one in plain]
            assert on_device(Blosc(cname), chunks, nbytes, order, nbytes % 3) == plain


def test_the_cases_are_many() -> None:
    """What is compressed above has all the forms there are."""
    seen: Counter[str] = Counter()
    for typesize in TYPESIZES:
        for nbytes, blocksize in ((130, 0), (5003, 256), (20011, 3000)):
            for plain in values(nbytes, typesize):
                chunk = blosc.compress(plain, b"lz4", 5, 2, blocksize, typesize)
                note = inspected(chunk, nbytes)
                if note is None:
                    seen["left to the host"] += 1
                    continue
                items = (nbytes % note.blocksize or note.blocksize) // note.typesize
                seen["memcpyed"] += note.inner < 0
                seen["split"] += note.splits > 1
                seen["left over"] += nbytes % note.blocksize > 0
                seen["bits left as they are"] += note.inner >= 0 and items % 8 > 0
                seen["not whole items"] += nbytes % note.blocksize % note.typesize > 0
    assert min(seen.values()) > 5
    assert len(seen) == 6


@pytest.mark.parametrize("order", DEVICES)
@pytest.mark.parametrize("shuffle", [1, 2])
@pytest.mark.parametrize("typesize", [1, 2, 3, 4, 8, 12, 16, 64, 200])
def test_shuffles_of_many_tiles(order: str, shuffle: int, typesize: int) -> None:
    """Blocks larger than what one block of threads takes; the last of them with items in eights or not."""
    for nbytes in (40000, 40000 - 8 * typesize, 40000 - 3 * typesize, 39999):
        plain = list(values(nbytes))[5:]
        chunks = [blosc.compress(one, b"lz4", 1, shuffle, 32768, typesize) for one in plain]
        assert all(chunk[2] & module.MEMCPYED == 0 for chunk in chunks)
        assert on_device(Blosc(), chunks, nbytes, order, nbytes % 2) == plain


@pytest.mark.parametrize("order", DEVICES)
def test_containers_of_all_kinds_in_one_batch(order: str) -> None:
    """Each describes itself: inner codec, shuffle, sizes of items and blocks."""
    nbytes, chunks, plain = 6000, [], []
    for i, one in enumerate(values(nbytes)):
        for cname in INNER:
            for blocksize in (0, 129, 1000):
                plain.append(one)
                chunks.append(blosc.compress(one, cname.encode(), i, i % 3, blocksize, TYPESIZES[i]))
    mixed = [(chunks[i], plain[i]) for i in random.Random(3).sample(range(len(chunks)), len(chunks))]
    found = on_device(Blosc("zstd"), [chunk for chunk, _ in mixed], nbytes, order)
    assert found == [one for _, one in mixed]
    assert {note.inner for chunk, _ in mixed if (note := inspected(chunk, nbytes))} == {-1, 0, 1, 3, 4}
    zstd = blosc.compress(mixed[0][1], b"zstd", 5, 0, 0, 4)
    host = Stored(np.frombuffer(zstd, np.uint8), np.zeros(1, np.int64), np.array([len(zstd)], np.int64))
    _, taken = Blosc("lz4").inspect(host, ChunkSpec((), np.dtype("u1"), nbytes))
    assert not taken[0]  # it has no scratch for it


def test_containers_of_older_versions() -> None:
    """Before there was a flag for it, blocks of small items were split, whatever the inner codec."""
    plain = [one for one in values(4096) if blosc.compress(one, b"lz4", 5, 1, 1024, 4)[2] & 0x12 == 0]
    chunks = [blosc.compress(one, b"lz4", 5, 1, 1024, 4) for one in plain]
    assert len(plain) > 4
    unsplit = [bytes([*chunk[:2], chunk[2] | 0x10, *chunk[3:]]) for chunk in chunks]
    assert on_device(Blosc(), [*chunks, *unsplit], 4096) == [*plain, *["fault"] * len(unsplit)]
    assert all(isinstance(on_host(Blosc(), one, 4096), str) for one in unsplit)


@pytest.mark.parametrize("order", DEVICES)
@pytest.mark.parametrize(
    "distance", [1, 2, 3, 7, 8, 9, 31, 33, 64, 65, 255, 256, 257, 8191, 8192, 8193, 8447, 70000]
)
def test_blosclz_matches(order: str, distance: int) -> None:
    """Near and far ones, short and long ones."""
    before = np.random.default_rng(distance).integers(0, 256, distance + 3, dtype=np.uint8).tobytes()
    for length in (3, 8, 9, 10, 33, 64, 65, 263, 264, 265, 519, 3000):
        stream = blosclz_literals(before) + blosclz_match(distance, length) + blosclz_literals(b"end")
        plain = bytearray(before)
        for _ in range(length):
            plain.append(plain[-distance])
        plain += b"end"
        if len(stream) == len(plain):  # it would be stored as it is
            stream, plain = stream + blosclz_literals(b"!"), plain + b"!"
        chunk = container(stream, len(plain), module.BLOSCLZ)
        assert on_device(Blosc(), [chunk], len(plain), order, length % 2) == [bytes(plain)]
        assert on_host(Blosc(), chunk, len(plain)) == bytes(plain)


def test_blosclz_is_refused_where_c_blosc_refuses() -> None:
    rng, taken = random.Random(11), 0
    for turn in range(150):
        one = random_block(rng)
        if one.codec != Blosc("blosclz") or one.nbytes < 1:
            continue
        (device,) = on_device(one.codec, [one.chunk], one.nbytes, DEVICES[turn % len(DEVICES)])
        host = on_host(one.codec, one.chunk, one.nbytes)
        assert device == host or (isinstance(device, str) and isinstance(host, str))
        taken += isinstance(host, bytes)
    assert taken > 20


@pytest.mark.parametrize("order", DEVICES)
def test_damage(order: str) -> None:
    """Sizes and starts that lead out of the container: an error or a fault; its neighbours are whole."""
    plain = list(values(5000))[7]
    whole = blosc.compress(plain, b"lz4", 5, 1, 1024, 2)
    start = struct.unpack_from("<i", whole, 20)[0]
    wrong = [whole[:length] for length in (0, 15, 16, 17, 40, len(whole) - 1)]
    for offset in (4, 8, 12, 16, 20, 24, start):
        for value in (0, -1, 15, 16, 39, len(whole) - 3, len(whole), 2**31 - 1, -(2**31)):
            wrong.append(whole[:offset] + struct.pack("<i", value) + whole[offset + 4 :])
    wrong = [one for one in wrong if isinstance(on_host(Blosc(), one, 5000), str)]
    mixed = [item for one in wrong for item in (one, whole)]
    found = on_device(Blosc(), mixed, 5000, order)
    assert all(isinstance(one, str) for one in found[::2])
    assert found[1::2] == [plain] * len(wrong)
    assert len(wrong) > 40


@pytest.mark.parametrize("order", DEVICES)
def test_what_lies_behind_is_not_read(order: str) -> None:
    """Streams and containers that were cut off, with the rest of them there all the same, or the end of the
    arena."""
    near = blosclz_literals(b"abcdefgh" * 5) + blosclz_match(7, 600) + blosclz_match(2, 4)
    far = blosclz_literals(bytes(range(256)) * 33) + blosclz_match(8300, 9) + blosclz_match(8200, 300)
    for stream, nbytes in ((near, 644), (far, 256 * 33 + 309)):
        whole = stream + blosclz_literals(b"end")
        assert isinstance(on_device(Blosc(), [container(whole, nbytes + 3, 0)], nbytes + 3, order)[0], bytes)
        for cut in (*range(40), *range(len(whole) - 20, len(whole))):
            chunk = container(whole[:cut], nbytes + 3, module.BLOSCLZ)
            for behind in (whole[cut:], b""):
                assert on_device(Blosc(), [chunk], nbytes + 3, order, behind=behind) == ["fault"], cut
    whole = container(lz4_sequence(b"abcdefg", 3, 30) + lz4_sequence(b"12345"), 42, 1)
    assert isinstance(on_device(Blosc(), [whole], 42, order)[0], bytes)
    for cut in range(20, len(whole)):
        chunk = whole[:12] + struct.pack("<i", cut) + whole[16:cut]
        assert isinstance(on_device(Blosc(), [chunk], 42, order, behind=whole[cut:])[0], str), cut


def test_blocks_do_not_start_among_the_starts() -> None:
    """There a start may be read as the size of a stream that is right."""
    stream = lz4_sequence(b"abcdefg", 3, 14) + lz4_sequence(b"12345")
    assert len(stream) == 16
    chunk = bytes([2, 1, 0x10 | 1 << 5, 1]) + struct.pack("<4i", 26, 26, 36, 16) + stream
    assert on_device(Blosc(), [chunk], 26) == ["fault"]
    assert isinstance(on_host(Blosc(), chunk, 26), str)


def test_blocks_that_their_streams_do_not_fill() -> None:
    """c-blosc would leave bytes of the result unwritten."""
    chunk = bytearray(blosc.compress(bytes(3000), b"lz4", 5, 0, 1000, 4))
    struct.pack_into("<i", chunk, 8, 1001)
    with pytest.raises(ChunkError, match="Blosc blocks of 1001 bytes in 4 streams"):
        Blosc().decode(bytes(chunk), ChunkSpec((), np.dtype("u1"), 3000))
    assert "1001" in str(on_device(Blosc(), [bytes(chunk)], 3000)[0])


def test_other_versions_of_an_inner_codec_are_the_hosts_to_refuse() -> None:
    chunk = bytearray(blosc.compress(bytes(3000), b"lz4", 5, 0, 0, 4))
    chunk[1] = 2
    assert inspected(bytes(chunk), 3000) is None
    assert "damaged Blosc blocks" in str(on_device(Blosc(), [bytes(chunk)], 3000)[0])


def test_batches_have_to_be_inspected() -> None:
    lane = SimDevice("sim").lane()
    spec = ChunkSpec((), np.dtype("u1"), 3000)
    chunk = blosc.compress(bytes(3000), b"lz4", 5, 0, 0, 4)
    batch = Batch(
        lane.upload(np.frombuffer(chunk, np.uint8)), np.zeros(1, np.int64), np.array([len(chunk)], np.int64)
    )
    with pytest.raises(ChunkError, match="not inspected"):
        Blosc().decode_batch(batch, spec, lane)
    notes = np.array([inspected(chunk, 3000)], np.int64)
    shorter = Batch(batch.data, batch.offset, batch.nbytes - 1, notes)
    with pytest.raises(ChunkError, match="larger than its chunk"):
        Blosc().decode_batch(shorter, spec, lane)


def test_scratch_is_enough() -> None:
    """The arena never holds more than the engine counts on."""
    for nbytes, blocksize, typesize in ((40000, 128, 1), (40000, 2048, 16), (300, 0, 4), (70000, 0, 2)):
        for plain in values(nbytes):
            device = SimDevice("sim")
            cname = ("lz4", "zlib" if blocksize == 128 else "zstd", "zlib")[plain[0] % 3]
            chunk = blosc.compress(plain, cname.encode(), 5, 2, blocksize, typesize)
            spec = ChunkSpec((), np.dtype("u1"), nbytes)
            lane = device.lane()
            arena = lane.upload(np.frombuffer(chunk, np.uint8))
            before = lane.nbytes
            notes = np.array([inspected(chunk, nbytes)], np.int64)
            sizes = np.array([len(chunk)], np.int64)
            Blosc(cname).decode_batch(Batch(arena, np.zeros(1, np.int64), sizes, notes), spec, lane)
            columns = 40 * 256  # what each launch takes for its columns, and the alignment of allocations
            assert lane.nbytes - before <= nbytes + Blosc(cname).scratch(spec) + columns


# ---- where blosc may stand


def test_positions_in_a_chain() -> None:
    """The host sees the container before it crosses: behind a checksum, not behind what moves bytes."""
    dtype = np.dtype("<i4")
    blosc_last = bind((Blosc(), CRC32C()), (100,), dtype)
    assert (blosc_last.device_from, blosc_last.host_reasons) == (0, (None, None))
    moved = bind((Blosc(), LZ4()), (100,), dtype)
    assert (moved.stages[0].name, moved.device_from) == ("numcodecs.lz4", 1)
    behind = bind((Shuffle(4), Blosc()), (100,), dtype)
    assert behind.device_from == 0
    covered = bind((Blosc(), Shuffle(1), CRC32C()), (100,), dtype)
    assert covered.device_from == 2
    unsized = ChunkSpec((), np.dtype("u1"), None)
    assert Blosc().host_only(unsized) == "size known only from the stream"
    assert Blosc().host_only(unsized.opaque(0)) == "no bytes"
    assert Blosc("snappy").host_only(unsized.opaque(9)) == "snappy inside has no device form"


# ---- arrays

CODECS = zarr.codecs
GRID = (
    (np.cumsum(np.random.default_rng(1).integers(-3, 4, (40, 3000)), axis=1) + 900)
    .astype("<u2")
    .reshape(60, 40, 50)
)


def chunk_bytes(objects: dict[str, bytes]) -> int:
    return sum(len(one) for key, one in objects.items() if key[0].isdigit() or key.startswith("c/"))


@pytest.mark.parametrize("cname", INNER)
@pytest.mark.parametrize(
    "options",
    [
        {"compressors": "blosc"},
        {"compressors": "blosc", "chunks": (7, 40, 33)},
        {"compressors": "blosc", "shards": (32, 32, 32)},
        {"compressors": "blosc crc32c", "shards": (32, 32, 32)},
        {"compressors": "blosc crc32c"},
        {"compressors": "blosc", "serializer": CODECS.BytesCodec(endian="big")},
        {"zarr_format": 2, "compressors": "blosc", "filters": None},
        {"zarr_format": 2, "compressors": "blosc", "filters": [numcodecs.Delta("<u2")], "order": "F"},
    ],
)
def test_arrays(device: str, cname: str, options: dict[str, Any]) -> None:
    """Compressed bytes cross, and parts of the array are what NumPy cuts out."""
    crc = [CODECS.Crc32cCodec()] if "crc32c" in options["compressors"] else []
    made: Any = [CODECS.BloscCodec(cname=cname, shuffle="bitshuffle" if crc else "shuffle"), *crc]
    if "zarr_format" in options:
        made = numcodecs.Blosc(cname, 5, 1)
    objects = stored(GRID, **{"chunks": (16, 16, 16), "fill_value": 0, **options, "compressors": made})
    array, stats = gpuzarr.open_array(objects, device=device), ReadStats()
    host = lambda found: found if isinstance(found, np.ndarray) else found.get()  # noqa: E731
    assert (host(array.read(stats=stats)) == GRID).all()
    for key in (np.s_[3:40, ::7, 5:], np.s_[-1, 5, :], np.s_[::9]):
        assert (host(array[key]) == GRID[key]).all()
    if device != "cpu":
        assert stats.bytes_crossed < 1.05 * chunk_bytes(objects) < 0.8 * GRID.nbytes
        assert {stage.place for stage in array.explain().stages} == {device}
        assert "those with snappy or very many blocks inside on the host" in str(array.explain())


def test_inner_codecs_of_all_kinds_in_one_array() -> None:
    """Each chunk goes to the device as far as it can: those with zstd or zlib inside cross decoded."""
    objects = stored(
        GRID, chunks=(16, 16, 16), zarr_format=2, filters=None, compressors=numcodecs.Blosc("lz4")
    )
    for i, key in enumerate(sorted(key for key in objects if key[0].isdigit())):
        plain = numcodecs.Blosc().decode(objects[key])
        other = ("lz4", "zstd", "blosclz", "zlib", "lz4hc")[i % 5]
        objects[key] = bytes(blosc.compress(plain, other.encode(), i % 10, i % 3, 0, 2))
        if i % 11 == 0:
            del objects[key]
    array, stats = gpuzarr.open_array(objects, device=DEVICES[0]), ReadStats()
    expected = gpuzarr.open_array(objects, device="cpu")[...]
    assert (array.read(stats=stats).get() == expected).all()
    assert (stats.waves, stats.filled) == (2, 5)
    assert chunk_bytes(objects) < stats.bytes_crossed < 0.8 * stats.chunks * 8192
    with gpuzarr.configured(wave_nbytes=200_000):
        assert (array[...].get() == expected).all()


@pytest.mark.parametrize(("at", "said"), [(0, "not a Blosc 1 container"), (-1, "damaged Blosc blocks")])
def test_a_damaged_array_names_its_chunk(at: int, said: str) -> None:
    """What the header says is refused before it crosses; what the kernels find, after the wave."""
    objects = stored(GRID, chunks=(16, 16, 16), compressors=CODECS.BloscCodec(cname="lz4", shuffle="shuffle"))
    damaged = bytearray(objects["c/1/2/0"])
    if at:
        struct.pack_into("<i", damaged, struct.unpack_from("<i", damaged, 16)[0], 1 << 20)
    else:
        damaged[0] = 9
    objects["c/1/2/0"] = bytes(damaged)
    with pytest.raises(ChunkError, match=rf"{said}.*chunk c/1/2/0, codec blosc"):
        gpuzarr.open_array(objects, device=DEVICES[0])[...]


def test_launches_do_not_grow_with_chunks() -> None:
    """One launch an operation for all chunks of a wave."""
    device = SimDevice.named("sim")
    objects = stored(GRID, chunks=(8, 8, 8), compressors=CODECS.BloscCodec(cname="lz4", shuffle="shuffle"))
    device.counters = type(device.counters)()
    gpuzarr.open_array(objects, device=DEVICES[0])[...]
    assert device.counters.kernels == ["gz_blosc_walk", "gz_lz4", "gz_unshuffle"]


def test_fuzz() -> None:
    """A few hundred chunks that lie; `python -m tests.fuzz_kernels` has more."""
    tally: Counter[str] = Counter()
    assert list(violations(600, 3, tally)) == []
    assert (
        min(
            tally[kind] for kind in ("blosc taken", "blosc refused", "numcodecs.lz4 refused", "shard refused")
        )
        > 10
    )
