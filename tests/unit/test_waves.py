"""How a read onto a device goes: what crosses, how often, and what the host does of it."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr

import gpuzarr
from gpuzarr import ReadStats
from gpuzarr.device import staging as module
from gpuzarr.device.sim import STAGING_NBYTES, Counters, SimDevice
from gpuzarr.device.staging import Staging
from gpuzarr.errors import ChecksumError, ChunkError, LimitError

VALUES = np.cumsum(np.random.default_rng(7).integers(-3, 4, (8, 4096)), axis=1).astype("<i4")


def array_of(chunks: list[bytes | None], compressor: dict[str, Any] | None, device: str, **more: Any) -> Any:
    """An array of one axis in memory, its chunks as given; None: missing."""
    nbytes = VALUES[0].nbytes
    document = {
        "zarr_format": 2,
        "shape": [len(chunks) * nbytes // 4],
        "chunks": [nbytes // 4],
        "dtype": "<i4",
        "compressor": compressor,
        "filters": None,
        "fill_value": -1,
        "order": "C",
        **more,
    }
    objects = {".zarray": json.dumps(document).encode()}
    objects |= {str(i): chunk for i, chunk in enumerate(chunks) if chunk is not None}
    return gpuzarr.open_array(objects, device=device)


def counted(array: Any, **settings: Any) -> tuple[np.ndarray, ReadStats, Counters]:
    """What is read, and what that cost."""
    device, stats = SimDevice.named("sim"), ReadStats()
    device.counters = Counters()
    with gpuzarr.configured(**settings):
        return array.read(stats=stats).get(), stats, device.counters


# ---- crossing


def test_files_are_read_into_staging_memory_and_cross_with_one_copy_a_block(tmp_path: Path) -> None:
    """Not with one a chunk; and a wave is waited for once."""
    values = np.random.default_rng(0).integers(0, 9, (64, 64, 64)).astype("<u2")
    zarr.create_array(
        tmp_path,
        shape=values.shape,
        dtype=values.dtype,
        chunks=(16, 16, 16),
        compressors=zarr.codecs.ZstdCodec(),
    )[...] = values
    stored = sum(file.stat().st_size for file in tmp_path.rglob("c/*/*/*"))
    found, stats, counters = counted(gpuzarr.open_array(tmp_path, device="sim"))
    assert (found == values).all()
    assert (stats.chunks, stats.waves, counters.synchronizes) == (64, 1, 1)
    assert stored <= stats.bytes_crossed <= stored + 16 * 64
    columns = sum(kernel_columns for kernel_columns in (11, 3, 9))  # of gz_streams, gz_verdict, gz_scatter
    assert counters.uploads <= -(-stored // (STAGING_NBYTES // 2)) + columns


def test_chunks_of_a_shard_cross_as_they_lie_there(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 9, (64, 64)).astype("<u2")
    zarr.create_array(
        tmp_path,
        shape=values.shape,
        dtype=values.dtype,
        chunks=(8, 8),
        shards=(64, 64),
        compressors=[zarr.codecs.BloscCodec(cname="lz4"), zarr.codecs.Crc32cCodec()],
    )[...] = values
    array = gpuzarr.open_array(tmp_path, device="sim")
    found, stats, _ = counted(array)
    assert (found == values).all()
    assert (stats.requests, stats.chunks, stats.waves) == (2, 64, 1)
    size = (tmp_path / "c/0/0").stat().st_size
    assert stats.bytes_crossed <= size


@pytest.mark.parametrize("wave_nbytes", [1, 100_000, 400_000])
def test_waves_keep_to_their_budget(wave_nbytes: int) -> None:
    chunks = [numcodecs.LZ4().encode(row.tobytes()) for row in VALUES] * 5
    found, stats, counters = counted(array_of(chunks, {"id": "lz4"}, "sim"), wave_nbytes=wave_nbytes)
    assert (found.reshape(5, 8, -1) == VALUES).all()
    assert stats.waves == counters.synchronizes > 3
    assert stats.peak_device_bytes <= max(wave_nbytes, 2 * (2 * VALUES[0].nbytes + 8192))


def test_raw_chunks_cross_as_they_are() -> None:
    found, stats, counters = counted(array_of([row.tobytes() for row in VALUES], None, "sim"))
    assert (found.reshape(VALUES.shape) == VALUES).all()
    assert stats.bytes_crossed == VALUES.nbytes
    assert counters.kernels == ["gz_scatter"]


# ---- what the host does of it


def zlib_chunks() -> list[bytes]:
    return [zlib.compress(row.tobytes(), 4) for row in VALUES]


def test_what_the_device_refuses_the_host_decodes() -> None:
    """Bytes behind a zlib stream, two gzip members: seen by the kernels, and right on the host."""
    chunks = zlib_chunks()
    chunks[2] += b"and more"
    found, stats, counters = counted(array_of([*chunks, None], {"id": "zlib", "level": 1}, "sim"))
    assert (found[:-4096].reshape(VALUES.shape) == VALUES).all()
    assert (found[-4096:] == -1).all()
    assert (stats.on_host, stats.chunks, stats.filled) == (1, 8, 1)
    assert counters.kernels[-1] == "gz_scatter"
    half = VALUES[1].nbytes // 2
    members = [gzip.compress(row.tobytes()) for row in VALUES]
    members[1] = gzip.compress(VALUES[1].tobytes()[:half]) + gzip.compress(VALUES[1].tobytes()[half:])
    found, stats, _ = counted(array_of(members, {"id": "gzip", "level": 1}, "sim"), wave_nbytes=200_000)
    assert (found.reshape(VALUES.shape) == VALUES).all()
    assert stats.on_host == 1
    assert stats.waves > 2


@pytest.mark.parametrize("header", [b"", b"FNAME", b"FEXTRA", b"FHCRC", b"all"])
def test_gzip_headers_of_all_kinds_are_read_on_the_device(header: bytes) -> None:
    """RFC 1952: an extra field, a name, a comment, a checksum of the header."""
    flags = {b"": 0, b"FNAME": 8 + 16, b"FEXTRA": 4, b"FHCRC": 2, b"all": 30}[header]
    extra = b"\x05\0extra" if flags & 4 else b""
    names = (b"name\0" if flags & 8 else b"") + (b"comment\0" if flags & 16 else b"")
    head = bytes([0x1F, 0x8B, 8, flags, 0, 0, 0, 0, 0, 255]) + extra + names
    head += (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little") if flags & 2 else b""
    chunks = []
    for row in VALUES:
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        body = deflate.compress(row.tobytes()) + deflate.flush()
        chunks.append(head + body + struct.pack("<II", zlib.crc32(row.tobytes()), row.nbytes))
    found, stats, _ = counted(array_of(chunks, {"id": "gzip", "level": 1}, "sim"))
    assert (found.reshape(VALUES.shape) == VALUES).all()
    assert stats.on_host == 0


@pytest.mark.parametrize(
    ("compressor", "encode", "at", "value"),
    [
        ("zlib", zlib.compress, -1, None),
        ("zlib", zlib.compress, 0, 0x79),
        ("zlib", zlib.compress, 40, None),
        ("gzip", gzip.compress, -1, None),
        ("gzip", gzip.compress, -6, None),
        ("gzip", gzip.compress, 3, 0x20),
        ("zstd", numcodecs.Zstd().encode, 30, None),
        ("zstd", numcodecs.Zstd().encode, 0, None),
        ("lz4", numcodecs.LZ4().encode, 5, 0xFF),
        ("blosc", numcodecs.Blosc("lz4").encode, 30, 0xFF),
        ("crc32", numcodecs.CRC32().encode, 2, None),
        ("crc32", numcodecs.CRC32().encode, 200, None),
    ],
)
def test_damage_is_the_hosts_error(compressor: str, encode: Any, at: int, value: int | None) -> None:
    """Of the same kind, with the same words, and with the chunk's name. (A zstd frame whose content is
    damaged may decode to other values: then to the same ones.)"""
    chunks = [bytes(encode(row.tobytes())) for row in VALUES]
    broken = bytearray(chunks[3])
    broken[at] = broken[at] ^ 0x55 if value is None else value
    chunks[3] = bytes(broken)
    outcomes = []
    for device in ("cpu", "sim", "sim:shuffled2"):
        array = array_of(chunks, {"id": compressor}, device)
        try:
            result = array.read()
            outcomes.append((result if device == "cpu" else result.get()).tobytes())
        except ChunkError as error:
            outcomes.append(f"{type(error).__name__} {error}")
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert isinstance(outcomes[0], bytes) or "chunk 3" in outcomes[0]


def test_checksums_are_checksum_errors() -> None:
    chunks = [bytes(numcodecs.CRC32().encode(row.tobytes())) for row in VALUES]
    chunks[5] = chunks[5][:-1] + b"\xaa"
    with pytest.raises(ChecksumError, match="chunk 5"):
        array_of(chunks, {"id": "crc32"}, "sim").read()


def test_a_wave_of_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every chunk of several waves is left to the host after the device refused it."""
    chunks = [chunk + b"more" for chunk in zlib_chunks() * 3]
    found, stats, _ = counted(array_of(chunks, {"id": "zlib"}, "sim"), wave_nbytes=300_000)
    assert (found.reshape(3, 8, -1) == VALUES).all()
    assert stats.on_host == stats.chunks == 24
    chunks[9] = chunks[9][:50]
    with pytest.raises(ChunkError, match="chunk 9"):
        counted(array_of(chunks, {"id": "zlib"}, "sim"), wave_nbytes=300_000)


