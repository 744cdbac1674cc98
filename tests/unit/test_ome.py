"""OME-Zarr: documents of every version, regions against NumPy, pyramids against exact sums, pictures."""

from __future__ import annotations

import io
import json
import pickle
import struct
import threading
import zlib
from collections import Counter
from contextlib import suppress
from copy import deepcopy
from fractions import Fraction
from itertools import product
from math import floor, prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuzarr
import gpuzarr.ome
from gpuzarr.cli import main
from gpuzarr.cli import ome as cli_ome
from gpuzarr.errors import (
    ArgumentError,
    GpuzarrError,
    LimitError,
    MetadataError,
    NotFoundError,
    SelectionError,
    StoreError,
    UnsupportedError,
)
from gpuzarr.ome import Axis, Channel, Collection, Multiscale, Plate, Well
from gpuzarr.ome import write_multiscale as write
from gpuzarr.ome.downsample import downsample
from gpuzarr.ome.png import encode
from gpuzarr.ome.units import micrometers
from tests.conftest import to_host

RNG = np.random.default_rng(62)


def scale(*factors: float) -> dict[str, Any]:
    return {"type": "scale", "scale": list(factors)}


def shift(*offsets: float) -> dict[str, Any]:
    return {"type": "translation", "translation": list(offsets)}


def axes(names: str, unit: str | None = "micrometer") -> list[dict[str, Any]]:
    kinds = {"t": "time", "c": "channel"}
    return [
        {"name": n, "type": kinds.get(n, "space"), **({} if n in "tc" or not unit else {"unit": unit})}
        for n in names
    ]


def levels(*transformations: Any) -> list[dict[str, Any]]:
    """Datasets named 0, 1, …; each with its list of transformations, or with none."""
    return [
        {"path": str(i)} | ({} if one is None else {"coordinateTransformations": one})
        for i, one in enumerate(transformations)
    ]


def made(attributes: dict[str, Any], **shapes: Any) -> dict[str, bytes]:
    """A v2 group with arrays of consecutive numbers. Underscores in names stand for slashes."""
    store: dict[str, bytes] = {}
    gpuzarr.create_group(store, zarr_format=2, attributes=attributes)
    for name, shape in shapes.items():
        path = name.removeprefix("_").replace("_", "/")
        values = np.arange(np.prod(shape), dtype="u2").reshape(shape)
        gpuzarr.save(store, values, path, zarr_format=2, chunks=[min(n, 5) for n in shape])
    return store


def image(one: dict[str, Any], **shapes: Any) -> Multiscale:
    found = gpuzarr.ome.open(made({"multiscales": [one]}, **shapes))
    assert isinstance(found, Multiscale)
    return found


# ---- documents


def test_version_01_has_five_axes_and_no_scale() -> None:
    found = image({"version": "0.1", "datasets": levels(None, None)}, _0=(1, 2, 1, 9, 8), _1=(1, 2, 1, 4, 4))
    assert [axis.name for axis in found.axes] == list("tczyx")
    assert [axis.type for axis in found.axes] == ["time", "channel", "space", "space", "space"]
    assert (found.version, found.axes[4].unit) == ("0.1", None)
    assert found.levels[1].scale == (1, 1, 1, 2, 2)  # 9 rounded down to 4 is half of it


def test_version_03_names_its_axes() -> None:
    found = image({"version": "0.3", "axes": ["y", "x"], "datasets": levels(None)}, _0=(4, 5))
    assert found.axes == (Axis("y", "space"), Axis("x", "space"))
    assert found.levels[0].scale == (1, 1)


def test_version_04_composes_levels_and_image() -> None:
    one = {
        "version": "0.4",
        "axes": axes("zyx"),
        "datasets": levels([scale(1, 1, 1)], [scale(1, 2, 2), shift(0, 0.5, 0.5)]),
        "coordinateTransformations": [scale(3, 0.5, 0.25), shift(1, 2, 4)],
    }
    found = image(one, _0=(2, 8, 8), _1=(2, 4, 4))
    assert found.levels[0].scale == (3, 0.5, 0.25)
    assert found.levels[1].scale == (3, 1, 0.5)
    assert found.levels[1].translation == (1, 2.25, 4.125)
    assert found.pixel_size(1) == (0.5, 1)
    assert len(found) == 2
    assert [array.shape for array in found] == [(2, 8, 8), (2, 4, 4)]
    assert found[1].path == "1"


SYSTEMS = [
    {"name": "world", "axes": axes("yx", "meter")},
    {"name": "physical", "axes": axes("yx", "nanometer")},
]


@pytest.mark.parametrize(
    ("transformation", "expected", "offset"),
    [
        ({"type": "identity"}, (1, 1), (0, 0)),
        (scale(4, 3), (4, 3), (0, 0)),
        (shift(4, 3), (1, 1), (4, 3)),
        ({"type": "affine", "affine": [[2, 0, 5], [0, 3, 7]]}, (2, 3), (5, 7)),
        ({"type": "affine", "affine": [2, 0, 5, 0, 3, 7]}, (2, 3), (5, 7)),
        ({"type": "affine", "affine": [[2, 1, 5], [0, 3, 7]]}, None, (5, 7)),
        ({"type": "rotation", "rotation": [[0, -1], [1, 0]]}, None, (0, 0)),
        ({"type": "mapAxis", "mapAxis": [0, 1]}, (1, 1), (0, 0)),
        ({"type": "mapAxis", "mapAxis": [1, 0]}, None, (0, 0)),
        ({"type": "sequence", "transformations": [scale(2, 4), shift(1, 1), scale(3, 3)]}, (6, 12), (3, 3)),
    ],
)
@pytest.mark.parametrize("ends", ["plain", "objects"])
def test_version_06(transformation: Any, expected: Any, offset: Any, ends: str) -> None:
    output: Any = "physical" if ends == "plain" else {"name": "physical"}
    one = {
        "coordinateSystems": SYSTEMS,
        "datasets": levels([{**transformation, "input": "0", "output": output}]),
        "coordinateTransformations": [{**scale(9, 9), "input": "physical", "output": "world"}],
    }
    found = image(one, _0=(4, 5))
    assert (found.version, found.axes[0].unit) == ("0.6", "nanometer")
    assert found.levels[0].scale == expected
    assert found.levels[0].translation == offset
    assert found.metadata.transformations == tuple(one["coordinateTransformations"])
    assert found.read_region((1, 0), (3, 2)).tolist() == [[1, 2, 3], [6, 7, 8]]  # pixels need no scale
    if expected is None:
        with pytest.raises(UnsupportedError, match=r"no positive scale along each axis .transformations: \w"):
            found.read_region((1, 0), (3, 2), um=1)


def test_what_is_not_linear_is_kept_and_reported() -> None:
    field = {"type": "displacements", "path": "field", "input": "0", "output": "physical"}
    found = image({"coordinateSystems": SYSTEMS, "datasets": levels([field])}, _0=(4, 5))
    level = found.levels[0]
    assert (level.scale, level.transform, level.transformations) == (None, None, (field,))
    assert "displacements" in str(level.reason)
    with pytest.raises(UnsupportedError, match="displacements"):
        found.level_for(1)
    assert found.read_region((0, 0), (5, 4)).shape == (4, 5)


