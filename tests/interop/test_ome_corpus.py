"""OME-Zarr of other people's: every hierarchy of the corpus opens, as ome-zarr-py and ngff-zarr see it; what
is written here they read; a slide has the pixels that tifffile and OpenSlide give."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuzarr
import gpuzarr.ome
from gpuzarr.errors import UnsupportedError
from gpuzarr.ome import Multiscale, Plate
from tests import corpus

SEEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "data" / "ome" / "seen.json").read_text(encoding="utf-8")
)
ENTRIES = [entry for entry in corpus.entries() if entry.dialect == "ome_zarr"]
SLIDE = corpus.ROOT.parent / "realdata" / "cmu-1-small-region.svs"
V06 = "neuroglancer/testdata/datasource/zarr/ome_zarr/all_0.6"
SCENES = {
    "zarr_java/testdata/ome/v0.6_scene/example1_instrument_registration.zarr": [
        "sampleA_instrument2",
        "sampleA_instrument1",
    ],
    "ome_zarr_models/tests/data/examples/v06/stitched_tiles_2d.zarr": ["tile_0", "tile_1"],
}

pytestmark = pytest.mark.filterwarnings("ignore")  # of those who are compared with


def opened(path: str) -> Any:
    if not (corpus.ROOT / path).exists():
        pytest.skip(f"no corpus at {corpus.ROOT}")
    return gpuzarr.ome.open(corpus.ROOT / path, device="cpu")


def images(node: Any) -> Iterator[tuple[str, Multiscale]]:
    """Every image of a hierarchy, labels too, with its path."""
    found = (
        [("", node)]
        if isinstance(node, Multiscale)
        else list(node.images() if isinstance(node, Plate) else node.items())
    )
    for path, image in found:
        yield path, image
        for name, labels in image.labels.items():
            yield f"{path}/labels/{name}".strip("/"), labels


@cache
def arrays(path: str) -> dict[str, tuple[Multiscale, int]]:
    """Every level of every image of a hierarchy, by the path of its array."""
    return {
        f"{at}/{level.path}".strip("/"): (image, number)
        for at, image in images(opened(path))
        for number, level in enumerate(image.levels)
    }


@pytest.mark.skipif(not ENTRIES, reason=f"no corpus at {corpus.ROOT}")
def test_every_entry_is_a_level_of_an_image() -> None:
    for entry in ENTRIES:
        image, number = arrays(entry.path)[entry.array]
        assert corpus.digest(image[number][...]) == entry.sha256, entry.id
        assert image.levels[number].shape == tuple(entry.shape), entry.id
        names = {"ome_zarr_0.4": "0.4", "ome_zarr_0.5": "0.5"}
        assert image.version in [names[name] for name in entry.features if name in names], entry.id


@pytest.mark.skipif(not ENTRIES, reason=f"no corpus at {corpus.ROOT}")
def test_whole_levels_by_read_region() -> None:
    for entry in ENTRIES:
        image, number = arrays(entry.path)[entry.array]
        names = [axis.name for axis in image.axes]
        others = {name: slice(None) for name in names if name in "tz"}
        whole = image.read_region(level=number, **others)
        order = [n for n in names if n in "tz"] + ["y", "x"] + [n for n in names if n == "c"]
        assert np.array_equal(whole, image[number][...].transpose([names.index(n) for n in order])), entry.id


@pytest.mark.parametrize("path", sorted(SEEN))
@pytest.mark.parametrize("reader", ["ome-zarr-py", "ngff-zarr"])
def test_as_others_see_it(path: str, reader: str) -> None:
    node = opened(path)
    seen = SEEN[path].get(reader)
    if seen is None:
        assert V06.rpartition("/")[2] in path or "v0.6" in path or "v06" in path  # which they do not read
        assert len(node.levels) == 1
        return
    if isinstance(node, Plate):
        assert list(node.rows) == seen["rows"]
        assert list(node.columns) == seen["columns"]
        assert sorted(node) == sorted(seen["wells"])
        found = dict(node.images())
        assert set(seen["images"]) <= set(found)
        for at, one in seen["images"].items():
            same_image(found[at], one)
    else:
        same_image(node, seen)


def same_image(image: Multiscale, seen: dict[str, Any]) -> None:
    assert [[axis.name, axis.type, axis.unit] for axis in image.axes] == seen["axes"]
    assert [level.path for level in image.levels] == seen["paths"]
    for level, other in zip(image.levels, seen["levels"], strict=True):
        assert list(level.shape) == other["shape"]
        assert list(level.scale or ()) == other.get("scale", [1] * len(level.shape))
        assert list(level.translation or ()) == other.get("translation", [0] * len(level.shape))
    if "labels" in seen:
        assert {
            name: [list(level.shape) for level in labels.levels] for name, labels in image.labels.items()
        } == seen["labels"]


@pytest.mark.parametrize(
    ("name", "scale", "translation"),
    [
        ("basic/identity", (1, 1, 1), (0, 0, 0)),
        ("basic/scale", (4, 3, 2), (0, 0, 0)),
        ("basic/translation", (1, 1, 1), (30, 20, 10)),
        ("basic/sequenceScaleTranslation", (4, 3, 2), (32, 21, 10)),
        ("simple/affine", (4, 3, 2), (32, 21, 10)),
        ("simple/anisotropic_rotation", (2, 0.5, 0.25), (0, 0, 0)),
        ("simple/rotation", None, (0, 0, 0)),
        ("axis_dependent/mapAxis", None, (0, 0, 0)),
    ],
)
def test_transformations_of_drafts(name: str, scale: Any, translation: Any) -> None:
    """Neuroglancer's, which say the same in several ways."""
    image = opened(f"{V06}/{name}.zarr")
    (level,) = image.levels
    assert (level.scale, level.translation) == (scale, translation)
    assert [str(axis) for axis in image.axes] == ["z (micrometer)", "y (micrometer)", "x (micrometer)"]
    assert image.read_region((80, 100, 12), (9, 8, 2)).shape == (2, 8, 9)
    if scale is None:
        with pytest.raises(UnsupportedError):
            image.pixel_size()
    else:
        assert image.pixel_size() == scale[:0:-1]


