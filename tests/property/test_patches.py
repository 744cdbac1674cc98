"""Random boxes of random arrays: the result is that of NumPy, which pads the whole array and slices it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuzarr
from gpuzarr import ReadStats
from tests.devices import EVERY, as_given, to_host

zarr = pytest.importorskip("zarr", reason="zarr-python, which writes the arrays, is not installed")

MARGIN = 40


@st.composite
def stored(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, bytes]]:
    """An array, and its objects, some of them missing."""
    shape = tuple(draw(st.lists(st.integers(1, 13), min_size=1, max_size=3)))
    chunks = tuple(draw(st.integers(1, n + 2)) for n in shape)
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    values = rng.integers(0, 90, shape).astype(draw(st.sampled_from(["u1", "<i2", "<f4", "<f8", "<c16"])))
    options: dict[str, Any] = {"compressors": draw(st.sampled_from(COMPRESSORS))}
    if draw(st.booleans()):
        options["shards"] = tuple(n * draw(st.integers(1, 3)) for n in chunks)
    if draw(st.booleans()):
        options["filters"] = [zarr.codecs.TransposeCodec(order=draw(st.permutations(range(len(shape)))))]
    if values.dtype.itemsize > 1:
        options["serializer"] = zarr.codecs.BytesCodec(endian=draw(st.sampled_from(["little", "big"])))
    store = zarr.storage.MemoryStore()
    made = zarr.create_array(store, shape=shape, chunks=chunks, dtype=values.dtype, fill_value=5, **options)
    made[...] = values
    objects = {key: value.to_bytes() for key, value in store._store_dict.items()}
    for key in [key for key in objects if key.startswith("c")]:
        if draw(st.integers(0, 4)) == 0:
            del objects[key]
    return gpuzarr.open_array(objects, device="cpu")[...], objects


COMPRESSORS: list[Any] = [
    None,
    zarr.codecs.ZstdCodec(level=1),
    zarr.codecs.BloscCodec(cname="lz4", shuffle="shuffle"),
    [zarr.codecs.BloscCodec(cname="lz4", shuffle="bitshuffle"), zarr.codecs.Crc32cCodec()],
]


@pytest.mark.parametrize("device", EVERY)
@settings(max_examples=25)
@given(data=st.data(), case=stored(), mode=st.sampled_from(["constant", "edge", "reflect", "wrap"]))
def test_boxes_are_slices_of_the_padded_array(
    device: str, data: st.DataObject, case: tuple[np.ndarray, dict[str, bytes]], mode: str
) -> None:
    values, objects = case
    ndim, most = values.ndim, MARGIN // 2
    n = data.draw(st.integers(0, 6))
    origins = np.array(
        [[data.draw(st.integers(-most, size + 4)) for size in values.shape] for _ in range(n)], np.int64
    ).reshape(n, ndim)
    shape = tuple(data.draw(st.integers(0, 9)) for _ in values.shape)
    options: dict[str, Any] = {"constant_values": 5} if mode == "constant" else {}
    padded = np.pad(values, MARGIN, mode=mode, **options)  # type: ignore[call-overload]
    expected = np.empty((n, *shape), values.dtype)
    for box, at in zip(expected, origins, strict=True):
        box[...] = padded[
            tuple(slice(MARGIN + lo, MARGIN + lo + size) for lo, size in zip(at, shape, strict=True))
        ]
    stats = ReadStats()
    with gpuzarr.configured(native=data.draw(st.integers(0, 1)) if device == "cpu" else 1):
        found = gpuzarr.open_array(objects, device=device).patches(origins, shape, mode=mode, stats=stats)
    assert to_host(found).tobytes() == as_given(expected, device).tobytes()
    stored_chunks = np.prod(gpuzarr.open_array(objects, device="cpu").metadata.chunk_grid.shape)
    assert stats.chunks <= stored_chunks, "no chunk twice"
