"""An image: one picture or volume at several resolutions, with what its axes mean.

`Multiscale` is a handle, as `Array` is: it holds what was read of the metadata and opens levels, labels and
channels when they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from html import escape
from os import PathLike
from typing import Any

from gpuzarr.api import open as open_node
from gpuzarr.array import Array
from gpuzarr.errors import ArgumentError, GpuzarrError, MetadataError, NotFoundError, UnsupportedError
from gpuzarr.group import Group
from gpuzarr.html import describe_multiscale
from gpuzarr.ome import metadata
from gpuzarr.ome.channels import Channel, channels
from gpuzarr.ome.level import Level, from_shapes
from gpuzarr.ome.metadata import Axis, Document
from gpuzarr.ome.transforms import compose
from gpuzarr.ome.units import micrometers


class Multiscale:
    """An image of an OME-Zarr hierarchy. `gpuzarr.ome.open` makes it."""

    def __init__(self, group: Group, image: metadata.Image, device: str) -> None:
        self.group = group
        self.metadata = image
        self.device = device

    @property
    def name(self) -> str:
        """The image's name; the group's where it has none."""
        return self.metadata.name or self.group.path.rpartition("/")[2]

    @property
    def version(self) -> str:
        """Of the OME-Zarr specification: `0.4`."""
        return self.metadata.version

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """Name, type and unit of each dimension."""
        if self.metadata.axes is not None:
            return self.metadata.axes
        return metadata.default_axes(self._array(self.metadata.datasets[0].path).ndim)

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """Every resolution, finest first. One request a level, when they are first asked for."""
        try:
            opened = [self._array(one.path) for one in self.metadata.datasets]
            for array in opened:
                if array.ndim != len(self.axes):
                    names = ", ".join(axis.name for axis in self.axes)
                    raise MetadataError(f"{array.name} has {array.ndim} dimensions, and the axes are {names}")
            return tuple(
                self._level(one, array, opened[0])
                for one, array in zip(self.metadata.datasets, opened, strict=True)
            )
        except GpuzarrError as error:
            raise error.located(array=self.group.name) from error

    def _array(self, path: str) -> Array:
        node = self.group[path]
        if not isinstance(node, Array):
            raise MetadataError(f"level {path} is a group, not an array", array=self.group.name)
        return node

    def _level(self, one: metadata.Dataset, array: Array, finest: Array) -> Level:
        if not one.transformations:
            return Level(one.path, array, from_shapes(finest.shape, array.shape), ())
        try:
            transform = compose(one.transformations, array.ndim, self._numbers)
        except UnsupportedError as error:
            return Level(one.path, array, None, one.transformations, error)
        return Level(one.path, array, transform, one.transformations)

    def _numbers(self, path: str) -> Any:
        """The parameters of a transformation that lie in an array: beside the levels, or anywhere in the
        store."""
        try:
            node = open_node(self.group.store, f"{self.group.path}/{path.strip('/')}", device="cpu")
        except NotFoundError:
            node = open_node(self.group.store, path, device="cpu")
        if not isinstance(node, Array):
            raise MetadataError(f"{path} is a group, and is to hold the numbers of a transformation")
        if node.size > 1 << 10:
            raise MetadataError(f"{path} holds {node.size} numbers, too many for a transformation of axes")
        return node[...].astype(float).tolist()

    # ---- what belongs to it

    @cached_property
    def channels(self) -> tuple[Channel, ...]:
        """Names, colours and windows of the channels, where `omero` gives them."""
        return channels(self.omero)

    @property
    def omero(self) -> Document:
        """The `omero` metadata as they are; empty where there are none."""
        found = metadata.ome(self.group.attrs).get("omero")
        return found if isinstance(found, dict) else {}

    @property
    def image_label(self) -> Document | None:
        """The `image-label` metadata (colours, properties, source) of a label image, None of others."""
        found = metadata.ome(self.group.attrs).get("image-label")
        return found if isinstance(found, dict) else None

    @cached_property
    def labels(self) -> Mapping[str, Multiscale]:
        """The label images that belong to this one, by name; each is opened when it is asked for."""
        try:
            group = self.group["labels"]
        except NotFoundError:
            return {}
        if not isinstance(group, Group):
            return {}
        from gpuzarr.ome.collection import Images

        listed = metadata.items(metadata.ome(group.attrs).get("labels"), "labels")
        return Images(group, [str(name) for name in listed], self.device)

    # ---- resolution

    def level_for(self, um: float) -> int:
        """The number of the coarsest level whose pixels are no larger than `um` micrometres along x and y
        (within 1 %); the finest where all are larger."""
        if isinstance(um, bool) or not isinstance(um, (int, float)) or not 0 < um < float("inf"):
            raise ArgumentError(f"um={um!r} is not a size in micrometres")
        sizes = [max(self.pixel_size(level)) for level in range(len(self.levels))]
        fine = [level for level, size in enumerate(sizes) if size <= 1.01 * um]
        return max(fine, key=lambda level: (sizes[level], -level)) if fine else 0

    def pixel_size(self, level: int = 0) -> tuple[float, float]:
        """Width and height of a level's pixels in micrometres. Not known where the axes have no unit of
        length, or the transformation turns them: an UnsupportedError."""
        x, y = self.spatial[:2]
        return self.micrometers(level, x), self.micrometers(level, y)

    def micrometers(self, level: int, axis: int) -> float:
        """The size of a level's elements along one axis, in micrometres."""
        factor, scale = micrometers(self.axes[axis].unit), self.at(level).scale
        if factor is None:
            what = f"axis {self.axes[axis].name} has the unit {self.axes[axis].unit}, which is no length"
            hint = "give a level and locations in pixels"
            raise UnsupportedError(what, array=self.group.name, hint=hint)
        if scale is None or not scale[axis] > 0:
            raise self.no_scale(level)
        return scale[axis] * factor

    def no_scale(self, level: int) -> UnsupportedError:
        """The error that a level's elements have no size along each axis."""
        one = self.at(level)
        kinds = ", ".join(str(t.get("type")) for t in one.transformations) or "none"
        what = f"level {one.path} has no positive scale along each axis (transformations: {kinds})"
        return UnsupportedError(what, array=self.group.name, hint="read its array by elements")

    def at(self, level: int) -> Level:
        """A level by number; negative ones count from the coarsest."""
        try:
            return self.levels[level.__index__()]
        except (IndexError, AttributeError):
            what = f"level {level!r} of an image with {len(self.levels)}, numbered from 0, the finest"
            raise ArgumentError(what, array=self.group.name) from None

    @cached_property
    def spatial(self) -> tuple[int, ...]:
        """The dimensions of x, y and z, as far as there are: by name, else the spatial axes from the last
        on."""
        names = [axis.name.lower() for axis in self.axes]
        if "x" in names and "y" in names:
            return tuple(names.index(name) for name in "xyz" if name in names)
        found = [i for i, axis in enumerate(self.axes) if axis.type == "space"][::-1]
        if len(found) < 2:
            what = f"an image with axes {', '.join(names)} has no x and y"
            raise UnsupportedError(what, array=self.group.name, hint="read its levels' arrays")
        return tuple(found[:3])

    # ---- reading

    def read_region(
        self,
        location: Any = None,
        size: Any = (),
        level: int | None = None,
        num_workers: int = 0,
        batch_size: int = 1,
        drop_last: bool = False,
        prefetch_factor: int = 2,
        shuffle: bool = False,
        seed: int = 0,
        device: str | None = None,
        *,
        batch: int | None = None,
        um: float | None = None,
        fill: Any = 0,
        **at: Any,
    ) -> Any:
        """Boxes of pixels, as cuCIM's `CuImage.read_region` gives them: `location` (x, y) in pixels of the
        finest level, `size` (width, height) in pixels of `level`; by default the whole level. The result is
        [height, width], and [height, width, channels] where there is a channel axis; with (x, y, z) and
        (width, height, depth) it begins with depth. What lies outside of the image is `fill`.

        One location gives an array. Several, as a list of them or flat, give an iterator: of arrays, or with
        `batch_size` n (or `batch`) of arrays [n, …], the last one shorter unless `drop_last`. They are read
        `prefetch_factor` batches ahead, each batch as one. `shuffle` orders them at random by `seed`.
        `num_workers` is taken for cuCIM's sake: threads are a matter of `gpuzarr.configure`.

        `um` instead of `level`: location and size are micrometres in the image's physical coordinates, and
        the level is the coarsest with pixels of that size or smaller (`level_for`). Other axes are chosen by
        name: `z=4, t=0, c=slice(0, 3)`, in elements of the finest level. By default all channels, and the
        first of the others.

        Raises ArgumentError for arguments that make no sense, SelectionError for what is outside of other
        axes, UnsupportedError where `um` has no meaning.
        """
        from gpuzarr.ome import batches
        from gpuzarr.ome.region import Regions

        count = batch_size if batch is None else batch
        regions = Regions(self, location, size, level, um, at, fill, device)
        several = (count, drop_last, prefetch_factor, shuffle, seed)
        return batches.read(regions.take, regions.origins, regions.alone, *several)

    def to_png(
        self,
        path: str | PathLike[str] | None = None,
        max_side: int = 512,
        *,
        level: int | None = None,
        **at: int,
    ) -> bytes:
        """A picture of the whole image, no side longer than `max_side`, as the bytes of a PNG; also written
        to `path`. Channels have the colours and windows of `omero`, labels theirs of `image-label`; three
        channels of bytes without either are red, green and blue. It is made of the smallest level that is
        large enough, or of `level`; of time points and slices those that `omero` names, else the first and
        the middle one, or what is given by name: `z=4`."""
        from gpuzarr.ome.picture import save, thumbnail

        return save(thumbnail(self, max_side, level, at), path)

    # ---- as an object

    def __len__(self) -> int:
        """How many levels there are."""
        return len(self.metadata.datasets)

    def __getitem__(self, level: int) -> Array:
        """A level's array."""
        return self.at(level).array

    def __iter__(self) -> Iterator[Array]:
        """The levels' arrays, finest first."""
        return (level.array for level in self.levels)

    def __reduce__(self) -> tuple[object, ...]:
        """Handles can be sent to other processes, if their stores can."""
        at = metadata.images(self.group.attrs).index(self.metadata)
        return _reopened, (self.group.store, self.group.path, self.device, at)

    def __repr__(self) -> str:
        kind = "labels" if self.image_label is not None else "image"
        head = f"<gpuzarr.ome.Multiscale {self.group.name}: OME-Zarr {self.version} {kind}"
        try:
            return "\n".join([f"{head}, {' '.join(map(str, self.axes))}", *self._rows()]) + ">"
        except GpuzarrError as error:
            return f"{head} that cannot be read: {error}>"

    def _repr_html_(self) -> str:
        """As notebooks show it: the levels, each as a box that is cut along its chunks."""
        try:
            return describe_multiscale(self.levels, self.name, [axis.name for axis in self.axes])
        except GpuzarrError:
            return f"<pre>{escape(repr(self))}</pre>"

    def _rows(self) -> Iterator[str]:
        shapes = [" × ".join(map(str, one.shape)) for one in self.levels]
        left, right = max(len(one.path) for one in self.levels), max(map(len, shapes))
        for one, shape in zip(self.levels, shapes, strict=True):
            yield f"  {one.path:<{left}}  {shape:>{right}}  {one.array.dtype}  elements of {one.sizes}"


def _reopened(store: Any, path: str, device: str, at: int) -> Any:
    from gpuzarr.ome.opening import open

    return open(store, path, device, image=at)