def test_numbers_that_lie_in_an_array() -> None:
    one = {"version": "0.4", "axes": axes("yx"), "datasets": levels([{"type": "scale", "path": "sizes"}])}
    store = made({"multiscales": [one]}, _0=(4, 5))
    gpuzarr.save(store, np.array([2.5, 3.5]), "sizes", zarr_format=2)
    found = gpuzarr.ome.open(store)
    assert found.levels[0].scale == (2.5, 3.5)
    below: dict[str, bytes] = {f"a/b/{key}": value for key, value in store.items()}
    del below["a/b/sizes/.zarray"]  # in the store's root instead
    gpuzarr.save(below, np.array([4.5, 5.5]), "sizes", zarr_format=2)
    assert gpuzarr.ome.open(below, "a/b").levels[0].scale == (4.5, 5.5)
    gpuzarr.save(below, np.zeros((40, 50)), "sizes", zarr_format=2, overwrite=True)
    with pytest.raises(MetadataError, match="2000 numbers"):
        _ = gpuzarr.ome.open(below, "a/b").levels


PLAIN = {"version": "0.4", "axes": axes("yx"), "datasets": levels([scale(1, 1)])}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"datasets": []}, "0 levels"),
        ({"datasets": None}, "0 levels"),
        ({"datasets": 7}, "datasets is not a list"),
        ({"datasets": ["0"]}, "no JSON object"),
        ({"datasets": [{}]}, "the path None"),
        ({"datasets": [{"path": "/"}]}, "the path '/'"),
        ({"datasets": [{"path": "nowhere"}]}, "nowhere"),
        ({"datasets": [{"path": "../x"}]}, "is not a key"),
        ({"datasets": [{"path": "group"}]}, "is a group"),
        ({"datasets": [{"path": str(i)} for i in range(2000)]}, "2000 levels"),
        ({"axes": axes("zyx")}, "2 dimensions, and the axes are z, y, x"),
        ({"axes": axes("xx")}, "two axes of one name"),
        ({"axes": [{}, {}]}, "is no axis"),
        ({"axes": "yx"}, "axes is not a list"),
        ({"axes": [{"name": "y", "unit": 1}, {"name": "x"}]}, "unit 1"),
        ({"datasets": levels([scale(1)])}, "not a list of 2 numbers"),
        ({"datasets": levels([scale(1, 2, 3)])}, "not a list of 2 numbers"),
        ({"datasets": levels([{"type": "scale"}])}, "not a list of 2 numbers"),
        ({"datasets": levels([{"type": "scale", "path": 5}])}, "not a string"),
        ({"datasets": levels([{"type": "scale", "path": "nowhere"}])}, "nowhere"),
        ({"datasets": levels([{"type": "scale", "scale": ["1", 1]}])}, "not a finite number"),
        ({"datasets": levels([{"type": "scale", "scale": [True, 1]}])}, "not a finite number"),
        ({"datasets": levels([{"type": "scale", "scale": [10**400, 1]}])}, "not a finite number"),
        ({"datasets": levels([{"scale": [1, 1]}])}, "no coordinate transformation"),
        ({"datasets": levels(["scale"])}, "no JSON object"),
        ({"datasets": levels([{"type": "sequence", "transformations": [5]}])}, "no coordinate transform"),
        ({"datasets": levels([{"type": "sequence"}])}, "needs the list"),
        ({"datasets": levels([{"type": "affine", "affine": 3}])}, "not a matrix"),
        ({"datasets": levels([{"type": "mapAxis", "mapAxis": [0, 0]}])}, "each of 2 axes once"),
        ({"datasets": levels({"type": "scale"})}, "not a list"),
        ({"coordinateSystems": []}, "coordinateSystems is empty"),
        ({"coordinateSystems": [{"name": "a"}], "datasets": levels([{"output": "b"}])}, "only 'a'"),
        ({"name": 4}, "name 4 is not a string"),
    ],
)
def test_what_contradicts_itself(change: dict[str, Any], said: str) -> None:
    store = made({"multiscales": [{**PLAIN, **change}]}, _0=(4, 5), group_0=(2, 2))
    with pytest.raises((MetadataError, NotFoundError, StoreError)) as error:
        _ = gpuzarr.ome.open(store).levels
    assert said in str(error.value)
    assert isinstance(cli_ome.multiscales({"multiscales": [{**PLAIN, **change}]}), list)
    assert isinstance(cli_ome.headlines({"multiscales": [{**PLAIN, **change}]}), list)


