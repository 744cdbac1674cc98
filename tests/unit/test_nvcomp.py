"""The real libnvcomp, as far as it runs without a GPU: how arguments are passed, and what it requires.

It comes with the extra `dev`. What a new version changes shows here, before it shows on a GPU. Then what is
made of a compressor's streams, with one on device sim that goes wrong.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
from dataclasses import replace
from typing import Any

import numcodecs
import numpy as np
import pytest

from gpuzarr.codecs.zstd import zstd_compress_scratch, zstd_scratch
from gpuzarr.device import compressing, nvcomp, sim_nvcomp
from gpuzarr.device.base import Lane, Uncompressed
from gpuzarr.device.sim import SimDevice
from gpuzarr.errors import DeviceError, MissingDependencyError
from gpuzarr.testing.device import download
from tests import devices
from tests.conftest import SIM_ORDERS

PACKAGES = {one.metadata["Name"] for one in importlib.metadata.distributions()}
# Where it is installed it has to be found: a library of another name is drift too.
LIBRARY = nvcomp.load() if any(str(name).startswith("nvidia-libnvcomp") for name in PACKAGES) else None
installed = pytest.mark.skipif(
    LIBRARY is None, reason="libnvcomp is not installed: pip install 'gpuzarr[dev]'"
)


@installed
def test_version_is_known() -> None:
    assert LIBRARY is not None
    assert LIBRARY.version[0] in nvcomp.VERSIONS


@installed
@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ("lz4", (1, 1, 1)),
        ("snappy", (1, 1, 1)),
        ("zstd", (1, 1, 8)),
        ("deflate", (4, 1, 1)),
        ("gzip", (1, 1, 1)),
        ("gdeflate", (4, 1, 1)),
        ("ans", (16, 16, 1)),
        ("bitcomp", (8, 8, 4)),
        ("cascaded", (4, 8, 1)),
    ],
)
def test_alignments(format: str, expected: tuple[int, int, int]) -> None:
    assert LIBRARY is not None
    assert LIBRARY.alignments(format) == nvcomp.Alignments(*expected)


@installed
def test_scratch_grows_with_the_streams() -> None:
    """zstd needs some three times its output, the others none."""
    assert LIBRARY is not None
    one, many = (LIBRARY.scratch_nbytes("zstd", n, 1 << 20, n << 20) for n in (1, 64))
    assert 2 * (64 << 20) < many < 4 * (64 << 20)
    assert one < many / 16
    for count, largest in ((1, 100), (7, 5000), (1000, 65536), (64, 1 << 20), (3, 1 << 26)):
        asked = LIBRARY.scratch_nbytes("zstd", count, largest, count * largest)
        assert asked <= count * zstd_scratch(largest, 1)
        stand_in = sim_nvcomp.HostLibrary().scratch_nbytes("zstd", count, largest, count * largest)
        assert asked <= stand_in * 1.01
    assert [
        LIBRARY.scratch_nbytes(name, 64, 1 << 20, 64 << 20) for name in ("lz4", "snappy", "deflate", "gzip")
    ] == [0] * 4


@installed
def test_options_are_passed_by_value() -> None:
    """64 bytes, not a pointer: a backend that does not exist is refused, so it was read from them."""
    assert LIBRARY is not None
    assert ctypes.sizeof(nvcomp.Options) == 64
    wrong = nvcomp.Options()
    wrong.reserved[:4] = [99, 0, 0, 0]
    found = (ctypes.c_size_t * 3)()
    function = LIBRARY._library.nvcompBatchedZstdDecompressGetRequiredAlignments
    assert function(wrong, ctypes.byref(found)) != 0
    assert function(nvcomp.Options(), ctypes.byref(found)) == 0


@installed
def test_failures_come_with_nvcomps_words(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LIBRARY is not None
    with pytest.raises(DeviceError, match=r"not supported.*\(11\)"):
        LIBRARY._check(11, "anything")
    monkeypatch.setitem(nvcomp.FORMATS, "made up", "MadeUp")
    with pytest.raises(DeviceError, match="nvcompBatchedMadeUpDecompressGetRequiredAlignments"):
        LIBRARY.alignments("made up")


def test_missing_and_broken_libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(nvcomp, "_candidates", lambda: iter(()))
    with pytest.raises(MissingDependencyError, match=r"gpuzarr\[cuda13\]"):
        nvcomp.load.__wrapped__()
    broken = f"{tmp_path}/libnvcomp.so.6"
    with open(broken, "wb") as file:
        file.write(b"no library")
    with pytest.raises(DeviceError, match="cannot load"):
        nvcomp.Library(broken)


# ---- compressors


@installed
def test_a_compressors_alignments() -> None:
    assert LIBRARY is not None
    for format, expected in (("zstd", (4, 1, 1)), ("snappy", (1, 1, 1))):
        assert LIBRARY.compress_alignments(format) == nvcomp.Alignments(*expected)
    for how in nvcomp.ALGORITHMS.values():
        if how.compressed:
            needed = LIBRARY.compress_alignments(how.format)
            assert sim_nvcomp.HostLibrary().compress_alignments(how.format) == needed
            assert 16 % needed.output == 0  # as `Lane.compress` promises


@installed
def test_what_a_string_may_become() -> None:
    """The same for the stand-in. It grows by two where the size that a frame states needs two bytes more
    (RFC 8878, 3.1.1.1.4), so nvCOMP's frames state it; and by three with each block of 64 KiB."""
    assert LIBRARY is not None

    def bound(nbytes: int) -> int:
        assert LIBRARY is not None
        found = LIBRARY.compress_bound("zstd", nbytes)
        assert found == sim_nvcomp.HostLibrary().compress_bound("zstd", nbytes)
        return found - nbytes

    for around in (0, 1, 255, 256, 65535, 65536, 65791, 65792, 131072, 1 << 20, 16 << 20, (1 << 31) - 2):
        bound(around)
        bound(around + 1)
    assert (bound(256) - bound(255), bound(65792) - bound(65791)) == (2, 2)
    assert bound(65536 + 1) - bound(65536) == 3
    assert bound(1 << 20) == 10 + 16 * 3
    assert compressing.compress_bound(LIBRARY, "zstd", 1 << 20) == (1 << 20) + 64
    assert compressing.compress_bound(LIBRARY, "zstd", 0) == 16
    for library in (LIBRARY, sim_nvcomp.HostLibrary()):
        with pytest.raises(DeviceError):
            library.compress_bound("zstd", 1 << 31)


