"""`gpuzarr.ome.open`: what a group is, by its attributes.

    multiscales             an image; a label image too
    plate, well             high-content screening; before a bioformats2raw layout, which may be beside it
    bioformats2raw.layout   a collection of images
    scene, labels           likewise

What a group says first in this order, it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuzarr.api import open as open_node
from gpuzarr.array import Array
from gpuzarr.device.choose import choose
from gpuzarr.errors import ArgumentError, GpuzarrError, MetadataError
from gpuzarr.group import Group
from gpuzarr.ome import metadata
from gpuzarr.ome.collection import Collection, multiscale, scene, series
from gpuzarr.ome.multiscale import Multiscale
from gpuzarr.ome.plate import Plate, Well


def open(
    target: Any,
    path: str = "",
    device: str = "auto",
    storage_options: Mapping[str, Any] | None = None,
    *,
    image: int | str = 0,
    cache: Any = None,
) -> Multiscale | Plate | Well | Collection:
    """What lies at `path` of an OME-Zarr hierarchy, of versions 0.1 to 0.6: an image, a plate, a well, or a
    collection of images.

    `target`, `device`, `storage_options` and `cache` are those of `gpuzarr.open`; `target` may be a
    `gpuzarr.Group` too. `image` chooses, by number or name, among several images of one group, which is rare.

    Raises what `gpuzarr.open` raises; MetadataError where there are no OME-Zarr metadata or they contradict
    themselves, ArgumentError where there is an array.
    """
    device = choose(device).name
    if isinstance(target, Group):
        target, path = target.store, "/".join(part for part in (target.path, path.strip("/")) if part)
    node = open_node(target, path, device=device, storage_options=storage_options, cache=cache)
    if isinstance(node, Array):
        hint = "open the group that holds it; gpuzarr.open opens arrays"
        raise ArgumentError(f"{node.name} is an array, not an image", hint=hint)
    return view(node, device, image)


def view(group: Group, device: str, at: int | str = 0) -> Multiscale | Plate | Well | Collection:
    """A group as what its attributes say it is."""
    holder = metadata.ome(group.attrs)
    if "multiscales" in holder:
        return multiscale(group, device, at)
    if "plate" in holder:
        return Plate(group, device)
    if "well" in holder:
        return Well(group, device)
    try:
        if "bioformats2raw.layout" in holder:
            return series(group, device)
        if "scene" in holder:
            return scene(group, device)
        if "labels" in holder:
            names = [str(metadata.text(one, "labels")) for one in metadata.items(holder["labels"], "labels")]
            return Collection(group, names, device, "labels")
    except MetadataError as error:
        raise error.located(array=group.name) from error
    raise MetadataError("the group has no OME-Zarr metadata", array=group.name, hint=_near(group))


def _near(group: Group) -> str | None:
    """An image right below, if that is what was meant."""
    try:
        found = [name for name in sorted(group)[:20] if _is_ome(group, name)]
    except GpuzarrError:
        return None
    return f"did you mean {', '.join(found[:4])}?" if found else "gpuzarr.open opens any group"


def _is_ome(group: Group, name: str) -> bool:
    node = group[name]
    holder = metadata.ome(node.attrs) if isinstance(node, Group) else {}
    return any(key in holder for key in ("multiscales", "plate", "well", "scene"))
