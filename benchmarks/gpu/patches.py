"""Many boxes in one read: from files in the page cache, and from chunks that the device keeps decoded.

    cold        every chunk is fetched and decoded
    warm        every chunk is in the device's cache
    … as f32    converted on the way: one pass more
    host        the same on all threads, with the host's cache, and then to the device

Boxes are compared with NumPy before they are timed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import gpuzarr
from benchmarks.gpu.machine import Ceilings, Machine, WrongResultError
from benchmarks.gpu.scale import Scale
from benchmarks.gpu.stored import Stored
from gpuzarr import ReadStats, configured
from gpuzarr.engine import cache

CHAINS = ("raw", "blosc(lz4, shuffle)", "zstd")
_SCALE = 1 / 65535


def patch_table(
    machine: Machine, scale: Scale, ceilings: Ceilings, folder: Path, late: Callable[[], bool]
) -> Iterator[dict[str, Any]]:
    """A row for every chain; only one array is on the disk at a time."""
    for chain in CHAINS:
        if late():
            return
        stored = Stored(scale.volume, scale.block, scale.whole, chain)
        path = folder / "boxes.zarr"
        stored.write(path)
        try:
            yield _row(machine, stored, path, scale, ceilings)
        finally:
            shutil.rmtree(path)
            cache.clear()
            machine.free()


def _row(machine: Machine, stored: Stored, path: Path, scale: Scale, ceilings: Ceilings) -> dict[str, Any]:
    high = np.array(scale.volume) - np.array(scale.box) + 1
    origins = np.random.default_rng(3).integers(0, high, (scale.boxes, 3))
    plain = stored.boxes(origins, scale.box)
    on_device, on_host = (gpuzarr.open_array(path, device=name) for name in (machine.name, "cpu"))
    floats: dict[str, Any] = {"dtype": "float32", "scale": _SCALE}
    ways: dict[str, dict[str, Any]] = {
        "cold": {},
        "warm": {"cache": True},
        "cold as f32": floats,
        "warm as f32": {"cache": True, **floats},
    }
    seconds: dict[str, float] = {}
    counts = ReadStats()
    room = 2 * stored.nbytes + (1 << 20)
    with configured(device_cache_nbytes=room, cache_nbytes=room):
        for name, options in ways.items():
            expected = plain.astype("f4") * np.float32(_SCALE) if "dtype" in options else plain
            with configured(strict=1):
                read = partial(on_device.patches, origins, scale.box, **options)
                _check(read(stats=counts if name == "cold" else ReadStats()).get(), expected, machine.name)
                seconds[name] = machine.wall(read)
            seconds[f"{name}, chosen"] = machine.wall(read)
            at_host = partial(on_host.patches, origins, scale.box, **options)
            _check(at_host(), expected, "the host")
            seconds[f"{name}, host"] = machine.wall(partial(_to_device, machine, at_host))
        known = ReadStats()
        on_device.patches(origins, scale.box, cache=True, stats=known)
    if known.requests:
        raise WrongResultError("what the cache should have was read again")
    return {
        "name": f"{scale.boxes} × {'×'.join(map(str, scale.box))}, {stored.chain}",
        "chain": stored.chain,
        "chunk_nbytes": stored.chunk_nbytes,
        "boxes": scale.boxes,
        "nbytes": plain.nbytes,
        "chunks": counts.chunks,
        "decoded": counts.chunks * stored.chunk_nbytes,
        "read": counts.bytes_read,
        "requests": counts.requests,
        "on_host": counts.on_host,
        "seconds": seconds,
        "of_copy": 2 * plain.nbytes / seconds["warm"] / ceilings.copy,
    }


def _to_device(machine: Machine, read: Callable[[], Any]) -> Any:
    return machine.to_device(read())


def _check(found: Any, expected: Any, who: str) -> None:
    if found.dtype != expected.dtype or not np.array_equal(found, expected):
        raise WrongResultError(f"boxes are not what NumPy gives: {who}")
