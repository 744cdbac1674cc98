"""What a loader has done, counted; and how long its consumer waited for it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

from gpuzarr.engine.explain import size_text
from gpuzarr.engine.source import ReadStats


@dataclass(slots=True, repr=False)
class LoaderStats:
    """The counts of one loader in one process, added up over all loops. Print it."""

    batches: int = 0
    """Batches handed out."""
    patches: int = 0
    """Boxes in them."""
    bytes: int = 0
    """Bytes of their patches, decoded."""
    wait_s: float = 0.0
    """Seconds in which the consumer waited for a batch."""
    elapsed_s: float = 0.0
    """Seconds of the loops, from the first batch that was asked for to the last that was handed out."""
    read_s: float = 0.0
    """Seconds that reading took, of all threads together."""
    retried: int = 0
    """Reads that failed and were tried again."""
    reads: ReadStats = field(default_factory=ReadStats)
    """What reading asked of the stores: requests, encoded bytes, chunks. Batches read ahead are in it."""
    _lock: Any = field(default_factory=threading.Lock, compare=False)

    def add(self, **counts: float) -> None:
        """Add to the counts by name."""
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)

    @property
    def waited(self) -> float:
        """The share of the loops' time in which the consumer waited."""
        return self.wait_s / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def hit_rate(self) -> float | None:
        """The share of chunks that a cache had; None if none was asked."""
        hits = self.reads.hits
        return hits / (hits + self.reads.chunks) if hits else None

    def __repr__(self) -> str:
        text = f"{self.batches:,} batches, {self.patches:,} patches, {size_text(self.bytes)}"
        text += f"; waited {self.wait_s:.2f} s of {self.elapsed_s:.2f} s ({100 * self.waited:.1f} %)"
        text += f"; {self.reads.requests:,} requests, {size_text(self.reads.bytes_read)} stored"
        text += f", {self.reads.chunks:,} chunks decoded"
        if self.hit_rate is not None:
            text += f", {100 * self.hit_rate:.0f} % of chunks from the cache"
        if self.retried:
            text += f"; {self.retried:,} reads tried again"
        return f"<LoaderStats: {text}>"

    def __reduce__(self) -> tuple[object, ...]:
        return LoaderStats, ()  # another process counts for itself
