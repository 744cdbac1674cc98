"""How the channels of an image are called and shown: the `omero` metadata. Images can be read without them,
so what is not as the specification has it is left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Channel:
    """How a channel is called and shown, from `omero`."""

    label: str
    color: tuple[int, int, int] | None
    """Red, green and blue, 0 to 255."""
    window: tuple[float, float] | None
    """The values that are shown as black and as the full colour."""
    active: bool = True


def channels(omero: Any) -> tuple[Channel, ...]:
    """Every channel that `omero` lists."""
    listed = omero.get("channels") if isinstance(omero, dict) else None
    return tuple(_channel(one) for one in listed) if isinstance(listed, list) else ()


def _channel(one: Any) -> Channel:
    given = one if isinstance(one, dict) else {}
    color, window = given.get("color"), given.get("window")
    rgb = None
    if isinstance(color, str) and len(color) == 6 and set(color.lower()) <= set("0123456789abcdef"):
        rgb = (int(color[:2], 16), int(color[2:4], 16), int(color[4:], 16))
    ends: tuple[Any, Any] = (
        (window.get("start"), window.get("end")) if isinstance(window, dict) else (None, None)
    )
    known = all(type(end) in (int, float) and abs(end) < 1e300 for end in ends)
    label = given.get("label")
    return Channel(
        label if isinstance(label, str) else "",
        rgb,
        (float(ends[0]), float(ends[1])) if known else None,
        given.get("active") is not False,
    )
