"""Which device a name means. `auto` is decided here, once an array is opened."""

from __future__ import annotations

from dataclasses import dataclass

from gpuzarr import config
from gpuzarr.device.base import Device
from gpuzarr.errors import ArgumentError


@dataclass(frozen=True, slots=True)
class Place:
    """Where results are. No device: host memory, as NumPy arrays."""

    name: str
    device: Device | None

    @classmethod
    def cpu(cls) -> Place:
        """Host memory."""
        return cls("cpu", None)


def choose(name: str) -> Place:
    """The place called `name`: `auto`, `cpu`, `cuda`, `cuda:N`, `sim` with an optional thread order."""
    if not isinstance(name, str):
        raise ArgumentError(f"device {name!r} is not a name", hint="use auto, cpu, cuda, cuda:N or sim")
    if name == "auto":
        name = config.current().device
    if name == "auto":
        from gpuzarr.device.cuda import CudaDevice

        name = "cpu" if CudaDevice.works() else "cuda"
    if name == "cpu":
        return Place.cpu()
    if name == "sim" or name.startswith("sim:"):
        from gpuzarr.device.sim import SimDevice

        return Place(name, SimDevice.named(name))
    if name == "cuda" or name.startswith("cuda:"):
        from gpuzarr.device.cuda import CudaDevice

        device = CudaDevice.named(name)
        return Place(device.name, device)
    raise ArgumentError(f"no device is called {name!r}", hint="use auto, cpu, cuda, cuda:N or sim")
