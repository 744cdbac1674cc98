"""CRC-32, as in gzip and zlib, of the bytes behind it (numcodecs `crc32`)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.checksum import Checksum32
from gpuzarr.codecs.registry import codec


@codec("numcodecs.crc32", "crc32", v2="crc32")
@dataclass(frozen=True, slots=True)
class CRC32(Checksum32):
    """The checksum lies at the start unless `location` says otherwise."""

    def checksum(self, covered: NDArray[np.uint8]) -> int:
        """CRC-32."""
        return zlib.crc32(covered)
