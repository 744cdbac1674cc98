"""CuPy over host memory, as far as gpuzarr uses it, so that device cuda runs in tests without a GPU.

Kernels are those of device sim. What a GPU forgives, or does only at times, happens here always:

    late       a stream runs when it is waited for, and no sooner: what nobody waited for is not done
    early      a stream runs at once: what is not there when work is started is missed
    others     all other streams run first: what needs an order between streams has none by chance
    memory     garbage when it is taken and when it is given back, with red zones, never used twice
    pointers   looked at when work is started, and once more when it runs: device memory that is alive
    arguments  NumPy scalars of exactly the kernel's types
    pinned     the only host memory that an asynchronous copy takes
    devices    streams, memory and modules belong to one, and each thread has a current one

A mistake is an AssertionError, which nothing catches. `test_cuda.py` compares the names and parameters here
with those of CuPy, where that is installed. A machine may be told to fail as CUDA does (`Machine.fail`).
"""

from __future__ import annotations

import ctypes
import itertools
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuzarr.device import catalogue, cuda, cuda_lane, cuda_memory, nvcomp, nvrtc, sim_library, sim_nvcomp
from gpuzarr.device.sim import _running
from gpuzarr.device.sim_memory import GARBAGE, Allocation

ORDERS = ("late", "early", "others")

REAL = {
    "STAGING_NBYTES": cuda.STAGING_NBYTES,
    "SLAB_NBYTES": cuda_memory.SLAB_NBYTES,
    "PAGE_NBYTES": cuda_lane.PAGE_NBYTES,
    "PACKED_NBYTES": cuda_lane.PACKED_NBYTES,
    "FAULTS_NBYTES": cuda_lane.FAULTS_NBYTES,
}
"""The sizes outside tests."""

ELF = b"\x7fELF of no machine "


class Machine:
    """The GPUs of one test, and what was asked of them."""

    def __init__(self, order: str, devices: int, capability: str, version: str) -> None:
        self.order, self.count, self.capability, self.version = order, devices, capability, version
        self.total = 1 << 30
        self.driver = 13000
        self.calls: list[str] = []
        """Every call that starts work on a stream, in order."""
        self.fail: dict[str, Exception] = {}
        """By call: raised instead, once."""
        self.compiled: list[tuple[str, str]] = []
        """File and target of everything compiled."""
        self.lock = threading.RLock()
        self.local = threading.local()
        self.memory: weakref.WeakValueDictionary[int, Memory] = weakref.WeakValueDictionary()
        self.pinned: dict[int, int] = {}
        self.streams: weakref.WeakValueDictionary[int, Stream] = weakref.WeakValueDictionary()
        self.numbers = itertools.count(0x1000, 0x10)
        self.null = [Stream(null=True, _machine=self, _device=i) for i in range(devices)]

    @property
    def device(self) -> int:
        """The calling thread's."""
        return int(getattr(self.local, "device", 0))

    def current(self, device: int) -> list[Stream]:
        """The calling thread's current streams of a device, the last one in force."""
        stacks = self.local.__dict__.setdefault("streams", {})
        found: list[Stream] = stacks.setdefault(device, [self.null[device]])
        return found

    def called(self, name: str) -> None:
        """Note a call, or let it fail."""
        self.calls.append(name)
        if name in self.fail:
            raise self.fail.pop(name)

    def stream(self, pointer: int) -> Stream:
        """A live stream of the current device."""
        assert type(pointer) is int
        found = self.null[self.device] if pointer == 0 else self.streams.get(pointer)
        assert found is not None, f"{pointer:#x} is no stream"
        assert found.device_id == self.device, "the stream is of a device that is not the current one"
        return found

    def _known(self) -> list[Any]:
        """What is allocated. Other threads allocate meanwhile, which iteration does not bear."""
        return [memory for ref in self.memory.valuerefs() if (memory := ref()) is not None]

    def require_device(self, address: int, nbytes: int = 0) -> None:
        """All of it is live memory of the current device."""
        for memory in self._known():
            if memory.ptr <= address and address + nbytes <= memory.ptr + max(memory.size, 1):
                assert memory.device_id == self.device, "memory of another device"
                return
        raise AssertionError(f"{nbytes} bytes at {address:#x} are no device memory, or no longer")

    def require_pinned(self, address: int, nbytes: int) -> None:
        """All of it is live pinned memory."""
        ranges = list(self.pinned.items())
        assert any(begin <= address and address + nbytes <= begin + size for begin, size in ranges), (
            f"{nbytes} bytes at {address:#x} are pageable host memory: such a copy is not asynchronous"
        )

    def check_red_zones(self) -> None:
        """No kernel wrote where there is no memory."""
        for memory in self._known():
            assert memory.allocation.damage() is None, f"{memory.allocation.label} was written outside"

    def live_nbytes(self) -> int:
        """Device memory in use."""
        return sum(memory.size for memory in self._known())

    @contextmanager
    def on(self, device: int) -> Iterator[None]:
        """Make a device current."""
        before = self.device
        self.local.device = device
        try:
            yield
        finally:
            self.local.device = before


