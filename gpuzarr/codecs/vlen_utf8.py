"""Strings of any length, each as UTF-8 behind its length (Zarr v3 codec `vlen-utf8`; numcodecs `vlen-utf8`).

uint32 number of strings · for each: uint32 length in bytes, bytes
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Final

import numpy as np
from numcodecs.vlen import VLenUTF8 as Numcodecs
from numpy.typing import NDArray

from gpuzarr.codecs.base import Buffer, ChunkSpec, Codec, Kind, as_array, as_bytes
from gpuzarr.codecs.registry import codec
from gpuzarr.errors import ChunkError, MetadataError

_UINT32: Final = struct.Struct("<I")
_VLEN_UTF8: Final = Numcodecs()


@codec("vlen-utf8", "numcodecs.vlen-utf8", v2="vlen-utf8")
@dataclass(frozen=True, slots=True)
class VLenUTF8(Codec):
    """It has no options. Missing values (None) are stored as empty strings."""

    kind: ClassVar[Kind] = "serializer"

    def encoded(self, decoded: ChunkSpec) -> ChunkSpec:
        """Bytes, as many as the strings take."""
        return vlen_spec(decoded, "vlen-utf8")

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """An object array of `str`."""
        stored = check_count(chunk, decoded)
        try:
            strings: NDArray[np.object_] = _VLEN_UTF8.decode(stored)
        except ValueError as error:  # what is not UTF-8 is one, too
            raise ChunkError(f"damaged strings: {error}") from error
        check_end(stored, len("".join(strings).encode()), strings.size)
        return strings.reshape(decoded.shape)

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """In C order."""
        stored: Buffer = _VLEN_UTF8.encode(np.ascontiguousarray(as_array(chunk, decoded)))
        return stored


def vlen_spec(decoded: ChunkSpec, name: str) -> ChunkSpec:
    """What object values of any length encode to."""
    if decoded.dtype.kind not in "OT":
        raise MetadataError(
            f"{decoded.dtype} values all have one length", codec=name, hint="use bytes instead"
        )
    return decoded.opaque(None)


def check_count(chunk: Buffer, decoded: ChunkSpec) -> NDArray[np.uint8]:
    """The bytes of a chunk that says to hold as many values as `decoded` has and could hold that many.
    numcodecs makes room for as many as a chunk says."""
    stored, expected = as_bytes(chunk), prod(decoded.shape)
    if stored.nbytes < 4:
        raise ChunkError(f"{stored.nbytes} bytes cannot hold a number of values")
    count = _UINT32.unpack_from(stored)[0]
    if count != expected:
        raise ChunkError(f"{count} values where the metadata promises {expected}")
    if stored.nbytes < 4 + 4 * count:
        raise ChunkError(f"{stored.nbytes} bytes cannot hold {count} values")
    return stored


def check_end(stored: NDArray[np.uint8], nbytes: int, count: int) -> None:
    """Raise unless `count` values of `nbytes` bytes together are all that is there: a wrong length leaves a
    rest."""
    rest = stored.nbytes - 4 - 4 * count - nbytes
    if rest:
        raise ChunkError(f"{rest} bytes lie behind the last value")
