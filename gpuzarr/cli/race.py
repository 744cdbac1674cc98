"""The same boxes of one array, read by us and by zarr-python: compared to the last bit, timed by turns."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gpuzarr
from gpuzarr.cli import witness
from gpuzarr.cli.read import host
from gpuzarr.cli.show import Part, Screen, size_text
from gpuzarr.errors import MissingDependencyError

Key = tuple[slice, ...]


@dataclass(slots=True)
class Workload:
    """Some boxes of one array, read one after the other, by us and by zarr-python."""

    name: str
    keys: list[Key]
    stats: gpuzarr.ReadStats = field(default_factory=gpuzarr.ReadStats)
    """Of one round."""
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    def nbytes(self, array: gpuzarr.Array) -> int:
        """Decoded bytes of one round."""
        return sum(math.prod(lengths(key)) for key in self.keys) * array.dtype.itemsize


def race(
    array: gpuzarr.Array, target: str, options: Any, workloads: list[Workload], rounds: int, screen: Screen
) -> str | None:
    """Read every workload once by both and compare all bytes; then by turns, taking times. The name of the
    other reader, empty if there is none; None if bytes differ."""
    try:
        with witness.fastest() as peer:
            theirs = witness.open_array(target, array.path, options)
            return peer if _rounds(array, theirs, workloads, rounds, screen) else None
    except MissingDependencyError:
        screen.line(("zarr-python is not installed: the check against it is left out", "warn"))
        _rounds(array, None, workloads, rounds, screen)
        return ""


def _rounds(array: gpuzarr.Array, peer: Any, workloads: list[Workload], rounds: int, screen: Screen) -> bool:
    steps = sum(1 + rounds for _ in workloads)
    with screen.progress("reading and comparing", steps) as advance:
        for workload in workloads:
            for key in workload.keys:
                ours = host(array.read(key, stats=workload.stats))
                if peer is not None and not same_bytes(ours, np.asarray(peer[key])):
                    screen.line((f"DIFFERENT from zarr-python at {key}", "bad"))
                    return False
            del ours
            advance(1)
            for _ in range(rounds):
                workload.ours.append(_timed(lambda key: _ready(array.read(key)), workload.keys))
                if peer is not None:
                    workload.theirs.append(_timed(lambda key: peer[key], workload.keys))
                advance(1)
    if peer is not None:
        nbytes = sum(workload.nbytes(array) for workload in workloads)
        screen.line(("✓ ", "good"), f"all {nbytes:,} bytes as zarr-python reads them")
    return True


def same_bytes(ours: NDArray[Any], theirs: NDArray[Any]) -> bool:
    """Whether two arrays are the same to the last bit: NaN payloads and signed zeros too."""
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype.newbyteorder("="):
        return False
    theirs = theirs.astype(ours.dtype, copy=False)
    if ours.dtype.hasobject or ours.dtype.kind == "T":
        return bool(np.array_equal(ours, theirs))
    left, right = (np.ascontiguousarray(one).reshape(-1).view(np.uint8) for one in (ours, theirs))
    return bool(np.array_equal(left, right))


def _ready(result: Any) -> Any:
    """The result once it is there: device reads may return before their work is done."""
    if (
        not isinstance(result, np.ndarray)
        and hasattr(result, "device")
        and hasattr(result.device, "synchronize")
    ):
        result.device.synchronize()
    return result


def _timed(read: Callable[[Key], Any], keys: list[Key]) -> float:
    gc.collect()
    began = perf_counter()
    for key in keys:
        read(key)
    return perf_counter() - began


def table(array: gpuzarr.Array, workloads: list[Workload]) -> tuple[list[str], list[list[Part]]]:
    """What was read and how fast, for `Screen.table`."""
    header = ["read", "decoded", "stored", "requests", "chunks", "seconds", "GB/s", "zarr-python", "ratio"]
    rows: list[list[Part]] = []
    for one in workloads:
        nbytes, seconds = one.nbytes(array), median(one.ours)
        ratio = median(one.theirs) / seconds if one.theirs else 0.0
        rows.append(
            [
                (one.name, "name"),
                size_text(nbytes),
                size_text(one.stats.bytes_read),
                f"{one.stats.requests:,}",
                f"{one.stats.chunks:,}",
                f"{seconds:.3f}",
                (f"{nbytes / seconds / 1e9:.2f}", "title"),
                f"{median(one.theirs):.3f} s" if one.theirs else "–",
                (f"{ratio:.2f}" if ratio else "–", "good" if ratio >= 1 else "warn"),
            ]
        )
    return header, rows


def lengths(key: Key) -> tuple[int, ...]:
    """Elements along each axis of a box."""
    return tuple(one.stop - one.start for one in key)
