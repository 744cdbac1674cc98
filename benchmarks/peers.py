"""Who reads the same arrays: gpuzarr and its peers, each if it is installed. A peer opens an array and gives
NumPy arrays."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Peer:
    """`open(path)` gives a handle, `read(handle, key)` a NumPy array; both run within `session()`."""

    name: str
    version: str
    open: Callable[[str], Any]
    read: Callable[[Any, Any], Any] = lambda handle, key: handle[key]
    session: Callable[[], AbstractContextManager[None]] = nullcontext
    write: Callable[[str, Any], None] | None = None
    """`write(path, values)` opens an array that is there and sets all of it."""
    boxes: Callable[[Any, Any, tuple[int, ...]], Any] | None = None
    """`boxes(handle, origins, shape)` reads many boxes at once; without it, they are read one by one."""

    def read_boxes(self, handle: Any, origins: Any, shape: tuple[int, ...]) -> Any:
        """[n, *shape]"""
        if self.boxes is not None:
            return self.boxes(handle, origins, shape)
        return np.stack([self.read(handle, key) for key in keys(origins, shape)])


def keys(origins: Any, shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    """The boxes as keys."""
    return [tuple(slice(at, at + n) for at, n in zip(one, shape, strict=True)) for one in origins.tolist()]


def ours() -> Peer:
    """The one that the others are compared with."""
    import gpuzarr

    def write(path: str, values: Any) -> None:
        gpuzarr.open_array(path, mode="r+", device="cpu")[...] = values

    return Peer(
        "gpuzarr",
        gpuzarr.__version__,
        lambda path: gpuzarr.open_array(path, device="cpu"),
        write=write,
        boxes=lambda handle, origins, shape: handle.patches(origins, shape),
    )


def others() -> list[Peer]:
    """Every peer that is installed."""
    found: list[Peer] = []
    if installed("zarr"):
        import zarr.core.codec_pipeline as pipelines

        for name, cls in (("zarr fused", "FusedCodecPipeline"), ("zarr default", "BatchedCodecPipeline")):
            if hasattr(pipelines, cls):
                found.append(_zarr_python(name, "zarr", f"zarr.core.codec_pipeline.{cls}"))
        if installed("zarrs"):
            found.append(_zarr_python("zarrs", "zarrs", "zarrs.ZarrsCodecPipeline"))
    if installed("zarrista"):
        found.append(_zarrista())
    if installed("tensorstore"):
        found.append(_tensorstore())
    return found


def installed(module: str) -> bool:
    """Whether a package is there."""
    return importlib.util.find_spec(module) is not None


def named(name: str) -> Peer:
    """One of them."""
    return next(peer for peer in [ours(), *others()] if peer.name == name)


def _zarr_python(name: str, package: str, pipeline: str) -> Peer:
    import zarr

    if package == "zarrs":
        import zarrs  # noqa: F401  # registers its pipeline

    @contextmanager
    def session() -> Iterator[None]:
        with zarr.config.set({"codec_pipeline.path": pipeline}):
            yield

    def write(path: str, values: Any) -> None:
        zarr.open_array(path, mode="r+")[...] = values

    return Peer(
        name,
        importlib.metadata.version(package),
        lambda path: zarr.open_array(path, mode="r"),
        session=session,
        write=write,
    )


def _zarrista() -> Peer:
    import zarrista

    def open_array(path: str) -> Any:
        return zarrista.Array.open(zarrista.store.FilesystemStore(path))

    def read(handle: Any, key: Any) -> Any:
        """It keeps the dimensions of integers, with one element."""
        found = np.asarray(handle[key])
        if not isinstance(key, tuple):
            return found
        return found.squeeze(tuple(axis for axis, one in enumerate(key) if isinstance(one, int)))

    def write(path: str, values: Any) -> None:
        open_array(path)[...] = values

    return Peer("zarrista", importlib.metadata.version("zarrista"), open_array, read, write=write)


def _tensorstore() -> Peer:
    import tensorstore as ts

    def open_array(path: str) -> Any:
        return ts.open(
            {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}, read=True, open=True
        ).result()

    def write(path: str, values: Any) -> None:
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}
        context = ts.Context({"file_io_sync": False})  # nobody else waits for the disk
        ts.open(spec, open=True, context=context).result().write(values).result()

    def boxes(handle: Any, origins: Any, shape: tuple[int, ...]) -> Any:
        batch = ts.Batch()
        waiting = [handle[key].read(batch=batch) for key in keys(origins, shape)]
        batch.submit()
        return np.stack([one.result() for one in waiting])

    return Peer(
        "tensorstore",
        importlib.metadata.version("tensorstore"),
        open_array,
        lambda handle, key: handle[key].read().result(),
        write=write,
        boxes=boxes,
    )
