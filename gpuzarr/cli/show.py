"""What commands print with: lines, tables, progress; in colour on a terminal if `rich` is installed, else
plain.

A line is made of parts: a text, or (text, style), a style being one of STYLES. What comes out of files passes
`clean`: control characters in a stranger's attributes would otherwise reach the terminal.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TextIO

from gpuzarr.engine.explain import size_text
from gpuzarr.errors import ArgumentError

STYLES = {
    "name": "bold cyan", "title": "bold", "type": "green", "note": "dim", "number": "magenta",
    "good": "bold green", "warn": "yellow", "bad": "bold red",
}  # fmt: skip

Part = str | tuple[str, str]
Advance = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Screen:
    """Where a command prints. `console` is rich's; None: plain lines."""

    stream: TextIO
    console: Any = None

    @classmethod
    def on(cls, stream: TextIO, plain: bool = False) -> Screen:
        """A screen in colour where that works."""
        if plain or not stream.isatty():
            return cls(stream)
        try:
            from rich.console import Console
        except ImportError:
            return cls(stream)
        return cls(stream, Console(file=stream, highlight=False, soft_wrap=True))

    def line(self, *parts: Part) -> None:
        """One line."""
        pairs = [(part, "") if isinstance(part, str) else part for part in parts]
        if self.console is None:
            self.stream.write("".join(clean(text) for text, _ in pairs).rstrip() + "\n")
            return
        from rich.text import Text

        self.console.print(Text.assemble(*((clean(text), STYLES.get(style, "")) for text, style in pairs)))

    def text(self, lines: str, style: str = "") -> None:
        """Several lines in one style."""
        for line in lines.splitlines():
            self.line((line, style))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[Part]]) -> None:
        """Columns under a rule, the first flush left, the others flush right."""
        cells = [[(cell, "") if isinstance(cell, str) else cell for cell in row] for row in rows]
        widths = [max([len(title), *(len(row[i][0]) for row in cells)]) for i, title in enumerate(header)]
        self.line(("  ".join(_flush(title, i, widths[i]) for i, title in enumerate(header)), "title"))
        self.line(("  ".join("─" * width for width in widths), "note"))
        for row in cells:
            self.line(
                *(
                    (("  " if i else "") + _flush(text, i, widths[i]), style)
                    for i, (text, style) in enumerate(row)
                )
            )

    @contextmanager
    def progress(self, label: str, total: float) -> Iterator[Advance]:
        """Yields what to call with the amount done since the last call. Shown on stderr, as stdout may be
        piped; what took a second or more leaves a line."""
        began = perf_counter()
        if self.console is None or not sys.stderr.isatty():
            yield lambda _: None
        else:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(36),
                TaskProgressColumn(),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
                task = bar.add_task(label, total=total)
                yield lambda amount: bar.advance(task, amount)
        spent = perf_counter() - began
        if spent >= 1:
            self.line((f"{label}: {spent:.1f} s", "note"))


def _flush(text: str, column: int, width: int) -> str:
    return text.rjust(width) if column else text.ljust(width)


def clean(text: str) -> str:
    """One line without control characters."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+", " ", text)


def brief(value: object, width: int = 60) -> str:
    """The beginning of a value's text."""
    text = clean(str(value)[: 4 * width])
    return text if len(text) <= width else text[: width - 1] + "…"


def by(sizes: Sequence[Any] | None) -> str:
    """A shape as people write it: 64 × 64 × 64."""
    if sizes is None:
        return "–"
    if any(isinstance(size, tuple) for size in sizes):
        return " × ".join(f"{len(size)} varying" for size in sizes)
    return " × ".join(f"{size:,}" for size in sizes) or "one element"


def storage_options(pairs: Sequence[str]) -> dict[str, Any] | None:
    """`--option anon=true` as what fsspec takes; values are JSON, or else text."""
    import json

    options: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator or not name:
            raise ArgumentError(f"--option {pair}", hint="write --option NAME=VALUE")
        try:
            options[name] = json.loads(text)
        except ValueError:
            options[name] = text
    return options or None


__all__ = ["STYLES", "Advance", "Part", "Screen", "brief", "by", "clean", "size_text", "storage_options"]
