"""Plates of high-content screening: rows and columns of wells, each with its fields of view."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gpuzarr.errors import ArgumentError, MetadataError, NotFoundError
from gpuzarr.group import Group
from gpuzarr.ome import metadata
from gpuzarr.ome.collection import image_at
from gpuzarr.ome.metadata import Document
from gpuzarr.ome.multiscale import Multiscale


@dataclass(frozen=True, slots=True)
class Field:
    """One image of a well, as the well lists it."""

    path: str
    acquisition: int | None


class Well(Sequence[Multiscale]):
    """The fields of one well, as a sequence of images; each is opened when it is asked for."""

    def __init__(self, group: Group, device: str) -> None:
        self.group = group
        self.device = device

    @property
    def path(self) -> str:
        """Row and column: `A/1`."""
        return "/".join(self.group.path.split("/")[-2:])

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """Paths of the images, and which acquisition each belongs to."""
        well = metadata.ome(self.group.attrs).get("well")
        if not isinstance(well, dict):
            raise MetadataError("the group has no well metadata", array=self.group.name)
        return tuple(_field(one) for one in _objects(self.group, well, "images"))

    def __getitem__(self, at: Any) -> Any:
        """A field by number; a slice gives a list."""
        if isinstance(at, slice):
            return [image_at(self.group, one.path, self.device) for one in self.fields[at]]
        try:
            return image_at(self.group, self.fields[at].path, self.device)
        except IndexError:
            raise NotFoundError(f"no field {at} in {self.group.name}, which has {len(self)}") from None

    def __iter__(self) -> Iterator[Multiscale]:
        return (self[at] for at in range(len(self)))

    def __len__(self) -> int:
        return len(self.fields)

    def __repr__(self) -> str:
        return f"<gpuzarr.ome.Well {self.group.name}: {len(self)} fields>"


class Plate(Mapping[str, Well]):
    """A plate: a mapping of paths, `A/1`, to wells. Wells that were not imaged are not in it."""

    def __init__(self, group: Group, device: str) -> None:
        self.group = group
        self.device = device

    @cached_property
    def metadata(self) -> Document:
        """The `plate` metadata as they are."""
        plate = metadata.ome(self.group.attrs).get("plate")
        if not isinstance(plate, dict):
            raise MetadataError("the group has no plate metadata", array=self.group.name)
        return plate

    @property
    def name(self) -> str:
        """The plate's name; empty where it has none."""
        return metadata.text(self.metadata.get("name"), "name") or ""

    @property
    def version(self) -> str:
        """Of the OME-Zarr specification; empty where the plate does not say."""
        return metadata.version(metadata.ome(self.group.attrs), self.metadata)

    @cached_property
    def rows(self) -> tuple[str, ...]:
        """Names of the rows, also of those without wells."""
        return self._names("rows")

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns."""
        return self._names("columns")

    def _names(self, what: str) -> tuple[str, ...]:
        found = [one.get("name") for one in _objects(self.group, self.metadata, what)]
        if not all(isinstance(name, str) for name in found):
            raise MetadataError(f"{what} of a plate without a name", array=self.group.name)
        return tuple(map(str, found))

    @property
    def acquisitions(self) -> tuple[Document, ...]:
        """What is said of each acquisition: `id`, `name`, `starttime`, …"""
        return tuple(_objects(self.group, self.metadata, "acquisitions"))

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """Where the wells lie, in the order in which they are listed."""
        found = [one.get("path") for one in _objects(self.group, self.metadata, "wells")]
        if not all(isinstance(path, str) and path for path in found):
            raise MetadataError("a well of the plate has no path", array=self.group.name)
        return tuple(str(path).strip("/") for path in found)

    def well(self, row: str | int, column: str | int) -> Well:
        """The well in a row and a column, by name; by number from 0 where they are integers."""
        try:
            names = [
                listed[one] if isinstance(one, int) else one
                for one, listed in ((row, self.rows), (column, self.columns))
            ]
        except IndexError:
            what = f"row {row}, column {column} of a plate of {len(self.rows)} × {len(self.columns)}"
            raise ArgumentError(what, array=self.group.name) from None
        return self["/".join(names)]

    def __getitem__(self, path: str) -> Well:
        """The well at a path, `A/1`."""
        if path not in self.paths:
            hint = f"there is {', '.join(self.paths[:8]) or 'none'}"
            raise NotFoundError(f"no well {path!r} in {self.group.name}", hint=hint)
        group = self.group[path]
        if not isinstance(group, Group):
            raise MetadataError(f"well {path} is an array", array=self.group.name)
        return Well(group, self.device)

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def images(self) -> Iterator[tuple[str, Multiscale]]:
        """Every image of every well, with its path in the plate: `A/1/0`."""
        for path, well in self.items():
            for at, field in enumerate(well.fields):
                yield f"{path}/{field.path}", well[at]

    def __repr__(self) -> str:
        name = f" “{self.name}”" if self.name else ""
        size = f"{len(self.rows)} × {len(self.columns)}, {len(self)} wells"
        return f"<gpuzarr.ome.Plate{name} {self.group.name}: OME-Zarr {self.version}, {size}>"


def _objects(group: Group, holder: Document, what: str) -> list[Document]:
    try:
        return metadata.objects(holder.get(what), what)
    except MetadataError as error:
        raise error.located(array=group.name) from error


def _field(one: Document) -> Field:
    path, acquisition = one.get("path"), one.get("acquisition")
    if not isinstance(path, str) or not path.strip("/"):
        raise MetadataError(f"the path {path!r} of a field is not one")
    return Field(path.strip("/"), acquisition if type(acquisition) is int else None)
