"""One batch: its boxes read from every array, by one call each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter, sleep
from typing import Any

import numpy as np

from gpuzarr.errors import ArgumentError, StoreError
from gpuzarr.loading.chance import Int64s
from gpuzarr.loading.frame import Part
from gpuzarr.loading.stats import LoaderStats

Arrays = dict[str, Any]
"""Patches [n, *shape] by the names of their arrays."""
Empty = Callable[[tuple[int, ...], np.dtype[Any]], Any]
Modify = Callable[[Any], Any]
Transform = Callable[[Any, np.random.Generator], Any]

_PAUSE = 0.1  # seconds before the first of the other tries; twice as many before each next one


def _read_patches(part: Part, origins: Int64s, out: Any, cache: bool, stats: LoaderStats) -> Any:
    """The boxes of one array, at origins of the frame."""
    shape: list[int | list[int]] = [*(list(taken) for taken in part.lead), *part.extent]
    at = np.zeros((len(origins), len(shape)), np.int64)
    at[:, len(part.lead) :] = part.origins(origins)
    return part.array.patches(
        at,
        shape,
        mode=part.mode,
        fill=part.fill,
        out=out,
        cache=cache,
        stats=stats.reads,
        **part.convert,
    )


def read_batch(
    parts: Sequence[Part],
    origins: Int64s,
    into: Arrays,
    empty: Empty | None,
    cache: bool,
    retries: int,
    stats: LoaderStats,
) -> Arrays:
    """The patches at `origins` [n, d] of the frame, in the arrays of `into` where it has any. What a store
    fails to give is asked for again, `retries` times; everything else is an error at once."""
    began = perf_counter()
    batch: Arrays = {}
    try:
        for part in parts:
            out = into.get(part.name)
            if out is None and empty is not None and part.array.device == "cpu":
                out = _made(empty, (len(origins), *part.shape), part)
            for left in range(retries, -1, -1):
                try:
                    batch[part.name] = _read_patches(part, origins, out, cache, stats)
                    break
                except StoreError:
                    if not left:
                        raise
                    stats.add(retried=1)
                    sleep(_PAUSE * 2 ** (retries - left))
    finally:
        stats.add(read_s=perf_counter() - began)
    return batch


def _made(empty: Empty, shape: tuple[int, ...], part: Part) -> Any:
    made = empty(shape, part.dtype)
    if not isinstance(made, np.ndarray) or made.shape != shape or made.dtype != part.dtype:
        raise ArgumentError(
            f"empty made {type(made).__name__} of {getattr(made, 'dtype', '')}{getattr(made, 'shape', '')}",
            hint=f"give a NumPy array of type {part.dtype} and shape {shape}",
        )
    return made


class Ring:
    """Arrays that are read into again and again: those of the batches read ahead, and of the one in use."""

    def __init__(self, many: int) -> None:
        self._free: list[Arrays] = [{} for _ in range(many)]

    def take(self) -> Arrays:
        """A set that nobody uses."""
        return self._free.pop()

    def give(self, arrays: Arrays) -> None:
        """A set that is not used any more."""
        self._free.append(arrays)
