"""Chunks that lie, at random, decoded on device sim and on the host: both refuse, or both give the same.

    python -m tests.fuzz_kernels [--count 10000] [--seed N]

A case is a Blosc container or a chunk of LZ4, zstd, zlib or gzip with one to three accidents, a block of LZ4
or BloscLZ made of random sequences, an LZ4 block with matches from offset 0, or a sharded array with a
damaged object. Cases go to the device many at a time, with a whole chunk among them, in one of the four
thread orders. A violation is any exception that is not a gpuzarr error, a write outside of an allocation, a
result that is not the host's, or a chunk that only one of the two takes. Two things are allowed of streams
that go to nvCOMP: to be left to the host, which has the last word; and bytes between a deflate stream and its
checksum that go unseen, where what comes out is what the checksum covers.
Under the sanitizers of tests/sanitize.sh a read outside of an
allocation ends the process as well. Exit status 1: there was a violation.
"""

from __future__ import annotations

import argparse
import gzip
import random
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numcodecs
import numpy as np
import zarr

import gpuzarr
from gpuzarr.codecs.base import Batch, ChunkSpec, Codec, Stored, as_bytes
from gpuzarr.codecs.blosc import Blosc
from gpuzarr.codecs.gzip import Gzip
from gpuzarr.codecs.lz4 import LZ4
from gpuzarr.codecs.zlib import Zlib
from gpuzarr.codecs.zstd import Zstd
from gpuzarr.errors import GpuzarrError
from tests.devices import DEVICES, ON_GPU, lane_of
from tests.fuzz import damage_bytes

TOGETHER = 24  # cases in a batch


def on_device(
    codec: Codec, chunks: list[bytes], nbytes: int, order: str = DEVICES[0], gap: int = 0, behind: bytes = b""
) -> list[bytes | str]:
    """What the device makes of each chunk, or `fault`. `gap` bytes lie before each in the arena, and what no
    kernel may look at behind it. What the codec leaves to the host, the host decodes."""
    spec = ChunkSpec((), np.dtype("u1"), nbytes)
    assert codec.host_only(spec) is None
    data, offset = bytearray(), []
    for chunk in chunks:
        data += b"\xee" * (-len(data) % 16 + gap)
        offset.append(len(data))
        data += chunk + behind
    arena, sizes = np.frombuffer(bytes(data), np.uint8), np.array([len(chunk) for chunk in chunks], np.int64)
    stored = Stored(arena, np.array(offset, np.int64), sizes)
    notes, taken = np.zeros((len(chunks), 0), np.int64), np.ones(len(chunks), bool)
    if codec.notes:
        notes, taken = codec.inspect(stored, spec)
    found = ["" if one else on_host(codec, chunk, nbytes) for chunk, one in zip(chunks, taken, strict=True)]
    rows = np.flatnonzero(taken)
    if not len(rows):
        return found
    lane = lane_of(order)
    given = Batch(lane.upload(arena), stored.offset[rows], sizes[rows], np.ascontiguousarray(notes[rows]))
    batch = codec.decode_batch(given, spec, lane)
    plain = np.empty(batch.data.nbytes, np.uint8)
    lane.download(batch.data, plain)
    lane.synchronize()
    faults = set(lane.take_faults().tolist())
    lane.reset()
    assert batch.nbytes.tolist() == [nbytes] * len(rows)
    for i, (row, at) in enumerate(zip(rows.tolist(), batch.offset.tolist(), strict=True)):
        found[row] = "fault" if i in faults else plain[at : at + nbytes].tobytes()
    return found


def on_host(codec: Codec, chunk: bytes, nbytes: int) -> bytes | str:
    """The same by the host form."""
    try:
        return as_bytes(codec.decode(chunk, ChunkSpec((), np.dtype("u1"), nbytes))).tobytes()
    except GpuzarrError as error:
        return str(error)


# ---- what is damaged


@dataclass(frozen=True)
class Sample:
    """An encoded chunk."""

    codec: Codec
    chunk: bytes
    nbytes: int


