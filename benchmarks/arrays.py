"""What is read: one microscopy-like volume and one of labels, written with many chains by zarr-python."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuzarr import config
from gpuzarr.cli.volume import Recipe, anatomy, block

Chunks = tuple[int, int, int]

MIB1, KIB32, KIB8 = (64, 64, 128), (16, 32, 32), (16, 16, 16)


@dataclass(frozen=True, slots=True)
class Case:
    """One way of storing. Goals: the best peer's time over ours, for reading it whole and for random patches
    of it."""

    name: str
    chunks: Chunks
    compressor: str
    whole: float
    patches: float | None = None
    shards: Chunks | None = None
    labels: bool = False


CASES = (
    Case("zstd 1 MiB", MIB1, "zstd", 1.25, 1.5),
    Case("blosc-lz4 1 MiB", MIB1, "lz4", 1.3, 2.0),
    Case("raw 1 MiB", MIB1, "raw", 1.2, 2.0),
    Case("gzip 1 MiB", MIB1, "gzip", 1.25, 1.5),
    Case("zstd 1 MiB sharded", MIB1, "zstd", 1.25, 1.5, shards=(128, 256, 256)),
    Case("labels zstd 1 MiB", MIB1, "zstd", 1.25, 1.5, labels=True),
    Case("blosc-lz4 32 KiB", KIB32, "lz4", 2.0, 2.0),
    Case("blosc-lz4 8 KiB", KIB8, "lz4", 2.0),
    Case("blosc-lz4 8 KiB sharded", KIB8, "lz4", 2.0, shards=(64, 128, 128)),
)


def shape_of(mib: int) -> Chunks:
    """A volume of about `mib` MiB of uint16, twice as high as deep and twice as wide as high."""
    depth = max(round((mib * 65536) ** (1 / 3) / 32) * 32, 32)
    return depth, 2 * depth, 4 * depth


def volume(shape: Chunks) -> NDArray[np.uint16]:
    """Noisy cells, as the demo makes them."""
    recipe = Recipe(shape, shape, (32, *shape[1:]), 1)
    field = anatomy(recipe, config.current().threads, lambda _: None)
    made = np.empty(shape, np.uint16)
    for number, box in enumerate(recipe.boxes()):
        made[box] = block(recipe, field, box, number)
    return made


def labels(shape: Chunks) -> NDArray[np.uint16]:
    """Regions of one number each, with wavy borders and without noise."""
    z, y, x = np.ogrid[tuple(slice(n) for n in shape)]
    at = [
        ((one + 5 * np.sin(other / 11)) / 20 + 1).astype(np.int64)
        for one, other in ((z, y + x * 0.7), (y, x), (x, y * 0.8))
    ]
    numbers = (
        np.random.default_rng(3).integers(0, 40_000, tuple(n // 20 + 3 for n in shape)).astype(np.uint16)
    )
    numbers[numbers < 12_000] = 0
    regions: NDArray[np.uint16] = numbers[at[0], at[1], at[2]]
    return regions


def write(case: Case, values: NDArray[np.uint16], path: Path) -> float:
    """Store the values; returns how much smaller they became."""
    import zarr
    from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

    compressors: Mapping[str, Any] = {
        "zstd": ZstdCodec(level=3),
        "lz4": BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"),
        "gzip": GzipCodec(level=5),
        "raw": None,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        array = zarr.create_array(
            path,
            shape=values.shape,
            dtype=values.dtype,
            chunks=case.chunks,
            shards=case.shards,
            compressors=compressors[case.compressor],
        )
        array[...] = values
    return values.nbytes / sum(one.stat().st_size for one in path.rglob("*") if one.is_file())
