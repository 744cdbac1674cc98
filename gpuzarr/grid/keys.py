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

    def key(self, cell: Iterable[int]) -> str:
        """The key of one chunk, relative to its array."""
        numbers = self.separator.join(map(str, cell))
        if self.name == "v2":
            return numbers or "0"
        return f"c{self.separator}{numbers}" if numbers else "c"
