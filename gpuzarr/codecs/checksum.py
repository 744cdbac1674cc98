"""What the 32-bit checksums share: four little-endian bytes before or behind the bytes they cover."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.base import Buffer, ChunkSpec, Codec, as_bytes, check_size
from gpuzarr.errors import ChecksumError, ChunkError, MetadataError

Location = Literal["start", "end"]


@dataclass(frozen=True, slots=True)
class Checksum32(Codec):
    """Subclasses give `checksum` and set where it lies by default."""

    location: Location = "start"

    @classmethod
    def from_config(cls, configuration: Mapping[str, Any]) -> Self:
        """Refuses any location but `start` and `end`."""
        if configuration.get("location", "start") not in ("start", "end"):
            raise MetadataError(
                f"location {configuration['location']!r} is neither start nor end", codec=cls.name
            )
        return super(Checksum32, cls).from_config(configuration)

    @abstractmethod
    def checksum(self, covered: NDArray[np.uint8]) -> int:
        """The checksum of `covered`, unsigned."""

    def encoded(self, decoded: ChunkSpec) -> ChunkSpec:
        """Four bytes more."""
        return decoded.opaque(None if decoded.nbytes is None else decoded.nbytes + 4)

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """The covered bytes, without copying them."""
        stored = as_bytes(chunk)
        if stored.nbytes < 4:
            raise ChunkError(f"{stored.nbytes} bytes cannot hold a 32-bit checksum")
        check_size(stored.nbytes - 4, decoded)
        at_start = self.location == "start"
        covered, tail = (stored[4:], stored[:4]) if at_start else (stored[:-4], stored[-4:])
        expected, computed = int.from_bytes(tail.tobytes(), "little"), self.checksum(covered)
        if expected != computed:
            raise ChecksumError(f"{self.name} is {computed:08x} where {expected:08x} is stored")
        return covered

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """The bytes with their checksum."""
        covered = as_bytes(chunk)
        tail = np.frombuffer(self.checksum(covered).to_bytes(4, "little"), np.uint8)
        return np.concatenate((tail, covered) if self.location == "start" else (covered, tail))