@pytest.mark.parametrize("value", [None, 7, [], [7], {}, [[]], "x"])
def test_metadata_of_any_kind_are_an_error_of_ours(value: Any) -> None:
    for key in ("multiscales", "plate", "well", "labels", "scene", "bioformats2raw.layout", "ome", "omero"):
        attributes = {key: value, **({"multiscales": [PLAIN]} if key == "omero" else {})}
        with suppress(GpuzarrError):
            found = gpuzarr.ome.open(made(attributes, _0=(4, 5)))
            repr(found)
            list(found)
            if isinstance(found, Multiscale):
                assert found.channels == ()
        cli_ome.headlines(attributes)


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document."""
    entries = list(document.items() if isinstance(document, dict) else enumerate(document))
    found = [(*path, key) for key, _ in entries]
    for key, value in entries:
        if isinstance(value, (dict, list)):
            found += places(value, (*path, key))
    return found


NONSENSE = [
    None,
    -1,
    2.5,
    1e308,
    10**400,
    True,
    "",
    "../x",
    "0",
    [],
    {},
    [[1]],
    {"a": 1},
    float("nan"),
    "\ud800",
]


@pytest.mark.parametrize("version", ["0.4", "0.5", "0.6"])
def test_documents_of_strangers(version: str) -> None:
    """Whatever stands wherever: what is not an error of ours is a bug."""
    window = {"start": 0, "end": 9}
    plain = {
        **PLAIN,
        "datasets": levels([scale(1, 1), shift(0, 0)]),
        "coordinateTransformations": [scale(1, 1)],
    }
    of_06 = {"coordinateSystems": SYSTEMS, "datasets": levels([{**scale(1, 1), "output": "physical"}])}
    document = {
        "multiscales": [of_06 if version == "0.6" else plain],
        "omero": {"channels": [{"color": "FF0000", "window": window}], "rdefs": {"defaultZ": 0}},
        "image-label": {"colors": [{"label-value": 1, "rgba": [1, 2, 3, 4]}]},
    }
    store = made({}, _0=(4, 5))
    for i, (place, value) in enumerate(product(places(document), NONSENSE)):
        if i % 4:  # each place meets every fourth value, and every value every fourth place
            continue
        changed = deepcopy(document)
        holder: Any = changed
        for key in place[:-1]:
            holder = holder[key]
        holder[place[-1]] = value
        attributes = {"ome": {**changed, "version": version}} if version != "0.4" else changed
        store[".zattrs"] = json.dumps(attributes).encode()
        cli_ome.multiscales(attributes)
        cli_ome.headlines(attributes)
        with suppress(GpuzarrError):
            found = gpuzarr.ome.open(store)
            repr(found)
            repr(found.channels)
            with suppress(GpuzarrError):
                found.read_region((0, 0), (1, 1), um=1)
            found.to_png(max_side=4)


# ---- what a group is


def test_several_images_of_one_group() -> None:
    one, other = {**PLAIN, "name": "a"}, {**PLAIN, "name": "b", "datasets": [{"path": "1"}]}
    store = made({"multiscales": [one, other]}, _0=(4, 5), _1=(2, 3))
    assert gpuzarr.ome.open(store)[0].shape == (4, 5)
    assert gpuzarr.ome.open(store, image="b")[0].shape == (2, 3)
    assert gpuzarr.ome.open(store, image=1).name == "b"
    for which in ("c", 2, -1):
        with pytest.raises(NotFoundError, match="'a', 'b'"):
            gpuzarr.ome.open(store, image=which)


def test_an_array_or_any_group_is_no_image() -> None:
    store = made({}, picture_0=(4, 5), picture_1=(2, 3))
    gpuzarr.open(store, "picture", mode="r+").update_attributes({"multiscales": [PLAIN]})
    with pytest.raises(ArgumentError, match="is an array, not an image"):
        gpuzarr.ome.open(store, "picture/0")
    with pytest.raises(MetadataError, match=r"no OME-Zarr metadata .* did you mean picture"):
        gpuzarr.ome.open(store)
    with pytest.raises(NotFoundError):
        gpuzarr.ome.open(store, "nothing")
    group = gpuzarr.open(store)
    assert gpuzarr.ome.open(group, "picture")[0].shape == (4, 5)
    assert gpuzarr.ome.open(group["picture"])[0].shape == (4, 5)


def test_labels() -> None:
    store = made({"multiscales": [PLAIN]}, _0=(4, 5), labels_a_0=(4, 5), labels_b_0=(4, 5))
    assert dict(gpuzarr.ome.open(store).labels) == {}
    gpuzarr.open(store, "labels", mode="r+").update_attributes({"labels": ["b", "a", "gone"]})
    for name in "ab":
        attributes = {"multiscales": [PLAIN], "image-label": {"colors": []}}
        gpuzarr.open(store, f"labels/{name}", mode="r+").update_attributes(attributes)
    found = gpuzarr.ome.open(store).labels
    assert list(found) == ["b", "a", "gone"]
    assert found["a"].image_label == {"colors": []}
    assert "labels" in repr(found["a"])
    with pytest.raises(NotFoundError):
        _ = found["gone"]
    with pytest.raises(NotFoundError, match="there is b, a"):
        _ = found["c"]
    whole = gpuzarr.ome.open(store, "labels")
    assert isinstance(whole, Collection)
    assert (whole.kind, whole["b"][0].shape) == ("labels", (4, 5))
    assert dict(image({**PLAIN, "datasets": [{"path": "labels"}]}, labels=(4, 5)).labels) == {}


def test_plates_and_wells() -> None:
    wells = [{"path": path} for path in ("A/1", "A/2", "B/2")]
    plate = {
        "name": "p",
        "version": "0.4",
        "rows": [{"name": "A"}, {"name": "B"}],
        "columns": [{"name": "1"}, {"name": "2"}],
        "wells": wells,
        "acquisitions": [{"id": 3}],
    }
    fields = {f"{well['path']}/{field}/0".replace("/", "_"): (4, 5) for well in wells for field in range(2)}
    store = made({"plate": plate, "bioformats2raw.layout": 3}, **fields)
    for well in wells:
        images = [{"path": "0", "acquisition": 3}, {"path": "1"}]
        gpuzarr.open(store, well["path"], mode="r+").update_attributes({"well": {"images": images}})
        for field in "01":
            below = gpuzarr.open(store, f"{well['path']}/{field}", mode="r+")
            below.update_attributes({"multiscales": [PLAIN]})
    found = gpuzarr.ome.open(store)
    assert isinstance(found, Plate)
    assert (found.name, found.version, found.rows, found.columns) == ("p", "0.4", ("A", "B"), ("1", "2"))
    assert list(found) == ["A/1", "A/2", "B/2"]
    assert found.acquisitions == ({"id": 3},)
    assert found.well("B", 1).path == found["B/2"].path == "B/2"
    assert [field.acquisition for field in found["A/1"].fields] == [3, None]
    assert [path for path, _ in found.images()][:3] == ["A/1/0", "A/1/1", "A/2/0"]
    well = gpuzarr.ome.open(store, "A/2")
    assert isinstance(well, Well)
    assert (len(well), well[-1].group.path, len(list(well)), len(well[:1])) == (2, "A/2/1", 2, 1)
    assert "2 × 2, 3 wells" in repr(found)
    assert "2 fields" in repr(well)
    with pytest.raises(NotFoundError, match="there is A/1, A/2, B/2"):
        found.well("B", "1")
    with pytest.raises(ArgumentError, match="plate of 2 × 2"):
        found.well(7, 0)
    with pytest.raises(NotFoundError, match="which has 2"):
        _ = well[2]


@pytest.mark.parametrize("listed", [True, False])
def test_a_bioformats2raw_layout(listed: bool) -> None:
    store = made({"bioformats2raw.layout": 3}, **{f"_{i}_0": (4, 5) for i in range(3)})
    for name in "012":
        gpuzarr.open(store, name, mode="r+").update_attributes({"multiscales": [PLAIN]})
    if listed:
        gpuzarr.create_group(store, "OME", zarr_format=2, attributes={"series": ["2", "0"]})
        store["OME/METADATA.ome.xml"] = "<OME>µ</OME>".encode()
    found = gpuzarr.ome.open(store)
    assert isinstance(found, Collection)
    assert list(found) == (["2", "0"] if listed else ["0", "1", "2"])
    assert found.ome_xml == ("<OME>µ</OME>" if listed else None)
    assert all(one[0].shape == (4, 5) for one in found.values())
    assert "bioformats2raw" in repr(found)


def test_a_scene() -> None:
    between = {**scale(2, 2), "input": {"path": "a", "name": "p"}, "output": {"name": "world"}}
    store: dict[str, bytes] = {}
    ome = {"version": "0.6", "scene": {"coordinateTransformations": [between]}}
    gpuzarr.create_group(store, attributes={"ome": ome})
    write(np.zeros((4, 5), "u1"), store, "yx", path="a")
    found = gpuzarr.ome.open(store)
    assert isinstance(found, Collection)
    assert (found.kind, list(found), found.transformations) == ("scene", ["a"], (between,))


def test_channels() -> None:
    window = {"start": 1, "end": 9.5, "min": 0, "max": 10}
    listed = [
        {"label": "DAPI", "color": "0000fF", "window": window},
        {"color": "zz", "window": {"start": 1, "end": 10**400}, "active": False},
        "nonsense",
    ]
    found = gpuzarr.ome.open(made({"multiscales": [PLAIN], "omero": {"channels": listed}}, _0=(4, 5)))
    assert found.channels == (
        Channel("DAPI", (0, 0, 255), (1, 9.5)),
        Channel("", None, None, active=False),
        Channel("", None, None),
    )


def test_handles_travel() -> None:
    store = made({"multiscales": [{**PLAIN, "name": "a"}, {**PLAIN, "name": "b"}]}, _0=(4, 5))
    found = pickle.loads(pickle.dumps(gpuzarr.ome.open(store, device="cpu", image="b")))
    assert (found.name, found.read_region((0, 0), (2, 1)).tolist()) == ("b", [[0, 1]])


# ---- resolution


def test_units() -> None:
    assert micrometers("micrometer") == 1
    assert micrometers("millimeter") == 1000
    assert micrometers("nanometer") == 0.001
    assert micrometers("meter") == 1e6
    assert micrometers("inch") == 25400
    assert micrometers("µm") == micrometers("um") == 1
    assert micrometers("second") is None
    assert micrometers(None) is None


def test_level_for_a_resolution() -> None:
    sizes = [(0.25, 0.25), (0.5, 0.5), (1, 1), (2, 2.5)]
    one = {**PLAIN, "axes": axes("yx", "micrometer"), "datasets": levels(*([scale(*s)] for s in sizes))}
    found = image(one, **{f"_{i}": (8 >> i, 8 >> i) for i in range(4)})
    cases = {0.1: 0, 0.25: 0, 0.4: 0, 0.498: 1, 0.9: 1, 1: 2, 2: 2, 2.5: 3, 99: 3}
    assert {um: found.level_for(um) for um in cases} == cases
    for bad in (0, -1, float("nan"), float("inf"), True, "1"):
        with pytest.raises(ArgumentError):
            found.level_for(bad)
    with pytest.raises(UnsupportedError, match="the unit None, which is no length"):
        image({**PLAIN, "axes": axes("yx", None)}, _0=(4, 5)).level_for(1)


# ---- regions


def reference(values: Any, location: Any, size: Any, ratio: int = 1, fill: int = 0) -> np.ndarray[Any, Any]:
    """What lies at a level-0 place of [y, x, …] values that are `ratio` times smaller."""
    out = np.full((size[1], size[0], *values.shape[2:]), fill, values.dtype)
    for row, column in product(range(size[1]), range(size[0])):
        y, x = floor(location[1] / ratio) + row, floor(location[0] / ratio) + column
        if 0 <= y < values.shape[0] and 0 <= x < values.shape[1]:
            out[row, column] = values[y, x]
    return out


@pytest.fixture(scope="module")
def slide() -> tuple[Multiscale, list[Any]]:
    """A colour image of three levels and its values as [y, x, c]; sizes whose ratio is not quite 2."""
    values = RNG.integers(0, 255, (37, 50, 3), np.uint8)
    found = write(values, {}, axes="yxc", pixel_size=0.499, levels=3, chunks=(3, 8, 8), device="cpu")
    return found, [np.moveaxis(level[...], 0, 2) for level in found]


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize(
    ("location", "size"),
    [((0, 0), (5, 4)), ((7, 11), (9, 3)), ((-3, -2), (8, 8)), ((45, 33), (11, 9)), ((900, 0), (2, 2))],
)
def test_a_region(slide: Any, level: int, location: Any, size: Any) -> None:
    found, values = slide
    expected = reference(values[level], location, size, 2**level)
    assert np.array_equal(found.read_region(location, size, level), expected)
    whole = reference(values[level], location, size, 2**level, 200)
    assert np.array_equal(found.read_region(np.array(location), size, level, fill=200), whole)


def test_whole_levels(slide: Any) -> None:
    found, values = slide
    assert np.array_equal(found.read_region(), values[0])
    assert np.array_equal(found.read_region(level=2), values[2])
    assert np.array_equal(found.read_region((4, 4), level=1), reference(values[1], (4, 4), (25, 19), 2))


def test_batches(slide: Any) -> None:
    found, values = slide
    places = [(0, 0), (7, 3), (-2, 5), (40, 30), (11, 11)]
    alone = [reference(values[0], place, (6, 4)) for place in places]
    several = found.read_region(places, (6, 4))
    assert len(several) == 5
    assert all(np.array_equal(one, two) for one, two in zip(several, alone, strict=True))
    flat = [n for place in places for n in place]
    for given_as in (places, flat, np.array(places), tuple(places), iter(places), np.array(places, "i2")):
        batches = list(found.read_region(given_as, (6, 4), batch_size=2))
        assert [len(batch) for batch in batches] == [2, 2, 1]
        assert np.array_equal(np.concatenate(batches), alone)
    assert [len(b) for b in found.read_region(places, (6, 4), 0, 4, 2, True)] == [2, 2]  # cuCIM's order
    assert [len(b) for b in found.read_region(places, (6, 4), batch=3, prefetch_factor=0)] == [3, 2]
    assert [one.shape for one in found.read_region([(0, 0)], (6, 4))] == [(4, 6, 3)]
    assert [one.shape for one in found.read_region((0, 0), (6, 4), batch_size=4)] == [(1, 4, 6, 3)]
    assert list(found.read_region([], (6, 4))) == []
    assert list(found.read_region(np.zeros((0, 2), int), (6, 4), batch_size=2)) == []


def test_shuffled_batches(slide: Any) -> None:
    found, _ = slide
    places = [(x, 0) for x in range(30)]

    def order(**options: Any) -> list[int]:
        batches = found.read_region(places, (1, 1), batch_size=4, **options)
        return [int(one) for batch in batches for one in batch[:, 0, 0, :].astype(int) @ [1, 256, 65536]]

    plain = order()
    mixed = order(shuffle=True, seed=5)
    assert mixed == order(shuffle=True, seed=5) != order(shuffle=True, seed=6) != plain
    assert sorted(mixed) == sorted(plain)
    dropped = order(shuffle=True, seed=5, drop_last=True)
    assert dropped == mixed[:28]  # shuffled first, then the last ones dropped


def test_reading_ahead_is_bounded_and_ends(slide: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = slide
    reads: list[int] = []
    real = gpuzarr.Array.patches

    def counted(self: Any, origins: Any, *args: Any, **options: Any) -> Any:
        reads.append(len(origins))
        return real(self, origins, *args, **options)

    monkeypatch.setattr(gpuzarr.Array, "patches", counted)
    batches = found.read_region([(x, 0) for x in range(30)], (2, 2), batch_size=3, prefetch_factor=2)
    assert reads == []
    next(batches)
    assert all(n == 3 for n in reads)  # a batch is one read
    del batches
    for thread in threading.enumerate():
        if thread.name.startswith("gpuzarr-regions"):
            thread.join(10)
    assert len(reads) <= 4


def test_an_error_while_reading_ahead_is_raised() -> None:
    store: dict[str, bytes] = {}
    found = write(np.ones((8, 8), "u1"), store, axes="yx", chunks=4, shards=None, device="cpu")
    key = next(key for key in store if "/c/" in key)
    store[key] = b"damaged"
    with pytest.raises(gpuzarr.errors.ChunkError, match="chunk 0/c/"):
        list(found.read_region([(0, 0), (4, 4), (0, 4), (4, 0)], (4, 4), batch_size=2))


@pytest.mark.parametrize("device", ["cpu", "sim"])
def test_regions_on_a_device(slide: Any, device: str) -> None:
    found, values = slide
    region = found.read_region((3, 5), (4, 6), 1, device=device)
    assert np.array_equal(to_host(region), reference(values[1], (3, 5), (4, 6), 2))
    batches = list(found.read_region([(3, 5), (-1, 0)], (4, 6), 1, batch=2, device=device, c=1))
    expected = [reference(values[1][:, :, 1], place, (4, 6), 2) for place in ((3, 5), (-1, 0))]
    assert np.array_equal(to_host(batches[0]), expected)


def test_other_axes() -> None:
    values = RNG.integers(0, 1000, (3, 2, 6, 9, 8), np.uint16)
    found = write(values, {}, axes="tczyx", scale_factors=[{"z": 3, "y": 2, "x": 2}], device="cpu")
    coarse = found[1][...]
    assert np.array_equal(found.read_region((1, 2), (3, 4)), np.moveaxis(values[0, :, 0, 2:6, 1:4], 0, 2))
    assert np.array_equal(found.read_region((1, 2), (3, 4), t=2, z=5, c=1), values[2, 1, 5, 2:6, 1:4])
    assert np.array_equal(found.read_region((1, 2), (3, 4), T=-1, C=-2, Z=-1), values[2, 0, 5, 2:6, 1:4])
    part = found.read_region((1, 2), (3, 4), t=slice(1, 3), z=slice(2, 4), c=slice(0, 1))
    assert np.array_equal(part, np.moveaxis(values[1:3, :1, 2:4, 2:6, 1:4], 1, 4))
    cube = found.read_region((1, 2, 3), (3, 4, 2), c=0)
    assert np.array_equal(cube, values[0, 0, 3:5, 2:6, 1:4])
    assert np.array_equal(found.read_region((4, 4), (2, 2), 1, z=5, c=0), coarse[0, 0, 1, 2:4, 2:4])
    assert np.array_equal(found.read_region((4, 4, 3), (2, 2, 1), 1, c=0), coarse[0, 0, 1:2, 2:4, 2:4])
    assert found.read_region((0, 0), (4, 4), 1, z=slice(0, 6), c=0).shape == (2, 4, 4)
    assert found.read_region((0, 0), (4, 4), 1, z=slice(2, 3), c=0).shape == (1, 4, 4)
    assert [a.shape for a in found.read_region([(1, 2, 3), (0, 0, 0)], (3, 4, 2), t=1)] == [(2, 4, 3, 2)] * 2
    for name, place in (("z", 6), ("t", 3), ("c", -3)):
        with pytest.raises(SelectionError, match=f"{name}={place} in an image of"):
            found.read_region((0, 0), (2, 2), **{name: place})
    with pytest.raises(ArgumentError, match="no axis q to choose from; the others are t, c, z"):
        found.read_region((0, 0), (2, 2), q=0)
    with pytest.raises(ArgumentError, match="step 2"):
        found.read_region((0, 0), (2, 2), z=slice(0, 4, 2))
    with pytest.raises(ArgumentError, match="neither an integer nor a slice"):
        found.read_region((0, 0), (2, 2), z=1.5)


def test_axes_in_any_order_and_of_any_name() -> None:
    one = {**PLAIN, "axes": axes("xy"), "datasets": levels([scale(1, 1)])}
    assert image(one, _0=(5, 4)).read_region((1, 2), (2, 1)).tolist() == [[6, 10]]  # [x, y] = x · 4 + y
    named = [{"name": n, "type": "space"} for n in ("row", "column")]
    found = image({**one, "axes": named}, _0=(4, 5))
    assert found.read_region((1, 2), (2, 1)).tolist() == [[11, 12]]
    with pytest.raises(UnsupportedError, match="has no x and y"):
        image({**one, "axes": axes("tc")}, _0=(4, 5)).read_region((0, 0), (1, 1))


def test_micrometres() -> None:
    sizes = [scale(0.5, 0.25), scale(1.0, 0.5)]
    one = {**PLAIN, "datasets": levels([sizes[0], shift(10, 20)], [sizes[1], shift(10.25, 20.125)])}
    found = image(one, _0=(8, 10), _1=(4, 5))
    values, coarse = found[0][...], found[1][...]
    # y = 10 + 0.5 · row, x = 20 + 0.25 · column are the centres of elements
    assert np.array_equal(found.read_region((20.5, 11), (1.0, 1.5), um=0.5), values[2:5, 2:6])
    assert np.array_equal(found.read_region((20.6, 11.2), (1.0, 1.5), um=0.5), values[2:5, 2:6])
    assert np.array_equal(found.read_region((20, 10), (2, 3), um=1), coarse[0:3, 0:4])
    assert found.read_region((19.5, 10), (0.5, 0.5), um=0.5).tolist() == [[0, 0]]  # outside
    two = found.read_region([(20.5, 11), (20, 10)], (1.0, 1.5), um=0.5, batch=2)
    assert np.array_equal(next(two), [values[2:5, 2:6], values[:3, :4]])
    millimetres = {**one, "axes": axes("yx", "millimeter")}
    again = image(millimetres, _0=(8, 10), _1=(4, 5))
    assert np.array_equal(again.read_region((20500, 11000), (1000, 1500), um=500), values[2:5, 2:6])
    with pytest.raises(ArgumentError, match="um chooses the level"):
        found.read_region((20, 10), (1, 1), level=0, um=1)
    with pytest.raises(ArgumentError, match="a region of 0 along x"):
        found.read_region((20, 10), (0.01, 1), um=1)


def test_ratios_of_levels_that_were_stretched() -> None:
    """Where a writer says 2.5, it is 2.5; rounding noise of sizes is none."""
    one = {**PLAIN, "datasets": levels([scale(0.1, 0.1)], [scale(0.30000000000000004, 0.25)])}
    found = image(one, _0=(9, 10), _1=(3, 4))
    coarse = found[1][...]
    assert found.read_region((5, 3), (2, 1), 1).tolist() == [coarse[1, 2:4].tolist()]
    assert found.read_region((4, 6), (2, 1), 1).tolist() == [coarse[2, 1:3].tolist()]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"size": (0, 4)}, "a region of 0 along x"),
        ({"size": (4, -1)}, "a region of -1 along y"),
        ({"size": (51, 4)}, "a region of 51 along x, where the image has 50"),
        ({"size": (10**30, 4)}, "is no length"),
        ({"size": (4,)}, "is not (width, height)"),
        ({"size": (4, 4, 4)}, "is not (width, height)"),
        ({"size": 4}, "is not (width, height)"),
        ({"size": (4.0, 4)}, "is no length"),
        ({"size": "ab"}, "is no length"),
        ({"location": (1.5, 2)}, "not whole pixels; with um"),
        ({"location": (1, 2, 3)}, "3 numbers are not locations of 2 axes"),
        ({"location": [(1, 2), (3,)]}, "not pairs of numbers"),
        ({"location": "ab"}, "not whole pixels"),
        ({"location": (10**30, 0)}, "not whole pixels"),
        ({"location": (1 << 60, 0)}, "too far away"),
        ({"location": (float("nan"), 0), "um": 1}, "too far away"),
        ({"level": 3}, "level 3 of an image with 3"),
        ({"level": -1}, "level -1"),
        ({"level": "0"}, "level '0'"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"prefetch_factor": -1}, "prefetch_factor -1"),
        ({"shuffle": True, "seed": -1, "batch": 2}, "seed -1"),
        ({"fill": 256}, "fill=256"),
        ({"fill": "x"}, "fill='x'"),
        ({"device": "tpu"}, "no device is called 'tpu'"),
        ({"um": 0}, "um=0 is not a size"),
    ],
)
def test_bad_boxes(slide: Any, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError) as error:
        slide[0].read_region(**{"location": (0, 0), "size": (4, 4), **arguments})
    assert said in str(error.value)


def test_a_batch_that_no_memory_holds() -> None:
    meta = {**PLAIN, "datasets": levels(None)}
    store = made({"multiscales": [meta]}, _0=(4, 5))
    document = json.loads(store["0/.zarray"]) | {"shape": [1 << 40, 1 << 40], "chunks": [1024, 1024]}
    store["0/.zarray"] = json.dumps(document).encode()
    with pytest.raises(LimitError):
        gpuzarr.ome.open(store).read_region((0, 0), (1 << 39, 1 << 39))


# ---- arithmetic of pyramids


def blocks(values: Any, factors: Any) -> Any:
    """Every block of an array: where it goes, and its elements as Python numbers, in C order."""
    for at in product(*(range(-(-n // f)) for n, f in zip(values.shape, factors, strict=True))):
        yield at, values[tuple(slice(i * f, (i + 1) * f) for i, f in zip(at, factors, strict=True))].ravel()


def slow(values: Any, factors: Any, method: str) -> Any:
    """The definition, one block at a time."""
    out = np.empty([-(-n // f) for n, f in zip(values.shape, factors, strict=True)], values.dtype)
    for at, block in blocks(values, factors):
        if method == "nearest":
            out[at] = block[0]
        elif method == "mode":
            counted = Counter(block.tolist())
            out[at] = min(counted, key=lambda value: (-counted[value], value))
        elif values.dtype.kind in "biu":
            out[at] = floor(Fraction(sum(map(int, block.tolist())), len(block)) + Fraction(1, 2))
        else:
            total = np.float64(0)
            for one in block:
                total = total + np.float64(one) if total is not None else np.float64(one)
            out[at] = total / len(block)
    return out


@pytest.mark.parametrize("dtype", ["bool", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"])
@pytest.mark.parametrize("factors", [(2, 2), (1, 3), (4, 2)])
def test_mean(dtype: str, factors: Any) -> None:
    bits = RNG.integers(0, 256, (7, 9, np.dtype(dtype).itemsize), np.uint8)
    values = bits[..., 0] % 2 == 0 if dtype == "bool" else bits.view(dtype)[..., 0]
    if values.dtype.kind == "f":
        values = np.where(np.isfinite(values), values, 1).astype(dtype)
        values = np.clip(values, -1e4, 1e4).astype(dtype)
    assert np.array_equal(downsample(values, factors, "mean"), slow(values, factors, "mean"))


@pytest.mark.parametrize("method", ["mean", "mode", "nearest"])
@given(data=st.data())
@settings(max_examples=25)
def test_any_shape_and_any_factor(method: str, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 7), min_size=1, max_size=3))
    factors = data.draw(st.lists(st.integers(1, 4), min_size=len(shape), max_size=len(shape)))
    dtype = data.draw(st.sampled_from(["u1", "i2", "u8", "i8"]))
    few = data.draw(st.booleans())
    ends = np.iinfo(dtype)
    low, high = (0, 3) if few else (ends.min, ends.max)
    drawn = data.draw(st.lists(st.integers(low, high), min_size=prod(shape), max_size=prod(shape)))
    values = np.array(drawn, dtype).reshape(shape)
    assert np.array_equal(downsample(values, factors, method), slow(values, factors, method))


def test_halves_go_up() -> None:
    values = np.array([[2, 3], [-2, -3], [-1, 0], [254, 255]], "i2")
    assert downsample(values, (1, 2), "mean").tolist() == [[3], [-2], [0], [255]]


def test_extremes_of_means() -> None:
    for dtype in ("i8", "u8", "i4"):
        ends = np.iinfo(dtype)
        for value in (ends.min, ends.max):
            values = np.full((3, 3), value, dtype)
            assert downsample(values, (3, 3), "mean").tolist() == [[value]]
    inf, nan = np.inf, np.nan
    values = np.array([[inf, 1], [inf, -inf], [nan, 1], [3e38, 3e38]], "f4")
    means = downsample(values, (1, 2), "mean")
    assert means[:, 0].tobytes() == np.array([inf, nan, nan, 3e38], "f4").tobytes()  # one NaN, bit for bit
    both = np.array([[1 + 4j, 2 - 2j]], "c8")
    assert downsample(both, (1, 2), "mean").tolist() == [[1.5 + 1j]]


def test_the_most_frequent_and_the_smallest_of_several() -> None:
    assert downsample(np.array([[7, 7, 1, 1], [7, 3, 2, 2]]), (2, 2), "mode").tolist() == [[7, 1]]
    assert downsample(np.array([[5, 4], [3, 9]]), (2, 2), "mode").tolist() == [[3]]
    assert downsample(np.array([[-1, -1, 4]]), (1, 2), "mode").tolist() == [[-1, 4]]


# ---- writing


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(("method", "dtype"), [("mean", "u2"), ("mode", "u1"), ("nearest", "f4")])
def test_every_level_is_what_it_says(version: str, method: str, dtype: str) -> None:
    values = RNG.integers(0, 4, (2, 19, 33)).astype(dtype)
    store: dict[str, bytes] = {}
    found = write(values, store, axes="cyx", method=method, levels=4, chunks=(1, 4, 8), version=version)
    assert found.version == version
    expected = values
    for level in range(4):
        assert np.array_equal(found[level], expected)
        expected = slow(expected, (1, 2, 2), method)
    offset = 0 if method == "nearest" else 1.5
    assert found.levels[2].scale == (1, 4, 4)
    assert found.levels[2].translation == (0, offset, offset)
    assert (found.group.zarr_format, found[0].zarr_format) == ((2, 2) if version == "0.4" else (3, 3))
    if version == "0.5":
        assert found[0].dimension_names == ("c", "y", "x")
        assert found[0].shards is not None
    again = gpuzarr.ome.open(store)
    assert again.metadata == found.metadata
    assert again.metadata.method == method


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards, pieces and threads cut the work, and the result is the same."""
    from gpuzarr.ome import writing

    values = RNG.integers(0, 60000, (41, 67), np.uint16)
    whole = write(values, {}, axes="yx", levels=4)
    monkeypatch.setattr(writing, "PIECE", 256)
    for threads in (1, 4):
        with gpuzarr.configured(threads=threads):
            cut = write(values, {}, axes="yx", levels=4, chunks=4, shards=(16, 24))
        for one, other in zip(whole, cut, strict=True):
            assert np.array_equal(one, other)


