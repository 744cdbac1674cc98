"""Copies of a large Zarr v2 array of small chunks into shards of Zarr v3: what they cost in CPU time, and how
much memory they take.

Each copy runs in a process of its own, which says what it spent once everything was imported and opened,
and the most memory it ever had. gpuzarr copies with `copy`; zarr-python reads and writes shard by shard, with
each of its pipelines that could be the best. Times are CPU time: threads are not what is compared.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import arrays
from benchmarks.peers import Peer
from benchmarks.report import Row
from gpuzarr.cli.show import Screen

KIB64, SHARDS = (32, 32, 32), (256, 256, 256)
_PEERS = ("gpuzarr", "zarr fused", "zarrs")


@dataclass(frozen=True, slots=True)
class Copy:
    """`goal`: the best peer's CPU time over ours."""

    name: str
    codec: str
    goal: float


COPIES = (Copy("blosc-lz4 as it is", "lz4", 3.0), Copy("blosc-lz4 to zstd", "zstd", 1.0))

_CHILD = """
import json, sys, resource
from benchmarks import copies, peers
name, source, target, codec = sys.argv[1:]
peer = peers.named(name)
def spent():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
with peer.session():
    run = copies.prepared(name, source, target, codec)
    before = spent()
    run()
    cpu = spent() - before
lines = open("/proc/self/status").read().splitlines()
peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
print(json.dumps({"cpu": cpu, "peak": peak}))
"""


def rows(
    mib: int, rounds: int, everyone: list[Peer], python: Callable[..., str], screen: Screen
) -> list[Row]:
    """Two rows a copy: our peak memory for an array of `mib` MiB; and CPU seconds of everyone, by turns, for
    a quarter of that. `python` runs a process and gives what it prints."""
    part = arrays.volume(arrays.shape_of(max(mib // 16, 16)))
    chosen = [peer for peer in everyone if peer.name in _PEERS]
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        large, source = (
            _make(Path(folder, "large.zarr"), part, mib),
            _make(Path(folder, "v2.zarr"), part, mib // 4),
        )
        target = Path(folder, "target.zarr")

        def run(peer: str, codec: str, of: _Source, check: bool) -> dict[str, float]:
            shutil.rmtree(target, ignore_errors=True)
            told: dict[str, float] = json.loads(python("-c", _CHILD, peer, str(of.path), str(target), codec))
            if check:
                _check(target, part, of.count, f"{peer}, {codec}")
            return told

        for copy in COPIES:
            peak = run("gpuzarr", copy.codec, large, check=True)["peak"] / 2**20
            what = f"{copy.name}, {large.nbytes >> 20:,} MiB"
            found.append(Row("peak memory of a copy", what, 500.0, value=peak, unit="MiB"))
            spent: dict[str, list[float]] = {peer.name: [] for peer in chosen}
            for turn in range(rounds):
                for peer in chosen[turn % len(chosen) :] + chosen[: turn % len(chosen)]:
                    spent[peer.name].append(run(peer.name, copy.codec, source, check=not turn)["cpu"])
            row = Row("copy v2 to shards, CPU", copy.name, copy.goal)
            row.seconds = {name: median(times) for name, times in spent.items()}
            rates = [f"{name} {source.nbytes / used / 2**20:,.0f}" for name, used in row.seconds.items()]
            row.note = f"MiB a CPU second: {', '.join(rates)}"
            screen.line((f"copy, {copy.name}: {row.note}", "note"))
            found.append(row)
    return found


@dataclass(frozen=True, slots=True)
class _Source:
    path: Path
    count: int
    """How often the part is in it."""
    nbytes: int


def _make(path: Path, part: NDArray[np.uint16], mib: int) -> _Source:
    """An array of the same part again and again, each time with other low bits."""
    import zarr
    from numcodecs import Blosc

    count = max((mib << 20) // part.nbytes, 1)
    array = zarr.create_array(
        path,
        shape=(count * part.shape[0], *part.shape[1:]),
        dtype=part.dtype,
        chunks=KIB64,
        zarr_format=2,
        compressors=Blosc(cname="lz4", clevel=5, shuffle=Blosc.SHUFFLE),
    )
    for i in range(count):
        array[i * part.shape[0] : (i + 1) * part.shape[0]] = part ^ np.uint16(i & 3)
    return _Source(path, count, count * part.nbytes)


def _check(path: Path, part: NDArray[np.uint16], count: int, what: str) -> None:
    """What was written is what there was, in zarr-python's eyes."""
    import zarr

    array, deep = zarr.open_array(path, mode="r"), part.shape[0]
    for i in range(count):
        if not np.array_equal(array[i * deep : (i + 1) * deep], part ^ np.uint16(i & 3)):
            raise SystemExit(f"the copy is something else: {what}")


def prepared(name: str, source: str, target: str, codec: str) -> Callable[[], object]:
    """What runs in the process of its own."""
    if name == "gpuzarr":
        import gpuzarr

        gpuzarr.open_array(source)
        options: dict[str, Any] = {"zarr_format": 3, "shards": SHARDS}
        if codec == "zstd":
            options["codecs"] = [{"name": "zstd", "configuration": {"level": 3, "checksum": False}}]
        return lambda: gpuzarr.copy(source, target, **options)
    import zarr
    from zarr.codecs import BloscCodec, ZstdCodec

    given = zarr.open_array(source, mode="r")
    compressor = ZstdCodec(level=3) if codec == "zstd" else BloscCodec(cname="lz4", clevel=5, typesize=2)

    def run() -> None:
        made = zarr.create_array(
            target, shape=given.shape, dtype=given.dtype, chunks=KIB64, shards=SHARDS, compressors=compressor
        )
        counts = [-(-n // size) for n, size in zip(given.shape, SHARDS, strict=True)]
        for cell in np.ndindex(*counts):
            box = tuple(slice(i * size, (i + 1) * size) for i, size in zip(cell, SHARDS, strict=True))
            made[box] = given[box]

    return run
