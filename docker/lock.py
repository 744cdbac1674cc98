"""Write docker/requirements-*.txt: exact versions and hashes of everything that an image installs.

    python docker/lock.py

The resolver is pip's. Each file pins the wheels of Python 3.12 on Linux, on x86-64 and on 64-bit Arm, so that
one file serves both; a package without a wheel for either is an error. What is asked for comes from
pyproject.toml.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PLATFORMS = ("manylinux2014", *(f"manylinux_2_{minor}" for minor in (17, 24, 26, 27, 28, 31, 34)))
PYTHON = ("--python-version=3.12", "--implementation=cp", "--abi=cp312", "--abi=abi3", "--abi=none")
EXTRAS = ("demo", "s3", "fsspec", "codecs", "dtypes")
# CuPy's wheel brings neither NVRTC nor the CUDA headers that its kernels include, nor does the base image.
CUDA = ("nvidia-cuda-nvrtc==13.0.*", "nvidia-cuda-runtime==13.0.*")


def asked(project: dict[str, Any], *extras: str) -> list[str]:
    """The requirements of the package and of `extras`; an extra that names others stands for them."""
    found: list[str] = list(project["dependencies"])
    for extra in extras:
        for requirement in project["optional-dependencies"][extra]:
            if requirement.startswith("gpuzarr["):
                inner = requirement[len("gpuzarr[") : -1].split(",")
                found += [one for one in asked(project, *inner) if one not in found]
            else:
                found.append(requirement)
    return list(dict.fromkeys(found))


def resolve(requirements: list[str], machine: str) -> dict[str, tuple[str, set[str]]]:
    """Name -> version and SHA-256 of the wheel that pip would install on `machine`."""
    platforms = [f"--platform={tag}_{machine}" for tag in PLATFORMS]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        command += ["--only-binary=:all:", f"--target={folder}", *PYTHON, *platforms]
        subprocess.run([*command, f"--report={report}", *requirements], check=True)
        listed = json.loads(report.read_text())["install"]
    return {
        one["metadata"]["name"].lower().replace("_", "-"): (
            one["metadata"]["version"],
            {one["download_info"]["archive_info"]["hashes"]["sha256"]},
        )
        for one in listed
    }


def lock(name: str, requirements: list[str]) -> None:
    """Write one file."""
    x86, arm = resolve(requirements, "x86_64"), resolve(requirements, "aarch64")
    lines = [f"# Written by docker/lock.py for: {' '.join(requirements)}"]
    for package in sorted(x86):
        version, hashes = x86[package]
        if package not in arm or arm[package][0] != version:
            raise SystemExit(f"{name}: {package} {version} has no counterpart on 64-bit Arm")
        pins = " ".join(f"\\\n    --hash=sha256:{one}" for one in sorted(hashes | arm[package][1]))
        lines.append(f"{package}=={version} {pins}")
    (HERE / f"requirements-{name}.txt").write_text("\n".join(lines) + "\n")
    sys.stdout.write(f"requirements-{name}.txt: {len(x86)} packages\n")


def main() -> None:
    """Write all three."""
    document = tomllib.loads((HERE.parent / "pyproject.toml").read_text())
    lock("build", document["build-system"]["requires"])
    lock("cpu", asked(document["project"], *EXTRAS))
    lock("cuda", [*asked(document["project"], *EXTRAS, "cuda13"), *CUDA])


if __name__ == "__main__":
    main()
