"""Kernels against NumPy and numcodecs, in the four thread orders of device sim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
from numpy.typing import NDArray

from gpuzarr.codecs.base import Batch, ChunkSpec, Codec, as_bytes
from gpuzarr.codecs.delta import Delta
from gpuzarr.codecs.fixedscaleoffset import FixedScaleOffset
from gpuzarr.codecs.shuffle import Shuffle
from gpuzarr.device import catalogue
from gpuzarr.device.base import DeviceBuffer, Lane
from gpuzarr.device.sim import SimDevice
from gpuzarr.errors import ChunkError, MetadataError
from gpuzarr.testing.device import download
from tests.devices import DEVICES, lane_of

Int64s = NDArray[np.int64]
INTEGERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]


@pytest.fixture(params=DEVICES)
def lane(request: pytest.FixtureRequest) -> Lane:
    return lane_of(request.param)


def packed(lane: Lane, chunks: list[bytes], gap: int = 0) -> tuple[DeviceBuffer, Int64s]:
    """Chunks in one arena, `gap` bytes before each: 0 for aligned ones."""
    offset, data = [], b""
    for chunk in chunks:
        data += b"\xee" * (-len(data) % 16 + gap)
        offset.append(len(data))
        data += chunk
    return lane.upload(np.frombuffer(data, np.uint8)), np.array(offset, np.int64)


def decode_batch(lane: Lane, codec: Codec, chunks: list[bytes], decoded: ChunkSpec, gap: int) -> list[bytes]:
    """What the device form makes of them."""
    assert codec.host_only(decoded) is None
    data, offset = packed(lane, chunks, gap)
    sizes = np.array([len(chunk) for chunk in chunks], np.int64)
    batch = codec.decode_batch(Batch(data, offset, sizes), decoded, lane)
    plain = download(lane, batch.data)
    return [plain[at : at + n] for at, n in zip(batch.offset.tolist(), batch.nbytes.tolist(), strict=True)]


# ---- scatter


class Box:
    """A random launch of gz_scatter, and what it has to do, element by element in Python."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.itemsize = int(rng.choice([1, 2, 3, 4, 6, 8, 12, 16, 24, 40]))
        units = [unit for unit in (0, 0, 2, 4, 8, 16, 3) if self.itemsize % max(unit, 1) == 0]
        self.unit = int(rng.choice(units))
        ndim, rows = int(rng.integers(1, 5)), int(rng.integers(1, 4))
        shape = rng.integers(1, 7, ndim)
        if rng.integers(2):
            shape[-1] = rng.integers(8, 50)
        order = rng.permutation(ndim) if rng.integers(2) else np.arange(ndim)
        axis_stride = np.zeros(ndim, np.int64)  # of the chunk, whose axes lie in any order
        axis_stride[order] = np.append(np.cumprod(shape[order][:0:-1])[::-1], 1) * self.itemsize
        chunk_nbytes = int(shape.prod()) * self.itemsize

        # The last two axes may be one group of points; every other axis is a span.
        points = bool(rng.integers(3) == 0)
        joined = min(2, ndim) if points else 0
        self.groups = ndim - joined + points
        where = int(rng.integers(self.groups)) if points else -1
        axes = iter(range(ndim - joined))
        span_axis = [-1 if g == where else next(axes) for g in range(self.groups)]

        self.step = np.ones(self.groups, np.int64)
        self.src_stride = np.zeros(self.groups, np.int64)
        self.extent = np.zeros((rows, self.groups), np.int64)
        self.chunk_lo = np.zeros_like(self.extent)
        for g, axis in enumerate(span_axis):
            if axis < 0:
                continue
            self.step[g] = rng.choice([1, 1, 1, 2, 3])
            self.src_stride[g] = axis_stride[axis]
            most = -(-int(shape[axis]) // int(self.step[g]))
            whole = bool(rng.integers(2))
            for row in range(rows):
                self.extent[row, g] = (
                    most if whole else rng.integers(0 if rng.integers(9) == 0 else 1, most + 1)
                )
                span = max(int(self.extent[row, g]) - 1, 0) * int(self.step[g])
                self.chunk_lo[row, g] = rng.integers(0, int(shape[axis]) - span)

        self.table = np.full(self.groups, -1, np.int64)
        if points:
            self.table[where] = 3
            self.extent[:, where] = rng.integers(1, 9, rows)
            self.chunk_lo[:, where] = np.cumsum(self.extent[:, where]) - self.extent[:, where]

        # Rows lie side by side along group 0 of the result, whose axes may run backwards and have gaps.
        length = self.extent.max(axis=0)
        length[0] = self.extent[:, 0].sum()
        if points:
            length[where] = self.extent[:, where].sum()
        self.out_lo = np.zeros_like(self.extent)
        self.out_lo[:, 0] = np.cumsum(self.extent[:, 0]) - self.extent[:, 0]
        pad = int(rng.choice([0, 0, 1, 16]))
        stride = np.ones(self.groups, np.int64)
        total = self.itemsize
        for g in reversed(range(self.groups)):
            stride[g] = total
            total = max(total * int(max(length[g], 1)), 1) + pad
        flipped = rng.integers(0, 3, self.groups) == 0
        self.dst_base = int((stride * np.maximum(length - 1, 0))[flipped].sum()) + int(
            rng.choice([0, 0, 0, 1, 8])
        )
        self.dst_stride = np.where(flipped, -stride, stride)
        self.dst_nbytes = total + 32

        count = int(self.extent[:, where].sum()) if points else 0
        inside = [
            rng.integers(0, shape[axis], count) * axis_stride[axis] for axis in range(ndim - joined, ndim)
        ]
        self.src_points = np.concatenate(
            (np.full(3, 1 << 40), np.sum(inside, axis=0) if points else [])
        ).astype("i8")
        landing = rng.permutation(count) * (self.dst_stride[where] if points else 0)
        self.dst_points = np.concatenate((np.full(3, 1 << 40), landing)).astype("i8")
        if points:
            self.dst_stride[where] = self.src_stride[where] = 1 << 40  # not looked at

        gap = int(rng.choice([0, 0, 0, 1, 4]))
        self.src = rng.integers(0, 256, rows * (chunk_nbytes + 16) + gap, dtype=np.uint8)
        starts = [
            gap + row * (-(-chunk_nbytes // 16) * 16 if gap == 0 else chunk_nbytes) for row in range(rows)
        ]
        self.src_offset = np.where(rng.integers(0, 4, rows) == 0, -1, starts).astype(np.int64)
        self.fill = rng.integers(0, 256, self.itemsize, dtype=np.uint8)
        self.tiles = int(rng.choice([1, 2, 7]))
        self.threads = int(rng.choice([1, 20, 32, 256]))
        self.rows = rows

    def expected(self) -> bytes:
        out = np.full(self.dst_nbytes, 0x11, np.uint8)
        for row in range(self.rows):
            for index in np.ndindex(*self.extent[row].tolist()):
                src, dst = int(self.src_offset[row]), self.dst_base
                for g, j in enumerate(index):
                    k = int(self.chunk_lo[row, g]) + j
                    if self.table[g] >= 0:
                        src += int(self.src_points[self.table[g] + k])
                        dst += int(self.dst_points[self.table[g] + k])
                    else:
                        src += int(self.chunk_lo[row, g] + j * self.step[g]) * int(self.src_stride[g])
                        dst += int(self.out_lo[row, g] + j) * int(self.dst_stride[g])
                element = self.fill
                if self.src_offset[row] >= 0:
                    element = self.src[src : src + self.itemsize]
                    if self.unit:
                        element = element.reshape(-1, self.unit)[:, ::-1].reshape(-1)
                out[dst : dst + self.itemsize] = element
        return out.tobytes()

    def found(self, lane: Lane) -> bytes:
        dst = lane.upload(np.full(self.dst_nbytes, 0x11, np.uint8))
        names = (
            *(
                "src",
                "src_offset",
                "chunk_lo",
                "out_lo",
                "extent",
                "step",
                "src_stride",
                "dst_stride",
                "table",
            ),
            *("src_points", "dst_points", "fill", "dst_base", "groups", "itemsize", "unit", "tiles"),
        )
        columns = {name: getattr(self, name) for name in names}
        lane.launch("gz_scatter", self.rows * self.tiles, self.threads, dst=dst, **columns)
        return download(lane, dst)


@pytest.mark.parametrize("seed", range(80))
def test_scatter(lane: Lane, seed: int) -> None:
    """Crops, steps, transposes, points, swaps, missing chunks, any alignment, any sign of strides."""
    box = Box(seed)
    assert box.found(lane) == box.expected()


def test_scatter_cases_are_many() -> None:
    """The random cases reach what they are for."""
    boxes = [Box(seed) for seed in range(80)]
    filled = [box for box in boxes if (box.src_offset < 0).any()]
    assert len(filled) > 10
    assert sum((box.table >= 0).any() for box in boxes) > 10
    assert sum(box.unit > 0 for box in boxes) > 10
    assert sum((box.dst_stride < 0).any() for box in boxes) > 10
    assert sum((box.extent == 0).any() for box in boxes) > 0
    assert {box.itemsize for box in boxes} == {1, 2, 3, 4, 6, 8, 12, 16, 24, 40}


@pytest.mark.parametrize(
    ("dtype", "key"),
    [
        ("<u2", np.s_[3:29, 8:24, 16:48]),
        ("<u2", np.s_[:, :, :]),
        (">f4", np.s_[5:6, ::2, 1:]),
        ("u1", np.s_[0:32, 0:32, 7:8]),
        (">c16", np.s_[::3, 4:5, 16:32]),
    ],
)
def test_scatter_crops(lane: Lane, dtype: str, key: tuple[slice, ...]) -> None:
    """Two chunks of a volume, as NumPy slices them."""
    shape = (32, 32, 64)
    chunk = np.random.default_rng(0).integers(0, 256, (*shape, np.dtype(dtype).itemsize), dtype=np.uint8)
    values = chunk.view(dtype)[..., 0]
    starts, stops, steps = (
        np.array(one, np.int64) for one in zip(*map(slice.indices, key, shape), strict=True)
    )
    cut = values[key].astype(values.dtype.newbyteorder("<"))
    out = lane.empty(2 * cut.nbytes)
    strides = np.array([cut.nbytes, *cut.strides], np.int64)
    native = values.dtype.newbyteorder("<") == values.dtype
    lane.launch(
        "gz_scatter",
        2 * 5,
        128,
        src=chunk.reshape(-1),
        dst=out,
        src_offset=np.array([0, 0], np.int64),
        chunk_lo=np.array([[0, *starts]] * 2, np.int64),
        out_lo=np.array([[0, 0, 0, 0], [1, 0, 0, 0]], np.int64),
        extent=np.array([[1, *cut.shape]] * 2, np.int64),
        step=np.array([1, *steps], np.int64),
        src_stride=np.array([0, *values.strides], np.int64),
        dst_stride=strides,
        table=np.full(4, -1, np.int64),
        src_points=np.zeros(1, np.int64),
        dst_points=np.zeros(1, np.int64),
        fill=np.zeros(cut.itemsize, np.uint8),
        dst_base=0,
        groups=4,
        itemsize=cut.itemsize,
        unit=0 if native else cut.itemsize // (2 if cut.dtype.kind == "c" else 1),
        tiles=5,
    )
    del stops
    assert download(lane, out) == cut.tobytes() * 2


@pytest.mark.parametrize("narrow", [0, 1])
def test_scatter_index_arithmetic(narrow: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a word lies, up to 2^32 words and beyond, against Python's whole numbers."""
    own = catalogue.scan(Path(__file__).parents[1] / "data" / "kernels")
    monkeypatch.setitem(catalogue.kernels(), "gz_locate", own["gz_locate"])
    rng = np.random.default_rng(3)
    for extent in (
        [3, 5, 7],
        [1 << 10, 1 << 11, (1 << 11) - 1],
        [2, 1, (1 << 31) - 1],
        [65537, 65521, 1],
        [1, 1, 9],
    ):
        if not narrow:
            extent = [extent[0], extent[1] * 65536, extent[2]]
        total = extent[0] * extent[1] * extent[2]
        edges = [0, 1, total - 1, total - 2, total // 2, extent[2], extent[2] - 1, extent[1] * extent[2] - 1]
        index = np.array([*edges, *rng.integers(0, total, 56)], np.int64).clip(0, total - 1)
        stride = [1000003, 1009, 16]
        lane = lane_of(DEVICES[0])
        dst = lane.empty(64 * 3 * 8)
        lane.launch(
            *("gz_locate", 2, 32),
            index=index,
            extent=np.array(extent),
            stride=np.array(stride),
            dst=dst,
            narrow=narrow,
        )
        expected = []
        for i in index.tolist():
            coordinates = i // (extent[1] * extent[2]), i // extent[2] % extent[1], i % extent[2]
            moved = sum(c * s for c, s in zip(coordinates, stride, strict=True))
            expected.append([5 + moved, 7 + 2 * moved, coordinates[2]])
        assert np.frombuffer(download(lane, dst), np.int64).reshape(64, 3).tolist() == expected


# ---- shuffle, byte order


@pytest.mark.parametrize("gap", [0, 3])
@pytest.mark.parametrize("items", [1, 3, 4, 100, 1031, 2048])
@pytest.mark.parametrize("size", [2, 3, 4, 5, 8, 16, 17])
def test_unshuffle(lane: Lane, size: int, items: int, gap: int) -> None:
    """As numcodecs, whatever the alignment of the planes."""
    rng = np.random.default_rng(size * items)
    plain = [rng.integers(0, 256, size * items, dtype=np.uint8).tobytes() for _ in range(3)]
    chunks = [bytes(numcodecs.Shuffle(size).encode(one)) for one in plain]
    spec = ChunkSpec((), np.dtype("u1"), size * items)
    assert decode_batch(lane, Shuffle(size), chunks, spec, gap) == plain


@pytest.mark.parametrize("gap", [0, 1])
@pytest.mark.parametrize("unit", [1, 2, 3, 4, 8, 12, 16])
def test_byteswap(lane: Lane, unit: int, gap: int) -> None:
    """The bytes of each item in reverse."""
    chunks = np.random.default_rng(unit).integers(0, 256, (3, 77, unit), dtype=np.uint8)
    src, offset = packed(lane, [chunk.tobytes() for chunk in chunks], gap)
    out = lane.empty(chunks.nbytes)
    lane.launch("gz_byteswap", 3, 64, src=src, offset=offset, dst=out, items=77, unit=unit)
    assert download(lane, out) == chunks[:, :, ::-1].tobytes()


# ---- delta


@pytest.mark.parametrize("gap", [0, 1])
@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("astype", INTEGERS)
def test_delta_of_integers(lane: Lane, dtype: str, astype: str, gap: int) -> None:
    """Random differences, so that sums wrap; lengths on both sides of a block's stride."""
    codec = Delta(dtype, astype)
    for items in (1, 31, 256, 700):
        spec = ChunkSpec.of((items,), np.dtype(dtype))
        if np.promote_types(dtype, astype).kind == "f":
            assert codec.host_only(spec) == f"{np.dtype(astype)} summed to {np.dtype(dtype)}"
            continue
        rng = np.random.default_rng(items)
        chunks = [
            rng.integers(0, 256, items * np.dtype(astype).itemsize, dtype=np.uint8).tobytes() for _ in "ab"
        ]
        reference = numcodecs.Delta(dtype, astype)
        expected = [reference.decode(chunk).tobytes() for chunk in chunks]
        assert decode_batch(lane, codec, chunks, spec, gap) == expected


def _odd_floats(dtype: str, seed: int) -> NDArray[Any]:
    """Sums that depend on their order, then zeros, infinities, and NaNs of all kinds."""
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal(300) * 10.0 ** rng.integers(-20, 20, 300)).astype(dtype)
    if seed == 0:
        values[:3] = -0.0
    if seed in (1, 2):
        values[40], values[80] = np.inf, (np.inf if seed == 1 else -np.inf)
    if seed > 2:
        bits = values.view("u4" if dtype == "f4" else "u8")
        quiet, top = (0x7FC00000, 31) if dtype == "f4" else (0x7FF8 << 48, 63)
        at = {3: [0, 9], 4: [100, 150], 5: [7, 8], 6: [1, 299]}[seed]
        bits[at[0]] = quiet + 77 | (seed % 2) << top
        bits[at[1]] = (quiet ^ quiet >> 1 & ~quiet << 1 | 5) | 1 << top
        if seed == 5:  # a signalling NaN comes first
            bits[at[0]] = (0x7F800000 if dtype == "f4" else 0x7FF0 << 48) + 12345
    return values


@pytest.mark.parametrize("gap", [0, 1])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_delta_of_floats(lane: Lane, dtype: str, gap: int) -> None:
    """Bit for bit, in sequence."""
    codec, spec = Delta(dtype), ChunkSpec.of((300,), np.dtype(dtype))
    if codec.host_only(spec) == "NaNs of this processor":
        pytest.skip("float sums have a device form on x86 only")
    chunks = [_odd_floats(dtype, seed).tobytes() for seed in range(7)]
    expected = [as_bytes(codec.decode(chunk, spec)).tobytes() for chunk in chunks]
    assert decode_batch(lane, codec, chunks, spec, gap) == expected
    assert sum(np.isnan(np.frombuffer(one, dtype)).any() for one in expected) >= 4


@pytest.mark.parametrize(
    ("dtype", "astype", "why"),
    [
        ("f4", "i2", "int16 summed to float32"),
        ("f8", "f4", "float32 summed to float64"),
        ("f2", "f2", "float16 summed to float16"),
        ("c8", "c8", "complex64 summed to complex64"),
        ("i8", "u8", "uint64 summed to int64"),
        (">i4", ">i4", "big-endian values"),
        ("<i4", ">i2", "big-endian values"),
    ],
)
def test_delta_on_the_host_only(dtype: str, astype: str, why: str) -> None:
    """What NumPy computes in another type, or in another order of bytes."""
    assert Delta(dtype, astype).host_only(ChunkSpec.of((9,), np.dtype(dtype))) == why


# ---- fixedscaleoffset


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
@pytest.mark.parametrize("astype", INTEGERS)
@pytest.mark.parametrize(
    ("offset", "scale"), [(1000, 10), (0, 3), (-0.1, 0.3), (2.5e300, 1e-12), (1 << 52, -7), (0.0, 5e-324)]
)
def test_fixedscaleoffset(lane: Lane, dtype: str, astype: str, offset: float, scale: float) -> None:
    """Bit for bit, overflow to infinity included."""
    rng = np.random.default_rng(7)
    values = np.frombuffer(
        rng.integers(0, 256, 301 * np.dtype(astype).itemsize, dtype=np.uint8), astype
    ).copy()
    values[:3] = 0, np.iinfo(astype).min, np.iinfo(astype).max
    codec = FixedScaleOffset(offset, scale, dtype, astype)
    with np.errstate(all="ignore"):
        reference = numcodecs.FixedScaleOffset(offset, scale, dtype, astype).decode(values)
    found = decode_batch(lane, codec, [values.tobytes()] * 2, ChunkSpec.of((7, 43), np.dtype(dtype)), 1)
    assert found == [reference.tobytes()] * 2


def test_fixedscaleoffset_tiles(lane: Lane) -> None:
    """More than one block a chunk."""
    values = np.arange(40000, dtype="<i2")
    codec = FixedScaleOffset(1.5, 7, "<f4", "<i2")
    reference = numcodecs.FixedScaleOffset(1.5, 7, "<f4", "<i2").decode(values)
    found = decode_batch(lane, codec, [values.tobytes()], ChunkSpec.of(values.shape, np.dtype("<f4")), 0)
    assert found == [reference.tobytes()]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ((0, 1, "<f8", "<f8"), "float64 scaled to float64"),
        ((0, 1, "<i4", "<i2"), "int16 scaled to int32"),
        ((0, 1, "<f2", "<i2"), "int16 scaled to float16"),
        ((0, 1, ">f8", "<i2"), "big-endian values"),
        ((0, 0, "<f8", "<i2"), "division by zero"),
        ((0, float("nan"), "<f8", "<i2"), "nan is not exact in float64"),
        (((1 << 53) + 1, 1, "<f8", "<i2"), f"{(1 << 53) + 1} is not exact in float64"),
    ],
)
def test_fixedscaleoffset_on_the_host_only(options: tuple[Any, ...], why: str) -> None:
    """What could differ from NumPy by a bit."""
    assert FixedScaleOffset(*options).host_only(ChunkSpec.of((9,), np.dtype(options[2]))) == why


# ---- the host form of these codecs, where the contract does not reach


@pytest.mark.parametrize("size", [None, 0])
def test_shuffle_by_the_item_size(size: int | None) -> None:
    """NCZarr's elementsize 0."""
    values = np.arange(100, dtype="<u2")
    stored = bytes(numcodecs.Shuffle(2).encode(values))
    spec = ChunkSpec.of((100,), values.dtype)
    assert as_bytes(Shuffle(size).decode(stored, spec)).tobytes() == values.tobytes()
    assert as_bytes(Shuffle(size).encode(values, spec)).tobytes() == stored
    assert Shuffle(size).encoded(spec) == spec
    assert Shuffle(size).to_config() == {"elementsize": size}


def test_shuffle_of_broken_elements() -> None:
    """numcodecs refuses them too."""
    spec = ChunkSpec((), np.dtype("u1"), 10)
    with pytest.raises(ChunkError, match="10 bytes are not whole elements of 4"):
        Shuffle(4).decode(bytes(10), spec)
    assert Shuffle(4).host_only(spec) == "not whole elements"
    with pytest.raises(ChunkError, match="decodes to 8 bytes where the metadata promises 10"):
        Shuffle(4).decode(bytes(8), spec)


@pytest.mark.parametrize("codec", [Shuffle, Delta, FixedScaleOffset])
def test_batches_of_another_size_are_refused(codec: type[Codec]) -> None:
    """A stage before gave less than it promised: nothing is launched over its end."""
    made = codec.from_config({"offset": 0, "scale": 1, "astype": "<i4"} if codec is FixedScaleOffset else {})
    device = SimDevice("sim")
    lane = device.lane()
    spec = ChunkSpec.of((4,), np.dtype("<f4" if codec is FixedScaleOffset else "<i4"))
    batch = Batch(lane.empty(12), np.zeros(1, np.int64), np.array([12], np.int64))
    with pytest.raises(ChunkError, match="12 bytes"):
        made.decode_batch(batch, spec, lane)
    assert device.counters.launches == 0


@pytest.mark.parametrize(
    ("codec", "configuration"),
    [
        (Shuffle, {"elementsize": -1}),
        (Shuffle, {"elementsize": "4"}),
        (Shuffle, {"elementsize": True}),
        (Shuffle, {"elementsize": 1 << 31}),
        (Delta, {"dtype": "O"}),
        (Delta, {"dtype": "S3"}),
        (Delta, {"dtype": "<i4,<i4"}),
        (Delta, {"dtype": "<i4", "astype": "nonsense"}),
        (Delta, {"dtype": 4}),
        (Delta, {"dtype": "(" * 1000}),
        (FixedScaleOffset, {"offset": 1}),
        (FixedScaleOffset, {"offset": "1", "scale": 1}),
        (FixedScaleOffset, {"offset": 1, "scale": True}),
        (FixedScaleOffset, {"offset": 1, "scale": [1]}),
    ],
)
def test_impossible_configurations(codec: type[Codec], configuration: dict[str, Any]) -> None:
    """A MetadataError that names the codec."""
    with pytest.raises(MetadataError, match=codec.name):
        codec.from_config(configuration)


def test_numbers_that_numpy_refuses() -> None:
    """An offset that the type cannot hold, values that are not numbers."""
    with pytest.raises(MetadataError, match="NumPy cannot compute"):
        FixedScaleOffset(-1000, 1, "u1", "u1").encode(bytes(4), ChunkSpec.of((4,), np.dtype("u1")))
    with pytest.raises(MetadataError, match="not numeric"):
        Delta().encoded(ChunkSpec.of((4,), np.dtype("S4")))
    with pytest.raises(MetadataError, match="not whole"):
        Delta("<i4").encoded(ChunkSpec((), np.dtype("u1"), 10))


def test_delta_of_nothing() -> None:
    """An empty chunk is an empty chunk."""
    spec = ChunkSpec.of((0,), np.dtype("<i4"))
    assert as_bytes(Delta(None, "<i2").encode(np.zeros(0, "<i4"), spec)).nbytes == 0
    assert as_bytes(Delta(None, "<i2").decode(b"", spec)).nbytes == 0
