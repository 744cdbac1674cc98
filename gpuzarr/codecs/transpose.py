"""The axes of a chunk in another order (Zarr v3 core codec `transpose`; v2 `order: F`).

It rarely runs: at the head of a chain the order is folded into the chunk's layout (`codecs.chain`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.base import Buffer, ChunkSpec, Codec, Kind, as_array
from gpuzarr.codecs.registry import codec
from gpuzarr.errors import MetadataError


@codec("transpose")
@dataclass(frozen=True, slots=True)
class Transpose(Codec):
    """`order[i]` is the axis of the decoded chunk that becomes axis i; `C` and `F` are the spec's first
    spellings."""

    order: tuple[int, ...] | Literal["C", "F"]
    kind: ClassVar[Kind] = "array"

    @classmethod
    def from_config(cls, configuration: Mapping[str, Any]) -> Self:
        """Refuses what is not a permutation."""
        order = configuration.get("order")
        if isinstance(order, list) and all(type(axis) is int for axis in order):
            if sorted(order) != list(range(len(order))):
                raise MetadataError(f"order {order} is not a permutation", codec="transpose")
            order = tuple(order)
        elif order not in ("C", "F"):
            raise MetadataError(f"order {order!r} is not a list of axes", codec="transpose")
        return super(Transpose, cls).from_config({**configuration, "order": order})

    def to_config(self) -> dict[str, Any]:
        """The order as a list."""
        return {"order": list(self.order) if isinstance(self.order, tuple) else self.order}

    def axes(self, ndim: int) -> tuple[int, ...]:
        """The permutation for a chunk of `ndim` axes."""
        if self.order == "C":
            return tuple(range(ndim))
        if self.order == "F":
            return tuple(reversed(range(ndim)))
        if len(self.order) != ndim:
            raise MetadataError(f"order {list(self.order)} does not fit {ndim} dimensions", codec="transpose")
        return tuple(int(axis) for axis in self.order)

    def encoded(self, decoded: ChunkSpec) -> ChunkSpec:
        """The shape in its new order."""
        shape = tuple(decoded.shape[axis] for axis in self.axes(len(decoded.shape)))
        return ChunkSpec(shape, decoded.dtype, decoded.nbytes)

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """A C-contiguous chunk with its axes back in place."""
        axes = self.axes(len(decoded.shape))
        return np.ascontiguousarray(as_array(chunk, self.encoded(decoded)).transpose(np.argsort(axes)))

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """A C-contiguous chunk with its axes in the stored order."""
        return np.ascontiguousarray(as_array(chunk, decoded).transpose(self.axes(len(decoded.shape))))
