"""What a group's attributes say of its images: OME-Zarr documents of versions 0.1 to 0.6 as frozen values.

    0.1, 0.2   axes are t c z y x        no transformations
    0.3        axes are names            no transformations
    0.4        axes have type and unit   scale, then translation, for each level and for all
    0.5        the same, below `ome`, in Zarr v3
    0.6        axes lie in coordinate systems, and a level has one transformation into one of them; those of
               the whole image lead from there into other systems, and are kept apart

Nothing is read here. What contradicts the specification so far that an image could not be read is a
MetadataError; what is merely missing is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gpuzarr.errors import MetadataError

Document = Mapping[str, Any]

_TYPES: Final = {"x": "space", "y": "space", "z": "space", "c": "channel", "t": "time"}
_FIVE: Final = "tczyx"
_MOST: Final = 1000  # levels; a pyramid of more is no pyramid


@dataclass(frozen=True, slots=True)
class Axis:
    """One dimension of an image."""

    name: str
    type: str | None = None
    """`space`, `time`, `channel`, or another word; None where it is not said and the name does not tell."""
    unit: str | None = None

    def __str__(self) -> str:
        return f"{self.name} ({self.unit})" if self.unit else self.name


@dataclass(frozen=True, slots=True)
class Dataset:
    """One level as the document has it."""

    path: str
    transformations: tuple[Document, ...]
    """To be applied one after the other; none where the document gives none."""


@dataclass(frozen=True, slots=True)
class Image:
    """One entry of `multiscales`."""

    name: str
    version: str
    axes: tuple[Axis, ...] | None
    """None in 0.1 and 0.2: as many of the last of t c z y x as the arrays have dimensions."""
    datasets: tuple[Dataset, ...]
    """Finest first."""
    transformations: tuple[Document, ...]
    """Of the image as a whole, in 0.6: into other coordinate systems. Not applied."""
    method: str | None
    """How the levels were made, in the writer's words."""
    document: Document


def ome(attributes: Document) -> Document:
    """The OME-Zarr metadata among a group's attributes: below `ome` since 0.5, among all before."""
    below = attributes.get("ome")
    return below if isinstance(below, dict) else attributes


def version(holder: Document, part: Document | None = None) -> str:
    """The version that a document, or one part of it, gives itself; empty where neither does."""
    for one in (holder, part or {}):
        if isinstance(one.get("version"), (str, float)):
            return str(one["version"])
    return ""


def images(attributes: Document) -> list[Image]:
    """The images that a group's attributes describe; none where it has no `multiscales`."""
    holder = ome(attributes)
    listed = holder.get("multiscales")
    if listed is None:
        return []
    return [_image(holder, one, holder is not attributes) for one in objects(listed, "multiscales")]


def _image(holder: Document, one: Document, namespaced: bool) -> Image:
    listed = objects(one.get("datasets"), "datasets")
    if not 0 < len(listed) <= _MOST:
        raise MetadataError(f"an image of {len(listed)} levels")
    systems = one.get("coordinateSystems")
    common = tuple(objects(one.get("coordinateTransformations"), "coordinateTransformations"))
    if systems is None:
        axes = None if one.get("axes") is None else _axes(one["axes"])
        datasets = tuple(_dataset(each, common) for each in listed)
        common = ()
    else:
        datasets = tuple(_dataset(each, ()) for each in listed)
        axes = _system(objects(systems, "coordinateSystems"), datasets[0])
        datasets = tuple(Dataset(each.path, _into_system(each.transformations)) for each in datasets)
    return Image(
        text(one.get("name"), "name") or "",
        version(holder, one) or _guessed(one, namespaced),
        axes,
        datasets,
        common,
        one["type"] if isinstance(one.get("type"), str) else None,
        one,
    )


def _guessed(one: Document, namespaced: bool) -> str:
    """The version of a document that does not say, by what only that version has."""
    if "coordinateSystems" in one:
        return "0.6"
    if namespaced:
        return "0.5"
    axes = one.get("axes") or []
    return "0.1" if not axes else "0.3" if isinstance(axes[0], str) else "0.4"


def default_axes(ndim: int) -> tuple[Axis, ...]:
    """The axes of 0.1 and 0.2, which do not name them."""
    if ndim > len(_FIVE):
        raise MetadataError(f"an image of {ndim} dimensions that does not name its axes")
    return tuple(_named(name) for name in _FIVE[len(_FIVE) - ndim :])


def _named(name: str) -> Axis:
    return Axis(name, _TYPES.get(name))


def _axes(listed: Any) -> tuple[Axis, ...]:
    axes = tuple(_axis(one) for one in items(listed, "axes"))
    names = [axis.name for axis in axes]
    if len(set(names)) != len(names):
        raise MetadataError(f"two axes of one name among {', '.join(names)}")
    return axes


def _axis(one: Any) -> Axis:
    if isinstance(one, str):
        return _named(one)
    if not isinstance(one, dict) or not isinstance(one.get("name"), str):
        raise MetadataError(f"{one!r} is no axis", hint="it needs a name")
    name = one["name"]
    return Axis(name, text(one.get("type"), "type") or _TYPES.get(name), text(one.get("unit"), "unit"))


def _dataset(one: Document, common: tuple[Document, ...]) -> Dataset:
    path = one.get("path")
    if not isinstance(path, str) or not path.strip("/"):
        raise MetadataError(f"the path {path!r} of a level is not one")
    own = objects(one.get("coordinateTransformations"), "coordinateTransformations")
    return Dataset(path.strip("/"), (*own, *common))


def _into_system(transformations: tuple[Document, ...]) -> tuple[Document, ...]:
    """In 0.6 each transformation stands for itself: the first that says where it leads. A list in which none
    does is one of 0.5."""
    leading = [one for one in transformations if one.get("output") is not None]
    return tuple(leading[:1]) or transformations


def _system(systems: list[Document], finest: Dataset) -> tuple[Axis, ...]:
    """The axes of the coordinate system that the finest level is transformed into; where it names none, those
    of the first."""
    if not systems:
        raise MetadataError("coordinateSystems is empty, so the axes are not known")
    output = finest.transformations[0].get("output") if finest.transformations else None
    name = output.get("name") if isinstance(output, dict) else output
    for system in systems:
        if name is None or system.get("name") == name:
            return _axes(system.get("axes"))
    known = ", ".join(repr(system.get("name")) for system in systems[:8])
    raise MetadataError(f"a level leads into coordinate system {name!r}, and there is only {known}")


# ---- values of a kind


def items(value: Any, what: str) -> tuple[Any, ...]:
    """A list, or nothing."""
    if value is not None and not isinstance(value, list):
        raise MetadataError(f"{what} is not a list: {value!r}")
    return tuple(value or ())


def objects(value: Any, what: str) -> list[Document]:
    """A list of JSON objects, or nothing."""
    found = items(value, what)
    for one in found:
        if not isinstance(one, dict):
            raise MetadataError(f"{what} holds {one!r}, which is no JSON object")
    return list(found)


def text(value: Any, what: str) -> str | None:
    """A string, or nothing."""
    if value is not None and not isinstance(value, str):
        raise MetadataError(f"{what} {value!r} is not a string")
    return value
