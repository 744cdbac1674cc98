"""Floats as scaled integers (numcodecs `fixedscaleoffset`). Device form: kernels/fixedscaleoffset.cu."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Any, ClassVar

import numpy as np
from numcodecs.fixedscaleoffset import FixedScaleOffset as Reference
from numpy.typing import NDArray

from gpuzarr.codecs.base import Batch, Buffer, ChunkSpec, Codec, Kind, as_array, check_size, even
from gpuzarr.codecs.delta import is_little, number_type, numcodecs_errors, stored_as
from gpuzarr.codecs.registry import codec
from gpuzarr.device.base import Lane

_TILE_ITEMS = 16 << 10
_EXACT = 1 << 53  # whole numbers up to here are float64 values


@codec("numcodecs.fixedscaleoffset", v2="fixedscaleoffset")
@dataclass(frozen=True, slots=True)
class FixedScaleOffset(Codec):
    """Stored is `(value - offset) * scale` rounded to `astype`, decoded `stored / scale + offset` as `dtype`.

    No dtype: that of the array. No astype: the same as dtype.
    """

    offset: int | float
    scale: int | float
    dtype: str | None = None
    astype: str | None = None
    kind: ClassVar[Kind] = "array"
    elementwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for number in (self.offset, self.scale):
            if type(number) not in (int, float):
                raise ValueError(f"{number!r} is not a number")
        for name in (self.dtype, self.astype):
            if name is not None:
                number_type(name)

    def to_config(self) -> dict[str, Any]:
        """What was given."""
        given = {"offset": self.offset, "scale": self.scale, "dtype": self.dtype, "astype": self.astype}
        return {key: value for key, value in given.items() if value is not None}

    def encoded(self, decoded: ChunkSpec) -> ChunkSpec:
        """As many values of another type."""
        return stored_as(decoded, self.dtype, self.astype)[1]

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """A division and a sum, in the types that NumPy chooses."""
        plain, stored = stored_as(decoded, self.dtype, self.astype)
        with numcodecs_errors(self.name):
            result: Buffer = self._reference(plain, stored).decode(as_array(chunk, stored))
        return result

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """Rounded to the nearest whole number, ties to even."""
        plain, stored = stored_as(decoded, self.dtype, self.astype)
        with numcodecs_errors(self.name):
            result: Buffer = self._reference(plain, stored).encode(as_array(chunk, plain))
        return result

    def _reference(self, plain: ChunkSpec, stored: ChunkSpec) -> Any:
        return Reference(self.offset, self.scale, plain.dtype, stored.dtype)

    def host_only(self, decoded: ChunkSpec) -> str | None:
        """The device scales integers to floats: NumPy computes that in float64, and no NaN can come of it."""
        plain, stored = stored_as(decoded, self.dtype, self.astype)
        if decoded.nbytes is None:
            return "size known only from the stream"
        if not all(is_little(spec.dtype) for spec in (plain, stored)):
            return "big-endian values"
        if stored.dtype.kind not in "iu" or plain.dtype.char not in "fd":
            return f"{stored.dtype} scaled to {plain.dtype}"
        for number in (self.offset, self.scale):
            if not (abs(number) <= _EXACT if isinstance(number, int) else isfinite(number)):
                return f"{number} is not exact in float64"
        return None if self.scale else "division by zero"

    def decode_batch(self, batch: Batch, decoded: ChunkSpec, lane: Lane) -> Batch:
        """Device form: kernels/fixedscaleoffset.cu."""
        plain, stored = stored_as(decoded, self.dtype, self.astype)
        for nbytes in np.unique(batch.nbytes).tolist():
            check_size(nbytes, stored)
        size, items = plain.dtype.itemsize, (plain.nbytes or 0) // plain.dtype.itemsize
        out = lane.empty(len(batch) * items * size)
        tiles = max(-(-items // _TILE_ITEMS), 1)
        lane.launch(
            "gz_fixedscaleoffset",
            len(batch) * tiles,
            256,
            src=batch.data,
            offset=batch.offset,
            dst=out,
            items=items,
            stored_size=stored.dtype.itemsize,
            is_signed=int(stored.dtype.kind == "i"),
            size=size,
            scale=float(self.scale),
            shift=float(self.offset),
            tiles=tiles,
        )
        return even(out, items * size, len(batch))
