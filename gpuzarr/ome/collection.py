"""Groups of images: labels of an image, the series of a bioformats2raw conversion, the tiles of a scene."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count

from gpuzarr.errors import MetadataError, NotFoundError
from gpuzarr.group import Group
from gpuzarr.meta.dialect import join
from gpuzarr.ome import metadata
from gpuzarr.ome.metadata import Document
from gpuzarr.ome.multiscale import Multiscale
from gpuzarr.store.base import Request


class Images(Mapping[str, Multiscale]):
    """Images below a group, by path; each is opened when it is asked for."""

    def __init__(self, group: Group, paths: Sequence[str], device: str) -> None:
        self.group = group
        self.paths = tuple(paths)
        self.device = device

    def __getitem__(self, path: str) -> Multiscale:
        """The image at a path that the group's metadata list."""
        if path not in self.paths:
            known = ", ".join(self.paths[:8])
            raise NotFoundError(f"no image {path!r} in {self.group.name}", hint=f"there is {known or 'none'}")
        return image_at(self.group, path, self.device)

    def __iter__(self) -> Iterator[str]:
        return iter(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        return f"<gpuzarr.ome.{type(self).__name__} {self.group.name}: {', '.join(self.paths[:8]) or 'none'}>"


class Collection(Images):
    """Images that belong together, as a mapping of paths to images.

    `kind` is `bioformats2raw` (a file of several series), `scene` (images in one space, OME-Zarr 0.6) or
    `labels`.
    """

    def __init__(self, group: Group, paths: Sequence[str], device: str, kind: str) -> None:
        super().__init__(group, paths, device)
        self.kind = kind

    @property
    def ome_xml(self) -> str | None:
        """The original metadata as OME-XML, which bioformats2raw keeps beside the images; None without."""
        key = join(join(self.group.path, "OME"), "METADATA.ome.xml")
        (found,) = self.group.store.get_ranges([Request(key)])
        return None if found is None else bytes(found).decode("utf-8", "replace")

    @property
    def transformations(self) -> tuple[Document, ...]:
        """How the images of a scene lie to one another, as the document has it."""
        scene = metadata.ome(self.group.attrs).get("scene")
        given = scene.get("coordinateTransformations") if isinstance(scene, dict) else None
        return tuple(metadata.objects(given, "coordinateTransformations"))

    def __repr__(self) -> str:
        listed = ", ".join(self.paths[:8]) + (", …" if len(self.paths) > 8 else "")
        return f"<gpuzarr.ome.Collection {self.group.name}: {self.kind}, {len(self)} images: {listed}>"


def image_at(group: Group, path: str, device: str, at: int | str = 0) -> Multiscale:
    """The image in the group at a path, the first where it has several."""
    below = group[path] if path else group
    if not isinstance(below, Group):
        raise MetadataError(f"{below.name} is an array, and is to be an image's group", array=group.name)
    return multiscale(below, device, at)


def multiscale(group: Group, device: str, at: int | str = 0) -> Multiscale:
    """One of the images that a group's attributes describe, by number or name."""
    try:
        found = metadata.images(group.attrs)
    except MetadataError as error:
        raise error.located(array=group.name) from error
    named = {one.name: one for one in reversed(found)}
    if isinstance(at, str) and at in named:
        return Multiscale(group, named[at], device)
    if isinstance(at, int) and 0 <= at < len(found):
        return Multiscale(group, found[at], device)
    if not found:
        raise MetadataError("the group has no multiscales metadata", array=group.name)
    known = ", ".join(repr(one.name) for one in found[:8])
    raise NotFoundError(f"no image {at!r} in {group.name}", hint=f"its {len(found)} images are {known}")


def series(group: Group, device: str) -> Collection:
    """A bioformats2raw layout: the series that the group OME lists; else the groups 0, 1, 2 … as far as
    there are any."""
    listed = None
    with suppress(NotFoundError):
        listed = metadata.ome(group["OME"].attrs).get("series")
    if listed is not None:
        paths = [str(metadata.text(one, "series")) for one in metadata.items(listed, "series")]
    else:
        paths = []
        for number in count():
            if str(number) not in group:
                break
            paths.append(str(number))
    return Collection(group, paths, device, "bioformats2raw")


def scene(group: Group, device: str) -> Collection:
    """The images of a 0.6 scene: those that its transformations begin or end at."""
    paths: dict[str, None] = {}
    for one in Collection(group, (), device, "scene").transformations:
        for end in ("input", "output"):
            place = one.get(end)
            path = place.get("path") if isinstance(place, dict) else None
            if isinstance(path, str) and path:
                paths[path] = None
    return Collection(group, list(paths), device, "scene")
