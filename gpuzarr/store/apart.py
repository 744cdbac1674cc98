"""Whether two places of two stores lie apart, so that writing one leaves the other as it is."""

from __future__ import annotations

import os
from typing import Any

from gpuzarr.store.base import Store
from gpuzarr.store.local import LocalStore
from gpuzarr.store.memory import MappingStore


def apart(store: Store, path: str, other: Store, other_path: str) -> bool:
    """False where the places are the same, or one holds the other. Two stores that cannot be compared lie
    apart."""
    one, two = _place(store, path), _place(other, other_path)
    short = min(len(one), len(two))
    return one[:short] != two[:short]


def _place(store: Store, path: str) -> list[Any]:
    """A store and a path as a list that begins with that of every group around it."""
    parts = path.split("/") if path else []
    if isinstance(store, LocalStore):
        return os.path.realpath(os.path.join(store.root, path)).strip(os.sep).split(os.sep)
    if isinstance(store, MappingStore):
        return [id(store.mapping), *parts]
    inner = getattr(store, "store", None)  # a store that stands before another
    if isinstance(inner, Store):
        return _place(inner, path)
    return [*store.url.strip("/").split("/"), *parts]  # an archive's is its path
