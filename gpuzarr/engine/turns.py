"""Who writes what right now: writers of one process take turns at an object.

A writer asks for all the objects of one step at once and gets them together, so two that want the same ones
never wait for each other. Between processes nobody takes turns.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_held: set[tuple[str, str]] = set()
_changed = threading.Condition()


def take(url: str, keys: Sequence[str]) -> None:
    """Wait until nobody writes any of these objects of the store at `url`, and keep others from it."""
    names = {(url, key) for key in keys}
    with _changed:
        while not _held.isdisjoint(names):
            _changed.wait()
        _held.update(names)


def give(url: str, keys: Sequence[str]) -> None:
    """Let others write them. Any thread may do so, not only the one that took them."""
    with _changed:
        _held.difference_update((url, key) for key in keys)
        _changed.notify_all()


@contextmanager
def turn(url: str, keys: Sequence[str]) -> Iterator[None]:
    """`take` and `give` around a `with` block."""
    take(url, keys)
    try:
        yield
    finally:
        give(url, keys)


def _forget() -> None:
    """A forked child has none of the threads that were writing."""
    global _changed
    _changed = threading.Condition()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
