"""demo.png: a plane of the volume with the patches that were read, each patch framed in the colour of its
box."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuzarr.cli import picture

Key = tuple[slice, ...]

_WIDTH, _HEIGHT, _MARGIN, _HEAD, _FOOT = 1800, 1000, 40, 116, 64
_COLUMNS, _ROWS, _GAP = 4, 5, 14
_GROUND, _TEXT, _FAINT, _LINE = (5, 7, 15), (236, 242, 244), (134, 152, 168), (46, 60, 78)
_UNITS = {"micrometer": "um", "nanometer": "nm", "millimeter": "mm"}  # pillow's own font has no Greek letters


def draw(
    plane: NDArray[Any],
    box: Key,
    middle: tuple[int, ...],
    patches: Sequence[tuple[Key, NDArray[Any]]],
    scale: tuple[float, str] | None,
    facts: Sequence[str],
) -> Any:
    """A PIL image. `plane` is what lies at `middle` in `box`; `patches` are boxes and their elements; `scale`
    is the size and unit of an element along the last axis; `facts` are the two lines beside the title."""
    pil = picture.pillow()
    image = pil.Image.new("RGB", (_WIDTH, _HEIGHT), _GROUND)
    pen = pil.ImageDraw.Draw(image)
    room = _HEIGHT - _HEAD - _FOOT
    cell = (room - _GAP * (_ROWS - 1)) // _ROWS
    grid_width = _COLUMNS * cell + _GAP * (_COLUMNS - 1)
    ends = _ends(plane)
    shown = picture.fit(picture.coloured(_lit(plane, ends)), _WIDTH - 3 * _MARGIN - grid_width, room)
    left, top = _MARGIN, _HEAD + (room - shown.height) // 2
    image.paste(shown, (left, top))
    pen.rectangle((left - 1, top - 1, left + shown.width, top + shown.height), outline=_LINE)
    factor = shown.width / plane.shape[1], shown.height / plane.shape[0]
    chosen = _choose(patches, middle)
    crossing = [_crosses(key, middle) for key, _ in chosen]
    colours = dict(zip(np.flatnonzero(crossing).tolist(), picture.frame_colours(sum(crossing)), strict=True))
    grid_left = (left + shown.width + _WIDTH - grid_width) // 2
    for i, (key, values) in enumerate(chosen):
        at = grid_left + i % _COLUMNS * (cell + _GAP), _HEAD + i // _COLUMNS * (cell + _GAP)
        face = picture.fit(picture.coloured(_lit(_face(key, values, middle), ends)), cell, cell)
        image.paste(face, (at[0] + (cell - face.width) // 2, at[1] + (cell - face.height) // 2))
        colour = colours.get(i, _LINE)
        pen.rounded_rectangle(
            (at[0] - 3, at[1] - 3, at[0] + cell + 2, at[1] + cell + 2), 4, outline=colour, width=3
        )
        if crossing[i]:
            y, x = (s.start - b.start for s, b in zip(key[-2:], box[-2:], strict=True))
            corner = left + x * factor[0], top + y * factor[1]
            far = corner[0] + values.shape[-1] * factor[0], corner[1] + values.shape[-2] * factor[1]
            pen.rectangle((*corner, *far), outline=colour, width=3)

    def write(
        at: tuple[float, float], text: str, size: int, colour: tuple[int, int, int], anchor: str = "ls"
    ) -> None:
        pen.text(
            at, text.replace("×", "x"), colour, font=pil.ImageFont.load_default(size=size), anchor=anchor
        )

    write((_MARGIN, 72), "gpuzarr", 50, _TEXT)
    for line, fact in enumerate(facts):
        write((_MARGIN + 232, 48 + 30 * line), fact, 22, _FAINT if line else _TEXT)
    write(
        (left, _HEIGHT - 24),
        f"plane {', '.join(str(at) for at in middle)}" if middle else "all of it",
        19,
        _FAINT,
    )
    shape = " x ".join(str(n) for n in patches[0][1].shape)
    caption = f"{len(chosen)} of {len(patches)} patches of {shape}" + (
        "; coloured frames cross the plane" if any(crossing) else ""
    )
    write((grid_left - 3, _HEIGHT - 24), caption, 19, _FAINT)
    if scale is not None and scale[0] > 0:
        length = picture.scale_bar(scale[0] / factor[0], shown.width)
        right, bottom = left + shown.width - 24, top + shown.height - 26
        start = right - length / scale[0] * factor[0]
        pen.rectangle((start, bottom - 6, right, bottom), fill=_TEXT)
        write(
            ((start + right) / 2, bottom - 14),
            f"{length:g} {_UNITS.get(scale[1], scale[1])}",
            24,
            _TEXT,
            "ms",
        )
    return image


def save(image: Any, path: str) -> None:
    """Write the image."""
    picture.save(np.asarray(image), path)


def _choose(
    patches: Sequence[tuple[Key, NDArray[Any]]], middle: tuple[int, ...]
) -> list[tuple[Key, NDArray[Any]]]:
    """As many as there is room for: first those that cross the plane, unless they are dull; of each kind the
    liveliest."""
    lively = [
        float(np.nan_to_num(np.abs(_face(key, values, middle)).astype(np.float64)).std())
        for key, values in patches
    ]
    dull = 0.15 * max(lively)
    ranks = [
        (_crosses(key, middle) and one >= dull, one) for (key, _), one in zip(patches, lively, strict=True)
    ]
    order = sorted(range(len(patches)), key=lambda i: ranks[i], reverse=True)
    return [patches[i] for i in order[: _COLUMNS * _ROWS]]


def _crosses(key: Key, middle: tuple[int, ...]) -> bool:
    return all(s.start <= at < s.stop for s, at in zip(key, middle, strict=False))


def _face(key: Key, values: NDArray[Any], middle: tuple[int, ...]) -> NDArray[Any]:
    """The plane of a patch that lies in the picture's plane, else its own middle."""
    crossing = _crosses(key, middle)
    for axis in range(values.ndim - 2):
        values = values[middle[axis] - key[axis].start if crossing else values.shape[0] // 2]
    return values


def _ends(plane: NDArray[Any]) -> tuple[float, float] | None:
    """Darkest and brightest value of the picture, for the plane and the patches alike; None where they say
    nothing."""
    if plane.dtype.kind == "c":
        return None
    finite = plane[np.isfinite(plane)]
    if not finite.size:
        return None
    low, high = (float(end) for end in np.percentile(finite, (0.5, 99.85)))
    return (low, high) if high > low else None


def _lit(values: NDArray[Any], ends: tuple[float, float] | None) -> NDArray[np.float32]:
    """Values from 0 to 1, the dark ones a little brighter."""
    if ends is None:
        return picture.stretch(values)
    scaled = (np.nan_to_num(values.astype(np.float32)) - ends[0]) / (ends[1] - ends[0])
    return picture.curve(scaled, 0.75)
