"""gpuzarr beside others who read and write: `python -m benchmarks.suites [--quick] [--only NAME] [--mib N]
[--json FILE]`.

Every result is compared first. Then readers take turns, so that a slow minute of the machine slows them all,
and medians count. Files are in the page cache. Ratios mean something; seconds only with the machine named.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gpuzarr
from benchmarks import arrays, cloud, copies, loading, peers, report
from benchmarks.arrays import Case
from benchmarks.peers import Peer
from benchmarks.report import Row
from gpuzarr.cli.show import Screen

SUITES = ("whole", "patches", "element", "write", "loading", "cloud", "copy", "import", "plan", "memory")

_SIDE, _PATCHES = 96, 32
_PEAK = """
import sys
from benchmarks import peers
def memory(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
peer = peers.named(sys.argv[1])
with peer.session():
    handle = peer.open(sys.argv[2])
    peer.read(handle, (slice(0, 1), slice(0, 1), slice(0, 1)))
    before = memory("VmRSS:")
    result = peer.read(handle, ...)
    print(memory("VmHWM:") - before - result.nbytes)
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run suites, print tables, write JSON."""
    parser = argparse.ArgumentParser(description="gpuzarr beside other readers")
    parser.add_argument("--quick", action="store_true", help="16 MiB and 3 rounds: to see that it runs")
    parser.add_argument("--only", action="append", choices=SUITES, help="one suite; may be repeated")
    parser.add_argument("--case", action="append", metavar="TEXT", help="only arrays whose name holds TEXT")
    parser.add_argument(
        "--mib", type=int, help="size of each array; of what is copied, 8 times that (default: 256)"
    )
    parser.add_argument("--rounds", type=int, help="how often everyone reads (default: 7)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measurements, too")
    arguments = parser.parse_args(argv)
    mib = arguments.mib or (16 if arguments.quick else 256)
    rounds = arguments.rounds or (3 if arguments.quick else 7)
    chosen = arguments.only or SUITES
    screen = Screen.on(sys.stdout)
    everyone = [peers.ours(), *peers.others()]
    listed = ", ".join(f"{peer.name} {peer.version}" for peer in everyone[1:])
    screen.line("beside ", listed or "nobody: no peer is installed")
    rows: list[Row] = []
    if {"whole", "patches", "element", "write", "loading", "cloud", "memory"} & set(chosen):
        cases = [
            case
            for case in arrays.CASES
            if not arguments.case or any(one in case.name for one in arguments.case)
        ]
        rows += _arrays(cases, arrays.shape_of(mib), chosen, everyone, rounds, screen)
    if "copy" in chosen and sys.platform == "linux" and peers.installed("zarr"):
        rows += copies.rows(8 * mib, min(rounds, 3), everyone, _python, screen)
    if "import" in chosen:
        rows += _import_cost(rounds)
    if "plan" in chosen:
        rows.append(_plan(rounds))
    screen.line()
    report.show(rows, screen)
    if arguments.json:
        report.write(arguments.json, rows, mib=mib, rounds=rounds)
    return 0


def _arrays(
    cases: list[Case],
    shape: arrays.Chunks,
    chosen: Sequence[str],
    everyone: list[Peer],
    rounds: int,
    screen: Screen,
) -> list[Row]:
    """The suites that read arrays, one array after the other, so that only one is on the disk."""
    rows: list[Row] = []
    noisy, flat = arrays.volume(shape), arrays.labels(shape)
    for case in cases:
        values = flat if case.labels else noisy
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "bucket", "array.zarr")
            path.parent.mkdir()
            smaller = arrays.write(case, values, path)
            screen.line((f"{case.name}: {values.nbytes >> 20} MiB, {smaller:.2f} to 1", "note"))
            if "whole" in chosen:
                row = Row("whole", case.name, case.whole, note=f"{smaller:.2f} to 1")
                rows.append(_race(row, everyone, str(path), values, [...], rounds, reopen=True))
            if "patches" in chosen and case.patches:
                row = Row(f"{_PATCHES} patches of {_SIDE}³", case.name, case.patches)
                rows.append(_boxes_race(row, everyone, str(path), values, rounds))
            if "element" in chosen and case.name in ("zstd 1 MiB", "zstd 1 MiB sharded"):
                points: list[Any] = [tuple(int(n * f) for n in shape) for f in np.linspace(0.1, 0.9, 16)]
                row = Row("16 single elements", case.name, 1.7)
                rows.append(_race(row, everyone, str(path), values, points, rounds, reopen=False))
                row = Row("open, one element", case.name, 1.0)
                rows.append(_race(row, everyone, str(path), values, points[:1], 3 * rounds, reopen=True))
            if "write" in chosen and case.chunks == arrays.MIB1 and not case.labels:
                rows.append(_write_race(case, everyone, path, values, rounds))
            if "loading" in chosen and case.name == "blosc-lz4 1 MiB" and sys.platform == "linux":
                rows += loading.rows(str(path), 60.0 if rounds > 3 else 5.0, rounds)
            if "cloud" in chosen and case.name in cloud.CASES:
                rows += cloud.rows(case, values, Path(folder), rounds)
            if "memory" in chosen and case.chunks == arrays.MIB1 and sys.platform == "linux":
                rows.append(_peak_memory(case, str(path)))
    return rows


def _race(
    row: Row,
    everyone: list[Peer],
    path: str,
    values: NDArray[Any],
    keys: list[Any],
    rounds: int,
    *,
    reopen: bool,
) -> Row:
    """Compare everyone's results with what was written, then take times by turns. `reopen`: opening
    counts."""
    handles: dict[str, Any] = {}
    for peer in everyone:
        with peer.session():
            handles[peer.name] = peer.open(path)
            for key in keys:
                if not np.array_equal(peer.read(handles[peer.name], key), values[key]):
                    raise SystemExit(f"{peer.name} reads something else: {row.suite}, {row.name}, {key}")
    spent: dict[str, list[float]] = {peer.name: [] for peer in everyone}
    for turn in range(rounds):
        for peer in everyone[turn % len(everyone) :] + everyone[: turn % len(everyone)]:
            with peer.session():
                gc.collect()
                began = perf_counter()
                handle = peer.open(path) if reopen else handles[peer.name]
                for key in keys:
                    peer.read(handle, key)
                spent[peer.name].append(perf_counter() - began)
    row.seconds = {name: median(times) for name, times in spent.items()}
    return row


def _write_race(case: Case, everyone: list[Peer], path: Path, values: NDArray[Any], rounds: int) -> Row:
    """Who writes all of an array that has a document and no chunks yet. What was written is read by the
    next one in the list."""
    document = (path / "zarr.json").read_bytes()
    writers = [peer for peer in everyone if peer.write is not None]
    spent: dict[str, list[float]] = {peer.name: [] for peer in writers}
    fresh = path.parent / "written.zarr"
    for turn in range(rounds + 1):
        for peer in writers[turn % len(writers) :] + writers[: turn % len(writers)]:
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            (fresh / "zarr.json").write_bytes(document)
            with peer.session():
                gc.collect()
                began = perf_counter()
                assert peer.write is not None
                peer.write(str(fresh), values)
                spent[peer.name].append(perf_counter() - began)
            reader = writers[(writers.index(peer) + 1) % len(writers)]
            with reader.session():
                if not turn and not np.array_equal(reader.read(reader.open(str(fresh)), ...), values):
                    raise SystemExit(f"{peer.name} wrote something else: {case.name}")
    shutil.rmtree(fresh, ignore_errors=True)
    row = Row("write", case.name, 1.0)
    row.seconds = {name: median(times[1:]) for name, times in spent.items()}
    return row


def _boxes_race(row: Row, everyone: list[Peer], path: str, values: NDArray[Any], rounds: int) -> Row:
    """Random boxes into one array [n, *shape]: in one call, where a peer has one."""
    rng = np.random.default_rng(11)
    side = tuple(min(_SIDE, n) for n in values.shape)
    highest = np.array(values.shape) - side + 1
    origins = rng.integers(0, highest, (_PATCHES, len(side)))
    expected = np.stack([values[key] for key in peers.keys(origins, side)])
    handles: dict[str, Any] = {}
    spent: dict[str, list[float]] = {peer.name: [] for peer in everyone}
    for peer in everyone:
        with peer.session():
            handles[peer.name] = peer.open(path)
            if not np.array_equal(peer.read_boxes(handles[peer.name], origins, side), expected):
                raise SystemExit(f"{peer.name} reads something else: {row.suite}, {row.name}")
    for turn in range(rounds):
        for peer in everyone[turn % len(everyone) :] + everyone[: turn % len(everyone)]:
            with peer.session():
                gc.collect()
                began = perf_counter()
                peer.read_boxes(handles[peer.name], origins, side)
                spent[peer.name].append(perf_counter() - began)
    row.seconds = {name: median(times) for name, times in spent.items()}
    return row


def _peak_memory(case: Case, path: str) -> Row:
    """Peak memory of a fresh process above the result of a whole read."""
    found = [int(_python("-c", _PEAK, "gpuzarr", path)) for _ in range(3)]
    return Row("memory above the result", case.name, 10.0, value=max(median(found), 0) / 2**20, unit="MiB")


def _import_cost(rounds: int) -> list[Row]:
    """Time to import in a fresh process, over that of NumPy: as it is, and with what a first use loads. Both
    are compiled before, as after any installation."""
    timed = "from time import perf_counter as t; a = t(); {}; print(t() - a)"
    imports = ("import numpy", "import gpuzarr", "import gpuzarr; gpuzarr.open")
    spent: list[list[float]] = [[] for _ in imports]
    with tempfile.TemporaryDirectory() as compiled:
        flags = "-X", f"pycache_prefix={compiled}"
        for turn in range(max(rounds, 5) + 1):
            for one, times in zip(imports, spent, strict=True):
                took = float(_python(*flags, "-c", timed.format(one)))
                if turn:
                    times.append(took)
    numpy, *ours = (median(times) for times in spent)
    return [
        Row("import", f"{text}, over numpy", 1.5, value=one / numpy, unit="×")
        for text, one in zip(imports[1:], ours, strict=True)
    ]


def _plan(rounds: int) -> Row:
    """Seconds to plan and explain a read of one million chunks that are not there."""
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [6400, 6400, 6400],
        "data_type": "uint16",
        "fill_value": 0,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [64, 64, 64]}},
        "chunk_key_encoding": {"name": "default"},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
    }
    array = gpuzarr.open_array({"zarr.json": json.dumps(document).encode()})
    return Row(
        "plan", "one million chunks", 2.0, value=_median(lambda: array.explain(...), min(rounds, 3)), unit="s"
    )


def _median(run: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        began = perf_counter()
        run()
        times.append(perf_counter() - began)
    return median(times)


def _python(*arguments: str) -> str:
    root = Path(__file__).parents[1]
    settings = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=root, env=settings, capture_output=True, text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
