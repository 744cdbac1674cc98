"""Values in as many bits as they need (zarr-extensions `packbits`), and booleans eight to a byte (numcodecs
`packbits`). Device form: kernels/packbits.cu.

The two differ in the order of bits: `packbits` fills each byte from its lowest bit on, numcodecs' from its
highest.

    packbits            bits `first_bit` to `last_bit` of each value, one behind the other · zeros up to a
    whole byte
                        `padding_encoding`: how many zeros, in a byte before or behind them, or not at all
    numcodecs.packbits  a byte with the number of padding bits · booleans
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.base import Batch, Buffer, ChunkSpec, Codec, Kind, as_array, as_bytes, check_size, even
from gpuzarr.codecs.registry import codec
from gpuzarr.device.base import Lane
from gpuzarr.errors import ChunkError, MetadataError

NARROW: Final = {
    "bool": 1,
    "int2": 2,
    "uint2": 2,
    "int4": 4,
    "uint4": 4,
    "float4_e2m1fn": 4,
    "float6_e2m3fn": 6,
    "float6_e3m2fn": 6,
}
"""Bits of the types that take less than their byte in memory."""

_TILE = 32 << 10  # decoded bytes that one block makes


@codec("packbits")
@dataclass(frozen=True, slots=True)
class PackBits(Codec):
    """Without `first_bit` and `last_bit`, all bits of each value."""

    padding_encoding: Literal["none", "first_byte", "last_byte"] = "none"
    first_bit: int | None = None
    last_bit: int | None = None
    kind: ClassVar[Kind] = "serializer"

    def __post_init__(self) -> None:
        if self.padding_encoding not in ("none", "first_byte", "last_byte"):
            raise MetadataError(f"padding_encoding {self.padding_encoding!r} is not known", codec="packbits")
        for bit in (self.first_bit, self.last_bit):
            if bit is not None and (type(bit) is not int or bit < 0):
                raise MetadataError(f"{bit!r} is not a bit's number", codec="packbits")

    def _bits(self, decoded: ChunkSpec) -> tuple[int, int, int]:
        """The bits of a component in memory, the first one stored, and the first one that is not."""
        dtype = decoded.dtype
        if (
            dtype.kind not in "biufcmM"
            and dtype.name not in NARROW
            and not dtype.name.startswith(("bfloat", "float"))
        ):
            raise MetadataError(f"{dtype} values cannot be packed", codec="packbits")
        width = 8 * dtype.itemsize // (2 if dtype.kind == "c" else 1)
        first = self.first_bit or 0
        bits = NARROW.get(dtype.name, width)
        end = bits if self.last_bit is None else self.last_bit + 1
        if not first < end <= bits:
            raise MetadataError(f"bits {first} to {end - 1} of {dtype} values", codec="packbits")
        return width, first, end

    def _sizes(self, decoded: ChunkSpec) -> tuple[int, int, int]:
        """Components, bits and bytes of a chunk, the padding's byte left out."""
        _, first, end = self._bits(decoded)
        components = prod(decoded.shape) * (2 if decoded.dtype.kind == "c" else 1)
        bits = components * (end - first)
        return components, bits, -(-bits // 8)

    def encoded(self, decoded: ChunkSpec) -> ChunkSpec:
        """The bits rounded up to bytes, and one byte more where the padding is stored."""
        return decoded.opaque(self._sizes(decoded)[2] + (self.padding_encoding != "none"))

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """Signed integers take the sign of their highest stored bit."""
        stored = as_bytes(chunk)
        check_size(stored.nbytes, self.encoded(decoded))
        components, bits, nbytes = self._sizes(decoded)
        if self.padding_encoding != "none":
            at_start = self.padding_encoding == "first_byte"
            if stored[0 if at_start else -1] != 8 * nbytes - bits:
                raise ChunkError(
                    f"{stored[0 if at_start else -1]} padding bits instead of {8 * nbytes - bits}"
                )
            stored = stored[1:] if at_start else stored[:-1]
        width, first, end = self._bits(decoded)
        if end - first == width:
            return _in_order(stored.reshape(components, width // 8), decoded)
        if decoded.dtype.kind == "b":
            return np.unpackbits(stored, count=bits, bitorder="little")
        plain = np.zeros((components, width), np.uint8)
        plain[:, first:end] = np.unpackbits(stored, count=bits, bitorder="little").reshape(
            components, end - first
        )
        if _is_signed(decoded.dtype):
            plain[:, end : NARROW.get(decoded.dtype.name, width)] = plain[:, end - 1 : end]
        values = np.packbits(plain, axis=1, bitorder="little")
        return _in_order(values, decoded).view(decoded.dtype).reshape(decoded.shape)

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """Bits that are not stored are lost."""
        width, first, end = self._bits(decoded)
        components, bits, nbytes = self._sizes(decoded)
        values = as_bytes(as_array(chunk, decoded)).reshape(components, width // 8)
        plain = np.unpackbits(_in_order(values, decoded).reshape(values.shape), axis=1, bitorder="little")
        packed = np.packbits(plain[:, first:end], bitorder="little")
        padding = np.array([8 * nbytes - bits], np.uint8)
        parts = {"none": (packed,), "first_byte": (padding, packed), "last_byte": (packed, padding)}
        return np.concatenate(parts[self.padding_encoding])

    def host_only(self, decoded: ChunkSpec) -> str | None:
        """The device takes values of every type but long double."""
        return "values of more than 64 bits" if self._bits(decoded)[0] > 64 else None

    def decode_batch(self, batch: Batch, decoded: ChunkSpec, lane: Lane) -> Batch:
        """Device form: kernels/packbits.cu."""
        width, first, end = self._bits(decoded)
        components, bits, nbytes = self._sizes(decoded)
        counter = {"none": -1, "first_byte": 0, "last_byte": nbytes}[self.padding_encoding]
        return _unpacked(
            batch,
            self.encoded(decoded),
            lane,
            count=components,
            counter=counter,
            padding=8 * nbytes - bits,
            lead=int(counter == 0),
            size=width // 8,
            bits=end - first,
            first=first,
            top=NARROW.get(decoded.dtype.name, width) if _is_signed(decoded.dtype) else end,
            is_signed=int(_is_signed(decoded.dtype)),
            highest=0,
            swap=int(_is_big(decoded.dtype)),
        )


def _unpacked(batch: Batch, encoded: ChunkSpec, lane: Lane, *, count: int, size: int, **form: int) -> Batch:
    """`count` components of `size` bytes from each chunk, which are all as long as `encoded`."""
    for nbytes in np.unique(batch.nbytes).tolist():
        check_size(nbytes, encoded)
    nbytes, chunks = count * size, len(batch)
    pitch, tiles = -(-nbytes // 16) * 16, max(-(-nbytes // _TILE), 1)
    placed = even(lane.empty(pitch * chunks), pitch, chunks)
    lane.launch(
        *("gz_unpackbits", chunks * tiles, 256),
        src=batch.data,
        offset=batch.offset,
        dst=placed.data,
        fault=lane.faults(chunks),
        count=count,
        size=size,
        pitch=pitch,
        tiles=tiles,
        **form,
    )
    return Batch(placed.data, placed.offset, np.full(chunks, nbytes, np.int64))


def _is_signed(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "i" or dtype.name in ("int2", "int4")


def _is_big(dtype: np.dtype[Any]) -> bool:
    return dtype.newbyteorder("<") != dtype


def _in_order(values: NDArray[np.uint8], decoded: ChunkSpec) -> NDArray[np.uint8]:
    """The bytes [n, width] of components with the lowest first where they are in the chunk's order, and the
    reverse."""
    return np.ascontiguousarray(values[:, ::-1] if _is_big(decoded.dtype) else values).reshape(-1)


@codec("numcodecs.packbits", v2="packbits")
@dataclass(frozen=True, slots=True)
class PackBooleans(Codec):
    """It has no options."""

    kind: ClassVar[Kind] = "array"

    def encoded(self, decoded: ChunkSpec) -> ChunkSpec:
        """A byte, and a byte for eight booleans."""
        if decoded.nbytes is None or decoded.dtype.itemsize != 1:
            raise MetadataError(f"{decoded.dtype} values are not booleans", codec="numcodecs.packbits")
        return ChunkSpec.of((1 + -(-decoded.nbytes // 8),), np.dtype("u1"))

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """A padding that is not what the metadata implies is an error."""
        stored, count = as_bytes(chunk), decoded.limit
        check_size(stored.nbytes, self.encoded(decoded))
        if stored[0] != -count % 8:
            raise ChunkError(f"{stored[0]} padding bits instead of {-count % 8}")
        plain: NDArray[Any] = np.unpackbits(stored[1:], count=count)
        return plain.view(np.bool_)

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """Any byte but zero is true."""
        plain = as_bytes(chunk)
        return np.concatenate((np.array([-plain.nbytes % 8], np.uint8), np.packbits(plain)))

    def host_only(self, decoded: ChunkSpec) -> str | None:
        """The device takes all chunks."""
        return None

    def decode_batch(self, batch: Batch, decoded: ChunkSpec, lane: Lane) -> Batch:
        """Device form: kernels/packbits.cu."""
        count = decoded.limit
        return _unpacked(
            batch,
            self.encoded(decoded),
            lane,
            count=count,
            counter=0,
            padding=-count % 8,
            lead=1,
            size=1,
            bits=1,
            first=0,
            top=1,
            is_signed=0,
            highest=1,
            swap=0,
        )
