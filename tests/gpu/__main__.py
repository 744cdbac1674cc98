"""`make test-gpu`: the device suites on a CUDA machine, with the Python that is there.

Says what is missing, and runs nothing, where there is no driver, no CuPy, or no CUDA device in this version.
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys


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
    if importlib.util.find_spec("gpuzarr.device.cuda") is None:
        lacks.append(
            "this version has no CUDA device, and nothing of it has run on a GPU yet: see `make test`"
        )
    return lacks


def main() -> int:
    """Run the suites, or say what is missing."""
    lacks = missing()
    if lacks:
        print("make test-gpu cannot run here:", *[f"  {one}" for one in lacks], sep="\n")
        return 1
    import pytest

    return int(pytest.main(["-q", "-m", "gpu", *sys.argv[1:]]))


if __name__ == "__main__":
    sys.exit(main())
