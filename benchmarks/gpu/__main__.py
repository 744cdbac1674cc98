"""gpuzarr on a GPU: `python -m benchmarks.gpu [--device cuda|sim] [--quick] [--only NAME] [--json FILE]`.

    ceilings    what this machine can do at most
    decode      chunks in device memory, every chain, every size: whole and part by part
    shuffle     unshuffle, swap and crop in one pass
    whole       page cache to device, step by step, beside other readers
    crossover   where the host is the sooner one, and what the library would choose
    encode      values in device memory: encoded, and written into memory; beside the host and nvCOMP
    kernels     each kernel that writes or converts by itself, beside a plain copy
    patches     many boxes in one read: from files, from chunks that the device keeps, converted
    remote      objects of a local server: through staging memory, and by KvikIO

Everything that is timed has been compared with NumPy before. No network but 127.0.0.1; the longest run is
some minutes.
`python -m benchmarks.gpu plot FILE.json` draws what was measured.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks import report as record
from benchmarks.gpu import peers, report, report_writes
from benchmarks.gpu.crossover import crossover_table
from benchmarks.gpu.encode import encode_table
from benchmarks.gpu.kernels import kernel_table
from benchmarks.gpu.machine import Ceilings, Machine, scratch_folder
from benchmarks.gpu.patches import patch_table
from benchmarks.gpu.remote import remote_table, show_remote
from benchmarks.gpu.scale import SCALES
from benchmarks.gpu.tables import decode_table, shuffle_table
from benchmarks.gpu.whole import read_table
from gpuzarr import config
from gpuzarr.cli.doctor import cpu_text
from gpuzarr.cli.show import Screen
from gpuzarr.errors import GpuzarrError

SUITES = ("decode", "shuffle", "whole", "crossover", "encode", "kernels", "patches", "remote")
PACKAGES = (
    *("gpuzarr", "numpy", "numcodecs", "cupy-cuda13x", "cupy-cuda12x", "nvidia-nvcomp-cu13"),
    *("nvidia-libnvcomp-cu13", "nvidia-nvcomp-cu12", "kvikio-cu13", "kvikio-cu12", "zarr", "tensorstore"),
    *("czarr", "isal"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, or plot what was measured."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["plot"]:
        return _plot(given[1:])
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="gpuzarr on a GPU")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N; sim shows only that it runs")
    parser.add_argument("--quick", action="store_true", help="small arrays")
    parser.add_argument("--scale", choices=SCALES, help="sizes by name; tiny is for the tests")
    parser.add_argument("--only", action="append", choices=SUITES, help="one suite; may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measurements, too")
    parser.add_argument("--seconds", type=float, default=450, help="leave out what would begin later")
    parser.add_argument("--commit", help="what is measured, where there is no checkout to ask")
    arguments = parser.parse_args(given)
    usual = "sim" if arguments.device.startswith("sim") else "quick" if arguments.quick else "full"
    scale = SCALES[arguments.scale or usual]
    screen = Screen.on(sys.stdout)
    began = perf_counter()

    def late() -> bool:
        return perf_counter() - began > float(arguments.seconds)

    try:
        machine = Machine.named(arguments.device, scale.rounds)
    except GpuzarrError as error:
        print(f"no benchmark of {arguments.device} here: {error}")
        return 1
    document = _document(machine, given, scale.name, arguments.commit)
    chosen = arguments.only or SUITES
    _show_machine(screen, document)
    with scratch_folder() as folder:
        ceilings = machine.ceilings(scale.noise, folder)
        document["ceilings"] = ceilings.as_dict()
        report.show_ceilings(screen, document["ceilings"])
        found, missing = peers.everyone(machine)
        document["peers"] = {peer.name: peer.version for peer in found}
        document["missing"] = missing
        suites = _suites(machine, scale, ceilings, found, folder, late)
        for suite in chosen:
            document[suite] = []
            for row in suites[suite]():
                document[suite].append(row)
                _progress(suite, row, perf_counter() - began)
                _write(arguments.json, document)
            document["took"][suite] = perf_counter() - began
            if late():
                document["left_out"].append(f"what {suite} had not begun after {arguments.seconds:.0f} s")
    report.show_decode(screen, document.get("decode", []))
    report.show_decode(screen, document.get("shuffle", []))
    report.show_whole(screen, document.get("whole", []), missing)
    report.show_crossover(screen, document.get("crossover", []))
    report_writes.show_encode(screen, document.get("encode", []))
    report_writes.show_kernels(screen, document.get("kernels", []))
    report_writes.show_patches(screen, document.get("patches", []))
    show_remote(screen, document.get("remote", []))
    document["goals"] = report.goals(document)
    report.show_goals(screen, document)
    for text in document["left_out"]:
        screen.line((f"left out: {text}", "warn"))
    screen.line((f"{perf_counter() - began:.0f} s", "note"))
    _write(arguments.json, document)
    return 0


def _suites(
    machine: Machine,
    scale: Any,
    ceilings: Ceilings,
    found: list[peers.Peer],
    folder: Path,
    late: Callable[[], bool],
) -> dict[str, Callable[[], Iterator[dict[str, Any]]]]:
    return {
        "decode": lambda: decode_table(machine, scale, ceilings, late),
        "shuffle": lambda: shuffle_table(machine, scale, ceilings, late),
        "whole": lambda: read_table(machine, scale, ceilings, found, folder, late),
        "crossover": lambda: crossover_table(machine, scale, folder, late),
        "encode": lambda: encode_table(machine, scale, ceilings, late),
        "kernels": lambda: kernel_table(machine, scale, ceilings, late),
        "patches": lambda: patch_table(machine, scale, ceilings, folder, late),
        "remote": lambda: remote_table(machine, scale, folder, late),
    }


def _document(machine: Machine, given: list[str], scale: str, commit: str | None) -> dict[str, Any]:
    """Everything that a later reader needs to judge the figures."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit or record._commit(),
        "command": ["python", "-m", "benchmarks.gpu", *given],
        "timed": machine.timed,
        "scale": scale,
        "rounds": machine.rounds,
        "machine": {
            **machine.facts(),
            "processor": cpu_text(),
            "threads": config.current().threads,
            "system": platform.platform(),
        },
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := record._version(name))},
        "took": {},
        "left_out": [],
    }