@pytest.mark.parametrize("compressor", ["zlib", "gzip", "zstd", "blosc"])
def test_chunks_from_strangers_do_not_go_to_nvcomp(compressor: str) -> None:
    """Whatever the array's document says is inside of its Blosc containers."""
    encode: Any = {"zlib": zlib.compress, "gzip": gzip.compress, "zstd": numcodecs.Zstd().encode}
    encode = encode.get(compressor, numcodecs.Blosc("zlib").encode)
    chunks = [bytes(encode(row.tobytes())) for row in VALUES]
    for cname in ("zlib", "lz4") if compressor == "blosc" else ("",):
        given = {"id": compressor, "cname": cname} if cname else {"id": compressor}
        found, stats, counters = counted(array_of(chunks, given, "sim"))
        assert "gz_streams" in counters.kernels
        found, stats, counters = counted(array_of(chunks, given, "sim"), untrusted=1)
        assert (found.reshape(VALUES.shape) == VALUES).all()
        assert counters.kernels == ["gz_scatter"]
        assert VALUES.nbytes <= stats.bytes_crossed <= VALUES.nbytes + sum(map(len, chunks)) + 128


# ---- the choice between host and device


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> SimDevice:
    """A simulated device that is spared what the host does sooner."""
    device = SimDevice.named("sim")
    monkeypatch.setattr(device, "timed", True)
    return device


