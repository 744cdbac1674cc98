"""Who else brings the same arrays to the device: each if it is installed, and named where it is not.

A peer opens a path and gives an array on the device; readers of the host hand theirs to `cupy.asarray`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from benchmarks import peers as hosts
from benchmarks.gpu.machine import Machine


@dataclass(frozen=True, slots=True)
class Peer:
    """`open(path)` gives a handle, `read(handle, key)` an array on the device, both within `session()`."""

    name: str
    version: str
    open: Callable[[str], Any]
    read: Callable[[Any, Any], Any]
    session: Callable[[], AbstractContextManager[None]] = nullcontext


def everyone(machine: Machine) -> tuple[list[Peer], dict[str, str]]:
    """The peers, and why others are not among them."""
    found = [_uploading(_cpu(), machine)]
    missing: dict[str, str] = {}
    for peer in hosts.others():
        if peer.name in ("zarr default", "tensorstore"):
            found.append(_uploading(peer, machine))
    for name in ("zarr", "tensorstore"):
        if not hosts.installed(name):
            missing[name] = "not installed"
    for title, needs, make in (
        ("zarr enable_gpu", ("zarr", "cupy"), _enable_gpu),
        ("zarr GDSStore", ("zarr", "cupy", "kvikio"), _gds),
        ("czarr", ("czarr",), _czarr),
    ):
        lacks = [module for module in needs if not hosts.installed(module)]
        if not machine.timed:
            missing[title] = "needs a CUDA device"
        elif lacks:
            missing[title] = f"{' and '.join(lacks)} not installed"
        else:
            try:
                found.append(make())
            except Exception as error:  # whatever a peer's import says is for the report
                missing[title] = f"{type(error).__name__}: {error}"[:200]
    return found, missing


def _cpu() -> hosts.Peer:
    peer = hosts.ours()
    return hosts.Peer("gpuzarr cpu", peer.version, peer.open, peer.read)


def _uploading(peer: hosts.Peer, machine: Machine) -> Peer:
    def read(handle: Any, key: Any) -> Any:
        return machine.to_device(peer.read(handle, key))

    return Peer(f"{peer.name} + upload", peer.version, peer.open, read, peer.session)


def _version(package: str) -> str:
    for name in (package, f"{package}-cu13", f"{package}-cu12"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "?"


def _item(handle: Any, key: Any) -> Any:
    return handle[key]


@contextmanager
def _on_gpu() -> Iterator[None]:
    import zarr

    with zarr.config.enable_gpu():
        yield


def _enable_gpu() -> Peer:
    import zarr

    def open_array(path: str) -> Any:
        return zarr.open_array(path, mode="r")

    return Peer("zarr enable_gpu", _version("zarr"), open_array, _item, _on_gpu)


def _gds() -> Peer:
    import kvikio.defaults
    import zarr
    from kvikio.zarr import GDSStore

    from gpuzarr import config

    if hasattr(kvikio.defaults, "set"):
        kvikio.defaults.set({"num_threads": config.current().threads})

    def open_array(path: str) -> Any:
        return zarr.open_array(GDSStore(path), mode="r")

    return Peer("zarr GDSStore", _version("kvikio"), open_array, _item, _on_gpu)


def _czarr() -> Peer:
    core = importlib.import_module("czarr.core")
    return Peer("czarr", _version("czarr"), core.Array.open, _item)
