"""What OME-Zarr metadata say of a group's images (NGFF 0.4 `multiscales`, 0.5 `ome.multiscales`). Takes any
JSON: what is not as the specification has it is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
    """The images that a group's attributes describe."""
    ome = attributes.get("ome")
    holder = ome if isinstance(ome, dict) else attributes
    listed = holder.get("multiscales")
    images = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    return [
        Multiscale(
            str(one.get("name") or ""),
            str(holder.get("version") or one.get("version") or "?"),
            tuple(_axis(axis) for axis in _list(one.get("axes"))),
            tuple(_level(each) for each in _list(one.get("datasets")) if isinstance(each, dict)),
        )
        for one in images
    ]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _axis(axis: Any) -> tuple[str, str]:
    if isinstance(axis, dict):
        return str(axis.get("name") or "?"), str(axis.get("unit") or "")
    return str(axis), ""


def _level(dataset: Mapping[str, Any]) -> Level:
    for transform in _list(dataset.get("coordinateTransformations")):
        scale = transform.get("scale") if isinstance(transform, dict) else None
        if isinstance(scale, list) and all(isinstance(one, (int, float)) for one in scale):
            return Level(str(dataset.get("path")), tuple(float(one) for one in scale))
    return Level(str(dataset.get("path")), ())