def choices(array: Any, key: Any = ...) -> tuple[int, int, set[str]]:
    """Chunks, those decoded by the host, and where `explain` says that the stages run."""
    stats = ReadStats()
    array.read(key, stats=stats)
    places = {stage.place for stage in array.explain(key).stages[:-1]}
    return stats.chunks, stats.on_host, places


def test_few_small_chunks_are_left_to_the_host(timed: SimDevice) -> None:
    """One by one they take no longer than a launch; very many together do."""
    chunks = [numcodecs.Blosc("lz4").encode(VALUES[i % 8]) for i in range(64)]
    array = array_of(chunks, {"id": "blosc", "cname": "lz4"}, "sim")
    assert choices(array, np.s_[:4096]) == (1, 1, {"cpu"})
    assert choices(array) == (64, 0, {"sim"})
    with gpuzarr.configured(strict=1):
        assert choices(array, np.s_[:4096]) == (1, 0, {"sim"})


def test_a_huge_frame_is_left_to_the_host(timed: SimDevice) -> None:
    """It is decoded from its first byte to its last; cut into many, the same bytes are the device's."""
    values = np.tile(VALUES.reshape(-1), 64)
    made = {}
    for count in (1, 128):
        held: dict[str, Any] = {}
        zarr.create_array(
            zarr.storage.MemoryStore(held),
            shape=values.shape,
            dtype=values.dtype,
            chunks=(values.size // count,),
            compressors=zarr.codecs.ZstdCodec(),
        )[...] = values
        objects = {key: value.to_bytes() for key, value in held.items()}
        made[count] = choices(gpuzarr.open_array(objects, device="sim"))
    assert made == {1: (1, 1, {"cpu"}), 128: (128, 0, {"sim"})}


def test_the_choice_says_why(timed: SimDevice) -> None:
    array = array_of([numcodecs.LZ4().encode(VALUES[0])], {"id": "lz4"}, "sim")
    assert "sooner there: the setting strict overrules that" in str(array.explain())


# ---- staging memory


def test_staging_blocks() -> None:
    """Small requests share blocks; large ones have their own, and leave the shared one as it is."""
    given: list[int] = []
    returned: list[int] = []

    def allocate(nbytes: int) -> np.ndarray:
        given.append(nbytes)
        return np.empty(nbytes, np.uint8)

    memory = Staging(allocate, lambda block: returned.append(block.nbytes), 1000)
    places = [memory.take(nbytes)[0] for nbytes in (100, 200, 5000, 300, 900, 0)]
    assert given == [1000, 5000, 1000]
    assert places[1] == 112
    assert places[3] == 112 + 208
    assert [base % module.ALIGNMENT for base, _ in memory.blocks] == [0, 0, 0]
    assert [part.nbytes for _, part in memory.blocks] == [624, 5000, 900]
    memory.reset()
    assert returned == given
    assert memory.blocks == []


def test_no_memory_is_a_limit_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a MemoryError from deep inside."""

    def none(self: Any, nbytes: int, lead: int = 0) -> Any:
        raise MemoryError("no more")

    monkeypatch.setattr(Staging, "take", none)
    with pytest.raises(LimitError, match="out of memory"):
        array_of(zlib_chunks(), {"id": "zlib"}, "sim").read()
