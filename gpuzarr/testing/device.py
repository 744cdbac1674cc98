"""The contract of a Device, as tests that every device passes with gpuzarr's own kernels."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpuzarr.device.base import Device, DeviceBuffer, Lane
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

    def test_staging_is_host_memory(self) -> None:
        """It has the size that was asked for, can be written, and what was written goes up."""
        lane = self.device().lane()
        staged = lane.staging(300)
        assert staged.shape == (300,)
        assert staged.dtype == np.uint8
        staged[:] = np.arange(300) % 251
        assert download(lane, lane.upload(staged)) == bytes(i % 251 for i in range(300))

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
        """The first stage that found something, and its first chunk; nothing after `reset`."""
        lane = self.device().lane()
        assert lane.take_faults() is None
        stored = np.frombuffer(b"abcd" + bytes(4), np.uint8)  # not the checksum of abcd
        clean = lane.faults(3, "clean", "nothing is wrong")
        for codec in ("first", "second"):
            offset, nbytes = np.array([8, 0, 0], np.int64), np.array([0, 4, 4], np.int64)
            source = lane.upload(np.concatenate((stored, np.zeros(4, np.uint8))))
            fault = lane.faults(3, codec, "checksum does not match")
            lane.launch("gz_crc32c", 3, 64, src=source, offset=offset, nbytes=nbytes, fault=fault)
        assert clean.nbytes == 12
        lane.synchronize()
        assert lane.take_faults() == (1, "first", "checksum does not match")
        assert lane.take_faults() == (1, "first", "checksum does not match")
        lane.reset()
        assert lane.take_faults() is None

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
