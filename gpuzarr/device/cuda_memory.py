"""The memory of a CUDA device: buffers, the arena of a lane, pinned host memory.

    slab       | taken | taken | taken | free ...   device memory of CuPy's allocator, 32 MiB or more
    page       | array | array | free ...           pinned host memory; a part of the arena has its like
    pinned     blocks of a power of two bytes, given back and taken again

CuPy lacks some of NumPy's types. Values of these come as plain numbers of the same bytes (`form`):

    datetime64, timedelta64                   int64
    S, V, structured, long double             uint8, with one more axis of the item's bytes
    U                                         uint32, with one more axis of characters
    float8, int4 and others of ml_dtypes      unsigned integers of their size; bfloat16 too, before CuPy 14
"""

from __future__ import annotations

import threading
import weakref
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuzarr.device.base import Bytes1D, DeviceBuffer
from gpuzarr.errors import DeviceError, LimitError

ALIGNMENT = 256
SLAB_NBYTES = 32 << 20
PINNED_NBYTES = 64 << 10
"""The least that is pinned at once."""

_CUPY_TYPES = frozenset("?bhilqBHILQefdFD")  # dtype.char


class Lease:
    """Whether memory may still be used, on which device it lies, and what keeps it."""

    __slots__ = ("device", "keep", "live")

    def __init__(self, device: int, keep: object = None) -> None:
        self.device, self.keep, self.live = device, keep, True


@dataclass(frozen=True, slots=True)
class CudaBuffer:
    """A range of device memory. See `device.base.DeviceBuffer`."""

    address: int
    nbytes: int
    lease: Lease

    def part(self, offset: int, nbytes: int) -> CudaBuffer:
        """See DeviceBuffer."""
        if not 0 <= offset <= offset + nbytes <= self.nbytes:
            raise DeviceError(f"bytes {offset} to {offset + nbytes} of a buffer of {self.nbytes}")
        return CudaBuffer(self.address + int(offset), int(nbytes), self.lease)


def usable(value: DeviceBuffer, number: int, where: str) -> CudaBuffer:
    """A buffer that may be used on `cuda:number` here and now."""
    if not isinstance(value, CudaBuffer) or value.lease.device != number:
        raise DeviceError(f"{where}: a {type(value).__name__} is no memory of cuda:{number}")
    if not value.lease.live:
        raise DeviceError(f"{where}: device memory is used after it was given back by reset")
    return value


class Arena:
    """Device memory that is taken piece by piece and given back at once."""

    def __init__(self, device: int, allocate: Callable[[int], Any]) -> None:
        """`allocate` gives a `cupy.cuda.MemoryPointer` to so many bytes."""
        self._device, self._allocate = device, allocate
        self._slabs: list[Any] = []
        self._begin = self._at = self._end = 0
        """Of the last slab, as addresses."""
        self._expected = 0
        """What was taken before the last `reset`, where it took several slabs."""
        self._lease = Lease(device)
        self.nbytes = 0
        """What has been taken since `reset`."""

    def take(self, nbytes: int) -> CudaBuffer:
        """Memory that nothing is known of, aligned."""
        if nbytes < 0:
            raise DeviceError(f"{nbytes} bytes of device memory")
        size = aligned(max(int(nbytes), 1))
        if self._at + size > self._end:
            self._grow(size)
        buffer = CudaBuffer(self._at, int(nbytes), self._lease)
        self._at += size
        self.nbytes += size
        return buffer

    def _grow(self, nbytes: int) -> None:
        """One more slab, no larger than it must be where memory is short. What is left of the one before it
        is not used again."""
        least, nbytes = nbytes, max(nbytes, SLAB_NBYTES, 0 if self._slabs else self._expected)
        try:
            slab = self._allocate(nbytes)
        except LimitError:
            if nbytes == least:
                raise
            slab, nbytes = self._allocate(least), least
        begin = int(slab.ptr)
        if begin % ALIGNMENT:
            raise DeviceError("CuPy's allocator gives memory that is not aligned to 256 bytes")
        self._slabs.append(slab)
        self._begin, self._at, self._end = begin, begin, begin + nbytes

    def reset(self) -> None:
        """Give everything back. One slab is kept for the next time; several make way for one as large."""
        self._lease.live = False
        self._lease = Lease(self._device)
        if len(self._slabs) > 1:
            self._expected = self.nbytes
            self._slabs.clear()
            self._begin = self._end = 0
        self._at, self.nbytes = self._begin, 0

    def release(self) -> None:
        """Give the last slab back too."""
        self.reset()
        self._slabs.clear()
        self._begin = self._at = self._end = self._expected = 0