@installed
@pytest.mark.skipif(devices.no_gpu() is None, reason="there is a GPU: tests/gpu asks it")
def test_a_compressors_scratch_goes_by_the_gpu() -> None:
    """Without one nvCOMP does not say."""
    assert LIBRARY is not None
    with pytest.raises(DeviceError, match=r"nvcompBatchedZstdCompressGetTempSize.*\(1000\)"):
        LIBRARY.compress_scratch_nbytes("zstd", 64, 1 << 20, 64 << 20)
    assert LIBRARY.compress_scratch_nbytes("snappy", 64, 1 << 20, 64 << 20) == 0


def test_what_is_counted_of_a_compressors_scratch() -> None:
    """Enough for device sim."""
    for count, largest in ((1, 100), (7, 5000), (64, 4096), (1000, 65536), (3, 64 << 20)):
        asked = sim_nvcomp.HostLibrary().compress_scratch_nbytes("zstd", count, largest, count * largest)
        assert asked <= count * zstd_compress_scratch(largest)


STRINGS = nvcomp.StringTable(
    count=2,
    largest=1 << 31,
    sources=1 << 8,
    source_nbytes=2 << 8,
    targets=3 << 8,
    written=4 << 8,
    statuses=5 << 8,
    scratch=6 << 8,
    scratch_nbytes=7,
)
"""Of no memory: nvCOMP refuses strings of that size before it looks."""


