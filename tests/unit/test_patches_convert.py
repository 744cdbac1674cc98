"""Boxes as floats of another type, scaled and shifted, their axes in another order: against NumPy, which does
one after the other. Values of every sort: tests/unit/test_kernels_convert.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import gpuzarr
from gpuzarr import ReadStats
from gpuzarr.device.sim import Counters, SimDevice
from gpuzarr.errors import ArgumentError, DeviceError
from tests import devices, fake_cupy
from tests.devices import EVERY, SOME, to_host

SHAPE, CHUNKS = (3, 14, 17), (2, 5, 6)
ORIGINS = np.array([[0, 0, 0], [-2, 3, 8], [1, 9, -3], [2, 12, 14], [-1, -1, -1]])
BOX, MARGIN = (2, 6, 5), 6
TYPES = ["?", "u1", "<i2", ">u2", ">i4", "u8", "<f2", ">f4", "f8"]


def stored(kind: str, **options: Any) -> tuple[dict[str, bytes], NDArray[Any]]:
    """An array one of whose chunks is missing, and its values."""
    objects: dict[str, bytes] = {}
    size = np.dtype(kind).itemsize
    noise = np.random.default_rng(size).integers(0, 256, (*SHAPE, size), dtype=np.uint8)
    values = noise.view(kind)[..., 0] if kind != "?" else noise[..., 0] > 99
    given = {"shape": SHAPE, "dtype": kind, "chunks": CHUNKS, "fill_value": 1, "zarr_format": 2, **options}
    made = gpuzarr.create_array(objects, device="cpu", **given)
    made[...] = values
    missing = next(key for key in objects if key.endswith(("1.1", "1/1")))
    del objects[missing]
    return objects, gpuzarr.open_array(objects, device="cpu")[...]


def boxes(values: NDArray[Any], mode: str, **padding: Any) -> NDArray[Any]:
    padded = np.pad(values, MARGIN, mode=mode, **padding)  # type: ignore[call-overload]
    cuts = [tuple(slice(MARGIN + a, MARGIN + a + n) for a, n in zip(at, BOX, strict=True)) for at in ORIGINS]
    return np.stack([padded[cut] for cut in cuts])


def converted(values: NDArray[Any], to: str, scale: Any = None, offset: Any = None) -> NDArray[Any]:
    kind = np.dtype("f8" if to == "f8" else "f4").type
    with np.errstate(all="ignore"):
        found = values.astype(kind)
        found = found if scale is None else found * kind(scale)
        found = found if offset is None else found + kind(offset)
        return np.where(np.isnan(found), kind("nan"), found).astype(to)


def same(found: Any, right: NDArray[Any]) -> None:
    host = to_host(found)
    assert host.flags.c_contiguous
    assert (host.shape, host.dtype) == (right.shape, right.dtype)
    assert host.tobytes() == right.tobytes()


# ---- what comes


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", SOME)
def test_any_type_to_any(name: str, kind: str) -> None:
    objects, values = stored(kind)
    array, plain = gpuzarr.open_array(objects, device=name), boxes(values, "edge")
    for to in ("f2", "f4", "f8"):
        for scale, offset in ((None, None), (1 / 255, None), (0.1, -1 / 3)):
            found = array.patches(ORIGINS, BOX, mode="edge", dtype=to, scale=scale, offset=offset)
            if values.dtype == to and scale is None:
                assert to_host(found).tobytes() == plain.tobytes(), "nothing is done, so NaNs keep their bits"
            else:
                same(found, converted(plain, to, scale, offset))


@pytest.mark.parametrize("device", EVERY)
@pytest.mark.parametrize(
    ("options", "cache"),
    [
        ({"zarr_format": 3, "shards": (4, 10, 12)}, False),
        ({"zarr_format": 3, "codecs": [{"name": "transpose", "configuration": {"order": [2, 0, 1]}}]}, False),
        ({"codecs": None}, False),
        ({}, True),
    ],
)
@pytest.mark.parametrize("mode", ["constant", "reflect", "wrap"])
def test_any_way_of_storing(device: str, mode: str, options: dict[str, Any], cache: bool) -> None:
    objects, values = stored("<u2", **options)
    array = gpuzarr.open_array(objects, device=device)
    padding = {"constant_values": 1} if mode == "constant" else {}
    right = converted(boxes(values, mode, **padding), "f2", 1 / 65535, -0.5).transpose(0, 2, 3, 1)
    given: dict[str, Any] = {"dtype": np.float16, "scale": 1 / 65535, "offset": -0.5, "axes": (1, 2, 0)}
    for _ in range(1 + cache):
        stats = ReadStats()
        found = array.patches(ORIGINS, BOX, mode=mode, cache=cache, stats=stats, **given)
        same(found, np.ascontiguousarray(right))
    assert not cache or (stats.chunks, stats.requests) == (0, 0)


@pytest.mark.parametrize(
    "axes", [(0, 1, 2), (2, 1, 0), (1, 2, 0), [2, 0, 1], (-1, 0, 1), np.array([1, 0, 2])]
)
@pytest.mark.parametrize("to", [None, "float32"])
@pytest.mark.parametrize("name", SOME)
def test_axes_are_those_of_transpose(name: str, to: str | None, axes: Any) -> None:
    objects, values = stored("<i2")
    order = (0, *(1 + axis % 3 for axis in axes))
    plain = boxes(values, "wrap")
    right = np.ascontiguousarray((plain if to is None else plain.astype(to)).transpose(order))
    same(
        gpuzarr.open_array(objects, device=name).patches(ORIGINS, BOX, mode="wrap", dtype=to, axes=axes),
        right,
    )


@pytest.mark.parametrize("name", SOME)
def test_channels_may_be_chosen_and_come_last(name: str) -> None:
    objects, values = stored("u1")
    array = gpuzarr.open_array(objects, device=name)
    found = array.patches([[4, 2], [8, 7]], ([2, 0, -1, 2], 6, 5), scale=1 / 255, axes=(1, 2, 0))
    right = np.stack([values[[2, 0, 2, 2], y : y + 6, x : x + 5] for y, x in ((4, 2), (8, 7))])
    same(found, np.ascontiguousarray(converted(right, "f4", 1 / 255).transpose(0, 2, 3, 1)))


@pytest.mark.parametrize("name", SOME)
def test_fill_is_a_value_of_the_array(name: str) -> None:
    objects, values = stored("u1")
    array = gpuzarr.open_array(objects, device=name)
    right = converted(boxes(values, "constant", constant_values=200), "f2", 0.1, 1)
    options: dict[str, Any] = {"mode": "constant", "dtype": "float16", "scale": 0.1, "offset": 1}
    same(array.patches(ORIGINS, BOX, fill=200, **options), right)
    with pytest.raises(ArgumentError, match=r"fill=0\.5 is no value of uint8"):
        array.patches(ORIGINS, BOX, fill=0.5, **options)


def test_axes_of_strings_and_of_no_dimensions() -> None:
    objects: dict[str, bytes] = {}
    values = np.array([[f"{row}-{column}" for column in range(7)] for row in range(5)], object)
    gpuzarr.create_array(objects, shape=(5, 7), dtype=str, chunks=(2, 3), device="cpu")[...] = values
    array = gpuzarr.open_array(objects, device="cpu")
    found = array.patches([[3, 5]], (2, 3), mode="edge", axes=(1, 0))
    assert found[0].tolist() == [["3-5", "4-5"], ["3-6", "4-6"], ["3-6", "4-6"]]
    with pytest.raises(ArgumentError, match="are not converted"):
        array.patches([[0, 0]], (2, 3), dtype="float32")
    objects = {}
    gpuzarr.create_array(objects, shape=(), dtype="i2", device="cpu")[...] = 5
    for name in SOME:
        array = gpuzarr.open_array(objects, device=name)
        same(array.patches(np.zeros((2, 0), int), (), scale=0.5, axes=()), np.full(2, 2.5, "f4"))


@pytest.mark.parametrize("name", SOME)
def test_no_boxes_and_empty_boxes(name: str) -> None:
    array = gpuzarr.open_array(stored("u1")[0], device=name)
    none = array.patches(np.zeros((0, 3), np.int64), (3, 2, 1), dtype="float16", axes=(2, 1, 0))
    assert (none.shape, none.dtype) == ((0, 1, 2, 3), np.float16)
    assert array.patches(ORIGINS[:1], (3, 0, 1), scale=2, axes=(2, 1, 0)).shape == (1, 1, 0, 3)


# ---- out


def empty_like(found: Any, strided: bool = False) -> Any:
    """An array like a result; `strided`: with gaps between its rows."""
    shape = (*found.shape[:-1], 2 * found.shape[-1]) if strided else found.shape
    if isinstance(found, np.ndarray):
        return np.zeros(shape, found.dtype)[..., : found.shape[-1]]
    made = found.device.empty_array(shape, found.dtype)
    return made.view_as(found.shape, made.strides)


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize(("kind", "to"), [("<u2", "f2"), ("u1", "f4"), ("<i4", "f4"), ("f8", "f2")])
@pytest.mark.parametrize("device", [name for name in EVERY if not name.startswith("cuda")])
def test_out_is_filled(device: str, kind: str, to: str, strided: bool) -> None:
    objects, values = stored(kind)
    array = gpuzarr.open_array(objects, device=device)
    options: dict[str, Any] = {"mode": "edge", "dtype": to, "offset": 0.25, "axes": (2, 0, 1)}
    out = empty_like(array.patches(ORIGINS, BOX, **options), strided)
    assert array.patches(ORIGINS, BOX, out=out, **options) is out
    right = converted(boxes(values, "edge"), to, None, 0.25).transpose(0, 3, 1, 2)
    assert to_host(out).tobytes() == right.tobytes()


@pytest.mark.parametrize("name", SOME)
def test_out_is_of_the_result_s_shape_and_type(name: str) -> None:
    array = gpuzarr.open_array(stored("<u2")[0], device=name)
    plain, like = array.patches([[0, 0, 0]], BOX), array.patches([[0, 0, 0]], BOX, dtype="f4", axes=(1, 2, 0))
    for out, options in (
        (plain, {"dtype": "float32"}),
        (plain, {"axes": (1, 2, 0)}),
        (like, {"axes": (1, 2, 0)}),
        (like, {"dtype": "float32"}),
    ):
        with pytest.raises(ArgumentError, match="out is"):
            array.patches([[1, 1, 1]], BOX, out=out, **options)
    assert array.patches([[1, 1, 1]], BOX, out=like, dtype="f4", axes=(1, 2, 0)) is like


# ---- what cannot be had


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dtype": "uint8"}, "float16, float32, float64"),
        ({"dtype": ">f4"}, "float16, float32, float64"),
        ({"dtype": "nonsense"}, "float16, float32, float64"),
        ({"dtype": "((("}, "float16, float32, float64"),
        ({"dtype": object()}, "float16, float32, float64"),
        ({"dtype": np.longdouble}, "float16, float32, float64"),
        ({"scale": "2"}, "scale='2' is not a number"),
        ({"scale": True}, "scale=True is not a number"),
        ({"offset": np.ones(3)}, "is not a number"),
        ({"scale": float("nan")}, "no finite float32"),
        ({"offset": 10**400}, "no finite float32"),
        ({"scale": 1e39}, "no finite float32"),
        ({"scale": 1e-60}, "zero in float32"),
        ({"axes": (0, 1)}, "no order"),
        ({"axes": (0, 1, 1)}, "no order"),
        ({"axes": (0, 1, 3)}, "no order"),
        ({"axes": (0, 1, -4)}, "no order"),
        ({"axes": 1}, "no order"),
        ({"axes": (0, 1, 2.0)}, "no order"),
        ({"axes": "zyx"}, "no order"),
    ],
)
def test_what_cannot_be_had(options: dict[str, Any], said: str) -> None:
    array, stats = gpuzarr.open_array(stored("u1")[0], device="cpu"), ReadStats()
    with pytest.raises(ArgumentError, match=said):
        array.patches(ORIGINS[:1], BOX, stats=stats, **options)
    assert stats.requests == 0


@pytest.mark.parametrize("kind", ["c8", "M8[s]", "S3", "V4", "U2"])
def test_types_that_are_not_numbers(kind: str) -> None:
    objects: dict[str, bytes] = {}
    gpuzarr.create_array(objects, shape=(3,), dtype=kind, zarr_format=2, device="cpu")
    array = gpuzarr.open_array(objects, device="cpu")
    with pytest.raises(ArgumentError, match="are not converted"):
        array.patches([[0]], (2,), dtype="float32")
    assert array.patches([[0]], (2,), axes=[0]).dtype == array.dtype


def test_large_numbers_have_float64() -> None:
    array = gpuzarr.open_array(stored("u1")[0], device="cpu")
    found = array.patches([[0, 0, 0]], BOX, dtype="float64", scale=1e-60, offset=10**30)
    same(found, converted(boxes(array[...], "edge")[:1], "f8", 1e-60, 1e30))


# ---- what it costs


@pytest.mark.parametrize(
    ("kind", "options", "launches", "arrays"),
    [
        ("u1", {"dtype": "f4"}, 1, 2),
        ("<u2", {"dtype": "f2", "scale": 2}, 1, 1),  # in place
        ("<f4", {"dtype": "f4"}, 0, 1),
        ("<f4", {"axes": (2, 1, 0)}, 0, 1),
    ],
)
def test_one_pass_and_no_more_memory_than_is_said(
    kind: str, options: Any, launches: int, arrays: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = SimDevice.named("sim")
    array = gpuzarr.open_array(stored(kind)[0], device="sim")
    made: list[tuple[int, ...]] = []
    make = SimDevice.empty_array
    monkeypatch.setattr(SimDevice, "empty_array", lambda *a: made.append(a[1]) or make(*a))
    monkeypatch.setattr(device, "counters", Counters())
    array.patches(ORIGINS, BOX, mode="wrap", **options)
    assert device.counters.kernels.count("gz_convert") == launches
    assert len(made) == arrays


def test_a_kernel_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """And leaves nothing queued."""
    from gpuzarr.engine.convert import Conversion

    launch: Callable[..., None] = Conversion.launch
    monkeypatch.setattr(
        Conversion, "launch", lambda self, lane, src, dst, n: launch(self, lane, src, dst, n + 9)
    )
    array = gpuzarr.open_array(stored("u1")[0], device="sim")
    with pytest.raises(DeviceError, match="gz_convert"):
        array.patches(ORIGINS, BOX, mode="wrap", dtype="f8")


@pytest.mark.skipif(bool(devices.CHOSEN), reason="of a stand-in for CuPy")
@pytest.mark.parametrize("order", fake_cupy.ORDERS)
def test_on_a_stand_in_for_cuda(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Device cuda's lanes and arrays, in place and beside it."""
    fake_cupy.install(monkeypatch, order)
    for kind, to in (("<u2", "f2"), ("u1", "f4")):
        objects, values = stored(kind)
        array = gpuzarr.open_array(objects, device="cuda")
        found = array.patches(ORIGINS, BOX, mode="edge", dtype=to, scale=0.5, axes=(1, 2, 0))
        right = converted(boxes(values, "edge"), to, 0.5).transpose(0, 2, 3, 1)
        assert found.get().tobytes() == right.tobytes()
