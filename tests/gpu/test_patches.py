"""Many boxes at once on a real device: what the host gives, bit by bit, in every mode, as every type, with a
cache and without; the order of streams; memory."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numcodecs
import numpy as np
import pytest

import gpuzarr
from gpuzarr import ReadStats
from gpuzarr.device.cuda import CudaDevice
from gpuzarr.engine import cache
from gpuzarr.errors import ArgumentError, ChunkError
from tests.devices import as_given, on_device
from tests.gpu import work
from tests.gpu.work import real, slow

SHAPE, CHUNKS, BOX = (14, 37, 41), (4, 10, 12), (5, 12, 9)
MODES = ("error", "constant", "edge", "reflect", "wrap")
INSIDE = np.stack([np.random.default_rng(n).integers(0, SHAPE[n] - BOX[n] + 1, 20) for n in range(3)], axis=1)
OVER = np.stack([np.random.default_rng(n).integers(-4, SHAPE[n] - BOX[n] + 5, 20) for n in range(3)], axis=1)
"""Origins of boxes that lie inside of the array, and of such that reach over its edges."""

CHAINS: dict[str, dict[str, Any]] = {
    "raw": {"codecs": None},
    "lz4": {"codecs": [numcodecs.LZ4()]},
    "zstd": {"codecs": ["zstd"]},
    "gzip": {"codecs": ["gzip"]},
    "blosc bytes": {"codecs": [numcodecs.Blosc("lz4", 5, 1)]},
    "blosc bits": {"codecs": [numcodecs.Blosc("zstd", 5, 2)]},
    "sharded": {"codecs": [numcodecs.Blosc("lz4", 5, 1)], "shards": (8, 20, 24)},
    "transposed": {"codecs": [{"name": "transpose", "configuration": {"order": [2, 0, 1]}}, "zstd"]},
    "host": {"codecs": [numcodecs.BZ2()], "zarr_format": 2},
}
SOME_CHAINS = [*(name if name in ("raw", "blosc bytes", "sharded") else slow(name) for name in CHAINS)]
KINDS = ["?", slow("u1"), slow("<i2"), ">u2", slow(">i4"), slow("u8"), slow("<f2"), ">f4", slow("f8")]


@pytest.fixture(autouse=True)
def _nothing_is_cached() -> Iterator[None]:
    cache.clear()
    yield
    cache.clear()


def stored(dtype: str = "<u2", **options: Any) -> dict[str, bytes]:
    """An array that the host wrote, one of its chunks missing. Its values have all sorts of bits, of which
    floats make NaNs, infinities and what lies below the least normal number."""
    objects: dict[str, bytes] = {}
    kind = np.dtype(dtype)
    bits = np.random.default_rng(kind.itemsize).integers(0, 256, (*SHAPE, kind.itemsize), dtype=np.uint8)
    values = bits[..., 0] > 99 if dtype == "?" else bits.view(kind)[..., 0]
    made = gpuzarr.create_array(
        objects, shape=SHAPE, dtype=dtype, chunks=CHUNKS, fill_value=1, device="cpu", **options
    )
    made[...] = values
    if "shards" not in options:
        del objects[next(key for key in objects if key.endswith(("1/1/2", "1.1.2")))]
    return objects


def same(objects: dict[str, bytes], origins: Any = OVER, box: Any = BOX, **options: Any) -> ReadStats:
    """The device's boxes are the host's, and all chunks were decoded by it or kept there."""
    host = gpuzarr.open_array(objects, device="cpu")
    expected = host.patches(origins, box, **options)
    stats = ReadStats()
    with gpuzarr.configured(strict=1):
        found = gpuzarr.open_array(objects, device="cuda").patches(origins, box, stats=stats, **options)
    given = found.get()
    assert (given.shape, given.dtype) == (expected.shape, expected.dtype)
    assert given.tobytes() == expected.tobytes()
    return stats


# ---- values


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SOME_CHAINS)
def test_boxes_are_those_of_the_host(name: str, mode: str) -> None:
    """As they are stored; then converted, channels last."""
    objects, origins = stored(**CHAINS[name]), INSIDE if mode == "error" else OVER
    options: dict[str, Any] = {"mode": mode, **({"fill": 7} if mode == "constant" else {})}
    stats = same(objects, origins, **options)
    assert stats.on_host == 0 or name == "host"
    same(objects, origins, dtype="f2", scale=1 / 65535, offset=-0.5, axes=(1, 2, 0), **options)


@pytest.mark.parametrize("mode", MODES[1:])
def test_boxes_are_those_of_numpy(mode: str) -> None:
    """Slices of the padded array."""
    objects = stored(**CHAINS["blosc bytes"])
    values = gpuzarr.open_array(objects, device="cpu")[...]
    padding: dict[str, Any] = {"constant_values": 1} if mode == "constant" else {}
    padded = np.pad(values, 8, mode=mode, **padding)  # type: ignore[call-overload]
    cuts = [tuple(slice(8 + at, 8 + at + n) for at, n in zip(row, BOX, strict=True)) for row in OVER.tolist()]
    found = gpuzarr.open_array(objects, device="cuda").patches(OVER, BOX, mode=mode).get()
    assert np.array_equal(found, np.stack([padded[cut] for cut in cuts]))


@pytest.mark.parametrize("to", ["f2", "f4", "f8"])
@pytest.mark.parametrize("dtype", KINDS)
def test_any_type_to_any(dtype: str, to: str) -> None:
    """Each step rounds once: products and sums are not fused, denormal numbers are kept, NaNs are the plain
    one."""
    objects = stored(dtype, **CHAINS["raw"])
    for scale, offset in ((None, None), (1 / 255, None), (0.1, -1 / 3), (None, 1e-40)):
        same(objects, mode="edge", dtype=to, scale=scale, offset=offset)


@real
@pytest.mark.parametrize(("dtype", "to"), [("<f2", "f4"), ("<f2", "f8"), ("<u2", "f2"), ("<i2", "f2")])
def test_every_value_of_two_bytes(dtype: str, to: str) -> None:
    values = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256).view(dtype)
    objects: dict[str, bytes] = {}
    gpuzarr.save(objects, values, chunks=(100, 100), device="cpu")
    for scale, offset in ((None, None), (3.1, -7.7), (1e-7, None), (1e5, 0.1)):
        same(objects, [[0, 0]], (256, 256), dtype=to, scale=scale, offset=offset)


@real
@pytest.mark.parametrize(
    ("dtype", "to"), [("<f4", "f2"), ("<f8", "f2"), ("<f8", "f4"), ("<u8", "f4"), ("<i8", "f8")]
)
def test_a_million_values(dtype: str, to: str) -> None:
    """Bits at random, and floats around each power of two."""
    kind, rng = np.dtype(dtype), np.random.default_rng(5)
    bits = rng.integers(0, 256, (1000, 1000, kind.itemsize), dtype=np.uint8)
    values = bits.view(kind)[..., 0].copy()
    if kind.kind == "f":
        powers = rng.integers(-150, 130, (500, 1000)) * 1.0
        with np.errstate(all="ignore"):
            values[:500] = (rng.normal(size=powers.shape) * 2**powers).astype(kind)
    objects: dict[str, bytes] = {}
    gpuzarr.save(objects, values, chunks=(300, 300), device="cpu")
    for scale, offset in ((None, None), (0.3, 1e-3)):
        same(objects, [[0, 0]], (1000, 1000), dtype=to, scale=scale, offset=offset)


@pytest.mark.parametrize("dtype", ["<M8[s]", "S3", "V5", "<c8"])
def test_types_without_a_form_of_their_own(cuda: CudaDevice, dtype: str) -> None:
    kind = np.dtype(dtype)
    bits = np.random.default_rng(1).integers(0, 90, (9, 11, kind.itemsize), np.uint8)
    values, objects = bits.view(kind)[..., 0], {}  # type: ignore[var-annotated]
    gpuzarr.save(objects, values, chunks=(4, 5), zarr_format=2, device="cpu")
    found = gpuzarr.open_array(objects, device="cuda").patches([[-1, 3], [6, 8]], (5, 4), mode="wrap")
    expected = gpuzarr.open_array(objects, device="cpu").patches([[-1, 3], [6, 8]], (5, 4), mode="wrap")
    assert found.get().tobytes() == as_given(expected, cuda.name).tobytes()


def test_boxes_of_chosen_channels_and_of_nothing() -> None:
    objects = stored(**CHAINS["zstd"])
    same(objects, OVER[:, 1:], ([3, 0, -1, 3], *BOX[1:]), mode="reflect", dtype="f4", axes=(1, 2, 0))
    same(objects, OVER[:, 2:], (*SHAPE[:2], 6), mode="edge")
    same(objects, np.zeros((0, 3), np.int64), BOX, dtype="f4", axes=(2, 1, 0))
    same(objects, OVER, (4, 0, 4), mode="wrap")
    same(objects, [[100, 0, 0]], (2, 2, 2), mode="constant", fill=9)


def test_a_damaged_chunk_is_named() -> None:
    objects = stored(**CHAINS["zstd"])
    key = "c/0/0/0"
    objects[key] = objects[key][:-5]
    array, before = gpuzarr.open_array(objects, device="cuda"), work.in_use()
    with pytest.raises(ChunkError, match=key):
        array.patches(OVER, BOX, mode="edge", cache=True)
    assert work.in_use() == before
    same(objects, [[8, 20, 20]])


# ---- the cache


@pytest.mark.parametrize("name", SOME_CHAINS)
def test_what_was_kept_is_what_was_read(name: str) -> None:
    """From the second time on nothing is asked of the store, in any mode, as any type."""
    objects = stored(**CHAINS[name])
    first = same(objects, cache=True, mode="wrap")
    assert first.requests > 0
    same(objects, INSIDE, cache=True)
    options: dict[str, Any]
    for mode, options in (
        ("wrap", {}),
        ("edge", {"dtype": "f4", "scale": 0.5}),
        ("reflect", {"axes": (2, 0, 1)}),
    ):
        stats = same(objects, INSIDE, cache=True, mode=mode, **options)
        assert (stats.requests, stats.chunks) == (0, 0)
        assert stats.hits > 0


def test_a_cache_that_is_too_small_forgets() -> None:
    """Chunks come and go; values stay right."""
    objects = stored(**CHAINS["blosc bytes"])
    with gpuzarr.configured(device_cache_nbytes=8000, cache_nbytes=8000):
        for _ in range(3):
            same(objects, cache=True, mode="wrap")
            same(objects, INSIDE[:3], cache=True)


def test_what_the_device_writes_is_forgotten() -> None:
    objects = stored(**CHAINS["blosc bytes"])
    writer = gpuzarr.open_array(objects, mode="r+", device="cuda")
    same(objects, cache=True, mode="edge")
    new = np.arange(6 * 7 * 8, dtype="<u2").reshape(6, 7, 8)
    writer[1:7, 8:15, 9:17] = on_device(new, "cuda")
    stats = same(objects, cache=True, mode="edge")
    assert stats.hits > 0
    assert stats.requests > 0
    found = gpuzarr.open_array(objects, device="cuda").patches([[1, 8, 9]], (6, 7, 8), cache=True)
    assert np.array_equal(found.get()[0], new)


def test_memory_of_the_cache_is_given_back() -> None:
    objects = stored(**CHAINS["blosc bytes"])
    array, before = gpuzarr.open_array(objects, device="cuda"), work.in_use()
    array.patches(OVER, BOX, mode="wrap", cache=True)
    assert work.in_use() > before
    cache.clear()
    assert work.in_use() == before


def test_threads_share_the_cache() -> None:
    """With streams of their own, and room for a third of the chunks."""
    objects = stored(**CHAINS["blosc bytes"])
    array = gpuzarr.open_array(objects, device="cuda")
    host = gpuzarr.open_array(objects, device="cpu")
    expected = host.patches(OVER, BOX, mode="wrap", dtype="f4")

    def turn(i: int) -> bool:
        mine = np.random.default_rng(i).permutation(len(OVER))[:7]
        with work.stream():
            found = array.patches(OVER[mine], BOX, mode="wrap", dtype="f4", cache=i % 3 > 0)
            return bool(found.get().tobytes() == expected[mine].tobytes())

    with gpuzarr.configured(device_cache_nbytes=20_000, strict=1), ThreadPoolExecutor(4) as pool:
        assert all(pool.map(turn, range(12)))


# ---- out, order, memory


@pytest.mark.parametrize("options", [{}, {"dtype": "f4"}, {"dtype": "f2"}, {"axes": (1, 2, 0)}], ids=str)
def test_out_of_any_strides(cuda: CudaDevice, options: dict[str, Any]) -> None:
    """Every second value of a larger array; nothing beside it is written."""
    objects = stored(**CHAINS["blosc bytes"])
    expected = gpuzarr.open_array(objects, device="cpu").patches(OVER, BOX, mode="edge", **options)
    shape = (*expected.shape[:-1], 2 * expected.shape[-1])
    larger = on_device(np.full(shape, 3, expected.dtype), cuda.name)
    array = gpuzarr.open_array(objects, device="cuda")
    out = larger[..., ::2]
    assert array.patches(OVER, BOX, mode="edge", out=out, **options) is out
    assert larger.get()[..., ::2].tobytes() == expected.tobytes()
    assert (larger.get()[..., 1::2] == 3).all()
    with pytest.raises(ArgumentError, match="out is"):
        array.patches(OVER[:-1], BOX, mode="edge", out=out, **options)


@pytest.mark.parametrize("options", [{}, {"dtype": "f2"}, {"dtype": "f4"}, {"cache": True}], ids=str)
def test_what_the_callers_stream_still_does_to_out_comes_first(options: dict[str, Any]) -> None:
    """And what it does afterwards comes behind."""
    objects, stream = stored(**CHAINS["blosc bytes"]), work.stream()
    array = gpuzarr.open_array(objects, device="cuda")
    expected = gpuzarr.open_array(objects, device="cpu").patches(OVER, BOX, mode="edge", **options)
    with stream:
        out = on_device(np.zeros_like(expected), "cuda")
        after = on_device(np.zeros_like(expected), "cuda")
        for n in range(3):
            work.busy()
            out.fill(n)
            array.patches(OVER, BOX, mode="edge", out=out, **options)
            after[...] = out
            out.fill(7)
            assert after.get().tobytes() == expected.tobytes()


@pytest.mark.parametrize("options", [{}, {"dtype": "f4"}, {"cache": True, "dtype": "f2"}], ids=str)
def test_memory_is_flat(options: dict[str, Any]) -> None:
    """After reads, only their results are in use, and what the cache holds."""
    array = gpuzarr.open_array(stored(**CHAINS["blosc bits"]), device="cuda")
    for _ in range(min(work.MANY, 3)):
        array.patches(OVER, BOX, mode="wrap", **options)
    before, held = work.in_use(), work.held()
    for i in range(work.MANY):
        array.patches(OVER[: 5 + i % 9], BOX, mode="wrap", **options)
        array.patches(OVER, BOX, mode="wrap", **options)
    assert work.in_use() == before
    assert work.held() <= max(2 * held, held + (64 << 20))


@real
def test_results_larger_than_four_gigabytes(cuda: CudaDevice) -> None:
    """Offsets are 64 bits wide, of boxes as of what is converted."""
    import cupy

    if work.free() < 40 << 30:
        pytest.skip("needs 40 GB of free device memory")
    side = 1 << 15
    row = np.arange(side, dtype=np.uint8) * 7
    objects: dict[str, bytes] = {}
    options: dict[str, Any] = {"chunks": (1024, side), "codecs": None, "fill_value": 5, "device": "cpu"}
    made = gpuzarr.create_array(objects, shape=(2 * side, side), dtype="u1", **options)
    made[-1] = row
    array = gpuzarr.open_array(objects, device=cuda.name)
    origins = [[0, 0]] * 4 + [[side, 0]]
    for found in (array.patches(origins, (side, side)), array.patches(origins, (side, side), scale=2)):
        factor = 1 if found.dtype == np.uint8 else 2
        assert found.nbytes > 1 << 32
        assert np.array_equal(found[4, -1].get(), factor * row.astype(found.dtype))
        assert bool((found[4, -2] == 5 * factor).all())
        assert bool((found[0, -1] == 5 * factor).all())
        assert bool((found[3, 0] == 5 * factor).all())
        del found
    cupy.get_default_memory_pool().free_all_blocks()
