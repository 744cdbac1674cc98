"""What the engine and the codecs may ask of a device, and nothing more.

    empty · upload · download · launch · synchronize      and lanes, so that waves overlap

A device holds memory that only kernels read and write. A kernel is launched by name; its parameters are
checked against its own signature (`device.catalogue`). A lane is an ordered queue of work with an arena:
everything taken from the arena is given back at once by `reset`. Work of one lane runs in order; work of two
lanes may overlap.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Bytes1D = NDArray[np.uint8]
"""A C-contiguous, one-dimensional array of bytes in host memory."""


@runtime_checkable
class DeviceBuffer(Protocol):
    """A range of device memory. It cannot be read or indexed from the host."""

    @property
    def nbytes(self) -> int:
        """Its size."""
        ...

    def part(self, offset: int, nbytes: int) -> DeviceBuffer:
        """The `nbytes` bytes at `offset`, sharing this buffer's memory."""
        ...


class Lane(Protocol):
    """An ordered queue of device work with its own arena and staging memory."""

    @property
    def nbytes(self) -> int:
        """Arena memory that has been taken since `reset`."""
        ...

    def empty(self, nbytes: int) -> DeviceBuffer:
        """Uninitialised device memory, aligned to 256 bytes, valid until `reset`."""
        ...

    def staging(self, nbytes: int) -> Bytes1D:
        """Host memory from which `upload` is fast (pinned, where that has a meaning), valid until `reset`."""
        ...

    def upload(self, source: NDArray[Any]) -> DeviceBuffer:
        """The bytes of a C-contiguous host array, in the arena. The source must not change before
        `synchronize`."""
        ...

    def download(self, source: DeviceBuffer, into: Bytes1D) -> None:
        """Copy device bytes to the host. `into` holds them after `synchronize`."""
        ...

    def launch(self, kernel: str, blocks: int, threads: int, /, **params: Any) -> None:
        """Run `kernel` on `blocks` × `threads` threads. Pointer parameters take device buffers, or host
        arrays, which are uploaded first; scalar parameters take numbers. A missing, unknown or mistyped
        parameter is a DeviceError."""
        ...

    def decompress(
        self,
        algorithm: str,
        source: DeviceBuffer,
        offset: NDArray[np.int64],
        nbytes: NDArray[np.int64],
        out_nbytes: int,
        codec: str,
    ) -> DeviceBuffer:
        """N streams of `algorithm` (a key of `nvcomp.FORMATS`), stream i being `nbytes[i]` bytes at
        `offset[i]`, decompressed to exactly `out_nbytes` bytes each, one behind the other. A stream that
        gives anything else is a fault of `codec`."""
        ...

    def faults(self, count: int, codec: str, meaning: str) -> DeviceBuffer:
        """int32[count], zeroed: a kernel sets entry i to a nonzero number when chunk i of the batch is not
        what it should be. After the wave's one `synchronize` the engine reads them (`take_faults`) and
        raises for the first."""
        ...

    def take_faults(self) -> tuple[int, str, str] | None:
        """After `synchronize`: the first (chunk of the batch, codec, meaning) that was set since the last
        `reset`."""
        ...

    def synchronize(self) -> None:
        """Wait until everything queued here is done."""
        ...

    def reset(self) -> None:
        """Give the arena and the staging memory back. Only after `synchronize`."""
        ...


class Device(Protocol):
    """A place where kernels run. One instance a device and process, shared by all threads."""

    name: str
    """`sim`, `cuda:0`: what `device=` accepts."""

    def lane(self) -> Lane:
        """A lane of this device for the calling thread."""
        ...

    def empty_array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """An uninitialised result array that outlives every lane: the device's own array type."""
        ...

    def memory(self, array: Any) -> tuple[DeviceBuffer, int, tuple[int, ...]]:
        """A result array as (the buffer it lies in, offset of its first element in bytes, strides in
        bytes)."""
        ...

    def owns(self, array: object) -> bool:
        """Whether `array` is of this device's array type and lies on this device."""
        ...
