"""zarr-python beside us: it writes the demo's volume, and reads what we read, so that bytes and times can be
compared."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuzarr import config
from gpuzarr.cli.show import Screen
from gpuzarr.cli.volume import Recipe, anatomy, block, halved, in_parallel
from gpuzarr.errors import MissingDependencyError

_FUSED = "zarr.core.codec_pipeline.FusedCodecPipeline"


def zarr_python() -> Any:
    """The zarr package."""
    try:
        import zarr
    except ImportError as error:
        raise MissingDependencyError(
            "the demo's volume is written, and results are checked, by zarr-python, which is not installed",
            hint='pip install "gpuzarr[zarr]"',
        ) from error
    return zarr


@contextmanager
def fastest() -> Iterator[str]:
    """zarr-python with its fastest pipeline; yields its name and version."""
    zarr = zarr_python()
    import zarr.core.codec_pipeline as pipelines

    name = f"zarr-python {zarr.__version__}"
    if hasattr(pipelines, _FUSED.rpartition(".")[2]):
        with zarr.config.set({"codec_pipeline.path": _FUSED}):
            yield f"{name}, fused pipeline"
    else:
        yield f"{name}, default pipeline"


def open_array(target: str, path: str, options: Mapping[str, Any] | None) -> Any:
    """The same array, opened by zarr-python with the pipeline in force."""
    storage = {"storage_options": dict(options)} if options else {}
    return zarr_python().open_array(target, path=path or None, mode="r", **storage)


def write_volume(recipe: Recipe, folder: Path, screen: Screen) -> None:
    """The recipe's volume as a sharded OME-Zarr 0.5 image: written beside its place, then moved there."""
    zarr = zarr_python()
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    group = zarr.open_group(part, mode="w", zarr_format=3)
    finest = np.empty(
        tuple(n // 2 for n in recipe.shape), np.uint16
    )  # the second level, collected block by block
    array = _create(group, 0, recipe.shape, recipe)
    boxes = recipe.boxes()
    threads = config.current().threads

    def make(number: int) -> None:
        made = block(recipe, field, boxes[number], number)
        array[boxes[number]] = made
        finest[tuple(slice(one.start // 2, one.stop // 2) for one in boxes[number])] = halved(made)

    try:
        with screen.progress(f"making a volume of {recipe.title}", 1000) as advance:
            field = anatomy(recipe, threads, lambda done: advance(400 * done))
            for _ in in_parallel(make, len(boxes), threads):
                advance(600 / len(boxes))
        level: NDArray[np.uint16] = finest
        for number in range(1, recipe.levels):
            _create(group, number, level.shape, recipe)[...] = level
            level = halved(level)
        group.attrs.update(_attributes(recipe))
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _create(group: Any, level: int, shape: tuple[int, ...], recipe: Recipe) -> Any:
    from zarr.codecs import BloscCodec

    return group.create_array(
        str(level),
        shape=shape,
        dtype="uint16",
        chunks=recipe.chunks,
        shards=recipe.shards,
        compressors=BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"),
        dimension_names=("z", "y", "x"),
    )


def _attributes(recipe: Recipe) -> dict[str, Any]:
    datasets = [
        {
            "path": str(level),
            "coordinateTransformations": [{"type": "scale", "scale": [recipe.micrometers * 2**level] * 3}],
        }
        for level in range(recipe.levels)
    ]
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]
    image = {"name": "organoid", "axes": axes, "datasets": datasets}
    return {"ome": {"version": "0.5", "multiscales": [image]}, "gpuzarr_demo": recipe.key()}
