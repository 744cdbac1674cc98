"""zstd on the device, through the seam that nvCOMP fills on a GPU and host libraries on `sim`."""

from __future__ import annotations

import json
from typing import Any

import numcodecs
import numpy as np
import pytest

import gpuzarr
from gpuzarr.codecs import registry
from gpuzarr.codecs.base import ChunkSpec
from gpuzarr.errors import ChunkError
from tests.conftest import SIM_ORDERS


def on_sim(chunks: list[bytes], values: np.ndarray, order: str = "sim", **settings: Any) -> tuple[Any, Any]:
    """An array of one axis, its chunks as given, read on the simulated device; and what that cost."""
    document = {
        "zarr_format": 2,
        "shape": [len(values)],
        "chunks": [len(values) // len(chunks)],
        "dtype": values.dtype.str,
        "compressor": {"id": "zstd", "level": 1},
        "filters": None,
        "fill_value": 0,
        "order": "C",
    }
    objects = {".zarray": json.dumps(document).encode()} | {str(i): chunk for i, chunk in enumerate(chunks)}
    stats = gpuzarr.ReadStats()
    with gpuzarr.configured(**settings):
        return gpuzarr.open_array(objects, device=order).read(stats=stats).get(), stats


VALUES = np.random.default_rng(5).integers(0, 40, 4 * 3000, np.uint16)
PARTS = [part.tobytes() for part in VALUES.reshape(4, 3000)]


@pytest.mark.parametrize("order", SIM_ORDERS)
def test_frames_cross_compressed(order: str) -> None:
    stored = [numcodecs.zstd.compress(part) for part in PARTS]
    found, stats = on_sim(stored, VALUES, order)
    assert np.array_equal(found, VALUES)
    assert sum(map(len, stored)) <= stats.bytes_crossed < sum(map(len, stored)) + 16 * len(stored)
    assert stats.waves == 1


def test_odd_frames_are_left_to_the_host() -> None:
    """Several frames, a skippable one, one without a size, one with a checksum: beside one that crosses."""
    half = len(PARTS[0]) // 2
    pieces = [numcodecs.zstd.compress(one) for one in (PARTS[0][:half], PARTS[0][half:])]
    stored = [
        b"".join(pieces),
        b"\x50\x2a\x4d\x18\x04\0\0\0skip" + numcodecs.zstd.compress(PARTS[1]),
        numcodecs.zstd.compress(PARTS[2], 1, True),
        numcodecs.zstd.compress(PARTS[3]),
    ]
    found, stats = on_sim(stored, VALUES)
    assert np.array_equal(found, VALUES)
    assert stats.bytes_crossed >= 3 * len(PARTS[0])
    assert stats.waves == 2
    assert stats.on_host == 3


def test_scratch_counts_in_the_budget() -> None:
    stored = [numcodecs.zstd.compress(part) for part in PARTS]
    budget = 2 * (5 * len(PARTS[0]) + 12288)
    found, stats = on_sim(stored, VALUES, wave_nbytes=budget)
    assert np.array_equal(found, VALUES)
    assert stats.peak_device_bytes <= budget
    assert stats.waves > 1


@pytest.mark.parametrize("position", [9, 40, -3])
def test_damage_is_a_chunk_error_on_the_device(position: int) -> None:
    """The same kind of error as on the host, or the same values where nothing protects them."""
    broken = bytearray(numcodecs.zstd.compress(PARTS[1]))
    broken[position] ^= 0x5A
    stored = [numcodecs.zstd.compress(PARTS[0]), bytes(broken), *map(numcodecs.zstd.compress, PARTS[2:])]
    outcomes = []
    for device in ("cpu", "sim"):
        try:
            outcomes.append(on_sim(stored, VALUES, "sim")[0].tobytes() if device == "sim" else _host(stored))
        except ChunkError as error:
            outcomes.append(f"{type(error).__name__} {error.chunk} {error.codec}")
    assert outcomes[0] == outcomes[1]


def _host(stored: list[bytes]) -> bytes:
    subject, spec = registry.from_v2({"id": "zstd"}), ChunkSpec((), np.dtype("u1"), len(PARTS[0]))
    plain = []
    for i, chunk in enumerate(stored):
        try:
            plain.append(bytes(subject.decode(chunk, spec)))
        except ChunkError as error:
            raise error.located(chunk=str(i), codec="zstd") from error
    return b"".join(plain)
