"""What tests share: the devices that run everywhere, and how a result comes to the host."""

from __future__ import annotations

import os
import traceback
from typing import Any

import hypothesis
import numpy as np
import pytest

SIM_ORDERS = ("sim", "sim:reversed", "sim:shuffled1", "sim:shuffled2")

hypothesis.settings.register_profile(
    "gpuzarr",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large],
)
hypothesis.settings.load_profile("gpuzarr")


@pytest.fixture(params=["cpu", *SIM_ORDERS])
def device(request: pytest.FixtureRequest) -> str:
    """Every device that needs no GPU, the simulated one in its four thread orders."""
    return str(request.param)


def to_host(result: Any) -> np.ndarray:
    """A result of any device as a NumPy array."""
    return np.asarray(result if isinstance(result, (np.ndarray, np.generic)) else result.get())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    """Without a C++ compiler there is no device `sim`: what needs it is skipped, and says so."""
    try:
        return (yield)
    except Exception as error:
        if "needs a C++ compiler" in "".join(traceback.format_exception(error)):
            pytest.skip("no C++ compiler: device sim cannot run")
        raise
