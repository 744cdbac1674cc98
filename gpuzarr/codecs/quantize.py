"""Floats rounded to a number of decimal digits, so that they compress (numcodecs `quantize`). Decoding only
casts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numcodecs.quantize import Quantize as Numcodecs
from numpy.typing import NDArray

from gpuzarr.codecs.astype import parse_dtype, retyped
from gpuzarr.codecs.base import Batch, Buffer, ChunkSpec, Codec, Kind, as_array, unchanged
from gpuzarr.codecs.registry import codec
from gpuzarr.device.base import Lane
from gpuzarr.errors import MetadataError


@codec("numcodecs.quantize", "quantize", v2="quantize")
@dataclass(frozen=True, slots=True)
class Quantize(Codec):
    """`dtype`, where None, is the type of what is encoded, and `astype`, where None, is `dtype`."""

    digits: int
    dtype: str | None = None
    astype: str | None = None
    kind: ClassVar[Kind] = "array"
    elementwise: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if type(self.digits) is not int or abs(self.digits) > 300:
            raise MetadataError(f"digits {self.digits!r} is not a number of digits", codec="quantize")
        for text in (self.dtype, self.astype):
            if text is not None:
                parse_dtype(text, "quantize", "f")

    def _plain(self, decoded: ChunkSpec) -> ChunkSpec:
        if self.dtype is not None and decoded.dtype != np.dtype(self.dtype):
            return retyped(decoded, np.dtype(self.dtype), "quantize")
        if decoded.dtype.kind != "f":
            raise MetadataError(f"only floats are quantized, not {decoded.dtype}", codec="quantize")
        return decoded

    def encoded(self, decoded: ChunkSpec) -> ChunkSpec:
        """As many values of `astype`."""
        plain = self._plain(decoded)
        return plain if self.astype is None else plain.typed(np.dtype(self.astype))

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """Cast back; what was rounded stays rounded."""
        with np.errstate(all="ignore"):
            return as_array(chunk, self.encoded(decoded)).astype(self._plain(decoded).dtype, copy=False)

    def host_only(self, decoded: ChunkSpec) -> str | None:
        """Nothing is to be done on the device, unless the values are stored as another type."""
        plain, stored = self._plain(decoded), self.encoded(decoded)
        if decoded.nbytes is None:
            return "size known only from the stream"
        return None if plain.dtype == stored.dtype else f"{stored.dtype} cast to {plain.dtype}"

    def decode_batch(self, batch: Batch, decoded: ChunkSpec, lane: Lane) -> Batch:
        """The values as they are."""
        return unchanged(batch, decoded)

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """Round."""
        plain = self._plain(decoded)
        rounding = Numcodecs(self.digits, plain.dtype, self.encoded(decoded).dtype)
        with np.errstate(all="ignore"):
            stored: Buffer = rounding.encode(as_array(chunk, plain))
        return stored
