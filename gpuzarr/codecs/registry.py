"""Names to codecs. A name stands for one codec: registering it twice is an error.

Zarr v3 names are as in a `codecs` list (`gzip`, `numcodecs.delta`), v2 names as in `compressor` and `filters`
(`gzip`, `delta`). A name that is not here is looked up in numcodecs' own registry and wrapped
(`codecs.generic`).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar

import gpuzarr.codecs
from gpuzarr.codecs.base import Codec
from gpuzarr.errors import MetadataError, UnsupportedError

C = TypeVar("C", bound=type[Codec])

_v3: dict[str, type[Codec]] = {}
_v2: dict[str, type[Codec]] = {}


def codec(*names: str, v2: str | tuple[str, ...] = ()) -> Callable[[C], C]:
    """Register a codec class under its Zarr v3 names and its v2 names. The first name is the one in
    messages."""

    def register(cls: C) -> C:
        v2_names = (v2,) if isinstance(v2, str) else v2
        for table, added in ((_v3, names), (_v2, v2_names)):
            for name in added:
                if name in table:
                    raise ValueError(f"codec {name!r} is registered twice: {table[name]} and {cls}")
                table[name] = cls
        cls.name = (names or v2_names)[0]
        return cls

    return register


@cache
def _load() -> None:
    """Import every module of this package, so that each registers its codecs."""
    for module in pkgutil.iter_modules(gpuzarr.codecs.__path__):
        importlib.import_module(f"gpuzarr.codecs.{module.name}")


def names() -> tuple[dict[str, type[Codec]], dict[str, type[Codec]]]:
    """The registered codecs by their v3 and by their v2 names."""
    _load()
    return dict(_v3), dict(_v2)


def from_v3(name: str, configuration: Mapping[str, Any]) -> Codec:
    """The codec of one entry of a v3 `codecs` list."""
    return _make(_v3, name, name.removeprefix("numcodecs."), configuration)


def list_from_v3(entries: Any, what: str) -> tuple[Codec, ...]:
    """A v3 list of codecs. An entry is an object with a name and perhaps a configuration, or a name."""
    if not isinstance(entries, list):
        raise MetadataError(f"{what} is not a list")
    codecs: list[Codec] = []
    for entry in entries:
        name = entry.get("name") if isinstance(entry, dict) else entry
        configuration = (entry.get("configuration") if isinstance(entry, dict) else None) or {}
        if not isinstance(name, str) or not isinstance(configuration, dict):
            raise MetadataError(f"{what} holds {entry!r}, which is neither a name nor an object with one")
        codecs.append(from_v3(name, configuration))
    return tuple(codecs)


def from_v2(document: Mapping[str, Any]) -> Codec:
    """The codec of a v2 `compressor` or of one entry of `filters`: its `id` and its options."""
    name = document.get("id")
    if not isinstance(name, str):
        raise MetadataError(f"a codec without an id: {dict(document)!r}")
    return _make(_v2, name, name, {key: value for key, value in document.items() if key != "id"})


def _make(table: dict[str, type[Codec]], name: str, v2_name: str, configuration: Mapping[str, Any]) -> Codec:
    _load()
    if v2_name == "pickle":
        raise UnsupportedError(
            "pickle runs code that the data brings along, so gpuzarr never decodes it",
            codec=name,
            hint="convert the array with software that trusts it",
        )
    cls = table.get(name)
    if cls is not None:
        return cls.from_config(configuration)
    from gpuzarr.codecs.generic import Generic

    return Generic.find(name, v2_name, configuration)
