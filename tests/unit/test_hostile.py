"""Input that lies: one gpuzarr error of the right class, which says where; no crash, no wrong bytes, no memory that was
not earned."""

from __future__ import annotations

import gzip
import json
import os
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from itertools import product
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
import pytest

import gpuzarr
from gpuzarr import config
from gpuzarr.errors import (
    ChecksumError,
    ChunkError,
    GpuzarrError,
    LimitError,
    MetadataError,
    NotFoundError,
    SelectionError,
    StoreError,
    UnsupportedError,
)
from tests.conftest import to_host
from tests.hostile import (
    BOMBS,
    LITTLE,
    VALUES,
    entries,
    group_v2,
    group_v3,
    regular,
    shard,
    sharding,
    v2,
    v3,
)

DEVICES = pytest.mark.parametrize("device", ["cpu", "sim"])


def fails(
    kind: type[GpuzarrError],
    target: Any,
    *words: str,
    key: Any = ...,
    device: str = "cpu",
    room: int = 24 << 20,
) -> GpuzarrError:
    """Open and read; the one error, of exactly this class, which holds the words and names the array. The memory that
    Python and NumPy took stays within `room` bytes."""
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


# Chunks

COMPRESSORS = {
    one.codec_id + getattr(one, "cname", ""): one
    for one in (
        numcodecs.Zlib(),
        numcodecs.GZip(),
        numcodecs.BZ2(),
        numcodecs.LZMA(),
        numcodecs.LZ4(),
        numcodecs.Zstd(),
        numcodecs.Blosc("lz4", 5, 1),
        numcodecs.Blosc("zstd", 5, 2),
        numcodecs.Blosc("blosclz", 5, 0),
        numcodecs.CRC32(),
        numcodecs.CRC32C(),
        numcodecs.Adler32(),
        numcodecs.Fletcher32(),
        numcodecs.JenkinsLookup3(),
        numcodecs.Base64(),
    )
}
EACH = pytest.mark.parametrize("name", COMPRESSORS)


def encoded(name: str, values: np.ndarray = VALUES) -> bytes:
    stored = COMPRESSORS[name].encode(np.ascontiguousarray(values))
    return bytes(stored.tobytes() if isinstance(stored, np.ndarray) else stored)


def one_chunk(name: str, stored: bytes) -> dict[str, bytes]:
    """A v2 array of one chunk."""
    return {**v2(dtype="<i4", chunks=[4, 6], compressor=COMPRESSORS[name].get_config()), "0.0": stored}


def fails_in(name: str, stored: bytes, device: str, *words: str) -> GpuzarrError:
    """A ChunkError, or the ChecksumError that is one, that names chunk and codec."""
    with pytest.raises(ChunkError) as raised:
        gpuzarr.open_array(one_chunk(name, stored), device=device).read()
    error = raised.value
    assert (error.array, error.chunk) == ("memory:", "0.0")
    assert error.codec
    assert error.codec.removeprefix("numcodecs.") == COMPRESSORS[name].codec_id
    for word in ("[array memory:, chunk 0.0, codec ", *words):
        assert word in str(error)
    return error


@DEVICES
@EACH
def test_a_whole_chunk(name: str, device: str) -> None:
    """What is damaged below is right to begin with."""
    found = gpuzarr.open_array(one_chunk(name, encoded(name)), device=device).read()
    np.testing.assert_array_equal(to_host(found), VALUES)