@dataclass(slots=True)
class Page:
    """Host arrays side by side in pinned memory, which one copy takes to the device."""

    pinned: Bytes1D
    device: CudaBuffer
    used: int = 0
    sent: int = 0
    """Up to here the copy has been started. What lies before is not written again."""

    @property
    def free(self) -> int:
        """Bytes that still fit."""
        return self.device.nbytes - self.used

    def put(self, source: Bytes1D) -> int:
        """Write the bytes here; where they begin."""
        begin = self.used
        self.pinned[begin : begin + source.nbytes] = source
        self.used += aligned(max(source.nbytes, 1))
        return begin


@dataclass(slots=True)
class Pinned:
    """Page-locked host memory of one device. To lock pages takes milliseconds, so blocks are used again;
    what is given back over the limit goes to CuPy, whose own pool may keep it."""

    allocate: Callable[[int], Any]
    """Gives a `cupy.cuda.PinnedMemoryPointer` to at least so many bytes."""
    limit: Callable[[], int]
    """How many bytes are kept that nobody uses."""
    _free: defaultdict[int, list[Bytes1D]] = field(default_factory=lambda: defaultdict(list))
    _begins: dict[int, int] = field(default_factory=dict)
    """Where each block in use or free begins, and its size."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, nbytes: int) -> Bytes1D:
        """Memory of at least so many bytes, a power of two: CuPy's pool would round up too."""
        size = max(PINNED_NBYTES, 1 << (nbytes - 1).bit_length()) if nbytes > 0 else PINNED_NBYTES
        with self._lock:
            if self._free[size]:
                return self._free[size].pop()
        block: Bytes1D = np.frombuffer(self.allocate(size), np.uint8)[:size]
        begin = block.ctypes.data
        self._begins[begin] = size
        weakref.finalize(block, self._begins.pop, begin, None).atexit = False
        return block

    def give(self, block: Bytes1D) -> None:
        """Take a block back."""
        with self._lock:
            kept = sum(size * len(blocks) for size, blocks in self._free.items())
            if kept + block.nbytes <= self.limit():
                self._free[block.nbytes].append(block)

    def holds(self, array: NDArray[Any]) -> bool:
        """Whether all of a C-contiguous array lies in one block."""
        begin = array.ctypes.data
        end = begin + array.nbytes
        return any(first <= begin and end <= first + size for first, size in list(self._begins.items()))


def aligned(nbytes: int) -> int:
    """Rounded up to what device memory is aligned to."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def form(dtype: np.dtype[Any], known: bool = False) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """See `device.base.Device`, and the head of this module. `known`: CuPy has this type, though NumPy
    lacks it."""
    if dtype.hasobject or dtype.kind in "OT":
        raise DeviceError(f"{dtype} values cannot lie in device memory")
    if known:
        return dtype, ()
    if dtype.num >= 256 and dtype.itemsize in (1, 2, 4, 8):  # not NumPy's own
        return np.dtype(f"u{dtype.itemsize}"), ()
    if dtype.char in _CUPY_TYPES and dtype.num < 256:
        return dtype.newbyteorder("="), ()
    if dtype.kind in "mM":
        return np.dtype(np.int64), ()
    if dtype.kind == "U":
        return np.dtype(np.uint32), (dtype.itemsize // 4,)
    return np.dtype(np.uint8), (dtype.itemsize,)


def extent(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> tuple[int, int]:
    """The first byte of an array's elements, and the one behind the last, from its first element on."""
    if 0 in shape:
        return 0, 0
    reach = [(n - 1) * stride for n, stride in zip(shape, strides, strict=True)]
    return sum(min(span, 0) for span in reach), sum(max(span, 0) for span in reach) + itemsize
