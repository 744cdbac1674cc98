"""CRC-32C (Castagnoli) of the bytes before it (Zarr v3 core codec `crc32c`; RFC 3720). Device form:
kernels/crc.cu."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.base import ChunkSpec, Encoded, pack
from gpuzarr.codecs.checksum import THREADS, Checksum32, Location
from gpuzarr.codecs.registry import codec
from gpuzarr.device.base import Lane


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

    def encode_host_only(self, decoded: ChunkSpec) -> str | None:
        """The device appends."""
        return "a checksum at the start" if self.at_start else None

    def encode_bound(self, nbytes: int) -> int:
        """Four bytes more."""
        return nbytes + 4

    def encode_batch(self, batch: Encoded, decoded: ChunkSpec, lane: Lane) -> Encoded:
        """Device form: kernels/crc.cu. Chunks stay where they are, if there is room behind them."""
        limit = batch.limit + 4
        sizes = lane.empty(8 * len(batch))
        if batch.pitch >= limit:
            out = replace(batch, nbytes=sizes, limit=limit)
        else:
            out = Encoded.room(lane, limit, len(batch), sizes)
            pack(lane, batch.data, batch.offset, batch.nbytes, out.data, out.offset, batch.limit)
        lane.launch(
            "gz_crc32c_append",
            len(batch),
            THREADS,
            data=out.data,
            pitch=out.pitch,
            nbytes=batch.nbytes,
            total=out.nbytes,
        )
        return out