class Lazy:
    """An array that is larger than memory, and counts how much of it is asked for at once."""

    def __init__(self, values: Any) -> None:
        self.values, self.shape, self.dtype = values, values.shape, values.dtype
        self.largest = 0

    def __getitem__(self, key: Any) -> Any:
        part = self.values[key]
        self.largest = max(self.largest, part.size)
        return part


def test_a_source_is_read_block_by_block() -> None:
    lazy = Lazy(RNG.integers(0, 255, (64, 48, 3), np.uint8))
    told: list[tuple[int, int]] = []
    found = write(
        lazy,
        {},
        axes="yxc",
        chunks=(3, 8, 8),
        shards=(3, 16, 16),
        levels=3,
        progress=lambda *at: told.append(at),
    )
    assert lazy.largest == 16 * 16 * 3
    assert np.array_equal(found.read_region(), lazy.values)
    assert told[0][0] == 0
    assert told[-1] == (sum(level.nbytes for level in found),) * 2
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_arrays_of_ours_are_sources() -> None:
    store: dict[str, bytes] = {}
    array = gpuzarr.save(store, RNG.integers(0, 255, (9, 7), np.uint8), "a/b")
    found = write(array, store, "yx", path="a/c", levels=2)
    assert np.array_equal(found[0], array)
    with pytest.raises(ArgumentError, match="lies where its pyramid is to be"):
        write(array, store, "yx", path="a", overwrite=True)
    assert np.array_equal(gpuzarr.load(store, "a/b"), array)


