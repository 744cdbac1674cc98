"""Shards that lie: indexes that point elsewhere, do not fit, or are damaged."""

from __future__ import annotations

import struct
from itertools import product
from typing import Any

import numpy as np
import pytest

import gpuzarr
from gpuzarr.errors import (
    ChecksumError,
    ChunkError,
    MetadataError,
    UnsupportedError,
)
from tests.conftest import to_host
from tests.hostile import (
    DEVICES,
    LITTLE,
    entries,
    fails,
    shard,
    sharding,
    v3,
)

WHERE = pytest.mark.parametrize(("location", "checked"), list(product(("start", "end"), (True, False))))


@WHERE
@DEVICES
def test_a_whole_shard(location: str, checked: bool, device: str) -> None:
    """What is damaged below is right to begin with."""
    objects = {**v3([2, 6], [2, 3], codecs=[sharding(location, checked)]), "c/0/0": shard(location, checked)}
    expected = np.zeros((2, 6), np.uint8)
    expected[:, :3] = [[10, 11, 12], [20, 21, 22]]
    np.testing.assert_array_equal(to_host(gpuzarr.open_array(objects, device=device).read()), expected)


@WHERE
@DEVICES
@pytest.mark.parametrize(
    "entry",
    [
        (1000, 3),
        (0, 1000),
        (2**63 - 1, 3),
        (2**63, 3),
        (2**64 - 2, 3),
        (0, 2**63),
        (0, 2**64 - 2),
        (2**64 - 1, 3),
        (0, 2**64 - 1),
        "itself",
        (2**62, 2**62),
        (2**63 - 1, 2**63 - 1),
    ],
)
def test_index_entries_outside(location: str, checked: bool, entry: Any, device: str) -> None:
    """Past the end, past what 64 bits hold, half missing, or in the index itself."""
    index = {"start": (0, 3), "end": (len(shard("end", checked)) - 5, 3)}[location]
    stored = shard(location, checked, index if entry == "itself" else entry)
    objects = {**v3([2, 6], [2, 3], codecs=[sharding(location, checked)]), "c/0/0": stored}
    fails(ChunkError, objects, "chunk c/0/0", "codec sharding_indexed", "chunk 0 at offset", device=device)


@WHERE
@DEVICES
@pytest.mark.parametrize("nbytes", [0, 2, 4])
def test_inner_chunks_of_another_size(location: str, checked: bool, nbytes: int, device: str) -> None:
    first = entries(location, checked)[0][0]
    stored = shard(location, checked, (first, nbytes))
    objects = {**v3([2, 6], [2, 3], codecs=[sharding(location, checked)]), "c/0/0": stored}
    fails(ChunkError, objects, "c/0/0", f"{nbytes} bytes", "promises 3", device=device)


@pytest.mark.parametrize("location", ["start", "end"])
@DEVICES
def test_an_index_checksum(location: str, device: str) -> None:
    stored = bytearray(shard(location, True))
    at = 0 if location == "start" else len(stored) - 36
    for bit in (at, at + 17, at + 35):
        damaged = bytearray(stored)
        damaged[bit] ^= 4
        objects = {**v3([2, 6], [2, 3], codecs=[sharding(location, True)]), "c/0/0": bytes(damaged)}
        fails(ChecksumError, objects, "chunk c/0/0", "crc32c", device=device)


@WHERE
def test_truncated_shards(location: str, checked: bool) -> None:
    whole = shard(location, checked)
    for cut in (0, 1, 16, 31):
        objects = {**v3([2, 6], [2, 3], codecs=[sharding(location, checked)]), "c/0/0": whole[:cut]}
        fails(ChunkError, objects, "chunk c/0/0", "codec sharding_indexed", f"has {cut} bytes")
    for cut in range(32, len(whole)):
        objects = {**v3([2, 6], [2, 3], codecs=[sharding(location, checked)]), "c/0/0": whole[:cut]}
        with pytest.raises(ChunkError) as raised:
            gpuzarr.open_array(objects).read()
        assert raised.value.chunk


def test_an_index_at_the_other_end() -> None:
    for said, held in (("start", "end"), ("end", "start")):
        objects = {**v3([2, 6], [2, 3], codecs=[sharding(said, True)]), "c/0/0": shard(held, True)}
        fails(ChecksumError, objects, "chunk c/0/0", "crc32c")


def _nested(location: str, inner: bytes, entry: tuple[int, int] | None = None) -> dict[str, bytes]:
    """A shard of one shard of two chunks."""
    offset = 16 if location == "start" else 0
    index = struct.pack("<QQ", *(entry or (offset, len(inner))))
    stored = index + inner if location == "start" else inner + index
    codecs = [sharding(location, False, [2, 3], [sharding(location, False)])]
    return {**v3([2, 3], [2, 3], codecs=codecs), "c/0/0": stored}


@pytest.mark.parametrize("location", ["start", "end"])
@DEVICES
def test_nested_shards(location: str, device: str) -> None:
    whole = shard(location, False)
    found = to_host(gpuzarr.open_array(_nested(location, whole), device=device).read())
    np.testing.assert_array_equal(found, [[10, 11, 12], [20, 21, 22]])
    past = shard(location, False, (len(whole) - 2, 40))
    fails(ChunkError, _nested(location, past), "sharding_indexed", "outside", device=device)
    # Inside the outer shard, but past the inner one.
    fails(ChunkError, _nested(location, whole[:-1]), "sharding_indexed", device=device)
    for entry in ((0, 10**6), (0, 0), (16, 3)):
        fails(ChunkError, _nested(location, whole, entry), "c/0/0", "sharding_indexed", device=device)


@DEVICES
def test_an_index_that_the_shard_has_no_room_for(device: str) -> None:
    """10¹⁰ and 2⁸⁰ inner chunks: what is read is the shard, which is small."""
    for size, location in product((10**5, 2**40), ("start", "end")):
        codecs = [sharding(location, True, [1, 1])]
        objects = {**v3([4, 6], [size, size], codecs=codecs), "c/0/0": bytes(100)}
        for key in (..., (0, 0)):
            fails(ChunkError, objects, "c/0/0", "the shard index has 100 bytes", key=key, device=device)


def test_shards_nested_too_deep() -> None:
    for depth in (9, 30, 150):
        codecs: list[Any] = ["bytes"]
        for _ in range(depth):
            codecs = [sharding("end", False, [2, 3], codecs)]
        with pytest.raises(UnsupportedError, match="nested more than 8 deep"):
            gpuzarr.open(v3(codecs=codecs))


@pytest.mark.parametrize(
    "inner", [[3, 3], [2, 4], [2], [2, 3, 1], [0, 3], [-2, 3], [2.0, 3], [True, 3], "23", None]
)
def test_inner_chunk_shapes(inner: Any) -> None:
    fails(
        MetadataError,
        v3(codecs=[sharding("end", False, inner)]),
        "fit" if inner in ([2], [2, 3, 1]) else "sharding_indexed",
    )


def test_an_index_of_no_fixed_size() -> None:
    codecs = [sharding("end", False)]
    codecs[0]["configuration"]["index_codecs"] = [LITTLE, "gzip"]
    objects = {**v3(codecs=codecs), "c/0/0": bytes(50)}
    fails(UnsupportedError, objects, "not fixed", "sharding_indexed")
