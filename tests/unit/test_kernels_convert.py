"""kernels/convert.cu and the host's conversion, bit for bit: against NumPy, and against whole numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpuzarr.device.base import Lane
from gpuzarr.engine.convert import Conversion
from gpuzarr.testing.device import download
from tests.devices import DEVICES, lane_of

Values = NDArray[Any]
TARGETS = ["f2", "f4", "f8"]
INTEGERS = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8"]
NUMBERS: list[tuple[Any, Any]] = [
    (None, None),
    (1 / 255, None),
    (None, -0.5),
    (0.1, 1 / 3),  # a fused product and sum would differ
    (-3.0, 0.0),
    (0, -0.0),
    (3e38, -3e38),
    (1e-40, 1e-45),
]


@pytest.fixture(params=DEVICES)
def lane(request: pytest.FixtureRequest) -> Lane:
    return lane_of(request.param)


def expected(values: Values, to: str, scale: Any = None, offset: Any = None) -> Values:
    """The rule as one would write it: a type for all steps but the last, one rounding a step, one NaN."""
    kind = np.dtype("f8" if to == "f8" else "f4").type
    with np.errstate(all="ignore"):
        found = values.astype(kind)
        found = found if scale is None else found * kind(scale)
        found = found if offset is None else found + kind(offset)
        return np.where(np.isnan(found), kind("nan"), found).astype(to)


def on_lane(lane: Lane, values: Values, conversion: Conversion, skew: int = 0) -> Values:
    """By the kernel, `skew` bytes behind an address that is aligned."""
    source = np.zeros(skew + values.nbytes, np.uint8)
    source[skew:] = values.reshape(-1).view(np.uint8)
    out = lane.empty(skew + values.size * conversion.dtype.itemsize)
    src = lane.upload(source).part(skew, values.nbytes)
    conversion.launch(lane, src, out.part(skew, out.nbytes - skew), values.size)
    found = np.frombuffer(download(lane, out), np.uint8)[skew:].view(conversion.dtype)
    lane.reset()
    return found


def on_host(values: Values, conversion: Conversion) -> Values:
    return conversion.value(values)


def conversion_of(values: Values, to: str, scale: Any = None, offset: Any = None) -> Conversion:
    """Numbers in the type they are computed in, as `finish_of` has them."""
    plain = Conversion(values.dtype, np.dtype(to))
    held = [None if one is None else float(plain.computing.type(one)) for one in (scale, offset)]
    return Conversion(values.dtype, np.dtype(to), *held)


def same(found: Values, right: Values, values: Values) -> None:
    """To the last bit; the first value that is not is named."""
    assert found.dtype == right.dtype
    assert found.shape == right.shape
    bits = f"u{right.dtype.itemsize}"
    wrong = np.flatnonzero(found.view(bits) != right.view(bits))
    assert not len(wrong), f"{values[wrong[0]]!r} becomes {found[wrong[0]]!r}, not {right[wrong[0]]!r}"


# ---- values with something about them


def halves() -> Values:
    """Every one of them."""
    return np.arange(1 << 16, dtype=np.uint32).astype(np.uint16).view(np.float16)


def around_halves() -> Values:
    """Half way between every two neighbouring halves, and the float32 values beside that."""
    finite = np.sort(halves()[np.isfinite(halves())].astype(np.float64))
    ends = np.array([-65520.0, 65520.0])  # where the next half would be infinite
    middle = np.concatenate((ends, (finite[:-1] + finite[1:]) / 2)).astype(np.float32)
    bits = middle.view(np.uint32)
    return np.concatenate((bits - 1, bits, bits + 1)).view(np.float32)


def floats(kind: str) -> Values:
    """Of all sizes, and zeros, subnormal ones, infinities, NaNs of every sort."""
    size = np.dtype(kind).itemsize
    bits = np.random.default_rng(size).integers(0, 256, 3000 * size, dtype=np.uint8).view(f"u{size}")
    mantissa = np.finfo(kind).nmant
    top = bits.dtype.type(1 << (8 * size - 1))
    infinite = bits.dtype.type(((1 << (8 * size - 1 - mantissa)) - 1) << mantissa)
    odd = np.array([0, 1, 2, (1 << mantissa) - 1, 1 << mantissa], bits.dtype)
    quiet = bits.dtype.type(1 << (mantissa - 1))
    payloads = np.array([0, 1, quiet, quiet | 5, (1 << mantissa) - 1], bits.dtype) | infinite
    sizes = np.array([1, -1, 65504, 2.0**-14, 2.0**-24], kind).view(bits.dtype)
    found = np.concatenate((bits, odd, odd | top, payloads, payloads | top, sizes, bits & (infinite >> 1)))
    return found.view(kind)


def doubles() -> Values:
    """float64 values half way between two float32 ones, and those beside that."""
    rng = np.random.default_rng(1)
    low = rng.integers(0, 0x7F800000, 2000, dtype=np.uint32).view(np.float32)
    low[:50] = np.arange(50, dtype=np.uint32).view(np.float32)  # subnormal
    low[50] = np.finfo(np.float32).max
    with np.errstate(over="ignore"):
        high = np.nextafter(low, np.float32(np.inf)).astype(np.float64)
    high[50] = 2.0**128
    bits = ((low.astype(np.float64) + high) / 2).view(np.uint64)
    beside = np.concatenate((bits - 1, bits, bits + 1)).view(np.float64)
    return np.concatenate((beside, -beside, floats("f8")))


def integers(kind: str) -> Values:
    """Both ends, and around every power of two: half way between floats, and one more and one less."""
    limits = np.iinfo(kind)
    found = {0, 1, limits.min, limits.max, limits.max - 1}
    for power in range(1, 65):
        for digits in (24, 53):
            half = 1 << max(power - digits - 1, 0)
            for odd in (0, 2 * half):  # ties go down, and up
                found |= {sign * ((1 << power) + odd + half + d) for d in (-1, 0, 1) for sign in (1, -1)}
    kept = sorted(one for one in found if limits.min <= one <= limits.max)
    noise = np.random.default_rng(7).integers(limits.min, limits.max, 999, dtype=kind, endpoint=True)
    return np.concatenate((np.array(kept, kind), noise))


def cases() -> Iterator[Values]:
    yield np.arange(256, dtype=np.uint8).view(np.bool_)  # what a stranger's bytes may be
    yield from map(integers, INTEGERS)
    yield from (floats("f2"), np.concatenate((floats("f4"), around_halves()[::37])), doubles())


# ---- the rule


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("values", cases(), ids=lambda values: str(values.dtype))
def test_every_type_to_every_type(lane: Lane, values: Values, to: str) -> None:
    for scale, offset in NUMBERS:
        conversion, right = conversion_of(values, to, scale, offset), expected(values, to, scale, offset)
        same(on_lane(lane, values, conversion), right, values)
        same(on_host(values, conversion), right, values)


@pytest.mark.parametrize("to", TARGETS)
def test_all_halves(lane: Lane, to: str) -> None:
    values = halves()
    right = expected(values, to)
    same(on_lane(lane, values, conversion_of(values, to)), right, values)
    same(on_host(values, conversion_of(values, to)), right, values)


def test_to_halves_half_way(lane: Lane) -> None:
    values = around_halves()
    right = expected(values, "f2")
    same(on_lane(lane, values, conversion_of(values, "f2")), right, values)
    same(on_host(values, conversion_of(values, "f2")), right, values)


def rounded(value: int, digits: int) -> int:
    """To so many binary digits, to nearest, ties to even."""
    size = abs(value)
    drop = max(size.bit_length() - digits, 0)
    kept, rest = size >> drop, size & ((1 << drop) - 1)
    kept += rest > (half := (1 << drop) >> 1) or (bool(drop) and rest == half and kept & 1)
    return (kept << drop) * (1 if value >= 0 else -1)


@pytest.mark.parametrize("kind", ["u8", "i8", "u4", "i4"])
@pytest.mark.parametrize(("to", "digits"), [("f4", 24), ("f8", 53)])
def test_integers_are_rounded_once(lane: Lane, kind: str, to: str, digits: int) -> None:
    values = integers(kind)
    right = [rounded(value, digits) for value in values.tolist()]
    assert [int(one) for one in on_lane(lane, values, conversion_of(values, to))] == right
    assert [int(one) for one in on_host(values, conversion_of(values, to))] == right


def test_one_nan() -> None:
    """Whatever its sign and payload, and where it comes from."""
    values = np.array([np.nan, -np.nan, np.inf, -np.inf], np.float32)
    for to, bits in (("f2", 0x7E00), ("f4", 0x7FC00000), ("f8", 0x7FF8 << 48)):
        for device in DEVICES:
            found = on_lane(lane_of(device), values, conversion_of(values, to, 0))
            assert found.view(f"u{found.dtype.itemsize}").tolist() == [bits] * 4
        found = on_host(values, conversion_of(values, to, 0))
        assert found.view(f"u{found.dtype.itemsize}").tolist() == [bits] * 4


# ---- places


@pytest.mark.parametrize("skew", [0, 1, 2, 4, 8])
@pytest.mark.parametrize("kind", ["u1", "i2", "f2", "f4", "u8"])
def test_any_length_at_any_address(lane: Lane, kind: str, skew: int) -> None:
    """What lies around stays as it is: the lane looks at that."""
    for size in (1, 2, 3, 4, 5, 7, 1023, 1024, 1025):
        values = np.resize(floats(kind) if kind[0] == "f" else integers(kind), size)
        for to in TARGETS:
            same(
                on_lane(lane, values, conversion_of(values, to, 0.5), skew), expected(values, to, 0.5), values
            )


@pytest.mark.parametrize(
    ("kind", "to"), [("u2", "f2"), ("f2", "f2"), ("i4", "f4"), ("f4", "f4"), ("u8", "f8")]
)
@pytest.mark.parametrize("skew", [0, 1])
def test_in_place(lane: Lane, kind: str, to: str, skew: int) -> None:
    values = np.resize(floats(kind) if kind[0] == "f" else integers(kind), 4099)
    memory = np.concatenate((np.zeros(skew, np.uint8), values.view(np.uint8)))
    buffer = lane.upload(memory)
    part = buffer.part(skew, values.nbytes)
    conversion_of(values, to, 0.1, 1).launch(lane, part, part, values.size)
    found = np.frombuffer(download(lane, buffer), np.uint8)[skew:].view(to)
    lane.reset()
    same(found, expected(values, to, 0.1, 1), values)


@pytest.mark.parametrize(("blocks", "threads"), [(1, 1), (1, 32), (3, 96), (1000, 256)])
def test_any_number_of_blocks_and_threads(lane: Lane, blocks: int, threads: int) -> None:
    values = integers("i2")
    out = lane.empty(4 * values.size)
    numbers = {"count": values.size, "kind": 2, "size": 2, "to": 4, "scale": 0.1, "offset": 7.0}
    numbers["scale"] = float(np.float32(0.1))
    lane.launch("gz_convert", blocks, threads, src=lane.upload(values), dst=out, **numbers)
    same(np.frombuffer(download(lane, out), "f4"), expected(values, "f4", 0.1, 7), values)
    lane.reset()


def test_nothing_to_convert(lane: Lane) -> None:
    assert on_lane(lane, np.zeros(0, "u2"), Conversion(np.dtype("u2"), np.dtype("f4"))).size == 0


# ---- the host's blocks


@pytest.mark.parametrize("to", TARGETS)
def test_blocks_of_strided_and_foreign_values(to: str) -> None:
    """Values in any order of bytes and axes, broadcast or backwards, to any strides."""
    values = np.random.default_rng(3).integers(0, 1 << 16, (70, 50, 90), dtype=np.uint16)
    out = np.zeros((70, 90, 100), to)[:, :, ::2].transpose(0, 2, 1)
    conversion_of(values, to, 0.1).put(out, values.astype(">u2"))
    same(out.reshape(-1), expected(values, to, 0.1).reshape(-1), values.reshape(-1))
    conversion_of(values, to, 0.1).put(out, values[::-1, :, ::-1])
    same(out.reshape(-1), expected(values[::-1, :, ::-1], to, 0.1).reshape(-1), values.reshape(-1))
    conversion_of(values, to, 0.1).put(out, values[:, :1])
    right = np.broadcast_to(expected(values[:, :1], to, 0.1), out.shape)
    same(out.reshape(-1), right.reshape(-1), values.reshape(-1))


def test_warnings_are_not_raised() -> None:
    """The suite makes errors of them: overflow, invalid values and subnormal results are none here."""
    values = np.array([1e300, -1e300, np.nan, 1e-300, 65535], np.float64)
    assert on_host(values, conversion_of(values, "f2")).tolist()[:2] == [np.inf, -np.inf]
    assert on_host(values, conversion_of(values, "f8", 1e300)).tolist()[0] == np.inf
