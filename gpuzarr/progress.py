"""How far a long call has come: a bar with rate and time left where `rich` and a terminal are, one plain line
that is rewritten on other terminals, now and then a line where stderr goes elsewhere."""

from __future__ import annotations

import sys
from time import monotonic
from types import TracebackType
from typing import Any, Self, TextIO

from gpuzarr.engine.explain import size_text

_OFTEN = 0.1  # seconds between two lines on a terminal
_SELDOM = 10.0  # and in a log
_SPAN = 5.0  # seconds that the rate is averaged over


class Meter:
    """Call it with the bytes done and the total; it is a context manager too."""

    def __init__(self, label: str, stream: TextIO | None = None, *, plain: bool = False) -> None:
        self.label = label
        self.stream = stream or sys.stderr
        self._live = self.stream.isatty()
        self._bar: Any = None if plain or not self._live else _bar(self.stream)
        self._task: Any = None
        self._shown = monotonic() if not self._live else 0.0
        self._width = 0
        self._seen: list[tuple[float, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing stays on a terminal."""
        if self._bar is not None:
            self._bar.stop()
        elif self._live and self._width:
            self.stream.write("\r" + " " * self._width + "\r")
            self.stream.flush()

    def __call__(self, done: int, total: int) -> None:
        """Show it, if it is time."""
        now = monotonic()
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[1][0] < now - _SPAN:
            self._seen.pop(0)
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task(self.label, total=max(total, 1), amount="", rest="")
                self._bar.start()
            amount, rest = self._texts(done, total)
            whole = max(total, 1)
            self._bar.update(
                self._task, completed=done if total else 1, total=whole, amount=amount, rest=rest
            )
        elif now - self._shown >= (_OFTEN if self._live else _SELDOM):
            self._shown = now
            self._line(done, total)

    def _line(self, done: int, total: int) -> None:
        amount, rest = self._texts(done, total)
        text = f"{self.label}  {100 * done // max(total, 1):3d} %  {amount}  {rest}".rstrip()
        if self._live:
            self.stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self.stream.write(text + "\n")
        self.stream.flush()

    def _texts(self, done: int, total: int) -> tuple[str, str]:
        """The amount, and rate and time left once they are known."""
        amount = f"{size_text(done)} of {size_text(total)}"
        (began, before), (now, _) = self._seen[0], self._seen[-1]
        if now - began < 0.2 or done <= before:
            return amount, ""
        rate = (done - before) / (now - began)
        return amount, f"{size_text(rate)}/s  {clock((total - done) / rate)} left"


def clock(seconds: float) -> str:
    """A duration as people read it: 0:07, 1:02:03."""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


def _bar(stream: TextIO) -> Any:
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    except ImportError:
        return None
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(36),
        TaskProgressColumn(),
        TextColumn("{task.fields[amount]}"),
        TextColumn("[dim]{task.fields[rest]}"),
        console=Console(file=stream, highlight=False),
        transient=True,
    )
