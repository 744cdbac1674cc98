"""Whole reads: from files in the page cache to an array on the device, and what each step takes by itself.

    plan      a table of byte ranges                     one thread
    fetch     files into staging memory                  all threads
    crossing  staging memory to the device               the link
    device    decoding, and the copy into the result     the device
    all       `Array.read`, in which they overlap

The step that takes longest by itself is the one that binds; `all` can be no shorter than it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import gpuzarr
from benchmarks.gpu.held import Held, load
from benchmarks.gpu.machine import Ceilings, Machine, WrongResultError
from benchmarks.gpu.peers import Peer
from benchmarks.gpu.scale import Scale
from benchmarks.gpu.stored import Stored, checked
from gpuzarr import ReadStats, configured, selection
from gpuzarr.device.base import Lane
from gpuzarr.engine.crossing import Loader
from gpuzarr.engine.device import wave_budget
from gpuzarr.engine.planning import make_plan

_SLOW = 1.0  # seconds: who takes longer is timed once
_STAGED = 256 << 20  # bytes that are fetched before staging memory is given back


@dataclass(frozen=True, slots=True)
class Case:
    """One read. `key`: what is read of it."""

    name: str
    stored: Stored
    key: Any = ...


def cases(scale: Scale) -> list[Case]:
    """The rows of the table of goals."""
    found = [
        Case(f"{_size(scale.whole)} chunks, {chain}", Stored(scale.volume, scale.block, scale.whole, chain))
        for chain in ("raw", "lz4", "zstd", "blosc(lz4, shuffle)")
    ]
    block, volume, chunks = scale.many
    many = Stored(volume, block, chunks, "blosc(lz4, shuffle)")
    found.append(Case(f"{many.count} × {_size(chunks)}, blosc(lz4, shuffle)", many))
    at = scale.published
    shards = Stored(at.volume, at.block, at.chunks, "zstd", at.shards)
    count = shards.nbytes // (2 * _elements(at.shards))
    per = _elements(at.shards) // _elements(at.chunks)
    found.append(Case(f"{count} shards × {per} zstd chunks of {_size(at.chunks)}", shards))
    at = scale.inner
    inner = Stored(at.volume, at.block, at.chunks, "blosc(lz4, shuffle)", at.shards)
    many_inner = _elements(scale.inner_read) // _elements(at.chunks)
    key = tuple(slice(0, n) for n in scale.inner_read)
    found.append(Case(f"{many_inner} inner chunks of one shard, blosc(lz4, shuffle)", inner, key))
    return found


def read_table(
    machine: Machine,
    scale: Scale,
    ceilings: Ceilings,
    peers: list[Peer],
    folder: Path,
    late: Callable[[], bool],
) -> Iterator[dict[str, Any]]:
    """A row for every case; only one array is on the disk at a time."""
    for case in cases(scale):
        if late():
            return
        path = folder / "array.zarr"
        case.stored.write(path)
        try:
            yield measured(machine, case, path, ceilings, peers, late)
        finally:
            shutil.rmtree(path)
            machine.free()


def measured(
    machine: Machine,
    case: Case,
    path: Path,
    ceilings: Ceilings,
    peers: list[Peer],
    late: Callable[[], bool],
) -> dict[str, Any]:
    """One row: bytes, seconds of each step, who else was how fast."""
    array = gpuzarr.open_array(path, device=machine.name)
    assert isinstance(array, gpuzarr.Array)
    with configured(strict=1):
        stats = ReadStats()
        checked(case.stored, lambda: array.read(case.key, stats=stats), "gpuzarr", case.key)
        counts = stats.as_dict()
        seconds = {"all": machine.wall(lambda: array.read(case.key))}
        seconds |= _steps(machine, array, case.key)
    checked(case.stored, lambda: array.read(case.key), "gpuzarr, by its own choice", case.key)
    seconds["chosen"] = machine.wall(lambda: array.read(case.key))
    encoded, decoded = seconds.pop("encoded"), seconds.pop("decoded")
    nbytes = int(decoded)
    steps = {step: seconds[step] for step in ("plan", "fetch", "crossing", "device")}
    binding = max(steps, key=lambda step: steps[step])
    link = ceilings.link * decoded / encoded  # decoded bytes a second that the link allows
    bound = min(link, decoded / steps["device"])
    return {
        "name": case.name,
        "chain": case.stored.chain,
        "chunk_nbytes": case.stored.chunk_nbytes,
        "counts": counts,
        "decoded": nbytes,
        "encoded": int(encoded),
        "seconds": seconds,
        "binding": binding,
        "rate": nbytes / seconds["all"],
        "of_binding": steps[binding] / seconds["all"],
        "of_bound": nbytes / seconds["all"] / bound,
        "limits": {
            "fetch at the page cache's rate": encoded / ceilings.cache,
            "crossing at the link's rate": encoded / ceilings.link,
            "one pass at the copy's rate": (encoded + decoded) / ceilings.copy,
        },
        "peers": {peer.name: _peer(machine, case, path, peer, late) for peer in peers},
    }


def _steps(machine: Machine, array: gpuzarr.Array, key: Any) -> dict[str, float]:
    """Seconds of each step by itself; and bytes."""
    source = array._source
    chosen = selection.basic(key, array.shape)
    plan = make_plan(source, chosen, ReadStats())
    planned = machine.wall(lambda: make_plan(source, chosen, ReadStats()))
    loader = Loader(source, plan, ReadStats())
    staging = machine.device.staging()
    average = array.nbytes / max(plan.requests, 1)
    many = max(int(_STAGED / average), 1)

    fetch, cross = [], []
    for _ in range(machine.rounds + 1):
        spent = crossed = 0.0
        for first in range(0, plan.requests, many):
            began = perf_counter()
            load(loader, staging, first, min(first + many, plan.requests))
            spent += perf_counter() - began
            crossed += _crossing(machine, [block for _, block in staging.blocks])
            staging.reset()
        fetch.append(spent)
        cross.append(crossed)
    held = Held(machine, array, key, budget=wave_budget(machine.device))
    device = machine.measure(held.queue).seconds
    return {
        "plan": planned,
        "fetch": median(fetch[1:]),
        "crossing": median(cross[1:]),
        "device": device,
        "encoded": float(held.encoded_nbytes),
        "decoded": float(held.decoded_nbytes),
    }


def _crossing(machine: Machine, blocks: list[Any]) -> float:
    lane: Lane = machine.lane
    for block in blocks:
        lane.upload(block)
    seconds = machine.run(lane).seconds
    lane.reset()
    return seconds


def _peer(machine: Machine, case: Case, path: Path, peer: Peer, late: Callable[[], bool]) -> dict[str, Any]:
    """How long a peer takes, its handle being open; or why it does not read this."""
    if late():
        return {"why": "no time was left"}
    try:
        with peer.session():
            handle = peer.open(str(path))
            machine.synchronize()
            began = perf_counter()
            checked(case.stored, lambda: peer.read(handle, case.key), peer.name, case.key)
            machine.synchronize()
            if perf_counter() - began > 4 * _SLOW:
                return {"seconds": machine.walls(lambda: peer.read(handle, case.key), 1)[0]}
            return {"seconds": machine.wall(lambda: peer.read(handle, case.key), min(machine.rounds, 5))}
    except WrongResultError as error:
        return {"why": f"wrong values: {error}"}
    except Exception as error:  # a peer that cannot read this says why, and the others go on
        return {"why": f"{type(error).__name__}: {error}"[:200]}


def _elements(shape: tuple[int, ...]) -> int:
    product = 1
    for n in shape:
        product *= n
    return product


def _size(chunks: tuple[int, ...]) -> str:
    nbytes = 2 * _elements(chunks)
    if nbytes % (1 << 10) or (nbytes >= 1e6 and nbytes % (1 << 20)):
        return f"{nbytes / 1e6:.2g} MB"
    return f"{nbytes >> 20} MiB" if nbytes >= 1 << 20 else f"{nbytes >> 10} KiB"
