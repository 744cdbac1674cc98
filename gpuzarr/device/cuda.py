"""CUDA devices, through CuPy: the only room that imports it.

    memory     CuPy's allocator of the moment: its pool, or RMM where that was set
    kernels    compiled by NVRTC when first launched (device/nvrtc.py), loaded once a device
    lanes      non-blocking streams, used again (device/cuda_lane.py); each starts behind what the caller's
               current stream had queued when the lane was asked for
    results    `cupy.ndarray`

Results are whole when a read returns: the engine waits for its lanes. CUDA does not survive a fork.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuzarr import config
from gpuzarr.device import nvcomp, nvrtc
from gpuzarr.device.base import Bytes1D, DeviceBuffer, FileRead, FileReader
from gpuzarr.device.catalogue import Kernel
from gpuzarr.device.cuda_lane import Channel, CudaLane
from gpuzarr.device.cuda_memory import Arena, CudaBuffer, Lease, Pinned, extent, form, usable
from gpuzarr.device.staging import BLOCK_NBYTES, Staging
from gpuzarr.errors import ArgumentError, DeviceError, GpuzarrError, LimitError, MissingDependencyError

OLDEST_CUPY = (13, 6)
OLDEST_ARCHITECTURE = 75
STAGING_NBYTES = BLOCK_NBYTES
WAVE_NBYTES = 2 << 30
"""Of a large GPU; of a smaller one an eighth of its memory."""

_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation, CUDA_ERROR_OUT_OF_MEMORY
_KERNEL_FAILED = range(700, 720)  # the context is lost: cudaErrorIllegalAddress to cudaErrorLaunchFailure


class CudaDevice:
    """See `device.base.Device`. One instance a device and process, for all threads."""

    timed = True
    direct = "kvikio"

    def __init__(self, cupy: Any, number: int) -> None:
        """Of `named`, which has looked whether there is such a device."""
        self.cupy, self.number, self.name = cupy, number, f"cuda:{number}"
        self._process = os.getpid()
        self._current = cupy.cuda.Device(number)
        self._errors = (cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError)
        self._pinned = Pinned(self._lock_pages, self._wave_nbytes)
        self._channels: deque[Channel] = deque()
        """Those that no lane uses. A deque needs no lock, so that a finalizer may put one back."""
        self._lost: list[object] = []
        self._compiling = threading.Lock()
        self._modules: dict[str, Any] = {}
        self._functions: dict[Kernel, Any] = {}
        with self.using("start"):
            self.architecture = int(self._current.compute_capability)
            _, memory = self._current.mem_info
            self._cuda = int(cupy.cuda.runtime.driverGetVersion()) // 1000
        self.wave_nbytes = min(WAVE_NBYTES, int(memory) // 8)
        if self.architecture < OLDEST_ARCHITECTURE:
            capability = f"{self.architecture // 10}.{self.architecture % 10}"
            raise DeviceError(
                f"{self.name} has compute capability {capability}, and 7.5 is needed",
                hint='use a newer GPU, or device="cpu"',
            )

    @classmethod
    def named(cls, name: str) -> CudaDevice:
        """The device called `cuda:N`; `cuda`: the one that is current in CuPy. What is missing is a
        DeviceError or a MissingDependencyError that says what to do."""
        match = re.fullmatch(r"cuda(?::(0|[1-9][0-9]{0,3}))?", name)
        if not match:
            raise ArgumentError(f"no device is called {name!r}", hint="use cuda, or cuda:N with a number")
        with _naming:
            cupy, count = _start()
            number = int(match[1]) if match[1] else int(cupy.cuda.Device().id)
            if number >= count:
                there = ", ".join(f"cuda:{i}" for i in range(count))
                raise DeviceError(f"there is no {name}", hint=f"this machine has {there}")
            if number not in _devices:
                _devices[number] = cls(cupy, number)
            return _devices[number]

    @classmethod
    def works(cls) -> str | None:
        """Why `cuda` cannot be used here; None if it can. Never raises, and asks once."""
        global _trouble
        if _trouble is None or _trouble[0] != os.getpid():
            _trouble = os.getpid(), cls._look()
        return _trouble[1]

    @classmethod
    def _look(cls) -> str | None:
        try:
            if not _driver():  # most machines: no need to import CuPy
                return "no NVIDIA driver here (libcuda.so.1)"
            nvrtc.load(cls.named("cuda")._cuda)
            nvcomp.load()
        except Exception as error:
            return str(error) or type(error).__name__
        return None

    @contextmanager
    def using(self, what: str) -> Iterator[None]:
        """Make this device the thread's current one; errors of CUDA become ours. `what` is being done."""
        if os.getpid() != self._process:
            raise _forked()
        try:
            with self._current:
                yield
        except GpuzarrError:
            raise
        except MemoryError as error:
            raise self._limit(what, error) from error
        except self._errors as error:
            status = int(getattr(error, "status", 0))
            if status == _OUT_OF_MEMORY:
                raise self._limit(what, error) from error
            lost = "a kernel has failed: this process cannot use CUDA any more"
            hint = lost if status in _KERNEL_FAILED else None
            raise DeviceError(f"{self.name}: {what}: {error}", hint=hint) from error

    def _limit(self, what: str, error: Exception) -> LimitError:
        hint = f"lower wave_nbytes, which is {self._wave_nbytes()}, or read in parts"
        return LimitError(f"{self.name}: {what}: {error}", hint=hint)

    def _wave_nbytes(self) -> int:
        return config.current().wave_nbytes or self.wave_nbytes

    # ---- lanes

    def lane(self) -> CudaLane:
        """See `device.base.Device`. When the lane is no longer referred to, its stream is used again."""
        with self.using("lane"):
            channel = self._free_channel()
            channel.event.record(self.cupy.cuda.get_current_stream())
            channel.stream.wait_event(channel.event)
        lane = CudaLane(self, channel)
        weakref.finalize(lane, self._take_back, channel).atexit = False
        return lane

    def _free_channel(self) -> Channel:
        try:
            return self._channels.pop()
        except IndexError:
            cuda = self.cupy.cuda
            stream = cuda.Stream(non_blocking=True)

            def allocate(nbytes: int) -> Any:
                with self.using(f"{nbytes} bytes"), stream:
                    return cuda.alloc(nbytes)

            return Channel(stream, cuda.Event(disable_timing=True), Arena(self.number, allocate))

    def _take_back(self, channel: Channel) -> None:
        """Of a finalizer, on any thread, so without a lock of ours. Work that nobody waited for still writes
        to the channel's memory."""
        if os.getpid() != self._process:
            self._lost.append(channel)  # a fork: CUDA must not be asked to free anything
            return
        try:
            if channel.busy:
                with self.using("waiting for a lane that was left"):
                    channel.stream.synchronize()
        except GpuzarrError:
            channel.failed = True
        for left in (channel.queue, channel.pages, channel.held, channel.downloads, channel.recent):
            left.clear()
        channel.arena.release()
        channel.busy = False
        if channel.failed:
            self._lost.append(channel)
        else:
            self._channels.append(channel)

    # ---- kernels

    def function(self, kernel: Kernel) -> Any:
        """A `cupy.cuda.Function`. Its file is compiled and loaded when it is first asked for."""
        found = self._functions.get(kernel)
        if found is None:
            with self._compiling:
                module = self._modules.get(str(kernel.path)) or self._load(kernel)
                with self.using(kernel.name):
                    found = module.get_function(kernel.name)
                self._functions[kernel] = found
        return found

    def _load(self, kernel: Kernel) -> Any:
        compiler = nvrtc.load(self._cuda)
        code = nvrtc.code(compiler, kernel, self.architecture)
        with self.using(kernel.path.name):
            module = self.cupy.cuda.Module()
            try:
                module.load(code)
            except self._errors as error:
                raise DeviceError(
                    f"{self.name}: the driver, of CUDA {self._cuda}, refuses what {compiler} made of "
                    f"{kernel.path.name}: {error}",
                    hint=f"update the driver, or {_install()}",
                ) from error
        self._modules[str(kernel.path)] = module
        return module

    # ---- host memory

    def staging(self) -> Staging:
        """See `device.base.Device`. Pinned."""
        return Staging(self.pinned, self.unpin, STAGING_NBYTES)

    def pinned(self, nbytes: int) -> Bytes1D:
        """Pinned host memory of at least so many bytes."""
        return self._pinned.take(nbytes)

    def unpin(self, block: Bytes1D) -> None:
        """Take back what `pinned` gave. Only when no copy from or to it is under way."""
        self._pinned.give(block)

    def is_pinned(self, array: NDArray[Any]) -> bool:
        """Whether a C-contiguous array lies in such memory."""
        return self._pinned.holds(array)

    def _lock_pages(self, nbytes: int) -> Any:
        with self.using(f"{nbytes} bytes of pinned host memory"):
            return self.cupy.cuda.alloc_pinned_memory(nbytes)

    def read_files(self, reads: Sequence[FileRead], reader: FileReader | None) -> None:
        """See `device.base.Device`."""
        if reader is None:
            raise DeviceError(f"{self.name} reads no files by itself")
        with self.using("reading files"):
            placed = [(read, usable(read.into, self.number, "reading files")) for read in reads]
            reader([(read.path, read.start, into.nbytes, into.address) for read, into in placed])

    # ---- results

    def form(self, dtype: np.dtype[Any]) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """See `device.base.Device`, and `cuda_memory.form`."""
        return form(dtype, dtype.name == "bfloat16" and self._takes(dtype))

    def _takes(self, dtype: np.dtype[Any]) -> bool:
        """Whether CuPy has this type. Before version 14 it makes arrays of any type, and uses of few."""
        if _version(self.cupy) < (14, 0):
            return False
        with self.using(dtype.name):
            try:
                self.cupy.empty(0, dtype)
            except (TypeError, ValueError):
                return False
        return True

    def empty_array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """See `device.base.Device`. A `cupy.ndarray`."""
        value, within = self.form(dtype)
        what = f"a result of shape {shape} and type {dtype}"
        with self.using(what):
            try:
                return self.cupy.empty((*shape, *within), value)
            except ValueError as error:  # too many dimensions: 25 in CuPy 13, 32 in 14
                raise DeviceError(f"{self.name}: {what}: {error}", hint='use device="cpu"') from error

    def memory(self, array: Any) -> tuple[DeviceBuffer, int, tuple[int, ...]]:
        """See `device.base.Device`. The buffer keeps the array alive."""
        if not self.owns(array):
            raise DeviceError(f"{type(array).__name__} does not lie on {self.name}")
        low, high = extent(array.shape, array.strides, array.dtype.itemsize)
        first = int(array.data.ptr)
        return CudaBuffer(first + low, high - low, Lease(self.number, array)), -low, tuple(array.strides)

    def owns(self, array: object) -> bool:
        """See `device.base.Device`."""
        return isinstance(array, self.cupy.ndarray) and int(array.device.id) == self.number


