"""`make test-gpu`: everything that wants a GPU, on the GPU that is here, with the Python that is there.

    suites       each in a process of its own, so that a kernel that kills CUDA takes no other suite with it
    sanitizer    compute-sanitizer, where it is found: memory, races, memory that was never written
    summary      how many tests of each passed, and how many of these had work on the GPU

    python -m tests.gpu [--only NAME] [--no-sanitizer] [-- pytest's arguments]

Device sim does not run here, not even where a test asks for it: such tests are left out, and counted. A suite
of which nothing ran on the GPU has not passed. Where the corpus is (GPUZARR_FIXTURES), it is read too.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Suite:
    """Test files by pattern, from tests/. `needed`: nothing of it on the GPU is a failure."""

    name: str
    files: tuple[str, ...]
    needed: bool = True


SUITES = (
    Suite("device", ("gpu/test_*.py",)),
    Suite("property", ("property/test_*.py",)),
    Suite("hostile", ("unit/test_hostile*.py",)),
    Suite("interop", ("interop/test_*.py",), needed=False),
    Suite("kernels", ("unit/test_kernels*.py", "unit/test_device_*.py"), needed=False),
    Suite("boxes", ("unit/test_patches*.py", "unit/test_cache.py")),
    Suite("engine", ("unit/test_requests.py", "unit/test_waves.py", "contract/test_*.py"), needed=False),
)

SANITIZER = {
    "memcheck": ("--tool", "memcheck"),
    "racecheck": ("--tool", "racecheck", "--kernel-name", "kns=gz_"),
    "initcheck": ("--tool", "initcheck", "--kernel-name", "kns=gz_"),
}
"""Our own kernels are what the last two look at: libraries have their reasons."""
SMALL = {"memcheck": (), "racecheck": ("--few", "--no-nvcomp"), "initcheck": ("--few", "--no-nvcomp")}
SECONDS = 300
"""Of one suite or tool."""


@dataclass(slots=True)
class Outcome:
    """What came of a suite or a tool."""

    name: str
    ok: bool
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    """Why tests were left out, and how many."""
    seconds: float = 0.0
    note: str = ""


def missing() -> list[str]:
    """What this machine lacks, each with what to do about it."""
    lacks = []
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        lacks.append("no NVIDIA driver (libcuda.so.1): run this on a machine with an NVIDIA GPU")
    for module, extra in (("cupy", "cuda13"), ("pytest", "test"), ("hypothesis", "test")):
        if importlib.util.find_spec(module) is None:
            lacks.append(f'no {module}: pip install "gpuzarr[{extra}]"')
    if lacks:
        return lacks
    from gpuzarr.device.cuda import CudaDevice

    trouble = CudaDevice.works()
    return [trouble] if trouble else []


def main(argv: Sequence[str] | None = None) -> int:
    """Run the suites and the sanitizer, or say what is missing."""
    names = [*(suite.name for suite in SUITES), *SANITIZER]
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description="the tests of a GPU machine")
    parser.add_argument("--device", default="cuda", help="cuda or cuda:N")
    parser.add_argument("--only", action="append", choices=names, help="one of them; may be repeated")
    parser.add_argument("--no-sanitizer", action="store_true", help="leave compute-sanitizer out")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of one suite or tool")
    parser.add_argument("pytest", nargs="*", help="for pytest, behind --")
    options = parser.parse_args(argv)
    lacks = missing()
    if lacks:
        print("make test-gpu cannot run here:", *[f"  {one}" for one in lacks], sep="\n")
        return 1
    chosen = options.only or names
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        for suite in SUITES:
            if suite.name in chosen:
                print(f"── {suite.name}", flush=True)
                report = Path(folder, f"{suite.name}.xml")
                outcomes.append(run(suite, options.device, report, options.seconds, options.pytest))
    for tool in SANITIZER:
        if tool in chosen and not options.no_sanitizer:
            print(f"── {tool}", flush=True)
            outcomes.append(sanitize(tool, options.device, options.seconds))
    print(*summary(outcomes), sep="\n")
    return 0 if outcomes and all(one.ok for one in outcomes) else 1


def environment(device: str) -> dict[str, str]:
    """Every suite of the run is of this device, and what has a device form runs there."""
    return {**os.environ, "GPUZARR_TEST_DEVICES": device, "GPUZARR_STRICT": "1"}


def run(suite: Suite, device: str, report: Path, seconds: float, more: Sequence[str]) -> Outcome:
    """One suite with pytest, in a process of its own."""
    files = sorted(str(path) for pattern in suite.files for path in (ROOT / "tests").glob(pattern))
    options = ["-q", "-p", "no:cacheprovider", "-W", "default", f"--junitxml={report}", *more]
    began = perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *files],
            cwd=ROOT,
            env=environment(device),
            timeout=seconds,
            check=False,
        )
        code, note = done.returncode, ""
    except subprocess.TimeoutExpired:
        code, note = -1, f"took longer than {seconds:.0f} s"
    return judged(suite, code, report, perf_counter() - began, note)


def judged(suite: Suite, code: int, report: Path, seconds: float, note: str = "") -> Outcome:
    """What a report says: a suite has passed if nothing failed and, where needed, something was done."""
    outcome = Outcome(suite.name, ok=code in (0, 5), seconds=seconds, note=note)
    if not report.is_file():
        outcome.ok, outcome.note = False, note or f"pytest ended with {code} and left no report"
        return outcome
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        skipped = case.find("skipped")
        bad = case.find("failure") is not None or case.find("error") is not None
        kind = "failed" if bad else "left out" if skipped is not None else "passed"
        outcome.counts[kind] += 1
        if skipped is not None:
            outcome.reasons[reason(skipped)] += 1
        used = any(one.get("name") == "device" for one in case.iter("property"))
        outcome.counts["on the GPU"] += kind == "passed" and used
    if outcome.counts["failed"]:
        outcome.ok = False
    if outcome.ok and not outcome.counts["on the GPU"]:
        outcome.ok, outcome.note = not suite.needed, "nothing of it ran on the GPU"
    return outcome


def reason(skipped: ElementTree.Element) -> str:
    """Why a test was left out."""
    return re.sub(r"\s+", " ", skipped.get("message") or "no reason given")[:90]


def sanitize(tool: str, device: str, seconds: float) -> Outcome:
    """A little of everything under compute-sanitizer. Where that is not installed, nothing is said."""
    program = shutil.which("compute-sanitizer") or _beside_cuda()
    if program is None:
        return Outcome(tool, ok=True, note="compute-sanitizer is not installed")
    usual = ("--error-exitcode", "9", "--print-limit", "20", "--report-api-errors", "no")
    small = (sys.executable, "-m", "tests.gpu.small", "--device", device, *SMALL[tool])
    command = [program, *SANITIZER[tool], *usual, *small]
    began = perf_counter()
    try:
        done = subprocess.run(command, cwd=ROOT, env=environment(device), timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return Outcome(tool, ok=False, note=f"took longer than {seconds:.0f} s", seconds=seconds)
    code = done.returncode
    note = {0: "", 9: "found something", 1: "values are wrong, or the tool did not start"}.get(
        code, f"ended with {code}"
    )
    return Outcome(tool, ok=code == 0, note=note, seconds=perf_counter() - began)


def _beside_cuda() -> str | None:
    for home in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"):
        path = home and Path(home, "bin", "compute-sanitizer")
        if path and path.is_file():
            return str(path)
    return None


def summary(outcomes: Sequence[Outcome]) -> list[str]:
    """The table, and why tests were left out."""
    columns = ("passed", "on the GPU", "failed", "left out")
    lines = ["", f"{'':<10}" + "".join(f"{name:>12}" for name in columns) + f"{'s':>8}"]
    for one in outcomes:
        cells = "".join(f"{one.counts[name] if one.counts else '–':>12}" for name in columns)
        verdict = "ok" if one.ok else "FAILED"
        lines.append(f"{one.name:<10}{cells}{one.seconds:>8.0f}  {verdict}{one.note and ': '}{one.note}")
    for one in outcomes:
        for why, count in one.reasons.most_common(6):
            lines.append(f"  {one.name}: {count} left out: {why}")
    bad = [one.name for one in outcomes if not one.ok]
    lines.append(f"failed: {', '.join(bad)}" if bad else "all passed")
    return lines


if __name__ == "__main__":
    sys.exit(main())
