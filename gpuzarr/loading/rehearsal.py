"""What an order costs and how much its batches repeat themselves, from the boxes alone: nothing is read.

chunks decoded    with a cache of a given size that drops what was used longest ago, and without one
overlap           the share of a batch's boxes that overlap another of the same batch, and how far
regions           how many regions of two boxes' width a batch comes from
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np

from gpuzarr.engine.explain import size_text
from gpuzarr.loading.chance import Int64s
from gpuzarr.loading.frame import Part, chunks_of


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Counts of some batches. `str()` of it is for people."""

    batches: int
    patches: int
    touched: int
    """Chunks that patches touch, each patch by itself."""
    decoded: int
    """Chunks that are decoded where each batch decodes a chunk once, and nothing is kept."""
    missed: int
    """Chunks that are decoded with the cache."""
    cache_nbytes: int
    decoded_nbytes: int
    """Bytes of the chunks in `missed`."""
    patch_nbytes: int
    """Bytes of all patches."""
    overlapping: float
    """The share of boxes that overlap another one of their batch."""
    shared: float
    """The mean share of a box that the one it overlaps most has too."""

    @property
    def hit_rate(self) -> float:
        """The share of a batch's chunks that the cache has."""
        return 1 - self.missed / self.decoded if self.decoded else 0.0

    @property
    def amplification(self) -> float:
        """Bytes decoded for a byte of patches."""
        return self.decoded_nbytes / self.patch_nbytes if self.patch_nbytes else 0.0

    def __str__(self) -> str:
        return "\n".join(
            (
                f"{self.batches:,} batches, {self.patches:,} patches, {size_text(self.patch_nbytes)}",
                f"chunks   {self.touched:,} touched by patches, {self.decoded:,} by batches",
                f"decoded  {self.missed:,} with a cache of {size_text(self.cache_nbytes)}: "
                f"{100 * self.hit_rate:.0f} % hits, {self.amplification:.2f} bytes for each byte of a patch",
                f"bias     {100 * self.overlapping:.1f} % of boxes overlap another of their batch, "
                f"which has {100 * self.shared:.1f} % of a box in the mean",
            )
        )


def rehearse(parts: Sequence[Part], batches: Iterable[Int64s], cache_nbytes: int) -> Rehearsal:
    """Count over batches of origins [n, d]."""
    held: OrderedDict[tuple[int, ...], int] = OrderedDict()
    room = cache_nbytes
    chunk_nbytes = [prod(chunks_of(part.array)) * part.array.dtype.itemsize for part in parts]
    many = patches = touched = decoded = missed = missed_nbytes = patch_nbytes = 0
    overlapping = shared = 0.0
    for origins in batches:
        many += 1
        patches += len(origins)
        of_batch: dict[tuple[int, ...], int] = {}  # chunk → how many lie behind each other there
        for i, part in enumerate(parts):
            patch_nbytes += len(origins) * part.nbytes
            for row in part.origins(origins).tolist():
                for cell in _cells(part, row):
                    touched += part.layers
                    of_batch[(i, *cell)] = part.layers
        decoded += sum(of_batch.values())
        for chunk, layers in of_batch.items():
            if chunk in held:
                held.move_to_end(chunk)
                continue
            nbytes = layers * chunk_nbytes[chunk[0]]
            missed += layers
            missed_nbytes += nbytes
            held[chunk] = nbytes
            room -= nbytes
            while room < 0 and held:
                room += held.popitem(last=False)[1]
        most = _shared(origins, np.array(parts[0].extent) * np.array(parts[0].scale))
        overlapping += float((most > 0).sum())
        shared += float(most.sum())
    total = max(patches, 1)
    return Rehearsal(
        *(many, patches, touched, decoded, missed, cache_nbytes, missed_nbytes, patch_nbytes),
        *(overlapping / total, shared / total),
    )


def _cells(part: Part, origin: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """The chunks of one patch, along the axes of the box."""
    sizes = part.array.shape[-len(part.scale) :]
    ranges = [
        range(max(at, 0) // chunk, (min(at + width, size) - 1) // chunk + 1)
        for at, width, size, chunk in zip(origin, part.extent, sizes, part.chunks, strict=True)
    ]
    return product(*ranges)


def _shared(origins: Int64s, box: Int64s) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """For each box, the share of it that the one it overlaps most has too."""
    apart = np.abs(origins[:, None] - origins[None])
    common = np.clip(box - apart, 0, None).astype(np.float64) / box
    both = common.prod(axis=2)
    np.fill_diagonal(both, 0)
    return np.asarray(both.max(axis=1, initial=0.0))
