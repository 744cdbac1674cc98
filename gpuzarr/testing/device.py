"""The contract of a Device, as tests that every device passes with gpuzarr's own kernels."""

from __future__ import annotations

import gzip
import zlib
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numcodecs
import numpy as np
import pytest
from numpy.typing import NDArray

from gpuzarr.device.base import Device, DeviceBuffer, Lane, Streams, Uncompressed
from gpuzarr.errors import DeviceError


class DeviceContract:
    """Subclass it as `TestMyDevice(DeviceContract)` and give `device`. Needs pytest, nothing else."""

    @abstractmethod
    def device(self) -> Device:
        """The device under test."""

    @abstractmethod
    def to_host(self, array: Any) -> NDArray[Any]:
        """A copy of an array of the device in host memory."""

    def test_is_a_device(self) -> None:
        """It has a name, and its lanes give buffers."""
        assert self.device().name
        buffer = self.device().lane().empty(100)
        assert isinstance(buffer, DeviceBuffer)
        assert buffer.nbytes == 100

    def test_what_goes_up_comes_down(self) -> None:
        """Bytes of every type and size, none included."""
        lane = self.device().lane()
        rng = np.random.default_rng(0)
        for dtype in ("u1", "<i2", ">f4", "M8[s]", "c16", [("a", "i1"), ("b", "<f8")]):
            for shape in ((0,), (), (1,), (7, 3)):
                source = np.empty(shape, dtype)
                source.reshape(-1).view(np.uint8)[:] = rng.integers(0, 256, source.nbytes)
                assert download(lane, lane.upload(source)) == source.tobytes()

    def test_upload_into_memory(self) -> None:
        """A part of the arena takes bytes of its own size, no others."""
        lane = self.device().lane()
        buffer = lane.upload(np.zeros(300, np.uint8))
        assert lane.upload(np.arange(7, dtype=np.uint8), buffer.part(256, 7)).nbytes == 7
        assert download(lane, buffer) == bytes(256) + bytes(range(7)) + bytes(37)
        with pytest.raises(DeviceError):
            lane.upload(np.zeros(7, np.uint8), buffer.part(256, 8))

    def test_staging_is_host_memory(self) -> None:
        """What is taken is apart, aligned where it was asked for, can be written, and goes up by block."""
        device = self.device()
        lane, staging = device.lane(), device.staging()
        assert staging.blocks == []
        parts = []
        for i, (nbytes, lead) in enumerate(((300, 0), (0, 5), (7, 2), (1 << 20, 10), (40, 0))):
            position, memory = staging.take(nbytes, lead)
            assert memory.shape == (nbytes,)
            assert memory.dtype == np.uint8
            assert (position + lead) % 16 == 0
            memory[:] = i + np.arange(nbytes) % 199
            parts.append((position, memory))
        for position, memory in parts:
            base, block = next(found for found in reversed(staging.blocks) if found[0] <= position)
            uploaded = lane.upload(block)
            at = position - base
            assert download(lane, uploaded.part(at, memory.nbytes)) == memory.tobytes()
        lane.reset()
        staging.reset()
        assert staging.blocks == []
        assert staging.take(5)[1].nbytes == 5

    def test_parts_share_memory(self) -> None:
        """A part of a part is where it should be; what lies outside is an error."""
        lane = self.device().lane()
        whole = lane.upload(np.arange(100, dtype=np.uint8))
        inner = whole.part(10, 50).part(5, 20)
        assert inner.nbytes == 20
        assert download(lane, inner) == bytes(range(15, 35))
        assert download(lane, whole.part(100, 0)) == b""
        for offset, nbytes in ((-1, 5), (0, 101), (100, 1), (5, -1)):
            with pytest.raises(DeviceError):
                whole.part(offset, nbytes)

    def test_launch(self) -> None:
        """A kernel reads what was uploaded and writes where it is told, in order."""
        lane = self.device().lane()
        values = np.arange(1000, dtype="<u4") * 77777
        once = swap(lane, lane.upload(values), values.size)
        twice = swap(lane, once, values.size)
        assert download(lane, once) == values.byteswap().tobytes()
        assert download(lane, twice) == values.tobytes()

    def test_parts_are_arguments(self) -> None:
        """A kernel sees a part from its own first byte, and leaves the rest alone."""
        lane = self.device().lane()
        buffer = lane.upload(np.zeros(16, np.uint8))
        source = lane.upload(np.arange(12, dtype=np.uint8)).part(4, 8)
        zero = np.zeros(1, np.int64)
        lane.launch("gz_byteswap", 1, 32, src=source, offset=zero, dst=buffer.part(4, 8), items=2, unit=4)
        assert download(lane, buffer) == bytes([0] * 4 + [7, 6, 5, 4, 11, 10, 9, 8] + [0] * 4)

    def test_no_blocks_do_nothing(self) -> None:
        """An empty batch may be launched."""
        lane = self.device().lane()
        buffer = lane.upload(np.arange(8, dtype=np.uint8))
        offset = np.zeros(0, np.int64)
        lane.launch("gz_byteswap", 0, 256, src=buffer, offset=offset, dst=buffer, items=2, unit=4)
        assert download(lane, buffer) == bytes(range(8))

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"unit": None}, "lacks unit"),
            ({"speed": 3}, "has no speed"),
            ({"items": 1.5}, "i64 items got float"),
            ({"unit": 1 << 31}, "cannot hold"),
            ({"unit": True}, "got bool"),
            ({"offset": np.zeros(1, np.int32)}, "host array of int32"),
            ({"offset": np.zeros(4, np.int64)[::2]}, "not C-contiguous"),
            ({"dst": np.zeros(8, np.uint8)}, "is written"),
            ({"src": b"12345678"}, "got bytes"),
        ],
    )
    def test_wrong_parameters(self, changes: dict[str, Any], said: str) -> None:
        """Each is a DeviceError that names the parameter, and nothing is launched."""
        lane = self.device().lane()
        buffer = lane.upload(np.arange(8, dtype=np.uint8))
        right = {"src": buffer, "offset": np.zeros(1, np.int64), "dst": buffer, "items": 2, "unit": 4}
        params = {name: value for name, value in {**right, **changes}.items() if value is not None}
        with pytest.raises(DeviceError, match=said):
            lane.launch("gz_byteswap", 1, 32, **params)
        assert download(lane, buffer) == bytes(range(8))

    def test_unknown_kernel(self) -> None:
        """The message has the name that was probably meant."""
        with pytest.raises(DeviceError, match="did you mean gz_byteswap"):
            self.device().lane().launch("gz_byteswop", 1, 1)

    @pytest.mark.parametrize(("blocks", "threads"), [(-1, 32), (1, 0), (1, 1025), (1 << 31, 32)])
    def test_impossible_grids(self, blocks: int, threads: int) -> None:
        """Refused before anything runs."""
        lane = self.device().lane()
        buffer, offset = lane.empty(8), np.zeros(1, np.int64)
        with pytest.raises(DeviceError, match="blocks"):
            lane.launch(
                "gz_byteswap", blocks, threads, src=buffer, offset=offset, dst=buffer, items=2, unit=4
            )

    def test_faults(self) -> None:
        """The chunks of every stage that found something, once each; nothing after `reset`."""
        lane = self.device().lane()
        assert lane.take_faults().tolist() == []
        clean = lane.faults(5)
        for wrong in ([3], [3, 1], []):
            statuses = np.zeros(5, np.int32)
            statuses[wrong] = 7
            lane.launch(
                "gz_verdict",
                1,
                32,
                written=np.full(5, 9, np.uint64),
                statuses=statuses,
                expected=np.full(5, 9, np.int64),
                owner=np.arange(5, dtype=np.int32),
                fault=lane.faults(5),
                streams=5,
            )
        assert clean.nbytes == 20
        lane.submit()
        lane.synchronize()
        assert lane.take_faults().tolist() == [1, 3]
        assert lane.take_faults().dtype == np.int64
        lane.reset()
        assert lane.take_faults().tolist() == []

    def test_decompress(self) -> None:
        """Streams of every algorithm, some stored as they are; what is damaged sets its owner's fault."""
        rng = np.random.default_rng(3)
        plain = [rng.integers(0, 3, n, np.uint8).tobytes() for n in (1000, 1, 77, 500)]
        for algorithm, compress in ENCODERS.items():
            lane = self.device().lane()
            stored = [*(compress(one) for one in plain[:3]), plain[3]]
            offset = np.cumsum([3, *(len(one) + 5 for one in stored[:-1])])
            arena = np.zeros(int(offset[-1]) + 600, np.uint8)
            for at, one in zip(offset, stored, strict=True):
                arena[at : at + len(one)] = np.frombuffer(one, np.uint8)
            fault = lane.faults(9)
            sizes = np.array([len(one) for one in plain], np.int64)
            dst = lane.empty(4096)
            streams = Streams(
                src=lane.upload(arena),
                src_offset=offset.astype(np.int64),
                src_nbytes=np.array([len(one) for one in stored], np.int64) - [0, 0, 1, 0],
                dst=dst,
                dst_offset=np.arange(4, dtype=np.int64) * 1024,
                dst_nbytes=sizes,
                owner=np.array([8, 7, 6, 5], np.int32),
                count=4,
                largest=1000,
                total=int(sizes.sum()),
                stored=True,
            )
            lane.decompress(algorithm, streams, fault)
            found = download(lane, dst)
            assert lane.take_faults().tolist() == [6], algorithm
            for i in (0, 1, 3):
                assert found[1024 * i :][: len(plain[i])] == plain[i], algorithm

    def test_compress(self) -> None:
        """Strings of several sizes, aligned and not, become streams that say their size: host libraries
        decode them, and so does the device, from sizes that only it knows. What cannot be compressed sets its
        owner's fault."""
        rng = np.random.default_rng(4)
        plain = [rng.integers(0, 3, n, np.uint8).tobytes() for n in (4000, 300, 5000, 70001, 1)]
        offset = np.array([16, 4019, 4400, 9407, 80001], np.int64)
        arena = np.zeros(81000, np.uint8)
        for at, one in zip(offset, plain, strict=True):
            arena[at : at + len(one)] = np.frombuffer(one, np.uint8)
        rows = np.array([*map(len, plain), 0, 70002, -1], np.int64)
        for algorithm, decode in DECODERS.items():
            lane = self.device().lane()
            pitch = lane.compress_bound(algorithm, 70001)
            assert pitch % 16 == 0
            dst, sizes = lane.empty(len(rows) * pitch), lane.empty(8 * len(rows))
            strings = Uncompressed(
                src=lane.upload(arena),
                src_offset=np.append(offset, [0, 0, 0]),
                src_nbytes=lane.upload(rows),
                dst=dst,
                dst_offset=np.arange(len(rows), dtype=np.int64) * pitch,
                dst_nbytes=sizes,
                owner=np.array([9, 8, 7, 6, 5, 4, 3, 2], np.int32),
                count=len(rows),
                largest=70001,
            )
            lane.compress(algorithm, strings, lane.faults(10))
            again = lane.empty(4 * pitch)
            streams = Streams(
                src=dst,
                src_offset=strings.dst_offset[:4],
                src_nbytes=sizes.part(0, 32),
                dst=again,
                dst_offset=strings.dst_offset[:4],
                dst_nbytes=rows[:4],
                owner=np.zeros(4, np.int32),
                count=4,
                largest=70001,
                total=int(rows[:4].sum()),
            )
            lane.decompress(algorithm, streams, lane.faults(1))
            decoded, encoded = download(lane, again), download(lane, dst)
            nbytes = np.frombuffer(download(lane, sizes), np.int64)
            faults = set(lane.take_faults().tolist())
            # A library need not state the size of a string as short as the fifth.
            assert {2, 3, 4} <= faults <= {2, 3, 4, 5}, algorithm
            for i, one in enumerate(plain):
                stream = encoded[pitch * i :][: nbytes[i]]
                assert 9 - i in faults or decode(stream) == one, algorithm
                assert i == 4 or decoded[pitch * i :][: len(one)] == one, algorithm
            assert all(nbytes[9 - chunk] == 0 for chunk in faults), algorithm

    def test_compress_without_strings(self) -> None:
        """An empty batch may be compressed; an algorithm that cannot is named."""
        lane = self.device().lane()
        none, room = np.zeros(0, np.int64), lane.empty(8)
        strings = Uncompressed(room, none, none, room, none, room, none.astype(np.int32), 0, 0)
        lane.compress("zstd", strings, room)
        with pytest.raises(DeviceError, match="gzip is not compressed on a device; zstd is"):
            lane.compress("gzip", strings, room)

    def test_reset_gives_memory_back(self) -> None:
        """`nbytes` counts what was taken since."""
        lane = self.device().lane()
        assert lane.nbytes == 0
        lane.empty(1000)
        lane.upload(np.zeros(1000, np.uint8))
        assert lane.nbytes >= 2000
        lane.synchronize()
        lane.reset()
        assert lane.nbytes == 0
        assert download(lane, lane.upload(np.arange(9, dtype=np.uint8))) == bytes(range(9))

    def test_lanes_are_apart(self) -> None:
        """What one lane does, another neither sees nor undoes."""
        lanes = [self.device().lane() for _ in range(3)]
        values = [np.arange(64, dtype="<u4") + 1000 * i for i in range(len(lanes))]
        swapped = [swap(lane, lane.upload(part), 64) for lane, part in zip(lanes, values, strict=True)]
        into = [np.empty(256, np.uint8) for _ in lanes]
        for lane, buffer, host in zip(lanes, swapped, into, strict=True):
            lane.download(buffer, host)
        for lane in reversed(lanes):
            lane.synchronize()
        lanes[1].reset()
        assert [host.tobytes() for host in into] == [part.byteswap().tobytes() for part in values]
        assert download(lanes[0], swapped[0]) == values[0].byteswap().tobytes()

    @pytest.mark.parametrize("dtype", ["u1", "<i4", "<f8", "<c16"])
    def test_result_arrays(self, dtype: str) -> None:
        """They are this device's, their memory is where `memory` says, and they outlive the lane."""
        device = self.device()
        array = device.empty_array((3, 4), np.dtype(dtype))
        assert device.owns(array)
        assert not device.owns(np.zeros((3, 4)))
        assert (array.shape, array.dtype, array.ndim, array.size) == ((3, 4), np.dtype(dtype), 2, 12)
        buffer, offset, strides = device.memory(array)
        itemsize = np.dtype(dtype).itemsize
        assert strides == (4 * itemsize, itemsize)
        assert offset + array.nbytes <= buffer.nbytes
        lane = device.lane()
        values = np.arange(12).astype(dtype).reshape(3, 4)
        unit = itemsize // 2 if values.dtype.kind == "c" else itemsize
        lane.launch(
            "gz_byteswap",
            1,
            64,
            src=values.reshape(-1).view(np.uint8),
            offset=np.zeros(1, np.int64),
            dst=buffer.part(offset, array.nbytes),
            items=array.nbytes // unit,
            unit=unit,
        )
        lane.synchronize()
        lane.reset()
        assert self.to_host(array).tobytes() == values.byteswap().tobytes()

    def test_memory_of_a_stranger(self) -> None:
        """A host array has no device memory."""
        with pytest.raises(DeviceError):
            self.device().memory(np.zeros(3))

    def test_empty_result_arrays(self) -> None:
        """No elements, or one without dimensions."""
        for shape in ((0,), (3, 0), ()):
            array = self.device().empty_array(shape, np.dtype("<i4"))
            assert array.shape == shape
            assert self.to_host(array).shape == shape

    def test_download_of_another_size(self) -> None:
        """Refused, not cut."""
        lane = self.device().lane()
        with pytest.raises(DeviceError):
            lane.download(lane.empty(8), np.empty(7, np.uint8))

    def test_upload_of_what_is_not_plain(self) -> None:
        """Objects and strided views have no bytes to send."""
        lane = self.device().lane()
        for source in (np.zeros(4, object), np.zeros((4, 4))[:, ::2]):
            with pytest.raises(DeviceError):
                lane.upload(source)