def values(n: int, seed: int = 0) -> Iterator[bytes]:
    """n bytes of every kind: random, one value, a ramp, text, runs, few values, repeats from afar, a walk."""
    rng = np.random.default_rng((n, seed))
    noise = rng.integers(0, 256, n, dtype=np.uint8)
    yield noise.tobytes()
    yield bytes(n)
    yield np.arange(n // 4 + 1, dtype="<u4").tobytes()[:n]
    yield (b"the quick brown fox jumps over the lazy dog; " * (n // 45 + 1))[:n]
    yield np.repeat(noise, rng.integers(1, 90, n))[:n].tobytes()
    yield (noise % 5).tobytes()
    yield np.concatenate([noise[: n // 3], noise // 64, noise])[:n].tobytes()
    yield (np.cumsum(rng.integers(-3, 4, n // 2 + 1)) + 500).astype("<u2").tobytes()[:n]


@cache
def samples() -> tuple[Sample, ...]:
    """Small chunks of all forms."""
    made = []
    for n in (200, 1500, 5003):
        for i, plain in enumerate(values(n)):
            made.append(Sample(LZ4(), numcodecs.LZ4().encode(plain), n))
            if not ON_GPU:  # nvCOMP itself is not safe on damaged streams
                made.append(Sample(Zlib(), zlib.compress(plain), n))
                made.append(Sample(Gzip(), gzip.compress(plain), n))
                made.append(Sample(Zstd(), numcodecs.Zstd(3).encode(plain), n))
            for cname in ("lz4", "lz4hc", "blosclz", *(() if ON_GPU else ("zlib", "zstd"))):
                typesize, shuffle, blocksize = (4, 2, 1, 3)[i % 4], i % 3, (0, 512, 1024)[(n + i) % 3]
                chunk = numcodecs.blosc.compress(plain, cname.encode(), 5, shuffle, blocksize, typesize)
                made.append(Sample(Blosc(cname), chunk, n))
    return tuple(made)


def container(stream: bytes, nbytes: int, inner: int) -> bytes:
    """A Blosc container of one block, which is one stream."""
    sizes = struct.pack("<5i", nbytes, nbytes, 24 + len(stream), 20, len(stream))
    return bytes([2, 1, 0x10 | inner << 5, 1]) + sizes + stream


def lengthened(value: int) -> bytes:
    """The rest of a length in LZ4's form."""
    return b"\xff" * (value // 255) + bytes([value % 255])


def lz4_sequence(literals: bytes, offset: int | None = None, length: int = 4) -> bytes:
    """A run of literals and a match, or the last literals."""
    run, match = len(literals), length - 4 if offset is not None else 0
    token = (
        bytes([min(run, 15) << 4 | min(match, 15)]) + (lengthened(run - 15) if run >= 15 else b"") + literals
    )
    if offset is None:
        return token
    return token + struct.pack("<H", offset) + (lengthened(match - 15) if match >= 15 else b"")


def blosclz_literals(literals: bytes) -> bytes:
    """Runs of 32 at most."""
    runs = [literals[at : at + 32] for at in range(0, len(literals), 32)]
    return b"".join(bytes([len(run) - 1]) + run for run in runs)


def blosclz_match(distance: int, length: int) -> bytes:
    """A match of at least 3 bytes."""
    near, match = min(distance - 1, 8191), length - 2
    bits = bytes([min(match, 7) << 5 | near >> 8]) + (lengthened(match - 7) if match >= 7 else b"")
    return bits + bytes([near & 255]) + (struct.pack(">H", distance - 8192) if near == 8191 else b"")


def random_block(rng: random.Random) -> Sample:
    """Sequences of which most are right and some are not; what is promised is mostly what they give."""
    inner = rng.randrange(2)
    stream, out = b"", 0
    for _ in range(rng.randrange(1, 8)):
        literals = rng.randbytes(rng.choice((0, 1, 3, 5, 8, 14, 15, 16, 31, 32, 33, 40, 300)))
        out += len(literals)
        offset = rng.choice(
            (1, 2, 3, 7, 8, 9, 31, 32, 33, 64, 200, out, out, out - 1, out + rng.choice((0, 0, 1)))
        )
        offset = min(max(offset, 1), 65535)
        length = rng.choice((4, 5, 7, 8, 9, 18, 19, 20, 32, 33, 63, 64, 65, 273, 274, 700))
        if inner:
            stream += lz4_sequence(literals, offset if rng.random() < 0.95 else 0, length)
        else:
            stream += blosclz_literals(literals) + blosclz_match(offset, length)
        out += length
    literals = rng.randbytes(rng.choice((0, 1, 4, 5, 6, 7, 12, 20, 40)))
    stream += lz4_sequence(literals) if inner else blosclz_literals(literals)
    out += len(literals) + (rng.choice((-1, 1, 5)) if rng.random() < 0.1 else 0)
    if inner and rng.random() < 0.5:
        return Sample(LZ4(), struct.pack("<i", out) + stream, out)
    return Sample(Blosc(("blosclz", "lz4")[inner]), container(stream, out, inner), out)


def offsets(block: bytes) -> list[int]:
    """Where in a sound LZ4 block the offset of each match lies."""
    found: list[int] = []
    at = 0

    def whole(length: int) -> int:
        nonlocal at
        while length >= 15:
            length, at = length + block[at], at + 1
            if block[at - 1] != 255:
                break
        return length

    while True:
        token, at = block[at], at + 1
        literals = whole(token >> 4)
        at += literals
        if at == len(block):
            return found
        found.append(at)
        at += 2
        whole(token & 15)


def from_nowhere(rng: random.Random) -> Sample:
    """A sound LZ4 block in which some matches come from offset 0, of which the library makes zeros."""
    n = rng.choice((13, 30, 64, 100, 257, 1000, 3000))
    plain = rng.choice(list(values(n, rng.randrange(1000))))
    stored = bytearray(numcodecs.LZ4(rng.choice((1, 5, 30))).encode(plain))
    places = offsets(bytes(stored[4:]))
    for at in rng.sample(places, min(rng.choice((1, 1, 2, 5, 100)), len(places))):
        stored[4 + at : 6 + at] = bytes(2)
    if rng.random() < 0.5:
        return Sample(LZ4(), bytes(stored), n)
    return Sample(Blosc("lz4"), container(bytes(stored[4:]), n, 1), n)


# ---- whole arrays


@cache
def arrays() -> tuple[dict[str, bytes], ...]:
    """Sharded arrays with Blosc inside, and one with LZ4."""
    grid = (np.arange(24 * 40).reshape(24, 40) // 3).astype("<u2")
    codecs, made = zarr.codecs, []
    for inner in (
        [codecs.BloscCodec(cname="lz4", shuffle="shuffle"), codecs.Crc32cCodec()],
        [codecs.BloscCodec(cname="blosclz", shuffle="bitshuffle")],
    ):
        for where in ("start", "end"):
            held: dict[str, Any] = {}
            shard = codecs.ShardingCodec(
                chunk_shape=(8, 20),
                codecs=[codecs.BytesCodec(), *inner],
                index_codecs=[codecs.BytesCodec()],
                index_location=where,
            )
            zarr.create_array(
                zarr.storage.MemoryStore(held),
                shape=grid.shape,
                dtype=grid.dtype,
                chunks=(24, 40),
                serializer=shard,
                compressors=None,
                fill_value=0,
            )[...] = grid
            made.append({key: value.to_bytes() for key, value in held.items()})
    return tuple(made)


def _read(objects: dict[str, bytes], device: str) -> bytes | str:
    try:
        found = gpuzarr.open_array(objects, device=device)[...]
        return (found if isinstance(found, np.ndarray) else found.get()).tobytes()
    except GpuzarrError as error:
        return str(error)


def library(sample: Sample) -> bool:
    """It has streams that go to nvCOMP."""
    return not isinstance(sample.codec, LZ4) and getattr(sample.codec, "cname", "zlib") in ("zlib", "zstd")


# ---- the run


def batches(count: int, seed: int) -> Iterator[tuple[list[Sample], str, int]]:
    """`count` cases in batches of one codec and size, each with a thread order and a gap."""
    rng, turn = random.Random(seed), 0
    while turn < count:
        if rng.random() < 0.4:
            one = (random_block if rng.random() < 0.75 else from_nowhere)(rng)
            chosen = [one, *(Sample(one.codec, damage_bytes(one.chunk, rng), one.nbytes) for _ in range(5))]
        else:
            one = rng.choice(samples())
            chosen = [one]
            for _ in range(TOGETHER):
                chunk = one.chunk
                for _ in range(rng.choice((1, 1, 2, 3))):
                    chunk = damage_bytes(chunk, rng)
                chosen.append(Sample(one.codec, chunk, one.nbytes))
        yield chosen, DEVICES[turn % len(DEVICES)], rng.choice((0, 0, 1, 5))
        turn += len(chosen)


def violations(count: int, seed: int, tally: Counter[str]) -> Iterator[str]:
    """What went wrong in `count` cases, each with what makes it again."""
    for number, (chosen, order, gap) in enumerate(batches(count, seed)):
        codec, nbytes = chosen[0].codec, chosen[0].nbytes
        if codec.host_only(ChunkSpec((), np.dtype("u1"), nbytes)):
            continue
        found = on_device(codec, [one.chunk for one in chosen], nbytes, order, gap)
        whole = on_host(codec, chosen[0].chunk, nbytes) if isinstance(codec, (Zlib, Gzip)) else ""
        for one, device in zip(chosen, found, strict=True):
            host = on_host(codec, one.chunk, nbytes)
            same = device == host or (isinstance(device, str) and isinstance(host, str))
            same = same or (library(one) and device in ("fault", whole))
            kind = "taken" if isinstance(host, bytes) else "refused"
            tally[f"{codec.name} {kind}"] += 1
            if not same:
                what = f"{codec.name} of {nbytes} bytes on {order}"
                yield f"batch {number} of seed {seed}: {what}: {one.chunk.hex()}"
    rng = random.Random(seed + 1)
    for number in range(count // 20):
        objects = dict(rng.choice(arrays()))
        key = next(key for key in objects if "zarr.json" not in key)
        objects[key] = damage_bytes(objects[key], rng)
        host, device = _read(objects, "cpu"), _read(objects, DEVICES[number % len(DEVICES)])
        tally["shard taken" if isinstance(host, bytes) else "shard refused"] += 1
        if device != host and (isinstance(host, bytes) or isinstance(device, bytes)):
            yield f"shard {number} of seed {seed}: cpu {host[:200]!r}, sim {device[:200]!r}"


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tally: Counter[str] = Counter()
    wrong = 0
    for text in violations(options.count, options.seed, tally):
        wrong += 1
        print(text)
    print(", ".join(f"{kind}: {number}" for kind, number in sorted(tally.items())), f"violations: {wrong}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
