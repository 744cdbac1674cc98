"""The images' Dockerfiles keep their rules, each rule finds what breaks it, and every package is pinned."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("Dockerfile.*"))
PIN = re.compile(r"([a-z0-9-]+)==([\w.]+) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)")


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docker_{name}", DOCKER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


lint, lock = _script("lint"), _script("lock")


def test_there_are_two_images() -> None:
    assert [path.name for path in DOCKERFILES] == ["Dockerfile.cpu", "Dockerfile.cuda"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_our_files_have_no_faults(path: Path) -> None:
    assert list(lint.faults(path.read_text())) == []


INSTALL = "apt-get install --yes --no-install-recommends"
LISTS = "rm -rf /var/lib/apt/lists/*"
BREAKS = {
    "is not pinned": ("python:3.12.13-slim-bookworm\nARG", "python:latest\nARG"),
    "3.12-slim is not pinned": ("python:3.12.13-slim-bookworm AS", "python:3.12-slim AS"),
    "update, install and removal": ("RUN useradd", f"RUN {INSTALL} x && useradd"),
    "needs --yes": ("RUN useradd", f"RUN apt-get update && apt-get install x && {LISTS} && useradd"),
    "pip install needs": ("--require-hashes", "--upgrade"),
    "curl is not used": ("RUN useradd", "RUN curl example.org && useradd"),
    "ADD is not used": ("WORKDIR /data", "ADD . /data\nWORKDIR /data"),
    "by name, not the whole tree": ("COPY kernels kernels", "COPY . ."),
    "there is no sources": ("COPY kernels", "COPY sources"),
    "tests is left out": ("COPY kernels", "COPY tests"),
    "no stage is called builder": ("--from=build", "--from=builder"),
    "before gpuzarr is copied": ("COPY docker", "COPY gpuzarr gpuzarr\nCOPY docker"),
    "a number other than 0": ("USER 10001", "USER 0"),
    "runs as a user": ("USER 10001", ""),
    "RUN after USER": ("USER 10001", "USER 10001\nRUN true"),
    "gcc stays in the image": ("RUN useradd", "RUN apt-get install gcc && useradd"),
    "is a list of words": ('["--help"]', "--help"),
    "the entrypoint is gpuzarr": ('["gpuzarr"]', '["sh"]'),
    "PYTHONUNBUFFERED": (" PYTHONUNBUFFERED=1", ""),
    "image.licenses is missing": ("image.licenses", "image.license"),
    "base.name says": ("library/python:3.12.13", "library/python:3.12.1"),
}


@pytest.mark.parametrize("expected", BREAKS)
def test_each_rule_finds_what_breaks_it(expected: str) -> None:
    whole = (DOCKER / "Dockerfile.cpu").read_text()
    before, after = BREAKS[expected]
    assert before in whole
    assert any(expected in what for _, what in lint.faults(whole.replace(before, after)))


def test_ignore_rules_are_read_as_the_engine_reads_them() -> None:
    rules = ["*", "!kept", "!folder/some-*.txt", "# a comment", "**/__pycache__"]
    outcomes = {
        "kept": False,
        "kept/inner": False,
        "other": True,
        "folder/some-1.txt": False,
        "folder/b": True,
    }
    assert {path: lint.ignored(path, rules) for path in outcomes} == outcomes
    assert lint.ignored("kept/__pycache__", rules)


def test_check_script_lints() -> None:
    environment = {**os.environ, "PYTHON": sys.executable}
    command = ["bash", str(DOCKER / "check.sh")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 Dockerfiles: no faults" in done.stdout


HADOLINT = shutil.which("hadolint") or shutil.which("hadolint", path=Path(sys.executable).parent)


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
def test_hadolint_agrees() -> None:
    done = subprocess.run([str(HADOLINT), *DOCKERFILES], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def _asked(name: str) -> list[str]:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    if name == "build":
        return list(document["build-system"]["requires"])
    extra = ("cuda13",) if name == "cuda" else ()
    return list(lock.asked(document["project"], *lock.EXTRAS, *extra))


@pytest.mark.parametrize("name", ["build", "cpu", "cuda"])
def test_every_requirement_is_pinned_with_hashes(name: str) -> None:
    """If this fails after a change of dependencies: python docker/lock.py."""
    head, _, rest = (DOCKER / f"requirements-{name}.txt").read_text().partition("\n")
    assert head.startswith("# Written by docker/lock.py")
    assert PIN.sub("", rest) == "", "a line that is no pin"
    pinned = {match[1]: match[2] for match in PIN.finditer(rest)}
    for text in _asked(name):
        requirement = Requirement(text)
        package = requirement.name.lower().replace("_", "-")
        assert requirement.specifier.contains(pinned[package], prereleases=True), text


def test_extras_that_name_extras_are_followed() -> None:
    extras = {"x": ["gpuzarr[y,z]", "b"], "y": ["c"], "z": ["a"]}
    assert lock.asked({"dependencies": ["a"], "optional-dependencies": extras}, "x") == ["a", "c", "b"]
