"""Many chunks in one object, with an index (Zarr v3 codec `sharding_indexed`, ZEP 2).

Sharding is addressing: `plan.shards` turns an index into byte ranges and reads only those. `ShardIndex`, the
index itself, is what it shares with this codec. The codec runs only where ranges are impossible: behind a
codec that encodes the shard as a whole, or before one that is not elementwise. Then the shard is decoded in
one piece.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.base import Buffer, ChunkSpec, Codec, Kind, as_array, as_bytes
from gpuzarr.codecs.chain import Chain, bind, check_order
from gpuzarr.codecs.registry import codec, list_from_v3
from gpuzarr.errors import ChunkError, MetadataError, UnsupportedError

ABSENT = -1
"""Offset and size of a missing chunk: 2⁶⁴ − 1, as a signed integer."""

_DEEPEST = 8


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """Where the index lies in its shard, and its codecs. Its encoded size must follow from its shape."""

    location: Literal["start", "end"]
    codecs: tuple[Codec, ...]

    def chain(self, counts: tuple[int, ...]) -> Chain:
        """The codecs bound to the index of a shard of `counts` chunks along each axis."""
        return bind(self.codecs, (*counts, 2), np.dtype("u8"))

    def nbytes(self, counts: tuple[int, ...]) -> int:
        """The encoded size."""
        chain = self.chain(counts)
        spec = chain.layout
        for stage in reversed(chain.stages):
            spec = stage.codec.encoded(spec)
        if spec.nbytes is None:
            raise UnsupportedError(
                "the encoded size of the shard index is not fixed", codec="sharding_indexed"
            )
        return spec.nbytes

    def parse(self, stored: Buffer, counts: tuple[int, ...], shard_nbytes: int | None) -> NDArray[np.int64]:
        """int64[chunks, 2]: offset and size of each chunk, in C order. An index whose checksum fails, or
        that points outside the shard (where `shard_nbytes` is known) or into itself, is a ChunkError."""
        chain = self.chain(counts)
        expected = self.nbytes(counts)
        if as_bytes(stored).nbytes != expected:
            raise ChunkError(f"the shard index has {as_bytes(stored).nbytes} bytes instead of {expected}")
        entries = np.ascontiguousarray(chain.decode(stored)).astype(np.uint64, copy=False)
        table = entries.reshape(prod(counts), 2).view(np.int64)
        start, nbytes = table[:, 0], table[:, 1]
        absent = (start == ABSENT) & (nbytes == ABSENT)
        least = expected if self.location == "start" else 0
        most = np.iinfo(np.int64).max if shard_nbytes is None else shard_nbytes
        most -= expected if self.location == "end" and shard_nbytes is not None else 0
        wrong = ~absent & ((start < least) | (nbytes < 0) | (start > most) | (nbytes > most - start))
        if wrong.any():
            first = int(np.argmax(wrong))
            raise ChunkError(
                f"the shard index puts chunk {first} at offset {int(entries.reshape(-1, 2)[first, 0])} with "
                f"{int(entries.reshape(-1, 2)[first, 1])} bytes, outside the shard's data",
                codec="sharding_indexed",
            )
        return table


@codec("sharding_indexed")
@dataclass(frozen=True, slots=True)
class Sharding(Codec):
    """`chunk_shape` in the order of axes that this codec is given."""

    chunk_shape: tuple[int, ...]
    codecs: tuple[Codec, ...]
    index: ShardIndex
    kind: ClassVar[Kind] = "serializer"

    @classmethod
    def from_config(cls, configuration: Mapping[str, Any]) -> Self:
        """Parse the nested codec lists."""
        unknown = configuration.keys() - {"chunk_shape", "codecs", "index_codecs", "index_location"}
        if unknown:
            raise MetadataError(f"unknown option {', '.join(sorted(unknown))}", codec="sharding_indexed")
        shape = configuration.get("chunk_shape")
        if not isinstance(shape, list) or not all(type(n) is int and 0 < n < 1 << 62 for n in shape):
            raise MetadataError(f"chunk_shape {shape!r} is not a list of sizes", codec="sharding_indexed")
        location = configuration.get("index_location", "end")
        if location not in ("start", "end"):
            raise MetadataError(
                f"index_location {location!r} is neither start nor end", codec="sharding_indexed"
            )
        codecs = list_from_v3(configuration.get("codecs"), "codecs")
        if _depth(codecs) > _DEEPEST:
            raise UnsupportedError(f"shards nested more than {_DEEPEST} deep", codec="sharding_indexed")
        index_codecs = list_from_v3(configuration.get("index_codecs"), "index_codecs")
        check_order(codecs)
        check_order(index_codecs)
        return cls(tuple(shape), codecs, ShardIndex(location, index_codecs))

    def to_config(self) -> dict[str, Any]:
        """As the metadata document has it."""
        return {
            "chunk_shape": list(self.chunk_shape),
            "codecs": [{"name": one.name, "configuration": one.to_config()} for one in self.codecs],
            "index_codecs": [
                {"name": one.name, "configuration": one.to_config()} for one in self.index.codecs
            ],
            "index_location": self.index.location,
        }

    def counts(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Chunks along each axis of a shard of `shape`."""
        if len(shape) != len(self.chunk_shape) or any(
            n % c for n, c in zip(shape, self.chunk_shape, strict=True)
        ):
            raise MetadataError(
                f"inner chunks of {list(self.chunk_shape)} do not divide shards of {list(shape)}",
                codec="sharding_indexed",
            )
        return tuple(n // c for n, c in zip(shape, self.chunk_shape, strict=True))

    def encoded(self, decoded: ChunkSpec) -> ChunkSpec:
        """Of any size."""
        self.index.nbytes(self.counts(decoded.shape))
        bind(self.codecs, self.chunk_shape, decoded.dtype)
        return decoded.opaque(None)

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """Every inner chunk, in one array. Missing ones are zero: the fill value is not known here, so
        arrays with another one are refused by `meta.v3`."""
        shard, counts = as_bytes(chunk), self.counts(decoded.shape)
        size = self.index.nbytes(counts)
        if shard.nbytes < size:
            raise ChunkError(f"a shard of {shard.nbytes} bytes has no room for its index of {size}")
        stored = shard[:size] if self.index.location == "start" else shard[-size:]
        table = self.index.parse(stored, counts, shard.nbytes)
        chain = bind(self.codecs, self.chunk_shape, decoded.dtype)
        whole = np.zeros(decoded.shape, decoded.dtype)
        for cell, (start, nbytes) in zip(np.ndindex(counts), table.tolist(), strict=True):
            if nbytes != ABSENT:
                box = tuple(slice(i * n, i * n + n) for i, n in zip(cell, self.chunk_shape, strict=True))
                whole[box] = chain.decode(shard[start : start + nbytes])
        return whole

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """Every inner chunk, in C order, none left out."""
        values, counts = as_array(chunk, decoded), self.counts(decoded.shape)
        chain = bind(self.codecs, self.chunk_shape, decoded.dtype)
        size = self.index.nbytes(counts)
        parts: list[bytes] = []
        table = np.empty((*counts, 2), np.uint64)
        at = size if self.index.location == "start" else 0
        for cell in np.ndindex(counts):
            box = tuple(slice(i * n, i * n + n) for i, n in zip(cell, self.chunk_shape, strict=True))
            part = as_bytes(chain.encode(values[box])).tobytes()
            table[cell] = at, len(part)
            at += len(part)
            parts.append(part)
        index = as_bytes(self.index.chain(counts).encode(table)).tobytes()
        return b"".join([index, *parts] if self.index.location == "start" else [*parts, index])


def _depth(codecs: tuple[Codec, ...]) -> int:
    return 1 + max((_depth(one.codecs) for one in codecs if isinstance(one, Sharding)), default=0)
