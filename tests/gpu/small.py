"""A little of everything, for tools that make a GPU slow: `python -m tests.gpu.small [--few]`.

Arrays of a few small chunks with every codec that has a device form are read whole, with steps, backwards, by
points and in boxes that are converted on the way, written from device memory whole and in part, and compared
with NumPy. Every allocation of a lane is one of its own, and comes fresh from the
driver, so that compute-sanitizer sees where each ends and what of it was never written. No pytest here: its
imports would take minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

import numcodecs
import numpy as np

import gpuzarr
from gpuzarr import ReadStats, WriteStats
from gpuzarr.engine import cache
from tests.devices import on_device

Objects = dict[str, bytes]

SHAPE, CHUNKS = (10, 23, 50), (4, 8, 21)
KEYS: tuple[Any, ...] = (
    ...,
    np.s_[1:9, 3:-2, 5:44],
    np.s_[::-2, ::3, 7],
    np.s_[[3, 9, 0], :, [1, 48, 7]],
)


def chains() -> Iterator[tuple[str, str, list[Any]]]:
    """Name, type, and the codecs in the order of encoding."""
    for cname in ("lz4", "lz4hc", "blosclz", "zstd", "zlib"):
        for shuffle in (0, 1, 2):
            yield f"blosc {cname} {shuffle}", "<u2", [numcodecs.Blosc(cname, 5, shuffle, 0)]
    yield "blosc of small blocks", "<f8", [numcodecs.Blosc("lz4", 5, 2, 256)]
    yield "lz4", "<i4", [numcodecs.LZ4()]
    yield "zstd", "<i4", [numcodecs.Zstd(3)]
    yield "gzip", ">i4", [numcodecs.GZip(5)]
    yield "zlib", "<i4", [numcodecs.Zlib(5)]
    yield "raw", ">u2", []
    yield "shuffle, big-endian", ">f4", [numcodecs.Shuffle(4), numcodecs.Zlib(1)]
    yield "delta", "<i4", [numcodecs.Delta("<i4"), numcodecs.LZ4()]
    yield "fixedscaleoffset", "<f8", [numcodecs.FixedScaleOffset(3, 10, "<f8", "<i4"), numcodecs.Zstd(1)]
    yield "packbits", "?", [numcodecs.PackBits()]
    for checksum in ("CRC32", "CRC32C", "Adler32", "Fletcher32"):
        yield checksum.lower(), "<i4", [numcodecs.LZ4(), getattr(numcodecs, checksum)()]


FEW = {
    *("blosc lz4 1", "blosc lz4 2", "blosc blosclz 2"),
    *("lz4", "raw", "delta", "packbits", "crc32c", "adler32"),
}


def made(dtype: str, codecs: list[Any]) -> tuple[dict[str, bytes], np.ndarray]:
    """A v2 array, one of its chunks missing, and what it holds."""
    steps = np.random.default_rng(len(codecs)).integers(-3, 4, SHAPE)
    values = np.cumsum(steps, axis=2).astype(dtype)
    document = {
        "zarr_format": 2,
        "shape": SHAPE,
        "chunks": CHUNKS,
        "dtype": values.dtype.str,
        "compressor": None,
        "filters": [one.get_config() for one in codecs] or None,
        "fill_value": 0,
        "order": "F",
    }
    objects = {".zarray": json.dumps(document).encode()}
    for place in np.ndindex(*(-(-n // c) for n, c in zip(SHAPE, CHUNKS, strict=True))):
        box = tuple(slice(i * c, (i + 1) * c) for i, c in zip(place, CHUNKS, strict=True))
        if place == (1, 1, 1):
            values[box] = 0
            continue
        chunk = np.zeros(CHUNKS, values.dtype, "F")
        part = values[box]
        chunk[tuple(slice(n) for n in part.shape)] = part
        encoded: Any = chunk.ravel("F")
        for codec in codecs:
            encoded = codec.encode(encoded)
        objects[".".join(map(str, place))] = memoryview(encoded).tobytes()
    return objects, values


def strict_memory() -> None:
    """Every allocation by itself, from the driver."""
    import cupy

    from gpuzarr.device import cuda_memory

    cupy.cuda.set_allocator(None)
    cupy.cuda.set_pinned_memory_allocator(None)
    cuda_memory.SLAB_NBYTES = 1


def read(objects: Objects, values: np.ndarray, device: str, few: bool, stats: ReadStats) -> list[str]:
    """Which keys give wrong values."""
    array, wrong = gpuzarr.open_array(objects, device=device), []
    for key in KEYS[:1] if few else KEYS:
        found = array.read(key, stats=stats).get()
        expected = values[key].astype(values.dtype.newbyteorder("="))
        if found.dtype != expected.dtype or not np.array_equal(found, expected):
            wrong.append(str(key))
    return wrong


def write(objects: Objects, values: np.ndarray, device: str, stats: WriteStats) -> list[str]:
    """Which writes store wrong values: of all that the array has, then of every second row of it."""
    kept, wrong, expected = {".zarray": objects[".zarray"]}, [], np.zeros_like(values)
    array = gpuzarr.open_array(kept, mode="r+", device=device)
    for key in (..., np.s_[1:9:2, 5:]):
        expected[key] = values[::-1][key]
        array.write(key, on_device(np.ascontiguousarray(expected[key]), device), stats=stats)
        if not np.array_equal(gpuzarr.open_array(kept, device="cpu")[...], expected):
            wrong.append(f"writing {key}")
    return wrong


def boxes(objects: Objects, values: np.ndarray, device: str, stats: ReadStats) -> list[str]:
    """Which boxes are wrong: as they are, as floats, and as floats from the cache."""
    origins, shape, wrong = np.array([[-2, 3, 40], [4, 20, -3], [1, 1, 1]]), (5, 7, 13), []
    array = gpuzarr.open_array(objects, device=device)
    padded = np.pad(values, 16, mode="wrap")
    cuts = [
        tuple(slice(16 + at, 16 + at + n) for at, n in zip(row, shape, strict=True))
        for row in origins.tolist()
    ]
    plain = np.stack([padded[cut] for cut in cuts])
    floats = plain.astype("f4") * np.float32(0.1) + np.float32(0.5)
    options: dict[str, Any] = {"mode": "wrap", "stats": stats}
    for more, expected in (
        ({}, plain),
        ({"cache": True, "dtype": "f4", "scale": 0.1, "offset": 0.5}, floats),
        ({"cache": True, "dtype": "f4", "scale": 0.1, "offset": 0.5}, floats),
    ):
        if not np.array_equal(array.patches(origins, shape, **options, **more).get(), expected):
            wrong.append(f"boxes {more}")
    cache.clear()
    return wrong


def main() -> int:
    """Read and write; say what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.small", description="a little of everything")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--few", action="store_true", help="a few chains, read whole")
    parser.add_argument("--nvcomp", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    if options.device.startswith("cuda"):
        strict_memory()
    wrong: list[str] = []
    stats, written, done = ReadStats(), WriteStats(), 0
    library = ("zstd", "zlib", "gzip", "blosc zstd", "blosc zlib", "shuffle", "fixed")
    with gpuzarr.configured(strict=1):
        for name, dtype, codecs in chains():
            if (options.few and name not in FEW) or (not options.nvcomp and name.startswith(library)):
                continue
            objects, values = made(dtype, codecs)
            found = read(objects, values, options.device, options.few, stats)
            found += write(objects, values, options.device, written)
            found += boxes(objects, values, options.device, stats)
            wrong += [f"{name}, {one}" for one in found]
            done += 1
    print(f"{done} chains on {options.device}: {len(wrong)} wrong")
    print(f"read: {stats.chunks} chunks, {stats.on_host} by the host")
    print(f"written: {written.chunks} chunks, {written.on_host} by the host, in {written.waves} waves")
    print(*wrong, sep="\n")
    return 1 if wrong or not done else 0


if __name__ == "__main__":
    sys.exit(main())
