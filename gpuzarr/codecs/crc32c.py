"""CRC-32C (Castagnoli) of the bytes before it (Zarr v3 core codec `crc32c`; RFC 3720). Device form:
kernels/crc32c.cu."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.base import Batch, ChunkSpec
from gpuzarr.codecs.checksum import Checksum32, Location
from gpuzarr.codecs.registry import codec
from gpuzarr.device.base import Lane


@codec("crc32c", "numcodecs.crc32c", v2="crc32c")
@dataclass(frozen=True, slots=True)
class CRC32C(Checksum32):
    """The checksum lies at the end unless `location` says otherwise."""

    location: Location = "end"
    trailer: ClassVar[int | None] = 4

    def checksum(self, covered: NDArray[np.uint8]) -> int:
        """CRC-32C."""
        return int(google_crc32c.value(covered))

    def host_only(self, decoded: ChunkSpec) -> str | None:
        """The device verifies a checksum at the end."""
        return None if self.location == "end" else "checksum at the start"

    def decode_batch(self, batch: Batch, decoded: ChunkSpec, lane: Lane) -> Batch:
        """The covered bytes, where they are; a mismatch is reported through the lane."""
        covered = batch.nbytes - 4
        fault = lane.faults(len(batch), self.name, "checksum does not match")
        lane.launch(
            "gz_crc32c", len(batch), 256, src=batch.data, offset=batch.offset, nbytes=covered, fault=fault
        )
        return Batch(batch.data, batch.offset, covered)
