"""Reads on a real device: streams, memory, forks, threads, types. Values are compared with NumPy's."""

from __future__ import annotations

import gc
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numcodecs
import numpy as np
import pytest

import gpuzarr
from gpuzarr import ReadStats
from gpuzarr.device.cuda import CudaDevice
from gpuzarr.errors import ArgumentError, DeviceError
from tests.devices import as_given

VALUES = np.cumsum(np.random.default_rng(7).integers(-3, 4, (64, 96, 80)), axis=2).astype("<u2")
CHUNKS = (16, 32, 40)


def stored(
    values: np.ndarray = VALUES, chunks: tuple[int, ...] = CHUNKS, codec: Any = None
) -> dict[str, bytes]:
    """A v2 array; its shape is whole chunks."""
    document = {
        "zarr_format": 2,
        "shape": values.shape,
        "chunks": chunks,
        "dtype": values.dtype.descr if values.dtype.names else values.dtype.str,
        "compressor": codec and codec.get_config(),
        "filters": None,
        "fill_value": None,
        "order": "C",
    }
    objects = {".zarray": json.dumps(document).encode()}
    for place in np.ndindex(*(n // c for n, c in zip(values.shape, chunks, strict=True))):
        box = tuple(slice(i * c, (i + 1) * c) for i, c in zip(place, chunks, strict=True))
        part = np.ascontiguousarray(values[box]).tobytes()
        objects[".".join(map(str, place)) or "0"] = bytes(codec.encode(part)) if codec else part
    return objects


def on_gpu(objects: dict[str, bytes]) -> gpuzarr.Array:
    return gpuzarr.open_array(objects, device="cuda")


BLOSC = stored(codec=numcodecs.Blosc("lz4", 5, 1))


def test_a_result_is_a_cupy_array(cuda: CudaDevice) -> None:
    import cupy

    array = on_gpu(BLOSC)
    found = array[...]
    assert array.device == cuda.name == "cuda:0"
    assert isinstance(found, cupy.ndarray)
    assert found.flags.c_contiguous
    assert (found.get() == VALUES).all()


def test_results_can_be_used_on_any_stream_at_once() -> None:
    """A read returns when its result is there."""
    import cupy

    array, other = on_gpu(BLOSC), cupy.cuda.Stream(non_blocking=True)
    for _ in range(20):
        found = array[...]
        with other:
            copied = found + 0
        other.synchronize()
        assert (copied.get() == VALUES).all()


@pytest.mark.parametrize("non_blocking", [False, True])
def test_what_the_callers_stream_still_does_to_out_comes_first(non_blocking: bool) -> None:
    """`out` is written to when it is the read's turn, not sooner."""
    import cupy

    array, stream = on_gpu(BLOSC), cupy.cuda.Stream(non_blocking=non_blocking)
    slow = cupy.empty(1 << 28, np.uint8)
    with stream:
        out = cupy.empty(VALUES.shape, VALUES.dtype)
        for _ in range(40):
            slow[: 1 << 27] = slow[1 << 27 :]
        out.fill(7)
        assert array.read(out=out) is out
        after = out + 0
    stream.synchronize()
    assert (out.get() == VALUES).all()
    assert (after.get() == VALUES).all()


def test_out_of_any_strides() -> None:
    """Every second element of a larger array, backwards, transposed; nothing beside it is written."""
    import cupy

    larger = cupy.zeros(tuple(2 * n + 1 for n in VALUES.shape[::-1]), VALUES.dtype)
    out = larger[tuple(slice(2 * n, 0, -2) for n in VALUES.shape[::-1])].T
    on_gpu(BLOSC).read(out=out)
    assert (out.get() == VALUES).all()
    out.fill(0)
    assert not larger.get().any()


def test_out_elsewhere_is_refused() -> None:
    import cupy

    with pytest.raises(ArgumentError, match="not an array on cuda:0"):
        on_gpu(BLOSC).read(out=np.empty_like(VALUES))
    with pytest.raises(ArgumentError, match="type"):
        on_gpu(BLOSC).read(out=cupy.empty(VALUES.shape, "i4"))


@pytest.mark.parametrize("wave_nbytes", [1 << 12, 1 << 20])
def test_waves_overlap_and_do_not_mix(wave_nbytes: int) -> None:
    stats = ReadStats()
    with gpuzarr.configured(wave_nbytes=wave_nbytes, strict=1):
        array = on_gpu(BLOSC)
        for _ in range(5):
            assert (array.read(stats=stats).get() == VALUES).all()
    assert stats.waves > 5


def test_memory_is_given_back() -> None:
    """After reads, only their results are in use."""
    import cupy

    array, pool = on_gpu(BLOSC), cupy.get_default_memory_pool()
    array.read()
    gc.collect()
    before = pool.used_bytes()
    found = [array.read() for _ in range(8)]
    gc.collect()
    assert pool.used_bytes() - before <= sum(-(-one.nbytes // 512) * 512 for one in found)
    del found
    gc.collect()
    assert pool.used_bytes() == before


def test_memory_is_given_back_after_an_error() -> None:
    import cupy

    damaged = dict(BLOSC) | {"1.1.1": BLOSC["1.1.1"][:-9]}
    array, pool = on_gpu(damaged), cupy.get_default_memory_pool()
    gc.collect()
    before = pool.used_bytes()
    for _ in range(3):
        with pytest.raises(gpuzarr.GpuzarrError, match=r"chunk 1\.1\.1"):
            array.read()
        gc.collect()
    assert pool.used_bytes() == before
    assert (on_gpu(BLOSC)[...].get() == VALUES).all()


def test_threads_share_a_device() -> None:
    array = on_gpu(BLOSC)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: (i, array[i % 64].get()), range(64)))
    assert all((found == VALUES[i % 64]).all() for i, found in results)


def test_a_forked_process_is_told(cuda: CudaDevice) -> None:
    """CUDA does not survive a fork: reading there is an error that says so, not a hang."""
    array = on_gpu(BLOSC)
    array.read()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            array.read()
        except DeviceError as error:
            os._exit(0 if "fork" in str(error) else 3)
        except BaseException:
            os._exit(4)
        os._exit(5)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert (array.read().get() == VALUES).all()


TYPES = ["?", "i1", "u1", "<i2", ">u2", "<f2", "<f4", ">f4", "<f8", ">f8", "<c8", ">c16", "<u8"]
WITHOUT_OWN_FORM = ["<M8[s]", ">m8[ns]", "S3", "<U2", "V5", [("a", "<i2"), ("b", "<f8")]]


@pytest.mark.parametrize("dtype", [*TYPES, *WITHOUT_OWN_FORM], ids=str)
def test_types(cuda: CudaDevice, dtype: Any) -> None:
    """Types that CuPy lacks come as numbers of the same bytes."""
    rng = np.random.default_rng(3)
    raw = rng.integers(0, 2 if dtype == "?" else 90, (6, 8, np.dtype(dtype).itemsize), np.uint8)
    values = raw.view(np.dtype(dtype)).reshape(6, 8)
    if np.dtype(dtype).kind == "U":
        values = rng.integers(0, 99, (6, 8)).astype(dtype)
    found = on_gpu(stored(values, (3, 4))).read(np.s_[1:, ::2])
    expected = as_given(values[1:, ::2], cuda.name)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert found.get().tobytes() == expected.tobytes()
    assert (found.dtype == np.dtype(dtype).newbyteorder("=")) == (dtype in TYPES)


def test_results_larger_than_four_gigabytes(cuda: CudaDevice) -> None:
    """Offsets are 64 bits wide; a missing chunk is the fill value."""
    import cupy

    if cupy.cuda.runtime.memGetInfo()[0] < 24 << 30:
        pytest.skip("needs 24 GB of free device memory")
    plane = np.arange(1 << 26, dtype=np.uint32) * 2654435761
    document = json.loads(stored(plane, plane.shape)[".zarray"])
    document |= {"shape": [20, 1 << 26], "chunks": [1, 1 << 26], "fill_value": 5}
    objects = {".zarray": json.dumps(document).encode()}
    objects |= {f"{i}.0": plane.tobytes() for i in (0, 19)}
    found = on_gpu(objects)[...]
    for i in (0, 1, 19):
        assert np.array_equal(found[i].get(), plane if i in (0, 19) else np.full_like(plane, 5))
    del found
    cupy.get_default_memory_pool().free_all_blocks()
