"""Byte strings of any length, each behind its length (Zarr v3 codec `vlen-bytes`; numcodecs `vlen-bytes`).

uint32 number of strings · for each: uint32 length, bytes
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numcodecs.vlen import VLenBytes as Numcodecs
from numpy.typing import NDArray

from gpuzarr.codecs.base import Buffer, ChunkSpec, Codec, Kind, as_array
from gpuzarr.codecs.registry import codec
from gpuzarr.codecs.vlen_utf8 import check_count, check_end, vlen_spec
from gpuzarr.errors import ChunkError

_VLEN_BYTES: Final = Numcodecs()


@codec("vlen-bytes", "numcodecs.vlen-bytes", v2="vlen-bytes")
@dataclass(frozen=True, slots=True)
class VLenBytes(Codec):
    """It has no options. Missing values (None) are stored as empty strings."""

    kind: ClassVar[Kind] = "serializer"

    def encoded(self, decoded: ChunkSpec) -> ChunkSpec:
        """Bytes, as many as the strings take."""
        return vlen_spec(decoded, "vlen-bytes")

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """An object array of `bytes`."""
        stored = check_count(chunk, decoded)
        try:
            strings: NDArray[np.object_] = _VLEN_BYTES.decode(stored)
        except ValueError as error:
            raise ChunkError(f"damaged byte strings: {error}") from error
        check_end(stored, sum(map(len, strings)), strings.size)
        return strings.reshape(decoded.shape)

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """In C order."""
        stored: Buffer = _VLEN_BYTES.encode(np.ascontiguousarray(as_array(chunk, decoded)))
        return stored