_naming = threading.RLock()
_devices: dict[int, CudaDevice] = {}
_started: int | None = None
"""The process in which CUDA was started here."""
_trouble: tuple[int, str | None] | None = None


def _start() -> tuple[Any, int]:
    """CuPy, and how many devices there are."""
    global _started
    if _started not in (None, os.getpid()):
        raise _forked()
    cupy = _cupy()
    runtime = cupy.cuda.runtime
    try:
        count = int(runtime.getDeviceCount())
    except RuntimeError as error:  # the wrappers of a missing driver have errors of other classes too
        driver = _driver()
        if not driver:
            raise DeviceError("no NVIDIA driver here (libcuda.so.1)", hint='use device="cpu"') from error
        built = int(runtime.runtimeGetVersion())
        hint = "was this process forked from one that uses CUDA? Then use the spawn start method"
        if driver < built // 1000 * 1000:
            hint = f"update the driver, or {_install()} in place of CuPy"
        elif "NoDevice" in str(error):
            hint = 'use device="cpu", or look at CUDA_VISIBLE_DEVICES'
        told = f"the driver is of CUDA {driver // 1000}.{driver % 1000 // 10}"
        raise DeviceError(f"CUDA does not start: {error} ({told})", hint=hint) from error
    _started = os.getpid()
    if not count:
        raise DeviceError("there is no CUDA device", hint='use device="cpu"')
    return cupy, count


