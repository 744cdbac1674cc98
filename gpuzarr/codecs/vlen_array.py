"""One-dimensional arrays of any length, each behind its size (numcodecs `vlen-array`).

uint32 number of arrays · for each: uint32 size in bytes, values
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numcodecs.vlen import VLenArray as Numcodecs
from numpy.typing import NDArray

from gpuzarr.codecs.astype import parse_dtype
from gpuzarr.codecs.base import Buffer, ChunkSpec, Codec, Kind, as_array
from gpuzarr.codecs.registry import codec
from gpuzarr.codecs.vlen_utf8 import check_count, check_end, vlen_spec
from gpuzarr.errors import ChunkError


@codec("numcodecs.vlen-array", "vlen-array", v2="vlen-array")
@dataclass(frozen=True, slots=True)
class VLenArray(Codec):
    """`dtype` is the type of the arrays' values. Missing arrays (None) are stored as empty ones."""

    dtype: str
    kind: ClassVar[Kind] = "serializer"

    def __post_init__(self) -> None:
        parse_dtype(self.dtype, "vlen-array")

    def encoded(self, decoded: ChunkSpec) -> ChunkSpec:
        """Bytes, as many as the arrays take."""
        return vlen_spec(decoded, "vlen-array")

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """An object array of arrays."""
        stored = check_count(chunk, decoded)
        try:
            arrays: NDArray[np.object_] = Numcodecs(self.dtype).decode(stored)
        except ValueError as error:  # a size that is no multiple of the item size is one, too
            raise ChunkError(f"damaged arrays: {error}") from error
        check_end(stored, sum(array.nbytes for array in arrays), arrays.size)
        return arrays.reshape(decoded.shape)

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """In C order."""
        stored: Buffer = Numcodecs(self.dtype).encode(np.ascontiguousarray(as_array(chunk, decoded)))
        return stored
