"""`make test-gpu` says what it needs where that is missing, and counts what it has done where it is not."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import tests.gpu.__main__ as gate
from gpuzarr.device.cuda import CudaDevice
from gpuzarr.engine import cache
from tests import devices, fake_cupy
from tests.gpu import small, test_patches, test_writes, work

SUITE = gate.Suite("hostile", ("unit/test_hostile*.py",))


def test_it_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_driver(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", no_driver)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert gate.main([]) == 1
    said = capsys.readouterr().out
    assert "libcuda.so.1" in said
    assert 'pip install "gpuzarr[cuda13]"' in said


PASSED = '<testcase name="a"><properties><property name="device" value="cuda:0"/></properties></testcase>'
HOST = '<testcase name="b"/>'
SKIPPED = '<testcase name="c"><skipped message="of device sim"/></testcase>'
FAILED = '<testcase name="d"><failure message="no"/></testcase>'
BROKEN = '<testcase name="e"><error message="no"/></testcase>'


@pytest.mark.parametrize(
    ("cases", "code", "needed", "ok", "counts"),
    [
        (PASSED + HOST + SKIPPED, 0, True, True, {"passed": 2, "on the GPU": 1, "left out": 1}),
        (PASSED + FAILED, 1, True, False, {"passed": 1, "on the GPU": 1, "failed": 1}),
        (PASSED + BROKEN, 0, True, False, {"passed": 1, "on the GPU": 1, "failed": 1}),
        (PASSED, 3, True, False, {"passed": 1, "on the GPU": 1}),
        (HOST + SKIPPED, 0, True, False, {"passed": 1, "left out": 1}),
        (HOST + SKIPPED, 0, False, True, {"passed": 1, "left out": 1}),
        ("", 5, True, False, {}),
    ],
)
def test_a_suite_of_which_nothing_ran_on_the_gpu_has_not_passed(
    cases: str, code: int, needed: bool, ok: bool, counts: dict[str, int], tmp_path: Path
) -> None:
    report = tmp_path / "report.xml"
    report.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    found = gate.judged(gate.Suite("hostile", (), needed), code, report, 1.0)
    assert found.ok == ok
    assert +found.counts == Counter(counts)


def test_a_suite_that_ended_early_has_failed(tmp_path: Path) -> None:
    found = gate.judged(SUITE, -11, tmp_path / "nothing.xml", 1.0)
    assert not found.ok
    assert "-11" in found.note


def test_the_summary_says_why() -> None:
    good = gate.Outcome("device", True, Counter(passed=9), Counter({"of device sim": 3}), 2.0)
    bad = gate.Outcome("memcheck", False, note="found something")
    lines = gate.summary([good, bad])
    assert any("3 left out: of device sim" in line for line in lines)
    assert any("memcheck" in line and "FAILED: found something" in line for line in lines)
    assert lines[-1] == "failed: memcheck"
    assert gate.summary([good])[-1] == "all passed"


def test_suites_are_files_that_are_there() -> None:
    for suite in gate.SUITES:
        for pattern in suite.files:
            assert list((gate.ROOT / "tests").glob(pattern)), pattern


@pytest.mark.parametrize(("code", "ok"), [(0, True), (9, False), (1, False), (134, False)])
def test_the_sanitizer_is_given_a_little_of_everything(
    code: int, ok: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "compute-sanitizer"
    told = tmp_path / "told"
    program.write_text(f'#!/bin/sh\necho "$@" "$GPUZARR_TEST_DEVICES" > {told}\nexit {code}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = gate.sanitize("racecheck", "cuda:1", 30)
    assert found.ok == ok
    words = told.read_text().split()
    assert words[:4] == ["--tool", "racecheck", "--kernel-name", "kns=gz_"]
    assert words[-6:] == ["tests.gpu.small", "--device", "cuda:1", "--few", "--no-nvcomp", "cuda:1"]


def test_no_sanitizer_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate.shutil, "which", lambda name: None)
    monkeypatch.setattr(gate, "_beside_cuda", lambda: None)
    found = gate.sanitize("memcheck", "cuda", 1)
    assert found.ok
    assert "not installed" in found.note


def test_what_the_sanitizer_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On device sim here."""
    monkeypatch.setattr(sys, "argv", ["small", "--device", "sim", "--few"])
    assert small.main() == 0
    assert f"{len(small.FEW)} chains on sim: 0 wrong" in capsys.readouterr().out
    assert {name for name, _, _ in small.chains()} >= small.FEW


