"""Batches of random patches for minutes: whether training waits for them, and what memory they take.

    sustained    `PatchLoader` beside a consumer that takes as long as a training step on a GPU, and computes
                 nothing here: the share of the time that it waits, and how much memory grows meanwhile
    at a rush    a consumer that takes no time: seconds a batch, beside PyTorch's DataLoader over zarr-python
                 and over tensorstore, with as many workers as there are cores, each item one patch

Boxes are drawn at random; readers of one row get the same ones.
"""

from __future__ import annotations

import gc
import resource
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gpuzarr
from benchmarks.peers import installed
from benchmarks.report import Row
from gpuzarr import config
from gpuzarr.loading import Listed, PatchLoader

SHAPE, BATCH = (64, 64, 64), 64
STEP_S = 0.5
"""What a training step on such a batch takes: half a second is little, for a 3-D network on one GPU."""
_PAGE = resource.getpagesize()


def rows(path: str, seconds: float, rounds: int) -> list[Row]:
    """Both workloads, over the array at `path`."""
    array = gpuzarr.open_array(path, device="cpu")
    size = tuple(min(n, most) for n, most in zip(SHAPE, array.shape, strict=True))
    return [*_sustained(array, size, seconds), _rush(path, array, size, rounds)]


def _sustained(array: gpuzarr.Array, size: tuple[int, ...], seconds: float) -> list[Row]:
    loader = PatchLoader(array, size, BATCH, endless=True, prefetch=3)
    waited = spent = 0.0
    held: list[int] = []
    batches = iter(loader)
    next(batches)  # the first one finds nothing read ahead
    began = perf_counter()
    while perf_counter() - began < seconds:
        sleep(STEP_S)
        asked = perf_counter()
        next(batches)
        waited += perf_counter() - asked
        spent = perf_counter() - began
        held.append(_memory())
    loader.close()
    quarter = max(len(held) // 4, 1)
    grown = (median(held[-quarter:]) - median(held[quarter : 2 * quarter] or held[:1])) / 2**20
    name = f"{BATCH} × {size[0]}³, a step of {STEP_S:g} s, {seconds:.0f} s"
    return [
        Row("sustained loading", name, 2.0, value=100 * waited / spent, unit="% waiting"),
        Row("sustained loading", "memory, last quarter over second", 32.0, value=max(grown, 0), unit="MiB"),
    ]


def _memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def _rush(path: str, array: gpuzarr.Array, size: tuple[int, ...], rounds: int) -> Row:
    """Seconds a batch at full speed."""
    count, rng = 8, np.random.default_rng(4)
    highest = np.array(array.shape) - size + 1
    origins = rng.integers(0, highest, (count * BATCH, len(size)))
    readers: dict[str, Callable[[], Iterator[Any]]] = {
        "gpuzarr": lambda: iter(PatchLoader(array, size, BATCH, sampler=Listed(origins, shuffle=False)))
    }
    if installed("torch"):
        for name, read in _items(path).items():
            readers[f"DataLoader, {name}"] = lambda read=read: _torch(read, origins, size)  # type: ignore[misc]
    found = {name: next(batches()) for name, batches in readers.items()}
    first = array.patches(origins[:BATCH], size)
    for name, batch in found.items():
        if not np.array_equal(np.asarray(batch), first):
            raise SystemExit(f"{name} loads something else")
    spent: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(max(rounds // 2, 1)):
        for name, batches in readers.items():
            gc.collect()
            began = perf_counter()
            for _batch in batches():
                pass
            spent[name].append((perf_counter() - began) / count)
    row = Row("loading at a rush", f"{BATCH} × {size[0]}³ a batch", None)
    row.seconds = {name: median(times) for name, times in spent.items()}
    return row


def _items(path: str) -> dict[str, Callable[[], Any]]:
    """What opens an array in a worker, by reader."""
    found: dict[str, Callable[[], Any]] = {}
    with suppress(ImportError):
        import zarr

        found["zarr-python"] = lambda: zarr.open_array(path, mode="r")
    with suppress(ImportError):
        import tensorstore as ts

        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}
        found["tensorstore"] = lambda: ts.open(spec, read=True, open=True).result()
    return found


class _Patches:
    """A map-style dataset of patches, which opens its array in the worker that first needs it."""

    def __init__(self, opener: Callable[[], Any], origins: NDArray[Any], size: tuple[int, ...]) -> None:
        self.opener, self.origins, self.size = opener, origins, size
        self.array: Any = None

    def __len__(self) -> int:
        return len(self.origins)

    def __getitem__(self, number: int) -> NDArray[Any]:
        if self.array is None:
            self.array = self.opener()
        columns = zip(self.origins[number].tolist(), self.size, strict=True)
        return np.asarray(self.array[tuple(slice(at, at + n) for at, n in columns)])


def _torch(opener: Callable[[], Any], origins: NDArray[Any], size: tuple[int, ...]) -> Iterator[Any]:
    """As its users tune it: a worker a core, started by fork, two batches read ahead each."""
    from torch.utils.data import DataLoader

    workers = config.current().threads
    made = DataLoader(
        _Patches(opener, origins, size),  # type: ignore[arg-type]
        batch_size=BATCH,
        num_workers=workers,
        prefetch_factor=2,
        multiprocessing_context="fork",
        collate_fn=np.stack,
    )
    return iter(made)
