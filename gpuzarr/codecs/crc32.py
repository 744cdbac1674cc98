"""CRC-32, as in gzip and zlib, of the bytes behind it (numcodecs `crc32`). Device form: kernels/crc.cu."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.checksum import Checksum32
from gpuzarr.codecs.registry import codec


@codec("numcodecs.crc32", "crc32", v2="crc32")
@dataclass(frozen=True, slots=True)
class CRC32(Checksum32):
    """The checksum lies at the start unless `location` says otherwise."""

    kernel: ClassVar[str] = "gz_crc32"

    def checksum(self, covered: NDArray[np.uint8]) -> int:
        """CRC-32."""
        return zlib.crc32(covered)
