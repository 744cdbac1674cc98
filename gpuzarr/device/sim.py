"""A device without a GPU: the very same kernel sources, compiled by a C++ compiler. For tests, not for speed.

It is stricter than a GPU, so that what passes here has no excuse there:

    nothing runs before `synchronize`      a result read too early, or a source changed too early, is garbage
    memory is never zero                   what is read without being written is 0xA5
    red zones round every allocation       a write outside is a DeviceError at the next `synchronize`
    four thread orders                     `sim`, `sim:reversed`, `sim:shuffled1`, `sim:shuffled2`
    SimArray cannot be indexed             a hidden transfer is a TypeError
    counters                               launches, transfers and memory, for tests to assert

One launch runs at a time in a process, because `__shared__` memory is static.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuzarr.device import catalogue, compressing, nvcomp, sim_library, sim_nvcomp
from gpuzarr.device.base import Bytes1D, DeviceBuffer, FileRead, FileReader, Streams, Uncompressed
from gpuzarr.device.catalogue import Kernel
from gpuzarr.device.sim_memory import ALIGNMENT, GARBAGE, Allocation, SimArray, SimBuffer, c_strides
from gpuzarr.device.staging import Staging
from gpuzarr.errors import ArgumentError, DeviceError, StoreError

ORDERS = {"sim": 0, "sim:reversed": 1, "sim:shuffled1": 2, "sim:shuffled2": 3}
"""Device names, and the thread order of kernels/host/shim.cpp that each stands for."""

STAGING_NBYTES = 1 << 20
"""A block of staging: so small that a wave takes several."""

_running = threading.Lock()


@dataclass(slots=True)
class Counters:
    """What a device was asked to do since the counters were new. Sizes are bytes."""

    launches: int = 0
    uploads: int = 0
    upload_nbytes: int = 0
    downloads: int = 0
    download_nbytes: int = 0
    synchronizes: int = 0
    arena_peak: int = 0
    """The most that the arena of one lane held."""
    kernels: list[str] = field(default_factory=list)
    """The names of the launches, in order."""
    file_reads: int = 0
    file_nbytes: int = 0


class SimLane:
    """See `device.base.Lane`. What is asked for is queued, and runs at `synchronize`."""

    def __init__(self, device: SimDevice) -> None:
        self._device = device
        self._queue: list[Callable[[], None]] = []
        self._arena: list[Allocation] = []
        self._used = 0
        self._faults: list[SimBuffer] = []
        self._recent: list[str] = []
        """Kernels that ran since the red zones were last seen intact."""

    def _allocate(self, nbytes: int, what: str) -> SimBuffer:
        memory = Allocation(nbytes, f"{what} (arena #{len(self._arena)}, {nbytes} bytes)")
        self._arena.append(memory)
        self._used += -(-nbytes // ALIGNMENT) * ALIGNMENT
        counters = self._device.counters
        counters.arena_peak = max(counters.arena_peak, self._used)
        return SimBuffer(memory, 0, nbytes)

    @property
    def nbytes(self) -> int:
        """See `device.base.Lane`."""
        return self._used

    def empty(self, nbytes: int) -> DeviceBuffer:
        """Garbage between red zones."""
        return self._allocate(nbytes, "empty")

    def upload(self, source: NDArray[Any], into: DeviceBuffer | None = None) -> DeviceBuffer:
        """The bytes that `source` holds at `synchronize`."""
        return self._upload(source, "upload", into)

    def _upload(self, source: NDArray[Any], what: str, into: DeviceBuffer | None = None) -> SimBuffer:
        if not isinstance(source, np.ndarray) or not source.flags.c_contiguous or source.dtype.hasobject:
            raise DeviceError(f"{what}: not a C-contiguous host array of plain values")
        target = self._allocate(source.nbytes, what) if into is None else _buffer(into, what)
        if target.nbytes != source.nbytes:
            raise DeviceError(f"{what}: {source.nbytes} bytes into {target.nbytes}")
        if source.nbytes:
            self._queue.append(partial(np.copyto, target.bytes(), source.reshape(-1).view(np.uint8)))
        self._device.count(uploads=1, upload_nbytes=source.nbytes)
        return target

    def download(self, source: DeviceBuffer, into: Bytes1D) -> None:
        """`into` is garbage until `synchronize`."""
        given = _buffer(source, "download")
        if into.dtype != np.uint8 or into.shape != (given.nbytes,) or not into.flags.c_contiguous:
            raise DeviceError(f"download of {given.nbytes} bytes into {into.dtype}{list(into.shape)}")
        into[:] = GARBAGE
        self._queue.append(partial(np.copyto, into, given.bytes()))
        self._device.count(downloads=1, download_nbytes=given.nbytes)

    def launch(self, kernel: str, blocks: int, threads: int, /, **params: Any) -> None:
        """No blocks: nothing runs, but the parameters are checked all the same."""
        found = catalogue.kernel(kernel)
        catalogue.check(found, params)
        if not (0 <= blocks < 1 << 31 and 1 <= threads <= 1024):
            raise DeviceError(f"{kernel} on {blocks} blocks of {threads} threads")
        arguments: list[NDArray[Any]] = []
        held: list[Bytes1D] = []
        for param in found.params:
            value = params[param.name]
            if param.pointer:
                if isinstance(value, np.ndarray):
                    value = self._upload(value, f"{kernel}({param.name})")
                memory = _buffer(value, kernel).bytes()
                if memory.ctypes.data % param.dtype.itemsize:
                    raise DeviceError(f"{kernel}: {param.spelling} {param.name} is not aligned")
                arguments.append(np.array(memory.ctypes.data, np.uintp))
                held.append(memory)
            else:
                arguments.append(np.array(value, param.dtype))
        self._device.count(launches=1)
        self._device.counters.kernels.append(kernel)
        if blocks:
            self._queue.append(partial(self._run, found, blocks, threads, arguments, held))

    def _run(
        self, kernel: Kernel, blocks: int, threads: int, arguments: list[NDArray[Any]], held: list[Bytes1D]
    ) -> None:
        """`held` is the memory that arguments point to: a result array may be gone before its launch runs."""
        launcher = sim_library.launcher(kernel)
        places = (ctypes.c_void_p * len(arguments))(*(argument.ctypes.data for argument in arguments))
        report = ctypes.create_string_buffer(1024)
        self._recent.append(kernel.name)
        with _running:
            failed = launcher(places, blocks, threads, self._device.order, report, len(report))
        if failed:
            raise DeviceError(f"{kernel.name}: {report.value.decode(errors='replace')}")

    def decompress(self, algorithm: str, streams: Streams, fault: DeviceBuffer) -> None:
        """See `device.base.Lane`. Host libraries stand in for nvCOMP."""

        def address(buffer: DeviceBuffer) -> int:
            return int(_buffer(buffer, algorithm).bytes().ctypes.data)

        library = sim_nvcomp.HostLibrary()
        nvcomp.decompress(self, library, algorithm, streams, fault, address, self._queue.append)

    def compress_bound(self, algorithm: str, nbytes: int) -> int:
        """See `device.base.Lane`."""
        return compressing.compress_bound(sim_nvcomp.HostLibrary(), algorithm, nbytes)

    def compress(self, algorithm: str, strings: Uncompressed, fault: DeviceBuffer) -> None:
        """See `device.base.Lane`. Host libraries stand in for nvCOMP."""

        def address(buffer: DeviceBuffer) -> int:
            return int(_buffer(buffer, algorithm).bytes().ctypes.data)

        library = sim_nvcomp.HostLibrary()
        compressing.compress(self, library, algorithm, strings, fault, address, self._queue.append)

    def faults(self, count: int) -> DeviceBuffer:
        """See `device.base.Lane`."""
        buffer = self._allocate(4 * count, "faults")
        buffer.bytes()[:] = 0
        self._faults.append(buffer)
        return buffer

    def take_faults(self) -> NDArray[np.int64]:
        """See `device.base.Lane`."""
        self._require_idle("take_faults")
        found = [buffer.bytes().view(np.int32).nonzero()[0] for buffer in self._faults]
        return np.unique(np.concatenate([np.empty(0, np.int64), *found]))

    def submit(self) -> None:
        """Nothing runs before `synchronize`."""

    def synchronize(self) -> None:
        """Run what is queued, then look at the red zones."""
        self._device.count(synchronizes=1)
        queue, self._queue = self._queue, []
        for work in queue:
            work()
        self._check()

    def reset(self) -> None:
        """Using the arena's memory is an error from here on."""
        self._require_idle("reset")
        self._check()
        for memory in self._arena:
            memory.live = False
        self._arena, self._faults, self._used = [], [], 0

    def _require_idle(self, asked: str) -> None:
        if self._queue:
            raise DeviceError(f"{asked} before synchronize")

    def _check(self) -> None:
        recent, self._recent = self._recent, []
        for memory in (*self._arena, *self._device.arrays()):
            damage = memory.damage()
            if damage:
                suspects = ", ".join(recent) or "a kernel of another lane"
                raise DeviceError(f"{memory.label} was written {damage} by one of: {suspects}")


