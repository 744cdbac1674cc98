"""Which devices the suites run on: the one place that knows.

    GPUZARR_TEST_DEVICES unset       cpu, and sim in its four thread orders
    GPUZARR_TEST_DEVICES=cuda        these and no others: nothing of sim runs, not even by mistake

A name without a thread order stands for what it says; several are separated by commas. `tests/conftest.py`
holds the suites to the choice: a test that asks for a device which is not of the run is skipped, and says so.
"""

from __future__ import annotations

import os
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gpuzarr.device.base import Device, Lane
from gpuzarr.device.choose import choose

SIM_ORDERS: Final = ("sim", "sim:reversed", "sim:shuffled1", "sim:shuffled2")
CHOSEN: Final = tuple(
    "cuda:0" if name.strip() == "cuda" else name.strip()  # as the device calls itself
    for name in os.environ.get("GPUZARR_TEST_DEVICES", "").split(",")
    if name.strip()
)
"""What the environment asks for; nothing, as a rule."""
EVERY: Final = CHOSEN or ("cpu", *SIM_ORDERS)
"""What the fixture `device` runs through."""
DEVICES: Final = tuple(name for name in EVERY if name != "cpu")
"""Those of them with memory of their own: parametrise tests of kernels and lanes with these."""
SOME: Final = CHOSEN or ("cpu", "sim")
"""One of each kind, for tests that say the same in every thread order."""
ON_GPU: Final = any(name.startswith("cuda") for name in CHOSEN)
NO_SIM: Final = bool(CHOSEN) and not any(name.startswith("sim") for name in CHOSEN)


def device_named(name: str) -> Device:
    """The one device of that name in this process: `sim:reversed`, `cuda`."""
    device = choose(name).device
    assert device is not None, f"{name} has no memory of its own"
    return device


def lane_of(name: str) -> Lane:
    """A fresh lane of a device."""
    return device_named(name).lane()


def to_host(array: Any) -> NDArray[Any]:
    """A result of any device as a NumPy array."""
    return np.asarray(array if isinstance(array, (np.ndarray, np.generic)) else array.get())


def as_given(values: NDArray[Any], name: str) -> NDArray[Any]:
    """Values as a device's results have them: in native byte order, and types that its arrays lack as plain
    numbers of the same bytes, in one more axis where one number does not hold them."""
    native = values.astype(values.dtype.newbyteorder("="))
    if name == "cpu" or native.dtype.hasobject:
        return native
    dtype, within = device_named(name).form(native.dtype)
    return _seen(native, dtype, (*native.shape, *within))


def as_values(result: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The way back: a result as NumPy values of the array's own type."""
    host = to_host(result)
    return host if host.dtype == dtype else _seen(host, dtype, shape)


def _seen(array: NDArray[Any], dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The same bytes in C order as another type."""
    return np.ndarray(shape, dtype, np.ascontiguousarray(array).tobytes())


def on_device(values: NDArray[Any], name: str) -> Any:
    """Values as an array of a device, in the form that its arrays have; the values themselves where it is the
    host, and those without bytes."""
    if name == "cpu" or values.dtype.hasobject:
        return values
    given, device = np.ascontiguousarray(as_given(values, name)), device_named(name)
    put = getattr(device, "array", None)  # of device sim; CuPy has its own
    return put(given) if put else device.cupy.asarray(given)  # type: ignore[attr-defined]


def no_gpu() -> str | None:
    """Why device cuda cannot be used here, in a few words; None if it can."""
    from gpuzarr.device.cuda import CudaDevice

    return CudaDevice.works()
