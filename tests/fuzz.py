"""Input that lies, at random: small arrays are damaged, opened and read, and nothing but a gpuzarr error may come of it.

    python -m tests.fuzz [--seconds 120] [--seed N] [--case N] [--device cpu|sim|both]

A case is one array of the set, damaged in one to three places: bits flipped, bytes cut off, repeated, exchanged or made
into large numbers; in metadata documents also values replaced, keys dropped, doubled or renamed. It is opened and read
whole and in parts. Cases run in a worker process whose address space is limited; a watchdog ends a case that hangs, and a
crash is reported with the number that reproduces it. What decodes to other values is no violation unless every byte of
the array lies under a checksum. Exit status 1: there was a violation.
"""

from __future__ import annotations

import argparse
import copy
import faulthandler
import json
import multiprocessing
import random
import resource
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from typing import Any

import numcodecs
import numpy as np
import zarr

import gpuzarr
from gpuzarr.errors import GpuzarrError, NotFoundError

HANG = 20  # seconds that one case may take
ROOM = 3 << 30  # address space of the worker, beyond what it starts with
GROWTH = 256 << 20  # resident bytes that one case may add to the worker's peak
BIG = [
    0,
    1,
    -1,
    2,
    255,
    256,
    2**15,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
    10**30,
]
JUNK = [
    None,
    True,
    False,
    "",
    "x",
    "NaN",
    "0x7fc00000",
    "\ud800",
    "../x",
    "/etc/passwd",
    0.5,
    1e308,
    float("nan"),
]
JUNK += [
    float("inf"),
    -1.0,
    [],
    {},
    [[]],
    [None],
    {"name": "x"},
    [2**62] * 3,
    [1] * 40,
    [[["a", "<i4"]]],
    "pickle",
]


@dataclass(frozen=True)
class Sample:
    """One small array as keys and bytes."""

    name: str
    objects: dict[str, bytes]
    sealed: bool
    """Every chunk and shard index carries a checksum: damage to them must be seen."""


def _written(name: str, values: np.ndarray, sealed: bool = False, **options: Any) -> Sample:
    held: dict[str, Any] = {}
    array = zarr.create_array(
        zarr.storage.MemoryStore(held),
        **{"shape": values.shape, "dtype": values.dtype, "fill_value": 1, **options},
    )
    array[...] = values
    return Sample(name, {key: value.to_bytes() for key, value in held.items()}, sealed)


def _sealed(name: str) -> bool:
    return "crc" in name or name in ("gzip", "zstd-checksum")


def _v2_codec(
    name: str, values: np.ndarray, *filters: Any, compressor: Any = None, dtype: str = ""
) -> Sample:
    """A v2 array of one chunk, encoded by numcodecs itself."""
    document = {
        "zarr_format": 2,
        "shape": list(values.shape),
        "chunks": list(values.shape),
        "dtype": dtype or values.dtype.str,
        "fill_value": None,
        "order": "C",
        "filters": [one.get_config() for one in filters] or None,
        "compressor": compressor.get_config() if compressor else None,
    }
    chunk: Any = values
    for one in [*filters, *([compressor] if compressor else [])]:
        chunk = one.encode(chunk)
    stored = chunk.tobytes() if isinstance(chunk, np.ndarray) else bytes(chunk)
    sealed = isinstance(
        compressor,
        (numcodecs.CRC32, numcodecs.Adler32, numcodecs.Zlib, numcodecs.GZip, numcodecs.BZ2, numcodecs.LZMA),
    )
    return Sample(
        name, {".zarray": json.dumps(document).encode(), ".".join("0" * values.ndim): stored}, sealed
    )


