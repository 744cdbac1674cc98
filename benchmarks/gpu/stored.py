"""What is read: a volume made of one block again and again, with chains and chunk shapes to choose.

    block   a b        volume   a b a b        a chunk of the volume is a chunk of the block, so only those
            c d                 c d c d        are encoded; every copy lies at an address of its own
                                a b a b
                                c d c d

Documents and shards are written here by hand, chunks by numcodecs through the codecs' own `encode`: a GPU
machine may have no zarr-python. Objects go into a dict or into files.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

import gpuzarr
from benchmarks import arrays
from gpuzarr import config
from gpuzarr.codecs.base import as_bytes

Shape = tuple[int, ...]


def _blosc(cname: str, shuffle: str) -> list[dict[str, Any]]:
    stated = {"cname": cname, "clevel": 5, "shuffle": shuffle, "typesize": 2, "blocksize": 0}
    return [{"name": "blosc", "configuration": stated}]


CHAINS: dict[str, list[dict[str, Any]]] = {
    "raw": [],
    "lz4": [{"name": "numcodecs.lz4", "configuration": {"acceleration": 1}}],
    "zstd": [{"name": "zstd", "configuration": {"level": 3, "checksum": False}}],
    "blosc(lz4, shuffle)": _blosc("lz4", "shuffle"),
    "blosc(lz4, bitshuffle)": _blosc("lz4", "bitshuffle"),
    "blosc(zstd, shuffle)": _blosc("zstd", "shuffle"),
    "blosc(blosclz, shuffle)": _blosc("blosclz", "shuffle"),
    "gzip": [{"name": "gzip", "configuration": {"level": 5}}],
    "zlib": [{"name": "numcodecs.zlib", "configuration": {"level": 5}}],
    "crc32c": [{"name": "crc32c"}],
    "shuffle": [{"name": "numcodecs.shuffle", "configuration": {"elementsize": 2}}],
}
"""The bytes→bytes codecs, in the words of Zarr v3."""


@cache
def noise(shape: Shape) -> NDArray[np.uint16]:
    """A block of noisy cells, as the demo makes them."""
    made = arrays.volume((shape[0], shape[1], shape[2]))
    made.flags.writeable = False
    return made


@dataclass(frozen=True)
class Stored:
    """An array: `block` along each axis as often as `shape` says. Every shape divides the next larger one."""

    shape: Shape
    block: Shape
    chunks: Shape
    chain: str
    shards: Shape | None = None
    endian: str = "little"

    @property
    def nbytes(self) -> int:
        """Decoded."""
        return prod(self.shape) * 2

    @property
    def chunk_nbytes(self) -> int:
        """Decoded, of one."""
        return prod(self.chunks) * 2

    @property
    def count(self) -> int:
        """Of chunks; of inner ones where there are shards."""
        return self.nbytes // self.chunk_nbytes

    @property
    def document(self) -> bytes:
        """zarr.json."""
        serializer = {"name": "bytes", "configuration": {"endian": self.endian}}
        codecs = [serializer, *CHAINS[self.chain]]
        if self.shards:
            index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
            sharding = {"chunk_shape": self.chunks, "codecs": codecs, "index_codecs": index}
            codecs = [{"name": "sharding_indexed", "configuration": sharding}]
        return json.dumps(
            {
                "zarr_format": 3,
                "node_type": "array",
                "shape": self.shape,
                "data_type": "uint16",
                "chunk_grid": {
                    "name": "regular",
                    "configuration": {"chunk_shape": self.shards or self.chunks},
                },
                "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
                "fill_value": 0,
                "codecs": codecs,
                "attributes": {},
            }
        ).encode()

    @cached_property
    def encoded(self) -> dict[Shape, bytes]:
        """The chunks of the block, by their place in it."""
        chain = gpuzarr.open_array({"zarr.json": self.document}).metadata.chain(self.chunks)
        values = noise(self.block)
        places = list(product(*(range(n // c) for n, c in zip(self.block, self.chunks, strict=True))))

        def encode(place: Shape) -> bytes:
            box = tuple(slice(i * c, (i + 1) * c) for i, c in zip(place, self.chunks, strict=True))
            return as_bytes(chain.encode(np.ascontiguousarray(values[box]))).tobytes()

        with ThreadPoolExecutor(config.current().threads) as pool:
            return dict(zip(places, pool.map(encode, places), strict=True))

    def objects(self) -> Iterator[tuple[str, bytes]]:
        """Keys and values, the document first. Equal values are one object."""
        yield "zarr.json", self.document
        unit = self.shards or self.chunks
        made: dict[Shape, bytes] = {}
        for place in product(*(range(n // u) for n, u in zip(self.shape, unit, strict=True))):
            first = tuple(i * u // c for i, u, c in zip(place, unit, self.chunks, strict=True))
            if self.shards is None:
                yield "c/" + "/".join(map(str, place)), self._chunk(first)
                continue
            kind = self._within(first)
            if kind not in made:
                made[kind] = self._shard(first)
            yield "c/" + "/".join(map(str, place)), made[kind]

    def _within(self, chunk: Shape) -> Shape:
        """Which chunk of the block a chunk of the volume is."""
        return tuple(i % (b // c) for i, b, c in zip(chunk, self.block, self.chunks, strict=True))

    def _chunk(self, chunk: Shape) -> bytes:
        return self.encoded[self._within(chunk)]

    def _shard(self, first: Shape) -> bytes:
        """The chunks from `first` on, then the index: offset and size of each, and a CRC-32C."""
        assert self.shards
        parts, index, at = [], [], 0
        for inner in product(*(range(s // c) for s, c in zip(self.shards, self.chunks, strict=True))):
            part = self._chunk(tuple(a + b for a, b in zip(first, inner, strict=True)))
            parts.append(part)
            index += [at, len(part)]
            at += len(part)
        table = struct.pack(f"<{len(index)}Q", *index)
        return b"".join([*parts, table, struct.pack("<I", google_crc32c.value(table))])

    def in_memory(self) -> dict[str, bytes]:
        """As a mapping."""
        return dict(self.objects())

    def write(self, folder: Path) -> int:
        """As files; returns their bytes."""
        total = 0
        for key, value in self.objects():
            path = folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(value)
            total += len(value)
        return total

    def wrong(self, result: NDArray[Any], key: Any = ...) -> str | None:
        """What is wrong with what was read at `key`, in a few words; None if it is the volume, bit by bit."""
        block = noise(self.block)
        if key is not ...:
            return _differs(result, np.tile(block, self._times())[key])
        if result.shape != self.shape:
            return f"shape {result.shape}, not {self.shape}"
        for place in product(*map(range, self._times())):
            box = tuple(slice(i * n, (i + 1) * n) for i, n in zip(place, self.block, strict=True))
            said = _differs(result[box], block)
            if said:
                return f"{said} in the block at {place}"
        return None

    def boxes(self, origins: NDArray[np.int64], shape: Shape) -> NDArray[np.uint16]:
        """Boxes of one shape at `origins` [n, 3], one behind the other."""
        block = noise(self.block)
        places = [
            [(at + np.arange(n)) % size for at, n, size in zip(row, shape, self.block, strict=True)]
            for row in origins.tolist()
        ]
        return np.stack([block[np.ix_(*one)] for one in places])

    def _times(self) -> Shape:
        return tuple(n // b for n, b in zip(self.shape, self.block, strict=True))


def _differs(found: NDArray[Any], expected: NDArray[Any]) -> str | None:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return f"{found.dtype}{list(found.shape)}, not {expected.dtype}{list(expected.shape)}"
    if np.array_equal(found, expected):
        return None
    return f"{int((found != expected).sum())} of {expected.size} values are wrong"


def checked(stored: Stored, read: Callable[[], Any], who: str, key: Any = ...) -> Any:
    """What `read` gives, once it was compared with what was stored."""
    from benchmarks.gpu.machine import WrongResultError

    result = read()
    said = stored.wrong(result if isinstance(result, np.ndarray) else result.get(), key)
    if said:
        raise WrongResultError(f"{who}, {stored.chain}, chunks {stored.chunks}: {said}")
    return result