def _cupy() -> Any:
    """CuPy, if it is of a version that is known to do."""
    try:
        import cupy
    except ImportError as error:
        why = "is not installed" if isinstance(error, ModuleNotFoundError) else "cannot be loaded"
        raise MissingDependencyError(f"CuPy {why}", hint=_install()) from error
    if cupy.cuda.runtime.is_hip:
        raise DeviceError("this CuPy is made for ROCm", hint=_install())
    if _version(cupy) < OLDEST_CUPY:
        oldest = ".".join(map(str, OLDEST_CUPY))
        raise DeviceError(f"CuPy {cupy.__version__} is older than {oldest}", hint=_install())
    return cupy


def _version(cupy: Any) -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", cupy.__version__)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _driver() -> int:
    """The CUDA version that the driver supports, 12080 for 12.8; 0: there is none. Starts nothing."""
    version = ctypes.c_int()
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return 0
    return 0 if failed else version.value


def _install() -> str:
    """The command for the extra that fits the driver."""
    return f'pip install "gpuzarr[{"cuda12" if _driver() // 1000 == 12 else "cuda13"}]"'


def _forked() -> DeviceError:
    return DeviceError(
        "CUDA does not survive a fork, and this process was forked from one that uses it",
        hint='use multiprocessing\'s "spawn" start method, or device="cpu"',
    )
