"""The kernels there are, read from their own sources.

A kernel is launched by name, and its parameters are checked against the signature in its `.cu` file, so a
launch cannot drift from its kernel. The sources lie in `gpuzarr/kernels` of an installed package, else in
`kernels/` of the checkout. Nothing is compiled here: devices do that, and keep the outcome under `digest`.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gpuzarr.device.base import DeviceBuffer
from gpuzarr.errors import DeviceError

TYPES = {
    **{f"{kind}{8 * size}": np.dtype(f"{kind}{size}") for kind in "ui" for size in (1, 2, 4, 8)},
    **{f"f{8 * size}": np.dtype(f"f{size}") for size in (4, 8)},
}
"""The type names of kernels/gz.cuh."""

CUDA_FLAGS = ("--std=c++17", "--fmad=false")
"""What NVRTC and nvcc are told, besides the architecture. Products and sums round apart, as on the host."""

_KERNEL = re.compile(r"^GZ_KERNEL\s+(?:__launch_bounds__\([^)]*\)\s*)?(\w+)\s*\(([^)]*)\)", re.MULTILINE)
_PARAM = re.compile(r"(?P<const>const\s+)?(?P<type>\w+)\s*(?P<star>\*)?\s*(?:__restrict__\s*)?(?P<name>\w+)")


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter: a scalar of `dtype`, or a pointer to such values."""

    name: str
    dtype: np.dtype[Any]
    pointer: bool
    const: bool
    """The kernel only reads through this pointer, so a host array may stand for it."""

    @property
    def spelling(self) -> str:
        """As the kernel writes it."""
        kind = next(name for name, dtype in TYPES.items() if dtype == self.dtype)
        return ("const " if self.const else "") + kind + ("*" if self.pointer else "")


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel, where its source is, and what it takes, in order."""

    name: str
    path: Path
    params: tuple[Param, ...]


def root() -> Path:
    """The folder of kernel sources, which is also the include path for `gz.cuh`."""
    package = Path(__file__).parents[1]
    for folder in (package / "kernels", package.parent / "kernels"):
        if (folder / "gz.cuh").is_file():
            return folder
    raise DeviceError(f"no kernel sources in {package} or beside it", hint="reinstall gpuzarr")


def scan(folder: Path) -> dict[str, Kernel]:
    """The kernels of every `.cu` file in `folder`, by name."""
    found: dict[str, Kernel] = {}
    for path in sorted(folder.glob("*.cu")):
        for kernel in read(path):
            if kernel.name in found or not kernel.name.startswith("gz_"):
                raise DeviceError(
                    f"kernel {kernel.name} of {path.name} is not named gz_..., or is there twice"
                )
            found[kernel.name] = kernel
    return found


def read(path: Path) -> list[Kernel]:
    """The kernels of one source file."""
    text = re.sub(r"//.*", "", path.read_text(encoding="utf-8"))
    return [
        Kernel(name, path, tuple(_param(param, name) for param in params.split(",")))
        for name, params in _KERNEL.findall(text)
    ]


def _param(text: str, kernel: str) -> Param:
    match = _PARAM.fullmatch(text.strip())
    if match is None or match["type"] not in TYPES:
        raise DeviceError(f"{kernel}: parameter {' '.join(text.split())!r} is not of the types of gz.cuh")
    return Param(match["name"], TYPES[match["type"]], match["star"] is not None, match["const"] is not None)


@cache
def kernels() -> dict[str, Kernel]:
    """The kernels of this installation, by name."""
    return scan(root())


def kernel(name: str) -> Kernel:
    """The kernel called `name`."""
    found = kernels().get(name)
    if found is None:
        near = difflib.get_close_matches(name, kernels(), 1)
        raise DeviceError(f"no kernel called {name}", hint=f"did you mean {near[0]}?" if near else None)
    return found


def check(kernel: Kernel, params: Mapping[str, Any]) -> None:
    """Raise unless `params` are the kernel's parameters, each of its type.

    Pointers take device buffers, pointers to const also host arrays of that type; scalars numbers that fit.
    """
    missing = [param.name for param in kernel.params if param.name not in params]
    unknown = params.keys() - {param.name for param in kernel.params}
    if missing or unknown:
        lists = (("lacks", missing), ("has no", sorted(unknown)))
        what = " and ".join(f"{word} {', '.join(names)}" for word, names in lists if names)
        raise DeviceError(f"{kernel.name} {what}", hint=f"its parameters are in {kernel.path.name}")
    for param in kernel.params:
        wrong = _wrong(param, params[param.name])
        if wrong:
            raise DeviceError(f"{kernel.name}: {param.spelling} {param.name} {wrong}")


def _wrong(param: Param, value: Any) -> str | None:
    """Why `value` cannot be `param`."""
    if param.pointer:
        if isinstance(value, np.ndarray):
            if not param.const:
                return "is written, so it takes a device buffer, not a host array"
            if value.dtype != param.dtype:
                return f"got a host array of {value.dtype}"
            return None if value.flags.c_contiguous else "got a host array that is not C-contiguous"
        return None if isinstance(value, DeviceBuffer) else f"got {type(value).__name__}"
    if param.dtype.kind == "f":
        real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
        return None if real else f"got {type(value).__name__}"
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
        return f"got {type(value).__name__}"
    limits = np.iinfo(param.dtype)
    return None if limits.min <= int(value) <= limits.max else f"cannot hold {value}"


def digest(kernel: Kernel, *also: str) -> str:
    """What a compiled kernel is cached under: its source, gz.cuh, `also` (compiler, flags, architecture)."""
    state = hashlib.sha256()
    sources = kernel.path.read_bytes(), (root() / "gz.cuh").read_bytes()
    for part in (*sources, *(text.encode() for text in also)):
        state.update(len(part).to_bytes(8, "little") + part)
    return state.hexdigest()[:32]
