"""Values as one JSON list that ends with their type and shape (numcodecs `json2`).

[value, value, ..., "|O", [2]]        a list of lists where the chunk has more axes
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Self

import numpy as np
from numcodecs.json import JSON
from numpy.typing import NDArray

from gpuzarr.codecs.base import Buffer, ChunkSpec, Codec, Kind, as_array, as_bytes
from gpuzarr.codecs.registry import codec
from gpuzarr.errors import ChunkError, MetadataError


@codec("numcodecs.json2", "json2", v2="json2")
@dataclass(frozen=True, slots=True)
class JSON2(Codec):
    """The options of `json.JSONEncoder`; `strict` is `json.JSONDecoder`'s."""

    encoding: str = "utf-8"
    skipkeys: bool = False
    ensure_ascii: bool = True
    check_circular: bool = True
    allow_nan: bool = True
    sort_keys: bool = True
    indent: int | None = None
    separators: tuple[str, str] | None = None
    strict: bool = True
    kind: ClassVar[Kind] = "serializer"

    @classmethod
    def from_config(cls, configuration: Mapping[str, Any]) -> Self:
        """`separators` is a list of two strings."""
        separators = configuration.get("separators")
        if separators is not None:
            texts = isinstance(separators, list) and [text for text in separators if isinstance(text, str)]
            if not texts or len(texts) != 2 or texts != separators:
                raise MetadataError(f"separators {separators!r} are not two strings", codec=cls.name)
            configuration = {**configuration, "separators": tuple(texts)}
        return super(JSON2, cls).from_config(configuration)

    def __post_init__(self) -> None:
        try:
            "".encode(self.encoding)
        except (LookupError, TypeError) as error:
            raise MetadataError(f"encoding {self.encoding!r} is not known", codec="json2") from error

    def to_config(self) -> dict[str, Any]:
        """The separators as a list."""
        stated = super(JSON2, self).to_config()
        return {**stated, "separators": None if self.separators is None else list(self.separators)}

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """An object array where the chunk's values are objects, else values of its type."""
        try:
            document = json.loads(str(as_bytes(chunk).data, self.encoding), strict=self.strict)
        except (ValueError, RecursionError) as error:
            raise ChunkError(f"not a JSON document: {error}") from error
        return from_list(document, decoded)

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """The values, their type and shape."""
        values = as_array(chunk, decoded)
        stored: Buffer = JSON(**self.to_config()).encode(
            values.astype(object) if values.dtype.kind == "T" else values
        )
        return stored


def from_list(document: object, decoded: ChunkSpec) -> NDArray[Any]:
    """The values of a list that ends with their type and shape, both of which must be what `decoded`
    promises."""
    if not isinstance(document, list) or len(document) < 2:
        raise ChunkError("not a list of values, a type and a shape")
    *values, dtype, shape = document
    if not isinstance(shape, list | tuple) or any(type(extent) is not int or extent < 0 for extent in shape):
        raise ChunkError(f"{shape!r:.80} is not a shape")
    if prod(shape) != prod(decoded.shape):
        raise ChunkError(f"values of shape {shape!r:.80} where the metadata promises {decoded.shape}")
    for axis, extent in enumerate(shape or (1,)):
        if axis:
            if not all(isinstance(row, list) and len(row) == extent for row in values):
                raise ChunkError(f"values are not of shape {shape!r:.80}")
            values = [value for row in values for value in row]
        elif len(values) != extent:
            raise ChunkError(f"{len(values)} values where the shape is {shape!r:.80}")
    if decoded.dtype.kind in "OT":
        return np.fromiter(values, object, len(values)).reshape(decoded.shape)
    try:
        if not isinstance(dtype, str) or np.dtype(dtype).newbyteorder("=") != decoded.dtype.newbyteorder("="):
            raise ChunkError(f"values of type {dtype!r:.80} where the metadata promises {decoded.dtype}")
        return np.array(values, np.dtype(dtype)).reshape(decoded.shape).astype(decoded.dtype, copy=False)
    except (TypeError, ValueError, OverflowError, SyntaxError) as error:
        if isinstance(error, ChunkError):
            raise
        raise ChunkError(f"not values of type {decoded.dtype}: {error}") from error
