"""gpuzarr info: show what lies in a Zarr hierarchy: its arrays, how they are cut and encoded, and their
sizes."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from itertools import islice
from typing import Any

import numpy as np

import gpuzarr
from gpuzarr.cli import keys, ome
from gpuzarr.cli.show import Part, Screen, brief, by, size_text, storage_options
from gpuzarr.codecs.base import Codec
from gpuzarr.errors import ArgumentError, GpuzarrError, NotFoundError
from gpuzarr.store.base import Store

Node = gpuzarr.Array | gpuzarr.Group

_COUNTED = 100_000  # objects whose sizes are added up
_TELLING = {"cname", "level", "shuffle"}  # shown though they be defaults


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("target", metavar="TARGET", help="a path or URL")
    parser.add_argument("path", metavar="PATH", nargs="?", default="", help="a group or array in it")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--explain", nargs="?", const="...", metavar="SELECTION", help="what reading it would do"
    )
    parser.add_argument("--depth", type=int, default=8, help="levels of groups to show (default: 8)")
    parser.add_argument("--limit", type=int, default=40, help="members of each group to show (default: 40)")
    parser.add_argument("--device", default="auto", help="what reads are explained for (default: auto)")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="storage option")


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Show it."""
    options = storage_options(arguments.option)
    node = gpuzarr.open(arguments.target, arguments.path, device=arguments.device, storage_options=options)
    if arguments.explain is not None:
        if not isinstance(node, gpuzarr.Array):
            raise ArgumentError(f"{node.name} is a group", hint="explain the read of an array in it")
        screen.text(str(node.explain(keys.full(keys.parse(arguments.explain), node.shape))))
        return 0
    if arguments.json:
        described = {"target": arguments.target, **_described(node, arguments.depth, arguments.limit)}
        screen.stream.write(json.dumps(described, indent=2, allow_nan=False) + "\n")
        return 0
    if isinstance(node, gpuzarr.Array):
        _show_array(node, screen)
    else:
        _show_group(node, screen, arguments.depth, arguments.limit)
    return 0


# -------------------------------------------------------------------------------------------- what there is


def members(group: gpuzarr.Group) -> Iterator[tuple[str, Node | GpuzarrError]]:
    """What lies right below. A member that cannot be read is its error, and the others are still there."""
    children = group.metadata.children
    if children is not None:
        names = sorted(name for name in children if name and "/" not in name)
    else:
        prefix = f"{group.path}/" if group.path else ""
        names = sorted(
            name for name in group.store.list_dir(prefix) if not name.startswith(".") and name != "zarr.json"
        )
    for name in names:
        try:
            yield name, group[name]
        except NotFoundError:
            continue
        except GpuzarrError as error:
            yield name, error


def stored_nbytes(store: Store, path: str) -> int | None:
    """Bytes of all objects below a path; None where that would take requests, or too long."""
    if store.traits.concurrency > 1:
        return None
    found = list(islice(store.list(f"{path}/" if path else ""), _COUNTED + 1))
    sizes = [store.size(key) for key in found]
    return None if len(found) > _COUNTED or None in sizes else sum(size or 0 for size in sizes)


def codec_text(codec: Codec, names: bool = True) -> str:
    """A codec and what is not default of it: `zstd(level=3)`, or shorter `zstd(3)`."""
    defaults = {field.name: field.default for field in fields(codec) if field.name not in _TELLING}
    given = {
        name: value
        for name, value in codec.to_config().items()
        if value is not None and defaults.get(name) != value
    }
    if codec.name == "blosc":
        given.pop("typesize", None)  # follows from the type
    listed = ", ".join(
        f"{name}={brief(value, 24)}" if names else brief(value, 24) for name, value in given.items()
    )
    return codec.name.removeprefix("numcodecs.") + (f"({listed})" if listed else "")


def _codecs(array: gpuzarr.Array, names: bool = True) -> str:
    listed = [codec for codec in array.codecs if names or codec.name != "bytes"]
    return " → ".join(codec_text(codec, names) for codec in listed) or "not compressed"


