"""Adler-32, as in zlib, of the bytes behind it (numcodecs `adler32`). Device form: kernels/adler32.cu."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.checksum import Checksum32
from gpuzarr.codecs.registry import codec


@codec("numcodecs.adler32", "adler32", v2="adler32")
@dataclass(frozen=True, slots=True)
class Adler32(Checksum32):
    """The checksum lies at the start unless `location` says otherwise."""

    kernel: ClassVar[str] = "gz_adler32"
    parameters: ClassVar[Mapping[str, int]] = {"big": 0}

    def checksum(self, covered: NDArray[np.uint8]) -> int:
        """Adler-32."""
        return zlib.adler32(covered)
