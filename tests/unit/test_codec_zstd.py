"""Frames of RFC 8878, written by hand: several, skippable, of unknown size, and lying ones."""

from __future__ import annotations

import struct
import threading

import numcodecs
import numpy as np
import pytest

from gpuzarr import config
from gpuzarr.codecs import zstd_library
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


# ---- the beginning of a chunk

LIBRARY = pytest.mark.skipif(
    zstd_library.decoder() is None, reason="numcodecs shows no functions of its libzstd here"
)
FULL = 128 << 10
PLAIN = np.random.default_rng(5).integers(0, 40, 5 * FULL // 2 + 77, np.uint16).view(np.uint8)
"""A little more than five full blocks."""


def part(chunk: bytes, nbytes: int, end: int) -> np.ndarray | None:
    """What `decode_part` makes of memory full of 0xA5."""
    out = np.full(nbytes, 0xA5, np.uint8)
    return out if Zstd().decode_part(chunk, spec(nbytes), out, 0, end) else None


@LIBRARY
@pytest.mark.parametrize("end", [1, FULL - 1, FULL, FULL + 1, 2 * FULL, 4 * FULL, 5 * FULL])
@pytest.mark.parametrize("level", [-5, 1, 12])
def test_only_blocks_up_to_the_end_are_decoded(end: int, level: int) -> None:
    out = part(numcodecs.zstd.compress(PLAIN, level), PLAIN.nbytes, end)
    assert out is not None
    assert np.array_equal(out[:end], PLAIN[:end])
    # Up to two blocks more may be there: the rest of the last one, and what its wide copies spill.
    assert (out[min(end + 2 * FULL, PLAIN.nbytes) :] == 0xA5).all()


@LIBRARY
def test_all_blocks_are_not_decoded_as_a_part() -> None:
    chunk = numcodecs.zstd.compress(PLAIN, 1)
    assert part(chunk, PLAIN.nbytes, 5 * FULL + 1) is None
    small = PLAIN[:1000].tobytes()
    assert part(numcodecs.zstd.compress(small, 1), 1000, 1) is None


@LIBRARY
@pytest.mark.parametrize("end", [1, 5000, 40_000, 250_000])
def test_blocks_of_many_sizes(end: int) -> None:
    """Their sizes are known once they are decoded, so blocks are given as the pace so far suggests."""
    rng, blocks, plain = np.random.default_rng(end), [], b""
    while len(plain) < 300_000:
        text = bytes(rng.integers(0, 256, int(rng.choice([0, 1, 9000, 30_000])), np.uint8))
        if rng.integers(2):
            text = b"x" * (len(text) + 1)
            blocks.append(run(b"x", len(text), False))
        else:
            blocks.append(raw(text, False))
        plain += text
    blocks.append(raw(b"the end"))
    plain += b"the end"
    windowed = MAGIC + bytes([0xC0, 0x38]) + struct.pack("<Q", len(plain)) + b"".join(blocks)
    for chunk in (sized(len(plain), *blocks), windowed):
        out = part(chunk, len(plain), end)
        assert out is not None
        assert bytes(out[:end]) == plain[:end]
        assert bytes(Zstd().decode(chunk, spec(len(plain)))) == plain


CHUNK = numcodecs.zstd.compress(PLAIN, 3)
ODD = {
    "a checksum": numcodecs.zstd.compress(PLAIN, 3, True),
    "another frame behind it": CHUNK + sized(0, raw(b"")),
    "skippable first": SKIPPABLE + CHUNK,
    "stray bytes behind it": CHUNK + b"junk",
    "cut off": CHUNK[:-1],
    "of another size": sized(PLAIN.nbytes + 1, raw(b"abc", False), *[run(b"x", FULL, False)] * 5, raw(b"")),
    "no size": unsized(*[run(b"x", FULL, False)] * 5, run(b"x", PLAIN.nbytes - 5 * FULL)),
    "very many blocks": sized(PLAIN.nbytes, *[raw(b"", False)] * 1000, raw(b"abc")),
    "a dictionary": MAGIC + bytes([0xE1, 7]) + struct.pack("<Q", PLAIN.nbytes) + run(b"x", FULL, False) * 6,
    "no frame": b"not a frame, not at all",
    "nothing": b"",
    "the header alone": CHUNK[:5],
    "less than is wanted": sized(PLAIN.nbytes, raw(b"abc", False), raw(b"")),
    "more than it says": sized(PLAIN.nbytes, *[run(b"x", FULL + 1, False)] * 6, raw(b"")),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_chunks_are_decoded_whole_or_refused(name: str) -> None:
    try:
        assert part(ODD[name], PLAIN.nbytes, 2 * FULL) is None
    except ChunkError:
        assert name == "the header alone"


@LIBRARY
def test_a_part_of_a_damaged_frame() -> None:
    """What lies behind the part is not looked for; before that, bytes are libzstd's own or there are none."""
    end, rng = FULL, np.random.default_rng(2)
    tail = bytearray(CHUNK)
    tail[-50:-40] = b"?" * 10
    out = part(bytes(tail), PLAIN.nbytes, end)
    assert out is not None
    assert np.array_equal(out[:end], PLAIN[:end])
    with pytest.raises(ChunkError, match="damaged"):
        Zstd().decode(bytes(tail), spec(PLAIN.nbytes))
    refused = 0
    for _ in range(100):
        damaged = bytearray(CHUNK)
        for at in rng.integers(0, len(damaged) // 5, 3):
            damaged[at] = rng.integers(256)
        try:
            whole = numcodecs.zstd.decompress(bytes(damaged))
        except RuntimeError:
            whole = None
        try:
            out = part(bytes(damaged), PLAIN.nbytes, end)
        except ChunkError:
            out = None
        refused += out is None
        if out is not None and whole is not None and len(whole) == PLAIN.nbytes:
            assert bytes(out[:end]) == whole[:end]
    assert refused > 20


def test_without_the_library_numcodecs_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zstd_library, "_library", lambda: None)
    monkeypatch.setattr(zstd_library, "_local", threading.local())
    assert zstd_library.decoder() is None
    assert part(CHUNK, PLAIN.nbytes, FULL) is None
    assert np.array_equal(np.frombuffer(Zstd().decode(CHUNK, spec(PLAIN.nbytes)), np.uint8), PLAIN)
    with pytest.raises(ChunkError, match="damaged"):
        Zstd().decode(CHUNK[:-1], spec(PLAIN.nbytes))


@pytest.mark.parametrize("library", ["/no/such/library.so", None])
def test_a_library_that_shows_nothing(monkeypatch: pytest.MonkeyPatch, library: str | None) -> None:
    """Libraries that export no functions, or that are missing."""
    from numcodecs import zstd

    other = numcodecs.compat_ext.__file__ if library is None else library
    monkeypatch.setattr(zstd, "__file__", other)
    assert zstd_library._library.__wrapped__() is None


@LIBRARY
def test_each_thread_has_a_decoder() -> None:
    """A thread in the middle of a frame is not disturbed by others."""
    wrong: list[int] = []

    def work(seed: int) -> None:
        plain = np.random.default_rng(seed).integers(0, 50, 3 * FULL, np.uint8)
        chunk = numcodecs.zstd.compress(plain, 1)
        for end in (FULL, 2 * FULL, FULL, 1):
            out = part(chunk, plain.nbytes, end)
            whole = np.frombuffer(Zstd().decode(chunk, spec(plain.nbytes)), np.uint8)
            if out is None or not np.array_equal(out[:end], plain[:end]) or not np.array_equal(whole, plain):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
