"""Values as their bytes in one byte order (Zarr v3 core codec `bytes`, once named `endian`).

It rarely runs: at the head of a chain the byte order is folded into the chunk's layout (`codecs.chain`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.base import Batch, Buffer, ChunkSpec, Codec, Kind, as_array, as_bytes
from gpuzarr.codecs.registry import codec
from gpuzarr.device.base import Lane
from gpuzarr.errors import MetadataError


@codec("bytes", "endian")
@dataclass(frozen=True, slots=True)
class Bytes(Codec):
    """`endian` is None for values of one byte."""

    endian: Literal["little", "big"] | None = None
    kind: ClassVar[Kind] = "serializer"

    @classmethod
    def from_config(cls, configuration: Mapping[str, Any]) -> Self:
        """Refuses any byte order but `little` and `big`."""
        if configuration.get("endian") not in (None, "little", "big"):
            raise MetadataError(
                f"endian {configuration['endian']!r} is neither little nor big", codec="bytes"
            )
        return super(Bytes, cls).from_config(configuration)

    def encoded(self, decoded: ChunkSpec) -> ChunkSpec:
        """The same values in the stored byte order."""
        if decoded.dtype.kind in "OT":
            raise MetadataError(
                f"{decoded.dtype} values have no fixed bytes", codec="bytes", hint="use vlen-utf8"
            )
        if self.endian is None:
            return decoded
        return ChunkSpec(
            decoded.shape, decoded.dtype.newbyteorder("<" if self.endian == "little" else ">"), decoded.nbytes
        )

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """Swap where the stored order is not the decoded one."""
        return as_array(chunk, self.encoded(decoded)).astype(decoded.dtype, copy=False)

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """Swap where the stored order is not the decoded one."""
        return as_bytes(as_array(chunk, decoded).astype(self.encoded(decoded).dtype, copy=False))

    def host_only(self, decoded: ChunkSpec) -> str | None:
        """Everything but structured values with mixed byte orders swaps on the device."""
        return (
            None if swap_unit(self.encoded(decoded).dtype, decoded.dtype) is not None else "mixed byte orders"
        )

    def decode_batch(self, batch: Batch, decoded: ChunkSpec, lane: Lane) -> Batch:
        """Device form: kernels/byteswap.cu."""
        unit = swap_unit(self.encoded(decoded).dtype, decoded.dtype)
        if not unit or decoded.nbytes is None:
            return batch
        out = lane.empty(len(batch) * decoded.nbytes)
        items = decoded.nbytes // unit
        lane.launch(
            "gz_byteswap",
            len(batch),
            256,
            src=batch.data,
            offset=batch.offset,
            dst=out,
            items=items,
            unit=unit,
        )
        return Batch(out, np.arange(len(batch), dtype=np.int64) * decoded.nbytes, batch.nbytes)


@dataclass(frozen=True, slots=True)
class StoredType(Bytes):
    """Values as exactly this type: what the `dtype` of a Zarr v2 array says, where each field has a byte
    order of its own."""

    dtype: np.dtype[Any] = field(default=np.dtype("u1"))

    def encoded(self, decoded: ChunkSpec) -> ChunkSpec:
        """The same values as `dtype`, which differs from the decoded type in byte order alone."""
        return ChunkSpec(decoded.shape, self.dtype, decoded.nbytes)


def swap_unit(stored: np.dtype[Any], wanted: np.dtype[Any]) -> int | None:
    """Bytes that change places together between two byte orders of one type: 0 if none do, None if fields
    differ."""
    if stored == wanted or stored.itemsize <= 1:
        return 0
    if stored.newbyteorder("S") != wanted or stored.names or stored.subdtype:
        return None
    if stored.kind == "c":
        return stored.itemsize // 2
    return 4 if stored.kind == "U" else stored.itemsize
