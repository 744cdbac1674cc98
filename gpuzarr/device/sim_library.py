"""Kernels as shared libraries of this machine: compiled by a C++ compiler, loaded with ctypes, kept by hash.

Each `.cu` file becomes one library, compiled when it is first needed, with the scheduler of `kernels/host`.
The compiler is `$CXX`, else g++, c++ or clang++. `GPUZARR_SIM_SANITIZE=1` adds AddressSanitizer and UBSan;
the process then needs libasan preloaded (`tests/sanitize.sh`).
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

from gpuzarr import config
from gpuzarr.device import catalogue
from gpuzarr.device.catalogue import Kernel, Param
from gpuzarr.errors import DeviceError, MissingDependencyError

FLAGS = (
    *("-std=c++17", "-O2", "-g1", "-fPIC", "-shared", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti"),
    *("-ffp-contract=off", "-fno-strict-aliasing", "-Wall", "-Wno-unknown-pragmas", "-Wno-unused-function"),
)
SANITIZE = (
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fsanitize-sections=gz_shared"),
    "-fno-omit-frame-pointer",
)

Launcher = Callable[[ctypes.Array[ctypes.c_void_p], int, int, int, ctypes.Array[ctypes.c_char], int], int]
"""(pointers to arguments, blocks, threads, order, report, its size) -> 0, or 1 with the report filled in."""

_lock = threading.Lock()
_loaded: dict[tuple[Kernel, str, bool], Launcher] = {}


def sanitizing() -> bool:
    """Whether kernels are compiled with AddressSanitizer and UBSan."""
    return config.current().sim_sanitize == 1


@cache
def _compiler(asked: str) -> tuple[str, str]:
    """The C++ compiler's path, and what it says of itself."""
    for name in (asked,) if asked else ("g++", "c++", "clang++"):
        path = shutil.which(name)
        if path:
            said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
            return path, said.stdout
    raise MissingDependencyError(
        f"device sim needs a C++ compiler, and {asked or 'none of g++, c++ and clang++'} was not found",
        hint="install g++ (Debian: apt install g++) or set CXX",
    )


def launcher(kernel: Kernel) -> Launcher:
    """The compiled kernel. Each file is compiled once for all processes that share `cache_dir`."""
    asked = config.current().cxx
    with _lock:
        found = _loaded.get((kernel, asked, sanitizing()))
        if found is None:
            library = ctypes.CDLL(str(_library(kernel, *_compiler(asked))))
            found = library[f"{kernel.name}_launch"]
            numbers = ctypes.c_int64, ctypes.c_int32, ctypes.c_int32
            found.argtypes = ctypes.c_void_p, *numbers, ctypes.c_char_p, ctypes.c_int64
            _loaded[kernel, asked, sanitizing()] = found
        return found


def _library(kernel: Kernel, compiler: str, version: str) -> Path:
    """The compiled file, which is made if it is not there."""
    flags = (*FLAGS, *SANITIZE) if sanitizing() else FLAGS
    host = catalogue.root() / "host"
    shim = ((host / name).read_text(encoding="utf-8") for name in ("shim.h", "shim.cpp"))
    entry = _entry(kernel.path)
    key = catalogue.digest(kernel, *shim, entry, version, *flags)
    library = Path(config.current().cache_dir) / "sim" / f"{kernel.path.stem}-{key}.so"
    if not library.exists():
        _compile(kernel.path, entry, library, [compiler, *flags])
    return library


def _compile(source: Path, entry: str, library: Path, command: list[str]) -> None:
    """Compile to a name of our own, then rename: other processes see a whole library or none."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        unit, built = Path(folder, f"{source.stem}.cpp"), Path(folder, "built.so")
        unit.write_text(entry, encoding="utf-8")
        scheduler = catalogue.root() / "host" / "shim.cpp"
        arguments: list[str | Path] = [*command, f"-I{catalogue.root()}", "-o", built, unit, scheduler]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DeviceError(f"{source.name} does not compile for device sim:\n{done.stderr}")
        Path(built).replace(library)


def _entry(source: Path) -> str:
    """A source file that includes the kernels of another, and calls each once for every simulated thread."""
    text = f"""#include "{source}"
extern "C" i32 gz_host_run(void (*)(), i64, i32, i32, char*, i64);
static void* const* arguments;
"""
    for kernel in catalogue.read(source):
        values = ", ".join(f"*({_value(param)}*)arguments[{i}]" for i, param in enumerate(kernel.params))
        text += f"""
static void {kernel.name}_thread() {{ {kernel.name}({values}); }}
extern "C" __attribute__((visibility("default")))
i32 {kernel.name}_launch(void* const* given, i64 blocks, i32 threads, i32 order, char* report, i64 size) {{
    arguments = given;
    return gz_host_run({kernel.name}_thread, blocks, threads, order, report, size);
}}
"""
    return text


def _value(param: Param) -> str:
    return f"{param.spelling} const" if param.pointer else param.spelling


def poison(address: int, nbytes: int) -> None:
    """Make AddressSanitizer report every access to these bytes."""
    ctypes.CDLL(None).__asan_poison_memory_region(ctypes.c_void_p(address), ctypes.c_size_t(nbytes))