def _counts(array: gpuzarr.Array) -> tuple[int, int]:
    """Chunks, and stored objects, of an array without missing ones."""
    return math.prod(array.metadata.chunk_grid.shape), math.prod(array.metadata.grid.shape)


# ----------------------------------------------------------------------------------------------- for people


def _show_array(array: gpuzarr.Array, screen: Screen) -> None:
    names = array.dimension_names
    chunks, objects = _counts(array)
    stored = stored_nbytes(array.store, array.path)
    size = f"{size_text(array.nbytes)} decoded"
    if stored is not None:
        known = stored and array.metadata.has_bytes and array.nbytes < 1000 * stored
        ratio = f", {array.nbytes / stored:.2f} to 1" if known else ""
        size += f", {size_text(stored)} stored{ratio}"
    rows: list[tuple[str, str]] = [("shape", by(array.shape)), ("type", str(array.dtype))]
    if names:
        rows.insert(1, ("dimensions", brief(", ".join(name or "–" for name in names))))
    rows.append(("chunks", f"{by(array.chunks)}, {chunks:,} of them"))
    if array.shards:
        rows.append(("shards", f"{by(array.shards)}, {objects:,} of them"))
    rows += [("codecs", _codecs(array)), ("fill value", brief(array.fill_value)), ("size", size)]
    screen.line((brief(array.name, 100), "title"), (f"   array, Zarr v{array.zarr_format}", "note"))
    for label, text in rows:
        screen.line(f"  {label:<11}", (text, "type" if label == "type" else ""))
    _show_attributes(array.attrs, screen, "  ")
    if chunks and array.size:
        explained = array.explain(tuple(slice(n // 2, n // 2 + 1) for n in array.shape))
        width = max(len(stage.name) for stage in explained.stages)
        for i, stage in enumerate(explained.stages):
            label = "" if i else "decoding"
            screen.line(
                f"  {label:<11}{stage.name:<{width}}  on ", (stage.place, "good"), (f"  {stage.why}", "note")
            )


_OME = ("ome", "multiscales", "plate", "well", "omero", "labels", "image-label")


def _show_attributes(attributes: Mapping[str, Any], screen: Screen, indent: str) -> None:
    shown = [
        (name, value)
        for name, value in attributes.items()
        if name not in _OME and name != "_ARRAY_DIMENSIONS"
    ]
    for i, (name, value) in enumerate(shown[:12]):
        label = "" if i else "attributes"
        screen.line(f"{indent}{label:<11}", (brief(name, 30), "number"), f" {brief(value)}")
    if len(shown) > 12:
        screen.line(f"{indent}{'':<11}", (f"and {len(shown) - 12:,} more", "note"))


def _show_group(group: gpuzarr.Group, screen: Screen, depth: int, limit: int) -> None:
    stored = stored_nbytes(group.store, group.path)
    facts = [f"group, Zarr v{group.zarr_format}"]
    facts += ["consolidated metadata"] if group.metadata.children is not None else []
    facts += [f"{size_text(stored)} stored"] if stored is not None else []
    screen.line((brief(group.name, 100), "title"), (f"   {', '.join(facts)}", "note"))
    _branches(group, screen, "", depth, limit)


def _branches(group: gpuzarr.Group, screen: Screen, indent: str, depth: int, limit: int) -> None:
    """What is known of a group, then its members as a tree, the columns of its arrays aligned."""
    found = list(islice(members(group), limit + 1)) if depth else []
    bar = "│ " if found else "  "
    for image in ome.multiscales(group.attrs):
        axes = _axes(image)
        label = f" “{image.name}”" if image.name else ""
        screen.line(
            (indent + bar, "note"), (brief(f"OME-Zarr {image.version} image{label}: {axes}", 100), "warn")
        )
        for level in image.levels:
            scale = " × ".join(f"{size:g}" for size in level.scale) or "no scale"
            screen.line((indent + bar, "note"), f"  {brief(level.path, 30)}: {scale}")
    for line in ome.headlines(group.attrs):
        screen.line((indent + bar, "note"), (brief(line, 100), "warn"))
    _show_attributes(group.attrs, screen, indent + bar)
    rows = {name: _columns(node) for name, node in found[:limit] if isinstance(node, gpuzarr.Array)}
    widths = [max(len(row[i]) for row in rows.values()) for i in range(4)] if rows else []
    name_width = max((len(brief(name, 40)) for name in rows), default=0)
    for i, (name, node) in enumerate(found[:limit]):
        last = i == len(found) - 1
        branch: Part = (f"{indent}{'└' if last else '├'}── ", "note")
        if isinstance(node, gpuzarr.Group):
            screen.line(branch, (f"{brief(name, 40)}/", "title"))
            _branches(node, screen, f"{indent}{' ' if last else '│'}   ", depth - 1, limit)
        elif isinstance(node, gpuzarr.Array):
            cells = [cell.ljust(width) for cell, width in zip(rows[name], widths, strict=True)]
            styles = ("", "type", "", "note")
            label = brief(name, 40).ljust(name_width)
            screen.line(
                branch,
                (label, "name"),
                *((f"   {cell}", style) for cell, style in zip(cells, styles, strict=True)),
            )
        else:
            screen.line(branch, (brief(name, 40), "bad"), f"   cannot be read: {brief(node, 160)}")
    if len(found) > limit:
        screen.line((f"{indent}└── and more (--limit {limit * 10} shows them)", "note"))
    if not depth and next(members(group), None) is not None:
        screen.line((f"{indent}└── … (--depth shows more)", "note"))


def _axes(image: ome.Multiscale) -> str:
    units = {unit for _, unit in image.axes if unit}
    if len(units) == 1 and all(unit for _, unit in image.axes):
        return f"{' '.join(name for name, _ in image.axes)} in {units.pop()}"
    return " ".join(f"{name} ({unit})" if unit else name for name, unit in image.axes)


def _columns(array: gpuzarr.Array) -> tuple[str, str, str, str]:
    cut = f"chunks {by(array.chunks)}" + (f" in shards {by(array.shards)}" if array.shards else "")
    stored = stored_nbytes(array.store, array.path)
    size = size_text(array.nbytes) + (f" → {size_text(stored)}" if stored is not None else "")
    return by(array.shape), str(array.dtype), cut, f"{_codecs(array, names=False)}   {size}"


# --------------------------------------------------------------------------------------------- for programs


def _described(node: Node | GpuzarrError, depth: int, limit: int) -> dict[str, Any]:
    if isinstance(node, GpuzarrError):
        return {"type": "error", "error": str(node)}
    common = {"path": node.path, "zarr_format": node.zarr_format, "attributes": plain(node.attrs)}
    if isinstance(node, gpuzarr.Group):
        found = list(islice(members(node), limit + 1)) if depth > 0 else []
        return {
            "type": "group",
            **common,
            "consolidated": node.metadata.children is not None,
            "multiscales": [image.as_dict() for image in ome.multiscales(node.attrs)],
            "members": {name: _described(below, depth - 1, limit) for name, below in found[:limit]},
            "complete": depth > 0 and len(found) <= limit,
        }
    chunks, objects = _counts(node)
    return {
        "type": "array",
        **common,
        "shape": list(node.shape),
        "dtype": str(node.dtype),
        "chunks": plain(node.chunks),
        "shards": plain(node.shards),
        "chunk_count": chunks,
        "object_count": objects,
        "codecs": [{"name": codec.name, "configuration": plain(codec.to_config())} for codec in node.codecs],
        "fill_value": plain(node.fill_value),
        "dimension_names": plain(node.dimension_names),
        "nbytes": node.nbytes,
        "stored_nbytes": stored_nbytes(node.store, node.path),
    }


def plain(value: Any) -> Any:
    """A value as strict JSON has it: NaN and infinities as the strings that Zarr uses, NumPy values as
    Python's."""
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return str(value) if value.dtype.kind in "mMV" else plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, complex):
        return [plain(value.real), plain(value.imag)]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
