"""OME-Zarr: images with levels, axes, units, channels and labels; plates and wells; whole-slide regions.

    import gpuzarr.ome
    slide = gpuzarr.ome.open("slide.zarr")
    for batch in slide.read_region(locations, (256, 256), level=1, batch_size=64):
        ...
    gpuzarr.ome.write_multiscale(pixels, "slide.zarr", axes="yxc", pixel_size=0.499)

    metadata     documents of any version → frozen values         units, transforms, channels
    opening      which of these a group is:                       multiscale (with level), plate, collection
    region       read_region: locations → boxes → batches
    writing      write_multiscale: level by level, block by block; downsample: the arithmetic of it
    picture      thumbnails; png: the file format

Versions 0.1 to 0.6 are read, 0.4 and 0.5 written. The names below are loaded when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuzarr.ome.channels import Channel
    from gpuzarr.ome.collection import Collection
    from gpuzarr.ome.level import Level
    from gpuzarr.ome.metadata import Axis
    from gpuzarr.ome.multiscale import Multiscale
    from gpuzarr.ome.opening import open
    from gpuzarr.ome.plate import Plate, Well
    from gpuzarr.ome.writing import write_multiscale

__all__ = [
    "Axis",
    "Channel",
    "Collection",
    "Level",
    "Multiscale",
    "Plate",
    "Well",
    "open",
    "write_multiscale",
]

_ROOMS = {
    "Axis": "metadata",
    "Channel": "channels",
    "Collection": "collection",
    "Level": "level",
    "Multiscale": "multiscale",
    "Plate": "plate",
    "Well": "plate",
    "open": "opening",
    "write_multiscale": "writing",
}


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module 'gpuzarr.ome' has no attribute {name!r}")
    value = getattr(import_module(f"gpuzarr.ome.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
