"""Device cuda over a machine that stands in for CuPy (tests/fake_cupy.py), and that machine beside CuPy."""

from __future__ import annotations

import ctypes
import gzip
import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numcodecs
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

import gpuzarr
from gpuzarr import ReadStats, config
from gpuzarr.device import catalogue, cuda, cuda_memory, nvrtc
from gpuzarr.device.base import Uncompressed
from gpuzarr.device.choose import choose
from gpuzarr.device.cuda import CudaDevice
from gpuzarr.device.cuda_memory import CudaBuffer, extent, form
from gpuzarr.errors import ArgumentError, DeviceError, GpuzarrError, LimitError, MissingDependencyError
from gpuzarr.testing.device import DeviceContract, download, swap
from tests import devices, fake_cupy
from tests.fake_cupy import CUDADriverError, CUDARuntimeError, Machine, install

pytestmark = pytest.mark.skipif(
    bool(devices.CHOSEN), reason=f"of a stand-in for CuPy; this run is of {', '.join(devices.CHOSEN)}"
)


@pytest.fixture(params=fake_cupy.ORDERS)
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with one GPU, in each order."""
    return install(monkeypatch, request.param)


def device() -> CudaDevice:
    return CudaDevice.named("cuda")


@pytest.mark.usefixtures("machine")
class TestContract(DeviceContract):
    """What every device does."""

    def device(self) -> CudaDevice:
        return device()

    def to_host(self, array: Any) -> NDArray[Any]:
        return array.get()


# ---- the stand-in is like CuPy


def real_cupy() -> Any:
    try:
        return importlib.import_module("cupy")
    except ImportError:
        pytest.skip("CuPy is not installed: nothing to compare with")


def parameters(function: Any, name: str) -> list[str] | None:
    """Parameter names, of a C function from the first line of its docstring; None: it does not say."""
    try:
        found = list(inspect.signature(function).parameters)
        if "args" not in found:
            return found
    except (TypeError, ValueError):
        pass
    line = (function.__doc__ or "").strip().split("\n")[0]
    said = re.search(rf"\b(?:{name}|__init__)\(([^()]*)\)", line)
    if said is None:
        return None
    return [one.split("=")[0].split()[-1] for one in said[1].split(",") if one.strip()]


@pytest.mark.parametrize(("path", "fake"), fake_cupy.tree().items(), ids=fake_cupy.tree())
def test_names_and_parameters_are_those_of_cupy(path: str, fake: Any) -> None:
    """So are public methods and attributes. The stand-in may know fewer parameters, in the same order."""
    real = real_cupy()
    for name in path.split("."):
        real = getattr(real, name)
    if not callable(fake):
        assert (type(real), int(real)) == (type(fake), int(fake))
        return
    assert (
        issubclass(real, BaseException) == issubclass(fake, BaseException) if inspect.isclass(fake) else True
    )
    pairs = [(path.split(".")[-1], real, fake)]
    if inspect.isclass(fake):
        members = {name for name in vars(fake) if not name.startswith("_")}
        assert {name for name in members if not hasattr(real, name)} == set()
        pairs += [
            (name, getattr(real, name), getattr(fake, name)) for name in members if callable(vars(fake)[name])
        ]
    for name, theirs, ours in pairs:
        known = parameters(theirs, name)
        if known is None:
            assert path in ("cuda.Function",), f"CuPy does not say what {path} takes"
            continue
        mine = [one for one in parameters(ours, name) or [] if not one.startswith("_")]
        assert [one for one in known if one in mine] == mine, (name, known)


def test_attributes_are_those_of_cupy() -> None:
    """Those that objects have, and classes do not show."""
    cupy = real_cupy()
    plain = np.arange(24, dtype=np.int32).reshape(4, 6)
    memory = cupy.cuda.UnownedMemory(plain.ctypes.data, plain.nbytes, plain, 0)
    pointer = cupy.cuda.MemoryPointer(memory, 0)
    array = cupy.ndarray((4, 6), np.int32, pointer)  # of host memory, which nothing here looks at
    for theirs, ours in ((pointer, ("ptr", "mem", "device_id")), (memory, ("ptr", "size", "device_id"))):
        assert all(hasattr(theirs, name) for name in ours)
    assert (array.data.ptr, array.device.id, type(array.data.ptr)) == (plain.ctypes.data, 0, int)
    for key in (np.s_[:], np.s_[::-1, ::-2], np.s_[1:3, 2:], np.s_[:0]):
        part, same = array[key], plain[key]
        assert (part.shape, part.dtype) == (same.shape, same.dtype)
        if same.size:
            assert part.strides == same.strides
            assert part.data.ptr == same.__array_interface__["data"][0]
            low, high = extent(part.shape, part.strides, 4)
            assert plain.ctypes.data <= part.data.ptr + low < part.data.ptr + high <= plain.ctypes.data + 96


def test_pinned_memory_is_a_buffer_of_cupy() -> None:
    """CuPy's pointer to pinned memory, here over plain memory, keeps what NumPy sees alive."""
    cupy = real_cupy()

    class Plain:
        def __init__(self) -> None:
            self.buffer = ctypes.create_string_buffer(1024)
            self.ptr, self.size = ctypes.addressof(self.buffer), 1024

    alive: list[int] = []

    class Counted(Plain):
        def __del__(self) -> None:
            alive.append(1)

    pool = cuda_memory.Pinned(lambda nbytes: cupy.cuda.PinnedMemoryPointer(Counted(), 0), lambda: 1 << 20)
    block = pool.take(1000)
    assert block.flags.writeable
    block[:4] = 1, 2, 3, 4
    assert block[:1024].ctypes.data == block.ctypes.data
    part = block[2:4]
    del block
    assert (part.tolist(), alive) == ([3, 4], [])
    del part
    assert alive == [1]


