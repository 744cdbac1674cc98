"""What notebooks show: whole and harmless HTML, whatever the metadata say, and not one request."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from typing import Any

import pytest

import gpuzarr
from gpuzarr import html
from gpuzarr.store.memory import MappingStore

TAGS = set("div b span table tr th td svg path text br code details summary".split())
ATTRIBUTES = set(
    """style width height viewBox role aria-label d fill fill-opacity stroke stroke-opacity stroke-width x y
    text-anchor font-family font-size""".split()
)
SVG = "{http://www.w3.org/2000/svg}"
PATH = '"><script>alert(1)<'
HOSTILE = '"><script>alert(1)</script>&\' onload="x" \x00\x1b[31m\u202e\ud800]]>'


class Refusing(dict[str, bytes]):
    """A store that is asked for something once too often."""

    asked = False

    def __getitem__(self, key: str) -> bytes:
        if self.asked:
            raise AssertionError(f"{key} was asked for")
        return super().__getitem__(key)

    __iter__ = __contains__ = keys = None  # type: ignore[assignment]


def parsed(shown: str) -> ElementTree.Element:
    """HTML that is whole, and holds nothing but what is meant. No browser reads what is not UTF-8."""
    shown.encode()
    root = ElementTree.fromstring(f"<all>{shown}</all>".replace("<br>", "<br/>"))
    for element in root.iter():
        assert element.tag.removeprefix(SVG) in TAGS | {"all"}
        assert set(element.attrib) <= ATTRIBUTES
    assert "http" not in shown.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"url\(|javascript:|@import", shown)
    return root


def words(shown: str) -> str:
    return " ".join(
        "".join(cell.itertext()) for cell in parsed(shown).iter() if cell.tag in ("td", "th", "div")
    )


def picture(shown: str) -> dict[str, int]:
    """How many lines of a kind there are, by colour."""
    svg = next(one for one in parsed(shown).iter(f"{SVG}svg") if one.get("role") == "img")
    width, height = float(svg.attrib["width"]), float(svg.attrib["height"])
    found: dict[str, int] = {}
    for path in svg.iter(f"{SVG}path"):
        numbers = [float(one) for one in re.findall(r"-?\d+\.\d+", path.attrib["d"])]
        assert all(-1 <= x <= width + 1 for x in numbers[::2])
        assert all(-1 <= y <= height + 1 for y in numbers[1::2])
        if "fill-opacity" not in path.attrib and path.get("stroke-width") != "1.4":
            found[path.attrib["stroke"]] = path.attrib["d"].count("M")
    for label in svg.iter(f"{SVG}text"):
        wide, at = 5 * len(label.text or ""), float(label.attrib["x"])
        left = {"start": at, "middle": at - wide / 2, "end": at - wide}[label.attrib["text-anchor"]]
        assert -1 <= left <= left + wide <= width + 1, "a label is cut off"
    return found


def array_of(shape: tuple[int, ...], chunks: Any, **options: Any) -> gpuzarr.Array:
    given = {"shape": shape, "chunks": chunks, "dtype": "u2", "device": "cpu", **options}
    return gpuzarr.create_array({}, **given)


# ---- arrays


def test_a_volume_in_shards() -> None:
    array = array_of((40, 64, 96), (10, 16, 16), shards=(20, 32, 48), dimension_names=["z", "y", "x"])
    shown = array._repr_html_()
    assert picture(shown) == {"currentColor": 3 + 3 + 5, "#d9730d": 1 + 1 + 1}
    for said in (
        "40 × 64 × 96 (z y x)",
        "uint16",
        "10 × 16 × 16, 96 of them, 5.0 KiB each",
        "20 × 32 × 48, 8 of them",
    ):
        assert said in words(shown)
    assert [label.text for label in parsed(shown).iter(f"{SVG}text")] == ["z 40", "y 64", "x 96"]


@pytest.mark.parametrize(
    ("shape", "chunks", "lines"),
    [
        ((90,), (30,), 2),
        ((50, 60), (25, 20), 1 + 2),
        ((4, 30, 50, 60), (1, 10, 50, 60), 2),  # along the depth
        ((7, (1 << 62) - 1, 3), (7, 1 << 60, 3), 3),
        ((10, 10), (20, 20), 0),
    ],
)
def test_lines_are_where_chunks_meet(shape: Any, chunks: Any, lines: int) -> None:
    shown = html.describe_array(array_of(shape, chunks, dtype="u1"))
    assert picture(shown) == {"currentColor": lines}
    assert "some of the lines" not in shown


@pytest.mark.parametrize("shape", [(1 << 40,), (1 << 20, 1 << 30), (1, 5, 1 << 50), (9000, 9000, 9000)])
def test_more_chunks_than_lines(shape: Any) -> None:
    shown = html.describe_array(array_of(shape, (1,) * len(shape)))
    assert picture(shown)["currentColor"] < 200
    assert "some of the lines" in shown
    assert len(shown) < 20_000


@pytest.mark.parametrize("shape", [(), (0,), (5, 0, 3)])
def test_nothing_to_draw(shape: Any) -> None:
    shown = html.describe_array(array_of(shape, tuple(max(n, 1) for n in shape)))
    assert not list(parsed(shown).iter(f"{SVG}svg"))


def test_chunks_of_many_sizes() -> None:
    array = array_of((60, 70), [[10, 20, 30], [30, 40]])
    shown = html.describe_array(array)
    assert picture(shown) == {"currentColor": 2 + 1}
    assert "3 varying × 2 varying" in words(shown)


def test_dimensions_before_the_last_three_are_words() -> None:
    array = array_of((5, 3, 9, 9, 9), (1, 1, 9, 9, 9), dimension_names=["t", None, "z", "y", "x"])
    assert "5 × 3 (t –) of these" in words(html.describe_array(array))


def test_sizes_of_what_lies_in_memory() -> None:
    objects: dict[str, bytes] = {}
    made = gpuzarr.create_array(
        objects, "a/b", shape=(100,), dtype="u1", codecs=[], chunks=(100,), device="cpu"
    )
    made[...] = 1
    objects["a/bc/zarr.json"] = b"not of it"
    stored = sum(len(value) for key, value in objects.items() if key.startswith("a/b/"))
    assert f"100 B decoded, {stored} B stored" in words(html.describe_array(made))
    objects["a/b/c/0"] = "no bytes"  # type: ignore[assignment]
    assert "stored" not in words(html.describe_array(made))


# ---- strangers


def test_hostile_names() -> None:
    objects: dict[str, bytes] = {}
    gpuzarr.create_array(objects, "a", shape=(4, 4), dtype="u1", dimension_names=["y", "x"], device="cpu")
    document = json.loads(objects["a/zarr.json"])
    document["dimension_names"] = [HOSTILE, "x" * 100_000]
    document["attributes"] = {HOSTILE: HOSTILE}
    objects[f"{PATH}/zarr.json"] = objects["a/zarr.json"] = json.dumps(document).encode()
    for path in ("a", PATH):
        shown = gpuzarr.open(MappingStore(objects, f"memory:{HOSTILE}"), path, device="cpu")._repr_html_()
        assert "script" in words(shown), "as words"
        assert len(shown) < 10_000
        assert not re.search("[\x00-\x09\x1b\u202e\ud800]", shown)
        picture(shown)


def test_hostile_types_and_codecs() -> None:
    fields = [[f"<b>{HOSTILE[:-1]}", "<u2"], ["b", "<u2"]]
    document = {"zarr_format": 2, "shape": [4], "chunks": [4], "dtype": fields, "order": "C"}
    document |= {"fill_value": None, "compressor": None, "filters": [{"id": "base64"}]}
    array = gpuzarr.open({".zarray": json.dumps(document).encode()}, device="cpu")
    assert "<b>" in words(array._repr_html_())


def test_hostile_groups() -> None:
    below = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    paths = ("/".join(["x"] * 500), HOSTILE, "", "/", "a//b", "../..")
    members: dict[str, Any] = dict.fromkeys(paths, below)
    members |= {"broken": {**below, "node_type": "array"}, "odd": {"zarr_format": 3}, "c/d": {"shape": [1]}}
    held = {"kind": "inline", "must_understand": False, "metadata": members}
    for many in (0, 500):
        members |= {f"n{i:03d}": below for i in range(many)}
        document = {**below, "attributes": {HOSTILE: HOSTILE}, "consolidated_metadata": held}
        group = gpuzarr.open({"zarr.json": json.dumps(document).encode()}, device="cpu")
        shown = group._repr_html_()
        assert len(list(parsed(shown).iter("tr"))) <= 1 + 60 + 1
        assert "cannot be read" in shown or many
        assert "and more" in shown


# ---- nothing is asked of a store


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_not_a_request(zarr_format: int) -> None:
    objects: dict[str, bytes] = {}
    gpuzarr.create_group(objects, zarr_format=zarr_format, attributes={"what": "cells"}, device="cpu")
    options: dict[str, Any] = {"zarr_format": zarr_format, "attributes": {"_ARRAY_DIMENSIONS": ["u", "v"]}}
    for path in ("image/0", "image/1", "table"):
        gpuzarr.create_array(objects, path, shape=(64, 48), dtype="f4", device="cpu", **options)
    for consolidated in (False, True):
        if consolidated:
            gpuzarr.consolidate(objects)
        store = Refusing(objects)
        group, array = gpuzarr.open(store, device="cpu"), gpuzarr.open(store, "table", device="cpu")
        store.asked = True
        shown = group._repr_html_()
        assert ("64 × 48" in words(shown)) == consolidated
        assert ("group.tree()" in shown) != consolidated
        assert ("cells" in words(shown)) == (zarr_format == 3 or consolidated)
        assert "64 × 48" in words(array._repr_html_())
        store.asked = False
        assert array.attrs["_ARRAY_DIMENSIONS"] == ["u", "v"]
        store.asked = True
        assert ("u 64" in words(array._repr_html_())) == (zarr_format == 2), "where the names are known now"


def test_members_are_a_tree() -> None:
    objects: dict[str, bytes] = {}
    gpuzarr.create_group(objects, device="cpu")
    for path in ("image/0", "image/1", "image/labels/0", "table"):
        gpuzarr.create_array(objects, path, shape=(8, 8), dtype="f4", device="cpu")
    gpuzarr.consolidate(objects)
    table = next(parsed(gpuzarr.open(objects, device="cpu")._repr_html_()).iter("table"))
    rows = [list(row) for row in table.iter("tr")][1:]
    assert ["".join(row[0].itertext()) for row in rows] == ["image/", "0", "1", "labels/", "0", "table"]
    indents = [row[0][0].attrib["style"] for row in rows]
    assert indents == [f"padding-left:{1.2 * depth:g}em" for depth in (0, 1, 1, 1, 2, 0)]


# ---- images


@dataclass(frozen=True)
class Level:
    path: str
    array: gpuzarr.Array
    sizes: str


def test_levels_of_an_image() -> None:
    levels = [
        Level(f"{i}<", array_of((3, 8, 64 >> i, 64 >> i), (1, 8, 16, 16)), f"1 × {i}>") for i in range(7)
    ]
    shown = html.describe_multiscale(levels, "cells & <more>", ("c", "z", "y", "x"))
    assert "3 × 8 × 64 × 64 (c z y x)" in words(shown)
    assert "cells & <more> 7 levels" in words(shown)
    pictures = [one for one in parsed(shown).iter(f"{SVG}svg") if one.get("role") == "img"]
    widths = [float(one.attrib["width"]) for one in pictures]
    assert len(widths) == 5
    assert widths == sorted(widths, reverse=True)
    assert "0 levels" in words(html.describe_multiscale([]))


def test_levels_of_the_package_ome() -> None:
    ome = pytest.importorskip("gpuzarr.ome", reason="gpuzarr.ome is not there")
    import numpy as np

    objects: dict[str, bytes] = {}
    ome.write_multiscale(np.zeros((64, 64), "u1"), objects, axes="yx", pixel_size=0.5)
    image = ome.open(objects, device="cpu")
    shown = image._repr_html_()
    assert "64 × 64 (y x)" in words(shown)
