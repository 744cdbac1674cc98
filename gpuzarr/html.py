"""Arrays, groups and images as notebooks show them: a table, and a picture of how an array is cut.

HTML that stands for itself: inline SVG, no scripts, nothing that is loaded; and no colours but the page's own
and translucent ones, so that it is readable on light and dark pages. Nothing is asked of a store: what a
handle does not know is not shown. All words come from strangers, and pass `text`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from html import escape
from itertools import islice
from math import prod
from typing import Any, Protocol

import numpy as np

from gpuzarr.codecs.base import Codec
from gpuzarr.engine.explain import size_text
from gpuzarr.errors import GpuzarrError
from gpuzarr.grid import Axis
from gpuzarr.meta.model import ArrayMeta
from gpuzarr.store.memory import MappingStore

_ROWS = 60  # members of a group, attributes of a node
_LEVELS = 5  # boxes of a pyramid
_DEPTH = 12  # levels of groups that are indented
_COUNTED = 100_000  # objects in memory whose sizes are added up
_SIDE = 150.0  # of a picture, in pixels
_GAP = 4.0  # pixels that lines are apart, at least
_SHARDS, _BODY = "#d9730d", "#4a86cf"

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+")
_TELLING = {"cname", "clevel", "level", "shuffle"}  # shown though they be as usual
_LEFT = 'style="text-align:left;vertical-align:top"'
_NOTE = 'style="opacity:.65;font-size:85%"'


class Level(Protocol):
    """What is shown of one resolution of an image. `gpuzarr.ome.Level` is one."""

    @property
    def path(self) -> str:
        """Its name."""
        ...

    @property
    def array(self) -> Any:
        """Its elements, a `gpuzarr.Array`."""
        ...

    @property
    def sizes(self) -> str:
        """Those of its elements, as people read them."""
        ...


# ---- what is shown


def describe_array(array: Any) -> str:
    """A `gpuzarr.Array` as HTML."""
    meta, names = array.metadata, _names(array)
    counts = [f"{prod(grid.shape):,} of them" for grid in (meta.chunk_grid, meta.grid)]
    rows = [("shape", _named(array.shape, names)), ("type", str(array.dtype))]
    rows.append(("chunks", f"{_cut(array)}, {counts[0]}{_each(array)}"))
    if meta.levels:
        rows.append(("shards", f"{_by(array.shards or ())}, {counts[1]}"))
    rows += [
        ("codecs", _codecs(array.codecs)),
        ("fill value", _value(array.fill_value)),
        ("size", _size(array)),
    ]
    listed = "".join(
        f"<tr><th {_LEFT}>{label}</th><td {_LEFT}>{text(value)}</td></tr>" for label, value in rows
    )
    head = _head(array.name, f"array, Zarr v{array.zarr_format}, on {array.device}")
    return _beside(f"{head}<table>{listed}</table>", _picture(array, names))


def describe_group(group: Any) -> str:
    """A `gpuzarr.Group` as HTML: its members, where they came with its metadata, and its attributes, where
    they are known."""
    children, shown = group.metadata.children, ""
    facts = f"group, Zarr v{group.zarr_format}"
    if children is None:
        hint = "listing its members asks the store: <code>print(group.tree())</code>"
        shown = f"<div {_NOTE}>{hint}</div>"
    else:
        facts += ", consolidated metadata"
        rows = list(islice(_members(group, children), _ROWS + 1))
        header = ("", "shape", "type", "chunks", "shards", "codecs", "size")
        shown = _table(header, rows[:_ROWS]) if rows else f"<div {_NOTE}>nothing in it</div>"
        if len(rows) > _ROWS:
            shown += f"<div {_NOTE}>and more: <code>print(group.tree())</code></div>"
    known = group.metadata.attributes if group._attributes is None else group._attributes
    return f"<div>{_head(group.name, facts)}{shown}{_attributes(known)}</div>"


def describe_multiscale(levels: Sequence[Level], title: str = "", axes: Sequence[str] = ()) -> str:
    """The levels of an image as HTML, finest first, under a title. `axes`: names of the dimensions, where the
    arrays do not have them."""
    rows, pictures = [], []
    largest = max((max(level.array.shape[-3:], default=0) for level in levels), default=0)
    for i, level in enumerate(levels):
        array = level.array
        cells = (_named(array.shape, axes or _names(array)), str(array.dtype), _cut(array), _shards(array))
        if i < _ROWS:
            rows.append([text(cell) for cell in (level.path, *cells, level.sizes, size_text(array.nbytes))])
        if i < _LEVELS and largest:
            side = _SIDE * max(max(array.shape[-3:], default=0) / largest, 0.12)
            pictures.append(_picture(array, axes or _names(array), side, plain=i > 0))
    header = ("level", "shape", "type", "chunks", "shards", "element", "size")
    head = _head(title, f"{len(levels):,} level{'s' * (len(levels) != 1)}")
    return f"<div>{head}{_table(header, rows)}{_beside(*pictures)}</div>"


# ---- text


def text(value: object, width: int = 240) -> str:
    """The beginning of a stranger's text, safe between tags and in attributes."""
    clean = _CONTROL.sub(" ", str(value)[: 4 * width])
    return escape(clean if len(clean) <= width else clean[: width - 1] + "…")