@pytest.mark.skipif(cuda._driver() != 0, reason="there is an NVIDIA driver")
def test_cupy_without_a_driver() -> None:
    """The real thing says what is missing, and `auto` means the CPU."""
    real_cupy()
    with pytest.raises(DeviceError, match=r"no NVIDIA driver here .*device=.cpu"):
        CudaDevice.named("cuda:0")
    assert "no NVIDIA driver" in (CudaDevice.works() or "")
    assert choose("auto").name == config.current().device.replace("auto", "cpu")


def test_cupy_is_not_imported_before_it_is_used() -> None:
    """And `auto` looks for a driver first."""
    code = (
        "import sys, gpuzarr; from gpuzarr.device import cuda; cuda._driver = lambda: 0\n"
        "print(cuda.CudaDevice.works(), 'cupy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "no NVIDIA driver here (libcuda.so.1) False"


# ---- which device


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """One instance a device and process; `cuda` is the current one."""
    machine = install(monkeypatch, devices=2)
    assert CudaDevice.named("cuda") is CudaDevice.named("cuda:0")
    with machine.on(1):
        assert CudaDevice.named("cuda").name == "cuda:1"
    assert (choose("cuda:1").name, CudaDevice.works()) == ("cuda:1", None)
    for name in ("cuda:", "cuda:x", "cuda:-1", "cuda:01", "cuda:1 ", "cuda:٣", "cudA"):
        with pytest.raises(ArgumentError, match="cuda:N"):
            CudaDevice.named(name)
    with pytest.raises(DeviceError, match="no cuda:2; this machine has cuda:0, cuda:1"):
        CudaDevice.named("cuda:2")
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(CudaDevice.named, ["cuda:1"] * 50))) == 1


