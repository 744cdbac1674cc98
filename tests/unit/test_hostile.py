"""Chunks that lie: one gpuzarr error of the right class, which says where; no crash, no wrong bytes, no
memory that was not earned."""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys
from pathlib import Path

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
)
from tests.conftest import to_host
from tests.hostile import (
    BOMBS,
    DEVICES,
    LITTLE,
    VALUES,
    fails,
    v2,
    v3,
)

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
    """Bytes behind a chunk are an error, or ignored where the format says so; they change no value."""
    refused = 0
    for rest in (b"\0", b"junk", bytes(100)):
        objects = one_chunk(name, encoded(name) + rest)
        try:
            found = gpuzarr.open_array(objects, device="cpu").read()
        except ChunkError:
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
    """What C libraries take is not seen by tracemalloc: the process has 1 GiB of address space and stays
    under 200 MiB."""
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
