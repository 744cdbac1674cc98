"""Every kernel to machine code for every architecture, without a GPU: `python -m tests.compile_gate`.

It uses nvcc where it is found, else (or with --nvrtc) NVRTC from the wheel `nvidia-cuda-nvrtc`, which needs
no driver. It prints registers, shared memory and spills, and exits with 1 on an error, a warning or a spill.
Where neither compiler is found it says so and exits with 0: then nothing was checked.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gpuzarr.device import catalogue, nvrtc
from gpuzarr.errors import MissingDependencyError

ARCHITECTURES = (75, 80, 90, 100, 120)

_ENTRY = re.compile(r"Compiling entry function '(\w+)' for 'sm_(\d+)\w*'")
_SPILL = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True)
class Compiled:
    """One kernel for one architecture. Sizes are bytes; spills are stores and loads."""

    kernel: str
    architecture: int
    registers: int
    shared: int
    spilled: int


class CompileError(Exception):
    """What the compiler said."""


def parse(log: str) -> list[Compiled]:
    """What `ptxas --verbose` reports, for however many kernels and architectures."""
    found = []
    parts = _ENTRY.split(log)[1:]
    for kernel, architecture, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        spill, registers, shared = _SPILL.search(text), _REGISTERS.search(text), _SHARED.search(text)
        if spill is None or registers is None:
            raise CompileError(f"no resources reported for {kernel} on sm_{architecture}:\n{text}")
        spilled = int(spill[1]) + int(spill[2])
        smem = int(shared[1]) if shared else 0
        found.append(Compiled(kernel, int(architecture), int(registers[1]), smem, spilled))
    return found


def by_nvcc(nvcc: str, source: Path) -> list[Compiled]:
    """One call for all architectures."""
    targets = [f"-gencode=arch=compute_{one},code=sm_{one}" for one in ARCHITECTURES]
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, *catalogue.CUDA_FLAGS, *targets, "-fatbin", "-Xptxas=-v", "-Werror=all-warnings"]
        command += [f"-I{catalogue.root()}", "-o", f"{folder}/out.fatbin", str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError(done.stderr)
    return parse(done.stderr)


def by_nvrtc(compiler: nvrtc.Nvrtc, source: Path) -> list[Compiled]:
    """One call for each architecture."""
    found = []
    for architecture in ARCHITECTURES:
        code, log = compiler.compile(source, f"sm_{architecture}", "--ptxas-options=--verbose")
        if not code or "warning" in log:
            raise CompileError(f"{source.name} for sm_{architecture}:\n{log}")
        if not code.startswith(b"\x7fELF"):
            raise CompileError(f"{source.name} for sm_{architecture}: no machine code")
        found += parse(log)
    return found


def find_nvrtc() -> nvrtc.Nvrtc | None:
    """NVRTC, if it is installed."""
    try:
        return nvrtc.load()
    except MissingDependencyError:
        return None


def table(compiled: list[Compiled]) -> str:
    """kernel × architecture: registers, shared memory, and spills where there are any."""
    cells = {(one.kernel, one.architecture): one for one in compiled}
    kernels = sorted({one.kernel for one in compiled})
    width = max(len(name) for name in ["kernel", *kernels])
    lines = ["kernel".ljust(width) + "".join(f"{f'sm_{one}':>18}" for one in ARCHITECTURES)]
    for kernel in kernels:
        row = kernel.ljust(width)
        for architecture in ARCHITECTURES:
            one = cells.get((kernel, architecture))
            spills = f" SPILLS {one.spilled}" if one and one.spilled else ""
            row += f"  {f'{one.registers} r {one.shared:5d} B{spills}' if one else 'missing':>16}"
        lines.append(row)
    return "\n".join([*lines, "r: registers a thread; B: bytes of shared memory a block"])


def main() -> int:
    """The exit status."""
    nvcc, found_nvrtc = shutil.which("nvcc"), find_nvrtc()
    compile_one: Callable[[Path], list[Compiled]]
    if nvcc and "--nvrtc" not in sys.argv:
        print(f"compiling with {nvcc}")
        compile_one = lambda source: by_nvcc(nvcc, source)  # noqa: E731
    elif found_nvrtc:
        print(f"compiling with {found_nvrtc.path}")
        compile_one = partial(by_nvrtc, found_nvrtc)
    else:
        print("NOTHING CHECKED: neither nvcc nor NVRTC is here; pip install nvidia-cuda-nvrtc")
        return 0
    compiled, failed = [], False
    sources = sorted({kernel.path for kernel in catalogue.kernels().values()})
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for future in [threads.submit(compile_one, source) for source in sources]:
            try:
                compiled += future.result()
            except CompileError as error:
                failed = True
                print(error)
    print(table(compiled))
    expected = {(name, one) for name in catalogue.kernels() for one in ARCHITECTURES}
    missing = expected - {(one.kernel, one.architecture) for one in compiled}
    spilled = [one for one in compiled if one.spilled]
    print(f"{len(compiled)} compiled, {len(missing)} missing, {len(spilled)} with spills")
    return int(failed or bool(missing) or bool(spilled))


if __name__ == "__main__":
    sys.exit(main())
