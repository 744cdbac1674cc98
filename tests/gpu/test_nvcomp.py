"""Real nvCOMP: every algorithm, every kind of stream that is handed to it, values compared with what was
compressed; what it must not see stays away from it."""

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
