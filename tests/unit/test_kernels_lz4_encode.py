"""LZ4 blocks that the device makes: numcodecs decodes them, in the four thread orders they are the same, and
they keep to the format and to their room."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import lz4

from gpuzarr.codecs.lz4 import LZ4
from gpuzarr.testing.device import download
from tests.devices import DEVICES, lane_of
from tests.fuzz_kernels import lz4_sequence, on_device, values

UNTOUCHED = 0xC3


def bound(nbytes: int) -> int:
    """No block of so many bytes is larger."""
    return nbytes + nbytes // 255 + 16


def encoded(
    parts: Sequence[bytes],
    order: str = DEVICES[0],
    *,
    room: int | None = None,
    sized: bool = False,
    gap: int = 0,
    blocks: int | None = None,
    threads: int = 32,
    sizes: Sequence[int] | None = None,
) -> list[bytes | None]:
    """What the device makes of each string, each `gap` bytes behind a multiple of 16 on both sides; None
    where it has no room. What lies around the rooms is left as it is."""
    data, src_offset = bytearray(), []
    for part in parts:
        data += b"\xee" * (-len(data) % 16 + gap)
        src_offset.append(len(data))
        data += part
    if room is None:
        room = bound(max(map(len, parts))) + 4 * sized
    pitch = (max(room, 0) + gap + 31) // 16 * 16
    dst_offset = np.arange(len(parts), dtype=np.int64) * pitch + gap
    lane = lane_of(order)
    dst = lane.upload(np.full(len(parts) * pitch, UNTOUCHED, np.uint8))
    dst_nbytes = lane.empty(8 * len(parts))
    lane.launch(
        "gz_lz4_encode",
        len(parts) if blocks is None else blocks,
        threads,
        src=np.frombuffer(bytes(data) or b"\0", np.uint8),
        src_offset=np.array(src_offset, np.int64),
        src_nbytes=np.array([len(part) for part in parts] if sizes is None else sizes, np.int64),
        dst=dst,
        dst_offset=dst_offset,
        dst_nbytes=dst_nbytes,
        room=room,
        streams=len(parts),
        sized=int(sized),
    )
    made = np.frombuffer(download(lane, dst), np.uint8).reshape(len(parts), pitch)
    nbytes = np.frombuffer(download(lane, dst_nbytes), np.int64).tolist()
    lane.reset()
    assert (made[:, :gap] == UNTOUCHED).all()
    assert (made[:, gap + max(room, 0) :] == UNTOUCHED).all()
    assert all(n == -1 or 0 < n <= room for n in nbytes)
    return [None if n < 0 else row[gap : gap + n].tobytes() for row, n in zip(made, nbytes, strict=True)]


def sequences(block: bytes) -> Iterator[tuple[int, int, int]]:
    """Of each sequence the number of literals, the offset and the length of its match; zeros for the last."""
    at = 0

    def whole(length: int) -> int:
        nonlocal at
        more = length == 15
        while more:
            length, more, at = length + block[at], block[at] == 255, at + 1
        return length

    while True:
        token, at = block[at], at + 1
        run = whole(token >> 4)
        at += run
        if at == len(block):
            yield run, 0, 0
            return
        offset, at = block[at] | block[at + 1] << 8, at + 2
        yield run, offset, whole(token & 15) + 4


def check(block: bytes | None, plain: bytes) -> None:
    """numcodecs makes the string of it, and the ends of the block are as the format wants them."""
    assert block is not None
    if not plain:
        assert block == b"\0"
        return
    assert bytes(lz4.decompress(struct.pack("<i", len(plain)) + block)) == plain
    *matches, (run, _, _) = sequences(block)
    at = 0
    for literals, offset, length in matches:
        at += literals
        assert 1 <= offset <= min(at, 65535)
        assert at <= len(plain) - 12
        at += length
    assert run >= min(5, len(plain))
    assert at + run == len(plain)


def round_trip(parts: Sequence[bytes], gap: int = 0) -> list[bytes]:
    """The blocks, which are the same in every order."""
    first = encoded(parts, gap=gap)
    for block, plain in zip(first, parts, strict=True):
        check(block, plain)
    for order in DEVICES[1:]:
        assert encoded(parts, order, gap=gap) == first
    return [block for block in first if block is not None]


def noise(nbytes: int, seed: int = 0, top: int = 256) -> bytes:
    return np.random.default_rng((nbytes, seed)).integers(0, top, nbytes, dtype=np.uint8).tobytes()


def mixture(nbytes: int, seed: int = 0) -> bytes:
    """Noise, runs, words and what was there before, in turn."""
    rng = np.random.default_rng((nbytes, seed))
    made = bytearray()
    words = [rng.bytes(int(n)) for n in rng.integers(2, 12, 40)]
    while len(made) < nbytes:
        kind, many = rng.integers(4), int(rng.integers(1, 400))
        if kind == 0:
            made += rng.bytes(many)
        elif kind == 1:
            made += bytes([int(rng.integers(3))]) * many
        elif kind == 2:
            made += b"".join(words[int(k)] for k in rng.integers(0, len(words), many // 5 + 1))
        else:
            at = int(rng.integers(0, len(made) + 1))
            made += made[at : at + many]
    return bytes(made[:nbytes])


@pytest.mark.parametrize("gap", [0, 1, 2, 7])
def test_small_sizes(gap: int) -> None:
    """All of them, at any alignment; of nothing, a token."""
    parts = [b""] + [part for nbytes in range(1, 41) for part in values(nbytes)]
    round_trip([*parts, bytes(40)], gap)  # the last one is compared as far as the end of the memory


@pytest.mark.parametrize("nbytes", [64, 300, 1000, 4096, 20011])
def test_bytes_of_all_kinds(nbytes: int) -> None:
    round_trip([*values(nbytes), mixture(nbytes), noise(nbytes, top=2), noise(nbytes, top=4)], nbytes % 5)


@pytest.mark.parametrize("nbytes", [65534, 65535, 65536, 65537, 65548])
def test_about_64_kib(nbytes: int) -> None:
    round_trip([mixture(nbytes), noise(nbytes), bytes(nbytes)])


def test_a_mib() -> None:
    """In one order: the others have seen the same on less."""
    plain = mixture(1 << 20)
    (block,) = encoded([plain])
    check(block, plain)


@pytest.mark.parametrize("period", [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 31, 32, 33, 100])
def test_periods(period: int) -> None:
    """Found within three windows at most, wherever they begin and end."""
    parts = [
        noise(before, 1) + (noise(period, 2) * 2000)[:length] + noise(behind, 3)
        for before in (0, 1, 30, 33)
        for length in (60, 250, 2000)
        for behind in (0, 3, 40)
    ]
    for block, plain in zip(round_trip(parts), parts, strict=True):
        assert len(block) < 85 + period + 40 + 15
        assert len(block) < len(plain) + 10


@pytest.mark.parametrize("code", [0, 1, 14, 15, 16, 269, 270, 271, 524, 525, 526, 4000])
def test_lengths_of_matches(code: int) -> None:
    """Those that take one more byte, and their neighbours."""
    word = noise(code + 4, 1)
    plain = word + b"-" + noise(30, 2) + word + b"+" + noise(30, 3)
    (block,) = round_trip([plain])
    if code > 40:  # surely looked at
        assert [length for _, _, length in sequences(block)] == [code + 4, 0]
    (block,) = round_trip([b"x" + bytes(code + 5) + noise(30, 3)])
    assert list(sequences(block)) == [(2, 1, code + 4), (30, 0, 0)]


@pytest.mark.parametrize("run", [1, 12, 13, 14, 15, 16, 31, 32, 33, 269, 270, 271, 525, 9000])
def test_runs_of_literals(run: int) -> None:
    """Alone, which is then the block; and in front of a match."""
    alone = noise(run)
    assert round_trip([alone], run % 4) == [lz4_sequence(alone)]
    (block,) = round_trip([alone + alone[-1:] * 20 + noise(8, 1)])
    if run < 64:  # later, not every position is looked at
        assert list(sequences(block)) == [(run, 1, 20), (8, 0, 0)]


def test_the_farthest_match() -> None:
    """65,535 bytes back, and not a byte more."""
    word = noise(40, 1)
    for gap, found in ((65535, True), (65536, False), (131072, False), (65536 + 9, False)):
        plain = word + bytes(gap - 40) + word + b"the end is not matched"
        (block,) = round_trip([plain])
        assert any(offset == gap for _, offset, _ in sequences(block)) == found


def test_matches_begin_early_and_end_late() -> None:
    """Back over literals that were passed by, as far as the beginning; up to five bytes before the end."""
    word = noise(3000, 1)
    plain = word + noise(40000, 2) + word  # from afar, when positions lie far apart
    (block,) = round_trip([plain])
    *_, (run, offset, length), (last, _, _) = sequences(block)
    assert (run, offset, length, last) == (43000, 43000, 2995, 5)
    for late in (0, 1):  # the last place where a match may begin
        (block,) = round_trip([word[: 32 + late] + word[:12]])
        assert list(sequences(block)) == [(32 + late, 32 + late, 7), (5, 0, 0)]
        (block,) = round_trip([word[: 32 + late] + word[:11]])
        assert list(sequences(block)) == [(43 + late, 0, 0)]


def test_streams_longer_than_the_table_counts() -> None:
    """Positions are counted anew on the way: after noise, in which windows are wide, and after a match that
    is longer than all that can be counted."""
    text = mixture(3000)
    for random, zeros in (
        (1_300_000, 0),
        (1_060_000, 0),
        (0, 3_000_000),
        (0, 1_048_500),
        (1_000_000, 1_162_693),
    ):
        plain = noise(random) + bytes(zeros) + text + text[::-1] + text + bytes(50_000) + text
        (block,) = encoded([plain])
        check(block, plain)
        assert block is not None
        seen_late = 4000 if random and not zeros else 0  # as positions lay far apart
        assert len(block) < bound(random) + zeros // 255 + 3500 + seen_late


def test_as_small_as_the_library_makes_them() -> None:
    """Or hardly larger."""
    rng = np.random.default_rng(0)
    ramp = (np.arange(1 << 13) * 3 + rng.integers(0, 20, 1 << 13)).astype("<i4").view(np.uint8)
    walk = (np.cumsum(rng.integers(-3, 4, 1 << 14)) + 500).astype("<u2").view(np.uint8)
    parts = [
        ramp.reshape(-1, 4).T.tobytes(),
        ramp.tobytes(),
        walk.reshape(-1, 2).T.tobytes(),
        walk.tobytes(),
        np.repeat(rng.integers(0, 40, 3000), rng.integers(1, 30, 3000)).astype("u1").tobytes(),
        mixture(1 << 15),
        noise(1 << 15, top=4),
        bytes(1 << 15),
        noise(1 << 15),
    ]
    for block, plain in zip(encoded(parts), parts, strict=True):
        assert block is not None
        assert len(block) <= 1.06 * (len(lz4.compress(plain)) - 4)


def inverted(number: int) -> bytes:
    """The five bytes, the last of them 0, whose hash it is."""
    return (number * pow(2654435761, -1, 1 << 32) % (1 << 32)).to_bytes(5, "little")


def test_words_that_the_table_takes_for_each_other() -> None:
    """Of one slot and tag; of one slot and all tags; of all slots and one tag."""
    rng = np.random.default_rng(4)
    for shift, bits in ((0, 8), (8, 12), (20, 12)):
        words = [inverted(0x5A5A5A5A ^ int(k) << shift) for k in rng.integers(0, 1 << bits, 700)]
        round_trip([b"".join(words), b"".join(words[k % 9] + words[k] for k in range(300))])


@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("order", DEVICES)
def test_room(order: str, sized: bool) -> None:
    """As many bytes as there are is enough, and one less is not: then nothing behind it is written."""
    parts = (b"", b"a", noise(14), noise(15), noise(700), bytes(5000), mixture(3000), bytes(270) + noise(40))
    for plain in parts:
        (block,) = encoded([plain], order, sized=sized)
        assert block is not None
        assert encoded([plain], order, sized=sized, room=len(block), gap=3) == [block]
        for less in {
            1,
            2,
            5,
            len(block) - len(block) // 2,
            len(block) - 1 or 1,
            len(block),
            len(block) + 1,
            1 << 40,
        }:
            assert encoded([plain], order, sized=sized, room=len(block) - less, gap=3) == [None]


def test_more_room_than_32_bits_count() -> None:
    """The bytes need not be there."""
    lane, plain = lane_of(DEVICES[0]), noise(100)
    dst, size, zero = lane.empty(200), lane.empty(8), np.zeros(1, np.int64)
    lane.launch(
        "gz_lz4_encode",
        1,
        32,
        src=np.frombuffer(plain, np.uint8),
        src_offset=zero,
        src_nbytes=zero + 100,
        dst=dst,
        dst_offset=zero,
        dst_nbytes=size,
        room=1 << 32,
        streams=1,
        sized=0,
    )
    assert download(lane, dst)[:102] == lz4_sequence(plain)
    assert np.frombuffer(download(lane, size), np.int64) == [102]


@pytest.mark.parametrize("order", DEVICES)
def test_with_the_size_in_front(order: str) -> None:
    """As numcodecs has it: it decodes them, and so does the device."""
    for nbytes in (1, 13, 300, 5000):
        parts = [*values(nbytes), mixture(nbytes)]
        blocks = encoded(parts, order, sized=True, gap=nbytes % 4)
        assert [bytes(lz4.decompress(block)) for block in blocks if block] == parts
        assert on_device(LZ4(), [block for block in blocks if block], nbytes, order) == parts
    assert encoded([b""], order, sized=True) == [bytes(5)]


@pytest.mark.parametrize("order", DEVICES)
def test_any_number_of_blocks(order: str) -> None:
    """A block takes stream after stream, with a table as good as new."""
    parts = [part for seed in range(3) for part in (*values(700, seed), mixture(900, seed))]
    first = encoded(parts)
    assert encoded(parts, order, blocks=1) == first
    assert encoded(parts, order, blocks=5, threads=64) == first
    assert encoded(parts, order, blocks=len(parts) + 3) == first


def test_sizes_that_are_none() -> None:
    """No block, and the neighbours have theirs."""
    parts = [mixture(100), b"", b"", mixture(100)]
    right = encoded(parts)
    assert encoded(parts, sizes=[100, -1, 1 << 31, 100]) == [right[0], None, None, right[3]]


def test_sequences_are_read_as_they_are_written() -> None:
    """The reader above against the writer of other tests."""
    wanted = [(0, 3, 4), (14, 1, 18), (15, 70, 19), (300, 65535, 600), (270, 0, 0)]
    made = [lz4_sequence(noise(run), offset or None, length or 4) for run, offset, length in wanted]
    assert list(sequences(b"".join(made))) == wanted


SEGMENTS = st.one_of(
    st.binary(max_size=60),
    st.builds(lambda byte, many: bytes([byte]) * many, st.integers(0, 2), st.integers(1, 300)),
    st.builds(lambda word, many: word * many, st.binary(min_size=1, max_size=9), st.integers(1, 40)),
    st.builds(noise, st.integers(1, 200), st.integers(0, 3), st.sampled_from([2, 5, 256])),
)


@settings(max_examples=60)
@given(
    drawn=st.lists(st.lists(SEGMENTS, max_size=8), min_size=1, max_size=4),
    again=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=4),
    gap=st.integers(0, 15),
    order=st.sampled_from(DEVICES),
)
def test_any_bytes(drawn: list[list[bytes]], again: list[tuple[int, int]], gap: int, order: str) -> None:
    """Segments, some of which come again."""
    parts = []
    for segments in drawn:
        for k, j in again:
            if segments:
                segments.insert(k % (len(segments) + 1), segments[j % len(segments)])
        parts.append(b"".join(segments))
    blocks = encoded(parts, order, gap=gap)
    for block, plain in zip(blocks, parts, strict=True):
        check(block, plain)
    assert blocks == encoded(parts)
