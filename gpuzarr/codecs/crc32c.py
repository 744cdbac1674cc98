"""CRC-32C (Castagnoli) of the bytes before it (Zarr v3 core codec `crc32c`; RFC 3720). Device form:
kernels/crc.cu."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.checksum import Checksum32, Location
from gpuzarr.codecs.registry import codec


@codec("crc32c", "numcodecs.crc32c", v2="crc32c")
@dataclass(frozen=True, slots=True)
class CRC32C(Checksum32):
    """The checksum lies at the end unless `location` says otherwise."""

    kernel: ClassVar[str] = "gz_crc32c"
    location: Location = "end"

    def to_document(self, zarr_format: int, dtype: np.dtype[Any]) -> dict[str, Any]:
        """At the end it needs no words."""
        return {} if self.location == "end" and zarr_format == 3 else {"location": self.location}

    def checksum(self, covered: NDArray[np.uint8]) -> int:
        """CRC-32C."""
        return int(google_crc32c.value(covered))
