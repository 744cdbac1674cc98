"""Grid coordinates to keys (Zarr v3 chunk key encodings `default` and `v2`; v2 `dimension_separator`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class KeyEncoding:
    """`default` puts a `c` before the coordinates: c/0/1. `v2` does not: 0.1."""

    name: Literal["default", "v2"]
    separator: Literal["/", "."]

    def cell(self, key: str, ndim: int) -> tuple[int, ...] | None:
        """The chunk that a key names; None if it names none."""
        if ndim == 0:
            return () if key == self.key(()) else None
        parts = key.split(self.separator)
        if self.name == "default":
            if parts[0] != "c":
                return None
            parts = parts[1:]
        if len(parts) != ndim or not all(part.isascii() and part.isdigit() for part in parts):
            return None
        cell = tuple(int(part) for part in parts)
        return cell if self.key(cell) == key else None

    def key(self, cell: Iterable[int]) -> str:
        """The key of one chunk, relative to its array."""
        numbers = self.separator.join(map(str, cell))
        if self.name == "v2":
            return numbers or "0"
        return f"c{self.separator}{numbers}" if numbers else "c"
