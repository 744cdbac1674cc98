"""Which boxes a batch has, and which batches a rank.

    epoch   T batches, numbered 0 to T - 1
    rank    r of w takes r, r + w, r + 2w, ...: as many as every other rank. Where w does not divide T, the
            first batches come once more at the end, or with `drop_last` the last T % w are left out.
    worker  k of n takes the rank's batches k, k + n, ...

`streams` reorders the batches of an epoch: batch b is then the next one of stream b % streams, and each
stream walks through a part of the epoch of its own. So a rank or worker stays where its chunks are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpuzarr.errors import ArgumentError
from gpuzarr.loading.chance import Int64s
from gpuzarr.loading.frame import whole


@dataclass(frozen=True, slots=True)
class Numbering:
    """Boxes and batches of an epoch, for one rank."""

    count: int
    """Boxes of an epoch."""
    batch_size: int
    drop_last: bool
    rank: int
    world_size: int
    streams: int

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("rank", 0), ("world_size", 1)):
            whole(name, getattr(self, name), least)
        if self.rank >= self.world_size:
            raise ArgumentError(f"rank {self.rank} of {self.world_size}", hint="ranks count from 0")
        if not self.length:
            raise ArgumentError(
                f"{self.count:,} boxes give {self.total} whole batches of {self.batch_size} for "
                f"{self.world_size} ranks",
                hint="leave drop_last off, or give the sampler a larger count",
            )

    @property
    def total(self) -> int:
        """Batches of an epoch, of all ranks."""
        return self.count // self.batch_size if self.drop_last else -(-self.count // self.batch_size)

    @property
    def length(self) -> int:
        """Batches of an epoch, of this rank: of every rank."""
        return self.total // self.world_size if self.drop_last else -(-self.total // self.world_size)

    def boxes(self, number: int) -> Int64s:
        """The boxes of this rank's batch `number`."""
        if not 0 <= number < self.length:
            raise ArgumentError(f"batch {number} of {self.length}")
        first = self._place((number * self.world_size + self.rank) % self.total) * self.batch_size
        return np.arange(first, min(first + self.batch_size, self.count), dtype=np.int64)

    def _place(self, batch: int) -> int:
        """Where a batch lies in the order of boxes: the parts of streams lie one behind the other."""
        stream, turn = batch % self.streams, batch // self.streams
        least, more = divmod(self.total, self.streams)
        return stream * least + min(stream, more) + turn