@pytest.mark.slow
def test_a_run_on_a_gpu_does_not_run_sim_instead() -> None:
    """Here, without a GPU, its tests fail, and those of device sim are left out and say so."""
    if devices.no_gpu() is None:
        pytest.skip("there is a GPU")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "faults or absurd_chunks",
         "tests/gpu", "tests/contract/test_device.py", "tests/unit/test_hostile_documents.py"],
        cwd=gate.ROOT, env=gate.environment("cuda"), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    assert "no CUDA device" in done.stdout
    assert "of device sim; this run is of cuda:0" in done.stdout
    assert "-cuda:0]" in done.stdout
    assert "passed" not in done.stdout.splitlines()[-1]


# ---- tests/devices.py


def test_values_as_a_device_has_them() -> None:
    values = np.array([[1, -1], [7, 300]], ">i4")
    assert devices.as_given(values, "cpu").dtype == np.dtype("=i4")
    assert (devices.as_given(values.T, "sim") == values.T).all()
    dates = np.array(["2020-01-01", "NaT"], "M8[s]")
    for name in ("cpu", "sim"):
        given = devices.as_given(dates, name)
        assert devices.as_values(given, dates.dtype, dates.shape).tobytes() == dates.tobytes()
    plain = dates.view("i8")
    assert devices.as_values(plain, dates.dtype, (2,)).tobytes() == dates.tobytes()


def test_the_usual_choice() -> None:
    if devices.CHOSEN:
        pytest.skip("another choice was made")
    everywhere = ("cpu", *devices.SIM_ORDERS)
    assert everywhere == devices.EVERY
    assert everywhere[1:] == devices.DEVICES
    assert not devices.ON_GPU
    assert not devices.NO_SIM


# ---- the tests of a GPU, over what stands in for CuPy


@pytest.fixture
def cuda(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> CudaDevice:
    """A device cuda without a GPU, whose arrays can do what tests do to them, in the order of streams. Other
    streams go first, so that none is in time by chance."""
    if devices.CHOSEN:
        pytest.skip("of a stand-in for CuPy")
    machine = fake_cupy.install(monkeypatch, getattr(request, "param", "others"))
    for kept in ("_caches", "_slabs"):  # of another test's device of that name
        monkeypatch.setattr(cache, kept, {})
    array = fake_cupy.ndarray

    def queued(do: Callable[[], None]) -> None:
        fake_cupy.get_current_stream()._add(do)

    def set_item(self: Any, key: Any, value: Any) -> None:
        queued(lambda: self._host().__setitem__(key, value._host() if isinstance(value, array) else value))

    def as_array(values: np.ndarray) -> Any:
        made, given = fake_cupy.empty(values.shape, values.dtype), values.copy()
        queued(lambda: made._host().__setitem__(..., given))
        return made

    monkeypatch.setattr(array, "__setitem__", set_item, raising=False)
    monkeypatch.setattr(array, "fill", lambda self, value: set_item(self, ..., value), raising=False)
    monkeypatch.setattr(array, "T", property(_transposed), raising=False)
    monkeypatch.setattr(sys.modules["cupy"], "asarray", as_array, raising=False)
    monkeypatch.setattr(work, "MANY", 2)
    monkeypatch.setattr(work, "busy", lambda: None)
    monkeypatch.setattr(work, "in_use", lambda: (gc.collect(), machine.live_nbytes())[1])
    monkeypatch.setattr(work, "held", machine.live_nbytes)
    return CudaDevice.named("cuda")


def _transposed(self: Any) -> Any:
    return fake_cupy.ndarray(self.shape[::-1], self.dtype, self.data, self.strides[::-1])


def _simulated(module: ModuleType, *words: str) -> Callable[[type], type]:
    """Makes a class of the tests of a module that need no real GPU; of those with one of `words`, if any."""

    def filled(cls: type) -> type:
        for name, test in vars(module).items():
            chosen = not words or any(word in name for word in words)
            if name.startswith("test_") and chosen and not hasattr(test, "real"):
                setattr(cls, name, staticmethod(test))
        return cls

    return filled


@_simulated(test_writes)
@pytest.mark.usefixtures("cuda")
class TestWrites:
    """Values as NumPy and numcodecs have them, counts, memory."""


@_simulated(test_patches)
@pytest.mark.usefixtures("cuda")
class TestPatches:
    """The same."""


@_simulated(test_writes, "stream", "host_does")
@pytest.mark.slow
@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("cuda", ["late", "early"], indirect=True)
class TestOrderOfWrites:
    """Streams that run at once, or no sooner than they are waited for."""


@_simulated(test_patches, "stream", "threads")
@pytest.mark.slow
@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("cuda", ["late", "early"], indirect=True)
class TestOrderOfPatches:
    """The same."""
