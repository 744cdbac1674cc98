"""Real nvCOMP: every algorithm, every kind of stream that is handed to it, values compared with what was
compressed; what it must not see stays away from it. What it compresses is decoded by host libraries and by
itself."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import numcodecs
import numpy as np
import pytest

import gpuzarr
from gpuzarr import ReadStats
from gpuzarr.device import nvcomp
from gpuzarr.device.cuda import CudaDevice
from gpuzarr.errors import MissingDependencyError
from gpuzarr.testing.device import ENCODERS
from tests.gpu.test_reads import on_gpu, stored


@pytest.fixture(autouse=True)
def _library(cuda: CudaDevice) -> None:
    try:
        nvcomp.load()
    except MissingDependencyError as error:
        pytest.skip(str(error))


def plain(nbytes: int, kind: str) -> np.ndarray:
    """uint8: noise that does not compress, what compresses well, one byte again and again."""
    rng = np.random.default_rng(nbytes)
    if kind == "noise":
        return rng.integers(0, 256, nbytes, np.uint8)
    if kind == "text":
        return np.cumsum(rng.integers(-2, 3, nbytes)).astype(np.uint8)
    return np.full(nbytes, 65, np.uint8)


CODECS: dict[str, list[Any]] = {
    "zstd": [numcodecs.Zstd(level) for level in (-5, 1, 3, 19)],
    "zlib": [numcodecs.Zlib(level) for level in (0, 1, 9)],
    "gzip": [numcodecs.GZip(level) for level in (0, 1, 9)],
    "blosc": [numcodecs.Blosc(cname, 5, shuffle) for cname in ("zstd", "zlib") for shuffle in (0, 1, 2)],
}
SIZES = (1, 2, 127, 4096, 65535, 65536, 131073, 1 << 20)


@pytest.mark.parametrize("codec", [one for group in CODECS.values() for one in group], ids=repr)
@pytest.mark.parametrize("nbytes", SIZES)
def test_streams_of_every_size(codec: Any, nbytes: int) -> None:
    """Eight chunks in one batch, of all kinds of content; the device decodes every one."""
    values = np.concatenate([plain(nbytes, kind) for kind in ("noise", "text", "same", "text") * 2])
    stats = ReadStats()
    with gpuzarr.configured(strict=1):
        found = on_gpu(stored(values, (nbytes,), codec)).read(stats=stats)
    assert np.array_equal(found.get(), values)
    assert (stats.chunks, stats.on_host) == (8, 0)


@pytest.mark.parametrize("level", [1, 19])
def test_one_huge_frame(level: int) -> None:
    values = plain(24 << 20, "text")
    with gpuzarr.configured(strict=1):
        found = on_gpu(stored(values, values.shape, numcodecs.Zstd(level))).read()
    assert np.array_equal(found.get(), values)


@pytest.mark.parametrize("codec", [group[1] for group in CODECS.values()], ids=repr)
def test_very_many_small_streams(codec: Any) -> None:
    values = plain(5000 * 300, "text")
    with gpuzarr.configured(strict=1):
        found = on_gpu(stored(values, (300,), codec)).read()
    assert np.array_equal(found.get(), values)


def test_scratch_is_enough() -> None:
    """What the engine counts on is no less than nvCOMP asks for."""
    from gpuzarr.codecs.zstd import zstd_scratch

    library = nvcomp.load()
    for nbytes in (1, 1000, 1 << 16, 1 << 20, 16 << 20):
        for count in (1, 7, 400):
            asked = library.scratch_nbytes("zstd", count, nbytes, count * nbytes)
            assert asked <= count * zstd_scratch(nbytes, 1)


def test_what_the_host_has_the_last_word_on() -> None:
    """Streams that end early, checksums that are wrong, bytes behind the end: beside sound ones."""
    parts = [plain(3000, "text") for _ in range(6)]
    good = [zlib.compress(part.tobytes(), 6) for part in parts]
    objects = stored(np.concatenate(parts), (3000,), numcodecs.Zlib(6))
    for i, (change, said) in enumerate(
        [
            (lambda one: one[:-7], "0"),
            (lambda one: one[:-1] + bytes([one[-1] ^ 1]), "1"),
            (lambda one: b"\x78\x9d" + one[2:], "2"),
        ]
    ):
        with pytest.raises(gpuzarr.GpuzarrError, match=f"chunk {said}"):
            on_gpu({**objects, str(i): change(good[i])}).read()
    members = gzip.compress(parts[0][:1000].tobytes()) + gzip.compress(parts[0][1000:].tobytes())
    two = {**stored(np.concatenate(parts), (3000,), numcodecs.GZip(6)), "0": members}
    stats = ReadStats()
    assert np.array_equal(on_gpu(two).read(stats=stats).get(), np.concatenate(parts))
    assert stats.on_host == 1


def test_encoders_of_every_algorithm_are_known() -> None:
    """The contract tries those with a compressor in Python."""
    assert set(ENCODERS) <= set(nvcomp.ALGORITHMS)


def test_snappy(cuda: CudaDevice) -> None:
    """No codec uses it yet; `Lane.decompress` takes it: literals by hand."""
    from gpuzarr.device.base import Streams
    from gpuzarr.testing.device import download

    texts = [plain(n, "noise").tobytes() for n in (1, 17, 60)]
    streams = [bytes([len(one), (len(one) - 1) << 2]) + one for one in texts]
    lane = cuda.lane()
    sizes = np.array([len(one) for one in streams], np.int64)
    plain_sizes = np.array([len(one) for one in texts], np.int64)
    dst = lane.empty(3 * 64)
    rows = Streams(
        src=lane.upload(np.frombuffer(b"".join(streams), np.uint8)),
        src_offset=np.cumsum(sizes) - sizes,
        src_nbytes=sizes,
        dst=dst,
        dst_offset=np.arange(3, dtype=np.int64) * 64,
        dst_nbytes=plain_sizes,
        owner=np.arange(3, dtype=np.int32),
        count=3,
        largest=60,
        total=int(plain_sizes.sum()),
    )
    lane.decompress("snappy", rows, lane.faults(3))
    found = download(lane, dst)
    assert lane.take_faults().tolist() == []
    assert [found[64 * i :][: len(one)] for i, one in enumerate(texts)] == texts


# ---- compression


def compress(cuda: CudaDevice, plain: list[bytes]) -> tuple[list[bytes], list[int]]:
    """What `Lane.compress` makes of strings that lie one behind the other, and which were at fault. What was
    not is decompressed again on the device."""
    from gpuzarr.device.base import Streams, Uncompressed
    from gpuzarr.testing.device import download

    lane = cuda.lane()
    nbytes = np.array([len(one) for one in plain], np.int64)
    largest, rows = int(nbytes.max()), len(plain)
    pitch = lane.compress_bound("zstd", largest)
    offset = np.arange(rows, dtype=np.int64) * pitch
    sizes, dst, again = lane.empty(8 * rows), lane.empty(rows * pitch), lane.empty(rows * pitch)
    strings = Uncompressed(
        src=lane.upload(np.frombuffer(b"".join(plain), np.uint8)),
        src_offset=np.cumsum(nbytes) - nbytes,
        src_nbytes=nbytes,
        dst=dst,
        dst_offset=offset,
        dst_nbytes=sizes,
        owner=np.arange(rows, dtype=np.int32),
        count=rows,
        largest=largest,
    )
    lane.compress("zstd", strings, lane.faults(rows))
    encoded, found = download(lane, dst), np.frombuffer(download(lane, sizes), np.int64)
    faults = lane.take_faults().tolist()
    assert found[faults].tolist() == [0] * len(faults)
    streams = [encoded[at:][:n] for at, n in zip(offset, found, strict=True)]
    rows_again = Streams(
        src=dst,
        src_offset=offset,
        src_nbytes=sizes,
        dst=again,
        dst_offset=offset,
        dst_nbytes=nbytes,
        owner=np.arange(rows, dtype=np.int32),
        count=rows,
        largest=largest,
        total=int(nbytes.sum()),
    )
    lane.decompress("zstd", rows_again, lane.faults(rows))
    decoded = download(lane, again)
    assert lane.take_faults().tolist() == faults
    for i, one in enumerate(plain):
        assert i in faults or decoded[offset[i] :][: len(one)] == one
    return streams, faults


@pytest.mark.parametrize(
    "nbytes", [1, 255, 256, 257, 4096, 65535, 65536, 65537, 65791, 65792, 131073, 1 << 20]
)
def test_strings_of_every_size(cuda: CudaDevice, nbytes: int) -> None:
    """Each becomes a frame that says its size, of at most the bound; one of less than 256 bytes may be left
    to the host."""
    texts = [
        plain(nbytes - i % 2, kind).tobytes() for i, kind in enumerate(("noise", "text", "same", "text") * 2)
    ]
    texts = [one for one in texts if one]
    streams, faults = compress(cuda, texts)
    bound = nvcomp.load().compress_bound("zstd", nbytes)
    for i, one in enumerate(texts):
        if i in faults:
            assert len(one) < 256
            continue
        assert bytes(numcodecs.zstd.decompress(streams[i])) == one
        assert len(streams[i]) <= bound


def test_compression_is_worth_it(cuda: CudaDevice) -> None:
    """Text about as well as the lowest level of the host's library, and noise hardly larger than it was."""
    texts = [plain(1 << 20, kind).tobytes() for kind in ("text", "same", "noise")]
    streams, faults = compress(cuda, texts)
    assert faults == []
    for one, stream in zip(texts, streams, strict=True):
        assert len(stream) < 1.3 * len(numcodecs.zstd.compress(one, 1)) + 1000