_machine: Machine


# ---- cupy.cuda


class Device:
    """See CuPy."""

    def __init__(self, device: int | None = None) -> None:
        self.id = _machine.device if device is None else int(device)
        self._before = threading.local()

    def __enter__(self) -> Device:
        self._before.__dict__.setdefault("stack", []).append(_machine.device)
        assert self.id < _machine.count
        _machine.local.device = self.id
        return self

    def __exit__(self, *args: object) -> None:
        _machine.local.device = self._before.stack.pop()

    @property
    def compute_capability(self) -> str:
        return _machine.capability

    @property
    def mem_info(self) -> tuple[int, int]:
        return _machine.total - _machine.live_nbytes(), _machine.total


class Stream:
    """See CuPy. Work is a list of functions, of which the first `done` have run."""

    def __init__(
        self,
        null: bool = False,
        non_blocking: bool = False,
        *,
        _machine: Machine | None = None,
        _device: int | None = None,
    ) -> None:
        self._of = _machine or globals()["_machine"]
        assert null or non_blocking, "the null stream would wait for this one"
        self.ptr = 0 if null else next(self._of.numbers)
        self.device_id = self._of.device if _device is None else _device
        self._work: list[Callable[[], None]] = []
        self._done = 0
        if not null:
            self._of.streams[self.ptr] = self

    def __enter__(self) -> Stream:
        assert self.device_id == self._of.device
        self._of.current(self.device_id).append(self)
        return self

    def __exit__(self, *args: object) -> None:
        self._of.current(self.device_id).pop()

    def wait_event(self, event: Event) -> None:
        stream, upto = event._stream, event._upto
        assert stream is not None, "the event was never recorded"
        self._add(lambda: stream._run(upto))

    def synchronize(self) -> None:
        self._of.called("synchronize")
        with self._of.lock:
            if self._of.order == "others":
                for stream in reversed(list(self._of.streams.values())):
                    stream._run()
            self._run()
            self._of.check_red_zones()

    def _add(self, work: Callable[[], None]) -> None:
        with self._of.lock:
            self._work.append(work)
            if self._of.order == "early":
                self._run()

    def _run(self, upto: int | None = None) -> None:
        with self._of.lock, self._of.on(self.device_id):
            while self._done < (len(self._work) if upto is None else upto):
                self._done += 1
                self._work[self._done - 1]()


class Event:
    """See CuPy."""

    def __init__(self, block: bool = False, disable_timing: bool = False) -> None:
        self._stream: Stream | None = None
        self._upto = 0

    def record(self, stream: Stream | None = None) -> None:
        self._stream = stream or get_current_stream()
        self._upto = len(self._stream._work)


def get_current_stream(device_id: int = -1) -> Stream:
    """See CuPy."""
    return _machine.current(_machine.device if device_id == -1 else device_id)[-1]


class Memory:
    """See CuPy (`cupy.cuda.BaseMemory`)."""

    def __init__(self, size: int) -> None:
        self.size, self.device_id = size, _machine.device
        self.allocation = Allocation(size, f"{size} bytes of cuda:{self.device_id}")
        self.ptr = int(self.allocation.bytes().ctypes.data) if size else 0
        self.stream = get_current_stream().ptr
        self._of = _machine
        if size:
            self._of.memory[self.ptr] = self

    def __del__(self) -> None:
        if self.size:
            self._of.memory.pop(self.ptr, None)
            self.allocation.bytes()[:] = GARBAGE