def _head(name: str, facts: str) -> str:
    return f"<div><b>{text(name)}</b> <span {_NOTE}>{text(facts)}</span></div>"


def _beside(*parts: str) -> str:
    held = "".join(f"<div>{part}</div>" for part in parts if part)
    return f'<div style="display:flex;flex-wrap:wrap;gap:1.5em;align-items:center">{held}</div>'


def _table(header: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """Of cells that are HTML."""
    lines = ["".join(f"<th {_LEFT}>{cell}</th>" for cell in header)] if header else []
    lines += ["".join(f"<td {_LEFT}>{cell}</td>" for cell in row) for row in rows]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _by(sizes: Sequence[int]) -> str:
    return " × ".join(f"{size:,}" for size in sizes) or "one element"


def _named(sizes: Sequence[int], names: Sequence[str | None]) -> str:
    if len(names) != len(sizes) or not any(names):
        return _by(sizes)
    return f"{_by(sizes)} ({' '.join(name or '–' for name in names)})"


def _names(array: Any) -> Sequence[str | None]:
    """The names of the dimensions, where they are known; v2 has them among the attributes."""
    known = array.metadata.attributes if array._attributes is None else array._attributes
    return () if array.zarr_format == 2 and known is None else array.dimension_names or ()


def _cut(array: Any) -> str:
    grid = array.metadata.chunk_grid
    if grid.chunk_shape is not None:
        return _by(grid.chunk_shape)
    return " × ".join(f"{axis.count:,} varying" for axis in grid.axes)


def _shards(array: Any) -> str:
    return _by(array.shards) if array.shards else ""


def _each(array: Any) -> str:
    shape = array.metadata.chunk_grid.chunk_shape
    if shape is None or not array.metadata.has_bytes:
        return ""
    return f", {size_text(prod(shape) * array.dtype.itemsize)} each"


def _codecs(codecs: Sequence[Codec], names: bool = True) -> str:
    return " → ".join(_codec(codec, names) for codec in codecs if codec.name != "bytes") or "not compressed"


def _codec(codec: Codec, names: bool) -> str:
    """A codec, and what is not as usual of it: `zstd(level=3)`, or shorter `zstd(3)`."""
    usual = {field.name: field.default for field in fields(codec) if field.name not in _TELLING}
    given = [
        f"{name}={str(value)[:24]}" if names else str(value)[:24]
        for name, value in codec.to_config().items()
        if value is not None and usual.get(name) != value and (codec.name, name) != ("blosc", "typesize")
    ]
    return codec.name.removeprefix("numcodecs.") + (f"({', '.join(given[:8])})" if given else "")


def _value(value: Any) -> str:
    return repr(str(value)) if isinstance(value, str) else str(value)


def _size(array: Any) -> str:
    stored = _stored(array)
    return size_text(array.nbytes) + ("" if stored is None else f" decoded, {size_text(stored)} stored")


def _stored(array: Any) -> int | None:
    """Bytes of an array's objects, where they lie in memory."""
    store = array.store
    if (
        not isinstance(store, MappingStore)
        or type(store.mapping) is not dict
        or len(store.mapping) > _COUNTED
    ):
        return None
    prefix = f"{array.path}/" if array.path else ""
    try:
        return sum(store.size(key) or 0 for key in list(store.mapping) if key.startswith(prefix))
    except (AttributeError, TypeError):
        return None  # a dict of other things


def _attributes(known: Mapping[str, Any] | None) -> str:
    if not known:
        return ""
    rows = [(f"<b>{text(name, 60)}</b>", text(value)) for name, value in islice(known.items(), _ROWS)]
    more = f"<div {_NOTE}>and {len(known) - _ROWS:,} more</div>" if len(known) > _ROWS else ""
    return f"<details><summary>attributes ({len(known):,})</summary>{_table((), rows)}{more}</details>"


def _members(group: Any, children: Mapping[str, Any]) -> Iterator[list[str]]:
    """The rows of a group's members, each below the groups that it is in."""
    above: list[str] = []
    for path in sorted((path for path in children if path.strip("/")), key=lambda path: path.split("/")):
        parts = path.split("/")
        same = next((i for i, (a, b) in enumerate(zip(above, parts[:-1], strict=False)) if a != b), None)
        same = min(len(above), len(parts) - 1) if same is None else same
        for depth in range(same, len(parts) - 1):
            yield [_branch(depth, f"{parts[depth]}/"), *[""] * 6]
        above = parts
        yield [
            _branch(len(parts) - 1, parts[-1] + "/" * (not _is_array(children[path]))),
            *_facts(group, path),
        ]


def _is_array(document: Mapping[str, Any]) -> bool:
    return document.get("node_type") == "array" or ("node_type" not in document and "shape" in document)


def _branch(depth: int, name: str) -> str:
    return f'<span style="padding-left:{1.2 * min(depth, _DEPTH):g}em">{text(name, 60)}</span>'


def _facts(group: Any, path: str) -> list[str]:
    """The cells of a member, from its consolidated document."""
    try:
        node = group[path]
    except GpuzarrError as error:
        return [f"<span {_NOTE}>cannot be read: {text(error, 120)}</span>", *[""] * 5]
    if not isinstance(node.metadata, ArrayMeta):
        return [""] * 6
    cells = (
        _named(node.shape, _names(node)),
        node.dtype,
        _cut(node),
        _shards(node),
        _codecs(node.codecs, False),
    )
    return [*(text(cell, 120) for cell in cells), size_text(node.nbytes)]


# ---- the picture


def _picture(array: Any, names: Sequence[str | None], longest: float = _SIDE, plain: bool = False) -> str:
    """An array's last three dimensions as a box that is cut along its chunks and shards; those before in
    words. `plain`: without words."""
    shape, meta = array.shape, array.metadata
    if not shape or not prod(shape):
        return ""
    named = names if len(names) == len(shape) else [None] * len(shape)
    labels = [f"{(name or '')[:12]} {size:,}".strip() for name, size in zip(named, shape, strict=True)]
    box = _Box.of(shape[-3:], longest, [] if plain else labels[-3:])
    chunks, thinned = box.lines(meta.chunk_grid.axes[-3:])
    shards, thinned_shards = box.lines(meta.grid.axes[-3:]) if meta.levels else ("", False)
    drawn = [
        *(f'<path d="{face}" fill="{_BODY}" fill-opacity="{alpha}"/>' for face, alpha in box.faces()),
        f'<path d="{chunks}" fill="none" stroke="currentColor" stroke-opacity=".45" stroke-width=".8"/>',
        f'<path d="{shards}" fill="none" stroke="{_SHARDS}" stroke-width="1.6"/>' if meta.levels else "",
        f'<path d="{box.outline()}" fill="none" stroke="currentColor" stroke-width="1.4"/>',
        *box.words(),
    ]
    size = f'width="{box.width:.0f}" height="{box.height:.0f}" viewBox="0 0 {box.width:.1f} {box.height:.1f}"'
    said = f'role="img" aria-label="{text(_by(shape))} in chunks of {text(_cut(array))}"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {said}>{"".join(drawn)}</svg>'
    if plain:
        return svg
    notes = [text(f"{_named(shape[:-3], named[:-3])} of these")] if len(shape) > 3 else []
    notes.append(_legend("chunks", "currentColor", ".8", thinned))
    notes += [_legend("shards", _SHARDS, "1.6", thinned_shards)] if meta.levels else []
    return f"{svg}<div {_NOTE}>{'<br>'.join(notes)}</div>"


def _legend(word: str, colour: str, width: str, thinned: bool) -> str:
    line = f'<path d="M0 4H16" stroke="{colour}" stroke-width="{width}"/>'
    more = ", some of the lines" if thinned else ""
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="16" height="8">{line}</svg> {word}{more}'


class _Box:
    """A box of one to three sides in a picture, with a label at each. Its points are given by their share of
    each side: to the right, down, and away."""

    def __init__(self, sides: Sequence[float], labels: Sequence[str]) -> None:
        z, y, x = (*(0.0,) * (3 - len(sides)), *sides)
        self.ndim, self.labels = len(sides), labels
        self.x, self.y = x, y if self.ndim > 1 else 22.0
        self.away, self.up = 0.62 * z, 0.45 * z
        room = [7.0 * len(label) + 8 for label in labels]  # that labels take, more or less
        beyond = max(room[-1] - x, 0) / 2 if labels else 2.0
        self.left = max(beyond, room[-2] if labels and self.ndim > 1 else 0)
        right = max(beyond, self.away + 4, self.away / 2 + room[0] if labels and self.ndim > 2 else 0)
        self.top = self.up + 4
        self.width, self.height = self.left + x + right, self.top + self.y + (20 if labels else 4)

    @classmethod
    def of(cls, shape: Sequence[int], longest: float, labels: Sequence[str]) -> _Box:
        """Sides in the proportions of `shape`, but none so short that nothing is seen of it."""
        shares = [size / max(shape) for size in shape]
        drawn = [share if share > 0.2 else max(0.2 * (5 * share) ** 0.4, 0.1) for share in shares]
        return cls([longest * share for share in drawn], labels)

    def at(self, right: float, down: float, away: float) -> str:
        """A point in the picture."""
        x = self.left + right * self.x + away * self.away
        return f"{x:.1f} {self.top + down * self.y - away * self.up:.1f}"

    def path(self, *points: tuple[float, float, float]) -> str:
        """Lines from point to point."""
        return "M" + "L".join(self.at(*point) for point in points)

    def faces(self) -> Iterator[tuple[str, str]]:
        """What is seen of it, and how dark it is."""
        yield self.path((0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)) + "Z", ".22"
        if self.ndim > 2:
            yield self.path((0, 0, 0), (0, 0, 1), (1, 0, 1), (1, 0, 0)) + "Z", ".12"
            yield self.path((1, 0, 0), (1, 0, 1), (1, 1, 1), (1, 1, 0)) + "Z", ".34"

    def outline(self) -> str:
        """The edges of all faces."""
        return "".join(face for face, _ in self.faces())

    def lines(self, axes: Sequence[Axis]) -> tuple[str, bool]:
        """Where a grid cuts it; and whether some of the lines are left out, as there is no room for all."""
        paths, thinned = [], False
        lengths = (max(self.away, self.up), self.y, self.x)[3 - self.ndim :]
        for dimension, (axis, length) in enumerate(zip(axes, lengths, strict=True), 3 - self.ndim):
            every = 1
            while -(-axis.count // every) * _GAP > max(length, _GAP):
                every *= 2
            thinned |= every > 1 and axis.count > 1
            cuts = axis.low(np.arange(every, axis.count, every, dtype=np.int64)) / axis.length
            for cut in cuts.tolist():
                if dimension == 2:
                    paths.append(self.path((cut, 1, 0), (cut, 0, 0), (cut, 0, 1)))
                elif dimension == 1:
                    paths.append(self.path((0, cut, 0), (1, cut, 0), (1, cut, 1)))
                else:
                    paths.append(self.path((0, 0, cut), (1, 0, cut), (1, 1, cut)))
        return "".join(paths), thinned

    def words(self) -> Iterator[str]:
        """The label of each side."""
        places = [
            (self.left + self.x + self.away / 2 + 6, self.top + self.y - self.up / 2 + 8, "start"),
            (self.left - 5, self.top + self.y / 2 + 4, "end"),
            (self.left + self.x / 2, self.top + self.y + 14, "middle"),
        ][3 - self.ndim :]
        for label, (x, y, anchor) in zip(self.labels, places, strict=False):
            place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
            font = 'font-family="sans-serif" font-size="11" fill="currentColor"'
            yield f"<text {place} {font}>{text(label, 40)}</text>"
