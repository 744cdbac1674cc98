"""Regions in batches, read ahead of whoever takes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import index
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuzarr.errors import ArgumentError

Origins = NDArray[np.int64]
Take = Callable[..., Any]
"""Reads the boxes at some origins, [n, …]; or a box that is alone, without n."""
Read = Callable[[Origins], Any]


def read(
    take: Take,
    origins: Origins,
    alone: bool,
    batch: int,
    drop_last: bool,
    ahead: int,
    shuffle: bool,
    seed: int,
) -> Any:
    """What `read_region` gives: an array for a location that stands alone, else `Batches`."""
    size, ahead = _at_least(batch, 1, "batch_size"), _at_least(ahead, 0, "prefetch_factor")
    if alone and size == 1:
        return take(origins, True)
    if shuffle:
        origins = np.random.default_rng(_at_least(seed, 0, "seed")).permutation(origins)
    groups = [origins[i : i + size] for i in range(0, len(origins), size)]
    if drop_last and groups and len(groups[-1]) < size:
        groups.pop()
    return Batches(partial(take, alone=size == 1), groups, ahead)


class Batches(Iterator[Any]):
    """An iterator over batches of regions that reads ahead."""

    def __init__(self, read: Read, groups: Sequence[Origins], ahead: int) -> None:
        self._count = len(groups)
        self._results = _ahead(read, groups, ahead) if ahead else map(read, groups)

    def __next__(self) -> Any:
        """The next batch."""
        return next(self._results)

    def __len__(self) -> int:
        """How many batches there are in all."""
        return self._count


def _ahead(read: Read, groups: Sequence[Origins], ahead: int) -> Iterator[Any]:
    from concurrent.futures import Future, ThreadPoolExecutor

    # One thread is enough: what it reads at once, the engine's threads read together.
    thread = ThreadPoolExecutor(1, "gpuzarr-regions")
    try:
        pending: deque[Future[Any]] = deque()
        for group in groups:
            pending.append(thread.submit(read, group))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        thread.shutdown(wait=False, cancel_futures=True)


def _at_least(value: Any, least: int, what: str) -> int:
    try:
        if index(value) >= least:
            return index(value)
    except TypeError:
        pass
    raise ArgumentError(f"{what} {value!r} is not a whole number from {least} on")
