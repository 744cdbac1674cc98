"""Numbers with their low bits rounded away, so that they compress (zarr-extensions `bitround`; numcodecs
`bitround`).

Floats keep `keepbits` bits of the mantissa; integers keep `keepbits` bits from the highest set one, their
sign bit counted as one. Ties go to even. Decoding changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.base import Batch, Buffer, ChunkSpec, Codec, Kind, as_array, unchanged
from gpuzarr.codecs.registry import codec
from gpuzarr.device.base import Lane
from gpuzarr.errors import MetadataError

MANTISSA: Final = {
    "float16": 10,
    "float32": 23,
    "float64": 52,
    "bfloat16": 7,
    "complex64": 23,
    "complex128": 52,
}


@codec("bitround", "numcodecs.bitround", v2="bitround")
@dataclass(frozen=True, slots=True)
class BitRound(Codec):
    """`keepbits` of at least as many bits as there are changes nothing."""

    keepbits: int
    kind: ClassVar[Kind] = "array"
    elementwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if type(self.keepbits) is not int or self.keepbits < 0:
            raise MetadataError(f"keepbits {self.keepbits!r} is not a number of bits", codec="bitround")

    def encoded(self, decoded: ChunkSpec) -> ChunkSpec:
        """Values of the same type."""
        if decoded.dtype.kind not in "iumM" and decoded.dtype.name not in MANTISSA:
            raise MetadataError(f"{decoded.dtype} values have no bits to round", codec="bitround")
        return decoded

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """The values as they are."""
        return as_array(chunk, decoded)

    def host_only(self, decoded: ChunkSpec) -> str | None:
        """Nothing is to be done on the device."""
        return "size known only from the stream" if decoded.nbytes is None else None

    def decode_batch(self, batch: Batch, decoded: ChunkSpec, lane: Lane) -> Batch:
        """The values as they are."""
        return unchanged(batch, decoded)

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """Round."""
        values = as_array(chunk, self.encoded(decoded))
        native = values.astype(values.dtype.newbyteorder("="), copy=False)
        width = native.dtype.itemsize // (2 if native.dtype.kind == "c" else 1)
        bits = native.reshape(-1).view(f"u{width}")
        mantissa = MANTISSA.get(native.dtype.name)
        rounded = (
            _round_floats(bits, mantissa - self.keepbits)
            if mantissa
            else _round_integers(bits, self.keepbits)
        )
        return rounded.view(native.dtype).reshape(native.shape).astype(values.dtype, copy=False)


def _round_floats(bits: NDArray[Any], drop: int) -> NDArray[Any]:
    """Drop the lowest bits, wrapping as numcodecs does where rounding runs over the exponent and the sign."""
    if drop <= 0:
        return bits
    one = bits.dtype.type(1)
    half = bits.dtype.type((1 << (drop - 1)) - 1)
    rounded: NDArray[Any] = (bits + ((bits >> drop) & one) + half) >> drop << drop
    return rounded


def _round_integers(bits: NDArray[Any], keep: int) -> NDArray[Any]:
    """Keep bits from the highest set one on; what would round past the largest value stays below it."""
    highest = np.zeros(bits.shape, np.uint8)  # the number of bits that each value takes
    for shift in (32, 16, 8, 4, 2, 1):
        if shift < 8 * bits.itemsize:
            above = bits >> highest.astype(bits.dtype) >> bits.dtype.type(shift)
            highest += np.where(above != 0, shift, 0).astype(np.uint8)
    highest += bits != 0
    drop = np.clip(highest.astype(np.int16) - keep, 0, 8 * bits.itemsize - 1).astype(bits.dtype)
    lowest = np.maximum(drop, 1) - bits.dtype.type(1)
    half = (bits.dtype.type(1) << lowest) - bits.dtype.type(1)
    added = half + ((bits >> drop) & bits.dtype.type(1))
    largest = np.iinfo(bits.dtype).max
    rounded = np.where(bits > largest - added, largest, bits + added) >> drop << drop
    return np.where(drop == 0, bits, rounded).astype(bits.dtype)
