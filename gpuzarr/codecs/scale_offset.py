"""Values less an offset, times a scale, in the arithmetic of their own type (zarr-extensions `scale_offset`).

    stored = (value - offset) * scale        value = stored / scale + offset

Integers are exact: a result that does not fit the type, or a division with a remainder, is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.base import Buffer, ChunkSpec, Codec, Kind, as_array
from gpuzarr.codecs.registry import codec
from gpuzarr.errors import ArgumentError, ChunkError, MetadataError


@codec("scale_offset")
@dataclass(frozen=True, slots=True)
class ScaleOffset(Codec):
    """`offset` and `scale` are spelled as fill values of the array's type are: numbers, or strings such as
    `NaN`."""

    offset: int | float | str = 0
    scale: int | float | str = 1
    kind: ClassVar[Kind] = "array"
    elementwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for number in (self.offset, self.scale):
            if type(number) not in (int, float, str):
                raise MetadataError(f"{number!r} is not a number", codec="scale_offset")

    def encoded(self, decoded: ChunkSpec) -> ChunkSpec:
        """Values of the same type."""
        self._numbers(decoded.dtype)
        return decoded

    def _numbers(self, dtype: np.dtype[Any]) -> tuple[Any, Any]:
        """The offset and the scale: Python integers for integers, NumPy scalars of the type for floats."""
        if dtype.kind not in "iuf":
            raise MetadataError(f"{dtype} values have no scale", codec="scale_offset")
        offset, scale = (parse_number(number, dtype, "scale_offset") for number in (self.offset, self.scale))
        if not scale:
            raise MetadataError("scale is zero", codec="scale_offset")
        return offset, scale

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """Divide, add."""
        values, (offset, scale) = _native(chunk, decoded), self._numbers(decoded.dtype)
        if decoded.dtype.kind == "f":
            with np.errstate(all="ignore"):
                quotients: NDArray[Any] = values / scale + offset
            return quotients.astype(decoded.dtype, copy=False)
        bounds = [end // scale for end in _range(values.dtype)]
        ends = [*bounds, *(end + offset for end in bounds)]
        values = _widened(values, ends, scale, offset)
        if np.any(values % scale):
            raise ChunkError(f"values are not multiples of the scale {scale}")
        return _fitted(values // scale + offset, decoded.dtype, ChunkError)

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """Subtract, multiply."""
        values, (offset, scale) = _native(chunk, decoded), self._numbers(decoded.dtype)
        if decoded.dtype.kind == "f":
            with np.errstate(all="ignore"):
                products: NDArray[Any] = (values - offset) * scale
            return products.astype(decoded.dtype, copy=False)
        low, high = _range(values.dtype)
        ends = [low - offset, high - offset, (low - offset) * scale, (high - offset) * scale]
        values = _widened(values, ends, scale, offset)
        return _fitted((values - offset) * scale, decoded.dtype, ArgumentError)


def parse_number(number: object, dtype: np.dtype[Any], name: str) -> Any:
    """A number spelled as a fill value of `dtype`: a Python integer for integers, a NumPy scalar for
    floats."""
    try:
        if dtype.kind in "iu":
            whole = int(number) if isinstance(number, int | float | str) else None
            if whole is None or (isinstance(number, float) and whole != number):
                raise ValueError("not a whole number")
            if not np.iinfo(dtype).min <= whole <= np.iinfo(dtype).max:
                raise ValueError("out of range")
            return whole
        native = dtype.newbyteorder("=")
        if isinstance(number, str) and number.startswith("0x"):
            return np.array(int(number, 16), f"u{native.itemsize}").view(native)[()]
        if not isinstance(number, int | float) and number not in ("NaN", "Infinity", "-Infinity"):
            float(str(number))
        with np.errstate(all="ignore"):
            return native.type(float(number))  # type: ignore[arg-type]
    except (ValueError, OverflowError, TypeError) as error:
        raise MetadataError(f"{number!r} is not a {dtype} value: {error}", codec=name) from error


def _native(chunk: Buffer, decoded: ChunkSpec) -> NDArray[Any]:
    values = as_array(chunk, decoded)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _range(dtype: np.dtype[Any]) -> tuple[int, int]:
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


def _widened(values: NDArray[Any], results: list[int], *operands: int) -> NDArray[Any]:
    """The values in a type that holds every result: their own, int64, or Python's integers."""
    for dtype in (values.dtype, np.dtype(np.int64)):
        low, high = _range(dtype)
        if all(low <= number <= high for number in (*_range(values.dtype), *results, *operands)):
            return values.astype(dtype, copy=False)
    return values.astype(object)


def _fitted(
    results: NDArray[Any], dtype: np.dtype[Any], fault: type[ArgumentError | ChunkError]
) -> NDArray[Any]:
    """The results as `dtype`, which must hold them."""
    low, high = _range(dtype)
    if results.size and (results.min() < low or results.max() > high):
        raise fault(
            f"results from {results.min()} to {results.max()} do not fit {dtype}", codec="scale_offset"
        )
    return results.astype(dtype)
