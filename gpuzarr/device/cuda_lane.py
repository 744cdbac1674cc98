"""A CUDA stream as a lane: work is queued, and `submit` starts all of it with few calls.

    upload, launch   small host arrays are packed into a page of pinned memory; launches wait in a queue
    submit           one copy for all arrays in the page, then what is queued, in order
    synchronize      submit, wait for the stream, hand out what was downloaded

The page is copied first, whatever was asked for before: it goes to memory of the arena that nothing else
uses. Arrays in staging memory are copied as they lie. Those that are neither small nor pinned take a page of
their own: from pageable memory the driver would copy them to pinned memory itself, and may let the caller
wait for the stream meanwhile.

A stream and its memory are a channel. When a lane is no longer used, its channel waits for the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuzarr.device import catalogue, compressing, nvcomp
from gpuzarr.device.base import Bytes1D, DeviceBuffer, Streams, Uncompressed
from gpuzarr.device.cuda_memory import Arena, CudaBuffer, Page, aligned, usable
from gpuzarr.device.nvcomp import Alignments, Library, StringTable, Table
from gpuzarr.errors import DeviceError

if TYPE_CHECKING:
    from gpuzarr.device.cuda import CudaDevice

PAGE_NBYTES = 1 << 20
PACKED_NBYTES = 64 << 10
"""Arrays up to this size are packed, wherever they lie: a copy in host memory costs less than a call."""
FAULTS_NBYTES = 64 << 10
"""Entries of `faults` that are zeroed and looked at together."""


@dataclass(slots=True, eq=False)
class Channel:
    """A stream, its memory, and what belongs to work that is not known to be done."""

    stream: Any
    event: Any
    arena: Arena
    queue: list[tuple[str, Callable[[], None]]] = field(default_factory=list)
    """What to start, in order, with a name for people."""
    pages: list[Page] = field(default_factory=list)
    held: list[object] = field(default_factory=list)
    """What must outlive the work: arrays that are read or written."""
    downloads: list[tuple[Bytes1D, Bytes1D]] = field(default_factory=list)
    """Pinned memory, and where its bytes shall be."""
    recent: list[str] = field(default_factory=list)
    """Names of what was started since `synchronize`."""
    busy: bool = False
    """Something was asked for since `synchronize`."""
    failed: bool = False
    """CUDA said so: this channel is not used again."""


@dataclass(slots=True)
class _Faults:
    """Entries of several batches in one piece of memory."""

    memory: CudaBuffer
    used: int = 0
    counts: list[tuple[int, int]] = field(default_factory=list)
    """Offset and number of the entries of each."""


class CudaLane:
    """See `device.base.Lane`. For one thread at a time."""

    def __init__(self, device: CudaDevice, channel: Channel) -> None:
        self._device, self._channel = device, channel
        self._runtime = device.cupy.cuda.runtime
        self._stream = int(channel.stream.ptr)
        self._faults: list[_Faults] = []
        self._found: NDArray[np.int64] = np.empty(0, np.int64)

    @property
    def nbytes(self) -> int:
        """See `device.base.Lane`."""
        return self._channel.arena.nbytes

    def empty(self, nbytes: int) -> DeviceBuffer:
        """See `device.base.Lane`."""
        return self._empty(nbytes)

    def _empty(self, nbytes: int) -> CudaBuffer:
        return self._channel.arena.take(nbytes)

    def upload(self, source: NDArray[Any], into: DeviceBuffer | None = None) -> DeviceBuffer:
        """See `device.base.Lane`."""
        target = None if into is None else self._buffer(into, "upload")
        return self._upload(source, "upload", target)

    def _upload(self, source: NDArray[Any], what: str, into: CudaBuffer | None = None) -> CudaBuffer:
        if not isinstance(source, np.ndarray) or not source.flags.c_contiguous or source.dtype.hasobject:
            raise DeviceError(f"{what}: not a C-contiguous host array of plain values")
        if into is not None and into.nbytes != source.nbytes:
            raise DeviceError(f"{what}: {source.nbytes} bytes into {into.nbytes}")
        # Where the target is given, packing saves no call.
        if (source.nbytes > PACKED_NBYTES or into is not None) and self._device.is_pinned(source):
            target = self._empty(source.nbytes) if into is None else into
            if source.nbytes:
                self._copy_up(target, source, what)
            return target
        page, begin = self._packed(source)
        if into is None:
            return page.device.part(begin, source.nbytes)
        if source.nbytes:
            self._copy_up(into, page.pinned[begin : begin + source.nbytes], what)
        return into

    def _copy_up(self, target: CudaBuffer, source: NDArray[Any], what: str) -> None:
        """Queue a copy from pinned memory."""
        copy, kind = self._runtime.memcpyAsync, self._runtime.memcpyHostToDevice
        work = partial(copy, target.address, source.ctypes.data, source.nbytes, kind, self._stream)
        self._enqueue(what, work, source, target.lease)

    def _packed(self, source: NDArray[Any]) -> tuple[Page, int]:
        """Copy an array into a page; which, and where in it."""
        pages, size = self._channel.pages, aligned(max(source.nbytes, 1))
        if not pages or pages[-1].free < size:
            nbytes = max(size, PAGE_NBYTES)
            pages.append(Page(self._device.pinned(nbytes), self._empty(nbytes)))
        self._channel.busy = True
        return pages[-1], pages[-1].put(source.reshape(-1).view(np.uint8))

    def download(self, source: DeviceBuffer, into: Bytes1D) -> None:
        """See `device.base.Lane`."""
        given = self._buffer(source, "download")
        if into.dtype != np.uint8 or into.shape != (given.nbytes,) or not into.flags.c_contiguous:
            raise DeviceError(f"download of {given.nbytes} bytes into {into.dtype}{list(into.shape)}")
        if given.nbytes:
            self._channel.downloads.append((self._copy_down(given, "download"), into))

    def _copy_down(self, source: CudaBuffer, what: str) -> Bytes1D:
        """Queue a copy to pinned memory; where it will be."""
        pinned = self._device.pinned(source.nbytes)
        copy, kind = self._runtime.memcpyAsync, self._runtime.memcpyDeviceToHost
        work = partial(copy, pinned.ctypes.data, source.address, source.nbytes, kind, self._stream)
        self._enqueue(what, work, pinned, source.lease)
        return pinned

    def launch(self, kernel: str, blocks: int, threads: int, /, **params: Any) -> None:
        """See `device.base.Lane`. No blocks: nothing runs, but the parameters are checked all the same."""
        found = catalogue.kernel(kernel)
        catalogue.check(found, params)
        if not (0 <= blocks < 1 << 31 and 1 <= threads <= 1024):
            raise DeviceError(f"{kernel} on {blocks} blocks of {threads} threads")
        arguments: list[np.generic] = []
        leases: list[object] = []
        for param in found.params:
            value = params[param.name]
            if not param.pointer:
                arguments.append(param.dtype.type(value))
                continue
            if isinstance(value, np.ndarray):
                if not blocks:
                    continue
                value = self._upload(value, f"{kernel}({param.name})")
            buffer = self._buffer(value, kernel)
            if buffer.address % param.dtype.itemsize:
                raise DeviceError(f"{kernel}: {param.spelling} {param.name} is not aligned")
            arguments.append(np.uint64(buffer.address))
            leases.append(buffer.lease)
        if blocks:
            function = self._device.function(found)
            grid, block = (int(blocks),), (int(threads),)
            work = partial(function, grid, block, tuple(arguments), stream=self._channel.stream)
            self._enqueue(kernel, work, *leases)

    def decompress(self, algorithm: str, streams: Streams, fault: DeviceBuffer) -> None:
        """See `device.base.Lane`. By nvCOMP, in the order of this stream."""
        if streams.count:
            nvcomp.decompress(self, self._nvcomp(), algorithm, streams, fault, *self._calls(algorithm))

    def compress_bound(self, algorithm: str, nbytes: int) -> int:
        """See `device.base.Lane`."""
        return compressing.compress_bound(nvcomp.load(), algorithm, nbytes)

    def compress(self, algorithm: str, strings: Uncompressed, fault: DeviceBuffer) -> None:
        """See `device.base.Lane`. By nvCOMP, in the order of this stream."""
        compressing.compress(self, self._nvcomp(), algorithm, strings, fault, *self._calls(algorithm))

    def _nvcomp(self) -> _OnStream:
        return _OnStream(nvcomp.load(), self._stream, self._device)

    def _calls(
        self, algorithm: str
    ) -> tuple[Callable[[DeviceBuffer], int], Callable[[Callable[[], None]], None]]:
        """How nvCOMP's calls are made here: the address of a buffer, and what queues them."""

        def address(buffer: DeviceBuffer) -> int:
            return self._buffer(buffer, algorithm).address

        return address, partial(self._enqueue, f"nvCOMP ({algorithm})")

    def faults(self, count: int) -> DeviceBuffer:
        """See `device.base.Lane`."""
        size = aligned(max(4 * count, 1))
        if not self._faults or self._faults[-1].used + size > self._faults[-1].memory.nbytes:
            memory = self._empty(max(size, FAULTS_NBYTES))
            zero = partial(self._runtime.memsetAsync, memory.address, 0, memory.nbytes, self._stream)
            self._enqueue("faults", zero, memory.lease)
            self._faults.append(_Faults(memory))
        last = self._faults[-1]
        begin, last.used = last.used, last.used + size
        last.counts.append((begin, count))
        self._channel.busy = True
        return last.memory.part(begin, 4 * count)

    def take_faults(self) -> NDArray[np.int64]:
        """See `device.base.Lane`."""
        self._require_idle("take_faults")
        return self._found.copy()

    def submit(self) -> None:
        """See `device.base.Lane`."""
        channel = self._channel
        queue, channel.queue = channel.queue, []
        waiting = [page for page in channel.pages if page.sent < page.used]
        if queue or waiting:
            channel.recent += [name for name, _ in queue]
            with self._on_stream():
                for page in waiting:
                    self._send(page)
                for _, work in queue:
                    work()

    def _send(self, page: Page) -> None:
        """Start the copy of what is new in a page."""
        to, begin = page.device.address + page.sent, page.pinned.ctypes.data + page.sent
        kind = self._runtime.memcpyHostToDevice
        self._runtime.memcpyAsync(to, begin, page.used - page.sent, kind, self._stream)
        page.sent = page.used

    @contextmanager
    def _on_stream(self) -> Iterator[None]:
        """Errors inside name what runs. Behind one nothing of this lane can be trusted."""
        try:
            with self._device.using(", ".join(dict.fromkeys(self._channel.recent)) or "synchronize"):
                yield
        except BaseException:
            self._channel.failed = True
            self._channel.downloads.clear()
            raise

    def synchronize(self) -> None:
        """See `device.base.Lane`."""
        channel = self._channel
        looked = [(one, self._copy_down(one.memory.part(0, one.used), "faults")) for one in self._faults]
        self.submit()
        with self._on_stream():
            channel.stream.synchronize()
        channel.busy = False
        downloads, channel.downloads = channel.downloads, []
        for pinned, into in downloads:
            into[:] = pinned[: into.nbytes]
        found = [
            pinned[begin : begin + 4 * count].view(np.int32).nonzero()[0]
            for one, pinned in looked
            for begin, count in one.counts
        ]
        self._found = np.unique(np.concatenate([np.empty(0, np.int64), *found]))
        channel.held.clear()
        channel.recent.clear()
        for pinned in (*(pinned for _, pinned in looked), *(pinned for pinned, _ in downloads)):
            self._device.unpin(pinned)

    def reset(self) -> None:
        """See `device.base.Lane`. Using the arena's memory is an error from here on."""
        self._require_idle("reset")
        channel = self._channel
        pages, channel.pages = channel.pages, []
        for page in pages:
            self._device.unpin(page.pinned)
        channel.arena.reset()
        self._faults, self._found = [], np.empty(0, np.int64)

    def _require_idle(self, asked: str) -> None:
        if self._channel.busy:
            raise DeviceError(f"{asked} before synchronize")

    def _enqueue(self, name: str, work: Callable[[], None], *held: object) -> None:
        self._channel.queue.append((name, work))
        self._channel.held += held
        self._channel.busy = True

    def _buffer(self, value: DeviceBuffer, where: str) -> CudaBuffer:
        """A buffer that may be used here and now."""
        return usable(value, self._device.number, where)


