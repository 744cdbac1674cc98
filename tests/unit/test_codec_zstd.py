"""Frames of RFC 8878, written by hand: several, skippable, of unknown size, and lying ones."""

from __future__ import annotations

import struct

import numcodecs
import numpy as np
import pytest

from gpuzarr import config
from gpuzarr.codecs.base import ChunkSpec
from gpuzarr.codecs.zstd import Zstd, content_size, frames
from gpuzarr.errors import ChunkError, LimitError, MetadataError

MAGIC = struct.pack("<I", 0xFD2FB528)
SKIPPABLE = struct.pack("<II", 0x184D2A53, 5) + b"extra"


def spec(nbytes: int | None) -> ChunkSpec:
    return ChunkSpec((), np.dtype("u1"), nbytes)


def block(kind: int, size: int, body: bytes, last: bool = False) -> bytes:
    return (last | kind << 1 | size << 3).to_bytes(3, "little") + body


def raw(text: bytes, last: bool = True) -> bytes:
    return block(0, len(text), text, last)


def run(byte: bytes, count: int, last: bool = True) -> bytes:
    return block(1, count, byte, last)


def unsized(*blocks: bytes) -> bytes:
    """A frame that does not say its size, with a window of 128 KiB."""
    return MAGIC + bytes([0x00, 0x38]) + b"".join(blocks)


def sized(content: int, *blocks: bytes) -> bytes:
    """A frame in one segment that says its size in eight bytes."""
    return MAGIC + bytes([0xE0]) + struct.pack("<Q", content) + b"".join(blocks)


WHOLE = {
    "raw": (unsized(raw(b"abc")), b"abc", None),
    "run": (unsized(run(b"x", 1000)), b"x" * 1000, None),
    "two blocks": (unsized(raw(b"abc", False), run(b"x", 70000)), b"abc" + b"x" * 70000, None),
    "sized": (sized(3, raw(b"abc")), b"abc", 3),
    "two frames": (sized(3, raw(b"abc")) + sized(2, raw(b"de")), b"abcde", 5),
    "skippable first": (SKIPPABLE + sized(3, raw(b"abc")), b"abc", 3),
    "skippable last": (sized(3, raw(b"abc")) + SKIPPABLE, b"abc", 3),
    "an empty frame last": (sized(3, raw(b"abc")) + sized(0, raw(b"")), b"abc", 3),
    "unsized, then sized": (unsized(raw(b"abc")) + sized(2, raw(b"de")), b"abcde", None),
    "sized, then unsized": (sized(2, raw(b"de")) + SKIPPABLE + unsized(raw(b"abc")), b"deabc", None),
    "numcodecs": (numcodecs.Zstd(3, True).encode(b"abc" * 50) + SKIPPABLE, b"abc" * 50, 150),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("known", [True, False])
def test_frames_decode(name: str, known: bool) -> None:
    chunk, plain, content = WHOLE[name]
    assert bytes(Zstd().decode(chunk, spec(len(plain) if known else None))) == plain
    assert content_size(chunk) == content
    found = list(frames(chunk))
    assert sum(frame.nbytes for frame in found) == len(chunk)
    assert sum(frame.bound for frame in found) >= len(plain)
    if "unsized" not in name:
        assert bytes(numcodecs.Zstd().decode(chunk)) == plain


@pytest.mark.parametrize("name", WHOLE)
def test_promises_are_kept_to_the_byte(name: str) -> None:
    chunk, plain, _ = WHOLE[name]
    for nbytes in (len(plain) - 1, len(plain) + 1, 0, 10 * len(plain)):
        with pytest.raises(ChunkError):
            Zstd().decode(chunk, spec(nbytes))


@pytest.mark.parametrize("name", WHOLE)
def test_every_truncation_is_found(name: str) -> None:
    chunk, plain, _ = WHOLE[name]
    boundaries = {0, *(frame.start for frame in frames(chunk))}  # whole frames, but fewer of them
    for length in sorted({*range(min(len(chunk), 100)), len(chunk) - 1} - boundaries):
        for nbytes in (len(plain), None):
            with pytest.raises(ChunkError):
                Zstd().decode(chunk[:length], spec(nbytes))


LIES = {
    "empty": b"",
    "empty content": numcodecs.Zstd().encode(b""),
    "only skippable": SKIPPABLE,
    "no frame": b"not a frame, not at all",
    "a frame, then none": sized(3, raw(b"abc")) + b"junk",
    "more than its blocks": sized(2**40, run(b"x", 1000)),
    "less than its blocks": sized(3, raw(b"abcd")),
    "a reserved bit": MAGIC + b"\x08\x38" + raw(b"abc"),
    "a reserved block": unsized(block(3, 3, b"abc", True)),
    "an unknown dictionary": MAGIC + b"\x01\x38\x07" + raw(b"abc"),
    "a wrong checksum": numcodecs.Zstd(1, True).encode(b"abc" * 9)[:-1] + b"?",
    "skippable beyond the end": struct.pack("<II", 0x184D2A50, 2**31) + b"x",
}


@pytest.mark.parametrize("name", LIES)
@pytest.mark.parametrize("nbytes", [3, 27, None])
def test_lies(name: str, nbytes: int | None) -> None:
    with pytest.raises(ChunkError):
        Zstd().decode(LIES[name], spec(nbytes))


def test_what_nobody_promised_is_bounded() -> None:
    """3 MiB in 34 bytes of runs: refused by their sizes, whether the frame says them or not."""
    runs = [run(b"x", 128 << 10, False)] * 23 + [run(b"x", 128 << 10)]
    plain = 3 << 20
    for chunk in (
        unsized(*runs),
        sized(plain, *runs),
        unsized(*runs[:-2], runs[-1]) + sized(128 << 10, runs[-1]),
    ):
        with config.configured(max_chunk_nbytes=plain):
            assert len(bytes(Zstd().decode(chunk, spec(None)))) == plain
        with (
            config.configured(max_chunk_nbytes=plain - 1),
            pytest.raises(LimitError, match="max_chunk_nbytes"),
        ):
            Zstd().decode(chunk, spec(None))


@pytest.mark.parametrize(
    "options", [{"level": 23}, {"level": "3"}, {"level": True}, {"checksum": 1}, {"windowLog": 3}]
)
def test_options_are_checked(options: dict[str, object]) -> None:
    with pytest.raises(MetadataError, match=next(iter(options))):
        Zstd.from_config(options)
