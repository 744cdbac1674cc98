"""Everything here needs a CUDA device, and is skipped, by name, where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuzarr.device.cuda import CudaDevice
from tests import devices

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`gpu` is what `-m "not gpu"` leaves out."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(autouse=True)
def cuda() -> CudaDevice:
    """The device. A run that asks for a GPU does not skip: it fails where there is none."""
    trouble = devices.no_gpu()
    if trouble and devices.ON_GPU:
        pytest.fail(f"no CUDA device: {trouble}")
    if trouble:
        pytest.skip(f"no CUDA device: {trouble}")
    return CudaDevice.named("cuda")
