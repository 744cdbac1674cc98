"""What writes cost, counted."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass(slots=True)
class WriteStats:
    """What writes cost, added up. Pass one to `Array.write`; it may be passed to many writes."""

    chunks: int = 0
    """Chunks encoded."""
    read: int = 0
    """Of these, read and decoded first, since they were written in part."""
    kept: int = 0
    """Inner chunks whose encoded bytes were taken over."""
    empty: int = 0
    """Chunks left out or removed, since they hold the fill value alone."""
    objects: int = 0
    """Objects stored."""
    removed: int = 0
    """Objects deleted."""
    bytes_written: int = 0
    waves: int = 0
    """Batches of chunks that a device encoded."""
    on_host: int = 0
    """Chunks of these that the host encoded, since an encoder of the device did not take them."""
    bytes_crossed: int = 0
    """Bytes copied between host and device memory."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, **counts: int) -> None:
        """Add to the counts by name."""
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)
