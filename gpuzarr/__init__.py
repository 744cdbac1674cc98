"""gpuzarr: read and write Zarr arrays, on the GPU where there is one.

    import gpuzarr
    array = gpuzarr.open("volume.zarr", "0")
    array[10:20, ::2]

The names below are loaded when they are first used, so that importing costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuzarr import loading, ome
    from gpuzarr.api import consolidate, create_array, create_group, load, open, open_array, save
    from gpuzarr.array import Array
    from gpuzarr.config import Config, configure, configured
    from gpuzarr.copying import copy
    from gpuzarr.engine.source import ReadStats
    from gpuzarr.engine.stats import WriteStats
    from gpuzarr.engine.transfer import CopyStats
    from gpuzarr.errors import GpuzarrError
    from gpuzarr.group import Group
    from gpuzarr.loading import PatchLoader
    from gpuzarr.store.base import Store

__version__ = "0.1.0.dev0"

__all__ = [
    "Array",
    "Config",
    "CopyStats",
    "Group",
    "GpuzarrError",
    "PatchLoader",
    "ReadStats",
    "Store",
    "WriteStats",
    "configure",
    "configured",
    "consolidate",
    "copy",
    "create_array",
    "create_group",
    "load",
    "loading",
    "ome",
    "open",
    "open_array",
    "save",
]

_ROOMS = {
    "Array": "array",
    "Config": "config",
    "CopyStats": "engine.transfer",
    "Group": "group",
    "GpuzarrError": "errors",
    "PatchLoader": "loading",
    "ReadStats": "engine.source",
    "Store": "store.base",
    "WriteStats": "engine.stats",
    "configure": "config",
    "configured": "config",
    "consolidate": "api",
    "copy": "copying",
    "create_array": "api",
    "create_group": "api",
    "load": "api",
    "open": "api",
    "open_array": "api",
    "save": "api",
}


_PACKAGES = {"loading", "ome"}


def __getattr__(name: str) -> object:
    if name in _PACKAGES:
        return import_module(f"gpuzarr.{name}")
    if name not in _ROOMS:
        raise AttributeError(f"module 'gpuzarr' has no attribute {name!r}")
    value = getattr(import_module(f"gpuzarr.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