@pytest.mark.parametrize("path", SCENES)
def test_scenes(path: str) -> None:
    scene = opened(path)
    assert (scene.kind, list(scene)) == ("scene", SCENES[path])
    assert all(len(image.levels) == 1 for image in scene.values())
    assert scene.transformations


def test_an_archive() -> None:
    image = opened("neuroglancer/testdata/datasource/zarr/ome_zarr/simple_0.5.zip")
    assert [level.shape for level in image.levels] == [(10, 10), (5, 5), (2, 2)]
    assert image.pixel_size(1) == (0.06, 0.008)  # nanometres


# ---- what is written here


@pytest.fixture(params=["0.4", "0.5"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Multiscale]:
    """An image of three levels with channels, units and labels."""
    values = np.random.default_rng(6).integers(0, 4000, (2, 6, 50, 70), np.uint16)
    window = {"min": 0, "max": 4000, "start": 0, "end": 4000}
    omero = {"channels": [{"label": n, "color": "00FF00", "window": window} for n in ("a", "b")]}
    image = gpuzarr.ome.write_multiscale(
        values,
        tmp_path / "i.zarr",
        axes="czyx",
        pixel_size={"z": 1.0, "y": 0.5, "x": 0.5},
        levels=3,
        chunks=(1, 4, 16, 16),
        shards=None if request.param == "0.4" else (1, 8, 32, 32),
        omero=omero,
        name="blobs",
        version=request.param,
    )
    cells = (values[0] // 1000).astype("i4")
    gpuzarr.ome.write_multiscale(cells, tmp_path / "i.zarr", axes="zyx", labels=True, name="cells")
    return tmp_path / "i.zarr", image


def test_ome_zarr_py_reads_it(written: tuple[Path, Multiscale]) -> None:
    pytest.importorskip("ome_zarr", reason="ome-zarr is not installed")
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Label, Reader

    path, image = written
    first, _, labels = Reader(parse_url(str(path)))()
    for array, level in zip(first.data, image.levels, strict=True):
        assert np.array_equal(array, level.array)
    assert [axis["name"] for axis in first.metadata["axes"]] == list("czyx")
    assert first.metadata["channel_names"] == ["a", "b"]
    given = first.metadata["coordinateTransformations"]
    assert [one["scale"] for one, _ in given] == [list(level.scale or ()) for level in image.levels]
    assert labels.load(Label) is not None
    assert np.array_equal(labels.data[1], image.labels["cells"][1])


def test_ngff_zarr_reads_it(written: tuple[Path, Multiscale]) -> None:
    ngff_zarr = pytest.importorskip("ngff_zarr", reason="ngff-zarr is not installed")
    path, image = written
    read = ngff_zarr.from_ngff_zarr(str(path), validate=False)
    for other, level in zip(read.images, image.levels, strict=True):
        assert np.array_equal(other.data, level.array)
        assert list(other.scale.values()) == list(level.scale or ())
        assert list(other.translation.values()) == list(level.translation or ())
        assert [other.axes_units[name] for name in "zyx"] == ["micrometer"] * 3


def test_the_models_accept_it(written: tuple[Path, Multiscale]) -> None:
    models = pytest.importorskip("ome_zarr_models", reason="ome-zarr-models is not installed")
    import zarr

    path, image = written
    group = models.open_ome_zarr(zarr.open_group(path, mode="r"))
    assert type(group).__module__.split(".")[1] == image.version.replace("0.", "v0")
    models.open_ome_zarr(zarr.open_group(path / "labels" / "cells", mode="r"))


# ---- a whole-slide image


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Multiscale]:
    """The slide as tifffile reads it, and converted."""
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
    if not SLIDE.exists():
        pytest.skip(f"no slide at {SLIDE}")
    values = tifffile.imread(SLIDE)
    target = tmp_path_factory.mktemp("slide") / "cmu.zarr"
    return values, gpuzarr.ome.write_multiscale(values, target, axes="yxc", pixel_size=0.499, device="cpu")


PLACES = [(0, 0), (1000, 1500), (2100, 2900), (333, 777), (2219, 2966)]


def test_a_slide_has_the_pixels_of_tifffile(slide: tuple[Any, Multiscale]) -> None:
    values, image = slide
    assert np.array_equal(image.read_region(), values)
    padded = np.pad(values, ((0, 256), (0, 256), (0, 0)), constant_values=255)
    for (x, y), region in zip(PLACES, image.read_region(PLACES, (256, 256), fill=255), strict=True):
        assert np.array_equal(region, padded[y : y + 256, x : x + 256])
    inside = image.read_region(PLACES[:2], (256, 200), batch_size=2)
    assert np.array_equal(next(inside), [values[y : y + 200, x : x + 256] for x, y in PLACES[:2]])
    physical = image.read_region((499, 748.5), (49.9, 99.8), um=0.5)
    assert np.array_equal(physical, values[1500:1700, 1000:1100])


def test_a_slide_has_the_pixels_of_openslide(slide: tuple[Any, Multiscale]) -> None:
    openslide = pytest.importorskip("openslide", reason="openslide-python is not installed")
    _, image = slide
    with openslide.OpenSlide(SLIDE) as other:
        for x, y in PLACES:
            theirs = np.asarray(other.read_region((x, y), 0, (256, 256)))
            ours = image.read_region((x, y), (256, 256))
            assert np.array_equal(ours, np.where(theirs[..., 3:] == 255, theirs[..., :3], 0))