def test_levels_end_where_images_are_small() -> None:
    found = write(np.zeros((1, 2, 5, 600, 300), "u1"), {}, axes="tczyx")
    assert [level.shape[2:] for level in found] == [(5, 600, 300), (3, 300, 150), (2, 150, 75)]
    assert len(write(np.zeros((5, 4), "u1"), {}, axes="yx")) == 1
    assert [a.shape for a in write(np.zeros((3, 1), "u1"), {}, axes="yx", levels=9)] == [
        (3, 1),
        (2, 1),
        (1, 1),
    ]


def test_thick_slices_wait() -> None:
    sizes = {"z": 2.0, "y": 0.5, "x": 0.5}
    found = write(np.zeros((8, 64, 64), "u1"), {}, axes="zyx", pixel_size=sizes, levels=4)
    assert [level.shape for level in found] == [(8, 64, 64), (8, 32, 32), (8, 16, 16), (4, 8, 8)]
    assert found.levels[3].scale == (4, 4, 4)
    assert found.axes[0].unit == "micrometer"
    assert found.pixel_size(1) == (1, 1)


def test_chosen_factors() -> None:
    values = RNG.integers(0, 9, (12, 24), np.uint8)
    found = write(values, {}, axes="yx", scale_factors=[2, {"y": 6, "x": 4}])
    assert [level.shape for level in found] == [(12, 24), (6, 12), (2, 6)]
    assert np.array_equal(found[2], slow(slow(values, (2, 2), "mean"), (3, 2), "mean"))
    assert found.levels[2].scale == (6, 4)
    for wrong in ([2, 3], [2, 2], [4, 2]):
        with pytest.raises(ArgumentError, match="does not follow"):
            write(values, {}, axes="yx", scale_factors=wrong)