class MemoryPointer:
    """See CuPy."""

    def __init__(self, mem: Memory, offset: int) -> None:
        self.mem, self.ptr, self.device_id = mem, mem.ptr + offset, mem.device_id


class OutOfMemoryError(MemoryError):
    """See CuPy."""

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes).")


def alloc(size: int) -> MemoryPointer:
    """See CuPy."""
    _machine.called("alloc")
    if _machine.live_nbytes() + size > _machine.total:
        raise OutOfMemoryError(size, _machine.live_nbytes())
    return MemoryPointer(Memory(size), 0)


def alloc_pinned_memory(size: int) -> Any:
    """See CuPy, whose pool rounds up to powers of two. What is given is no more than a buffer."""
    _machine.called("alloc_pinned_memory")
    pointer = (ctypes.c_ubyte * (1 << max(size - 1, 511).bit_length()))()
    address = ctypes.addressof(pointer)
    _machine.pinned[address] = len(pointer)
    weakref.finalize(pointer, _machine.pinned.pop, address)
    return pointer


class Module:
    """See CuPy. Takes what the fake compiler made."""

    def __init__(self) -> None:
        self._source, self._device = "", _machine.device

    def load(self, cubin: bytes) -> None:
        assert type(cubin) is bytes
        _machine.called("load")
        if not cubin.startswith(ELF):
            raise CUDADriverError(200)
        self._source = cubin.removeprefix(ELF).decode()

    def get_function(self, name: str) -> Function:
        assert _machine.device == self._device
        return Function(self, name)


class Function:
    """See CuPy."""

    def __init__(self, module: Module, funcname: str) -> None:
        self._module, self._kernel = module, catalogue.kernel(funcname)
        assert str(self._kernel.path) == module._source, f"{funcname} is not of this module"

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: tuple[np.generic, ...],
        shared_mem: int = 0,
        stream: Stream | None = None,
    ) -> None:
        """CuPy passes each scalar as so many bytes as it has: a wrong width shifts nothing, and is not
        seen."""
        kernel = self._kernel
        assert stream is not None, "the launch would be on the thread's current stream"
        assert self._module._device == _machine.device
        assert all(type(n) is int and n >= 1 for n in (*grid, *block)), "CuPy would make it 1"
        assert len(args) == len(kernel.params)
        pointers = []
        for param, value in zip(kernel.params, args, strict=True):
            assert isinstance(value, np.generic), f"{param.name}: CuPy would guess the type"
            assert value.dtype == (np.uint64 if param.pointer else param.dtype), param.name
            if param.pointer:
                pointers.append(int(value))  # type: ignore[arg-type]
        values = [np.array(value) for value in args]
        for pointer in pointers:
            _machine.require_device(pointer)

        def run() -> None:
            for pointer in pointers:
                _machine.require_device(pointer)
            launcher = sim_library.launcher(kernel)
            places = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
            report = ctypes.create_string_buffer(1024)
            with _running:
                failed = launcher(places, grid[0], block[0], 0, report, len(report))
            assert not failed, report.value

        _machine.called(kernel.name)
        _machine.stream(stream.ptr)._add(run)


# ---- cupy.cuda.runtime, cupy.cuda.driver


class CUDARuntimeError(RuntimeError):
    """See CuPy."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"cudaError{status}: what CUDA says of {status}")


class CUDADriverError(RuntimeError):
    """See CuPy."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"CUDA_ERROR_{status}: what the driver says of {status}")


TO_DEVICE, TO_HOST = 1, 2


def memcpyAsync(dst: int, src: int, size: int, kind: int, stream: int) -> None:
    """See CuPy."""
    assert kind in (TO_DEVICE, TO_HOST)
    assert size > 0
    to_device = kind == TO_DEVICE
    device, host = (dst, src) if to_device else (src, dst)

    def check() -> None:
        _machine.require_device(device, size)
        _machine.require_pinned(host, size)

    def run() -> None:
        check()
        ctypes.memmove(dst, src, size)

    check()
    _machine.called("to device" if to_device else "to host")
    _machine.stream(stream)._add(run)


