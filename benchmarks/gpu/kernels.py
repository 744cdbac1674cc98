"""Kernels that write and convert, each by itself, beside a plain copy of the bytes that it has to move.

What a kernel makes is compared with NumPy, numcodecs or google-crc32c before it is timed. Its input is larger
than any cache. Where it is a step of several, the others run too, and its own share of the time counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
from numpy.typing import NDArray

import gpuzarr
from benchmarks.gpu.given import Given, fetched
from benchmarks.gpu.machine import Ceilings, Machine, WrongResultError
from benchmarks.gpu.scale import KIB64, Scale
from benchmarks.gpu.stored import Stored, noise
from gpuzarr.codecs.base import ChunkSpec, Codec, Encoded, pitch_of
from gpuzarr.codecs.blosc_encode import Cut, encoded
from gpuzarr.codecs.crc32c import CRC32C
from gpuzarr.codecs.delta import Delta
from gpuzarr.codecs.lz4 import LZ4
from gpuzarr.codecs.planes import BITS, BYTES, shuffled
from gpuzarr.device.base import DeviceBuffer, Lane
from gpuzarr.engine.convert import Conversion

Bytes = NDArray[np.uint8]
_TILE = 64 << 10  # bytes that one block of gz_pack and gz_differs takes, as in the engine
_LOOKED_AT = 16  # strings of each case that are compared: the first ones and the last ones
_FILL = np.array([7, 9], np.uint8)


@dataclass(frozen=True, slots=True)
class Case:
    """`queue` queues the kernels; `check` compares what comes of it, and says how many bytes each moves."""

    what: str
    queue: Callable[[Lane, int], Any]
    check: Callable[[], dict[str, int]]


def kernel_table(
    machine: Machine, scale: Scale, ceilings: Ceilings, late: Callable[[], bool]
) -> Iterator[dict[str, Any]]:
    """A row for every kernel and case."""
    for case in _Bench(machine, scale).cases():
        if late():
            return
        moved = case.check()
        parts = machine.measure(case.queue, detail=True).parts
        for kernel, nbytes in moved.items():
            seconds = parts[kernel]
            yield {
                "name": f"{kernel}, {case.what}",
                "kernel": kernel,
                "what": case.what,
                "nbytes": nbytes,
                "seconds": seconds,
                "rate": nbytes / seconds,
                "of_copy": nbytes / seconds / ceilings.copy,
            }
        machine.free()


class _Bench:
    """Chunks of noisy cells in device memory, as encoders get them."""

    def __init__(self, machine: Machine, scale: Scale) -> None:
        self.machine, self.scale = machine, scale
        self.nbytes = min(2 * prod(scale.whole), scale.kernel)
        self.count = scale.kernel // self.nbytes
        block = noise(scale.block).reshape(-1).view(np.uint8)
        self.plain = np.resize(block, (self.count, self.nbytes))

    def cases(self) -> Iterator[Case]:
        """One after the other, so that each has the memory for itself."""
        yield self._gather("as it is", {})
        yield self._gather("big-endian", {"dtype": ">u2"})
        yield self._gather("axes reversed", {"order": "F"})
        for size in (2, 4, 8):
            yield self._shuffle(BYTES, size)
        yield self._shuffle(BITS, 2)
        yield self._differences()
        yield self._lz4()
        yield self._blosc()
        yield self._checksum()
        yield self._pack()
        yield self._differs()
        yield self._convert("u1", "f4", 1 / 255)
        yield self._convert("u2", "f4", None)
        yield self._convert("u2", "f2", 1e-3)
        yield self._convert("f4", "f2", None)

    # ---- memory

    def _buffer(self, values: NDArray[Any]) -> DeviceBuffer:
        """Values in memory that outlives what lanes have."""
        buffer, base, _ = self.machine.device.memory(self.machine.to_device(values))
        self.machine.synchronize()
        return buffer.part(base, values.nbytes)

    def _strings(self, plain: Bytes) -> Encoded:
        """Strings of one size [n, nbytes], at the pitch that encoders have."""
        count, nbytes = plain.shape
        whole = np.zeros((count, pitch_of(nbytes)), np.uint8)
        whole[:, :nbytes] = plain
        sizes = self._buffer(np.full(count, nbytes, np.int64))
        return Encoded(self._buffer(whole), whole.shape[1], sizes, nbytes, count)

    def _downloaded(self, queue: Callable[[Lane, int], DeviceBuffer]) -> Bytes:
        lane = self.machine.lane
        buffer = queue(lane, 0)
        found = np.empty(buffer.nbytes, np.uint8)
        lane.download(buffer, found)
        lane.synchronize()
        lane.reset()
        return found

    def _total(self, what: str, batch: Encoded, right: Callable[[int, bytes], bool]) -> int:
        """The bytes of all strings of a batch that is queued, some of which are looked at."""
        strings = fetched(self.machine.lane, batch)
        for i in _some(len(strings)):
            if not right(i, strings[i].tobytes()):
                raise WrongResultError(f"{what}: chunk {i} is wrong on {self.machine.name}")
        return sum(string.nbytes for string in strings)

    def _every_byte(
        self,
        what: str,
        kernel: str,
        queue: Callable[[Lane, int], Encoded],
        expected: Callable[[int], bytes],
        passes: int,
    ) -> Case:
        """A kernel that moves every byte of its strings so many times."""

        def check() -> dict[str, int]:
            self._total(what, queue(self.machine.lane, 0), lambda i, found: found == expected(i))
            return {kernel: passes * self.plain.nbytes}

        return Case(what, queue, check)

    # ---- before encoders

    def _gather(self, what: str, options: dict[str, Any]) -> Case:
        """Values into chunks: what every write begins with."""
        scale, machine = self.scale, self.machine
        stored = Stored(scale.volume, scale.block, scale.whole, "raw")
        times = [n // b for n, b in zip(scale.volume, scale.block, strict=True)]
        known: dict[str, Any] = {"dtype": "<u2", "order": "C", **options}
        array = gpuzarr.create_array(
            {}, shape=scale.volume, chunks=scale.whole, codecs=None, device=machine.name, **known
        )
        given = Given(machine, array, machine.to_device(np.tile(noise(scale.block), times)))

        def right(i: int, found: bytes) -> bool:
            low = given.update.low[given.rows[i]].reshape(1, -1)
            chunk = stored.boxes(low, scale.whole)[0].astype(known["dtype"])
            return found == chunk.tobytes(order=known["order"])

        def check() -> dict[str, int]:
            self._total(what, given.gather(machine.lane), right)
            return {"gz_scatter": 2 * given.decoded_nbytes}

        return Case(f"as gather, {what}", given.gather, check)

    def _shuffle(self, kind: int, size: int) -> Case:
        """Whole chunks, each as one block."""
        chunks = self._strings(self.plain)

        def queue(lane: Lane, turn: int = 0) -> Encoded:
            return shuffled(chunks, kind, size, self.nbytes, lane)

        def expected(i: int) -> bytes:
            planes = self.plain[i].reshape(-1, size).T
            if kind == BITS:
                bits = np.unpackbits(planes[..., None], axis=2, bitorder="little")
                planes = np.packbits(bits.transpose(0, 2, 1), axis=2, bitorder="little")
            return planes.tobytes()

        what = f"{'bits' if kind == BITS else 'bytes'} of items of {size}"
        return self._every_byte(what, "gz_shuffle", queue, expected, 2)

    def _differences(self) -> Case:
        chunks = self._strings(self.plain)
        queue = _encoder(Delta("<u2"), chunks, ChunkSpec.of((self.nbytes // 2,), np.dtype("<u2")))

        def expected(i: int) -> bytes:
            found: NDArray[Any] = numcodecs.Delta("<u2").encode(self.plain[i].view("<u2"))
            return found.tobytes()

        return self._every_byte("of items of 2", "gz_differences", queue, expected, 2)

    def _differs(self) -> Case:
        """Of chunks that hold the fill value alone, it sees every byte."""
        chunks = self._strings(np.tile(_FILL, (self.count, self.nbytes // 2)))
        tiles = max(-(-self.nbytes // _TILE), 1)

        def queue(lane: Lane, turn: int = 0) -> DeviceBuffer:
            found = lane.upload(np.zeros(self.count, np.int32))
            lane.launch(
                "gz_differs",
                self.count * tiles,
                256,
                src=chunks.data,
                fill=_FILL,
                differs=found,
                pitch=chunks.pitch,
                nbytes=self.nbytes,
                itemsize=2,
                tiles=tiles,
            )
            return found

        def check() -> dict[str, int]:
            if self._downloaded(queue).any():
                raise WrongResultError("gz_differs: chunks of the fill value are not seen as such")
            return {"gz_differs": self.plain.nbytes}

        return Case("chunks of the fill value", queue, check)

    # ---- encoders

    def _lz4(self) -> Case:
        """One stream a chunk."""
        plain = self.plain.reshape(-1, min(2 * prod(KIB64), self.nbytes))
        count, nbytes = plain.shape
        queue = _encoder(LZ4(), self._strings(plain), ChunkSpec.of((nbytes,), np.dtype("u1")))

        def check() -> dict[str, int]:
            total = self._total(
                "LZ4",
                queue(self.machine.lane, 0),
                lambda i, found: bytes(numcodecs.LZ4().decode(found)) == plain[i].tobytes(),
            )
            return {"gz_lz4_encode": plain.nbytes + total}

        return Case(f"{count} streams of {nbytes >> 10} KiB", queue, check)

    def _blosc(self) -> Case:
        """Many streams a chunk, of shuffled bytes; then the containers."""
        chunks, cut = self._strings(self.plain), Cut.of("lz4", self.nbytes, 2, 0, BYTES)

        def queue(lane: Lane, turn: int = 0) -> Encoded:
            return encoded(chunks, cut, lane)

        def check() -> dict[str, int]:
            total = self._total(
                "Blosc",
                queue(self.machine.lane),
                lambda i, found: bytes(numcodecs.Blosc().decode(found)) == self.plain[i].tobytes(),
            )
            return {"gz_lz4_encode": self.plain.nbytes + total, "gz_blosc_pack": 2 * total}

        streams = len(cut.streams(self.nbytes)[0])
        return Case(f"{self.count} containers of {streams} streams", queue, check)

    # ---- behind encoders

    def _checksum(self) -> Case:
        chunks = self._strings(self.plain)
        queue = _encoder(CRC32C(), chunks, ChunkSpec.of((self.nbytes,), np.dtype("u1")))

        def expected(i: int) -> bytes:
            plain = self.plain[i].tobytes()
            return plain + int(google_crc32c.value(plain)).to_bytes(4, "little")

        return self._every_byte("of whole chunks", "gz_crc32c_append", queue, expected, 1)

    def _pack(self) -> Case:
        """Strings of a third of their room and more, one behind the other."""
        chunks = self._strings(self.plain)
        sizes = np.random.default_rng(1).integers(self.nbytes // 3, self.nbytes + 1, self.count)
        ends, largest = np.cumsum(sizes), int(sizes.max())
        tiles = max(-(-largest // _TILE), 1)

        def queue(lane: Lane, turn: int = 0) -> DeviceBuffer:
            packed = lane.empty(int(ends[-1]))
            lane.launch(
                "gz_pack",
                self.count * tiles,
                256,
                src=chunks.data,
                src_offset=chunks.offset,
                nbytes=sizes,
                dst=packed,
                dst_offset=ends - sizes,
                largest=largest,
                tiles=tiles,
            )
            return packed

        def check() -> dict[str, int]:
            found = self._downloaded(queue)
            for i in _some(self.count):
                if not np.array_equal(found[ends[i] - sizes[i] : ends[i]], self.plain[i, : sizes[i]]):
                    raise WrongResultError(f"gz_pack: string {i} is wrong on {self.machine.name}")
            return {"gz_pack": 2 * found.nbytes}

        return Case(f"{self.count} strings of {self.nbytes >> 10} KiB and less", queue, check)

    def _convert(self, kind: str, to: str, scale: float | None) -> Case:
        """Boxes on their way to a network."""
        source, target = np.dtype(kind), np.dtype(to)
        count = self.plain.nbytes // max(source.itemsize, target.itemsize)
        values = self.plain.reshape(-1).view("<u2")[:count].astype(source)
        conversion, src = Conversion(source, target, scale), self._buffer(values)

        def queue(lane: Lane, turn: int = 0) -> DeviceBuffer:
            out = lane.empty(count * target.itemsize)
            conversion.launch(lane, src, out, count)
            return out

        def check() -> dict[str, int]:
            found, expected = self._downloaded(queue).view(target), values.astype("f4")
            with np.errstate(over="ignore"):
                expected = (expected if scale is None else expected * np.float32(scale)).astype(target)
            if not np.array_equal(found, expected):
                raise WrongResultError(f"gz_convert: {source} to {target} is not what NumPy gives")
            return {"gz_convert": values.nbytes + found.nbytes}

        return Case(f"{source} to {target}{'' if scale is None else ', scaled'}", queue, check)


def _encoder(codec: Codec, chunks: Encoded, spec: ChunkSpec) -> Callable[[Lane, int], Encoded]:
    return lambda lane, turn: codec.encode_batch(chunks, spec, lane)


def _some(count: int) -> Sequence[int]:
    half = _LOOKED_AT // 2
    return range(count) if count <= _LOOKED_AT else [*range(half), *range(count - half, count)]