def test_labels_of_an_image() -> None:
    store: dict[str, bytes] = {}
    for version in ("0.5", "0.4"):
        write(
            np.zeros((20, 30), "u2"),
            store,
            axes="yx",
            pixel_size=0.5,
            levels=3,
            version=version,
            overwrite=True,
        )
        cells = RNG.integers(0, 4, (20, 30))
        for name in ("cells", "nuclei", "cells"):
            made = write(cells, store, axes="yx", labels=True, name=name, overwrite=name == "cells")
        found = gpuzarr.ome.open(store)
        assert list(found.labels) == ["cells", "nuclei"]
        labelled = found.labels["cells"]
        assert labelled.image_label is not None
        assert (labelled.version, labelled.levels[1].scale, len(labelled)) == (version, (1, 1), 3)
        assert np.array_equal(labelled[1], slow(cells, (2, 2), "mode"))
        assert made.group.path == "labels/cells"
        assert made.axes[0].unit == "micrometer"
    for arguments, said in (
        ({"name": None}, "labels need a name"),
        ({"name": "a/b"}, "labels need a name"),
        ({"name": "a", "path": "nowhere"}, "nowhere"),
        ({"name": "a", "version": "0.5"}, "cannot be written here"),
        ({"name": "cells"}, "there is something"),
    ):
        with pytest.raises((ArgumentError, NotFoundError), match=said):
            write(cells, store, axes="yx", labels=True, **arguments)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="labels are integers"):
        write(cells.astype("f4"), store, axes="yx", labels=True, name="x", method="nearest")