@installed
@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 18),
        *(({name: 8 * 99 + 4}, 17) for name in ("sources", "source_nbytes", "targets", "written")),
        ({"statuses": 8 * 99 + 4}, 18),
        ({"statuses": 8 * 99 + 2}, 17),
        ({"statuses": 0}, 18),
        ({"scratch": 0}, 10),
    ],
    ids=repr,
)
def test_where_each_argument_goes(changes: dict[str, int], status: int) -> None:
    """By what nvCOMP says of it: the size exceeds what is allowed (18), a pointer is not aligned to 8 bytes,
    or 4 for statuses (17), or may not be null (10)."""
    assert LIBRARY is not None
    with pytest.raises(DeviceError, match=rf"nvcompBatchedZstdCompressAsync: .* \({status}\)"):
        LIBRARY.compress("zstd", replace(STRINGS, **changes))


@pytest.mark.parametrize(("version", "suffix"), [(5, "Async"), (6, "")])
def test_calls_of_both_versions(version: int, suffix: str) -> None:
    """Names and arguments in the order of the headers; 5.1 has no words for a status."""
    calls: dict[str, list[Any]] = {}

    class Recorded(dict[str, Any]):
        def __missing__(self, name: str) -> Any:
            def call(*given: Any) -> int:
                calls[name] = [getattr(one, "value", type(one).__name__) for one in given]
                return 7 if "Deflate" in name else 0

            return call

    library = nvcomp.Library.__new__(nvcomp.Library)
    library._library, library.path, library.version = Recorded(), "nowhere", (version, 0, 0)  # type: ignore[assignment]
    library.compress_scratch_nbytes("zstd", 8, 9, 72, 10)
    library.scratch_nbytes("zstd", 8, 9, 72)
    library.compress_bound("zstd", 9)
    library.compress_alignments("zstd")
    library.compress("zstd", STRINGS, 11)
    with pytest.raises(DeviceError, match=r"nvcompBatchedDeflateCompressAsync: unknown error \(7\)"):
        library.compress("deflate", STRINGS)
    stream = [[10], [None]] if version == 6 else [[], []]
    assert {name.removeprefix("nvcompBatchedZstd"): given for name, given in calls.items()} == {
        f"CompressGetTempSize{suffix}": [8, 9, "Options", "CArgObject", 72, *stream[0]],
        f"DecompressGetTempSize{suffix}": [8, 9, "Options", "CArgObject", 72, *stream[1]],
        "CompressGetMaxOutputChunkSize": [9, "Options", "CArgObject"],
        "CompressGetRequiredAlignments": ["Options", "CArgObject"],
        "CompressAsync": [256, 512, 1 << 31, 2, 1536, 7, 768, 1024, "Options", 1280, 11],
        "nvcompBatchedDeflateCompressAsync": [
            256,
            512,
            1 << 31,
            2,
            1536,
            7,
            768,
            1024,
            "Options",
            1280,
            None,
        ],
    }


# ---- what a compressor made


PLAIN = [bytes(np.random.default_rng(n).integers(0, 9, n, np.uint8)) for n in (300, 1000, 70_000)]


def like_nvcomp(plain: bytes, *, descriptor: int = 0, stated: int | None = None, last: int = 1) -> bytes:
    """A frame in the form that nvCOMP's bound tells of: a window, the size, blocks of 64 KiB, stored as they
    are."""
    size = len(plain) if stated is None else stated
    code = (size >= 256) + (size >= 65792)
    field = (size - 256 * (code == 1)).to_bytes(2 * code, "little")
    blocks = [plain[at : at + 65536] for at in range(0, len(plain), 65536)]
    heads = [
        (len(one) << 3 | (i == len(blocks) - 1 and last)).to_bytes(3, "little")
        for i, one in enumerate(blocks)
    ]
    head = b"\x28\xb5\x2f\xfd" + bytes([code << 6 | descriptor, 0x38])
    return head + field + b"".join(one + two for one, two in zip(heads, blocks, strict=True))