@pytest.mark.parametrize(
    ("settings", "kind", "said"),
    [
        ({"capability": "70"}, DeviceError, "compute capability 7.0, and 7.5 is needed"),
        ({"capability": "120"}, None, ""),
        ({"version": "13.5.1"}, DeviceError, r"CuPy 13.5.1 is older than 13.6; pip install .gpuzarr\[cuda1"),
        ({"version": "13.6.0"}, None, ""),
        ({"version": "14.2.0rc1"}, None, ""),
        ({"devices": 0}, DeviceError, "there is no CUDA device"),
    ],
)
def test_what_is_needed(
    settings: dict[str, Any], kind: type[Exception] | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named when it is missing."""
    install(monkeypatch, **settings)
    if kind is None:
        assert device().architecture == int(settings.get("capability", 90))
        return
    with pytest.raises(kind, match=said):
        device()
    assert re.search(said, CudaDevice.works() or "")


@pytest.mark.parametrize(
    ("driver", "error", "said"),
    [
        (0, 35, "no NVIDIA driver"),
        (12080, 35, r"does not start: cudaError35.* CUDA 12.8\); update the driver, or pip .*cuda12\]"),
        (13000, 3, "spawn"),
    ],
)
def test_cuda_does_not_start(driver: int, error: int, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why, and what to do."""
    machine = install(monkeypatch)
    machine.driver = driver
    machine.fail["getDeviceCount"] = CUDARuntimeError(error)
    with pytest.raises(DeviceError, match=said):
        device()


def test_no_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra fits the driver."""
    machine = install(monkeypatch)
    monkeypatch.setitem(sys.modules, "cupy", None)
    for machine.driver, extra in ((12040, "cuda12"), (13010, "cuda13"), (0, "cuda13")):
        with pytest.raises(MissingDependencyError, match=rf"not installed; pip install .gpuzarr\[{extra}\]"):
            device()
    machine.driver = 13000
    assert "CuPy is not installed" in (CudaDevice.works() or "")


def test_cupy_for_rocm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is another thing."""
    install(monkeypatch)
    monkeypatch.setattr(sys.modules["cupy"].cuda.runtime, "is_hip", True)
    with pytest.raises(DeviceError, match="ROCm"):
        device()


def test_works_asks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever happens it does not raise."""
    machine = install(monkeypatch)
    machine.fail["getDeviceCount"] = RuntimeError("of some other kind")
    assert "of some other kind" in (CudaDevice.works() or "")
    assert CudaDevice.works() == CudaDevice.works()
    assert machine.calls == ["getDeviceCount"]
    monkeypatch.setattr(cuda, "_trouble", None)
    monkeypatch.setattr(nvrtc, "load", lambda major=None: 1 // 0)
    assert "division" in (CudaDevice.works() or "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child is told what happened, whatever it asks; and asks nothing of CUDA when lanes are dropped."""
    machine = install(monkeypatch)
    parent, lanes = device(), [device().lane()]
    asks = (
        lambda: CudaDevice.named("cuda"),
        parent.lane,
        lambda: parent.empty_array((3,), np.dtype("u1")),
        lambda: parent.staging().take(5),
        lambda: lanes[0].upload(np.zeros(3, np.uint8)),
        lanes[0].synchronize,
    )
    read, write = os.pipe()
    child = os.fork()
    if not child:
        said, before = "", len(machine.calls)
        for ask in asks:
            try:
                ask()
                said += "nothing;"
            except BaseException as error:
                said += f"{type(error).__name__}: {error};"
        lanes.clear()
        said += f"{CudaDevice.works()};{len(machine.calls) - before}"
        os.write(write, said.encode())
        os._exit(0)
    os.waitpid(child, 0)
    found = os.read(read, 10000).decode().split(";")
    assert found[-1] == "0"
    assert sum("DeviceError: CUDA does not survive a fork" in one for one in found) == len(asks)
    assert "spawn" in found[-2]
    lanes[0].synchronize()


# ---- lanes


def verdict(lane: Any, wrong: list[int], count: int = 300) -> None:
    """A kernel that finds fault with these chunks."""
    statuses = np.zeros(count, np.int32)
    statuses[wrong] = 1
    nine = np.full(count, 9, np.int64)
    lane.launch(
        "gz_verdict",
        -(-count // 64),
        64,
        written=nine.astype(np.uint64),
        statuses=statuses,
        expected=nine,
        owner=np.arange(count, dtype=np.int32),
        fault=lane.faults(count),
        streams=count,
    )


def test_a_wave_costs_few_calls(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """One copy for all host arrays of all launches, one of the staging memory, one memset for all faults."""
    machine = install(monkeypatch, machine.order, small=False)
    lane, staging = device().lane(), device().staging()
    _, memory = staging.take(100_000)
    memory[:] = np.arange(100_000) % 251
    ((_, block),) = staging.blocks
    chunks = lane.upload(block)
    out = swap(lane, chunks, 25_000)
    verdict(lane, [3, 7])
    verdict(lane, [299, 3])
    assert machine.calls.count("alloc") == 1
    machine.calls.clear()
    lane.submit()
    assert machine.calls == ["to device", "to device", "gz_byteswap", "memset", "gz_verdict", "gz_verdict"]
    machine.calls.clear()
    lane.submit()
    lane.synchronize()
    assert machine.calls == ["alloc_pinned_memory", "to host", "synchronize"]
    assert lane.take_faults().tolist() == [3, 7, 299]
    assert download(lane, out) == (np.arange(100_000) % 251).astype("u1").view("<u4").byteswap().tobytes()


def test_pages_are_not_rewritten_before_they_are_copied(machine: Machine) -> None:
    """Arrays of several submits, some larger than a page, and one that changes behind the call."""
    lane, rng = device().lane(), np.random.default_rng(1)
    sources = [rng.integers(0, 256, n, np.uint8) for n in (5, 4000, 100, 9000, 1, 3000, 0, 50_000, 70)]
    taken = []
    for source in sources:
        given = source.copy()
        taken.append(lane.upload(given))
        given[:] = 0
        lane.submit()
    into = [np.zeros(source.nbytes, np.uint8) for source in sources]
    for buffer, host in zip(taken, into, strict=True):
        lane.download(buffer, host)
    lane.synchronize()
    assert all((host == source).all() for host, source in zip(into, sources, strict=True))
    lane.reset()
    with pytest.raises(DeviceError, match="after it was given back"):
        lane.download(taken[0], into[0])


def test_what_is_added_to_a_page_is_sent_alone(machine: Machine) -> None:
    """And not what lies behind the page."""
    lane, staging = device().lane(), device().staging()
    _, staged = staging.take(4096)
    staged[:] = 2
    halves = [lane.upload(np.full(2048, 1, np.uint8))]
    behind = lane.upload(staged)
    lane.submit()
    halves.append(lane.upload(np.full(1900, 3, np.uint8)))
    assert download(lane, behind) == b"\2" * 4096
    assert [download(lane, half) for half in halves] == [b"\1" * 2048, b"\3" * 1900]


def test_uploads_into_memory_keep_their_order(machine: Machine) -> None:
    """Behind a launch that reads what was there, whether packed or straight from staging memory."""
    lane, staging = device().lane(), device().staging()
    old, new = (np.arange(1024, dtype="<u4") + n for n in (0, 5000))
    for staged in (False, True):
        source = new.view(np.uint8)
        if staged:
            _, source = staging.take(new.nbytes)
            source[:] = new.view(np.uint8)
        buffer = lane.upload(old)
        before = swap(lane, buffer, 1024)
        lane.upload(source, buffer)
        after = swap(lane, buffer, 1024)
        assert download(lane, before) == old.byteswap().tobytes()
        assert download(lane, after) == new.byteswap().tobytes()


def test_slabs(machine: Machine) -> None:
    """Several make way for one; a lane that is gone keeps no memory, and its stream serves the next one."""
    lane = device().lane()
    parts = [lane.empty(nbytes) for nbytes in (1000, 60_000, 60_000, 1, 300_000)]
    assert all(isinstance(part, CudaBuffer) and part.address % 256 == 0 for part in parts)
    assert lane.nbytes == 1024 + 2 * 60_160 + 256 + 300_032
    assert machine.calls.count("alloc") == 3
    assert {memory.stream for memory in machine.memory.values()} == {lane._stream}
    lane.reset()
    assert (lane.nbytes, machine.live_nbytes()) == (0, 0)
    for _ in range(3):
        for part in parts:
            lane.empty(part.nbytes)
        lane.synchronize()
        lane.reset()
    assert machine.calls.count("alloc") == 4
    assert machine.live_nbytes() == 421_632
    stream = lane._stream
    del lane
    assert machine.live_nbytes() == 0
    again, other = device().lane(), device().lane()
    assert stream in (again._stream, other._stream)
    assert again._stream != other._stream


def test_a_lane_that_is_left(machine: Machine) -> None:
    """Its work is waited for before its memory is used again."""
    array = device().empty_array((64,), np.dtype("<u4"))
    lane = device().lane()
    source, _, _ = device().memory(array)
    lane.launch(
        "gz_byteswap",
        1,
        64,
        src=np.arange(256, dtype=np.uint8),
        offset=np.zeros(1, np.int64),
        dst=source,
        items=64,
        unit=4,
    )
    lane.submit()
    lane.upload(np.zeros(9, np.uint8))
    del lane
    assert machine.live_nbytes() == 256
    assert array.get().tobytes() == np.arange(256, dtype=np.uint8).view("<u4").byteswap().tobytes()
    assert download(device().lane(), source) == array.get().tobytes()


def test_a_lane_starts_behind_the_current_stream(machine: Machine) -> None:
    """`out` may still be written there; and of another thread's stream it knows nothing."""
    out = device().empty_array((64,), np.dtype("<u4"))
    buffer, _, _ = device().memory(out)
    values = np.arange(64, dtype="<u4")

    def fill(host: NDArray[Any], number: int) -> None:
        host[:] = number

    for stream in (fake_cupy.get_current_stream(), fake_cupy.Stream(non_blocking=True)):
        with stream:
            stream._work.append(lambda: fill(out._host(), 77))  # queued, not yet run
            lane = device().lane()
            up = lane.upload(values)
            assert download(lane, buffer) == np.full(64, 77, "<u4").tobytes()
            lane.launch(
                "gz_byteswap", 1, 64, src=up, offset=np.zeros(1, np.int64), dst=buffer, items=64, unit=4
            )
            lane.synchronize()
            assert out.get().tobytes() == values.byteswap().tobytes()


def test_what_work_needs_lives_until_it_is_done(machine: Machine) -> None:
    """A result that nobody holds, a staging that is dropped: the queue holds them."""
    lane, staging = device().lane(), device().staging()
    array = device().empty_array((3000,), np.dtype("<u4"))
    target, _, _ = device().memory(array)
    _, memory = staging.take(12_000)
    memory[:] = 1
    source = lane.upload(memory)
    lane.launch(
        "gz_byteswap", 1, 64, src=source, offset=np.zeros(1, np.int64), dst=target, items=3000, unit=4
    )
    del array, target, staging, memory
    lane.submit()
    lane.synchronize()


def test_memory_of_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is refused; and work goes to the right device whatever is current."""
    machine = install(monkeypatch, devices=2)
    first, second = CudaDevice.named("cuda:0"), CudaDevice.named("cuda:1")
    array, lane, stranger = second.empty_array((3,), np.dtype("u1")), first.lane(), second.lane()
    assert (first.owns(array), second.owns(array)) == (False, True)
    for ask in (
        lambda: first.memory(array),
        lambda: lane.download(second.memory(array)[0], np.empty(3, np.uint8)),
        lambda: swap(lane, stranger.empty(4), 1),
        lambda: lane.upload(np.zeros(3, np.uint8), stranger.empty(3)),
    ):
        with pytest.raises(DeviceError, match="cuda:0"):
            ask()
    for current in (0, 1):
        with machine.on(current):
            for one in (first, second):
                fresh, values = one.lane(), np.arange(100, dtype="<u4")
                assert download(fresh, swap(fresh, fresh.upload(values), 100)) == values.byteswap().tobytes()
                assert machine.device == current


def test_threads(machine: Machine) -> None:
    """Each with lanes of its own, of one device; kernels are compiled once."""

    def work(seed: int) -> bool:
        lane = device().lane()
        for i in range(5):
            values = np.arange(500, dtype="<u4") * (seed + i)
            if download(lane, swap(lane, lane.upload(values), 500)) != values.byteswap().tobytes():
                return False
            lane.reset()
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(40)))
    assert machine.compiled == [("byteswap.cu", "sm_90")]


# ---- kernels


def test_compiled_when_first_launched(machine: Machine) -> None:
    """For the GPU that is there, a file once; and no blocks need none."""
    lane = device().lane()
    buffer, zero = lane.empty(8), np.zeros(1, np.int64)
    lane.launch("gz_byteswap", 0, 32, src=buffer, offset=zero, dst=buffer, items=0, unit=4)
    with pytest.raises(DeviceError, match="offset is not aligned"):
        lane.launch("gz_byteswap", 0, 32, src=buffer, offset=buffer.part(4, 4), dst=buffer, items=0, unit=4)
    assert machine.compiled == []
    swap(lane, buffer, 0)
    swap(lane, buffer, 1)
    verdict(lane, [])
    assert machine.compiled == [("byteswap.cu", "sm_90"), ("streams.cu", "sm_90")]
    lane.synchronize()


@pytest.mark.parametrize(
    ("capability", "goal"), [("75", "sm_75"), ("86", "sm_80"), ("103", "sm_100"), ("110", "compute_100")]
)
def test_for_which_architecture(capability: str, goal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler older than the GPU makes what runs there all the same."""
    machine = install(monkeypatch, capability=capability)
    lane = device().lane()
    assert download(lane, swap(lane, lane.upload(np.arange(9, dtype="<u4")), 9)).endswith(b"\0\0\0\x08")
    assert machine.compiled == [("byteswap.cu", goal)]


def test_code_that_the_driver_refuses(machine: Machine) -> None:
    """Says which compiler and driver do not go together."""
    machine.driver = 12020
    machine.fail["load"] = CUDADriverError(222)
    lane = device().lane()
    with pytest.raises(
        DeviceError, match=r"of CUDA 12, refuses what a compiler of nothing made of byteswap.cu.*cuda12\]"
    ):
        swap(lane, lane.empty(4), 1)
    assert download(lane, swap(lane, lane.upload(np.arange(4, dtype=np.uint8)), 1)) == b"\3\2\1\0"


def test_arguments_have_the_widths_of_the_kernel(machine: Machine) -> None:
    """Of every kernel there is: CuPy copies as many bytes as a scalar has."""
    lane, seen = device().lane(), []

    def launched(kernel: catalogue.Kernel, grid: Any, block: Any, args: Any, stream: Any) -> None:
        seen.append((kernel, [value.dtype for value in args]))

    device().function = lambda kernel: lambda *given, stream: launched(kernel, *given, stream)  # type: ignore[method-assign]
    room = lane.empty(256)
    for kernel in catalogue.kernels().values():
        params = {param.name: room if param.pointer else 1 for param in kernel.params}
        lane.launch(kernel.name, np.int64(1), 32, **params)
    lane.synchronize()
    for kernel, dtypes in seen:
        assert dtypes == [np.uint64 if param.pointer else param.dtype for param in kernel.params]
    assert len(seen) == len(catalogue.kernels())


# ---- what CUDA refuses


def test_out_of_memory(machine: Machine) -> None:
    """Is a LimitError that names the setting; a slab is no larger than it must be where memory is short."""
    machine.total = 100_000
    lane = device().lane()
    assert lane.empty(60_000).nbytes == 60_000
    assert lane.empty(20_000).nbytes == 20_000
    with pytest.raises(
        LimitError, match=r"cuda:0: 60160 bytes: Out of memory.*lower wave_nbytes, which is 12500"
    ):
        lane.empty(60_000)
    with pytest.raises(LimitError, match=r"a result of shape \(90000,\)"):
        device().empty_array((90_000,), np.dtype("u1"))
    machine.fail["alloc_pinned_memory"] = CUDARuntimeError(2)
    with pytest.raises(LimitError, match="pinned host memory"):
        device().staging().take(5)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        ("gz_byteswap", CUDADriverError(1), "cuda:0: gz_byteswap, download: CUDA_ERROR_1"),
        ("to device", CUDARuntimeError(1), "cuda:0: gz_byteswap, download: cudaError1"),
        (
            "synchronize",
            CUDARuntimeError(700),
            "gz_byteswap, download: cudaError700.*cannot use CUDA any more",
        ),
    ],
)
def test_a_lane_that_failed(call: str, error: Exception, said: str, machine: Machine) -> None:
    """Says of what, and is not used again. What was to be downloaded stays as it was."""
    lane = device().lane()
    stream, into = lane._stream, np.full(8, 9, np.uint8)
    out = swap(lane, lane.upload(np.zeros(8, np.uint8)), 2)
    lane.download(out, into)
    machine.fail[call] = error
    with pytest.raises(DeviceError, match=said):
        lane.synchronize()
    assert into.tolist() == [9] * 8
    lane.synchronize()  # as the engine does before it gives up
    lane.reset()
    error.__traceback__ = None  # its frames hold the lane
    del lane
    assert device().lane()._stream != stream


def test_other_errors_pass_as_they_are(machine: Machine) -> None:
    """nvCOMP's are ours already."""
    lane = device().lane()
    machine.fail["nvcomp"] = DeviceError("nvcompBatchedZstdDecompressAsync: no (10)")
    array = encoded_array([numcodecs.Zstd().encode(np.zeros(1024, "<i4"))], {"id": "zstd"})
    with config.configured(strict=1), pytest.raises(DeviceError, match=r"no \(10\)"):
        array[:]
    lane.synchronize()


def strings(lane: Any, plain: bytes, count: int) -> Uncompressed:
    """So many times the same, at multiples of 16."""
    step, pitch = -(-len(plain) // 16) * 16, lane.compress_bound("zstd", len(plain))
    return Uncompressed(
        src=lane.upload(np.frombuffer(plain.ljust(step, b"\0") * count, np.uint8)),
        src_offset=np.arange(count, dtype=np.int64) * step,
        src_nbytes=np.full(count, len(plain), np.int64),
        dst=lane.empty(count * pitch),
        dst_offset=np.arange(count, dtype=np.int64) * pitch,
        dst_nbytes=lane.empty(8 * count),
        owner=np.arange(count, dtype=np.int32),
        count=count,
        largest=len(plain),
    )


def test_compression_runs_on_the_lanes_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the lane's order. nvCOMP is asked for scratch before: of that device, whichever is the thread's."""
    for order in fake_cupy.ORDERS:
        machine = install(monkeypatch, order, devices=2, small=False)
        lane = CudaDevice.named("cuda:1").lane()
        machine.calls.clear()
        made = strings(lane, b"abc" * 1000, 3)
        lane.compress("zstd", made, lane.faults(3))
        assert "nvcomp" not in machine.calls
        encoded, nbytes = download(lane, made.dst), np.frombuffer(download(lane, made.dst_nbytes), np.int64)
        started = [name for name in machine.calls if name.startswith(("gz_", "nvcomp"))]
        assert started == ["gz_strings", "nvcomp", "gz_compressed"]
        assert lane.take_faults().tolist() == []
        for at, n in zip(made.dst_offset, nbytes, strict=True):
            assert bytes(numcodecs.zstd.decompress(encoded[at:][:n])) == b"abc" * 1000
        assert machine.device == 0


def test_compression_that_does_not_start(machine: Machine) -> None:
    """Is nvCOMP's error; memory that is short for its scratch is a LimitError, before anything is started."""
    lane = device().lane()
    made = strings(lane, b"abc" * 1000, 3)
    machine.fail["nvcomp"] = DeviceError("nvcompBatchedZstdCompressAsync: no (10)")
    lane.compress("zstd", made, lane.faults(3))
    with pytest.raises(DeviceError, match=r"no \(10\)"):
        lane.synchronize()
    lane = device().lane()
    made, fault = strings(lane, b"abc" * 100_000, 3), lane.faults(3)
    machine.total = machine.live_nbytes() + 1000
    with pytest.raises(LimitError, match=r"1800960 bytes: Out of memory.*lower wave_nbytes"):
        lane.compress("zstd", made, fault)
    assert "nvcomp" not in machine.calls[machine.calls.index("nvcomp") + 1 :]


def test_reset_and_faults_come_after_synchronize(machine: Machine) -> None:
    """Whatever was asked for."""
    for ask in (
        lambda lane: lane.upload(np.zeros(4, np.uint8)),
        lambda lane: lane.faults(3),
        lambda lane: swap(lane, lane.empty(4), 1),
        lambda lane: lane.download(lane.empty(4), np.empty(4, np.uint8)),
    ):
        lane = device().lane()
        ask(lane)
        for started in (False, True):
            if started:
                lane.submit()
            for late in (lane.reset, lane.take_faults):
                with pytest.raises(DeviceError, match="before synchronize"):
                    late()
        lane.synchronize()
        assert lane.take_faults().tolist() == []
        lane.reset()


def test_faults_of_many_batches(machine: Machine) -> None:
    """More than are zeroed together; and those found later, after a first look."""
    lane = device().lane()
    lane.faults(0)
    for i in range(12):
        verdict(lane, [i * 20, 299])
    lane.synchronize()
    assert lane.take_faults().tolist() == [*range(0, 240, 20), 299]
    verdict(lane, [1])
    lane.synchronize()
    assert lane.take_faults().tolist() == [0, 1, *range(20, 240, 20), 299]
    lane.reset()
    verdict(lane, [2])
    lane.synchronize()
    assert lane.take_faults().tolist() == [2]


# ---- host memory


def test_pinned_memory_is_used_again(machine: Machine) -> None:
    """Up to what the waves of a read may take."""
    one = device()
    blocks = [one.pinned(nbytes) for nbytes in (1, 1 << 16, (1 << 16) + 1, 300_000)]
    assert [block.nbytes for block in blocks] == [1 << 16, 1 << 16, 1 << 17, 1 << 19]
    assert all(one.is_pinned(block[5:7]) for block in blocks)
    assert not one.is_pinned(np.zeros(9, np.uint8))
    places = [block.ctypes.data for block in blocks]
    with config.configured(wave_nbytes=1 << 18):
        while blocks:
            one.unpin(blocks.pop(0))
    assert machine.calls.count("alloc_pinned_memory") == 4
    again = [one.pinned(1 << 16), one.pinned(1 << 16), one.pinned(100_000)]
    assert sorted(block.ctypes.data for block in again) == sorted(places[:3])
    assert machine.calls.count("alloc_pinned_memory") == 4
    one.pinned(1 << 19)
    assert machine.calls.count("alloc_pinned_memory") == 5


def test_staging_is_copied_as_it_lies(machine: Machine) -> None:
    """And its blocks go back to the device."""
    staging, lane = device().staging(), device().lane()
    _, small = staging.take(100)
    _, large = staging.take(600_000)
    small[:], large[:] = 1, 2
    lane.synchronize()
    machine.calls.clear()
    buffers = [lane.upload(block) for _, block in staging.blocks]
    lane.submit()
    assert machine.calls.count("to device") == 2
    assert [download(lane, buffer)[:1] for buffer in buffers] == [b"\1", b"\2"]
    staging.reset()
    staging.take(100)
    staging.take(600_000)
    assert machine.calls.count("alloc_pinned_memory") == 3  # a page, two downloads


# ---- results


@pytest.mark.parametrize(
    ("dtype", "value", "within"),
    [
        *((code, code, ()) for code in "?bhilqBHILQefdFD"),
        (">f4", "<f4", ()),
        (">c16", "<c16", ()),
        ("M8[ns]", "i8", ()),
        (">m8[D]", "i8", ()),
        ("S5", "u1", (5,)),
        ("V3", "u1", (3,)),
        ("U7", "u4", (7,)),
        (">U1", "u4", (1,)),
        ([("a", "i1"), ("b", ">f8", (2, 2))], "u1", (33,)),
        (np.longdouble, "u1", (np.dtype(np.longdouble).itemsize,)),
        (np.clongdouble, "u1", (np.dtype(np.clongdouble).itemsize,)),
        (ml_dtypes.bfloat16, "u2", ()),
        (ml_dtypes.float8_e4m3fn, "u1", ()),
        (ml_dtypes.int4, "u1", ()),
    ],
)
def test_forms(dtype: Any, value: str, within: tuple[int, ...]) -> None:
    """The same bytes, as types that CuPy has."""
    assert form(np.dtype(dtype)) == (np.dtype(value), within)
    assert np.dtype(value).itemsize * int(np.prod(within, dtype=int)) == np.dtype(dtype).itemsize


@pytest.mark.parametrize(("version", "value"), [("13.6.0", "u2"), ("14.2.0", ml_dtypes.bfloat16)])
def test_bfloat16_where_cupy_has_it(version: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """From version 14 on."""
    install(monkeypatch, version=version)
    array = device().empty_array((2, 3), np.dtype(ml_dtypes.bfloat16))
    assert (array.dtype, array.shape) == (np.dtype(value), (2, 3))
    assert device().form(array.dtype) == (array.dtype, ())


def test_what_has_no_bytes(machine: Machine) -> None:
    """Lies on no device."""
    for dtype in (np.dtype(object), np.dtypes.StringDType(), np.dtype([("a", "O")])):
        with pytest.raises(DeviceError, match="cannot lie in device memory"):
            device().empty_array((3,), dtype)


def test_more_dimensions_than_cupy_has(machine: Machine) -> None:
    """NumPy has 64."""
    with pytest.raises(DeviceError, match=r"maximum supported dimension.*; use device=.cpu"):
        device().empty_array((1,) * 40, np.dtype("u1"))


def test_memory_of_views(machine: Machine) -> None:
    """Strides of either sign: the buffer holds all elements and nothing else."""
    whole = device().empty_array((4, 6), np.dtype("<i4"))
    for key in (np.s_[:], np.s_[::-1, ::-2], np.s_[1:3, 2:], np.s_[3:0:-1], np.s_[:0], np.s_[2, 3]):
        part = whole[key]
        buffer, offset, strides = device().memory(part)
        assert isinstance(buffer, CudaBuffer)
        shape = part.shape
        assert strides == part.strides
        reached = [sum(i * s for i, s in zip(at, strides, strict=True)) for at in np.ndindex(*shape)]
        first = offset + min(reached, default=0)
        assert first == 0 if part.size else buffer.nbytes == 0
        assert buffer.nbytes == (max(reached) - min(reached) + 4 if reached else 0)
        assert buffer.address + offset == part.data.ptr


# ---- whole reads


def encoded_array(chunks: list[bytes], compressor: dict[str, Any] | None, where: str = "cuda") -> Any:
    """Chunks of 1024 int32, as given."""
    document = {
        "zarr_format": 2,
        "shape": [1024 * len(chunks)],
        "chunks": [1024],
        "dtype": "<i4",
        "order": "C",
        "compressor": compressor,
        "filters": None,
        "fill_value": 7,
    }
    objects = {str(i): chunk for i, chunk in enumerate(chunks) if chunk}
    return gpuzarr.open_array({".zarray": json.dumps(document).encode(), **objects}, device=where)


ARRAYS: dict[str, dict[str, Any]] = {
    "raw": {"compressors": None},
    "blosc": {"compressors": zarr.codecs.BloscCodec(cname="lz4", shuffle="shuffle")},
    "zstd": {"compressors": zarr.codecs.ZstdCodec(level=1)},
    "gzip": {"compressors": zarr.codecs.GzipCodec(level=1)},
    "sharded": {"shards": (16, 16, 16), "compressors": zarr.codecs.BloscCodec(cname="zstd")},
}


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("wave", [0, 1 << 16])
def test_reads_are_those_of_the_cpu(kind: str, wave: int, machine: Machine, tmp_path: Path) -> None:
    """One wave or many, every chunk on the device; slices, steps and points; into memory of the caller's."""
    values = np.cumsum(np.random.default_rng(3).integers(0, 3, (32, 24, 20)), axis=2).astype("<u2")
    zarr.create_array(tmp_path, data=values, chunks=(8, 8, 8), **ARRAYS[kind])
    with config.configured(strict=1, wave_nbytes=wave):
        array = gpuzarr.open_array(tmp_path, device="cuda")
        assert array.device == "cuda:0"
        stats = ReadStats()
        found = array.read(stats=stats)
        assert (found.shape, found.dtype, stats.on_host) == (values.shape, values.dtype, 0)
        assert found.get().tobytes() == values.tobytes()
        for key in (np.s_[3:29:2, ::-1, 5], np.s_[..., -3:], np.s_[[1, 30, 1], :, 2:9], np.s_[4, 5, 6]):
            assert np.asarray(array[key].get()).tobytes() == np.ascontiguousarray(values[key]).tobytes()
        room = device().empty_array((24, 32, 40), values.dtype)
        out = room[::-1, :, 3:23]
        out._host()[...] = 9
        array.read((slice(8, 32), slice(0, 24), slice(None)), out=out[:, :24])
        assert (out.get()[:, :24] == values[8:32]).all()
        assert (out.get()[:, 24:] == 9).all()
        assert machine.live_nbytes() == found.nbytes + room.nbytes


def test_the_host_has_the_last_word(machine: Machine) -> None:
    """What the device finds fault with is decoded again, or its error is that of the host."""
    values = np.arange(3072, dtype="<i4").reshape(3, 1024)
    whole = [numcodecs.Zstd(1).encode(row) for row in values]
    members = gzip.compress(values[0].tobytes()[:99]) + gzip.compress(values[0].tobytes()[99:])
    two = [members, gzip.compress(values[1].tobytes())]
    with config.configured(strict=1):
        stats = ReadStats()
        found = encoded_array(two, {"id": "gzip", "level": 1}).read(stats=stats)
        assert (found.get() == values[:2].reshape(-1)).all()
        assert stats.on_host == 1
        for damage in (whole[1][:-5], whole[1][:9] + b"\xff" * 20 + whole[1][29:]):
            errors = []
            for where in ("cpu", "cuda"):
                with pytest.raises(GpuzarrError) as caught:
                    encoded_array([whole[0], damage, whole[2]], {"id": "zstd", "level": 1}, where).read()
                errors.append(str(caught.value))
            assert errors[0] == errors[1]
        assert (
            encoded_array([whole[0], b"", whole[2]], {"id": "zstd", "level": 1})[1000:1030].get()[24:] == 7
        ).all()


def test_results_of_types_that_cupy_lacks(machine: Machine, tmp_path: Path) -> None:
    """Plain numbers of the same bytes, in one more axis where one number does not hold them."""
    samples: dict[str, Any] = {
        "M8[s]": np.arange(30).astype("M8[s]"),
        "S5": np.array([b"some", b"text", b""] * 10, "S5"),
        "U3": np.array(["äöü", "x", ""] * 10, "U3"),
        ">i4": np.arange(30, dtype=">i4"),
        "record": np.array([(i, i / 2) for i in range(30)], [("a", "i1"), ("b", "<f8")]),
    }
    for name, values in samples.items():
        store = zarr.create_array(
            tmp_path / name.strip(">[]"),
            data=values,
            chunks=(7,),
            zarr_format=2,
            compressors=numcodecs.Zstd(1),
        )
        array = gpuzarr.open_array(tmp_path / name.strip(">[]"), device="cuda")
        with config.configured(strict=1):
            found = array[3:25:2]
        native = np.asarray(store[3:25:2]).astype(values.dtype.newbyteorder("="))
        value, within = device().form(values.dtype)
        assert (found.dtype, found.shape) == (value, (11, *within))
        assert found.get().tobytes() == native.tobytes()


def test_arrays_are_read_by_many_threads(machine: Machine, tmp_path: Path) -> None:
    """Each with a current stream of its own."""
    values = np.random.default_rng(5).integers(0, 9, (64, 64)).astype("<i4")
    zarr.create_array(tmp_path, data=values, chunks=(16, 16))
    array = gpuzarr.open_array(tmp_path, device="cuda")
    barrier = threading.Barrier(4)

    def work(_: int) -> bool:
        barrier.wait()
        with fake_cupy.Stream(non_blocking=True):
            return all((array[i : i + 40].get() == values[i : i + 40]).all() for i in range(6))

    with config.configured(strict=1), ThreadPoolExecutor(4) as threads:
        assert all(threads.map(work, range(4)))
