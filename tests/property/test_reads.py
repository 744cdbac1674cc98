"""Random arrays, cut and encoded at random by zarr-python, read with random keys: the result is NumPy's.

zarr-python writes and reads; tensorstore reads too where it has the format. Every case runs on every device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import gpuzarr
from tests.devices import DEVICES, as_given, to_host

zarr = pytest.importorskip("zarr", reason="zarr-python, which writes the arrays, is not installed")

DTYPES = ["u1", "<i2", ">u2", "<f4", ">f8", "<c8", "?", "<u8", "<M8[s]", "S3", "<U2"]


@st.composite
def arrays(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, Any], dict[str, Any]]:
    """Values, what zarr-python is asked to make of them, and the chunks that are left out."""
    shape = tuple(draw(st.lists(st.integers(0, 13), min_size=0, max_size=4)))
    zarr_format = draw(st.sampled_from([2, 3]))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    if zarr_format == 3:
        dtype = dtype.newbyteorder("=")
    seed = draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 7, (*shape, max(dtype.itemsize, 1)), np.uint8) * draw(st.sampled_from([1, 31]))
    if dtype.kind in "SUb":
        values = rng.integers(0, 2 if dtype.kind == "b" else 90, shape).astype(dtype)
    else:
        values = raw.view(dtype).reshape(shape)
    chunks = tuple(draw(st.integers(1, max(n, 1) + 2)) for n in shape)
    options: dict[str, Any] = {"shape": shape, "dtype": dtype, "chunks": chunks, "zarr_format": zarr_format}
    if zarr_format == 2:
        options["order"] = draw(st.sampled_from("CF"))
        options["compressors"] = draw(st.sampled_from(_v2_compressors()))
        options["chunk_key_encoding"] = {"name": "v2", "separator": draw(st.sampled_from("./"))}
    else:
        if draw(st.booleans()) and shape:
            options["shards"] = tuple(c * draw(st.integers(1, 3)) for c in chunks)
        if draw(st.booleans()) and shape:
            order = draw(st.permutations(range(len(shape))))
            options["filters"] = [zarr.codecs.TransposeCodec(order=order)]
        if dtype.kind not in "SUMb":
            endian = draw(st.sampled_from(["little", "big"]))
            options["serializer"] = zarr.codecs.BytesCodec(endian=endian)
        options["compressors"] = draw(st.sampled_from(_v3_compressors()))
    return values, options, {"seed": seed, "absent": draw(st.sampled_from([0.0, 0.3, 1.0]))}


def _v2_compressors() -> list[Any]:
    import numcodecs

    return [
        None,
        numcodecs.Zlib(1),
        numcodecs.Blosc("lz4", 3, 1),
        numcodecs.Blosc("zstd", 1, 2),
        numcodecs.LZ4(),
    ]


def _v3_compressors() -> list[Any]:
    return [
        None,
        zarr.codecs.ZstdCodec(level=1, checksum=True),
        zarr.codecs.GzipCodec(level=1),
        zarr.codecs.BloscCodec(cname="lz4", shuffle="bitshuffle"),
        [zarr.codecs.ZstdCodec(level=1), zarr.codecs.Crc32cCodec()],
        zarr.codecs.Crc32cCodec(),
    ]


def make(
    values: np.ndarray, options: dict[str, Any], extra: dict[str, Any]
) -> tuple[dict[str, bytes], np.ndarray]:
    """Write with zarr-python, leave some objects out; the keys and bytes, and what is left of the array."""
    store: dict[str, Any] = {}
    array = zarr.create_array(zarr.storage.MemoryStore(store), **options)
    array[...] = values
    rng = np.random.default_rng(extra["seed"])
    for key in list(store):
        if not key.startswith(".z") and key != "zarr.json" and rng.random() < extra["absent"]:
            del store[key]
    expected = zarr.open_array(zarr.storage.MemoryStore(store), mode="r")[...]
    return {key: value.to_bytes() for key, value in store.items()}, np.asarray(expected, array.dtype)


def slices(length: int) -> st.SearchStrategy[Any]:
    end = st.none() | st.integers(-length - 2, length + 2)
    step = st.none() | st.integers(1, length + 2) | st.integers(-length - 2, -1)
    return st.builds(slice, end, end, step)


@st.composite
def keys(draw: st.DrawFn, shape: tuple[int, ...], kind: str) -> Any:
    """A key that NumPy takes for an array of `shape`."""
    points = draw(st.sampled_from([(), (3,), (2, 1), (2, 2), (0,)]))
    items: list[Any] = []
    axis = 0
    while axis < len(shape) and draw(st.integers(0, 9)):
        length = shape[axis]
        whole = draw(st.sampled_from(["slice", "slice", "int", "array", "mask", "new"]))
        if whole == "new" and kind == "basic":
            items.append(None)
            continue
        if whole == "int" and length:
            items.append(draw(st.integers(-length, length - 1)))
        elif whole == "array" and (length or 0 in points) and kind != "slices":
            size = (draw(st.integers(0, 5)),) if kind == "orthogonal" and length else points
            if kind == "orthogonal" and not length:
                size = (0,)
            rng = np.random.default_rng(draw(st.integers(0, 99)))
            items.append(rng.integers(-length, max(length, 1), size))
        elif whole == "mask" and kind == "orthogonal":
            items.append(np.array(draw(st.lists(st.booleans(), min_size=length, max_size=length)), bool))
        elif whole == "mask" and kind == "basic" and axis + 1 < len(shape):
            rng = np.random.default_rng(draw(st.integers(0, 99)))
            items.append(rng.random(shape[axis : axis + 2]) > 0.7)
            axis += 1
        else:
            items.append(draw(slices(length)))
        axis += 1
    if kind != "orthogonal" and draw(st.booleans()):
        items.insert(draw(st.integers(0, len(items))), ...)
    return items[0] if len(items) == 1 and draw(st.booleans()) else tuple(items)


def equal(found: Any, expected: np.ndarray, device: str = "cpu") -> None:
    """Equal shapes, types but for byte order, and bits, in the form in which the device has them."""
    found, expected = to_host(found), as_given(np.asarray(expected), device)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert found.tobytes() == expected.tobytes()


def check_each_device(
    data: st.DataObject, read: Callable[[gpuzarr.Array], Any], objects: dict[str, bytes], expected: np.ndarray
) -> None:
    """The host with its core and without, and one of the devices, with waves of a size that cuts."""
    for native in (1, 0):
        with gpuzarr.configured(native=native):
            equal(read(gpuzarr.open_array(objects, device="cpu")), expected)
    device = data.draw(st.sampled_from(DEVICES))
    with gpuzarr.configured(wave_nbytes=data.draw(st.sampled_from([1 << 9, 1 << 20])), strict=1):
        equal(read(gpuzarr.open_array(objects, device=device)), expected, device)


@given(arrays(), st.data())
@settings(max_examples=120)
def test_keys_of_every_kind(case: Any, data: st.DataObject) -> None:
    objects, whole = make(*case)
    key = data.draw(keys(whole.shape, "basic"))
    try:
        expected = np.asarray(whole[key], whole.dtype)
    except IndexError:  # index arrays that do not broadcast together
        with pytest.raises(IndexError):
            gpuzarr.open_array(objects)[key]
        return
    check_each_device(data, lambda array: array.read(key), objects, expected)
    scalar = gpuzarr.open_array(objects, device="cpu")[key]
    assert isinstance(scalar, type(whole[key]))


@given(arrays(), st.data())
@settings(max_examples=60)
def test_orthogonal_keys(case: Any, data: st.DataObject) -> None:
    objects, whole = make(*case)
    key = data.draw(keys(whole.shape, "orthogonal"))
    expected = whole
    items = list(key) if isinstance(key, tuple) else [key]
    for axis in reversed(range(len(items))):  # from the last, so that dropped axes do not shift the others
        expected = expected[(slice(None),) * axis + (items[axis],)]
    check_each_device(data, lambda array: array.oindex[key], objects, np.asarray(expected, whole.dtype))


@given(arrays(), st.data())
@settings(max_examples=60)
def test_coordinates(case: Any, data: st.DataObject) -> None:
    objects, whole = make(*case)
    if not whole.size or not whole.ndim:
        return
    count = data.draw(st.integers(0, 9))
    key = tuple(
        np.array(data.draw(st.lists(st.integers(-n, n - 1), min_size=count, max_size=count)), np.int64)
        for n in whole.shape
    )
    check_each_device(data, lambda array: array.vindex[key], objects, whole[key])
    mask = np.random.default_rng(count).random(whole.shape) > 0.8
    check_each_device(data, lambda array: array.vindex[mask], objects, whole[mask])


@given(arrays(), st.data())
@settings(max_examples=60)
def test_into_a_callers_array(case: Any, data: st.DataObject) -> None:
    """`out` of any strides: every second element of a larger array, reversed, transposed."""
    objects, whole = make(*case)
    key = data.draw(keys(whole.shape, "slices"))
    try:
        expected = np.asarray(whole[key], whole.dtype)
    except IndexError:  # behind an ellipsis, an integer may meet an axis of length 0
        with pytest.raises(IndexError):
            gpuzarr.open_array(objects)[key]
        return
    native = expected.astype(expected.dtype.newbyteorder("="))
    larger = np.zeros(tuple(2 * n + 1 for n in native.shape[::-1]), native.dtype)
    out = larger[(..., *(slice(2 * n, 0, -2) for n in native.shape[::-1]))].T
    assert out.shape == native.shape
    before = larger.copy()
    result = gpuzarr.open_array(objects, device="cpu").read(key, out=out)
    assert result is out
    equal(out, expected)
    out[...] = np.zeros((), native.dtype)
    assert larger.tobytes() == before.tobytes()  # nothing was written beside it


@given(arrays(), st.data())
@settings(max_examples=40)
def test_blocks(case: Any, data: st.DataObject) -> None:
    objects, whole = make(*case)
    array = gpuzarr.open_array(objects, device="cpu")
    if not whole.size or not whole.ndim:
        return
    grid = array.metadata.grid.shape
    key = tuple(data.draw(st.integers(0, n - 1)) for n in grid)
    expected = zarr.open_array(zarr.storage.MemoryStore(_buffers(objects)), mode="r").blocks[key]
    check_each_device(data, lambda one: one.blocks[key], objects, expected)


def _buffers(objects: dict[str, bytes]) -> dict[str, Any]:
    prototype = zarr.core.buffer.default_buffer_prototype()
    return {key: prototype.buffer.from_bytes(value) for key, value in objects.items()}


@given(arrays())
@settings(max_examples=40)
@example(
    (
        np.arange(6, dtype="u1").reshape(2, 3),
        {"shape": (2, 3), "dtype": np.dtype("u1"), "chunks": (1, 2), "zarr_format": 3},
        {"seed": 0, "absent": 0.0},
    )
)
def test_tensorstore_agrees(case: Any) -> None:
    """Where tensorstore has the type and the codecs."""
    tensorstore = pytest.importorskip("tensorstore", reason="tensorstore is not installed")
    objects, whole = make(*case)
    if whole.dtype.kind in "SUM" or not whole.size:
        return
    spec = {
        "driver": "zarr" if case[1]["zarr_format"] == 2 else "zarr3",
        "kvstore": {"driver": "memory", "path": "a/"},
    }
    context = tensorstore.Context()
    store = tensorstore.KvStore.open(spec["kvstore"], context=context).result()
    for key, value in objects.items():
        store.write(key, value).result()
    try:
        peer = tensorstore.open(spec, open=True, context=context).result().read().result()
    except ValueError as error:
        if "not supported" in str(error) or "Error parsing" in str(error) or "nvalid" in str(error):
            return  # it lacks this codec or type
        raise
    found = gpuzarr.open_array(objects, device="cpu")[...]
    assert np.asarray(found).tobytes() == np.asarray(peer).astype(np.asarray(found).dtype).tobytes()
