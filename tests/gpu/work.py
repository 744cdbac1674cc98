"""What these tests ask of CuPy beside arrays, in one place. Those that are not `real` run without a GPU too,
over what stands in for CuPy (tests/unit/test_gpu_gate.py), which has other words for it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import pytest

Test = TypeVar("Test", bound=Callable[..., Any])

MANY = 40
"""Reads or writes, after which no memory must be missing."""


def real(test: Test) -> Test:
    """Marks a test of what only a GPU has: its library, its memory, work that takes a simulation long."""
    test.real = True  # type: ignore[attr-defined]
    return test


def slow(value: Any) -> Any:
    """A parameter that quick runs over a stand-in leave out."""
    return pytest.param(value, marks=pytest.mark.slow)


def stream() -> Any:
    """A stream that the null stream does not wait for."""
    import cupy

    return cupy.cuda.Stream(non_blocking=True)


def busy() -> None:
    """Keep the current stream at work for some milliseconds."""
    import cupy

    slow = cupy.empty(1 << 28, np.uint8)
    for _ in range(40):
        slow[: 1 << 27] = slow[1 << 27 :]


def in_use() -> int:
    """Bytes of device memory that somebody holds."""
    import cupy

    gc.collect()
    return int(cupy.get_default_memory_pool().used_bytes())


def held() -> int:
    """Bytes of device memory that CuPy's pool holds, for whomever."""
    import cupy

    return int(cupy.get_default_memory_pool().total_bytes())


def free() -> int:
    """Bytes of device memory that nobody holds, not even a pool."""
    import cupy

    gc.collect()
    cupy.get_default_memory_pool().free_all_blocks()
    return int(cupy.cuda.runtime.memGetInfo()[0])


@contextmanager
def room(nbytes: int) -> Iterator[None]:
    """No more than so many bytes of device memory beside those that are held."""
    import cupy

    pool = cupy.get_default_memory_pool()
    gc.collect()
    pool.free_all_blocks()
    pool.set_limit(size=pool.total_bytes() + nbytes)
    try:
        yield
    finally:
        pool.set_limit(size=0)
