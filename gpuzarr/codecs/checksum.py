"""What the 32-bit checksums share: four little-endian bytes before or behind the bytes they cover.

A device form is a kernel that compares many checksums with what they cover. Nothing moves: a decoded chunk is
the covered bytes, where they are. See kernels/crc.cu.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.base import Batch, Buffer, ChunkSpec, Codec, as_bytes, check_size
from gpuzarr.device.base import Lane
from gpuzarr.errors import ChecksumError, ChunkError, MetadataError

Location = Literal["start", "end"]

THREADS = 256  # what kernels/crc.cu is made for


@dataclass(frozen=True, slots=True)
class Checksum(Codec):
    """A checksum behind the bytes it covers. Subclasses give `checksum`."""

    @property
    def at_start(self) -> bool:
        """The checksum lies before the bytes it covers."""
        return False

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
        covered, tail = (stored[4:], stored[:4]) if self.at_start else (stored[:-4], stored[-4:])
        expected, computed = int.from_bytes(tail.tobytes(), "little"), self.checksum(covered)
        if expected != computed:
            raise ChecksumError(f"{self.name} is {computed:08x} where {expected:08x} is stored")
        return covered

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """The bytes with their checksum."""
        covered = as_bytes(chunk)
        tail = np.frombuffer(self.checksum(covered).to_bytes(4, "little"), np.uint8)
        return np.concatenate((tail, covered) if self.at_start else (covered, tail))


@dataclass(frozen=True, slots=True)
class Verified(Checksum):
    """A checksum with a device form. Subclasses name the kernel that verifies it."""

    kernel: ClassVar[str] = ""
    parameters: ClassVar[Mapping[str, int]] = {}
    """Of the kernel, besides those that all have."""

    @property
    def trailer(self) -> int | None:
        """The checksum, unless it lies before the others."""
        return None if self.at_start else 4

    def host_only(self, decoded: ChunkSpec) -> str | None:
        """The device takes all chunks."""
        return None

    def decode_batch(self, batch: Batch, decoded: ChunkSpec, lane: Lane) -> Batch:
        """The covered bytes, where they are. What is too short for a checksum is a fault, and empty."""
        covered = batch.nbytes - 4
        if decoded.nbytes is not None:
            for nbytes in np.unique(covered).tolist():
                check_size(nbytes, decoded)
        offset = batch.offset + 4 if self.at_start else batch.offset
        lane.launch(
            *(self.kernel, len(batch), THREADS),
            src=batch.data,
            offset=offset,
            nbytes=covered,
            stored=batch.data,
            stored_offset=batch.offset if self.at_start else batch.offset + np.maximum(covered, 0),
            owner=np.arange(len(batch), dtype=np.int32),
            fault=lane.faults(len(batch)),
            **self.parameters,
        )
        return Batch(batch.data, offset, np.maximum(covered, 0))


@dataclass(frozen=True, slots=True)
class Checksum32(Verified):
    """A checksum that lies where `location` says. Subclasses set where it lies by default."""

    location: Location = "start"

    @classmethod
    def from_config(cls, configuration: Mapping[str, Any]) -> Self:
        """Refuses any location but `start` and `end`."""
        if configuration.get("location", "start") not in ("start", "end"):
            raise MetadataError(
                f"location {configuration['location']!r} is neither start nor end", codec=cls.name
            )
        return super(Checksum32, cls).from_config(configuration)

    @property
    def at_start(self) -> bool:
        """As `location` says."""
        return self.location == "start"
