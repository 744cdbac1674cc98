"""NVRTC, the CUDA compiler as a library, through ctypes: a kernel file becomes machine code, kept by hash.

It needs neither a driver nor a GPU, so the code that runs on a GPU machine compiles kernels in any test. A
compiler is looked for where pip, CUDA's own installer and the system's loader put it. The newest is not the
best: a driver may refuse what a later major version made, so the driver's own major version is preferred.

    kernels/lz4.cu ─compile→ cubin for sm_90 ─→ <cache_dir>/cubin/lz4-<digest>     its SHA-256, then the cubin
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from ctypes import byref, c_char_p, c_int, c_size_t, c_void_p
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from gpuzarr import config
from gpuzarr.device import catalogue
from gpuzarr.device.catalogue import Kernel
from gpuzarr.errors import DeviceError, MissingDependencyError

MAJORS: Final = (13, 12)
"""Versions that are known to compile the kernels, the newest first."""

_INTEGRATED: Final = frozenset((72, 87, 101))
"""Boards with a GPU of their own kind: their machine code is for them alone."""

_SUM_NBYTES: Final = 32


class Compiled(NamedTuple):
    """What became of a source file."""

    code: bytes
    """A cubin, or PTX for a virtual architecture; empty: it does not compile."""
    log: str


class Nvrtc:
    """A loaded libnvrtc. Threads may compile at once."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._library = ctypes.CDLL(path)
        except OSError as error:
            raise DeviceError(f"cannot load {path}: {error}") from error
        self._library.nvrtcGetErrorString.restype = c_char_p
        major, minor = c_int(), c_int()
        self._call("nvrtcVersion", byref(major), byref(minor))
        self.version = (major.value, minor.value)

    def __str__(self) -> str:
        return f"NVRTC {self.version[0]}.{self.version[1]}"

    @property
    def architectures(self) -> tuple[int, ...]:
        """What it makes machine code for, in order: 75, 80, 86."""
        count = c_int()
        self._call("nvrtcGetNumSupportedArchs", byref(count))
        found = (c_int * max(count.value, 1))()
        self._call("nvrtcGetSupportedArchs", found)
        return tuple(sorted(found[: count.value]))

    def compile(self, source: Path, target: str, *options: str) -> Compiled:
        """A kernel file for `target`: `sm_90` gives a cubin, `compute_90` PTX. What the compiler has to say
        is in the log, errors too."""
        program = c_void_p()
        texts = (c_char_p * 1)((catalogue.root() / "gz.cuh").read_bytes())
        names = (c_char_p * 1)(b"gz.cuh")
        text, name = source.read_bytes(), source.name.encode()
        self._call("nvrtcCreateProgram", byref(program), text, name, c_int(1), texts, names)
        try:
            told = [*catalogue.CUDA_FLAGS, f"--gpu-architecture={target}", *options]
            encoded = (c_char_p * len(told))(*(option.encode() for option in told))
            status = self._library.nvrtcCompileProgram(program, c_int(len(told)), encoded)
            log = self._text("nvrtcGetProgramLog", program).rstrip(b"\0").decode(errors="replace")
            if status:
                return Compiled(b"", log or self._words(status))
            kind = "nvrtcGetCUBIN" if target.startswith("sm_") else "nvrtcGetPTX"
            return Compiled(self._text(kind, program), log)
        finally:
            self._call("nvrtcDestroyProgram", byref(program))

    def _text(self, name: str, program: c_void_p) -> bytes:
        """What `<name>Size` and `<name>` give."""
        size = c_size_t()
        self._call(f"{name}Size", program, byref(size))
        text = ctypes.create_string_buffer(max(size.value, 1))
        self._call(name, program, text)
        return text.raw[: size.value]

    def _call(self, name: str, *arguments: object) -> None:
        status = self._library[name](*arguments)
        if status:
            raise DeviceError(f"{name} of {self.path}: {self._words(status)}")

    def _words(self, status: int) -> str:
        said: bytes = self._library.nvrtcGetErrorString(c_int(status))
        return said.decode(errors="replace")


