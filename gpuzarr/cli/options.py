"""What commands that write take: shapes, codecs and JSON as text, and advice in their words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gpuzarr.errors import ArgumentError, GpuzarrError

_CODEC = r"\s*[\w.-]+\s*(?:\([^()]*\))?\s*"
_NAMED = r"(?P<name>[\w.-]+)\s*(?:\((?P<options>[^()]*)\))?\s*(?:,|$)"


def shape(text: str | None, option: str) -> Any:
    """`64,64,64` as a shape, `10+20+30,64` as sizes along the first axis; `auto` stays, `none` is False, and
    nothing is None."""
    if text is None or text == "auto":
        return text
    if text == "none":
        return False
    parts = [part.split("+") for part in re.split("[,x×]", text.strip("()[] "))]
    listed = [[number.strip() for number in numbers] for numbers in parts]
    if not all(one.isascii() and one.isdigit() and len(one) < 20 for numbers in listed for one in numbers):
        raise ArgumentError(f"{option} {text} is no shape", hint=f"write {option} 64,64,64")
    sizes = [tuple(int(one) for one in numbers) for numbers in listed]
    return tuple(one[0] if len(one) == 1 else one for one in sizes)


def shapes(text: str | None, option: str) -> Any:
    """A shape, or several separated by `;` for shards in shards, outermost first."""
    if text is None or ";" not in text:
        return shape(text, option)
    return [shape(part, option) for part in text.split(";")]


def codecs(text: str | None) -> Any:
    """`zstd,crc32c` as names, `zstd(level=3)` with options, JSON as it is; `auto` stays, `none` is no
    codec."""
    if text is None or text == "auto":
        return text
    if text == "none":
        return []
    if text.lstrip().startswith(("[", "{")):
        return json_value(text, "--codecs")
    if not re.fullmatch(rf"{_CODEC}(,{_CODEC})*", text):
        hint = 'write --codecs zstd,crc32c, or "zstd(level=3)", or JSON'
        raise ArgumentError(f"--codecs {text} is no list of codecs", hint=hint)
    return [_codec(one["name"], one["options"]) for one in re.finditer(_NAMED, text)]


def _codec(name: str, options: str | None) -> Any:
    if not options:
        return name
    pairs = [pair.partition("=") for pair in options.split(",")]
    return {"name": name, "configuration": {key.strip(): _loose(value.strip()) for key, _, value in pairs}}


def _loose(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def json_value(text: str, option: str) -> Any:
    """JSON, or an ArgumentError that says where it is wrong."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise ArgumentError(
            f"{option}: {text[:60]} is not JSON: {error}", hint="text stands in quotes: '\"text\"'"
        ) from error


def fill(text: str | None) -> Any:
    """A fill value: JSON, NaN and Infinity, or else text."""
    return None if text is None else _loose(text)


@contextmanager
def in_flags() -> Iterator[None]:
    """What errors advise in the words of the command line: `overwrite=True` is `--overwrite`."""
    try:
        yield
    except GpuzarrError as error:
        if error.hint:
            hint = error.hint.replace("zarr_format=", "--format ")
            error.hint = re.sub(r"\b(overwrite|resume)(?:=True)?\b", r"--\1", hint)
        raise
