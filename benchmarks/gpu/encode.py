"""Writes of values that lie in device memory: what the device does by itself, then all of `Array.write` into
memory, beside the host's encoders on all threads and nvCOMP's own batched call.

Every chunk that is timed was decoded on the host and compared before. Parts of the array take turns, so that
memory is measured and not the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gpuzarr
from benchmarks.gpu.given import Given, fetched
from benchmarks.gpu.machine import Ceilings, Machine, WrongResultError
from benchmarks.gpu.scale import Scale
from benchmarks.gpu.stored import Stored, checked, noise
from gpuzarr.device.base import Lane
from gpuzarr.device.nvcomp import StringTable

CHAINS = (
    "raw",
    "crc32c",
    "lz4",
    "blosc(lz4, shuffle)",
    "blosc(lz4, bitshuffle)",
    "zstd",
    "blosc(zstd, shuffle)",
)
FEW = ("raw", "blosc(lz4, shuffle)", "zstd")

PASSES: dict[str, tuple[int, int]] = {
    "gz_scatter": (2, 0),
    "gz_shuffle": (2, 0),
    "gz_lz4_encode": (1, 1),
    "gz_blosc_pack": (0, 2),
    "gz_crc32c_append": (0, 1),
}
"""What a kernel moves, at least: times the decoded bytes, times the encoded bytes. Others move columns,
or end early (gz_differs)."""
_ROUNDS = 5  # of whole writes


def encode_table(
    machine: Machine, scale: Scale, ceilings: Ceilings, late: Callable[[], bool]
) -> Iterator[dict[str, Any]]:
    """A row for every chain and chunk size."""
    values = np.tile(noise(scale.block), [n // b for n, b in zip(scale.volume, scale.block, strict=True)])
    on_device = machine.to_device(values)
    for chunks in scale.written:
        for chain in CHAINS if not scale.few else FEW:
            if late():
                return
            stored = Stored(scale.volume, scale.block, chunks, chain)
            try:
                yield _row(machine, stored, ceilings, values, on_device)
            finally:
                machine.free()


def _row(
    machine: Machine, stored: Stored, ceilings: Ceilings, values: NDArray[Any], on_device: Any
) -> dict[str, Any]:
    """Seconds, bytes, rates, parts; and who else."""
    array = gpuzarr.open_array({"zarr.json": stored.document}, mode="r+", device=machine.name)
    given = Given(machine, array, on_device)
    encoded = _encoded(machine, given, array, values)
    timing = machine.measure(given.queue, detail=True)
    decoded = given.decoded_nbytes
    parts: dict[str, dict[str, float | None]] = {}
    for name, seconds in timing.parts.items():
        of_decoded, of_encoded = (1, 1) if name.startswith("nvCOMP") else PASSES.get(name, (0, 0))
        nbytes = of_decoded * decoded + of_encoded * encoded
        share = nbytes / seconds / ceilings.copy if nbytes and seconds else None
        parts[name] = {"seconds": seconds, "nbytes": nbytes, "of_copy": share}
    row: dict[str, Any] = {
        "chain": stored.chain,
        "chunk_nbytes": stored.chunk_nbytes,
        "chunks": len(given.rows),
        "decoded": decoded,
        "encoded": encoded,
        "seconds": timing.seconds,
        "rate": decoded / timing.seconds,
        "of_roofline": (decoded + encoded) / ceilings.copy / timing.seconds,
        "parts": parts,
        "write": _write(machine, stored, machine.name, on_device),
        "host": _write(machine, stored, "cpu", values),
    }
    if stored.chain in machine.compresses:
        spent, nbytes = library(machine, stored.chain, given)
        row["library"] = {"seconds": spent, "rate": decoded / spent, "encoded": nbytes}
        row["of_library"] = spent / timing.seconds
    return row


def _encoded(machine: Machine, given: Given, array: gpuzarr.Array, values: NDArray[Any]) -> int:
    """Bytes that the first part becomes, each chunk of which decodes to its values on the host."""
    strings = fetched(machine.lane, given.queue(machine.lane))
    for row, string in zip(given.rows, strings, strict=True):
        found = given.update.chain(row).decode(string.tobytes())
        if not np.array_equal(found, values[given.box(row)]):
            raise WrongResultError(f"{array.codecs}: chunk {row} does not decode to its values")
    return sum(string.nbytes for string in strings)


def _write(machine: Machine, stored: Stored, device: str, values: Any) -> dict[str, float]:
    """All of `Array.write`, into memory."""
    objects = {"zarr.json": stored.document}
    array = gpuzarr.open_array(objects, mode="r+", device=device)
    write = partial(array.write, ..., values)
    write()
    checked(stored, gpuzarr.open_array(objects, device="cpu").read, f"written on {device}")
    encoded = sum(map(len, objects.values())) - len(stored.document)
    seconds = machine.wall(write, min(machine.rounds, _ROUNDS))
    return {"seconds": seconds, "rate": stored.nbytes / seconds, "encoded": encoded}


def library(machine: Machine, format: str, given: Given) -> tuple[float, int]:
    """Seconds of nvCOMP's own batched call for the chunks of a part, and the bytes that it makes of them."""
    library = machine.library()
    held = machine.device.lane()  # never reset: what is compressed lies in its arena
    chunks = given.gather(held)
    held.synchronize()
    most, count = chunks.limit, len(chunks)
    pitch = -(-library.compress_bound(format, most) // 16) * 16
    sizes, statuses = np.empty(8 * count, np.uint8), np.empty(4 * count, np.uint8)

    def queue(lane: Lane, turn: int = 0) -> None:
        address, row = machine.address, np.arange(count, dtype=np.int64)
        sources, nbytes, places = (
            address(lane.upload(column))
            for column in (
                address(chunks.data) + row * chunks.pitch,
                np.full(count, most, np.int64),
                address(lane.empty(pitch * count)) + row * pitch,
            )
        )
        written, said = lane.empty(8 * count), lane.empty(4 * count)
        scratch = lane.empty(library.compress_scratch_nbytes(format, count, most, count * most))
        table = StringTable(
            count=count,
            largest=most,
            sources=sources,
            source_nbytes=nbytes,
            targets=places,
            written=address(written),
            statuses=address(said),
            scratch=address(scratch),
            scratch_nbytes=scratch.nbytes,
        )
        machine.call(lane, f"nvCOMP ({format})", partial(library.compress, format, table))
        lane.download(written, sizes)
        lane.download(said, statuses)

    timing = machine.measure(queue, detail=True)
    if statuses.any():
        raise WrongResultError(f"nvCOMP does not compress all chunks as {format}")
    return timing.parts[f"nvCOMP ({format})"], int(sizes.view(np.int64).sum())
