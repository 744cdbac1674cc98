"""Strings as the positions of their labels, counted from 1; 0 is any other string (numcodecs
`categorize`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.astype import parse_dtype
from gpuzarr.codecs.base import Buffer, ChunkSpec, Codec, Kind, as_array
from gpuzarr.codecs.registry import codec
from gpuzarr.errors import MetadataError


@codec("numcodecs.categorize", "categorize", v2="categorize")
@dataclass(frozen=True, slots=True)
class Categorize(Codec):
    """`dtype` is that of the strings, `|O` or `<U…`; `astype` that of the positions."""

    labels: tuple[str, ...]
    dtype: str
    astype: str = "|u1"
    kind: ClassVar[Kind] = "array"
    elementwise: ClassVar[bool] = True

    @classmethod
    def from_config(cls, configuration: Mapping[str, Any]) -> Self:
        """`labels` is a list of strings."""
        labels = configuration.get("labels")
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise MetadataError(f"labels {labels!r:.80} are not a list of strings", codec=cls.name)
        return super(Categorize, cls).from_config({**configuration, "labels": tuple(labels)})

    def __post_init__(self) -> None:
        parse_dtype(self.dtype, "categorize", "OU")
        parse_dtype(self.astype, "categorize", "iu")

    def to_config(self) -> dict[str, Any]:
        """The labels as a list."""
        return {"labels": list(self.labels), "dtype": self.dtype, "astype": self.astype}

    def encoded(self, decoded: ChunkSpec) -> ChunkSpec:
        """As many positions."""
        if decoded.dtype.kind not in "OTU":
            raise MetadataError(f"{decoded.dtype} values are not strings", codec="categorize")
        return ChunkSpec.of(decoded.shape, np.dtype(self.astype))

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """A position without a label is an empty string, as in numcodecs."""
        positions = as_array(chunk, self.encoded(decoded))
        known = (positions > 0) & (positions <= len(self.labels))
        strings = np.array(("", *self.labels), object if decoded.dtype.kind in "OT" else decoded.dtype)
        return strings[np.where(known, positions, 0).astype(np.intp)]

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """Of equal labels the last counts, as in numcodecs."""
        strings = as_array(chunk, decoded)
        positions = np.zeros(strings.shape, np.dtype(self.astype))
        for position, label in enumerate(self.labels, 1):
            positions[strings == label] = position
        return positions
