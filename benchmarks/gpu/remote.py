"""Objects of a server to an array on the device: through pinned staging memory, and by KvikIO's RemoteFile.

    staging    obstore → staging memory → one copy a block → device memory
    kvikio     RemoteFile → device memory (by way of pinned buffers of its own)
    fsspec     as staging, with s3fs in obstore's place, where it is installed

The server is an S3 server of ranges in a process of its own on this machine, whose answers wait as long as
those of a cloud would. It is one thread of Python: its rate is the most that anybody can read. On `sim` the
store itself stands in for KvikIO. All is compared with what was stored before it is timed.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import gpuzarr
from benchmarks.gpu.machine import Machine, WrongResultError
from benchmarks.gpu.report import Row, milliseconds, rate, size
from benchmarks.gpu.scale import Scale
from benchmarks.gpu.stored import Stored, checked
from gpuzarr import ReadStats, configured
from gpuzarr.cli.show import Part, Screen
from gpuzarr.store.remote import kvikio
from tests.servers.apart import RangeProcess

CHAINS = ("raw", "lz4")
"""Whose chunks nothing on the host has to see."""
LATENCY_S = 0.02
_WAYS = {
    "staging": ("staging", "obstore"),
    "kvikio": ("kvikio", "obstore"),
    "fsspec": ("staging", "fsspec"),
}
"""The setting `remote`, and the backend."""


def remote_table(
    machine: Machine, scale: Scale, folder: Path, late: Callable[[], bool]
) -> Iterator[dict[str, Any]]:
    """Chunks that are objects, read whole; shards, whole and in boxes."""
    at = scale.inner
    for chain in CHAINS:
        for stored in (
            Stored(scale.volume, scale.block, scale.whole, chain),
            Stored(at.volume, at.block, at.chunks, chain, at.shards),
        ):
            if late():
                return
            path = folder / "bucket" / "array.zarr"
            stored.write(path)
            try:
                with RangeProcess(folder, s3=True, latency=LATENCY_S) as server:
                    for boxes in (0, scale.boxes)[: 1 + (stored.shards is not None)]:
                        yield _row(machine, server, stored, scale, boxes)
            finally:
                shutil.rmtree(folder / "bucket")
                machine.free()


def _row(machine: Machine, server: RangeProcess, stored: Stored, scale: Scale, boxes: int) -> dict[str, Any]:
    """`boxes`: how many; 0: the whole array."""
    origins = None
    if boxes:
        high = np.array(stored.shape) - np.array(scale.box) + 1
        origins = np.random.default_rng(3).integers(0, high, (boxes, 3))
    what = f"{boxes} × {'×'.join(map(str, scale.box))}" if boxes else "whole"
    row: dict[str, Any] = {
        "name": f"{what}, {stored.chain}{', shards' if stored.shards else ''}",
        "chain": stored.chain,
        "chunk_nbytes": stored.chunk_nbytes,
        "nbytes": 2 * boxes * int(np.prod(scale.box)) or stored.nbytes,
        "seconds": {},
        "ways": {},
    }
    for way, (setting, backend) in _WAYS.items():
        why = _missing(machine, way)
        if why:
            row["ways"][way] = {"why": why}
            continue
        options = {"key": "key", "secret": "secret", "endpoint_url": server.url, "backend": backend}
        with configured(strict=1, remote=setting):
            array = gpuzarr.open_array("s3://bucket/array.zarr", device=machine.name, storage_options=options)
            read = partial(array.read) if origins is None else partial(array.patches, origins, scale.box)
            server.forget()
            stats = ReadStats()
            if origins is None:
                checked(stored, partial(read, stats=stats), f"gpuzarr, {way}")
            elif not np.array_equal(read(stats=stats).get(), stored.boxes(origins, scale.box)):
                raise WrongResultError(f"boxes are not what was stored: {way}")
            counts = server.counts()
            row["ways"][way] = {
                "requests": counts["requests"],
                "read": counts["nbytes"],
                "direct": stats.bytes_direct,
                "most_in_flight": counts["most_in_flight"],
            }
            row["seconds"][way] = machine.wall(read)
    return row


def _missing(machine: Machine, way: str) -> str | None:
    """Why there is no such way here."""
    if way == "fsspec":
        return None if importlib.util.find_spec("s3fs") else "s3fs is not installed"
    if importlib.util.find_spec("obstore") is None:
        return "obstore is not installed"
    if way == "kvikio" and machine.device.direct == "kvikio":
        mode = kvikio.mode()
        return None if mode == "kvikio" else mode
    return None


def show_remote(screen: Screen, rows: list[Row]) -> None:
    """A line for each way of each read."""
    if not rows:
        return
    header = ["from a server", "chunk", "", "requests", "read", "straight", "ms", "GB/s"]
    cells: list[list[Part]] = []
    for row in rows:
        for way, found in row["ways"].items():
            first = way == next(iter(row["ways"]))
            start: list[Part] = [row["name"], size(row["chunk_nbytes"])] if first else ["", ""]
            if "why" in found:
                cells.append([*start, way, "", "", "", "", found["why"]])
                continue
            seconds = row["seconds"][way]
            counts = [f"{found['requests']:,}", size(found["read"]), size(found["direct"])]
            cells.append([*start, way, *counts, milliseconds(seconds), rate(row["nbytes"] / seconds)])
    screen.table(header, cells)
    screen.line(("requests and bytes: the server's own count of one read; the index of a shard is", "note"))
    screen.line((f"among those of the first. Answers wait {LATENCY_S * 1000:.0f} ms", "note"))
    screen.line()