@dataclass(frozen=True, slots=True)
class _OnStream:
    """nvCOMP with its work on one stream. See `nvcomp.Decompressor` and `nvcomp.Compressor`."""

    library: Library
    stream: int
    device: CudaDevice

    def alignments(self, format: str) -> Alignments:
        """See `nvcomp.Decompressor`."""
        return self.library.alignments(format)

    def scratch_nbytes(self, format: str, count: int, largest: int, total: int) -> int:
        """See `nvcomp.Decompressor`."""
        return self.library.scratch_nbytes(format, count, largest, total)

    def decompress(self, format: str, table: Table, cuda_stream: int = 0) -> None:
        """See `nvcomp.Decompressor`."""
        self.library.decompress(format, table, self.stream)

    def compress_alignments(self, format: str) -> Alignments:
        """See `nvcomp.Compressor`."""
        return self.library.compress_alignments(format)

    def compress_bound(self, format: str, nbytes: int) -> int:
        """See `nvcomp.Compressor`."""
        return self.library.compress_bound(format, nbytes)

    def compress_scratch_nbytes(
        self, format: str, count: int, largest: int, total: int, cuda_stream: int = 0
    ) -> int:
        """See `nvcomp.Compressor`. Asked before the work is started, so that the thread's current device may
        be another."""
        with self.device.using(f"nvCOMP ({format})"):
            return self.library.compress_scratch_nbytes(format, count, largest, total, self.stream)

    def compress(self, format: str, table: StringTable, cuda_stream: int = 0) -> None:
        """See `nvcomp.Compressor`."""
        self.library.compress(format, table, self.stream)
