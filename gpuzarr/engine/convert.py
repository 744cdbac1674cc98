"""How boxes are handed over: as floats of another type, scaled and shifted; with their axes in another order.

    values    → float32 → · scale → + offset → float16, float32         each arrow rounds once, to nearest,
    values    → float64 → · scale → + offset → float64                  ties to even, as NumPy does

`scale` and `offset` are rounded to the type they are computed in first; what is not given is left out. Every
NaN becomes the positive quiet one without payload, because processors and GPUs move payloads differently.
Where nothing is to be done to values they keep their bits, those of NaNs too.

Hosts convert each piece of a chunk while it is in cache, and take no more memory than one block of float32 a
thread. Devices gather the boxes in the array's type and convert them in one pass (kernels/convert.cu): in
place where values of both types have the same size, else from device memory beside the result. Another order
of axes costs nothing in either place: pieces land in the result through its strides.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, isfinite, prod
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuzarr.device.base import Device, DeviceBuffer, Lane
from gpuzarr.errors import ArgumentError
from gpuzarr.meta.model import ArrayMeta

if TYPE_CHECKING:  # hosts need not load it
    from gpuzarr.engine.landing import Target

DType = np.dtype[Any]

_TARGETS = ("float16", "float32", "float64")
_LISTED = ", ".join(_TARGETS)
_SOURCES = "?bhilqBHILQefd"  # dtype.char
_KINDS = {"b": 0, "u": 1, "i": 2, "f": 3}  # of kernels/convert.cu
_BLOCK = 64 << 10  # values that are converted at a time on a host
_SHARE = 4096  # values that one block of kernels/convert.cu takes
_TILE = 64 << 10  # bytes that one block of kernels/scatter.cu copies


@dataclass(frozen=True, slots=True)
class Conversion:
    """What is done to values of `source`. `scale` and `offset` are values of `computing`."""

    source: DType
    dtype: DType
    scale: float | None = None
    offset: float | None = None

    @property
    def computing(self) -> DType:
        """The type of every step but the last."""
        return np.dtype(np.float64 if self.dtype == np.float64 else np.float32)

    def put(self, target: NDArray[Any], values: Any) -> None:
        """Converted values to their place, an array of `dtype` that they are broadcast to; block by block, so
        that a block stays in cache from one step to the next."""
        blocks = -(-target.size // _BLOCK)
        with np.errstate(all="ignore"):
            if blocks <= 1:
                self._put(target, values)
                return
            values = np.broadcast_to(values, target.shape)
            axis = int(np.argmax(target.shape))
            length = -(-target.shape[axis] // blocks)
            for low in range(0, target.shape[axis], length):
                part = (slice(None),) * axis + (slice(low, low + length),)
                self._put(target[part], values[part])

    def _put(self, target: NDArray[Any], values: Any) -> None:
        computing, nans = (
            self.computing,
            self.source.kind == "f",
        )  # of integers and finite numbers comes no NaN
        if self.dtype == computing and self.scale is None and self.offset is None and not nans:
            target[...] = values
            return
        block = np.empty(target.shape, computing)  # its rows lie side by side, which steps are fast on
        block[...] = values
        if self.scale is not None:
            np.multiply(block, computing.type(self.scale), out=block)
        if self.offset is not None:
            np.add(block, computing.type(self.offset), out=block)
        if nans and (nan := np.isnan(block)).any():
            block[nan] = np.nan
        target[...] = block

    def value(self, values: NDArray[Any]) -> NDArray[Any]:
        """A converted copy."""
        converted = np.empty(values.shape, self.dtype)
        self.put(converted, values)
        return converted

    def launch(self, lane: Lane, src: DeviceBuffer, dst: DeviceBuffer, count: int) -> None:
        """`count` values side by side in device memory, converted to `dst`, which may be `src` where it is as
        large."""
        lane.launch(
            "gz_convert",
            min(-(-count // _SHARE), 1 << 20),
            256,
            src=src,
            dst=dst,
            count=count,
            kind=_KINDS[self.source.kind],
            size=self.source.itemsize,
            to=self.dtype.itemsize,
            scale=1.0 if self.scale is None else self.scale,
            offset=-0.0 if self.offset is None else self.offset,
        )


@dataclass(frozen=True, slots=True)
class Finish:
    """How one read of boxes is handed over. At place i of a box lies the array's dimension `axes[i]`."""

    meta: ArrayMeta
    axes: tuple[int, ...]
    conversion: Conversion | None = None

    @property
    def dtype(self) -> DType:
        """The result's type."""
        return self.meta.dtype if self.conversion is None else self.conversion.dtype

    @property
    def carrier(self) -> DType:
        """The type in which values move on a host."""
        return self.meta.carrier if self.conversion is None else self.conversion.dtype

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The result's, of boxes [n, *box] in the array's order."""
        return (shape[0], *(shape[1 + axis] for axis in self.axes))

    @property
    def _places(self) -> tuple[int, ...]:
        """Where each axis of [n, *box] lies in the result."""
        return (0, *(1 + place for place in np.argsort(self.axes).tolist()))

    # ---- on a host

    def straight(self, result: NDArray[Any]) -> NDArray[Any]:
        """The result as [n, *box]."""
        return result.transpose(self._places)

    def fill(self, value: NDArray[Any]) -> NDArray[Any]:
        """A value of `meta.carrier` as the result has it."""
        return value if self.conversion is None else self.conversion.value(value)

    def put(self, target: NDArray[Any], values: Any) -> None:
        """Values of a chunk to their place."""
        if self.conversion is None:
            target[...] = values
        else:
            self.conversion.put(target, values)

    # ---- on a device

    def raw(self, device: Device, out: Any) -> Any:
        """An array for the values as they are stored, in the order of the result `out`: that itself, where it
        can hold them."""
        if self.conversion is None:
            return out
        if self.dtype.itemsize == self.meta.dtype.itemsize and _contiguous(device, out):
            return out
        return device.empty_array(tuple(out.shape), self.meta.dtype)

    def target(self, target: Target) -> Target:
        """A target whose groups are in the result's order, for boxes in the array's."""
        return replace(target, strides=tuple(target.strides[place] for place in self._places))

    def convert(self, device: Device, lane: Lane, raw: Any, out: Any) -> None:
        """From `raw` to `out`, once everything has landed there; done when this returns."""
        if self.conversion is None:
            return
        count, size = prod(out.shape), self.dtype.itemsize
        src = _bytes(device, raw, count * self.meta.dtype.itemsize)
        if _contiguous(device, out):
            self.conversion.launch(lane, src, _bytes(device, out, count * size), count)
        else:
            dst = lane.empty(count * size)
            self.conversion.launch(lane, src, dst, count)
            _spread(device, lane, dst, out)
        lane.synchronize()
        lane.reset()


def _contiguous(device: Device, array: Any) -> bool:
    shape, strides = tuple(array.shape), device.memory(array)[2]
    plain = _strides(shape, array.dtype.itemsize)
    return all(n == 1 or own == there for n, own, there in zip(shape, strides, plain, strict=True))


def _strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """In C order."""
    return tuple(prod(shape[axis + 1 :]) * itemsize for axis in range(len(shape)))


def _bytes(device: Device, array: Any, nbytes: int) -> DeviceBuffer:
    """The memory of a C-contiguous array."""
    buffer, offset, _ = device.memory(array)
    return buffer.part(offset, nbytes)


def _spread(device: Device, lane: Lane, src: DeviceBuffer, out: Any) -> None:
    """Values side by side into an array of any strides."""
    buffer, base, strides = device.memory(out)
    zero = np.zeros(len(out.shape), np.int64)
    tiles = min(max(-(-src.nbytes // _TILE), 1), 1 << 20)
    lane.launch(
        "gz_scatter",
        tiles,
        256,
        src=src,
        src_offset=zero[:1],
        dst=buffer,
        dst_base=base,
        chunk_lo=zero,
        out_lo=zero,
        extent=np.array(out.shape, np.int64),
        step=zero + 1,
        src_stride=np.array(_strides(out.shape, out.dtype.itemsize), np.int64),
        dst_stride=np.array(strides, np.int64),
        table=zero - 1,
        src_points=zero[:1],
        dst_points=zero[:1],
        fill=np.zeros(1, np.uint8),
        groups=len(zero),
        itemsize=out.dtype.itemsize,
        unit=0,
        tiles=tiles,
    )


# ---- what a caller asks for


def finish_of(meta: ArrayMeta, dtype: Any, scale: Any, offset: Any, axes: Any) -> Finish:
    """What `Array.patches` takes; None is as it is. What cannot be had is an ArgumentError."""
    return Finish(meta, _order(axes, len(meta.shape)), _conversion(meta.dtype, dtype, scale, offset))


def _order(axes: Any, ndim: int) -> tuple[int, ...]:
    straight = tuple(range(ndim))
    if axes is None:
        return straight
    try:
        found = tuple(index(axis) for axis in axes)
    except TypeError:
        found = (ndim,)
    found = tuple(axis + ndim if axis < 0 else axis for axis in found)
    if tuple(sorted(found)) != straight:
        raise ArgumentError(
            f"axes={axes!r} is no order of a box's dimensions", hint=f"as they are: {straight}"
        )
    return found


def _conversion(source: DType, dtype: Any, scale: Any, offset: Any) -> Conversion | None:
    if dtype is None and scale is None and offset is None:
        return None
    target = _target(dtype)
    if source.char not in _SOURCES:
        hint = "bool, integers, float16, float32 and float64 are"
        raise ArgumentError(f"values of {source} are not converted", hint=hint)
    if target == source and scale is None and offset is None:
        return None
    plain = Conversion(source, target)
    numbers = (
        _number(name, value, plain.computing) for name, value in (("scale", scale), ("offset", offset))
    )
    return Conversion(source, target, *numbers)


def _target(dtype: Any) -> DType:
    try:
        found = np.dtype(np.float32 if dtype is None else dtype)
    except (TypeError, ValueError, SyntaxError):
        found = np.dtype(object)
    if found.name not in _TARGETS or not found.isnative:
        raise ArgumentError(f"dtype={dtype!r} is not one that values are converted to", hint=f"use {_LISTED}")
    return found


def _number(name: str, value: Any, computing: DType) -> float | None:
    """A factor or a summand, rounded to the type it is computed in."""
    if value is None:
        return None
    if not isinstance(value, (int, float, np.integer, np.floating)) or isinstance(value, bool):
        raise ArgumentError(f"{name}={value!r} is not a number")
    try:
        with np.errstate(all="ignore"):
            held = float(computing.type(value))
    except OverflowError:
        held = inf
    if not isfinite(held):
        raise ArgumentError(f"{name}={value!r} is no finite {computing}")
    if name == "scale" and value and not held:
        raise ArgumentError(f"{name}={value!r} is zero in {computing}", hint='use dtype="float64"')
    return held
