"""Strings compressed in one call, by nvCOMP or what stands in for it: the way back of `nvcomp.decompress`.

A library may make of a string what it likes, as long as the stream says how much it stands for, and nothing
that a decompressor here does not take: kernels/strings.cu looks at each before its size is believed. What it
stands for is not compared with the string: that would be to decompress it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np

from gpuzarr.device.base import DeviceBuffer, Lane, Uncompressed
from gpuzarr.device.nvcomp import ALGORITHMS, Algorithm, Compressor, StringTable
from gpuzarr.errors import DeviceError

_COLUMNS: Final = ("source", "source_nbytes", "target", "expected")


def compress_bound(library: Compressor, algorithm: str, nbytes: int) -> int:
    """`Lane.compress_bound` for any device: a multiple of 16. A string that the library does not take is a
    DeviceError."""
    bound = library.compress_bound(_compressed(algorithm).format, max(nbytes, 1))
    return -(-bound // 16) * 16


def compress(
    lane: Lane,
    library: Compressor,
    algorithm: str,
    strings: Uncompressed,
    fault: DeviceBuffer,
    address: Callable[[DeviceBuffer], int],
    run: Callable[[Callable[[], None]], None],
) -> None:
    """`Lane.compress` for any device: strings aligned, the call in lane order (`run`), statuses and what the
    streams say compared. Where the offsets lie in device memory, and none of them can be seen, strings that
    are not aligned are at fault."""
    how, count, largest = _compressed(algorithm), strings.count, max(strings.largest, 1)
    if not count:
        return
    need = library.compress_alignments(how.format)
    pitch = -(-largest // 16) * 16 if _unaligned(strings, address(strings.src), need.input) else 0
    scratch = lane.empty(library.compress_scratch_nbytes(how.format, count, largest, count * largest))
    columns = {name: lane.empty(8 * count) for name in _COLUMNS}
    statuses = lane.empty(4 * count)
    lane.launch(
        "gz_strings",
        -(-count // 4),
        128,
        src=strings.src,
        src_offset=strings.src_offset,
        src_nbytes=strings.src_nbytes,
        dst=strings.dst,
        dst_offset=strings.dst_offset,
        lifted=lane.empty(max(count * pitch, 1)),
        spare=np.zeros(16, np.uint8),
        **columns,
        statuses=statuses,
        strings=count,
        largest=largest,
        pitch=pitch,
        unit=need.input,
    )
    table = StringTable(
        count=count,
        largest=largest,
        sources=address(columns["source"]),
        source_nbytes=address(columns["source_nbytes"]),
        targets=address(columns["target"]),
        written=address(strings.dst_nbytes),
        statuses=address(statuses),
        scratch=address(scratch),
        scratch_nbytes=scratch.nbytes,
    )
    run(partial(library.compress, how.format, table))
    lane.launch(
        "gz_compressed",
        -(-count // 256),
        256,
        dst=strings.dst,
        dst_offset=strings.dst_offset,
        dst_nbytes=strings.dst_nbytes,
        expected=columns["expected"],
        statuses=statuses,
        owner=strings.owner,
        fault=fault,
        strings=count,
        room=compress_bound(library, algorithm, largest),
        format=how.code,
    )


def _compressed(algorithm: str) -> Algorithm:
    how = ALGORITHMS.get(algorithm)
    if how is None or not how.compressed:
        known = ", ".join(name for name, one in ALGORITHMS.items() if one.compressed)
        raise DeviceError(f"{algorithm} is not compressed on a device; {known} is")
    return how


def _unaligned(strings: Uncompressed, begin: int, unit: int) -> bool:
    """Whether a string may lie at an address that is no multiple of `unit`, as far as the host can see."""
    seen = strings.src_offset if isinstance(strings.src_offset, np.ndarray) else np.zeros(1, np.int64)
    return bool(((begin + seen) % unit).any())
