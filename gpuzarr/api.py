"""The doors: what a user calls first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from gpuzarr.array import Array
from gpuzarr.device.choose import choose
from gpuzarr.errors import ArgumentError
from gpuzarr.group import Group
from gpuzarr.meta.dialect import read_meta
from gpuzarr.meta.model import ArrayMeta
from gpuzarr.store.urls import open_store


def open(
    target: Any,
    path: str = "",
    *,
    mode: Literal["r"] = "r",
    device: str = "auto",
    storage_options: Mapping[str, Any] | None = None,
) -> Array | Group:
    """Open the array or group at `path` of a Zarr v2 or v3 hierarchy.

    `target` is a local path, a URL that fsspec knows, a `.zip` of either, a mapping of keys to bytes, or a
    `gpuzarr.Store`. `device` says where reads end up: `auto` (a CUDA device if one works, else the CPU),
    `cpu`, `cuda`, `cuda:1`; `sim` runs the device code on the CPU, for tests. `storage_options` go to fsspec.

    Raises NotFoundError, MetadataError, UnsupportedError, StoreError, ArgumentError, DeviceError, LimitError
    or MissingDependencyError.
    """
    if mode != "r":
        raise ArgumentError(f"mode {mode!r}: arrays are opened for reading", hint='use mode="r"')
    if not isinstance(path, str):
        raise ArgumentError(f"path {path!r} is not a string")
    store = open_store(target, storage_options)
    path = path.strip("/")
    meta = read_meta(store, path)
    chosen = choose(device)
    if isinstance(meta, ArrayMeta):
        return Array(store, path, meta, chosen)
    return Group(store, path, meta, chosen)


def open_array(target: Any, path: str = "", **options: Any) -> Array:
    """`open`, where only an array will do."""
    node = open(target, path, **options)
    if not isinstance(node, Array):
        raise ArgumentError(f"{node.name} is a group", hint="name an array; `gpuzarr info` lists them")
    return node


def load(target: Any, path: str = "", key: Any = ..., **options: Any) -> Any:
    """The elements at `key` of an array, in memory."""
    return open_array(target, path, **options)[key]
