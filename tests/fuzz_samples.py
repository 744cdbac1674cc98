"""The arrays that `tests.fuzz` damages: every codec, sharded, nested, of variable length, structured,
rectilinear. Written by zarr-python and numcodecs, but for what they cannot write."""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numcodecs
import numpy as np
import zarr


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
    """The set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tuple(_v3_samples()) + tuple(_v2_samples()) + tuple(_handmade()) + tuple(_archives())


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
            # Not sealed: inner chunks of one size may come to lie in each other's places, checksums and all.
            yield _written(name, grid, chunks=(6, 4), serializer=inner, compressors=None)
            nested = codecs.ShardingCodec(
                chunk_shape=(6, 4), codecs=[inner], index_codecs=index, index_location=where
            )
            yield _written(f"{name} nested", grid, chunks=(12, 8), serializer=nested, compressors=None)
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


def _archives() -> Iterator[Sample]:
    """The bytes of a zip archive; every member has a CRC."""
    plain = next(_handmade()).objects
    for name, method in (("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED)):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            for key, stored in plain.items():
                archive.writestr(key, stored)
        yield Sample(f"zip {name}", {"archive.zip": file.getvalue()}, False)