def target(architecture: int, known: tuple[int, ...]) -> str:
    """What to compile for, so that it runs on `architecture`: that itself; else machine code for an earlier
    one of the same major version, which runs there as it is; else PTX, which the driver compiles."""
    if architecture in known:
        return f"sm_{architecture}"
    earlier = [one for one in known if one < architecture and one not in _INTEGRATED]
    if not earlier:
        raise DeviceError(
            f"this NVRTC compiles for {', '.join(map(str, known))}, and the GPU is of architecture "
            f"{architecture}"
        )
    best = max(earlier)
    return f"sm_{best}" if best // 10 == architecture // 10 else f"compute_{best}"


def code(compiler: Nvrtc, kernel: Kernel, architecture: int) -> bytes:
    """The machine code of the kernel's file, from the cache if it is there. A file that is damaged is made
    anew; a cache that cannot be written costs the time to compile."""
    goal = target(architecture, compiler.architectures)
    key = catalogue.digest(kernel, str(compiler), goal, *catalogue.CUDA_FLAGS)
    path = Path(config.current().cache_dir) / "cubin" / f"{kernel.path.stem}-{key}"
    found = _kept(path)
    if found is None:
        found, log = compiler.compile(kernel.path, goal)
        if not found:
            raise DeviceError(f"{kernel.path.name} does not compile for {goal} with {compiler}:\n{log}")
        _keep(path, found)
    return found


def _kept(path: Path) -> bytes | None:
    """What `_keep` wrote. The driver is not told how long code is: it must be whole."""
    try:
        stored = path.read_bytes()
    except OSError:
        return None
    found = stored[_SUM_NBYTES:]
    return found if found and hashlib.sha256(found).digest() == stored[:_SUM_NBYTES] else None


def _keep(path: Path, found: bytes) -> None:
    """Write to a name of our own, then rename: other processes see a whole file or none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(dir=path.parent)
    except OSError:
        return
    try:
        with os.fdopen(number, "wb") as file:
            file.write(hashlib.sha256(found).digest() + found)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)


@cache
def load(major: int | None = None) -> Nvrtc:
    """The installed compiler that suits a driver of CUDA `major` best; None: the newest."""
    for path in candidates(major):
        try:
            return Nvrtc(path)
        except DeviceError:
            continue
    extra = "cuda12" if major == 12 else "cuda13"
    raise MissingDependencyError(
        "NVRTC, which compiles kernels, is not installed", hint=f'pip install "gpuzarr[{extra}]"'
    )


def candidates(major: int | None = None) -> list[str]:
    """Where a compiler may be, what suits best first: the driver's major version, those before, those
    after."""

    def later(version: int) -> tuple[bool, int]:
        return major is not None and version > major, -version

    found = sorted({version: None for version, _ in _places()}, key=later)
    paths = {version: [path for one, path in _places() if one == version] for version in found}
    return [path for version in found for path in dict.fromkeys(paths[version])]


def _places() -> Iterator[tuple[int, str]]:
    """Major version and path: pip's wheels, whatever their layout, CUDA's folder, conda's, the loader's."""
    spec = importlib.util.find_spec("nvidia")
    wheels = [Path(place) for place in spec.submodule_search_locations or ()] if spec else []
    home = config.current().cuda_home
    folders = [folder for wheel in wheels for folder in sorted(wheel.glob("*/lib"))]
    folders += [Path(home, lib) for lib in ("lib64", "lib") if home]
    for folder in (*folders, Path(sys.prefix, "lib")):
        for path in sorted(folder.glob("libnvrtc.so.*")):
            match = re.fullmatch(r"libnvrtc\.so\.(\d+)", path.name)
            if match and int(match[1]) in MAJORS:
                yield int(match[1]), str(path)
    for version in MAJORS:
        yield version, f"libnvrtc.so.{version}"
