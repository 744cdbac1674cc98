"""What the device does by itself: encoded chunks lie in its memory, the result is written there.

Every row is checked against NumPy, then timed as a whole and part by part. Two sets of chunks take turns, and
each pass writes several times what the cache holds, so that memory is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gpuzarr
from benchmarks.gpu.held import Held
from benchmarks.gpu.machine import Ceilings, Machine
from benchmarks.gpu.scale import Scale
from benchmarks.gpu.stored import Stored, checked

CHAINS = (
    "raw",
    "lz4",
    "blosc(lz4, shuffle)",
    "blosc(lz4, bitshuffle)",
    "blosc(blosclz, shuffle)",
    "zstd",
    "blosc(zstd, shuffle)",
    "gzip",
    "zlib",
)
FEW = ("raw", "lz4", "blosc(lz4, shuffle)", "zstd", "zlib")

PASSES: dict[str, tuple[int, int]] = {
    "gz_lz4": (1, 1),
    "gz_blosclz": (1, 1),
    "gz_scatter": (0, 2),
    "gz_unshuffle": (0, 2),
    "gz_adler32": (0, 1),
    "gz_crc32": (0, 1),
    "gz_crc32c": (0, 1),
}
"""What a kernel moves, at least: times the encoded bytes, times the decoded bytes. Others move columns."""


def decode_table(
    machine: Machine, scale: Scale, ceilings: Ceilings, late: Callable[[], bool]
) -> Iterator[dict[str, Any]]:
    """A row for every chain and chunk size."""
    for chunks in scale.chunk_shapes:
        for chain in CHAINS if not scale.few else FEW:
            if late():
                return
            stored = Stored(scale.volume, scale.block, chunks, chain)
            yield measured(machine, stored, ceilings, scale.sets)


def shuffle_table(
    machine: Machine, scale: Scale, ceilings: Ceilings, late: Callable[[], bool]
) -> Iterator[dict[str, Any]]:
    """Unshuffle, swap bytes and crop in one pass: big-endian shuffled chunks, read but for their borders."""
    crop = tuple(slice(3, n - 5) for n in scale.volume)
    for chunks in scale.chunk_shapes:
        if late():
            return
        stored = Stored(scale.volume, scale.block, chunks, "shuffle", endian="big")
        row = measured(machine, stored, ceilings, scale.sets, crop)
        row["chain"] = "shuffle, big-endian, cropped"
        yield row


def measured(
    machine: Machine, stored: Stored, ceilings: Ceilings, sets: int, key: Any = ...
) -> dict[str, Any]:
    """One row: seconds, bytes, rates, parts."""
    try:
        return _row(machine, stored, ceilings, sets, key)
    finally:
        machine.free()


def _row(machine: Machine, stored: Stored, ceilings: Ceilings, sets: int, key: Any) -> dict[str, Any]:
    array = gpuzarr.open_array(stored.in_memory(), device=machine.name)
    held = Held(machine, array, key, copies=sets)

    def once() -> Any:
        machine.once(held.queue)
        return held.out

    checked(stored, once, machine.name, key)
    timing = machine.measure(held.queue, detail=True)
    encoded, decoded = held.encoded_nbytes, held.decoded_nbytes
    result = int(held.out.nbytes)
    parts: dict[str, dict[str, float | None]] = {}
    moved = 0
    for name, seconds in timing.parts.items():
        of_encoded, of_decoded = (1, 1) if name.startswith("nvCOMP") else PASSES.get(name, (0, 0))
        nbytes = of_encoded * encoded + of_decoded * decoded
        if of_decoded == 2:
            nbytes = decoded + result
        moved += nbytes
        share = nbytes / seconds / ceilings.copy if nbytes and seconds else None
        parts[name] = {"seconds": seconds, "nbytes": nbytes, "of_copy": share}
    fewest = encoded + result
    row: dict[str, Any] = {
        "chain": stored.chain,
        "chunk_nbytes": stored.chunk_nbytes,
        "chunks": len(held.plan),
        "on_host": held.on_host,
        "encoded": encoded,
        "decoded": decoded,
        "seconds": timing.seconds,
        "rate": decoded / timing.seconds,
        "moved": moved,
        "fewest": fewest,
        "of_roofline": fewest / ceilings.copy / timing.seconds,
        "parts": parts,
    }
    library = sum(seconds for name, seconds in timing.parts.items() if name.startswith("nvCOMP"))
    if library:
        row["library_rate"] = decoded / library
        row["of_library"] = library / timing.seconds
    fused = parts.get("gz_unshuffle")
    if fused:
        row["fused_of_copy"] = fused["of_copy"]
    return row
