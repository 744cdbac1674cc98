"""Files straight into device memory, through KvikIO (GPUDirect Storage): the only room that imports it.
Objects of servers: `remote/kvikio.py`.

    file  | .. page | request ........ | page .. |     pieces of up to 4 MiB, each one task of KvikIO's pool
    memory          | request ........ |               all in flight, of many files at once

KvikIO falls back by itself to copies by way of host memory; `mode` says which of the two it would be.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from typing import Any

from gpuzarr import config
from gpuzarr.errors import MissingDependencyError, StoreError

PIECE_NBYTES = 4 << 20
"""KvikIO's own task size. It could cut reads itself, but where one of several tasks fails, its future does
not wait for the others, which would go on to write into memory that is used for something else by then."""

FILES = 64
"""Open at a time; KvikIO opens each of them twice."""


def mode() -> str:
    """`gds`: from disk to device memory; `compat`: KvikIO copies by way of host memory; else the reason why
    it can do neither."""
    kvikio, why = loaded()
    if kvikio is None:
        return why
    try:
        if kvikio.defaults.is_compat_mode_preferred():
            return "compat"
        # Without its kernel driver, cuFile has a compatibility mode of its own.
        return "gds" if kvikio.cufile_driver.get("is_gds_available") else "compat"
    except Exception:  # cuFile does not start, or this KvikIO cannot say: nothing to rely on
        return "compat"


def read(reads: Sequence[tuple[str, int, int, int]]) -> None:
    """Read files into device memory: of `path`, from byte `start` on, `nbytes` bytes to an address. Reads of
    one file stand together. When this returns, all bytes are there; when it raises, nothing is under way any
    more. A file that ends too early, and one that cannot be read, are StoreErrors."""
    kvikio = _kvikio()
    flying: deque[_File] = deque()
    wrong: list[StoreError] = []
    try:
        for path, of_one in groupby(reads, operator.itemgetter(0)):
            if len(flying) == FILES:
                wrong += flying.popleft().finish()
            if wrong:
                break
            flying.append(_File(path))
            wrong += flying[-1].start(kvikio, [(start, nbytes, to) for _, start, nbytes, to in of_one])
    finally:
        while flying:
            wrong += flying.popleft().finish()
    if wrong:
        raise wrong[0]


class _File:
    """One open file, and what is being read of it."""

    def __init__(self, path: str) -> None:
        self.path, self.handle = path, None
        self.futures: list[tuple[int, Any]] = []
        """What each is to give, and what gives it."""

    def start(self, kvikio: Any, reads: list[tuple[int, int, int]]) -> list[StoreError]:
        """Open it and start to read; what is wrong."""
        try:
            handle: Any = kvikio.CuFile(self.path, "r")
            self.handle = handle
            for start, nbytes, address in reads:
                for done in range(0, nbytes, PIECE_NBYTES):
                    size = min(nbytes - done, PIECE_NBYTES)
                    into = Memory(address + done, size)
                    self.futures.append((size, handle.pread(into, size, start + done, size)))
        except Exception as error:  # RuntimeError, OSError, and others of its layers
            return [self._wrong(error)]
        return []

    def finish(self) -> list[StoreError]:
        """Wait for all that was started, and close the file; what is wrong."""
        wrong = []
        for size, future in self.futures:
            try:
                got = int(future.get())
            except Exception as error:
                wrong.append(self._wrong(error))
            else:
                if got != size:
                    wrong.append(self._wrong(f"{got} bytes came where {size} were to"))
        if self.handle is not None:
            self.handle.close()
        return wrong

    def _wrong(self, what: object) -> StoreError:
        return StoreError(f"cannot read {self.path} into device memory: {what}")


class Memory:
    """Device memory, as KvikIO takes it."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (address, False),
            "strides": None,
            "version": 3,
        }


def _kvikio() -> Any:
    found, why = loaded()
    if found is None:
        raise MissingDependencyError(why, hint='pip install "gpuzarr[cuda13]", or gpuzarr[cuda12]')
    return found


@cache
def loaded() -> tuple[Any, str]:
    """KvikIO, or None and why not. It gets as many threads as the host engine has, unless somebody has given
    it more than the one it begins with."""
    try:
        import kvikio
        import kvikio.cufile_driver
        import kvikio.defaults

        if kvikio.defaults.get("num_threads") == 1:
            kvikio.defaults.set("num_threads", config.current().threads)
    except Exception as error:  # its libraries may be missing, or not be for this machine
        absent = isinstance(error, ModuleNotFoundError) and error.name == "kvikio"
        first = next(iter(str(error).splitlines()), "")
        return None, "KvikIO is not installed" if absent else f"KvikIO cannot be loaded: {first}"
    return kvikio, ""
