"""Any batch of any epoch, made when it is asked for: which boxes, their patches, what becomes of them.

    number ─numbering→ boxes ─order, sampler→ origins ─reading→ patches ─to, transform→ batch

Frozen, and the same in every process: threads, workers and ranks share it, and none of them moves anything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpuzarr.errors import ArgumentError
from gpuzarr.loading.chance import TRANSFORM, Int64s, generator
from gpuzarr.loading.frame import Part, Space
from gpuzarr.loading.numbering import Numbering
from gpuzarr.loading.order import Sequence
from gpuzarr.loading.reading import Arrays, Empty, Modify, Transform, read_batch
from gpuzarr.loading.stats import LoaderStats


@dataclass(frozen=True, slots=True, eq=False)
class Batches:
    """The batches of one rank."""

    space: Space
    parts: tuple[Part, ...]
    boxes: Sequence
    numbering: Numbering
    seed: int
    bare: bool
    """A batch is its one array, and not a dict of arrays."""
    with_origins: bool
    empty: Empty | None
    cache: bool
    retries: int
    to: Modify | None
    transform: Transform | None

    @property
    def length(self) -> int:
        """Batches of an epoch."""
        return self.numbering.length

    @property
    def patch_nbytes(self) -> int:
        """Bytes of one box of all arrays."""
        return sum(part.nbytes for part in self.parts)

    def for_rank(self, rank: int, world_size: int) -> Batches:
        """Those of another rank."""
        return replace(self, numbering=replace(self.numbering, rank=rank, world_size=world_size))

    def origins(self, number: int, epoch: int) -> Int64s:
        """The origins [n, d] of batch `number` of an epoch."""
        return self.boxes.origins(epoch, self.numbering.boxes(number))

    def origins_of(self, index: Any, epoch: int) -> Int64s:
        """The origins [n, d] of boxes of an epoch, whichever rank has them."""
        numbers = np.asarray(index).reshape(-1)
        if numbers.size and numbers.dtype.kind not in "iu":
            raise ArgumentError(f"boxes {index!r} are no whole numbers")
        numbers = numbers.astype(np.int64)
        if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < self.numbering.count:
            raise ArgumentError(f"boxes {numbers.min()} to {numbers.max()} of {self.numbering.count}")
        return self.boxes.origins(epoch, numbers)

    def read(self, origins: Int64s, stats: LoaderStats, into: Arrays | None = None) -> Arrays:
        """The patches at `origins` by the names of their arrays, in the arrays of `into` where it has any."""
        return read_batch(self.parts, origins, into or {}, self.empty, self.cache, self.retries, stats)

    def arranged(self, patches: Arrays, origins: Int64s) -> Any:
        """A batch before `transform`: with origins if they are wanted, each array through `to`."""
        arrays = {**patches, "origins": origins} if self.with_origins else dict(patches)
        if self.to is not None:
            arrays = {name: self.to(array) for name, array in arrays.items()}
        return arrays[self.parts[0].name] if self.bare else arrays

    def finished(self, patches: Arrays, origins: Int64s, epoch: int, number: int) -> Any:
        """What is handed out as batch `number` of an epoch."""
        batch = self.arranged(patches, origins)
        if self.transform is None:
            return batch
        number = number * self.numbering.world_size + self.numbering.rank
        return self.transform(batch, generator(self.seed, epoch, TRANSFORM, number))