def _snappy(plain: bytes) -> bytes:
    """A size, one literal, and a copy of the last byte where the plain bytes end with two of it."""
    size, rest = bytearray(), len(plain)
    while rest >= 128:
        size.append(rest & 127 | 128)
        rest >>= 7
    size.append(rest)
    run = len(plain) - len(plain.rstrip(plain[-1:]))
    run = min(run - 1, 64) if len(plain) > run else 0
    literal = plain[: len(plain) - run]
    tag = bytes([61 << 2]) + (len(literal) - 1).to_bytes(2, "little")
    return bytes(size) + tag + literal + (bytes([(run - 1) << 2 | 2, 1, 0]) if run else b"")


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": lambda plain: bytes(numcodecs.Zstd(3).encode(plain)),
    "zlib": lambda plain: zlib.compress(plain, 6),
    "gzip": lambda plain: gzip.compress(plain, 6),
    "snappy": _snappy,
}
"""For `Lane.decompress`, by algorithm."""

DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "zstd": lambda stream: bytes(numcodecs.Zstd().decode(stream))
}
"""For `Lane.compress`, by algorithm."""


def download(lane: Lane, buffer: DeviceBuffer) -> bytes:
    """The bytes of a buffer, after waiting for them."""
    into = np.empty(buffer.nbytes, np.uint8)
    lane.download(buffer, into)
    lane.synchronize()
    return into.tobytes()


def swap(lane: Lane, source: DeviceBuffer, items: int) -> DeviceBuffer:
    """Four-byte words in the other byte order."""
    out = lane.empty(4 * items)
    lane.launch("gz_byteswap", 1, 96, src=source, offset=np.zeros(1, np.int64), dst=out, items=items, unit=4)
    return out
