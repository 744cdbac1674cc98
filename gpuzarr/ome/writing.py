"""`write_multiscale`: an image, or its labels, as an OME-Zarr pyramid.

    given ─block by block→ level 0 ─→ level 1 ─→ level 2 …       a block is what one object of the level holds

Each level is made of the one before, read back from the store, so memory holds a few blocks, however large
the image. Where `device` is a GPU, blocks are read to it and made smaller there. The metadata that make the
group an image come last: until then readers find arrays, but no image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import product
from math import prod
from typing import Any, Final

from gpuzarr import config
from gpuzarr.api import create_array, create_group
from gpuzarr.api import open as open_node
from gpuzarr.array import Array
from gpuzarr.device.choose import choose
from gpuzarr.engine.inflight import run_each
from gpuzarr.errors import ArgumentError
from gpuzarr.group import Group
from gpuzarr.meta.create import array_document
from gpuzarr.meta.document import dump
from gpuzarr.ome import metadata
from gpuzarr.ome.collection import multiscale
from gpuzarr.ome.downsample import check, downsample
from gpuzarr.ome.multiscale import Multiscale
from gpuzarr.ome.pyramid import Given, Pyramid, auto_chunks, given_axes, plan
from gpuzarr.store.apart import apart
from gpuzarr.store.urls import open_store

Report = Callable[[int, int], None]
"""Told the bytes done and those there are, decoded, of all levels."""

BUDGET: Final = 512 << 20
"""Bytes that the blocks in flight may take. One is always in flight."""
PIECE: Final = 64 << 20
"""Bytes of the finer level that are made smaller at once."""

Box = tuple[slice, ...]


def write_multiscale(
    image: Any,
    target: Any,
    axes: Any = "tczyx",
    method: str = "auto",
    *,
    path: str = "",
    scale_factors: Sequence[Any] | None = None,
    levels: int | None = None,
    chunks: Any = "auto",
    shards: Any = "auto",
    codecs: Any = "auto",
    pixel_size: Any = None,
    unit: Any = "micrometer",
    name: str | None = None,
    labels: bool = False,
    omero: Mapping[str, Any] | None = None,
    version: str | None = None,
    overwrite: bool = False,
    progress: Report | bool | None = None,
    device: str = "auto",
    storage_options: Mapping[str, Any] | None = None,
) -> Multiscale:
    """Write `image` and coarser levels of it as an OME-Zarr image at `path` of `target`.

    `image` is an array in memory or on a device, a `gpuzarr.Array`, or anything with `shape`, `dtype` and
    slices of it by `[...]` (h5py, dask, zarr-python): larger than memory if need be. `axes` names its
    dimensions: "tczyx", "yxc", or a list. They are stored in the order that the specification asks for: time,
    channel, then z, y, x.

    `method`: `mean`, `nearest`, or `mode`, the most frequent value; `auto` is mean, and mode for labels. See
    `gpuzarr.ome.downsample` for what they are exactly. `scale_factors`: for each coarser level how many times
    smaller it is than the finest, a number for x, y and z or a mapping of axes, each a multiple of the one
    before. Without, the spatial axes are halved (z when the elements of the others have become as large as
    its own) until no side is over 256, or to as many levels as `levels` says. `chunks`, `shards` and `codecs`
    are those of `create_array`; shapes are cut to those of small levels, and chunks of `auto` hold one time
    point and one channel, but colours together.

    `pixel_size`: the size of an element of the finest level in `unit`, a number for all spatial axes or a
    mapping of axes; `unit` likewise. With `labels`, the image becomes label image `name` of the image at
    `path`, which must be there, and by default has its pixel sizes and number of levels. `omero` are channel
    metadata, stored as they are. `version` 0.5 (the default) is Zarr v3, 0.4 is Zarr v2, which has no shards.
    `progress` is called with bytes done and bytes there are; True shows them on stderr. `device` is where
    levels are made.

    Raises ArgumentError for arguments that do not fit together, or where there is something already unless
    `overwrite` is set.
    """
    source = given_axes(image, axes)
    method = ("mode" if labels else "mean") if method == "auto" else method
    check(method, source.dtype)
    place = choose(device)
    made_on = place.name if place.name.startswith("cuda") else "cpu"  # sim has arrays without arithmetic
    store, path = open_store(target, storage_options, create=True), path.strip("/")
    parent = _labelled(store, path, name, source) if labels else None
    if parent is not None:
        if pixel_size is None and scale_factors is None:
            pixel_size, unit, levels = (*_sizes(parent, source), levels or len(parent))
        version = version or ("0.4" if parent.group.zarr_format == 2 else "0.5")
        path = "/".join(part for part in (path, "labels", name) if part)
    version = version or "0.5"
    zarr_format = {"0.4": 2, "0.5": 3}.get(version, 0)
    if not zarr_format or (parent is not None and parent.group.zarr_format != zarr_format):
        what = f"version {version!r} cannot be written here"
        raise ArgumentError(what, hint="0.5 is Zarr v3, 0.4 is Zarr v2, and labels have their image's")
    if isinstance(image, Array) and not apart(image.store, image.path, store, path):
        raise ArgumentError(f"{image.name} lies where its pyramid is to be", hint="write to another place")
    pyramid = plan(source, method, scale_factors, levels, pixel_size, unit)
    document: dict[str, Any] = pyramid.document(version, name or "", method)
    if omero is not None:
        document["omero"] = dict(omero)
    if labels:
        document["image-label"] = {"version": version} if version == "0.4" else {}
    dump(document)  # what JSON cannot hold is refused before anything is written
    cuts = {"chunks": auto_chunks(source) if chunks == "auto" else chunks, "shards": shards}
    if zarr_format == 2 and shards == "auto":
        cuts["shards"] = None
    options = [_options(source, shape, codecs, zarr_format, **cuts) for shape in pyramid.shapes]
    for each in options:
        array_document(**each)  # and so is what makes no array
    group = create_group(store, path, zarr_format=zarr_format, overwrite=overwrite, device=place.name)  # type: ignore[arg-type]
    below = f"{group.path}/" if group.path else ""
    arrays = [create_array(store, f"{below}{i}", **each, device=made_on) for i, each in enumerate(options)]
    with ExitStack() as stack:
        report = progress if callable(progress) else None
        if progress is True:
            from gpuzarr.progress import Meter

            report = stack.enter_context(Meter("writing levels"))
        _fill(source, arrays, pyramid, method, report)
    group.update_attributes(document if version == "0.4" else {"ome": {"version": version, **document}})
    if parent is not None:
        _list_label(parent.group, str(name), version)
    return Multiscale(group, metadata.images(group.attrs)[0], place.name)


# ---- blocks


def _fill(source: Any, arrays: list[Array], pyramid: Pyramid, method: str, report: Report | None) -> None:
    """Level 0 from what was given, every other from the one before."""
    total, done = sum(array.nbytes for array in arrays), 0

    def run(level: int) -> None:
        nonlocal done
        target = arrays[level]
        boxes = list(_boxes(target.shape, target.shards or _regular(target)))
        factors = pyramid.steps[level]

        def write(at: int) -> None:
            if level == 0:
                target.write(boxes[at], source.read(boxes[at]))
            else:
                target.write(boxes[at], _smaller(arrays[level - 1], target, boxes[at], factors, method))

        def finished(at: int) -> None:
            nonlocal done
            done += prod(one.stop - one.start for one in boxes[at]) * target.dtype.itemsize
            if report is not None:
                report(done, total)

        cost = prod(min(n, s) for n, s in zip(target.shape, target.shards or _regular(target), strict=True))
        many = min(config.current().threads, BUDGET // max(2 * cost * target.dtype.itemsize + PIECE, 1))
        alone = target.device != "cpu" or (level == 0 and not source.shared)
        run_each(iter(range(len(boxes))), write, finished, 1 if alone else max(many, 1))

    if report is not None:
        report(0, total)
    for level in range(len(arrays)):
        run(level)


def _smaller(finer: Array, coarser: Array, box: Box, factors: Sequence[int], method: str) -> Any:
    """A box of a level, made of the level before, piece by piece."""
    shape = tuple(one.stop - one.start for one in box)
    chunk = [min(size, n) for size, n in zip(_regular(coarser), shape, strict=True)]
    pieces = list(_boxes(shape, _piece(shape, chunk, prod(factors) * finer.dtype.itemsize)))
    made: Any = None
    for piece in pieces:
        low = [one.start + part.start for one, part in zip(box, piece, strict=True)]
        high = [one.start + part.stop for one, part in zip(box, piece, strict=True)]
        ends = zip(low, high, factors, finer.shape, strict=True)
        values = finer.read(tuple(slice(a * f, min(b * f, n)) for a, b, f, n in ends))
        small = downsample(values, factors, method)
        if len(pieces) == 1:
            return small
        if made is None:
            made = type(small)(shape, small.dtype)  # as NumPy and CuPy both make arrays
        made[piece] = small
    return made


def _piece(shape: Sequence[int], chunk: Sequence[int], nbytes: int) -> list[int]:
    """Whole chunks, as many as give about PIECE bytes of the finer level, `nbytes` an element."""
    sides = list(chunk)
    for axis in reversed(range(len(shape))):
        while sides[axis] < shape[axis] and 2 * prod(sides) * nbytes <= PIECE:
            sides[axis] *= 2
    return sides


def _boxes(shape: Sequence[int], sides: Sequence[int]) -> Iterator[Box]:
    ranges = [range(0, n, side) for n, side in zip(shape, sides, strict=True)]
    for low in product(*ranges):
        ends = zip(low, sides, shape, strict=True)
        yield tuple(slice(start, min(start + side, n)) for start, side, n in ends)


def _regular(array: Array) -> tuple[int, ...]:
    return tuple(size for size in array.chunks if isinstance(size, int))


def _options(
    source: Given, shape: tuple[int, ...], codecs: Any, zarr_format: int, chunks: Any, shards: Any
) -> dict[str, Any]:
    """What `create_array` is told of a level. Chunks and shards that are larger than it are cut."""
    chunks = _sizes_for(chunks, shape, "chunks")
    shards = _sizes_for(shards, shape, "shards")
    if isinstance(chunks, tuple):
        chunks = tuple(min(size, max(n, 1)) for size, n in zip(chunks, shape, strict=True))
        if isinstance(shards, tuple):  # to whole chunks
            whole = [-(-max(n, 1) // size) * size for size, n in zip(chunks, shape, strict=True)]
            shards = tuple(map(min, shards, whole))
    names = [axis.name for axis in source.axes] if zarr_format == 3 else None
    return {
        "shape": shape,
        "dtype": source.dtype,
        "chunks": chunks,
        "shards": shards,
        "codecs": codecs,
        "fill_value": None if source.dtype.kind in "SUV" else 0,
        "dimension_names": names,
        "zarr_format": zarr_format,
        "separator": "/",
    }


def _sizes_for(given: Any, shape: tuple[int, ...], what: str) -> Any:
    """A number for each dimension, where they are given as numbers; else as it is."""
    if isinstance(given, int) and not isinstance(given, bool):
        given = (given,) * len(shape)
    if not isinstance(given, (list, tuple)):
        return given
    if not all(isinstance(size, int) for size in given):
        if what == "shards":  # shards in shards
            return given
        raise ArgumentError(f"{what} {given} are not a number for each dimension")
    if len(given) != len(shape) or min(given, default=0) < 1:
        raise ArgumentError(f"{what} {given} do not fit the {len(shape)} dimensions of the image")
    return tuple(given)


# ---- labels


def _labelled(store: Any, path: str, name: str | None, source: Given) -> Multiscale:
    """The image that is to have labels."""
    if not name or "/" in name:
        raise ArgumentError(f"labels need a name, not {name!r}")
    if source.dtype.kind not in "iu":
        raise ArgumentError(f"labels are integers, not {source.dtype}")
    node = open_node(store, path, mode="r+", device="cpu")
    if not isinstance(node, Group):
        raise ArgumentError(f"{node.name} is an array, not an image that could have labels")
    return multiscale(node, "cpu")


def _sizes(image: Multiscale, source: Given) -> tuple[dict[str, float], dict[str, str]]:
    """The sizes and units of an image's elements, along the axes that its labels have too."""
    names = {axis.name for axis in source.axes}
    axes = [(axis, i) for i, axis in enumerate(image.axes) if axis.name in names]
    scale = image.at(0).scale
    sizes = {axis.name: scale[i] for axis, i in axes if scale[i] > 0} if scale is not None else {}
    return sizes, {axis.name: axis.unit for axis, _ in axes if axis.unit}


def _list_label(image: Group, name: str, version: str) -> None:
    """Add a name to the list of an image's labels; the group that has it was made with them."""
    group = image["labels"]
    assert isinstance(group, Group)
    before = metadata.ome(group.attrs)
    listed = list(metadata.items(before.get("labels"), "labels"))
    listed += [name] if name not in listed else []
    if version == "0.4":
        group.update_attributes({"labels": listed})
    else:
        group.update_attributes({"ome": {**before, "version": version, "labels": listed}})
