"""Random arrays are created, written, resized, appended to and reopened: at every step they hold what a NumPy
array holds that lives through the same, and at the end zarr-python reads it too."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuzarr
from tests.devices import DEVICES, on_device
from tests.property.test_reads import equal, slices

zarr = pytest.importorskip("zarr", reason="zarr-python, which reads what was written, is not installed")

DTYPES = ["u1", "<i2", ">u4", "<f4", ">f8", "<c8", "?", "<u8", "<M8[s]", "S3", "<U2", "f2"]
CODECS: list[Any] = [
    None,
    "auto",
    ["zstd"],
    ["gzip"],
    [{"name": "blosc", "configuration": {"cname": "lz4", "clevel": 5, "shuffle": "shuffle"}}],
    [{"name": "blosc", "configuration": {"cname": "zstd", "clevel": 1, "shuffle": "bitshuffle"}}],
]


def draw_values(data: st.DataObject, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Few different values, so that chunks of the fill value alone occur."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    most = data.draw(st.sampled_from([1, 2, 90]))
    numbers = rng.integers(0, most, shape)
    if dtype.kind == "f" and data.draw(st.booleans()):
        return np.where(numbers == 1, np.nan, -numbers.astype(dtype)).astype(dtype)
    return numbers.astype(dtype)


class Model:
    """A stored array and the NumPy array that it should equal."""

    def __init__(self, data: st.DataObject, device: str = "cpu") -> None:
        self.data, self.device, draw = data, device, data.draw
        self.objects: dict[str, bytes] = {}
        shape = tuple(draw(st.lists(st.integers(0, 11), max_size=3)))
        dtype = np.dtype(draw(st.sampled_from(DTYPES)))
        chunks = tuple(draw(st.integers(1, max(n, 1) + 1)) for n in shape)
        options: dict[str, Any] = {
            "chunks": chunks,
            "order": draw(st.sampled_from("CF")),
            "codecs": draw(st.sampled_from(CODECS)),
            "zarr_format": draw(st.sampled_from([2, 3, 3, 3])),
        }
        if dtype.kind in "iufc" and draw(st.booleans()):
            options["fill_value"] = draw(st.sampled_from([1, -0.0, np.nan] if dtype.kind in "fc" else [1]))
        if options["zarr_format"] == 3 and shape and draw(st.booleans()):
            shards = tuple(c * draw(st.integers(1, 3)) for c in chunks)
            outer = tuple(s * draw(st.integers(1, 2)) for s in shards)
            options["shards"] = draw(st.sampled_from([shards, [outer, shards]]))
            options["index_location"] = draw(st.sampled_from(["start", "end"]))
        made = gpuzarr.create_array(self.objects, "a", shape=shape, dtype=dtype, device=device, **options)
        self.array, self.dtype, self.options = made, dtype, {"shape": shape, **options}
        self.whole = np.full(shape, made.fill_value, made.dtype)
        self.attributes: dict[str, Any] = {}

    def given(self, values: np.ndarray) -> Any:
        """Values on the device, most of the time, if it takes them."""
        if self.device == "cpu" or self.data.draw(st.integers(0, 4)) == 0:
            return values
        return on_device(values, self.device)

    # ---- steps

    def write(self) -> None:
        items: list[Any] = []
        for n in self.whole.shape:
            if n and self.data.draw(st.integers(0, 3)) == 0:
                items.append(self.data.draw(st.integers(-n, n - 1)))
            else:
                items.append(self.data.draw(slices(n)))
        if items and self.data.draw(st.booleans()):
            items = [*items[:1], ...]
        key = tuple(items)
        shape = self.whole[key].shape
        narrow = tuple(n if self.data.draw(st.booleans()) else 1 for n in shape)
        narrow = narrow[self.data.draw(st.integers(0, len(narrow))) :]
        values = draw_values(self.data, narrow, self.cast())
        self.array[key] = self.given(values)
        self.whole[key] = values

    def cast(self) -> np.dtype[Any]:
        """The array's type, or another that NumPy casts to it."""
        own = self.whole.dtype
        if own.kind not in "iufc":
            return own
        return np.dtype(self.data.draw(st.sampled_from([own, own.newbyteorder("S"), np.dtype("u1")])))

    def write_orthogonal(self) -> None:
        lists = [self.some(n) for n in self.whole.shape]
        key = tuple(
            np.isin(np.arange(n), one) if self.data.draw(st.booleans()) else one
            for one, n in zip(lists, self.whole.shape, strict=True)
        )
        values = draw_values(self.data, tuple(map(len, lists)), self.whole.dtype)
        self.array.oindex[key] = self.given(values)
        lists = [np.flatnonzero(one) if one.dtype == bool else one for one in key]
        self.whole[np.ix_(*lists)] = values

    def write_points(self) -> None:
        if not self.whole.size or not self.whole.ndim:
            return
        flat = self.some(self.whole.size)
        key = np.unravel_index(flat, self.whole.shape)
        values = draw_values(self.data, flat.shape, self.whole.dtype)
        self.array.vindex[key] = values
        self.whole[key] = values
        mask = np.random.default_rng(len(flat)).random(self.whole.shape) > 0.8
        self.array[mask] = values[0] if len(flat) else np.zeros((), values.dtype)
        self.whole[mask] = values[0] if len(flat) else np.zeros((), values.dtype)

    def write_block(self) -> None:
        grid = self.array.metadata.grid
        if not self.whole.size or not self.whole.ndim:
            return
        cell = tuple(self.data.draw(st.integers(0, n - 1)) for n in grid.shape)
        box = tuple(slice(i * c, (i + 1) * c) for i, c in zip(cell, grid.chunk_shape or (), strict=True))
        values = draw_values(self.data, self.whole[box].shape, self.whole.dtype)
        self.array.blocks[cell] = self.given(values)
        self.whole[box] = values

    def some(self, length: int) -> np.ndarray:
        """Some of `length` positions, in any order, none twice."""
        rng = np.random.default_rng(self.data.draw(st.integers(0, 2**16)))
        return rng.permutation(length)[: self.data.draw(st.integers(0, length))]

    def resize(self) -> None:
        shape = tuple(self.data.draw(st.integers(0, 13)) for _ in self.whole.shape)
        self.array.resize(shape)
        whole = np.full(shape, self.array.fill_value, self.whole.dtype)
        common = tuple(slice(0, min(a, b)) for a, b in zip(shape, self.whole.shape, strict=True))
        whole[common or ...] = self.whole[common or ...]
        self.whole = whole

    def append(self) -> None:
        if not self.whole.ndim:
            return
        axis = self.data.draw(st.integers(0, self.whole.ndim - 1))
        shape = list(self.whole.shape)
        shape[axis] = self.data.draw(st.integers(0, 9))
        values = draw_values(self.data, tuple(shape), self.whole.dtype)
        self.array.append(self.given(values), axis)
        self.whole = np.concatenate((self.whole, values), axis)

    def delete(self) -> None:
        """Fill values over a box: chunks that hold nothing else are gone. Or all of it goes, for another
        array of the same kind."""
        if self.data.draw(st.booleans()):
            self.array[...] = self.array.fill_value
            self.whole[...] = self.array.fill_value
            assert not [key for key in self.objects if self.is_chunk(key)]
        else:
            self.array = gpuzarr.create_array(
                self.objects, "a", dtype=self.dtype, device=self.device, overwrite=True, **self.options
            )
            self.whole = np.full(self.array.shape, self.array.fill_value, self.array.dtype)
            self.attributes = {}

    def is_chunk(self, key: str) -> bool:
        return not key.endswith(("zarr.json", ".zarray", ".zgroup", ".zattrs"))

    def attribute(self) -> None:
        name, value = self.data.draw(st.sampled_from("abc")), self.data.draw(st.none() | st.integers())
        self.array.update_attributes({name: value})
        self.attributes = {**self.attributes, name: value}

    def reopen(self) -> None:
        self.array = gpuzarr.open_array(self.objects, "a", mode="r+", device=self.device)

    # ---- what has to hold

    def check(self) -> None:
        equal(gpuzarr.open_array(self.objects, "a", device="cpu").read(), self.whole)
        assert self.array.attrs == {key: value for key, value in self.attributes.items() if value is not None}
        documents = ("zarr.json", ".zarray", ".zgroup", ".zattrs")
        for key in self.objects:  # nothing is stored outside of the grid
            if not key.endswith(documents):
                cell = self.array.metadata.keys.cell(key.removeprefix("a/"), self.whole.ndim)
                assert cell is not None
                assert all(i < n for i, n in zip(cell, self.array.metadata.grid.shape, strict=True))

    def check_peer(self) -> None:
        buffer = zarr.core.buffer.default_buffer_prototype().buffer
        held = {key: buffer.from_bytes(value) for key, value in self.objects.items()}
        peer = zarr.open_array(zarr.storage.MemoryStore(held), path="a", mode="r")
        equal(np.asarray(peer[...], self.whole.dtype), self.whole)
        assert json.loads(json.dumps(dict(peer.attrs))) == dict(self.array.attrs)


STEPS = [
    *(Model.write, Model.write, Model.write_orthogonal, Model.write_points, Model.write_block),
    *(Model.resize, Model.append, Model.delete, Model.attribute, Model.reopen),
]


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")
@pytest.mark.parametrize("device", ["cpu", *DEVICES])
@given(data=st.data())
@settings(max_examples=60)
def test_lives(device: str, data: st.DataObject) -> None:
    model = Model(data, device)
    for _ in range(data.draw(st.integers(1, 6))):
        data.draw(st.sampled_from(STEPS))(model)
        model.check()
    model.reopen()
    model.check()
    model.check_peer()
    if data.draw(st.booleans()):  # a whole write in one stroke leaves as little behind as many
        model.array[...] = model.given(model.whole)
        model.check()
