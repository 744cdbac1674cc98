"""HDF5's Fletcher checksum of the bytes before it (numcodecs `fletcher32`; HDF5 filter 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numcodecs.fletcher32 import Fletcher32 as Numcodecs
from numpy.typing import NDArray

from gpuzarr.codecs.base import Buffer, ChunkSpec, Codec, as_bytes, check_size
from gpuzarr.codecs.registry import codec
from gpuzarr.errors import ChecksumError, ChunkError

_FLETCHER32 = Numcodecs()


@codec("numcodecs.fletcher32", "fletcher32", v2="fletcher32")
@dataclass(frozen=True, slots=True)
class Fletcher32(Codec):
    """Four little-endian bytes at the end. It has no options."""

    def encoded(self, decoded: ChunkSpec) -> ChunkSpec:
        """Four bytes more."""
        return decoded.opaque(None if decoded.nbytes is None else decoded.nbytes + 4)

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """The covered bytes, without copying them."""
        stored = as_bytes(chunk)
        if stored.nbytes < 4:
            raise ChunkError(f"{stored.nbytes} bytes cannot hold a 32-bit checksum")
        check_size(stored.nbytes - 4, decoded)
        if stored.nbytes == 4:  # numcodecs knows no checksum of nothing; the sum is zero
            if stored.any():
                raise ChecksumError("fletcher32 of no bytes is not zero")
            return stored[:0]
        try:
            _FLETCHER32.decode(stored)
        except RuntimeError as error:
            raise ChecksumError(f"fletcher32 does not match: {error}") from error
        return stored[:-4]

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """The bytes with their checksum."""
        covered = as_bytes(chunk)
        stored: Buffer = _FLETCHER32.encode(covered) if covered.nbytes else bytes(4)
        return stored
