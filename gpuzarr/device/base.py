"""What the engine and the codecs may ask of a device, and nothing more.

    empty · upload · download · launch · decompress · compress · synchronize,
    and lanes, so that waves overlap

A device holds memory that only kernels read and write. A kernel is launched by name; its parameters are
checked against its own signature (`device.catalogue`). A lane is an ordered queue of work with an arena:
everything taken from the arena is given back at once by `reset`. Work of one lane runs in order; work of two
lanes may overlap. A staging is host memory that many threads fill and lanes copy from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Bytes1D = NDArray[np.uint8]
"""A C-contiguous, one-dimensional array of bytes in host memory."""


FileReader = Callable[[Sequence[tuple[str, int, int, int]]], None]
"""Reads files into device memory: of each path, from byte `start` on, `nbytes` bytes to an address."""


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


class Staging(Protocol):
    """Host memory from which `Lane.upload` is fast: pinned, where that has a meaning (device/staging.py)."""

    @property
    def blocks(self) -> list[tuple[int, Bytes1D]]:
        """The position of each block's first byte, and its used part."""
        ...

    def take(self, nbytes: int, lead: int = 0) -> tuple[int, Bytes1D]:
        """Uninitialised memory, byte `lead` of which is aligned to 16, valid until `reset`; and the position
        of its first byte. Any thread may ask."""
        ...

    def reset(self) -> None:
        """Give the memory back. Only after the `synchronize` of every lane that copies from it."""
        ...


class Lane(Protocol):
    """An ordered queue of device work with its own arena."""

    @property
    def nbytes(self) -> int:
        """Arena memory that has been taken since `reset`."""
        ...

    def empty(self, nbytes: int) -> DeviceBuffer:
        """Uninitialised device memory, aligned to 256 bytes, valid until `reset`."""
        ...

    def upload(self, source: NDArray[Any], into: DeviceBuffer | None = None) -> DeviceBuffer:
        """The bytes of a C-contiguous host array, in the arena, or in `into`, which is as large. The source
        must not change before `synchronize`."""
        ...

    def download(self, source: DeviceBuffer, into: Bytes1D) -> None:
        """Copy device bytes to the host. `into` holds them after `synchronize`."""
        ...

    def launch(self, kernel: str, blocks: int, threads: int, /, **params: Any) -> None:
        """Run `kernel` on `blocks` × `threads` threads. Pointer parameters take device buffers, or host
        arrays, which are uploaded first; scalar parameters take numbers. A missing, unknown or mistyped
        parameter is a DeviceError."""
        ...

    def decompress(self, algorithm: str, streams: Streams, fault: DeviceBuffer) -> None:
        """Decompress `streams`, of `algorithm` (a key of `nvcomp.ALGORITHMS`). A stream that does not give
        exactly what its row says sets its owner's entry in `fault`."""
        ...

    def compress_bound(self, algorithm: str, nbytes: int) -> int:
        """The most bytes that `compress` makes of a string of at most `nbytes` bytes."""
        ...

    def compress(self, algorithm: str, strings: Uncompressed, fault: DeviceBuffer) -> None:
        """Compress `strings` to one stream of `algorithm` each. A string of which the library makes anything
        else than a stream that says its size sets its owner's entry in `fault`."""
        ...

    def faults(self, count: int) -> DeviceBuffer:
        """int32[count], zeroed: a kernel sets entry i to a nonzero number when it cannot decode or encode
        chunk i of the batch. The host then has the last word on that chunk."""
        ...

    def take_faults(self) -> NDArray[np.int64]:
        """After `synchronize`: the chunks of the batch whose entry was set since the last `reset`, in
        order."""
        ...

    def submit(self) -> None:
        """Start what is queued, without waiting for it."""
        ...

    def synchronize(self) -> None:
        """Wait until everything queued here is done."""
        ...

    def reset(self) -> None:
        """Give the arena back. Only after `synchronize`."""
        ...


@dataclass(frozen=True, slots=True)
class Streams:
    """N streams to decompress, a row each: stream i is `src_nbytes[i]` bytes at `src + src_offset[i]`, gives
    exactly `dst_nbytes[i]` bytes at `dst + dst_offset[i]`, and belongs to chunk `owner[i]` of the batch.
    Columns are int64[n], `owner` int32[n], in host or device memory."""

    src: DeviceBuffer
    src_offset: Any
    src_nbytes: Any
    dst: DeviceBuffer
    dst_offset: Any
    dst_nbytes: Any
    owner: Any
    count: int
    largest: int
    """No stream gives more bytes."""
    total: int
    """All together give no more."""
    stored: bool = False
    """A stream of `dst_nbytes` bytes is not compressed."""


@dataclass(frozen=True, slots=True)
class Uncompressed:
    """N strings to compress, a row each: string i is `src_nbytes[i]` bytes at `src + src_offset[i]`, becomes
    a stream at `dst + dst_offset[i]`, where there is room for `Lane.compress_bound` of `largest`, and belongs
    to chunk `owner[i]` of the batch. Columns are int64[n], `owner` int32[n], in host or device memory;
    `dst_nbytes`, int64[n] in device memory, is set to the sizes of the streams."""

    src: DeviceBuffer
    src_offset: Any
    src_nbytes: Any
    dst: DeviceBuffer
    dst_offset: Any
    dst_nbytes: DeviceBuffer
    owner: Any
    count: int
    largest: int
    """No string has more bytes."""


@dataclass(frozen=True, slots=True)
class FileRead:
    """A part of a file or object, from byte `start` on, that is to fill a buffer."""

    path: str
    start: int
    into: DeviceBuffer


class Device(Protocol):
    """A place where kernels run. One instance a device and process, shared by all threads."""

    name: str
    """`sim`, `cuda:0`: what `device=` accepts."""
    timed: bool
    """Its time counts, so that the host may take from it what it does sooner itself."""
    direct: str
    """Who reads straight into its memory: `kvikio`; `sim`: the device itself, for tests."""
    wave_nbytes: int
    """Memory that the waves of a read may take, where the setting does not say."""

    def lane(self) -> Lane:
        """A lane of this device for the calling thread."""
        ...

    def staging(self) -> Staging:
        """Host memory to fill."""
        ...

    def read_files(self, reads: Sequence[FileRead], reader: FileReader | None) -> None:
        """Fill device memory from files, or from what else `reader` reads; None: the device reads files
        itself, if it can. Nothing else may use the memory. When this returns, all bytes are there for every
        lane; when it raises, nothing is under way."""
        ...

    def form(self, dtype: np.dtype[Any]) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """How values of `dtype` come in this device's arrays: as what type, and in how many more axes. Types
        that the array type lacks come as plain numbers of the same bytes."""
        ...

    def empty_array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """An uninitialised result array for values of `dtype`, in their `form`, that outlives every lane: the
        device's own array type."""
        ...

    def memory(self, array: Any) -> tuple[DeviceBuffer, int, tuple[int, ...]]:
        """A result array as (the buffer it lies in, offset of its first element in bytes, strides in
        bytes)."""
        ...

    def owns(self, array: object) -> bool:
        """Whether `array` is of this device's array type and lies on this device."""
        ...
