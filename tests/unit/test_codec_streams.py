"""gzip members, bzip2 and LZMA streams: several of them, what lies behind them, and bombs. Python's own are
the oracle."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest

import gpuzarr.codecs.gzip
import gpuzarr.codecs.zlib
from gpuzarr import config
from gpuzarr.codecs import registry
from gpuzarr.codecs.base import ChunkSpec, Codec
from gpuzarr.codecs.bz2 import BZ2
from gpuzarr.codecs.gzip import Gzip
from gpuzarr.codecs.lzma import LZMA
from gpuzarr.errors import ChunkError, GpuzarrError, LimitError, MetadataError

TEXT = b"the quick brown fox " * 200


def spec(nbytes: int | None) -> ChunkSpec:
    return ChunkSpec((), np.dtype("u1"), nbytes)


def member(text: bytes, flags: int = 0) -> bytes:
    """A gzip member with the optional fields that `flags` names (RFC 1952)."""
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
    head = b"\x1f\x8b\x08" + bytes([flags]) + bytes(4) + b"\x00\xff"
    if flags & 4:
        head += b"\x05\x00extra"
    if flags & 8:
        head += b"name\0"
    if flags & 16:
        head += b"comment\0"
    if flags & 2:
        head += (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little")
    body = deflate.compress(text) + deflate.flush()
    return (
        head + body + zlib.crc32(text).to_bytes(4, "little") + (len(text) & 0xFFFFFFFF).to_bytes(4, "little")
    )


@pytest.mark.parametrize("flags", [0, 1, 2, 4, 8, 16, 30])
def test_gzip_headers(flags: int) -> None:
    chunk = member(TEXT, flags)
    assert gzip.decompress(chunk) == TEXT
    assert bytes(Gzip().decode(chunk, spec(len(TEXT)))) == TEXT


@pytest.mark.parametrize("behind", [b"", bytes(1), bytes(700)])
@pytest.mark.parametrize(
    "parts", [(TEXT, b"more"), (b"", TEXT), (TEXT, b"", b"", b"x" * 40000), (b"a",) * 300]
)
def test_gzip_members(parts: tuple[bytes, ...], behind: bytes) -> None:
    chunk = b"".join(map(member, parts)) + behind
    plain = gzip.GzipFile(fileobj=io.BytesIO(chunk)).read()
    assert plain == b"".join(parts)
    for nbytes in (len(plain), None):
        assert bytes(Gzip().decode(chunk, spec(nbytes))) == plain
    for wrong in (len(plain) + 1, len(plain) - 1):
        with pytest.raises(ChunkError):
            Gzip().decode(chunk, spec(wrong))


@pytest.mark.parametrize(
    "chunk",
    [
        b"",
        member(TEXT)[:-1],
        member(TEXT)[:-4] + b"\1\0\0\0",
        member(TEXT)[:-8] + b"\1\0\0\0" + member(TEXT)[-4:],
        member(TEXT) + b"junk",
        member(TEXT) + bytes(3) + b"junk",
        member(TEXT) + member(b"")[:-2],
        b"\x1f\x8b\x07" + member(TEXT)[3:],
        zlib.compress(TEXT),
    ],
)
@pytest.mark.parametrize("nbytes", [len(TEXT), None])
def test_gzip_damage(chunk: bytes, nbytes: int | None) -> None:
    if chunk:  # an empty file is one for Python, and no chunk for us
        with pytest.raises((OSError, EOFError, zlib.error)):
            gzip.decompress(chunk)
    with pytest.raises(ChunkError):
        Gzip().decode(chunk, spec(nbytes))


def test_gzip_is_the_same_twice() -> None:
    assert Gzip(5).encode(TEXT, spec(len(TEXT))) == Gzip(5).encode(TEXT, spec(len(TEXT)))


@pytest.mark.parametrize("inflater", [zlib, gpuzarr.codecs.zlib.inflater], ids=lambda module: module.__name__)
@pytest.mark.parametrize("kind", [gpuzarr.codecs.gzip, gpuzarr.codecs.zlib], ids=lambda one: one.__name__)
def test_inflaters_agree(monkeypatch: pytest.MonkeyPatch, kind: Any, inflater: Any) -> None:
    """ISA-L, and zlib where that is missing: the same bytes and the same refusals."""
    monkeypatch.setattr(kind, "inflater", inflater)
    subject = kind.Gzip() if kind is gpuzarr.codecs.gzip else kind.Zlib()
    plain = np.random.default_rng(0).integers(0, 9, 5000, np.uint8)
    expected = ChunkSpec.of(plain.shape, plain.dtype)
    whole = bytearray(subject.encode(plain, expected))
    assert bytes(subject.decode(whole, expected)) == plain.tobytes()
    for position in (0, 2, 100, len(whole) - 2, len(whole) - 5):
        broken = bytearray(whole)
        broken[position] ^= 0x11
        with pytest.raises(ChunkError):
            subject.decode(broken, expected)
    for cut in (0, 1, 9, len(whole) // 2, len(whole) - 1):
        with pytest.raises(ChunkError):
            subject.decode(whole[:cut], expected)


def test_gzip_reserved_flags() -> None:
    """RFC 1952: a reserved bit that is set must be an error."""
    with pytest.raises(ChunkError):
        Gzip().decode(member(TEXT, 0xE0), spec(None))


def _unxz(chunk: bytes) -> bytes:
    return lzma.decompress(chunk, lzma.FORMAT_XZ)


STREAMS: list[tuple[Codec, Any, Any, Exception]] = [
    (BZ2(), bz2.compress, bz2.decompress, OSError()),
    (LZMA(), lzma.compress, _unxz, lzma.LZMAError()),
    (LZMA(format=0), lambda text: lzma.compress(text, lzma.FORMAT_ALONE), lzma.decompress, lzma.LZMAError()),
]


@pytest.mark.parametrize(("codec", "compress", "decompress", "fault"), STREAMS)
@pytest.mark.parametrize(
    "behind", [b"", b"junk behind", bytes(40), b"\xfd7zXZ\0junk junk junk", b"BZh9junk junk"]
)
def test_streams(codec: Codec, compress: Any, decompress: Any, fault: Exception, behind: bytes) -> None:
    for parts in ((TEXT,), (TEXT, b"more"), (b"", TEXT, b"")):
        chunk = b"".join(map(compress, parts)) + behind
        try:
            plain = decompress(chunk)
        except (ValueError, EOFError, type(fault)):
            with pytest.raises(ChunkError):
                codec.decode(chunk, spec(None))
            continue
        for nbytes in (len(plain), None):
            assert bytes(codec.decode(chunk, spec(nbytes))) == plain


@pytest.mark.parametrize(("codec", "compress", "decompress", "fault"), STREAMS)
def test_many_streams(codec: Codec, compress: Any, decompress: Any, fault: Exception) -> None:
    """What decompressors leave over is not copied whole for each stream."""
    chunk = compress(b"") * 2000 + compress(TEXT)
    assert bytes(codec.decode(chunk, spec(len(TEXT)))) == TEXT == decompress(chunk)


def bomb(name: str, nbytes: int) -> bytes:
    zeros = bytes(nbytes)
    if name == "lzma":
        return lzma.compress(zeros, preset=0)  # with a small dictionary: that is memory, too
    return {"gzip": gzip.compress, "zlib": zlib.compress, "bz2": bz2.compress}[name](zeros)


@pytest.mark.parametrize("name", ["gzip", "zlib", "bz2", "lzma"])
def test_bombs(name: str) -> None:
    """16 MiB in a few KiB: no more memory than what was promised or allowed, and some for the
    decompressor."""
    chunk = bomb(name, 16 << 20)
    codec = registry.from_v2({"id": name})
    tracemalloc.start()
    try:
        with pytest.raises(ChunkError, match="decodes to"):
            codec.decode(chunk, spec(1000))
        with config.configured(max_chunk_nbytes=1 << 20), pytest.raises(LimitError, match="max_chunk_nbytes"):
            codec.decode(chunk, spec(None))
        assert tracemalloc.get_traced_memory()[1] < 6 << 20
    finally:
        tracemalloc.stop()


def test_a_dictionary_that_the_chunk_did_not_earn() -> None:
    greedy = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]
    with pytest.raises(LimitError, match="dictionary"):
        LZMA.from_config({"format": 3, "filters": greedy}).decode(b"\0", spec(1000))
    # The header of an .lzma file asks for 2 GiB.
    alone = bytearray(lzma.compress(TEXT, lzma.FORMAT_ALONE))
    alone[1:5] = (1 << 31).to_bytes(4, "little")
    assert lzma.decompress(bytes(alone)) == TEXT
    with pytest.raises(ChunkError, match=r"[Mm]emory"):
        LZMA(format=2).decode(bytes(alone), spec(len(TEXT)))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gzip", {"level": 10}),
        ("gzip", {"level": 1.0}),
        ("bz2", {"level": 0}),
        ("lzma", {"format": 4}),
        ("lzma", {"format": 3}),
        ("lzma", {"filters": 3}),
        ("lzma", {"filters": [3]}),
        ("lzma", {"format": 3, "filters": [{"id": "x"}]}),
        ("lzma", {"preset": "9"}),
    ],
)
def test_options_are_checked(name: str, options: dict[str, object]) -> None:
    with pytest.raises(MetadataError) as error:
        registry.from_v2({"id": name, **options})
    assert name in str(error.value)


def test_errors_are_gpuzarrs() -> None:
    for codec in (Gzip(), BZ2(), LZMA()):
        with pytest.raises(GpuzarrError):
            codec.decode(b"\x1f\x8b\x08\0nonsense", spec(None))
