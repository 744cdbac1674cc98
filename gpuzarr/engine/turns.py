"""Who writes what right now: writers of one process take turns at an object.

A writer asks for all the objects of one step at once and gets them together, so two that want the same ones
never wait for each other. Between processes nobody takes turns.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from gpuzarr.store.base import Store, place_of

_held: set[tuple[object, str]] = set()
_changed = threading.Condition()


def take(store: Store, keys: Sequence[str]) -> None:
    """Wait until nobody writes any of these objects, through whatever store, and keep others from it."""
    _take({place_of(store, key) for key in keys})


def give(store: Store, keys: Sequence[str]) -> None:
    """Let others write them. Any thread may do so, not only the one that took them."""
    _give({place_of(store, key) for key in keys})


def _take(names: set[tuple[object, str]]) -> None:
    with _changed:
        while not _held.isdisjoint(names):
            _changed.wait()
        _held.update(names)


def _give(names: set[tuple[object, str]]) -> None:
    with _changed:
        _held.difference_update(names)
        _changed.notify_all()


@contextmanager
def turn(store: Store, keys: Sequence[str]) -> Iterator[None]:
    """`take` and `give` around a `with` block."""
    names = {place_of(store, key) for key in keys}
    _take(names)
    try:
        yield
    finally:
        _give(names)


def _forget() -> None:
    """A forked child has none of the threads that were writing."""
    global _changed
    _changed = threading.Condition()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