class SimDevice:
    """See `device.base.Device`. `counters` may be replaced by fresh ones at any time."""

    def __init__(self, name: str) -> None:
        if name not in ORDERS:
            raise ArgumentError(f"no device is called {name!r}", hint=f"use {', '.join(ORDERS)}")
        self.name, self.order = name, ORDERS[name]
        self.timed = False
        self.direct = "sim"
        self.wave_nbytes = 256 << 20
        self.counters = Counters()
        self._lock = threading.Lock()
        self._arrays: weakref.WeakSet[Allocation] = weakref.WeakSet()

    @classmethod
    def named(cls, name: str) -> SimDevice:
        """The one device of that name in this process."""
        with _naming:
            if name not in _devices:
                _devices[name] = cls(name)
            return _devices[name]

    def count(self, **more: int) -> None:
        """Add to counters, from any thread."""
        with self._lock:
            for name, number in more.items():
                setattr(self.counters, name, getattr(self.counters, name) + number)

    def arrays(self) -> list[Allocation]:
        """The memory of every array that is still in use."""
        with self._lock:
            return list(self._arrays)

    def lane(self) -> SimLane:
        """A fresh lane."""
        return SimLane(self)

    def staging(self) -> Staging:
        """Small blocks of garbage, and garbage again after `reset`."""
        return Staging(lambda nbytes: np.full(nbytes, GARBAGE, np.uint8), _spoil, STAGING_NBYTES)

    def read_files(self, reads: Sequence[FileRead], reader: FileReader | None) -> None:
        """By itself with plain reads. A `reader` gets addresses of the host's."""
        placed = [(read, _buffer(read.into, "read_files").bytes()) for read in reads]
        if reader is not None:
            reader([(read.path, read.start, into.nbytes, into.ctypes.data) for read, into in placed])
            self.count(file_reads=len(placed), file_nbytes=sum(into.nbytes for _, into in placed))
            return
        for read, into in placed:
            try:
                with open(read.path, "rb", buffering=0) as file:
                    file.seek(read.start)
                    done = 0
                    while done < into.nbytes and (got := file.readinto(into[done:].data)):
                        done += got
            except OSError as error:
                raise StoreError(f"cannot read {read.path} into device memory: {error}") from error
            if done < into.nbytes:
                raise StoreError(f"{read.path} ends early")
            self.count(file_reads=1, file_nbytes=done)

    def form(self, dtype: np.dtype[Any]) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """Every type has a form of its own here."""
        return dtype, ()

    def empty_array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> SimArray:
        """Garbage between red zones, until the last array that shares it is gone."""
        if dtype.hasobject:
            raise DeviceError(f"{dtype} values cannot lie in device memory")
        nbytes = prod(shape) * dtype.itemsize
        memory = Allocation(nbytes, f"array {dtype}{list(shape)}")
        with self._lock:
            self._arrays.add(memory)
        strides = c_strides(shape, dtype.itemsize)
        return SimArray(self, SimBuffer(memory, 0, nbytes), 0, shape, strides, dtype)

    def array(self, host: NDArray[Any]) -> SimArray:
        """A copy of a host array: what `cupy.asarray` is to CUDA."""
        made = self.empty_array(host.shape, host.dtype)
        made.buffer.bytes()[:] = np.ascontiguousarray(host).reshape(-1).view(np.uint8)
        return made

    def memory(self, array: Any) -> tuple[DeviceBuffer, int, tuple[int, ...]]:
        """See `device.base.Device`."""
        if not self.owns(array):
            raise DeviceError(f"{type(array).__name__} does not lie on {self.name}")
        return array.buffer, array.offset, array.strides

    def owns(self, array: object) -> bool:
        """See `device.base.Device`."""
        return isinstance(array, SimArray) and array.device is self


_naming = threading.Lock()
_devices: dict[str, SimDevice] = {}


def _spoil(block: Bytes1D) -> None:
    block[:] = GARBAGE


def _buffer(value: DeviceBuffer, where: str) -> SimBuffer:
    if not isinstance(value, SimBuffer):
        raise DeviceError(f"{where}: a {type(value).__name__} is no memory of device sim")
    return value