def unsized(plain: bytes) -> bytes:
    """A sound frame that does not say its size."""
    frame = like_nvcomp(plain)
    return frame[:4] + b"\0" + frame[5:6] + frame[6 + 2 * (frame[4] >> 6) :]


def run(lane: Lane, plain: list[bytes]) -> tuple[list[bytes], list[int], list[int]]:
    """Compress; streams, their sizes, and the faults. Owners count down."""
    largest = max(map(len, plain))
    pitch = lane.compress_bound("zstd", largest)
    rows = len(plain)
    begin = np.arange(rows, dtype=np.int64) * (-(-largest // 16) * 16)
    arena = np.zeros(int(begin[-1]) + largest, np.uint8)
    for at, one in zip(begin, plain, strict=True):
        arena[at : at + len(one)] = np.frombuffer(one, np.uint8)
    dst, sizes = lane.empty(rows * pitch), lane.empty(8 * rows)
    strings = Uncompressed(
        src=lane.upload(arena),
        src_offset=begin,
        src_nbytes=np.array([len(one) for one in plain], np.int64),
        dst=dst,
        dst_offset=np.arange(rows, dtype=np.int64) * pitch,
        dst_nbytes=sizes,
        owner=np.arange(rows, dtype=np.int32)[::-1].copy(),
        count=rows,
        largest=largest,
    )
    lane.compress("zstd", strings, lane.faults(rows))
    encoded = download(lane, dst)
    nbytes = np.frombuffer(download(lane, sizes), np.int64).tolist()
    streams = [encoded[pitch * i :][:n] for i, n in enumerate(nbytes)]
    return streams, nbytes, [rows - 1 - chunk for chunk in lane.take_faults().tolist()][::-1]


class Wrong(sim_nvcomp.HostLibrary):
    """Makes of the second string what a test wants, with the status and the size that it wants."""

    stream: bytes | None = None
    status: int | None = 0
    nbytes: int | None = None

    def encode(self, format: str, plain: bytes) -> bytes:
        return self.stream if self.stream is not None and plain == PLAIN[1] else super().encode(format, plain)

    def compress(self, format: str, table: nvcomp.StringTable, cuda_stream: int = 0) -> None:
        statuses = sim_nvcomp._view(table.statuses, 4 * table.count).view(np.int32)
        before = int(statuses[1])
        super().compress(format, table)
        statuses[1] = before if self.status is None else self.status
        if self.nbytes is not None:
            sim_nvcomp._words(table.written, table.count)[1] = self.nbytes % (1 << 64)


SOUND = bytes(numcodecs.zstd.compress(PLAIN[1]))
WRONG: dict[str, dict[str, Any]] = {
    "a status": {"status": 10},
    "a status in the upper byte": {"status": 1 << 24},
    "no status": {"status": None},
    "no size": {"nbytes": 0},
    "a negative size": {"nbytes": -1},
    "a size that is too large": {"nbytes": 1 << 40},
    "a size that is one too large": {"nbytes": 70_001 + 15 + 16},
    "bytes behind the frame": {"nbytes": len(SOUND) + 1},
    "a byte is missing": {"nbytes": len(SOUND) - 1},
    "a header alone": {"nbytes": 7},
    "one byte": {"nbytes": 1},
    "a size is not stated": {"stream": unsized(PLAIN[1])},
    "another size is stated": {"stream": like_nvcomp(PLAIN[1], stated=1001)},
    "less is stated": {"stream": like_nvcomp(PLAIN[1], stated=999)},
    "a checksum": {"stream": bytes(numcodecs.zstd.compress(PLAIN[1], 1, True))},
    "a checksum bit": {"stream": like_nvcomp(PLAIN[1], descriptor=4)},
    "a dictionary": {"stream": like_nvcomp(PLAIN[1], descriptor=1)},
    "a reserved bit": {"stream": like_nvcomp(PLAIN[1], descriptor=8)},
    "no last block": {"stream": like_nvcomp(PLAIN[1], last=0)},
    "no last block, and no end": {"stream": like_nvcomp(PLAIN[1], last=0), "nbytes": 1 << 40},
    "a reserved block": {"stream": like_nvcomp(PLAIN[1], last=7)},
    "two frames": {"stream": SOUND + SOUND},
    "a skippable frame": {"stream": b"\x50\x2a\x4d\x18\x04\0\0\0skip" + SOUND},
    "no frame": {"stream": PLAIN[1][:500]},
}


@pytest.mark.parametrize("order", SIM_ORDERS)
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_such_stream_is_a_fault(wrong: str, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its owner alone, and its size is none."""
    monkeypatch.setattr(sim_nvcomp, "HostLibrary", type("Made", (Wrong,), WRONG[wrong]))
    streams, nbytes, faults = run(SimDevice.named(order).lane(), PLAIN)
    assert faults == [1]
    assert nbytes[1] == 0
    assert [bytes(numcodecs.zstd.decompress(streams[i])) for i in (0, 2)] == [PLAIN[0], PLAIN[2]]


@pytest.mark.parametrize("order", SIM_ORDERS)
def test_frames_of_nvcomps_form_pass(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that a host library decodes as well, from the size that they state."""

    class Same(sim_nvcomp.HostLibrary):
        def encode(self, format: str, plain: bytes) -> bytes:
            return like_nvcomp(plain)

    monkeypatch.setattr(sim_nvcomp, "HostLibrary", Same)
    plain = [
        *PLAIN,
        *(bytes(n % 251 for n in range(size)) for size in (256, 65535, 65536, 65791, 65792, 200_000)),
    ]
    streams, nbytes, faults = run(SimDevice.named(order).lane(), plain)
    assert faults == []
    assert [bytes(numcodecs.zstd.decompress(one)) for one in streams] == plain
    bound = sim_nvcomp.HostLibrary().compress_bound
    assert nbytes == [bound("zstd", len(one)) for one in plain]


def test_what_passes_is_what_the_decompressor_takes() -> None:
    """Frames with bytes changed at random: both kernels say the same of each."""
    rng = np.random.default_rng(11)
    frames = [SOUND, like_nvcomp(PLAIN[1]), like_nvcomp(PLAIN[2]), bytes(numcodecs.zstd.compress(PLAIN[2]))]
    sizes = [1000, 1000, 70_000, 70_000]
    rows, pitch = 400, 70_032
    arena, nbytes, plain = (
        np.zeros(rows * pitch, np.uint8),
        np.zeros(rows, np.int64),
        np.zeros(rows, np.int64),
    )
    for i in range(rows):
        frame = bytearray(frames[i % 4])
        for _ in range(int(rng.integers(0, 3))):
            frame[int(rng.integers(0, 24))] ^= 1 << int(rng.integers(0, 8))
        arena[i * pitch :][: len(frame)] = np.frombuffer(frame, np.uint8)
        nbytes[i] = len(frame) - (rng.integers(0, 2) if i % 7 == 0 else 0)
        plain[i] = sizes[i % 4]
    lane = SimDevice.named("sim").lane()
    src, offset, owner = (
        lane.upload(arena),
        np.arange(rows, dtype=np.int64) * pitch,
        np.arange(rows, dtype=np.int32),
    )
    columns = {name: lane.empty(8 * rows) for name in nvcomp._COLUMNS}
    lane.launch(
        "gz_streams",
        rows,
        32,
        src=src,
        src_offset=offset,
        src_nbytes=nbytes,
        dst=lane.empty(rows * pitch),
        dst_offset=offset,
        dst_nbytes=plain,
        owner=owner,
        fault=lane.faults(rows),
        lifted=lane.empty(1),
        spare=np.zeros(1, np.uint8),
        spare_room=lane.empty(1),
        **columns,
        streams=rows,
        format=0,
        stored=0,
        lift=0,
        spare_nbytes=1,
    )
    lane.synchronize()
    refused = lane.take_faults().tolist()
    lane.reset()
    lane.launch(
        "gz_compressed",
        -(-rows // 64),
        64,
        dst=lane.upload(arena),
        dst_offset=offset,
        dst_nbytes=lane.upload(nbytes),
        expected=plain,
        statuses=np.zeros(rows, np.int32),
        owner=owner,
        fault=lane.faults(rows),
        strings=rows,
        room=pitch,
        format=0,
    )
    lane.synchronize()
    assert lane.take_faults().tolist() == refused
    assert 50 < len(refused) < rows - 50


def test_no_stream_is_longer_than_its_room() -> None:
    lane = SimDevice.named("sim").lane()
    for room in (len(SOUND) - 1, len(SOUND)):
        lane.launch(
            "gz_compressed",
            1,
            32,
            dst=lane.upload(np.frombuffer(SOUND, np.uint8)),
            dst_offset=np.zeros(1, np.int64),
            dst_nbytes=lane.upload(np.array([len(SOUND)])),
            expected=np.array([1000]),
            statuses=np.zeros(1, np.int32),
            owner=np.array([room], np.int32),
            fault=lane.faults(1000),
            strings=1,
            room=room,
            format=0,
        )
    lane.synchronize()
    assert lane.take_faults().tolist() == [len(SOUND) - 1]


@pytest.mark.parametrize("order", SIM_ORDERS)
def test_offsets_that_only_the_device_knows(order: str) -> None:
    """Strings that lie aligned are compressed; the others are at fault, since no place was made for them."""
    lane = SimDevice.named(order).lane()
    pitch = lane.compress_bound("zstd", 1000)
    sizes, dst = lane.empty(32), lane.empty(4 * pitch)
    offset = np.array([8, 1009, 2012, 3013], np.int64)
    arena = np.zeros(4100, np.uint8)
    for at in offset:
        arena[at : at + 1000] = np.frombuffer(PLAIN[1], np.uint8)
    strings = Uncompressed(
        src=lane.upload(arena),
        src_offset=lane.upload(offset),
        src_nbytes=lane.upload(np.array([1000, 1000, 1000, 1])),
        dst=dst,
        dst_offset=lane.upload(np.arange(4) * pitch),
        dst_nbytes=sizes,
        owner=lane.upload(np.arange(4, dtype=np.int32)),
        count=4,
        largest=1000,
    )
    lane.compress("zstd", strings, lane.faults(4))
    encoded, nbytes = download(lane, dst), np.frombuffer(download(lane, sizes), np.int64)
    assert lane.take_faults().tolist() == [1, 3]
    for i in (0, 2):
        assert bytes(numcodecs.zstd.decompress(encoded[i * pitch :][: nbytes[i]])) == PLAIN[1]
    assert nbytes[[1, 3]].tolist() == [0, 0]


def test_the_stand_in_looks_at_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scratch that is too small, or streams that are larger than was said, are mistakes of ours."""
    asked = sim_nvcomp.HostLibrary.compress_scratch_nbytes
    given = iter([0, 1 << 20])
    monkeypatch.setattr(
        sim_nvcomp.HostLibrary, "compress_scratch_nbytes", lambda *args, **kwargs: next(given) or asked(*args)
    )
    with pytest.raises(DeviceError, match="of scratch are needed"):
        run(SimDevice.named("sim").lane(), PLAIN[:1])
    monkeypatch.undo()
    monkeypatch.setattr(sim_nvcomp.HostLibrary, "encode", lambda self, format, plain: plain + bytes(99))
    with pytest.raises(DeviceError, match="more than was said"):
        run(SimDevice.named("sim").lane(), PLAIN[:1])