def test_an_image_appears_once_it_is_whole() -> None:
    class Broken(Lazy):
        def __getitem__(self, key: Any) -> Any:
            if key[0].start:
                raise RuntimeError("the source is gone")
            return super().__getitem__(key)

    store: dict[str, bytes] = {}
    values = RNG.integers(0, 255, (64, 8), np.uint8)
    with pytest.raises(RuntimeError, match="gone"):
        write(Broken(values), store, axes="yx", chunks=8, shards=(16, 8))
    with pytest.raises(MetadataError, match="no OME-Zarr metadata"):
        gpuzarr.ome.open(store)
    with pytest.raises(ArgumentError, match="overwrite=True"):
        write(values, store, axes="yx")
    assert np.array_equal(write(values, store, axes="yx", overwrite=True)[0], values)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"axes": "zyx"}, "do not name the 2 dimensions"),
        ({"axes": "xx"}, "do not name"),
        ({"axes": 5}, "do not name"),
        ({"axes": "cx"}, "not those of an OME-Zarr image"),
        ({"axes": ["a", "b"]}, "not those of an OME-Zarr image"),
        ({"image": [[1]]}, "a list is no array"),
        ({"method": "median"}, "none of mean, mode, nearest"),
        ({"method": "mode", "image": np.zeros((4, 5))}, "have no mode"),
        ({"image": np.zeros((4, 5), "M8[s]")}, "have no mean"),
        ({"version": "0.3"}, "'0.3' cannot be written"),
        ({"pixel_size": 0}, "pixel_size 0"),
        ({"pixel_size": {"z": 1}}, "pixel_size names z"),
        ({"pixel_size": float("nan")}, "pixel_size nan"),
        ({"pixel_size": 1, "unit": 5}, "unit 5"),
        ({"levels": 0}, "levels 0"),
        ({"levels": 2, "scale_factors": [2]}, "leave out levels"),
        ({"scale_factors": [0]}, "scale_factors 0"),
        ({"scale_factors": [{"q": 2}]}, "scale_factors names q"),
        ({"omero": {"x": object()}}, "not JSON"),
        ({"chunks": (3, 3, 3)}, "chunks (3, 3, 3) do not fit"),
        ({"chunks": (3, 0), "shards": (3, 3)}, "chunks (3, 0) do not fit"),
        ({"chunks": [[2, 2], 5]}, "not a number for each dimension"),
        ({"shards": (3, 3, 3)}, "shards (3, 3, 3) do not fit"),
        ({"version": "0.4", "shards": (4, 5)}, "no shards"),
        ({"codecs": ["nonsense"]}, "nonsense"),
    ],
)
def test_bad_arguments_of_writing(arguments: dict[str, Any], said: str) -> None:
    store: dict[str, bytes] = {}
    given_ = {"image": np.zeros((4, 5), "u1"), "axes": "yx", **arguments}
    with pytest.raises(ArgumentError) as error:
        write(given_.pop("image"), store, **given_)
    assert said in str(error.value)
    assert store == {}  # refused before anything is written


