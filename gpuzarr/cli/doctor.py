"""gpuzarr doctor: show what this machine can do, and what to install for what is missing."""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import importlib.util
import json
import platform
import shutil
from dataclasses import asdict, dataclass

import gpuzarr
from gpuzarr import config
from gpuzarr.cli.show import Screen
from gpuzarr.codecs import registry
from gpuzarr.device.choose import choose
from gpuzarr.errors import GpuzarrError
from gpuzarr.native import build, library
from gpuzarr.store import gds
from gpuzarr.store.remote import kvikio


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the list. `hint` is what to do about it; empty if nothing is to be done."""

    section: str
    name: str
    ok: bool
    detail: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Optional:
    """An optional package: the module, the distribution, the extra that installs it, what it is for."""

    module: str
    package: str
    extra: str
    purpose: str


REQUIRED = ("numpy", "numcodecs", "fsspec", "google-crc32c")
OPTIONAL = (
    Optional("obstore", "obstore", "s3", "s3://, gs://, az://, http:// and https:// URLs"),
    Optional("s3fs", "s3fs", "fsspec", "s3:// in forked processes, and with options that obstore lacks"),
    Optional("aiohttp", "aiohttp", "fsspec", "http:// and https://, likewise"),
    Optional("pyarrow", "pyarrow", "parquet", "reference sets in Parquet"),
    Optional("zarr", "zarr", "zarr", "reading zarr-python's stores; the demo's witness"),
    Optional("rich", "rich", "cli", "colours and progress bars here"),
    Optional("PIL", "pillow", "cli", "pictures: read -o out.png, demo.png"),
    Optional("imagecodecs", "imagecodecs", "image", "image codecs: JPEG 2000, JPEG XL and others"),
    Optional("zfpy", "zfpy", "codecs", "codec zfpy"),
    Optional("pcodec", "pcodec", "codecs", "codec pcodec"),
    Optional("msgpack", "msgpack", "codecs", "codec msgpack2"),
    Optional("ml_dtypes", "ml_dtypes", "dtypes", "bfloat16, float8 and other small types"),
)
COMPILERS = ("g++", "c++", "clang++")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--json", action="store_true", help="for programs")


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Check and show. Missing optional packages are no failure."""
    checks = [*_basics(), *_devices(), *_optional()]
    if arguments.json:
        screen.stream.write(json.dumps({"checks": [asdict(check) for check in checks]}, indent=2) + "\n")
        return 0
    section = ""
    width = max(len(check.name) for check in checks)
    for check in checks:
        if check.section != section:
            section = check.section
            screen.line()
            screen.line((section, "title"))
        mark = ("  ✓ ", "good") if check.ok else ("  · ", "warn")
        screen.line(mark, f"{check.name:<{width}}  ", (check.detail, "" if check.ok else "note"))
        if check.hint:
            screen.line(" " * (width + 6), (check.hint, "name"))
    screen.line()
    return 0


def _basics() -> list[Check]:
    table = "Here"
    threads = config.current().threads
    v3, v2 = registry.names()
    checks = [
        Check(
            table, "python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}"
        ),
        Check(table, "gpuzarr", True, gpuzarr.__version__),
    ]
    for package in REQUIRED:
        version = _version(package)
        checks.append(Check(table, package, version is not None, version or "not installed"))
    checks.append(Check(table, "processor", True, f"{cpu_text()}, {threads} worker threads"))
    checks.append(_host_core(table))
    checks.append(
        Check(
            table,
            "codecs",
            True,
            f"{len(v3)} names of Zarr v3, {len(v2)} of v2, and all that numcodecs knows",
        )
    )
    return checks


def _host_core(table: str) -> Check:
    settings = config.current()
    core, why = library.loaded(settings.native_library)
    if core is None:
        hint = "python -m gpuzarr.native.build" if build.compiler() and not settings.native_library else ""
        return Check(table, "host core", False, why, hint)
    if not settings.native:
        return Check(table, "host core", False, "compiled, and turned off: the setting native is 0")
    return Check(table, "host core", True, f"compiled; knows {', '.join(core.kinds)}")


def _devices() -> list[Check]:
    table = "Devices"
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    checks = [Check(table, "cpu", True, "always")]
    trouble = _trouble("sim") if compiler else "needs a C++ compiler"
    checks.append(
        Check(table, "sim", trouble is None, trouble or f"GPU kernels on the CPU, for tests: {compiler}")
    )
    trouble = _trouble("cuda")
    checks.append(Check(table, "cuda", trouble is None, trouble or "works"))
    driver = _driver()
    checks.append(
        Check(table, "  CUDA driver", driver is not None, driver or "no libcuda.so.1: no NVIDIA driver here")
    )
    for module, names in (
        ("cupy", ("cupy", "cupy-cuda12x", "cupy-cuda13x")),
        ("libnvcomp", ("nvidia-libnvcomp-cu12", "nvidia-libnvcomp-cu13")),
        ("kvikio", ("kvikio-cu12", "kvikio-cu13")),
    ):
        version = next((found for name in names if (found := _version(name))), None)
        hint = 'pip install "gpuzarr[cuda13]"' if driver and not version else ""
        checks.append(Check(table, f"  {module}", version is not None, version or "not installed", hint))
    mode = gds.mode() if driver else "needs a CUDA driver"
    told = {"gds": "on", "compat": "off: KvikIO is in compatibility mode"}.get(mode, mode)
    checks.append(Check(table, "  GPUDirect Storage", mode == "gds", told))
    mode = kvikio.mode() if driver else "needs a CUDA driver"
    told = 'there: the setting remote="kvikio" takes it' if mode == "kvikio" else mode
    checks.append(Check(table, "  objects to GPU memory", mode == "kvikio", told))
    return checks


def _optional() -> list[Check]:
    checks = []
    for one in OPTIONAL:
        found = _found(one.module)
        detail = (
            f"{_version(one.package) or 'installed'}: {one.purpose}"
            if found
            else f"not installed: {one.purpose}"
        )
        hint = "" if found else f'pip install "gpuzarr[{one.extra}]"'
        checks.append(Check("Optional packages", one.package, found, detail, hint))
    return checks


def _trouble(device: str) -> str | None:
    """Why a device cannot be used; None if it can."""
    try:
        choose(device)
    except (GpuzarrError, ImportError) as error:
        return str(error)
    return None


def _driver() -> str | None:
    """What CUDA version the driver supports. Asks the driver nothing that would start a GPU."""
    try:
        library = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if library.cuDriverGetVersion(ctypes.byref(version)):
        return "does not answer"
    return f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _found(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def cpu_text() -> str:
    """The processor's name, where the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        named = []
    return f"{len(named)} × {named[0]}" if named else platform.processor() or platform.machine()
