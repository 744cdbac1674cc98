"""What the tests of hostile input share: documents, shards by hand, bombs, and the check of errors."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import struct
import tracemalloc
import zlib
from typing import Any

import google_crc32c
import numpy as np
import pytest

import gpuzarr
from gpuzarr.errors import GpuzarrError

VALUES = np.arange(24, dtype="<i4").reshape(4, 6) % 7
LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}

DEVICES = pytest.mark.parametrize("device", ["cpu", "sim"])


def fails(
    kind: type[GpuzarrError],
    target: Any,
    *words: str,
    key: Any = ...,
    device: str = "cpu",
    room: int = 24 << 20,
) -> GpuzarrError:
    """Open and read; the one error, of exactly this class, which holds the words and names the array. The
    memory that Python and NumPy took stays within `room` bytes."""
    tracemalloc.start()
    try:
        with pytest.raises(GpuzarrError) as raised:
            gpuzarr.open_array(target, device=device).read(key)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    text = str(raised.value)
    assert type(raised.value) is kind, text
    assert raised.value.array, text
    assert raised.value.array in text
    for word in words:
        assert word in text
    assert peak < room
    return raised.value


def regular(chunks: Any) -> dict[str, Any]:
    """A regular chunk grid."""
    return {"name": "regular", "configuration": {"chunk_shape": chunks}}


def v3(shape: Any = (4, 6), chunks: Any = (2, 3), **changes: Any) -> dict[str, bytes]:
    """An array of uint8 without chunks; `changes` replace fields of its document."""
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": "uint8",
        "chunk_grid": regular(chunks),
        "chunk_key_encoding": {"name": "default"},
        "codecs": ["bytes"],
        "fill_value": 0,
        "attributes": {},
    }
    return {"zarr.json": json.dumps({**document, **changes}).encode()}


def v2(**changes: Any) -> dict[str, bytes]:
    """The same, in v2."""
    document = {
        "zarr_format": 2,
        "shape": [4, 6],
        "chunks": [2, 3],
        "dtype": "|u1",
        "fill_value": 0,
        "order": "C",
        "filters": None,
        "compressor": None,
    }
    return {".zarray": json.dumps({**document, **changes}).encode()}


def group_v2(arrays: dict[str, dict[str, Any]]) -> dict[str, bytes]:
    """A group with consolidated metadata of these arrays, by name and what differs in their documents."""
    entries: dict[str, Any] = {".zgroup": {"zarr_format": 2}}
    for name, changes in arrays.items():
        entries[f"{name}/.zarray"] = json.loads(v2(**changes)[".zarray"])
    consolidated = {"zarr_consolidated_format": 1, "metadata": entries}
    return {".zgroup": b'{"zarr_format": 2}', ".zmetadata": json.dumps(consolidated).encode()}


def group_v3(arrays: dict[str, dict[str, Any]]) -> dict[str, bytes]:
    """The same, in v3."""
    entries = {name: json.loads(v3()["zarr.json"]) | changes for name, changes in arrays.items()}
    document = {
        "zarr_format": 3,
        "node_type": "group",
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": entries},
    }
    return {"zarr.json": json.dumps(document).encode()}


def sharding(location: str, checked: bool, inner: Any = (1, 3), codecs: Any = ("bytes",)) -> dict[str, Any]:
    """The codec in a document."""
    return {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": inner,
            "codecs": list(codecs) if codecs is not None else None,
            "index_codecs": [LITTLE, "crc32c"] if checked else [LITTLE],
            "index_location": location,
        },
    }


def entries(location: str, checked: bool) -> list[tuple[int, int]]:
    """The index of `shard`: two chunks of three bytes."""
    first = (32 + 4 * checked) if location == "start" else 0
    return [(first, 3), (first + 3, 3)]


def shard(location: str, checked: bool, first: tuple[int, int] | None = None) -> bytes:
    """Two chunks, 10 11 12 and 20 21 22, and an index whose first entry may be another."""
    table = entries(location, checked)
    if first is not None:
        table[0] = first
    index = struct.pack("<4Q", *table[0], *table[1])
    if checked:
        index += int(google_crc32c.value(index)).to_bytes(4, "little")
    chunks = bytes([10, 11, 12, 20, 21, 22])
    return index + chunks if location == "start" else chunks + index


def _zstd(blocks: int) -> bytes:
    """A frame without a content size, of blocks that each repeat one byte 128 Ki times."""
    middle, last = ((1 << 17) << 3 | 1 << 1 | final for final in (0, 1))
    frame = struct.pack("<IBB", 0xFD2FB528, 0, 7 << 3) + (middle.to_bytes(3, "little") + b"\0") * (blocks - 1)
    return frame + last.to_bytes(3, "little") + b"\0"


def _zstd_declared(nbytes: int) -> bytes:
    """A frame that says how much it holds, and holds one block."""
    block = ((1 << 17) << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"\0"
    return struct.pack("<IBQ", 0xFD2FB528, 0b11100000, nbytes) + block


def _blosc(nbytes: int) -> bytes:
    """A container of one LZ4 block that says how much it holds."""
    return (
        struct.pack("<4B3i", 2, 1, 1 << 5 | 0x10, 1, nbytes, nbytes, 36)
        + struct.pack("<2i", 20, 16)
        + bytes(12)
    )


_ZEROS = bytes(8 << 20)
BOMBS: dict[str, tuple[str, bytes]] = {
    "gzip": ("gzip", gzip.compress(_ZEROS) * 128),
    "zlib": ("numcodecs.zlib", zlib.compress(_ZEROS * 4)),
    "bz2": ("numcodecs.bz2", bz2.compress(_ZEROS) * 128),
    "lzma": ("numcodecs.lzma", lzma.compress(_ZEROS) * 128),
    "zstd": ("zstd", _zstd(1 << 13)),
    "zstd declares": ("zstd", _zstd_declared((1 << 17) - 1) * (1 << 13)),
    "lz4 declares": ("numcodecs.lz4", struct.pack("<i", 2**31 - 1) + bytes(300)),
    "blosc declares": ("blosc", _blosc(2**31 - 17)),
}
"""Name -> codec and chunk: a gigabyte or more from a few kilobytes (zlib: 32 MiB, as it has no members)."""
