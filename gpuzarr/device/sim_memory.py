"""The memory of device sim: allocations between red zones, buffers, arrays that refuse hidden transfers."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from gpuzarr.device import sim_library
from gpuzarr.device.base import Bytes1D, Device
from gpuzarr.errors import DeviceError

GARBAGE, RED, ZONE, ALIGNMENT = 0xA5, 0xFD, 64, 256
"""What memory holds before it is written, what red zones hold, how wide they are; how all is aligned."""

_RED_ZONE = bytes([RED]) * ZONE


class Allocation:
    """Device memory between two red zones."""

    __slots__ = ("__weakref__", "label", "live", "nbytes", "raw", "start")

    def __init__(self, nbytes: int, label: str) -> None:
        if nbytes < 0:
            raise DeviceError(f"{label}: {nbytes} bytes of device memory")
        # At least a page half: NumPy keeps smaller blocks for itself, and with them what is poisoned.
        self.raw: Bytes1D = np.empty(max(ZONE + ALIGNMENT + nbytes + ZONE, 2048), np.uint8)
        self.start = ZONE + -(self.raw.ctypes.data + ZONE) % ALIGNMENT
        self.nbytes, self.label, self.live = nbytes, label, True
        self.bytes()[:] = GARBAGE
        for zone in self.zones():
            zone[:] = RED
        if sim_library.sanitizing():
            for zone in (self.raw[: self.start], self.raw[self.start + nbytes :]):
                sim_library.poison(zone.ctypes.data, zone.nbytes)

    def bytes(self) -> Bytes1D:
        """What lies between the red zones."""
        return self.raw[self.start : self.start + self.nbytes]

    def zones(self) -> tuple[Bytes1D, Bytes1D]:
        """The red zones before and after."""
        end = self.start + self.nbytes
        return self.raw[self.start - ZONE : self.start], self.raw[end : end + ZONE]

    def damage(self) -> str | None:
        """Which red zone was written."""
        # AddressSanitizer, where it runs, has ended the process before this is asked, and forbids looking.
        if sim_library.sanitizing():
            return None
        before, after = self.zones()
        if after.tobytes() != _RED_ZONE:
            return "after the end"
        return "before the start" if before.tobytes() != _RED_ZONE else None


@dataclass(frozen=True, slots=True)
class SimBuffer:
    """A range of an allocation."""

    memory: Allocation
    offset: int
    nbytes: int

    def part(self, offset: int, nbytes: int) -> SimBuffer:
        """See DeviceBuffer."""
        if not 0 <= offset <= offset + nbytes <= self.nbytes:
            raise DeviceError(f"bytes {offset} to {offset + nbytes} of a buffer of {self.nbytes}")
        return SimBuffer(self.memory, self.offset + offset, nbytes)

    def bytes(self) -> Bytes1D:
        """The memory itself, as only this module may see it."""
        if not self.memory.live:
            raise DeviceError(f"{self.memory.label} is used after it was given back by reset")
        return self.memory.bytes()[self.offset : self.offset + self.nbytes]


def c_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Strides in bytes of a C-contiguous array."""
    return tuple(prod(shape[axis + 1 :]) * itemsize for axis in range(len(shape)))


def _refuse(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
    raise TypeError("a SimArray is device memory: on a GPU this is a hidden transfer; call .get() for a copy")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SimArray:
    """An array in the memory of device sim. Only kernels and `get` see its values."""

    device: Device
    buffer: SimBuffer
    offset: int
    """Of the first element, in bytes."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In bytes."""
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of all elements."""
        return self.size * self.dtype.itemsize

    def get(self) -> NDArray[Any]:
        """A copy in host memory. It does not wait: what a lane has queued is not in it."""
        if not self.nbytes:
            return np.zeros(self.shape, self.dtype)
        memory = self.buffer.bytes().data
        view: NDArray[Any] = np.ndarray(self.shape, self.dtype, memory, self.offset, self.strides)
        return view.copy("C")

    def view_as(
        self,
        shape: tuple[int, ...],
        strides: tuple[int, ...] | None = None,
        offset: int = 0,
        dtype: np.dtype[Any] | None = None,
    ) -> SimArray:
        """The same memory seen otherwise, by default in C order. `offset`: bytes from its first element."""
        dtype = self.dtype if dtype is None else np.dtype(dtype)
        strides = c_strides(shape, dtype.itemsize) if strides is None else strides
        first = self.offset + offset
        reach = [(length - 1) * stride for length, stride in zip(shape, strides, strict=True)]
        low = first + sum(min(span, 0) for span in reach)
        high = first + sum(max(span, 0) for span in reach) + dtype.itemsize
        if prod(shape) and not 0 <= low <= high <= self.buffer.nbytes:
            raise DeviceError(f"a view of bytes {low} to {high} of {self.buffer.memory.label}")
        return SimArray(self.device, self.buffer, first, shape, strides, dtype)

    def __repr__(self) -> str:
        return f"SimArray({self.dtype}{list(self.shape)} on {self.device.name})"

    __getitem__ = __setitem__ = __iter__ = __len__ = __contains__ = __array__ = _refuse
    __bool__ = __int__ = __index__ = __float__ = __complex__ = __eq__ = __ne__ = _refuse
    __hash__ = object.__hash__
    __array_ufunc__ = None
