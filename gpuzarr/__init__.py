"""gpuzarr: read Zarr arrays, on the GPU where there is one.

import gpuzarr
array = gpuzarr.open("volume.zarr", "0")
array[10:20, ::2]
"""

from gpuzarr.api import load, open, open_array
from gpuzarr.array import Array
from gpuzarr.config import Config, configure, configured
from gpuzarr.engine.source import ReadStats
from gpuzarr.errors import GpuzarrError
from gpuzarr.group import Group
from gpuzarr.store.base import Store

__version__ = "0.1.0.dev0"

__all__ = [
    "Array",
    "Config",
    "Group",
    "GpuzarrError",
    "ReadStats",
    "Store",
    "configure",
    "configured",
    "load",
    "open",
    "open_array",
]
