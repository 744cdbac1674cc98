"""Differences between neighbours (numcodecs `delta`). Device form: kernels/delta.cu.

Integers wrap round. Floats are summed in sequence, since the order shows. The device gives the NaNs of x86:
on a processor that gives others, floats have no device form.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numcodecs.delta import Delta as Reference
from numpy.typing import NDArray

from gpuzarr.codecs.base import (
    Batch,
    Buffer,
    ChunkSpec,
    Codec,
    Encoded,
    Kind,
    as_array,
    check_size,
    even,
)
from gpuzarr.codecs.registry import codec
from gpuzarr.device.base import Lane
from gpuzarr.errors import MetadataError

_THREADS = 256
_TILE = 16 << 10  # bytes of a chunk that one block of kernels/differences.cu takes


@codec("numcodecs.delta", v2="delta")
@dataclass(frozen=True, slots=True)
class Delta(Codec):
    """Values of `dtype` are stored as differences of `astype`, both as NumPy spells types.

    No dtype: that of the array. No astype: the same as dtype.
    """

    dtype: str | None = None
    astype: str | None = None
    kind: ClassVar[Kind] = "array"

    def __post_init__(self) -> None:
        for name in (self.dtype, self.astype):
            if name is not None:
                number_type(name)

    def to_config(self) -> dict[str, Any]:
        """What was given."""
        return {key: value for key in ("dtype", "astype") if (value := getattr(self, key)) is not None}

    def encoded(self, decoded: ChunkSpec) -> ChunkSpec:
        """As many values of another type."""
        return stored_as(decoded, self.dtype, self.astype)[1]

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """The running sum."""
        plain, stored = stored_as(decoded, self.dtype, self.astype)
        with numcodecs_errors(self.name):
            result: Buffer = Reference(plain.dtype, stored.dtype).decode(as_array(chunk, stored))
        return result

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """The first value, then differences."""
        plain, stored = stored_as(decoded, self.dtype, self.astype)
        values = as_array(chunk, plain)
        if not values.size:  # numcodecs looks at the first value
            return np.empty(0, stored.dtype)
        with numcodecs_errors(self.name):
            result: Buffer = Reference(plain.dtype, stored.dtype).encode(values)
        return result

    def host_only(self, decoded: ChunkSpec) -> str | None:
        """The device sums integers, and floats that are stored as they are."""
        plain, stored = stored_as(decoded, self.dtype, self.astype)
        if decoded.nbytes is None:
            return "size known only from the stream"
        if not all(is_little(spec.dtype) for spec in (plain, stored)):
            return "big-endian values"
        if "b" in (plain.dtype.kind, stored.dtype.kind):
            return "sums of truth values"
        # Where NumPy's common type is a float, as of int64 and uint64, it sums in that.
        if np.promote_types(plain.dtype, stored.dtype).kind in "iu":
            return None
        if plain.dtype != stored.dtype or plain.dtype.char not in "fd":
            return f"{stored.dtype} summed to {plain.dtype}"
        return None if platform.machine() in ("x86_64", "AMD64") else "NaNs of this processor"

    def decode_batch(self, batch: Batch, decoded: ChunkSpec, lane: Lane) -> Batch:
        """Device form: kernels/delta.cu."""
        plain, stored = stored_as(decoded, self.dtype, self.astype)
        for nbytes in np.unique(batch.nbytes).tolist():
            check_size(nbytes, stored)
        size, items = plain.dtype.itemsize, (plain.nbytes or 0) // plain.dtype.itemsize
        out = lane.empty(len(batch) * items * size)
        places = {"src": batch.data, "offset": batch.offset, "dst": out, "items": items}
        if plain.dtype.kind == "f":
            lane.launch("gz_delta_float", len(batch), 1, **places, size=size)
        else:
            signed = int(stored.dtype.kind == "i")
            lane.launch(
                "gz_delta",
                len(batch),
                _THREADS,
                **places,
                stored_size=stored.dtype.itemsize,
                is_signed=signed,
                size=size,
            )
        return even(out, items * size, len(batch))

    def encode_host_only(self, decoded: ChunkSpec) -> str | None:
        """The device takes differences of integers."""
        plain, stored = stored_as(decoded, self.dtype, self.astype)
        if decoded.nbytes is None:
            return "size known only from the stream"
        if plain.dtype.kind not in "iu" or stored.dtype.kind not in "iu":
            return f"{plain.dtype} stored as {stored.dtype}"
        if stored.dtype.kind == "i" and not np.can_cast(plain.dtype, stored.dtype):
            return f"a first value that {stored.dtype} may not hold"  # NumPy refuses it
        little = is_little(plain.dtype) and is_little(stored.dtype)
        return None if little else "big-endian values"

    def encode_bound(self, nbytes: int) -> int:
        """Values of the stored type, of at most eight bytes each."""
        return nbytes if self.astype in (None, self.dtype) else 8 * nbytes

    def encode_batch(self, batch: Encoded, decoded: ChunkSpec, lane: Lane) -> Encoded:
        """Device form: kernels/differences.cu."""
        plain, stored = stored_as(decoded, self.dtype, self.astype)
        size, stored_size = plain.dtype.itemsize, stored.dtype.itemsize
        items = batch.limit // size
        sizes = lane.upload(np.full(len(batch), items * stored_size, np.int64))
        out = Encoded.room(lane, items * stored_size, len(batch), sizes)
        tiles = max(-(-batch.limit // _TILE), 1)
        lane.launch(
            "gz_differences",
            len(batch) * tiles,
            _THREADS,
            src=batch.data,
            dst=out.data,
            src_pitch=batch.pitch,
            dst_pitch=out.pitch,
            items=items,
            size=size,
            is_signed=int(plain.dtype.kind == "i"),
            stored_size=stored_size,
            tiles=tiles,
        )
        return out


def number_type(name: object) -> np.dtype[Any]:
    """The numeric type that a configuration names; anything else is a ValueError."""
    try:
        dtype = np.dtype(name) if isinstance(name, str) and len(name) < 32 else None
    except (TypeError, SyntaxError):
        dtype = None
    if dtype is None or dtype.kind not in "biufcmM":
        raise ValueError(f"{name!r} is not a numeric type")
    return dtype


def stored_as(decoded: ChunkSpec, dtype: str | None, astype: str | None) -> tuple[ChunkSpec, ChunkSpec]:
    """The decoded chunk as values of `dtype`, and as many values of `astype`."""
    if dtype is not None and np.dtype(dtype) != decoded.dtype:
        decoded = ChunkSpec((), np.dtype(dtype), decoded.nbytes)
    if decoded.dtype.kind not in "biufcmM":
        raise MetadataError(f"{decoded.dtype} values are not numeric")
    if decoded.nbytes is not None and decoded.nbytes % decoded.dtype.itemsize:
        raise MetadataError(f"{decoded.nbytes} bytes are not whole {decoded.dtype} values")
    return decoded, decoded if astype is None else decoded.typed(np.dtype(astype))


def is_little(dtype: np.dtype[Any]) -> bool:
    """Whether values of this type are little-endian, or of one byte."""
    return dtype == dtype.newbyteorder("<")


@contextmanager
def numcodecs_errors(name: str) -> Iterator[None]:
    """Overflow is no warning; types and numbers that NumPy cannot combine are a MetadataError."""
    try:
        with np.errstate(all="ignore"):
            yield
    except (TypeError, OverflowError) as error:
        raise MetadataError(f"NumPy cannot compute this: {error}", codec=name) from error
