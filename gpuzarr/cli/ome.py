"""What `gpuzarr info` says of a group's OME-Zarr metadata: its images with their levels, or that it is a
plate, a well, a collection. It looks at attributes alone, and never fails: what makes no sense is said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpuzarr.errors import GpuzarrError, UnsupportedError
from gpuzarr.ome import metadata
from gpuzarr.ome.transforms import Transform, compose


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution. `scale` is the size of an element along each axis; empty if it is not given."""

    path: str
    scale: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Multiscale:
    """One image, finest level first. Axes are (name, unit); the unit may be empty."""

    name: str
    version: str
    axes: tuple[tuple[str, str], ...]
    levels: tuple[Level, ...]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "name": self.name,
            "version": self.version,
            "axes": [{"name": name, "unit": unit or None} for name, unit in self.axes],
            "levels": [{"path": level.path, "scale": list(level.scale)} for level in self.levels],
        }


def multiscales(attributes: Mapping[str, Any]) -> list[Multiscale]:
    """The images that a group's attributes describe; none where the description makes no sense."""
    try:
        return [_multiscale(one) for one in metadata.images(attributes)]
    except GpuzarrError:
        return []


def _multiscale(image: metadata.Image) -> Multiscale:
    axes = image.axes or ()
    levels = tuple(Level(one.path, _scale(one, len(axes))) for one in image.datasets)
    return Multiscale(image.name, image.version, tuple((axis.name, axis.unit or "") for axis in axes), levels)


def _scale(dataset: metadata.Dataset, ndim: int) -> tuple[float, ...]:
    if not dataset.transformations or not ndim:
        return ()
    try:
        transform: Transform = compose(dataset.transformations, ndim, _elsewhere)
    except UnsupportedError:
        return ()
    return transform.scale or ()


def _elsewhere(path: str) -> Any:
    raise UnsupportedError(f"the numbers lie in {path}")


def headlines(attributes: Mapping[str, Any]) -> list[str]:
    """What a group is besides an image, a line each; and what is wrong with its metadata."""
    holder = metadata.ome(attributes)
    lines = []
    try:
        metadata.images(attributes)
        for kind, of in (("plate", _plate), ("well", _well)):
            if isinstance(holder.get(kind), dict):
                part = holder[kind]
                version = metadata.version(holder, part)
                lines.append(f"{f'OME-Zarr {version}'.rstrip()} {kind}{of(part)}")
        listed = metadata.items(holder.get("labels"), "labels")
    except GpuzarrError as error:
        return [*lines, f"OME-Zarr metadata cannot be read: {error}"]
    if listed:
        lines.append(f"OME-Zarr labels: {', '.join(map(str, listed))}")
    if "bioformats2raw.layout" in holder and "plate" not in holder:
        lines.append("OME-Zarr collection of images, as bioformats2raw writes it")
    if isinstance(holder.get("scene"), dict):
        lines.append(f"OME-Zarr {metadata.version(holder)} scene")
    return lines


def _plate(part: Mapping[str, Any]) -> str:
    name = metadata.text(part.get("name"), "name")
    rows, columns, wells = (len(metadata.items(part.get(k), k)) for k in ("rows", "columns", "wells"))
    return f"{f' “{name}”' if name else ''}: {rows} × {columns}, {wells} wells"


def _well(part: Mapping[str, Any]) -> str:
    return f": {len(metadata.items(part.get('images'), 'images'))} fields"