def test_chunks_of_auto() -> None:
    colours = write(np.zeros((3, 700, 900), "u1"), {}, axes="cyx", levels=1)
    assert colours[0].chunks[0] == 3
    channels = write(np.zeros((2, 3, 4, 300, 300), "u2"), {}, axes="tczyx", levels=1)
    assert channels[0].chunks[:2] == (1, 1)
    small = write(
        np.zeros((2, 9, 9), "u2"), {}, axes="cyx", chunks=(1, 64, 64), shards=(2, 128, 128), levels=1
    )
    assert (small[0].chunks, small[0].shards) == ((1, 9, 9), (2, 9, 9))


@pytest.mark.parametrize("device", ["cpu", "sim"])
def test_pyramids_are_the_same_on_every_device(device: str) -> None:
    values = RNG.normal(0, 1, (21, 30)).astype("f4")
    found = write(values, {}, axes="yx", levels=3, chunks=8, device=device)
    assert found.device == device
    assert np.array_equal(to_host(found.read_region(level=1)), slow(values, (2, 2), "mean"))


# ---- pictures


def pixels(png: bytes) -> Any:
    """A PNG decoded by its definition: signature, chunks with their checksums, filter 2 undone."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    found, at = {}, 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        body = png[at + 4 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0] == zlib.crc32(body)
        found[body[:4]] = body[4:]
        at += 12 + length
    width, height, depth, kind = struct.unpack(">IIBB", found[b"IHDR"][:10])
    rows = np.frombuffer(zlib.decompress(found[b"IDAT"]), np.uint8).reshape(height, -1)
    assert (depth, set(rows[:, 0].tolist())) == (8, {2})
    flat = np.cumsum(rows[:, 1:], axis=0, dtype=np.uint8)
    return flat.reshape((height, width, *([] if kind == 0 else [3 if kind == 2 else 4])))


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 3), (1, 1, 4), (40, 30)])
def test_png(shape: Any) -> None:
    values = RNG.integers(0, 256, shape, np.uint8)
    assert np.array_equal(pixels(encode(values)), values)
    pillow = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    assert np.array_equal(np.asarray(pillow.open(io.BytesIO(encode(values)))), values)
    with pytest.raises(ArgumentError, match="no picture"):
        encode(values.astype("u2"))


def test_a_thumbnail_of_colours(slide: Any, tmp_path: Path) -> None:
    found, values = slide
    assert np.array_equal(pixels(found.to_png()), values[0])
    small = pixels(found.to_png(tmp_path / "small.png", max_side=25))
    assert (tmp_path / "small.png").read_bytes()[:4] == b"\x89PNG"
    assert np.array_equal(small, values[1])  # the level that has just this size
    quarter = pixels(found.to_png(max_side=12, level=0))
    assert quarter.shape == (9, 12, 3)
    assert abs(float(quarter.mean()) - float(values[0].mean())) < 3
    with pytest.raises(ArgumentError):
        found.to_png(max_side=0)
    with pytest.raises(StoreError):
        found.to_png(tmp_path / "nowhere" / "x.png")


def test_a_thumbnail_of_channels() -> None:
    values = np.zeros((2, 1, 3, 6, 8), "u2")
    values[0, 0, 1, :3] = 50
    values[1, 0, 1, :, :4] = 1000
    channels = [
        {"color": "FF0000", "window": {"start": 0, "end": 100}},
        {"color": "0000FF", "window": {"start": 0, "end": 500}},
    ]
    omero = {"channels": channels, "rdefs": {"defaultZ": 1, "defaultT": 0}}
    found = write(values, {}, axes="ctzyx", omero=omero, device="cpu")
    expected = np.zeros((6, 8, 3), np.uint8)
    expected[:3, :, 0] = 128
    expected[:, :4, 2] = 255
    assert np.array_equal(pixels(found.to_png()), expected)
    assert not pixels(found.to_png(z=0)).any()
    assert np.array_equal(pixels(found.to_png(z=1, c=0)).any(axis=2), expected[:, :, 0] > 0)
    for bad in ({"z": 3}, {"q": 0}, {"z": "a"}, {"x": 0}):
        with pytest.raises(ArgumentError):
            found.to_png(**bad)


def test_a_thumbnail_of_labels() -> None:
    colours = [{"label-value": 2, "rgba": [1, 2, 3, 255]}, {"label-value": [3], "rgba": [1, 2, 3]}, 5]
    store = made({"multiscales": [PLAIN], "image-label": {"colors": colours}}, _0=(1, 4))
    (row,) = pixels(gpuzarr.ome.open(store).to_png())
    assert row[0].tolist() == [0, 0, 0]
    assert row[2].tolist() == [1, 2, 3]
    assert len({tuple(one) for one in row.tolist()}) == 4


def test_thumbnails_of_odd_values() -> None:
    values = np.array([[np.nan, 0], [np.inf, 2], [1, -np.inf]], "f4")
    shown = pixels(write(values, {}, axes="yx").to_png())
    assert (shown[2, 0] > shown[0, 1]).all()
    assert pixels(write(np.full((3, 3), np.nan), {}, axes="yx").to_png()).shape == (3, 3, 3)
    assert pixels(write(np.full((3, 3), 7, "u2"), {}, axes="yx").to_png()).shape == (3, 3, 3)
    with pytest.raises(UnsupportedError, match="no picture"):
        write(np.zeros((3, 3), "c8"), {}, axes="yx").to_png()


# ---- the command line


def test_info_shows_the_pyramid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(np.zeros((3, 60, 50), "u1"), tmp_path / "s.zarr", axes="cyx", pixel_size=0.499, levels=2, name="s")
    assert main(["info", str(tmp_path / "s.zarr"), "--plain"]) == 0
    out = capsys.readouterr().out
    assert "OME-Zarr 0.5 image “s”: c y (micrometer) x (micrometer)" in out
    assert "1: 1 × 0.998 × 0.998" in out
    assert main(["info", str(tmp_path / "s.zarr"), "--json"]) == 0
    (described,) = json.loads(capsys.readouterr().out)["multiscales"]
    assert [level["scale"] for level in described["levels"]] == [[1, 0.499, 0.499], [1, 0.998, 0.998]]


def test_headlines() -> None:
    plate = {"name": "p", "rows": [{}], "columns": [{}, {}], "wells": [{}], "version": "0.4"}
    assert cli_ome.headlines({"plate": plate}) == ["OME-Zarr 0.4 plate “p”: 1 × 2, 1 wells"]
    assert cli_ome.headlines({"ome": {"version": "0.5", "well": {"images": [{}, {}]}}}) == [
        "OME-Zarr 0.5 well: 2 fields"
    ]
    assert cli_ome.headlines({"labels": ["a", "b"]}) == ["OME-Zarr labels: a, b"]
    assert cli_ome.headlines({"bioformats2raw.layout": 3})[0].startswith("OME-Zarr collection")
    assert cli_ome.headlines({"ome": {"version": "0.6", "scene": {}}}) == ["OME-Zarr 0.6 scene"]
    assert cli_ome.headlines({"multiscales": 5})[0].startswith("OME-Zarr metadata cannot be read")
    assert cli_ome.headlines({"x": 1}) == []