def test_one_huge_string(cuda: CudaDevice) -> None:
    """More than the 16 MiB that were once the limit."""
    values = plain(40 << 20, "text").tobytes()
    streams, faults = compress(cuda, [values])
    assert faults == []
    assert bytes(numcodecs.zstd.decompress(streams[0])) == values


def test_very_many_small_strings(cuda: CudaDevice) -> None:
    texts = [plain(300 + i % 50, "text").tobytes() for i in range(5000)]
    streams, faults = compress(cuda, texts)
    assert faults == []
    assert all(
        bytes(numcodecs.zstd.decompress(one)) == text for one, text in zip(streams, texts, strict=True)
    )


def test_what_a_compressor_asks_for(cuda: CudaDevice) -> None:
    """Once no more than a GiB, and with each frame no more than is counted."""
    from gpuzarr.codecs.zstd import zstd_compress_scratch

    library = nvcomp.load()

    def asked(count: int, nbytes: int) -> int:
        with cuda.using("asking nvCOMP"):
            return library.compress_scratch_nbytes("zstd", count, nbytes, count * nbytes)

    once = asked(1, 1)
    assert once <= 1 << 30
    for nbytes in (4096, 1 << 16, 1 << 20, 16 << 20, 64 << 20):
        for count in (1, 64, 1000):
            assert asked(count, nbytes) - once <= count * zstd_compress_scratch(nbytes), (count, nbytes)