@cache
def samples() -> tuple[Sample, ...]:
    """The set. Written by zarr-python and numcodecs, but for what they cannot write."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tuple(_v3_samples()) + tuple(_v2_samples()) + tuple(_handmade())


def _v3_samples() -> Iterator[Sample]:
    rng = np.random.default_rng(5)
    grid = rng.integers(0, 9, (12, 10), np.int32)
    codecs = zarr.codecs
    for name, chain in {
        "raw": [],
        "zstd": [codecs.ZstdCodec(level=3)],
        "zstd-checksum": [codecs.ZstdCodec(level=3, checksum=True)],
        "gzip": [codecs.GzipCodec()],
        "crc32c": [codecs.Crc32cCodec()],
        "blosc-lz4": [codecs.BloscCodec(cname="lz4", shuffle="shuffle")],
        "blosc-blosclz": [codecs.BloscCodec(cname="blosclz", shuffle="noshuffle")],
        "blosc-zlib": [codecs.BloscCodec(cname="zlib", shuffle="bitshuffle")],
        "blosc-zstd-crc": [codecs.BloscCodec(cname="zstd", shuffle="bitshuffle"), codecs.Crc32cCodec()],
    }.items():
        yield _written(f"v3 {name}", grid, _sealed(name), chunks=(5, 4), compressors=chain or None)
    yield _written(
        "v3 big endian", grid, chunks=(5, 4), serializer=codecs.BytesCodec(endian="big"), compressors=None
    )
    yield _written("v3 F", grid, chunks=(5, 4), filters=[codecs.TransposeCodec(order=(1, 0))])
    for checked in (True, False):
        index = [codecs.BytesCodec(), *([codecs.Crc32cCodec()] if checked else [])]
        for where in ("start", "end"):
            inner = codecs.ShardingCodec(
                chunk_shape=(2, 2),
                codecs=[codecs.BytesCodec(), codecs.Crc32cCodec()],
                index_codecs=index,
                index_location=where,
            )
            name = f"v3 shard {where} crc={checked}"
            yield _written(name, grid, checked, chunks=(6, 4), serializer=inner, compressors=None)
            nested = codecs.ShardingCodec(
                chunk_shape=(6, 4), codecs=[inner], index_codecs=index, index_location=where
            )
            yield _written(
                f"{name} nested", grid, checked, chunks=(12, 8), serializer=nested, compressors=None
            )
    yield _written(
        "v3 shard encoded",
        grid,
        chunks=(6, 4),
        serializer=inner,
        fill_value=0,
        compressors=[codecs.ZstdCodec()],
    )
    words = np.array(["", "a", "βγ", "delta" * 9, "x"] * 2, np.dtypes.StringDType())
    yield _written("v3 strings", words, chunks=(4,), fill_value="f", compressors=[codecs.ZstdCodec()])
    yield _written("v3 strings raw", words, chunks=(4,), fill_value="f", compressors=None)
    yield _written("v3 time", grid[0].astype("M8[s]"), chunks=(4,), compressors=None)
    yield _written("v3 complex", grid.astype("c8"), chunks=(5, 4))
    yield _written("v3 bool", grid > 4, chunks=(5, 4), fill_value=True)
    yield _written("v3 scalar", np.float32(3.5).reshape(()))
    pairs = np.zeros(7, [("a", "<i2"), ("b", "<f8")])
    yield _written("v3 structured", pairs, chunks=(3,), fill_value=pairs[0], compressors=None)


def _v2_samples() -> Iterator[Sample]:
    rng = np.random.default_rng(6)
    grid = rng.integers(0, 9, (12, 10), np.int32)
    flat, real = grid.reshape(-1), grid.astype("f8") / 4
    for one in (
        numcodecs.Zlib(),
        numcodecs.GZip(),
        numcodecs.BZ2(),
        numcodecs.LZMA(),
        numcodecs.LZ4(),
        numcodecs.Zstd(),
        numcodecs.Blosc("lz4", 5, 1),
        numcodecs.Blosc("lz4hc", 5, 2),
        numcodecs.Blosc("blosclz", 5, 1, blocksize=64),
        numcodecs.Blosc("zstd", 5, 0),
        numcodecs.CRC32(),
        numcodecs.Adler32(),
        numcodecs.Fletcher32(),
        numcodecs.JenkinsLookup3(),
        numcodecs.Base64(),
    ):
        yield _v2_codec(f"v2 {one.codec_id} {getattr(one, 'cname', '')}", grid, compressor=one)
    for one in (
        numcodecs.Delta("<i4"),
        numcodecs.FixedScaleOffset(1, 2, "<i4", "<i2"),
        numcodecs.AsType("<i8", "<i4"),
        numcodecs.Shuffle(4),
    ):
        yield _v2_codec(f"v2 {one.codec_id}", flat, one, compressor=numcodecs.Zlib())
    for one in (numcodecs.Quantize(2, "<f8"), numcodecs.BitRound(9)):
        yield _v2_codec(f"v2 {one.codec_id}", real, one, compressor=numcodecs.Zlib())
    yield _v2_codec("v2 packbits", flat > 4, numcodecs.PackBits())
    yield _v2_codec(
        "v2 structured",
        np.zeros(5, [("a", ">i2"), ("b", "<f4", (2,))]),
        dtype=[["a", ">i2"], ["b", "<f4", [2]]],
    )
    objects = np.array(["a", "βγ", "", "word" * 8], object)
    for one in (numcodecs.VLenUTF8(), numcodecs.JSON(), numcodecs.Categorize(list(objects), "O")):
        yield _v2_codec(f"v2 {one.codec_id}", objects, one, compressor=numcodecs.Zstd(), dtype="|O")
        yield _v2_codec(f"v2 {one.codec_id} raw", objects, one, dtype="|O")
    if hasattr(numcodecs, "MsgPack"):
        yield _v2_codec("v2 msgpack2", objects, numcodecs.MsgPack(), dtype="|O")
    coded = np.array([b"a", b"", b"abc" * 9], object)
    yield _v2_codec("v2 vlen-bytes", coded, numcodecs.VLenBytes(), dtype="|O")
    ragged = np.empty(3, object)
    ragged[:] = [np.arange(n, dtype="<i4") for n in (0, 3, 9)]
    yield _v2_codec("v2 vlen-array", ragged, numcodecs.VLenArray("<i4"), dtype="|O")
    yield from _optional(real, flat)
    yield _written(
        "v2 F blosc", grid, chunks=(5, 4), zarr_format=2, order="F", compressors=numcodecs.Blosc("lz4", 5, 1)
    )
    group = zarr.create_group(zarr.storage.MemoryStore(held := {}), zarr_format=2)
    group.create_array("a", shape=(4,), dtype="i4")[...] = 3
    zarr.consolidate_metadata(group.store)
    yield Sample("v2 consolidated", {key: value.to_bytes() for key, value in held.items()}, False)
    group = zarr.create_group(zarr.storage.MemoryStore(held := {}), zarr_format=3)
    group.create_array("a", shape=(4,), dtype="i4")[...] = 3
    zarr.consolidate_metadata(group.store)
    yield Sample("v3 consolidated", {key: value.to_bytes() for key, value in held.items()}, False)


def _optional(real: np.ndarray, flat: np.ndarray) -> Iterator[Sample]:
    """Codecs whose libraries may be missing."""
    try:
        from numcodecs.zfpy import ZFPY

        yield _v2_codec("v2 zfpy", real, ZFPY(mode=4, tolerance=0.01))
    except ImportError:
        pass
    try:
        from numcodecs.pcodec import PCodec

        yield _v2_codec("v2 pcodec", flat, PCodec())
    except ImportError:
        pass


def _handmade() -> Iterator[Sample]:
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [5, 6],
        "data_type": "uint16",
        "chunk_grid": {
            "name": "rectilinear",
            "configuration": {"kind": "inline", "chunk_shapes": [[2, 3], [[2, 3]]]},
        },
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "fill_value": 7,
    }
    chunks = {f"c.{i}.{j}": bytes(range(2 * rows * 2)) for i, rows in enumerate((2, 3)) for j in range(3)}
    yield Sample("v3 rectilinear", {"zarr.json": json.dumps(document).encode(), **chunks}, False)
    small = {
        **document,
        "data_type": "int4",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [5, 3]}},
        "codecs": ["packbits"],
    }
    yield Sample(
        "v3 int4",
        {"zarr.json": json.dumps(small).encode(), "c.0.0": bytes(8), "c.0.1": bytes(range(8))},
        False,
    )
    cast = {
        **small,
        "data_type": "float32",
        "codecs": [
            {"name": "scale_offset", "configuration": {"offset": 1, "scale": 2}},
            {"name": "cast_value", "configuration": {"data_type": "uint8", "rounding": "towards-zero"}},
            "bytes",
        ],
    }
    yield Sample("v3 cast_value", {"zarr.json": json.dumps(cast).encode(), "c.0.0": bytes(range(15))}, False)


def damage_bytes(stored: bytes, rng: random.Random) -> bytes:
    """Flip, cut, repeat, exchange, or write a large number."""
    held = bytearray(stored)
    at, upto = sorted((rng.randrange(len(held) + 1), rng.randrange(len(held) + 1)))
    kind = rng.randrange(8)
    if kind <= 1 and held:
        held[rng.randrange(len(held))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        del held[at:]
    elif kind == 3:
        del held[at : min(upto, at + 16)]
    elif kind == 4:
        held[at:at] = held[at:upto] or bytes(rng.randrange(1, 9))
    elif kind == 5:
        held += bytes(rng.randbytes(rng.randrange(1, 20)))
    elif kind == 6 and held:
        near = rng.choice((0, max(len(held) - 40, 0), at))
        width = rng.choice((1, 2, 4, 8))
        held[near + rng.randrange(20) :][:width] = b""
        place = min(near + rng.randrange(20), len(held))
        held[place : place + width] = (rng.choice(BIG) & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    elif held:
        held[at : at + 8] = rng.randbytes(len(held[at : at + 8]))
    return bytes(held)


def damage_document(stored: bytes, rng: random.Random) -> bytes:
    """Change one value or key of a JSON document; now and then its text, or its nesting."""
    if rng.random() < 0.15:
        return damage_bytes(stored, rng)
    document = json.loads(stored)
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], (dict, list)):
                visit(node[key])

    visit(document)
    if not places:
        return damage_bytes(stored, rng)
    node, key = rng.choice(places)
    kind = rng.randrange(8)
    if kind == 0 and isinstance(node, dict):
        del node[key]
    elif kind == 1 and isinstance(node, dict):
        node[rng.choice([key + "x", key[:-1], "must_understand", "name"])] = node.pop(key)
    elif kind == 2 and isinstance(node, list):
        node.insert(key, copy.deepcopy(node[key]) if rng.random() < 0.5 else rng.choice(BIG))
    elif kind == 3 and isinstance(node, list):
        rng.shuffle(node)
    elif kind == 4:
        there, its = rng.choice(places)
        node[key] = copy.deepcopy(there[its])
    elif kind == 5:
        node[key] = rng.choice(BIG)
    else:
        node[key] = rng.choice(JUNK)
    text = json.dumps(document)
    if rng.random() < 0.02:
        text = text.replace(": ", ": " + "[" * 3000, 1)
    return text.encode("utf-8", "surrogatepass")


def is_document(key: str) -> bool:
    return key.rpartition("/")[2] in ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")


def damaged(sample: Sample, rng: random.Random) -> tuple[dict[str, bytes], bool]:
    """The objects after one to three accidents, and whether a document is among them."""
    objects, documents = dict(sample.objects), False
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        keys = sorted(objects)
        chosen = [key for key in keys if is_document(key) == (rng.random() < 0.5)] or keys
        key = rng.choice(chosen)
        if is_document(key):
            documents = True
            try:
                objects[key] = damage_document(objects[key], rng)
            except (ValueError, RecursionError):  # an earlier accident left no JSON
                objects[key] = damage_bytes(objects[key], rng)
        else:
            objects[key] = damage_bytes(objects[key], rng)
    return objects, documents


def some_key(shape: tuple[int, ...], rng: random.Random) -> Any:
    """Integers, slices and index arrays that fit `shape`."""
    items: list[Any] = []
    for length in shape:
        low = rng.randrange(max(length, 1))
        near = slice(low, min(low + rng.randrange(1, 20), length), rng.choice((None, 1, 2, 3)))
        few = [rng.randrange(length) for _ in range(3)] if length else near
        items.append(rng.choice((near, near, low if length else near, few)))
    return tuple(items)


def read(objects: dict[str, bytes], device: str, rng: random.Random) -> list[Any]:
    """Open, and read parts and, where that is not large, everything."""
    node = gpuzarr.open(objects, device=device)
    if isinstance(node, gpuzarr.Group):
        dict(node.attrs), node.tree()
        node = node["a"]
    if isinstance(node, gpuzarr.Group):
        return []
    repr(node), node.attrs, node.dimension_names, node.shards, node.fill_value, node.nbytes, node.size
    results = [node.read(some_key(node.shape, rng)) for _ in range(2)]
    if node.nbytes < 16 << 20:
        results.append(node[...])
    str(node.explain(some_key(node.shape, rng)))
    return [one.get() if hasattr(one, "get") else np.asarray(one) for one in results]


def same(found: list[Any], expected: list[Any]) -> bool:
    """Whether two reads gave the same types, shapes and bits."""
    return len(found) == len(expected) and all(
        a.dtype == b.dtype
        and a.shape == b.shape
        and (repr(a) == repr(b) if a.dtype.kind in "OT" else a.tobytes() == b.tobytes())
        for a, b in zip(found, expected, strict=True)
    )


def run_case(seed: int, device: str) -> str:
    """The outcome of one case. An AssertionError or any error that is not gpuzarr's is a violation."""
    rng = random.Random(seed)
    sample = rng.choice(samples())
    objects, documents = damaged(sample, rng)
    picked = rng.randrange(1 << 30)
    try:
        found = read(objects, device, random.Random(picked))
        if device != "cpu":  # what the host refuses, a device refuses, and they agree on the rest
            assert same(found, read(objects, "cpu", random.Random(picked))), f"{device} and cpu differ"
    except GpuzarrError as error:
        if device != "cpu":
            try:
                read(objects, "cpu", random.Random(picked))
            except GpuzarrError:
                pass
            else:
                raise AssertionError(f"an error on {device} alone: {error}") from error
        text = str(error)
        text.encode()
        assert error.what.strip(), f"{type(error).__name__} without a word"
        assert error.array or isinstance(error, NotFoundError), f"no array in {type(error).__name__}: {text}"
        assert len(text) < 4000, f"a message of {len(text)} characters"
        return type(error).__name__
    try:
        expected = read(sample.objects, device, random.Random(picked))
    except (GpuzarrError, IndexError, ValueError):
        return "other metadata"
    if same(found, expected):
        return "equal"
    assert documents or not sample.sealed, "damage under a checksum went unseen"
    return "other metadata" if documents else "other values"


