"""kernels/unshuffle.cu against NumPy: planes of bytes and bits, crop, step, axes in any order, byte order."""

from __future__ import annotations

import struct
from collections import Counter
from typing import Any

import numcodecs
import numpy as np
import pytest
from numcodecs import blosc
from numpy.typing import NDArray

from gpuzarr.device.base import Lane
from gpuzarr.testing.device import download
from tests.devices import DEVICES, lane_of

Bytes = NDArray[np.uint8]
NONE, BYTES, BITS = 0, 1, 2
TILE = 16384
UNTOUCHED = 0x3C


@pytest.fixture(params=DEVICES)
def lane(request: pytest.FixtureRequest) -> Lane:
    return lane_of(request.param)


# ---- the oracle


def shuffled(plain: Bytes, shuffle: int, typesize: int, blocksize: int) -> Bytes:
    """As c-blosc shuffles blocks, and numcodecs whole chunks."""
    return np.concatenate(
        [_shuffled(plain[i : i + blocksize], shuffle, typesize) for i in range(0, len(plain), blocksize)]
    )


def _shuffled(block: Bytes, shuffle: int, typesize: int) -> Bytes:
    items = len(block) // typesize
    if not items or shuffle == NONE or (shuffle == BITS and items % 8):
        return block
    planes = block[: items * typesize].reshape(items, typesize).T
    if shuffle == BITS:
        bits = np.unpackbits(planes[..., None], axis=2, bitorder="little")  # plane, item, bit
        planes = np.packbits(bits.transpose(0, 2, 1), axis=2, bitorder="little")
    return np.concatenate((planes.reshape(-1), block[items * typesize :]))


@pytest.mark.parametrize("shuffle", [NONE, BYTES, BITS])
@pytest.mark.parametrize("typesize", [1, 2, 3, 4, 7, 8, 16, 24, 255])
def test_the_oracle_is_blosc(shuffle: int, typesize: int) -> None:
    """In containers whose streams are stored as they are, one a block."""
    rng = np.random.default_rng(typesize)
    flags = (0x30, 0x31, 0x34)[shuffle]  # lz4, not split
    for nbytes in (1, 7, 128, 2000, 4099, 8 * typesize * 20):
        for blocksize in {nbytes, min(nbytes, 400), min(nbytes, 1001), min(nbytes, 16 * typesize)}:
            plain = rng.integers(0, 256, nbytes, dtype=np.uint8)
            stored = shuffled(plain, shuffle, typesize, blocksize).tobytes()
            blocks = [stored[i : i + blocksize] for i in range(0, nbytes, blocksize)]
            starts = np.arange(len(blocks)) * (blocksize + 4) + 16 + 4 * len(blocks)
            payload = b"".join(struct.pack("<i", len(block)) + block for block in blocks)
            sizes = struct.pack("<3i", nbytes, blocksize, 16 + 4 * len(blocks) + len(payload))
            header = bytes([2, 1, flags, typesize]) + sizes + starts.astype("<i4").tobytes()
            assert blosc.decompress(header + payload) == plain.tobytes()


def test_the_oracle_is_numcodecs_shuffle() -> None:
    rng = np.random.default_rng(0)
    for typesize in (1, 2, 4, 5, 16, 200):
        plain = rng.integers(0, 256, typesize * 37, dtype=np.uint8)
        expected = np.frombuffer(numcodecs.Shuffle(typesize).encode(plain), np.uint8)
        assert np.array_equal(shuffled(plain, BYTES, typesize, len(plain)), expected)


# ---- launches


