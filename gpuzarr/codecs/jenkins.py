"""Bob Jenkins' lookup3 hash of the bytes before it, as HDF5 checks its metadata (numcodecs
`jenkins_lookup3`). Each step needs the one before, so it has no device form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numcodecs.jenkins import jenkins_lookup3
from numpy.typing import NDArray

from gpuzarr.codecs.checksum import Checksum
from gpuzarr.codecs.registry import codec
from gpuzarr.errors import MetadataError


@codec("numcodecs.jenkins_lookup3", "jenkins_lookup3", v2="jenkins_lookup3")
@dataclass(frozen=True, slots=True)
class JenkinsLookup3(Checksum):
    """`prefix` is hashed before the chunk, starting from `initval`."""

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
