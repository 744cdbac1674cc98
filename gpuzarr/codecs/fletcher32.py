"""HDF5's Fletcher checksum of the bytes before it (numcodecs `fletcher32`; HDF5 filter 3). Device form:
kernels/fletcher32.cu."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numcodecs.fletcher32 import Fletcher32 as Numcodecs
from numpy.typing import NDArray

from gpuzarr.codecs.base import Buffer, ChunkSpec, as_bytes, check_size
from gpuzarr.codecs.checksum import Verified
from gpuzarr.codecs.registry import codec
from gpuzarr.errors import ChecksumError

_FLETCHER32 = Numcodecs()


@codec("numcodecs.fletcher32", "fletcher32", v2="fletcher32")
@dataclass(frozen=True, slots=True)
class Fletcher32(Verified):
    """It has no options."""

    kernel: ClassVar[str] = "gz_fletcher32"

    def checksum(self, covered: NDArray[np.uint8]) -> int:
        """numcodecs knows no checksum of nothing; the sum is zero."""
        if not covered.nbytes:
            return 0
        return int.from_bytes(as_bytes(_FLETCHER32.encode(covered))[-4:].tobytes(), "little")

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """The covered bytes; numcodecs sums them where they are."""
        stored = as_bytes(chunk)
        if stored.nbytes <= 4:
            return super(Fletcher32, self).decode(stored, decoded, out)
        check_size(stored.nbytes - 4, decoded)
        try:
            _FLETCHER32.decode(stored)
        except RuntimeError as error:
            raise ChecksumError(f"fletcher32 does not match: {error}") from error
        return stored[:-4]
