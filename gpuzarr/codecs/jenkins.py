"""Bob Jenkins' lookup3 hash of the bytes before it, as HDF5 checks its metadata (numcodecs
`jenkins_lookup3`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numcodecs.jenkins import jenkins_lookup3
from numpy.typing import NDArray

from gpuzarr.codecs.base import Buffer, ChunkSpec, Codec, as_bytes, check_size
from gpuzarr.codecs.registry import codec
from gpuzarr.errors import ChecksumError, ChunkError, MetadataError


@codec("numcodecs.jenkins_lookup3", "jenkins_lookup3", v2="jenkins_lookup3")
@dataclass(frozen=True, slots=True)
class JenkinsLookup3(Codec):
    """Four little-endian bytes at the end. `prefix` is hashed before the chunk, starting from `initval`."""

    initval: int = 0
    prefix: tuple[int, ...] | None = None

    @classmethod
    def from_config(cls, configuration: Mapping[str, Any]) -> Self:
        """`prefix` is a list of byte values."""
        prefix = configuration.get("prefix")
        if isinstance(prefix, list):
            configuration = {**configuration, "prefix": tuple(prefix)}
        return super(JenkinsLookup3, cls).from_config(configuration)

    def __post_init__(self) -> None:
        if type(self.initval) is not int or not 0 <= self.initval < 2**32:
            raise MetadataError(f"initval {self.initval!r} is not a uint32", codec="jenkins_lookup3")
        if self.prefix is not None and not (
            isinstance(self.prefix, tuple)
            and all(type(byte) is int and 0 <= byte < 256 for byte in self.prefix)
        ):
            raise MetadataError(f"prefix {self.prefix!r} is not a list of bytes", codec="jenkins_lookup3")

    def to_config(self) -> dict[str, Any]:
        """The prefix as a list."""
        return {"initval": self.initval, "prefix": None if self.prefix is None else list(self.prefix)}

    def checksum(self, covered: NDArray[np.uint8]) -> int:
        """The hash, unsigned."""
        if self.prefix:
            covered = np.concatenate((np.array(self.prefix, np.uint8), covered))
        return int(jenkins_lookup3(covered, self.initval)) & 0xFFFFFFFF

    def encoded(self, decoded: ChunkSpec) -> ChunkSpec:
        """Four bytes more."""
        return decoded.opaque(None if decoded.nbytes is None else decoded.nbytes + 4)

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """The covered bytes, without copying them."""
        stored = as_bytes(chunk)
        if stored.nbytes < 4:
            raise ChunkError(f"{stored.nbytes} bytes cannot hold a 32-bit checksum")
        check_size(stored.nbytes - 4, decoded)
        expected, computed = int.from_bytes(stored[-4:].tobytes(), "little"), self.checksum(stored[:-4])
        if expected != computed:
            raise ChecksumError(f"jenkins_lookup3 is {computed:08x} where {expected:08x} is stored")
        return stored[:-4]

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """The bytes with their checksum."""
        covered = as_bytes(chunk)
        return np.concatenate(
            (covered, np.frombuffer(self.checksum(covered).to_bytes(4, "little"), np.uint8))
        )