def memsetAsync(ptr: int, value: int, size: int, stream: int) -> None:
    """See CuPy."""
    _machine.require_device(ptr, size)
    _machine.called("memset")

    def run() -> None:
        _machine.require_device(ptr, size)
        ctypes.memset(ptr, value, size)

    _machine.stream(stream)._add(run)


def getDeviceCount() -> int:
    """See CuPy."""
    _machine.called("getDeviceCount")
    return _machine.count


def driverGetVersion() -> int:
    """See CuPy."""
    return _machine.driver


def runtimeGetVersion() -> int:
    """See CuPy."""
    return 13000


# ---- cupy


class ndarray:  # its name in CuPy
    """See CuPy."""

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: Any = float,
        memptr: MemoryPointer | None = None,
        strides: tuple[int, ...] | None = None,
    ) -> None:
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        if len(self.shape) > 32:
            raise ValueError(f"maximum supported dimension for an ndarray is 32, found {len(self.shape)}")
        assert self.dtype.isnative
        size = prod(self.shape)
        self.data = alloc(size * self.dtype.itemsize) if memptr is None else memptr
        plain = np.lib.stride_tricks.as_strided(np.empty(1, self.dtype), self.shape, strides)
        self.strides: tuple[int, ...] = (
            np.empty(self.shape, self.dtype).strides if strides is None else strides
        )
        assert plain.shape == self.shape
        self.ndim, self.size, self.nbytes = len(self.shape), size, size * self.dtype.itemsize

    @property
    def device(self) -> Device:
        return Device(self.data.device_id)

    def _host(self) -> np.ndarray[Any, Any]:
        """The values themselves, as no one but this class may see them."""
        memory = self.data.mem.allocation.bytes().data
        offset = self.data.ptr - self.data.mem.ptr
        if not self.size:
            return np.empty(self.shape, self.dtype)
        return np.ndarray(self.shape, self.dtype, memory, offset, self.strides)

    def get(self) -> np.ndarray[Any, Any]:
        """After what the current stream has queued, and nothing else."""
        get_current_stream()._run()
        return self._host().copy("C")

    def __getitem__(self, key: Any) -> ndarray:
        part = self._host()[key]
        moved = part.__array_interface__["data"][0] - self.data.mem.ptr if part.size else 0
        return ndarray(part.shape, part.dtype, MemoryPointer(self.data.mem, moved), part.strides)

    def __array__(self, *args: object) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")


def empty(shape: int | tuple[int, ...], dtype: Any = float, order: str = "C") -> ndarray:
    """See CuPy. Version 14 refuses types that it does not know; 13 makes arrays of any type."""
    wanted = np.dtype(dtype)
    known = wanted.char in "?bhilqBHILQefdFD" or wanted.name == "bfloat16" or wanted.type is np.void
    if not known and not _machine.version.startswith("13"):
        raise ValueError(f"Unsupported dtype {wanted}")
    return ndarray((shape,) if isinstance(shape, int) else shape, wanted)


def tree() -> dict[str, Any]:
    """The names of CuPy that are here, by path."""
    return {
        "ndarray": ndarray,
        "empty": empty,
        "cuda.Device": Device,
        "cuda.Event": Event,
        "cuda.Function": Function,
        "cuda.MemoryPointer": MemoryPointer,
        "cuda.Module": Module,
        "cuda.Stream": Stream,
        "cuda.alloc": alloc,
        "cuda.alloc_pinned_memory": alloc_pinned_memory,
        "cuda.get_current_stream": get_current_stream,
        "cuda.driver.CUDADriverError": CUDADriverError,
        "cuda.memory.OutOfMemoryError": OutOfMemoryError,
        "cuda.runtime.CUDARuntimeError": CUDARuntimeError,
        "cuda.runtime.driverGetVersion": driverGetVersion,
        "cuda.runtime.getDeviceCount": getDeviceCount,
        "cuda.runtime.is_hip": False,
        "cuda.runtime.memcpyAsync": memcpyAsync,
        "cuda.runtime.memcpyDeviceToHost": TO_HOST,
        "cuda.runtime.memcpyHostToDevice": TO_DEVICE,
        "cuda.runtime.memsetAsync": memsetAsync,
        "cuda.runtime.runtimeGetVersion": runtimeGetVersion,
    }