def tiles(planes: NDArray[np.int64], nbytes: int) -> int:
    """The pitch that kernels/unshuffle.cu asks for."""
    _, typesize, blocksize = planes.T
    width = np.maximum(TILE // typesize // 64 * 64, 64)
    return int((np.maximum(-(-(blocksize // typesize) // width), 1) * -(-nbytes // blocksize)).max())


class Launch:
    """Chunks of one shape, a box of each, and the bytes of the result: `expected`, once `add` has been called
    for every row. Axes of the result have `strides` in bytes, and element 0 of each lies at `base`."""

    def __init__(
        self,
        shape: tuple[int, ...],
        itemsize: int,
        strides: tuple[int, ...],
        base: int,
        result_nbytes: int,
        *,
        unit: int = 0,
        order: tuple[int, ...] | None = None,
        step: tuple[int, ...] | None = None,
        gap: int = 0,
    ) -> None:
        self.shape, self.itemsize, self.strides, self.base, self.unit = shape, itemsize, strides, base, unit
        self.order = tuple(range(len(shape))) if order is None else order  # of axes in the chunk
        self.step = (1,) * len(shape) if step is None else step
        self.nbytes = int(np.prod(shape, dtype=np.int64)) * itemsize
        self.expected = np.full(result_nbytes, UNTOUCHED, np.uint8)
        self.src = np.zeros(gap, np.uint8)
        self.gap = gap
        self.offsets: list[int] = []
        self.planes: list[tuple[int, int, int]] = []
        self.boxes: list[tuple[tuple[int, ...], ...]] = []

    def add(
        self,
        plain: Bytes,
        planes: tuple[int, int, int],
        lo: tuple[int, ...],
        out_lo: tuple[int, ...],
        extent: tuple[int, ...],
    ) -> None:
        """A chunk of these decoded bytes."""
        self.offsets.append(len(self.src))
        self.src = np.concatenate((self.src, shuffled(plain, *planes)))
        self.src = np.concatenate((self.src, np.zeros(-len(self.src) % 16 + self.gap, np.uint8)))
        self.planes.append(planes)
        self.boxes.append((lo, out_lo, extent))
        stored = tuple(self.shape[axis] for axis in self.order)
        back = tuple(np.argsort(self.order)) if self.order else ()
        chunk = plain.reshape(*stored, self.itemsize).transpose(*back, len(stored))
        box = tuple(
            slice(a, a + (n - 1) * s + 1 if n else a, s)
            for a, n, s in zip(lo, extent, self.step, strict=True)
        )
        picked = chunk[box]
        if self.unit:
            picked = picked.reshape(*extent, self.itemsize // self.unit, self.unit)[..., ::-1].reshape(
                picked.shape
            )
        to = self.base + sum(a * s for a, s in zip(out_lo, self.strides, strict=True))
        if picked.size:
            places = np.full((*extent, self.itemsize), to) + np.arange(self.itemsize)
            for axis, (n, s) in enumerate(zip(extent, self.strides, strict=True)):
                places += (np.arange(n) * s).reshape(-1, *[1] * (len(extent) - axis))
            self.expected[places] = picked

    def params(self) -> dict[str, Any]:
        """What the kernel takes, but for dst."""
        src_stride = np.zeros(len(self.shape), np.int64)
        upto = self.itemsize
        for axis in reversed(self.order):
            src_stride[axis] = upto
            upto *= self.shape[axis]
        lo, out_lo, extent = np.array(self.boxes, np.int64).transpose(1, 0, 2)
        return {
            "src": self.src,
            "src_offset": np.array(self.offsets, np.int64),
            "planes": np.array(self.planes, np.int64),
            "dst_base": self.base,
            "chunk_lo": np.ascontiguousarray(lo),
            "out_lo": np.ascontiguousarray(out_lo),
            "extent": np.ascontiguousarray(extent),
            "step": np.array(self.step, np.int64),
            "shape": np.array(self.shape, np.int64),
            "src_stride": src_stride,
            "dst_stride": np.array(self.strides, np.int64),
            "nbytes": self.nbytes,
            "groups": len(self.shape),
            "itemsize": self.itemsize,
            "unit": self.unit,
            "pitch": tiles(np.array(self.planes, np.int64), self.nbytes),
        }

    def check(self, lane: Lane, threads: int = 256, **other: Any) -> None:
        """It writes what it should, and nothing else."""
        params = {**self.params(), **other}
        found = run(lane, params, len(self.offsets) * params["pitch"], threads, len(self.expected))
        wrong = np.flatnonzero(found != self.expected)
        assert not len(wrong), f"{len(wrong)} of {len(found)} bytes differ, from {wrong[0]} on"


def run(lane: Lane, params: dict[str, Any], blocks: int, threads: int, result_nbytes: int) -> Bytes:
    dst = lane.upload(np.full(result_nbytes, UNTOUCHED, np.uint8))
    lane.launch("gz_unshuffle", blocks, threads, **params, dst=dst)
    found = np.frombuffer(download(lane, dst), np.uint8)
    lane.reset()
    return found


def random_launch(seed: int) -> Launch:
    """Chunks and boxes of every kind."""
    rng = np.random.default_rng(seed)
    itemsize = int(rng.choice([1, 2, 3, 4, 4, 6, 8, 8, 12, 16, 24]))
    unit = int(rng.choice([one for one in (0, 0, 0, 2, 4, 8, 16, 3) if itemsize % max(one, 1) == 0]))
    ndim = int(rng.choice([0, 1, 2, 2, 3, 3, 4]))
    shape = rng.integers(1, 8, ndim)
    if ndim and rng.integers(4):
        shape[-1] = rng.choice([16, 37, 64, 130, 300])
    order = rng.permutation(ndim) if rng.integers(4) == 0 else np.arange(ndim)
    step = np.where(rng.integers(0, 4, ndim) == 0, rng.integers(2, 4, ndim), 1)
    rows = int(rng.integers(1, 4)) if ndim else 1
    lo, extent = np.zeros((rows, ndim), int), np.zeros((rows, ndim), int)
    for axis in range(ndim):
        most = -(-int(shape[axis]) // int(step[axis]))
        whole = rng.integers(2)
        for row in range(rows):
            extent[row, axis] = most if whole else rng.integers(0 if rng.integers(9) == 0 else 1, most + 1)
            last = max(int(extent[row, axis]) - 1, 0) * int(step[axis])
            lo[row, axis] = rng.integers(0, int(shape[axis]) - last)

    # Rows lie side by side along the first axis of the result, whose axes may run backwards and have gaps.
    length = extent.max(axis=0, initial=0)
    out_lo = np.zeros((rows, ndim), int)
    if ndim:
        length[0] = extent[:, 0].sum()
        out_lo[:, 0] = np.cumsum(extent[:, 0]) - extent[:, 0]
    pad = int(rng.choice([0, 0, 1, 4, 16]))
    strides, upto = np.zeros(ndim, int), itemsize
    for axis in reversed(range(ndim)):
        strides[axis] = upto
        upto = upto * max(int(length[axis]), 1) + pad
    flipped = rng.integers(0, 5, ndim) == 0
    base = int((strides * np.maximum(length - 1, 0))[flipped].sum()) + int(rng.choice([0, 0, 0, 1, 8]))
    strides = np.where(flipped, -strides, strides)
    launch = Launch(
        tuple(shape.tolist()),
        itemsize,
        tuple(strides.tolist()),
        base,
        upto + 9,
        unit=unit,
        order=tuple(order.tolist()),
        step=tuple(step.tolist()),
        gap=int(rng.choice([0, 0, 0, 1, 4, 8])),
    )
    for row in range(rows):
        typesize = int(rng.choice([itemsize, itemsize, itemsize, 1, 2, 4, 8, rng.integers(1, 256)]))
        most = launch.nbytes
        blocksize = int(rng.choice([most, most, typesize * 64, typesize * 24, rng.integers(1, most + 1)]))
        planes = int(rng.integers(0, 3)), typesize, min(max(blocksize, min(64, most)), most)
        plain = rng.integers(0, 256, most, dtype=np.uint8)
        launch.add(plain, planes, *(tuple(column[row].tolist()) for column in (lo, out_lo, extent)))
    return launch


@pytest.mark.parametrize("seed", range(60))
def test_boxes(lane: Lane, seed: int) -> None:
    """Whatever can be asked for."""
    random_launch(seed).check(lane, int(np.random.default_rng(seed).choice([1, 33, 64, 256])))


def test_the_boxes_are_many() -> None:
    """What `test_boxes` goes through."""
    seen = {}
    for seed in range(60):
        launch = random_launch(seed)
        blocks = [launch.nbytes / blocksize for _, _, blocksize in launch.planes]
        seen[seed] = {
            f"{len(launch.shape)}-d",
            f"shuffle {launch.planes[0][0]}",
            f"unit {launch.unit}",
            "in order" if launch.order == tuple(sorted(launch.order)) else "transposed",
            "steps" if max(launch.step, default=1) > 1 else "no steps",
            "backwards" if min(launch.strides, default=1) < 0 else "forwards",
            "many blocks" if max(blocks) > 2 else "a block",
            "whole" if launch.shape in {extent for _, _, extent in launch.boxes} else "cropped",
            "items" if launch.planes[0][1] == launch.itemsize else "other items",
            "unaligned" if launch.gap % 16 else "aligned",
        }
    often = Counter(name for one in seen.values() for name in one)
    rare = {name for name, count in often.items() if count < 5}
    assert rare <= {"unit 3", "unit 16"}
    assert len(often) == 5 + 3 + 6 + 7 * 2


@pytest.mark.parametrize("shuffle", [NONE, BYTES, BITS])
@pytest.mark.parametrize("typesize", [1, 2, 3, 4, 8, 12, 16, 200])
def test_whole_chunks(lane: Lane, typesize: int, shuffle: int) -> None:
    """Into an arena, as codecs ask for it: more tiles than one, what is left over, both places unaligned."""
    rng = np.random.default_rng(typesize)
    for nbytes, blocksize, shift in ((40000, 40000, 0), (TILE + 5, TILE + 5, 1), (20000, 8192, 8)):
        arena = Launch((nbytes,), 1, (1,), shift, 2 * nbytes + 64, gap=shift)
        for row in range(2):
            plain = rng.integers(0, 256, nbytes, dtype=np.uint8)
            planes = shuffle, typesize, blocksize - row * blocksize // 3
            arena.add(plain, planes, (0,), (row * (nbytes + 16),), (nbytes,))
        arena.check(lane)


@pytest.mark.parametrize("itemsize", [1, 2, 4, 8, 16])
def test_every_phase(lane: Lane, itemsize: int) -> None:
    """Rows that begin at every place between aligned words, there and here, and end at every one."""
    rng = np.random.default_rng(itemsize)
    lo, width, length = 3, 61, 50
    for unit in (0, itemsize) if itemsize > 1 else (0,):
        for pitch, base in ((width * itemsize, 0), (width * itemsize + 1, 5), (64 * itemsize, itemsize)):
            rows = Launch((40, width), itemsize, (pitch, itemsize), base, base + 40 * pitch + 16, unit=unit)
            plain = rng.integers(0, 256, rows.nbytes, dtype=np.uint8)
            rows.add(plain, (BYTES, itemsize, rows.nbytes), (0, lo), (0, 0), (40, length))
            rows.check(lane)


def test_rows_across_tiles(lane: Lane) -> None:
    """Rows of the chunk are no multiples of what those of the result are: tiles end anywhere in them."""
    rng = np.random.default_rng(7)
    for unit, blocksize in ((0, 64), (2, 64), (0, 128), (2, 96)):
        rows = Launch((20, 37), 2, (64, 2), 0, 20 * 64, unit=unit)
        plain = rng.integers(0, 256, rows.nbytes, dtype=np.uint8)
        rows.add(plain, (BYTES, 2, blocksize), (0, 0), (0, 0), (20, 32))
        rows.check(lane)


def test_axes_in_another_order(lane: Lane) -> None:
    """A chunk in Fortran order, in planes of bits."""
    rng = np.random.default_rng(1)
    launch = Launch((8, 9, 10), 4, (360, 40, 4), 0, 2880, order=(2, 1, 0))
    plain = rng.integers(0, 256, launch.nbytes, dtype=np.uint8)
    launch.add(plain, (BITS, 4, launch.nbytes), (0, 0, 0), (0, 0, 0), (8, 9, 10))
    launch.check(lane)


def test_sixteen_axes(lane: Lane) -> None:
    """The most there are; every other one is as long as one element, or taken apart."""
    rng = np.random.default_rng(2)
    shape = tuple(1 if axis % 4 == 3 else 2 for axis in range(16))
    strides = tuple(np.cumprod((2, *shape[:0:-1]))[::-1].tolist())
    lo = tuple(int(axis % 3 == 0 and n == 2) for axis, n in enumerate(shape))
    for step in (1, 2):
        extent = tuple(2 - a if step == 1 and n == 2 else 1 for a, n in zip(lo, shape, strict=True))
        launch = Launch(shape, 2, strides, 0, 2 * 2**12, unit=2, step=(step,) * 16)
        plain = rng.integers(0, 256, launch.nbytes, dtype=np.uint8)
        launch.add(plain, (BYTES, 2, launch.nbytes), lo, (0,) * 16, extent)
        launch.check(lane)


@pytest.mark.parametrize("blocksize", [1001, 999, 1000])
def test_a_swap_across_a_border(lane: Lane, blocksize: int) -> None:
    """Elements that two blocks share, or an item and what is left behind it."""
    rng = np.random.default_rng(blocksize)
    for typesize in (1, 4, 8, 7):
        launch = Launch((401,), 8, (8,), 0, 8 * 401, unit=8)
        plain = rng.integers(0, 256, launch.nbytes, dtype=np.uint8)
        launch.add(plain, (BYTES, typesize, blocksize), (0,), (0,), (401,))
        launch.check(lane)


def test_tiles_outside_of_the_box_are_not_read(lane: Lane) -> None:
    """The memory of the other blocks is not even there, but for what a wide load takes along."""
    rng = np.random.default_rng(3)
    launch = Launch((64, 100), 4, (400, 4), 0, 800)
    plain = rng.integers(0, 256, launch.nbytes, dtype=np.uint8)
    launch.add(plain, (BYTES, 4, 800), (6, 0), (0, 0), (2, 100))
    launch.check(lane, src=launch.src[2400:3220].copy(), src_offset=np.array([-2400], np.int64))


def test_the_chunk_ends_where_memory_does(lane: Lane) -> None:
    """Wide loads stop before it, wherever it begins."""
    rng = np.random.default_rng(4)
    for nbytes in (1, 15, 16, 17, 63, 64, 65, 520):
        for shuffle, typesize in ((NONE, 1), (BYTES, 1), (BYTES, 2), (BITS, 1), (BITS, 4)):
            for gap in (0, 1, 4, 8):
                launch = Launch((nbytes,), 1, (1,), 0, nbytes, gap=gap)
                plain = rng.integers(0, 256, nbytes, dtype=np.uint8)
                launch.add(plain, (shuffle, typesize, nbytes), (0,), (0,), (nbytes,))
                launch.check(lane, 64, src=launch.src[: gap + nbytes].copy())


def test_nothing_is_selected(lane: Lane) -> None:
    """In one axis of two, or in all; chunks of no bytes."""
    for extent in ((0, 10), (10, 0), (0, 0)):
        launch = Launch((10, 10), 4, (40, 4), 0, 400)
        launch.add(np.zeros(400, np.uint8), (BYTES, 4, 400), (0, 0), (0, 0), extent)
        launch.check(lane)
    empty = Launch((0,), 4, (4,), 0, 16)
    empty.offsets, empty.planes, empty.boxes = [0], [(BYTES, 4, 1)], [((0,), (0,), (0,))]
    empty.check(lane, src=np.zeros(1, np.uint8), pitch=1)


@pytest.mark.parametrize(
    "planes", [(1, 0, 400), (1, 256, 400), (1, -1, 400), (1, 4, 0), (1, 4, 401), (2, 4, -400)]
)
def test_impossible_planes(lane: Lane, planes: tuple[int, int, int]) -> None:
    """What no header says once it has been inspected: nothing is written."""
    launch = Launch((100,), 4, (4,), 0, 400)
    launch.add(np.arange(400).astype(np.uint8), (BYTES, 4, 400), (0,), (0,), (100,))
    launch.expected[:] = UNTOUCHED
    launch.check(lane, planes=np.array([planes], np.int64), pitch=3)


def test_more_blocks_than_tiles(lane: Lane) -> None:
    """Rows of one launch need not have as many."""
    rng = np.random.default_rng(5)
    launch = Launch((5000,), 2, (2,), 0, 3 * 10000)
    for row, blocksize in enumerate((10000, 512, 4000)):
        plain = rng.integers(0, 256, launch.nbytes, dtype=np.uint8)
        launch.add(plain, (row, 2, blocksize), (0,), (5000 * row,), (5000,))
    launch.check(lane, pitch=29)


def test_chunks_of_more_than_31_bits(lane: Lane) -> None:
    """Only the first blocks of each are there. They go byte by byte."""
    rng = np.random.default_rng(6)
    for shape, unit in (((1 << 20, 1 << 10), 0), ((1 << 31,), 4), ((1 << 10, 1 << 24), 4)):
        head = rng.integers(0, 256, 3 * 4096, dtype=np.uint8)
        plain = head.view(">u4" if unit else "<u4")
        params = {
            "src": shuffled(head, BYTES, 4, 4096),
            "src_offset": np.zeros(1, np.int64),
            "planes": np.array([[BYTES, 4, 4096]]),
            "dst_base": 0,
            "chunk_lo": np.array([[0, 5][-len(shape) :]]),
            "out_lo": np.zeros((1, len(shape)), np.int64),
            "extent": np.array([[1, 700][-len(shape) :]]),
            "step": np.array([1, 3][-len(shape) :]),
            "shape": np.array(shape),
            "src_stride": 4 * np.array([shape[-1], 1])[-len(shape) :],
            "dst_stride": np.array([2800, 4])[-len(shape) :],
            "nbytes": 4 * int(np.prod(shape)),
            "groups": len(shape),
            "itemsize": 4,
            "unit": unit,
            "pitch": 1 << 24,
        }
        found = run(lane, params, 3, 64, 2800).view("<u4")
        expected = np.full(700, int.from_bytes([UNTOUCHED] * 4, "little"), "<u4")
        some = plain[5 : min(shape[-1], 3 * 1024) : 3][:700]
        expected[: len(some)] = some
        assert np.array_equal(found, expected)
