"""Where the device becomes the sooner one: the same reads by device and host, over numbers and sizes of
chunks.

Beside both stands what `engine.route` would choose, and its regret: what the choice costs over the better of
the two. A flat line of small chunks is read; then one huge zstd frame, which no device cuts.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gpuzarr
from benchmarks.gpu.machine import Machine
from benchmarks.gpu.scale import Scale
from benchmarks.gpu.stored import Stored, checked
from gpuzarr import configured
from gpuzarr.engine.route import estimate

CHAINS = ("blosc(lz4, shuffle)", "zstd")
_ROW = (16, 16)  # of a chunk, whose first axis is as long as its size asks for


def crossover_table(
    machine: Machine, scale: Scale, folder: Path, late: Callable[[], bool]
) -> Iterator[dict[str, Any]]:
    """A row for every chain, size and number of chunks."""
    for chain in CHAINS:
        for size in scale.sizes:
            counts = [count for count in scale.counts if count * size <= scale.most]
            yield from _counts(machine, chain, size, counts, folder, late)
    yield from _counts(machine, "zstd", scale.frame, [1], folder, late)


def _counts(
    machine: Machine, chain: str, size: int, counts: list[int], folder: Path, late: Callable[[], bool]
) -> Iterator[dict[str, Any]]:
    if not counts or late():
        return
    depth = size // (2 * _ROW[0] * _ROW[1])
    distinct = min(max((8 << 20) // size, 1), counts[-1])
    while counts[-1] % distinct:
        distinct -= 1
    stored = Stored((depth * counts[-1], *_ROW), (depth * distinct, *_ROW), (depth, *_ROW), chain)
    path = folder / "line.zarr"
    stored.write(path)
    try:
        on_device, on_host = (gpuzarr.open_array(path, device=name) for name in (machine.name, "cpu"))
        for count in counts:
            if late():
                return
            key = slice(0, depth * count)
            with configured(strict=1):
                read = partial(on_device.read, key)
                checked(stored, read, machine.name, key)
                device = machine.wall(read)
            checked(stored, partial(on_host.read, key), "cpu", key)
            host = machine.wall(partial(_by_host, machine, on_host, key))
            expected = estimate(on_device.metadata.chain(stored.chunks), count)
            choice = "host" if expected.host < expected.device else "device"
            seconds = {"host": host, "device": device}
            yield {
                "chain": chain,
                "chunk_nbytes": size,
                "count": count,
                "seconds": seconds,
                "estimate": {"host": expected.host, "device": expected.device},
                "choice": choice,
                "better": min(seconds, key=lambda side: seconds[side]),
                "regret": seconds[choice] / min(seconds.values()) - 1,
            }
    finally:
        shutil.rmtree(path)
        machine.free()


def _by_host(machine: Machine, array: gpuzarr.Array, key: Any) -> Any:
    return machine.to_device(array.read(key))