# ---- what stands beside CuPy


class Compiler:
    """As `nvrtc.Nvrtc`: what it makes only the fake `Module` can load."""

    path, version, architectures = "libnvrtc.so.fake", (13, 0), (75, 80, 90, 100, 120)

    def __str__(self) -> str:
        return "a compiler of nothing"

    def compile(self, source: Path, target: str, *options: str) -> nvrtc.Compiled:
        _machine.compiled.append((source.name, target))
        return nvrtc.Compiled(ELF + str(source).encode(), "")


class Nvcomp(sim_nvcomp.HostLibrary):
    """What stands in for nvCOMP on device sim, in the order of the stream that it is given."""

    def decompress(self, format: str, table: nvcomp.Table, cuda_stream: int = 0) -> None:
        assert cuda_stream, "nvCOMP would run on the null stream"
        _machine.called("nvcomp")
        _machine.stream(cuda_stream)._add(lambda: super(Nvcomp, self).decompress(format, table))

    def compress_scratch_nbytes(
        self, format: str, count: int, largest: int, total: int, cuda_stream: int = 0
    ) -> int:
        """nvCOMP asks the current device, which has to be the stream's."""
        assert cuda_stream, "nvCOMP would ask of the null stream"
        _machine.stream(cuda_stream)
        return super().compress_scratch_nbytes(format, count, largest, total)

    def compress(self, format: str, table: nvcomp.StringTable, cuda_stream: int = 0) -> None:
        assert cuda_stream, "nvCOMP would run on the null stream"
        _machine.called("nvcomp")
        host = sim_nvcomp.HostLibrary()  # which asks itself for the scratch it needs, of no stream
        _machine.stream(cuda_stream)._add(lambda: host.compress(format, table))


def install(
    monkeypatch: pytest.MonkeyPatch,
    order: str = "late",
    *,
    devices: int = 1,
    capability: str = "90",
    version: str = "14.2.0",
    small: bool = True,
) -> Machine:
    """Put a machine in the place of CuPy, NVRTC and nvCOMP, for one test. `small`: slabs, pages and staging
    are, so that a test takes several."""
    global _machine
    _machine = made = Machine(order, devices, capability, version)
    cupy = types.ModuleType("cupy")
    cupy.__dict__["__version__"] = version
    for path, value in tree().items():
        place = cupy
        *folders, name = path.split(".")
        for folder in folders:
            place = place.__dict__.setdefault(folder, types.ModuleType(folder))
        place.__dict__[name] = value
    kept: dict[Path, bytes] = {}
    monkeypatch.setitem(__import__("sys").modules, "cupy", cupy)
    monkeypatch.setattr(cuda, "_devices", {})
    monkeypatch.setattr(cuda, "_started", None)
    monkeypatch.setattr(cuda, "_trouble", None)
    monkeypatch.setattr(cuda, "_driver", lambda: made.driver)
    sizes = {
        (cuda, "STAGING_NBYTES"): 1 << 18,
        (cuda_memory, "SLAB_NBYTES"): 1 << 16,
        (cuda_lane, "PAGE_NBYTES"): 1 << 12,
        (cuda_lane, "PACKED_NBYTES"): 1 << 11,
        (cuda_lane, "FAULTS_NBYTES"): 1 << 10,
    }
    for (module, name), nbytes in sizes.items():
        monkeypatch.setattr(module, name, nbytes if small else REAL[name])
    compiler, library = Compiler(), Nvcomp()
    monkeypatch.setattr(nvrtc, "load", lambda major=None: compiler)
    monkeypatch.setattr(nvrtc, "_kept", kept.get)
    monkeypatch.setattr(nvrtc, "_keep", kept.__setitem__)
    monkeypatch.setattr(nvcomp, "load", lambda: library)
    return made
