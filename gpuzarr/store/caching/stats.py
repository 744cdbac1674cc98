"""What a cached store has done so far, in numbers."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What a cached store has done so far."""

    hits: int = 0
    """Requests that were answered with kept bytes."""
    misses: int = 0
    """Requests that the store behind answered with bytes, or that there are none."""
    checks: int = 0
    """Requests that the store behind answered with "it has not changed"."""
    bytes_hit: int = 0
    """Bytes of the hits."""
    bytes_missed: int = 0
    """Bytes that came from the store behind."""


class Counts:
    """Statistics that threads add to."""

    def __init__(self) -> None:
        self.stats = CacheStats()

    def add(self, **more: int) -> None:
        """Add to the numbers by name."""
        with _lock:
            now = self.stats
            self.stats = replace(now, **{name: getattr(now, name) + n for name, n in more.items()})


_lock = threading.Lock()


def _child() -> None:
    """A forked child has none of the threads that may hold the lock."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_child)
