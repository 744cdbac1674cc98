"""What was measured, as a table and as JSON."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gpuzarr import config
from gpuzarr.cli.doctor import cpu_text
from gpuzarr.cli.show import Part, Screen


@dataclass(slots=True)
class Row:
    """One workload. `seconds` are medians by reader; ours under `gpuzarr`."""

    suite: str
    name: str
    goal: float | None
    """What the best peer's time over ours shall at least be; for `unit`, the most that `value` may be."""
    seconds: dict[str, float] = field(default_factory=dict)
    value: float | None = None
    unit: str = ""
    note: str = ""

    @property
    def best(self) -> str | None:
        """The fastest peer."""
        peers = {name: spent for name, spent in self.seconds.items() if name != "gpuzarr"}
        return min(peers, key=lambda name: peers[name]) if peers else None

    @property
    def ratio(self) -> float | None:
        """The best peer's time over ours."""
        return self.seconds[self.best] / self.seconds["gpuzarr"] if self.best else None

    @property
    def verdict(self) -> str:
        """Whether the goal is met; `even` if it is not, but no peer is faster."""
        if self.goal is None or (self.ratio is None and self.value is None):
            return "–"
        if self.value is not None:
            return "met" if self.value <= self.goal else "short"
        assert self.ratio is not None
        return "met" if self.ratio >= self.goal else "even" if self.ratio >= 1 else "slower"


_STYLES = {"met": "good", "even": "", "short": "bad", "slower": "bad", "–": "note"}


def show(rows: list[Row], screen: Screen) -> None:
    """One table for everything that has peers, one for the rest."""
    names = list(dict.fromkeys(name for row in rows for name in row.seconds))
    timed = [row for row in rows if row.seconds]
    if timed:
        header = ["workload", *(f"{name} ms" for name in names), "best peer", "ratio", "goal", ""]
        cells: list[list[Part]] = []
        for row in timed:
            times: list[Part] = [
                f"{row.seconds[name] * 1e3:,.2f}" if name in row.seconds else "–" for name in names
            ]
            ratio = (f"{row.ratio:.2f}" if row.ratio else "–", _STYLES[row.verdict])
            goal = f"{row.goal:.2f}" if row.goal else "–"
            cells.append(
                [
                    f"{row.suite}: {row.name}",
                    *times,
                    row.best or "–",
                    ratio,
                    goal,
                    (row.verdict, _STYLES[row.verdict]),
                ]
            )
        screen.table(header, cells)
        screen.line(
            (
                "medians; ratio: the best peer's time over ours; every result was equal before it was timed",
                "note",
            )
        )
        screen.line()
    single = [row for row in rows if row.value is not None]
    if single:
        header = ["measured", "value", "goal at most", ""]
        screen.table(
            header,
            [
                [
                    f"{row.suite}: {row.name}",
                    f"{row.value:.2f} {row.unit}",
                    f"{row.goal:g} {row.unit}" if row.goal is not None else "–",
                    (row.verdict, _STYLES[row.verdict]),
                ]
                for row in single
            ],
        )


def write(path: Path, rows: list[Row], **settings: Any) -> None:
    """Everything a later reader needs to judge the numbers."""
    packages = ("gpuzarr", "numpy", "numcodecs", "zarr", "zarrs", "tensorstore")
    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": {
            "processor": cpu_text(),
            "threads": config.current().threads,
            "system": platform.platform(),
        },
        "python": sys.version.split()[0],
        "versions": {name: version for name in packages if (version := _version(name))},
        "settings": settings,
        "rows": [
            {**asdict(row), "best": row.best, "ratio": row.ratio, "verdict": row.verdict} for row in rows
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")


def _version(package: str) -> str | None:
    if package == "gpuzarr":
        import gpuzarr

        return gpuzarr.__version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The checkout's commit, with a `+` if files differ from it; None outside a checkout."""
    here = Path(__file__).parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
        changed = subprocess.run(
            ["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
