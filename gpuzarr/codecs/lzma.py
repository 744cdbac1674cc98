"""XZ, LZMA and raw LZMA streams (numcodecs `lzma`). Several decode to one chunk; what is no stream behind
them is ignored, as in Python's own `lzma`.

A stream asks for a dictionary of its own size, up to 4 GiB. It gets at most what the chunk decodes to and 128
MiB more: the highest preset takes 64 MiB, even for small chunks.
"""

from __future__ import annotations

import lzma
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.base import Buffer, ChunkSpec, Codec, as_bytes
from gpuzarr.codecs.bz2 import decode_streams
from gpuzarr.codecs.registry import codec
from gpuzarr.errors import LimitError, MetadataError

DICTIONARY: Final = 128 << 20

Filter = tuple[tuple[str, int], ...]


@codec("numcodecs.lzma", "lzma", v2="lzma")
@dataclass(frozen=True, slots=True)
class LZMA(Codec):
    """The options of `lzma.compress`. Of `filters`, decoding needs only those of the raw format, which has no
    header."""

    format: int = lzma.FORMAT_XZ
    check: int = -1
    preset: int | None = None
    filters: tuple[Filter, ...] | None = None

    @classmethod
    def from_config(cls, configuration: Mapping[str, Any]) -> Self:
        """`filters` is a list of objects of numbers."""
        filters = configuration.get("filters")
        if filters is not None:
            if not isinstance(filters, list) or not all(isinstance(one, dict) for one in filters):
                raise MetadataError(f"filters {filters!r} is not a list of objects", codec=cls.name)
            configuration = {**configuration, "filters": tuple(tuple(one.items()) for one in filters)}
        return super(LZMA, cls).from_config(configuration)

    def __post_init__(self) -> None:
        numbers = [self.format, self.check, 0 if self.preset is None else self.preset]
        numbers += [value for one in self.filters or () for _, value in one]
        if any(type(number) is not int for number in numbers):
            raise MetadataError(f"options {self.to_config()} are not all whole numbers", codec="lzma")
        if self.format not in (lzma.FORMAT_XZ, lzma.FORMAT_ALONE, lzma.FORMAT_RAW, lzma.FORMAT_AUTO):
            raise MetadataError(f"format {self.format} is not 0 to 3", codec="lzma")
        if self.format == lzma.FORMAT_RAW and not self.filters:
            raise MetadataError("the raw format needs filters", codec="lzma")

    def to_config(self) -> dict[str, Any]:
        """The filters as a list of objects."""
        return {**super(LZMA, self).to_config(), "filters": self._filters()}

    def _filters(self) -> list[dict[str, Any]] | None:
        return None if self.filters is None else [dict(one) for one in self.filters]

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """Stream by stream, no further than one byte past what is expected."""
        memory = decoded.limit + DICTIONARY

        def opened() -> lzma.LZMADecompressor:
            if self.format == lzma.FORMAT_RAW:
                return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=self._filters())
            return lzma.LZMADecompressor(self.format, memlimit=memory)

        largest = max(
            (value for one in self.filters or () for key, value in one if key == "dict_size"), default=0
        )
        if self.format == lzma.FORMAT_RAW and largest > memory:
            raise LimitError(f"a dictionary of {largest} bytes for a chunk of at most {decoded.limit}")
        return decode_streams(opened, lzma.LZMAError, chunk, decoded)

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """One stream."""
        return lzma.compress(
            as_bytes(chunk).data, self.format, self.check, preset=self.preset, filters=self._filters()
        )