@DEVICES
@EACH
def test_truncated_chunks(name: str, device: str) -> None:
    stored = encoded(name)
    for cut in (0, 1, 3, len(stored) // 2, len(stored) - 4, len(stored) - 1):
        fails_in(name, stored[:cut], device)


@EACH
def test_overlong_chunks(name: str) -> None:
    """Bytes behind a chunk are an error, or ignored where the format says that they are; they change no value."""
    refused = 0
    for rest in (b"\0", b"junk", bytes(100)):
        objects = one_chunk(name, encoded(name) + rest)
        try:
            found = gpuzarr.open_array(objects, device="cpu").read()
        except ChunkError as error:
            assert error.chunk == "0.0"
            refused += 1
        else:
            np.testing.assert_array_equal(found, VALUES)
    may_ignore = COMPRESSORS[name].codec_id in ("bz2", "lzma", "blosc", "gzip", "zlib")
    assert refused == 3 or may_ignore


@DEVICES
@EACH
def test_a_chunk_of_another_size(name: str, device: str) -> None:
    """Well formed, but not what shape and type make it."""
    flat = VALUES.reshape(-1)
    for other in (flat[:-1], np.append(flat, flat[:1])):
        fails_in(name, encoded(name, other), device)


@pytest.mark.parametrize("name", ["zlib", "gzip", "bz2", "lzma", "zstd", "blosclz4"])
def test_wrong_magic(name: str) -> None:
    stored = bytearray(encoded(name))
    stored[0] ^= 0x55
    fails_in(name, bytes(stored), "cpu")


@pytest.mark.parametrize("name", ["crc32", "crc32c", "adler32", "fletcher32", "jenkins_lookup3"])
@DEVICES
def test_checksums(name: str, device: str) -> None:
    stored = encoded(name)
    for at in (0, 8, len(stored) - 1):
        damaged = bytearray(stored)
        damaged[at] ^= 1
        assert type(fails_in(name, bytes(damaged), device)) is ChecksumError


@DEVICES
def test_raw_chunks_of_another_size(device: str) -> None:
    for nbytes in (0, 5, 7, 100):
        objects = {**v3(), "c/0/1": bytes(nbytes)}
        fails(ChunkError, objects, "chunk c/0/1", f"{nbytes} bytes", "promises 6", device=device)


@DEVICES
def test_far_too_many_bytes(device: str) -> None:
    """An object cannot be much larger than what it decodes to."""
    objects = {**v3(codecs=[LITTLE, "zstd"]), "c/0/0": bytes(40 << 20)}
    fails(ChunkError, objects, "c/0/0", device=device)


@pytest.mark.parametrize("text", [b"\xff\xfe", b"\xed\xa0\x80"])
def test_strings_that_are_not_utf8(text: bytes) -> None:
    chunk = struct.pack("<II", 1, len(text)) + text
    objects = {**v3([1], [1], codecs=["vlen-utf8"], data_type="string", fill_value=""), "c/0": chunk}
    fails(ChunkError, objects, "chunk c/0", "vlen-utf8")


@pytest.mark.parametrize(
    "chunk",
    [
        b"",
        b"\1\0\0",
        struct.pack("<I", 2**32 - 1),
        struct.pack("<I", 3) + bytes(12),
        struct.pack("<II", 2, 2**32 - 1) + bytes(8),
        struct.pack("<IIIII", 2, 0, 0, 0, 0),
        struct.pack("<II", 2, 0),
    ],
)
@pytest.mark.parametrize("codec", ["vlen-utf8", "vlen-bytes"])
def test_lengths_of_strings(codec: str, chunk: bytes) -> None:
    kind, fill = ("string", "") if codec == "vlen-utf8" else ("bytes", "")
    objects = {**v3([2], [2], codecs=[codec], data_type=kind, fill_value=fill), "c/0": chunk}
    fails(ChunkError, objects, "chunk c/0", f"codec {codec}")


@pytest.mark.parametrize(
    "chunk",
    [b"", b"[", b"[1]", b'["a","|O",[1]]', b'["a","b","|O",[9]]', b'["a","b","|O",["x"]]', b"[" * 10**5],
)
def test_json_chunks(chunk: bytes) -> None:
    objects = {**v2(shape=[2], chunks=[2], dtype="|O", filters=[{"id": "json2"}]), "0": chunk}
    fails(ChunkError, objects, "chunk 0", "json2")


# Bombs


@pytest.mark.parametrize("name", BOMBS)
@DEVICES
def test_bombs_for_chunks_of_known_size(name: str, device: str) -> None:
    codec, stored = BOMBS[name]
    fails(
        ChunkError,
        {**v3(codecs=[LITTLE, codec]), "c/0/0": stored},
        "chunk c/0/0",
        f"codec {codec}",
        device=device,
    )


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_where_only_the_stream_knows(name: str) -> None:
    codec, stored = BOMBS[name]
    objects = {**v3([2], [2], codecs=["vlen-utf8", codec], data_type="string", fill_value=""), "c/0": stored}
    with config.configured(max_chunk_nbytes=1 << 20):
        error = fails(LimitError, objects, "chunk c/0", f"codec {codec}")
    assert "max_chunk_nbytes" in str(error)


def test_a_small_lz4_chunk_that_claims_two_gigabytes() -> None:
    """Within what the configuration allows, but no LZ4 block can hold it."""
    codec, stored = BOMBS["lz4 declares"]
    objects = {**v3([2], [2], codecs=["vlen-utf8", codec], data_type="string", fill_value=""), "c/0": stored}
    fails(ChunkError, objects, "chunk c/0", "lz4")


_UNDER_A_LIMIT = """
import resource, sys
import numpy, gpuzarr
from gpuzarr.errors import GpuzarrError
from tests.hostile import BOMBS, LITTLE, v3
gpuzarr.open_array({**v3(codecs=[LITTLE, "zstd"])})[...]
pages = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_AS, (pages + (1 << 30),) * 2)
outcomes = []
for codec, stored in BOMBS.values():
    known = {**v3(codecs=[LITTLE, codec]), "c/0/0": stored}
    unknown = {**v3([2], [2], codecs=["vlen-utf8", codec], data_type="string", fill_value=""), "c/0": stored}
    for objects, most in ((known, 1 << 32), (unknown, 16 << 20)):
        with gpuzarr.configured(max_chunk_nbytes=most):
            try:
                gpuzarr.open_array(objects)[...]
            except GpuzarrError as error:
                outcomes.append(type(error).__name__)
print(len(outcomes), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_bombs_in_a_process_with_little_memory() -> None:
    """What C libraries take is not seen by tracemalloc: the process has 1 GiB of address space and stays under 200 MiB."""
    done = subprocess.run(
        [sys.executable, "-c", _UNDER_A_LIMIT],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    errors, grown = map(int, done.stdout.split())
    assert errors == 2 * len(BOMBS)
    assert grown < 200 << 10  # KiB


# Shards

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


# Documents


@pytest.mark.parametrize("name", ["zarr.json", ".zarray", ".zgroup"])
@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"", "not JSON"),
        (b"\xff{}", "not UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"[]", "no JSON object"),
        (b"null", "no JSON object"),
        (b'{"zarr_format": 2, "zarr_format": 3}', "twice"),
        (b'{"attributes": {"a": {"b": 1, "b": 1}}}', "twice"),
        (b'{"a":' + b"[" * 200000, "too deep"),
        (b'{"a":' * 200000, "too deep"),
        (b'{"a": ' + b"9" * 10000 + b"}", "not JSON"),
        (b"{}", "zarr_format None"),
        (b'{"zarr_format": 4}', "zarr_format 4"),
    ],
)
def test_documents(name: str, text: bytes, word: str) -> None:
    fails(MetadataError, {name: text}, word, "memory:")


def test_many_keys_and_one_twice() -> None:
    """Found without comparing each with each."""
    keys = [f'"{n}": 0' for n in range(200_000)]
    fails(
        MetadataError,
        {"zarr.json": ("{" + ", ".join([*keys, keys[-1]]) + "}").encode()},
        "'199999'",
        room=200 << 20,
    )


def test_a_document_larger_than_allowed() -> None:
    with config.configured(max_document_nbytes=100):
        fails(LimitError, v3(), "max_document_nbytes")


@pytest.mark.parametrize("depth", [100, 400, 900, 3000])
def test_nested_types(depth: int) -> None:
    """Python's own limit is never met: an error or a type, whatever the depth."""
    objects = v2(dtype="DTYPE")
    nested = b'[["a",' * depth + b'"<i4"' + b"]]" * depth
    objects[".zarray"] = objects[".zarray"].replace(b'"DTYPE"', nested)
    try:
        found = gpuzarr.open_array(objects).dtype
    except MetadataError as error:
        assert "nested" in str(error)
        assert depth > 100
    else:
        assert found.itemsize == 4


NOT_SIZES = [
    None,
    5,
    "45",
    [4, -6],
    [4, 6.0],
    [4, True],
    [4, "6"],
    [4, None],
    [4, [6]],
    [4, float("nan")],
    {"4": 6},
]


@pytest.mark.parametrize("value", [*NOT_SIZES, [4, 2**62], [4, 2**64], [4, 10**30], [4, float("inf")]])
@pytest.mark.parametrize("field", ["shape", "chunks"])
def test_sizes(field: str, value: Any) -> None:
    fails(MetadataError, v2(**{field: value}), field)
    there = {"shape": value} if field == "shape" else {"chunk_grid": regular(value)}
    fails(MetadataError, v3(**there), "shape" if field == "shape" else "chunk_shape")


def test_ranks() -> None:
    for rank in (33, 1000):
        fails(MetadataError, v3([1] * rank, [1] * rank), f"{rank} dimensions", "up to 32")
        fails(MetadataError, v2(shape=[1] * rank, chunks=[1] * rank), f"{rank} dimensions")
    for shape, chunks in (([4, 6], [2]), ([4], [2, 3]), ([], [1]), ([4, 6], [2, 0])):
        fails(MetadataError, v3(shape, chunks), "chunk_shape")
        fails(MetadataError, v2(shape=shape, chunks=chunks), "chunks")
    assert gpuzarr.open_array(v3([2] + [1] * 31, [1] * 32))[...].shape == (2, *[1] * 31)


@DEVICES
def test_absurd_shapes(device: str) -> None:
    for shape, chunks in (
        ([10**6] * 3, [1, 1, 1]),
        ([2**61, 3], [2**10, 1]),
        ([2**62 - 1], [1]),
        ([2**40] * 30, [1] * 30 if device == "cpu" else [2] * 30),
    ):
        if device == "cpu" or len(shape) < 16:
            objects = v3(shape, chunks, fill_value=7)
            fails(LimitError, objects, "memory", key=..., device=device)
            corner = gpuzarr.open_array(objects, device=device).read(tuple(n - 1 for n in shape))
            assert to_host(corner) == 7


@DEVICES
@pytest.mark.parametrize("chunks", [[10**6, 10**7], [2**40, 2**40], [2**61, 1]])
def test_absurd_chunks(chunks: list[int], device: str) -> None:
    for objects in (v3([4, 6], chunks), {**v3([4, 6], chunks, codecs=[LITTLE, "zstd"]), "c/0/0": bytes(9)}):
        for key in (..., (0, 0)):
            fails(LimitError, objects, "max_chunk_nbytes", key=key, device=device)


def test_too_many_pieces() -> None:
    """A result that fits, from more chunks than a plan can list."""
    fails(LimitError, v3([2**31], [1]), "parts", key=slice(0, 2**28), room=300 << 20)


@pytest.mark.parametrize(
    "dtype",
    ["|V999999999", "|S999999999", "|S0", "<U0", "|V0", [["a", "|S99999999"]], [["a", "<f8", [9999, 9999]]]],
)
def test_absurd_types(dtype: Any) -> None:
    fails(UnsupportedError, v2(dtype=dtype, fill_value=None), "bytes")


@pytest.mark.parametrize(
    ("data_type", "kind"),
    [
        ("r800000000000", UnsupportedError),
        ("r0", UnsupportedError),
        ("r7", MetadataError),
        ("uint7", UnsupportedError),
        ({"name": "null_terminated_bytes", "configuration": {"length_bytes": 2**31 - 1}}, UnsupportedError),
        ({"name": "null_terminated_bytes", "configuration": {"length_bytes": -1}}, MetadataError),
        ({"name": "fixed_length_utf32", "configuration": {"length_bytes": 5}}, MetadataError),
        ({"name": "numpy.datetime64", "configuration": {"unit": "s", "scale_factor": 2**31}}, MetadataError),
        ({"name": "numpy.datetime64", "configuration": {"unit": "x"}}, MetadataError),
        ({"name": "structured", "configuration": {"fields": []}}, MetadataError),
        ({"name": "structured", "configuration": {"fields": [["a", "string"]]}}, UnsupportedError),
        ({"name": "structured", "configuration": {"fields": [["a", "int8"], ["a", "int8"]]}}, MetadataError),
        (None, MetadataError),
        ([], MetadataError),
    ],
)
def test_types(data_type: Any, kind: type[GpuzarrError]) -> None:
    fails(kind, v3(data_type=data_type))


@pytest.mark.parametrize(
    "dtype", ["|u3", "<i5", ">f1", "int32", "", "<M8[x]", "<c4", 5, None, [["a"]], [["a", 5]], [5]]
)
def test_v2_types(dtype: Any) -> None:
    with pytest.raises(MetadataError):
        gpuzarr.open(v2(dtype=dtype))


@pytest.mark.parametrize(
    "fill", [256, -1, 0.5, "0", True, [0], {}, float("nan"), 10**400, "NaN", "\ud800", [[[[0]]]], None]
)
def test_fill_values(fill: Any) -> None:
    fails(MetadataError, v3(fill_value=fill), "fill_value")


def test_rectilinear_grids() -> None:
    def grid(*axes: Any) -> dict[str, Any]:
        return {"name": "rectilinear", "configuration": {"kind": "inline", "chunk_shapes": list(axes)}}

    for axis in (
        [2, 1],
        [0, 4],
        [-1, 5],
        [[2, 0]],
        [[2, -2]],
        [[2]],
        [True, 3],
        [2.0, 2],
        [[4, 2**40]],
        0,
        "4",
        None,
    ):
        fails(MetadataError, v3(chunk_grid=grid(axis, [6])), "chunk")
    fails(LimitError, v3([2**40, 6], chunk_grid=grid([[1, 2**40]], [6])), "listed chunk sizes")
    for wrong in ({"kind": "outline"}, {"chunk_shapes": 5}, {"chunk_shapes": [[4]]}):
        document = grid([4], [6])
        document["configuration"].update(wrong)
        fails(MetadataError, v3(chunk_grid=document), "chunk_grid")


@pytest.mark.parametrize(
    ("changes", "kind", "word"),
    [
        ({"extension": {"a": 1}}, UnsupportedError, "extension"),
        ({"extension": {"must_understand": True}}, UnsupportedError, "extension"),
        ({"extension": {"must_understand": 0}}, UnsupportedError, "extension"),
        ({"extension": 5}, UnsupportedError, "extension"),
        ({"\ud800": 5}, UnsupportedError, "\\ud800"),
        ({"storage_transformers": [{"name": "sharding"}]}, UnsupportedError, "sharding"),
        ({"storage_transformers": 5}, UnsupportedError, "5"),
        ({"chunk_key_encoding": "v9"}, UnsupportedError, "v9"),
        (
            {"chunk_key_encoding": {"name": "v2", "configuration": {"separator": ".."}}},
            MetadataError,
            "separator",
        ),
        ({"chunk_key_encoding": None}, MetadataError, "chunk_key_encoding"),
        ({"chunk_grid": "hexagonal"}, UnsupportedError, "hexagonal"),
        ({"node_type": "table"}, MetadataError, "table"),
        ({"attributes": []}, MetadataError, "attributes"),
        ({"dimension_names": ["x"]}, MetadataError, "dimension_names"),
        ({"dimension_names": [1, 2]}, MetadataError, "dimension_names"),
        ({"codecs": []}, MetadataError, "serializer"),
        ({"codecs": None}, MetadataError, "codecs"),
        ({"codecs": [5]}, MetadataError, "codecs"),
        ({"codecs": ["gzip"]}, MetadataError, "serializer"),
        ({"codecs": ["bytes", "bytes"]}, MetadataError, "serializer"),
        ({"codecs": ["gzip", "bytes"]}, MetadataError, "array codecs"),
        (
            {"codecs": ["bytes", {"name": "transpose", "configuration": {"order": [1, 0]}}]},
            MetadataError,
            "array codecs",
        ),
        ({"codecs": ["bytes", "gzp"]}, UnsupportedError, "is it gzip"),
        ({"codecs": ["bytes", "zstandard"]}, UnsupportedError, "zstd"),
        (
            {"codecs": ["bytes", {"name": "gzip", "configuration": {"level": 1, "x": 2}}]},
            MetadataError,
            "option x",
        ),
        ({"codecs": ["bytes", {"name": "gzip", "configuration": {"level": True}}]}, MetadataError, "gzip"),
        ({"codecs": ["bytes", {"name": "gzip", "configuration": []}]}, None, ""),
        ({"codecs": ["bytes", "numcodecs.pickle"]}, UnsupportedError, "pickle runs code"),
        ({"codecs": ["vlen-utf8"]}, MetadataError, "vlen-utf8"),
        ({"codecs": [{"name": "bytes", "configuration": {"endian": "middle"}}]}, MetadataError, "endian"),
    ],
)
def test_v3_documents(changes: dict[str, Any], kind: type[GpuzarrError] | None, word: str) -> None:
    if kind is None:  # an empty list for an empty object, as some writers have it
        assert gpuzarr.open_array(v3(**changes)).shape == (4, 6)
    else:
        fails(kind, v3(**changes), word)


@pytest.mark.parametrize(
    "order", [[0, 0], [0], [0, 1, 2], [0, 2], [-1, 0], [True, False], [0.0, 1.0], "CF", None, {}]
)
def test_transposes(order: Any) -> None:
    codecs = [{"name": "transpose", "configuration": {"order": order}}, "bytes"]
    fails(MetadataError, v3(codecs=codecs), "order", "transpose")


@pytest.mark.parametrize(
    ("changes", "kind", "word"),
    [
        ({"zarr_format": "2"}, MetadataError, "zarr_format"),
        ({"order": "A"}, MetadataError, "order"),
        ({"dimension_separator": "\\"}, MetadataError, "dimension_separator"),
        ({"dimension_separator": "/../"}, MetadataError, "dimension_separator"),
        ({"filters": 5}, MetadataError, "filters"),
        ({"filters": True}, MetadataError, "filters"),
        ({"filters": "zlib"}, MetadataError, "filters"),
        ({"filters": [5]}, MetadataError, "filters"),
        ({"filters": {}}, MetadataError, "filters"),
        ({"compressor": []}, MetadataError, "compressor"),
        ({"compressor": {}}, MetadataError, "id"),
        ({"compressor": {"id": 5}}, MetadataError, "id"),
        ({"compressor": {"id": "zlb"}}, UnsupportedError, "zlib"),
        ({"compressor": {"id": "pickle"}}, UnsupportedError, "pickle runs code"),
        ({"filters": [{"id": "pickle"}], "dtype": "|O"}, UnsupportedError, "pickle runs code"),
        ({"dtype": "|O"}, MetadataError, "object codec"),
        ({"dtype": "|O", "filters": [{"id": "zlib", "level": 1}]}, MetadataError, "object codec"),
    ],
)
def test_v2_documents(changes: dict[str, Any], kind: type[GpuzarrError], word: str) -> None:
    fails(kind, v2(**changes), word)


def test_pickle_is_never_run(tmp_path: Path) -> None:
    """A chunk that would leave a file behind."""
    left = tmp_path / "left"
    chunk = b"cbuiltins\nopen\n(S'" + str(left).encode() + b"'\nS'w'\ntR."
    fails(UnsupportedError, {**v2(dtype="|O", filters=[{"id": "pickle"}]), "0.0": chunk}, "pickle")
    assert not left.exists()


def test_messages_are_short_and_printable() -> None:
    error = fails(MetadataError, v3(fill_value="x" * 10**6), "fill_value", room=200 << 20)
    assert len(str(error)) < 1500
    assert str(fails(UnsupportedError, v3(codecs=["bytes", "\ud800"]))).encode()


# Keys and stores


@pytest.mark.parametrize("path", ["../a", "a/../../b", "a/./b", "a//b", "a\\b", "a\0b", "\ud800"])
def test_paths(path: str, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "zarr.json").write_bytes(v3()["zarr.json"])
    for target in ({}, tmp_path / "store"):
        with pytest.raises(StoreError, match="is not a key"):
            gpuzarr.open(target, path)


def test_an_absolute_path_is_relative(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_bytes(v3()["zarr.json"])
    with pytest.raises(NotFoundError):
        gpuzarr.open({}, str(tmp_path))


def test_a_name_too_long(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot read"):
        gpuzarr.open(tmp_path, "a" * 5000)


@pytest.mark.parametrize("group", [group_v2, group_v3])
@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../x", "a\\x"])
def test_consolidated_names(group: Any, name: str, tmp_path: Path) -> None:
    """What consolidated metadata place outside is found in the document, and its chunks are not read."""
    (tmp_path / "store").mkdir()
    for key, stored in group({name: {}}).items():
        (tmp_path / "store" / key).write_bytes(stored)
    root = gpuzarr.open(tmp_path / "store")
    (tmp_path / "x" / "c" / "0").mkdir(parents=True)
    (tmp_path / "x" / "c" / "0" / "0").write_bytes(b"secret")
    (tmp_path / "x" / "0.0").write_bytes(b"secret")
    with pytest.raises((StoreError, NotFoundError)):
        root[name][...]  # type: ignore[index]


@pytest.mark.parametrize(
    "metadata", [None, 5, [], {"a/zarr.json": 5}, {".zarray": []}, {"a": None}, {"a/.zarray": "x"}]
)
def test_consolidated_documents(metadata: Any) -> None:
    consolidated = {"zarr_consolidated_format": 1, "metadata": metadata}
    with pytest.raises(MetadataError, match="no metadata documents"):
        gpuzarr.open({".zgroup": b'{"zarr_format": 2}', ".zmetadata": json.dumps(consolidated).encode()})
    document = {
        "zarr_format": 3,
        "node_type": "group",
        "consolidated_metadata": {"kind": "inline", "metadata": metadata},
    }
    with pytest.raises(MetadataError, match="no metadata documents"):
        gpuzarr.open({"zarr.json": json.dumps(document).encode()})


def test_consolidated_children() -> None:
    """A child that is wrong is an error when it is asked for, by its own name."""
    for objects in (group_v2({"a": {"shape": [-1]}}), group_v3({"a": {"shape": [-1]}})):
        root = gpuzarr.open(objects)
        assert isinstance(root, gpuzarr.Group)
        with pytest.raises(MetadataError, match=r"shape \[-1\].*memory:/a"):
            root["a"]


def test_attributes() -> None:
    for text, word in ((b"[]", "no JSON object"), (b"\xff", "UTF-8"), (b"{", "JSON")):
        array = gpuzarr.open_array({**v2(), ".zattrs": text})
        with pytest.raises(MetadataError, match=word) as raised:
            array.attrs  # noqa: B018
        assert raised.value.array == "memory:"


def test_links_out_of_the_store(tmp_path: Path) -> None:
    outside, store = tmp_path / "outside", tmp_path / "store"
    (outside / "c" / "0").mkdir(parents=True)
    (outside / "c" / "0" / "0").write_bytes(b"secret")
    (outside / "zarr.json").write_bytes(v3()["zarr.json"])
    (store / "c").mkdir(parents=True)
    (store / "a").symlink_to(outside)
    with pytest.raises(StoreError, match="outside"):
        gpuzarr.open(store, "a")
    (store / "zarr.json").symlink_to(outside / "zarr.json")
    fails(StoreError, store, "outside", "follow_symlinks")
    (store / "zarr.json").unlink()
    (store / "zarr.json").write_bytes(v3()["zarr.json"])
    (store / "c" / "0").symlink_to(outside / "c" / "0")
    fails(StoreError, store, "outside")
    (store / "c" / "0").unlink()
    (store / "c" / "0").mkdir()
    (store / "c" / "0" / "0").symlink_to(outside / "c" / "0" / "0")
    fails(StoreError, store, "outside", "c/0/0")
    meant = gpuzarr.open_array(store, storage_options={"follow_symlinks": True})
    assert meant[:2, :3].tobytes() == b"secret"


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").symlink_to(tmp_path / "zarr.json")
    with pytest.raises(StoreError):
        gpuzarr.open(tmp_path)


def test_pipes(tmp_path: Path) -> None:
    """Reading a named pipe would wait for a writer for ever."""
    os.mkfifo(tmp_path / "zarr.json")
    with pytest.raises(GpuzarrError):
        gpuzarr.open(tmp_path)
    os.remove(tmp_path / "zarr.json")
    (tmp_path / "zarr.json").write_bytes(v3()["zarr.json"])
    (tmp_path / "c" / "0").mkdir(parents=True)
    os.mkfifo(tmp_path / "c" / "0" / "0")
    with pytest.raises(GpuzarrError):
        gpuzarr.open_array(tmp_path)[...]


def _sparse(path: Path, nbytes: int, end: bytes = b"") -> None:
    """A file of many zeros that takes no room on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(path, "wb") as file:
            file.truncate(nbytes)
            file.seek(0, os.SEEK_END)
            file.write(end)
    except OSError as error:
        pytest.skip(f"no sparse files here: {error}")


@DEVICES
def test_files_larger_than_memory(device: str, tmp_path: Path) -> None:
    _sparse(tmp_path / "zarr.json", 1 << 36)
    fails(LimitError, tmp_path, "max_document_nbytes", device=device)
    (tmp_path / "zarr.json").write_bytes(v3(codecs=[LITTLE, "zstd"])["zarr.json"])
    _sparse(tmp_path / "c" / "0" / "0", 1 << 36)
    fails(ChunkError, tmp_path, "c/0/0", f"{1 << 36} encoded bytes", device=device)
    (tmp_path / "zarr.json").write_bytes(v3([2, 3], [2, 3], codecs=[sharding("end", False)])["zarr.json"])
    _sparse(tmp_path / "c" / "0" / "0", 1 << 36, struct.pack("<4Q", 0, 1 << 36, 2**64 - 1, 2**64 - 1))
    fails(ChunkError, tmp_path, "c/0/0", f"{1 << 36} encoded bytes", device=device)


@DEVICES
def test_an_index_larger_than_its_shard(device: str, tmp_path: Path) -> None:
    """80 GiB of index at the start of a file of 100 bytes: what is read is the file."""
    codecs = [sharding("start", True, [1, 1])]
    (tmp_path / "zarr.json").write_bytes(v3([2, 3], [10**5, 54000], codecs=codecs)["zarr.json"])
    (tmp_path / "c" / "0").mkdir(parents=True)
    (tmp_path / "c" / "0" / "0").write_bytes(bytes(100))
    fails(ChunkError, tmp_path, "c/0/0", "the shard index has 100 bytes", device=device)


def test_archives_that_lie(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(StoreError, match="not a zip archive"):
        gpuzarr.open(archive)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writer:
        writer.writestr("zarr.json", bytes(80 << 20))
    fails(LimitError, archive, "max_document_nbytes")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as writer:
        writer.writestr("zarr.json", v3()["zarr.json"])
        writer.writestr("c/0/0", bytes(80 << 20))
        writer.writestr("../zarr.json", b"{}")
    fails(ChunkError, archive, "c/0/0", "encoded bytes")
    stored = bytearray(archive.read_bytes())
    at = stored.index(v3()["zarr.json"][:0] + b"c/0/0")
    stored[at + 20] ^= 0xFF
    archive.write_bytes(bytes(stored))
    fails(ChunkError, archive, "c/0/0")
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr("zarr.json", v3()["zarr.json"])
        writer.writestr("c/0/0", b"abcdef")
    damaged = archive.read_bytes().replace(b"abcdef", b"abcdeF")
    archive.write_bytes(damaged)
    fails(StoreError, archive, "CRC")


@pytest.mark.parametrize(
    "key", [(4, 0), (0, -7), 1.5, "a", (0, 0, 0), ([9], 0), np.zeros((3, 3), bool), 2**70, (..., ...)]
)
def test_keys(key: Any) -> None:
    with pytest.raises(SelectionError):
        gpuzarr.open_array(v3())[key]


def test_a_gzip_member_whose_size_lies() -> None:
    """The last four bytes say the size, and are checked."""
    stored = bytearray(gzip.compress(bytes(6)))
    stored[-4:] = (7).to_bytes(4, "little")
    fails(ChunkError, {**v3(codecs=[LITTLE, "gzip"]), "c/0/0": bytes(stored)}, "c/0/0", "gzip")


def test_crc32c_is_the_oracles() -> None:
    body = bytes(range(6))
    good = body + int(google_crc32c.value(body)).to_bytes(4, "little")
    objects = {**v3(codecs=[LITTLE, "crc32c"]), "c/0/0": good}
    assert gpuzarr.open_array(objects)[:2, :3].tobytes() == body
    for wrong in (good[:-1] + bytes([good[-1] ^ 1]), good[::-1]):
        fails(ChecksumError, {**v3(codecs=[LITTLE, "crc32c"]), "c/0/0": wrong}, "c/0/0", "crc32c")