def _show_machine(screen: Screen, document: dict[str, Any]) -> None:
    for name, value in document["machine"].items():
        screen.line((f"{name:<20}", "note"), str(value))
    listed = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    screen.line(("versions            ", "note"), listed)
    screen.line(("commit              ", "note"), str(document["commit"]))
    screen.line()


def _progress(suite: str, row: dict[str, Any], spent: float) -> None:
    """A line a row on stderr: what is there if the run is cut short."""
    what = row.get("name") or f"{row['chain']}, {report.size(row['chunk_nbytes'])}"
    seconds = row["seconds"]
    if not isinstance(seconds, float):
        seconds = seconds.get("all", seconds.get("cold"))
    figure = "" if seconds is None else f": {report.milliseconds(seconds)} ms"
    if "count" in row:
        figure = f" × {row['count']}: host {report.milliseconds(row['seconds']['host'])} ms, device "
        figure += f"{report.milliseconds(row['seconds']['device'])} ms"
    print(f"[{spent:5.0f} s] {suite}: {what}{figure}", file=sys.stderr, flush=True)


def _write(path: Path | None, document: dict[str, Any]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1) + "\n")


def _plot(given: list[str]) -> int:
    from benchmarks.gpu.plot import plot

    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu plot", description="draw a run")
    parser.add_argument("file", type=Path, metavar="FILE.json")
    try:
        print(*plot(parser.parse_args(given).file), sep="\n")
    except ModuleNotFoundError as error:
        print(f"plots need {error.name}: pip install matplotlib")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
