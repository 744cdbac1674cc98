"""The real device passes the contract that device sim passes; every kernel can be loaded."""

from __future__ import annotations

from typing import Any

import pytest
from numpy.typing import NDArray

from gpuzarr.device import catalogue
from gpuzarr.device.cuda import CudaDevice
from gpuzarr.testing.device import DeviceContract


class TestCuda(DeviceContract):
    """On whatever GPU is here."""

    def device(self) -> CudaDevice:
        return CudaDevice.named("cuda")

    def to_host(self, array: Any) -> NDArray[Any]:
        return array.get()


@pytest.mark.parametrize("kernel", sorted(catalogue.kernels()))
def test_every_kernel_is_loaded(cuda: CudaDevice, kernel: str) -> None:
    assert cuda.function(catalogue.kernel(kernel)) is cuda.function(catalogue.kernel(kernel))
