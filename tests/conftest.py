"""What tests share: the devices of the run (tests/devices.py), and how a result comes to the host."""

from __future__ import annotations

import os
import traceback
from typing import Any

import hypothesis
import pytest

import gpuzarr
from tests import devices
from tests.devices import SIM_ORDERS, to_host

__all__ = ["SIM_ORDERS", "to_host"]

hypothesis.settings.register_profile(
    "gpuzarr",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)
hypothesis.settings.load_profile("gpuzarr")


@pytest.fixture(params=devices.EVERY)
def device(request: pytest.FixtureRequest) -> str:
    """Every device of the run: by default those that need no GPU, the simulated one in its four thread
    orders."""
    return str(request.param)


# ---- a run on a GPU is one on a GPU


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests that list devices by name, as `parametrize("device", ["cpu", "sim"])`, list those of the run."""
    if not devices.CHOSEN:
        return
    for mark in metafunc.definition.iter_markers("parametrize"):
        names, values = mark.args[:2]
        if names == "device" and isinstance(values, list) and set(values) <= {"cpu", *SIM_ORDERS}:
            values[:] = devices.CHOSEN


def pytest_configure(config: pytest.Config) -> None:
    """On a GPU, what has a device form runs there, even where the host were sooner. Device sim cannot be
    had: a test that asks for it is one of sim, and is skipped; some modules ask while they are imported."""
    if devices.ON_GPU:
        gpuzarr.configure(strict=1)
    if devices.ON_GPU or devices.no_gpu() is None:
        gpuzarr.configure(device="cpu")  # tests that name no device are of the host, here as elsewhere
    if devices.NO_SIM:
        from gpuzarr.device.sim import SimDevice

        def refused(*_: Any, **__: Any) -> None:
            this = ", ".join(devices.CHOSEN)
            pytest.skip(f"of device sim; this run is of {this}", allow_module_level=True)

        SimDevice.__init__ = refused  # type: ignore[method-assign]
        SimDevice.named = refused  # type: ignore[method-assign, assignment]


@pytest.fixture(autouse=devices.ON_GPU)
def _used_the_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes in the report which tests had a lane of a CUDA device: a run in which none had proves nothing."""
    from gpuzarr.device.cuda import CudaDevice

    lane, properties = CudaDevice.lane, request.node.user_properties

    def noted(self: CudaDevice) -> Any:
        real = hasattr(self.cupy, "__file__")  # and no stand-in of a test
        if real and ("device", self.name) not in properties:
            properties.append(("device", self.name))
        return lane(self)

    monkeypatch.setattr(CudaDevice, "lane", noted)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    """Without a C++ compiler there is no device `sim`: what needs it is skipped, and says so."""
    try:
        return (yield)
    except Exception as error:
        if "needs a C++ compiler" in "".join(traceback.format_exception(error)):
            pytest.skip("no C++ compiler: device sim cannot run")
        raise