def worker(pipe: Connection, device: str, first: int, step: int) -> None:
    """Cases until killed: (case,) before each one, (case, outcome, violation) after it."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    for sample in samples():  # before the limit: libraries load, kernels compile
        read(sample.objects, device, random.Random(1))
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + ROOM, now + ROOM))
    case = first
    while True:
        pipe.send((case,))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        violation = None
        try:
            outcome = run_case(case, device)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                return
            outcome = f"VIOLATION {type(error).__name__}"
            violation = "".join(traceback.format_exception(error)[-4:])[-3000:]
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before
        if grown > GROWTH:
            outcome, violation = "VIOLATION memory", f"the peak grew by {grown >> 20} MiB"
        pipe.send((case, outcome, violation))
        case += step


def fuzz(
    seconds: float, seed: int, devices: list[str], report: Callable[[str], None], cases: int | None = None
) -> tuple[Counter[str], list[str]]:
    """Run a worker for each device in turns; counts by outcome, and the violations."""
    context = multiprocessing.get_context("spawn")
    counts: Counter[str] = Counter()
    violations: list[str] = []
    for turn, device in enumerate(devices):
        at = seed * 1_000_000 + turn * 500_000
        end: float | None = None
        done = 0
        while True:
            pipe, theirs = context.Pipe(duplex=False)
            process = context.Process(target=worker, args=(theirs, device, at, 1), daemon=True)
            process.start()
            theirs.close()
            current, fault = at, ""
            patience = 300.0  # the start compiles kernels
            while not fault:
                if not pipe.poll(patience):
                    fault = "VIOLATION hang" if patience == HANG else "VIOLATION no start"
                    break
                try:
                    message = pipe.recv()
                except EOFError:
                    fault = "VIOLATION crash" if patience == HANG else "VIOLATION no start"
                    break
                patience = HANG
                end = end or time.monotonic() + seconds / len(devices)
                current = message[0]
                if len(message) == 3:
                    done += 1
                    counts[message[1]] += 1
                    if message[2]:
                        violations.append(f"{message[1]}: --case {current} --device {device}\n{message[2]}")
                        report(violations[-1])
                    if time.monotonic() > end or (cases is not None and done >= cases):
                        break
            process.kill()
            process.join()
            if not fault:
                break
            counts[fault] += 1
            done += 1
            violations.append(f"{fault} ({process.exitcode}): --case {current} --device {device}")
            report(violations[-1])
            if "start" in fault or (end and time.monotonic() > end):
                break
            at = current + 1
        report(f"{device}: {done} cases in {seconds / len(devices):.0f} s" if turn >= 0 else "")
    return counts, violations


def main() -> int:
    """Fuzz, and print the counts."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--case", type=int, help="run this one case here, without a limit")
    parser.add_argument("--device", choices=("cpu", "sim", "both"), default="both")
    options = parser.parse_args()
    devices = ["cpu", "sim"] if options.device == "both" else [options.device]
    if options.case is not None:
        faulthandler.enable()
        for device in devices:
            rng = random.Random(options.case)
            sample = rng.choice(samples())
            objects, _ = damaged(sample, rng)
            for key, stored in objects.items():
                if stored != sample.objects[key]:
                    print(
                        f"{sample.name} {key}\n  was {sample.objects[key][:2000]!r}\n  is  {stored[:2000]!r}"
                    )
            print(device, run_case(options.case, device))
        return 0
    start = time.monotonic()
    print(f"seed {options.seed}, {len(samples())} arrays, {sys.version.split()[0]}")
    counts, violations = fuzz(
        options.seconds,
        options.seed,
        devices,
        lambda line: print(line.encode(errors="backslashreplace").decode(), flush=True),
    )
    total = sum(counts.values())
    for outcome, count in counts.most_common():
        print(f"{count:>8}  {outcome}")
    print(f"{total} cases, {total / (time.monotonic() - start):.0f} a second, {len(violations)} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
