"""One frozen Config, and the only reader of environment variables.

A setting comes from `configure(...)`, else from `GPUZARR_<NAME>`, else from the default here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

from gpuzarr.errors import ArgumentError

KiB, MiB, GiB = 1 << 10, 1 << 20, 1 << 30


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Config:
    """Settings of this process. Sizes are bytes."""

    device: str = "auto"
    """What `device="auto"` means: `auto` (CUDA where it works, else the CPU), `cpu`, `cuda`, `cuda:N`,
    `sim`."""
    threads: int = field(default_factory=_cores)
    """Worker threads of the host engine."""
    bundle_nbytes: int = 32 * MiB
    """Decoded bytes that one worker takes at a time, at most."""
    coalesce_gap: int = 64 * KiB
    """Two byte ranges of one object this near are fetched in one request."""
    request_nbytes: int = 4 * MiB
    """Coalesced requests grow no larger than this."""
    strict: int = 0
    """1: what has a device form runs on the device, even where the host is expected to be sooner."""
    untrusted: int = 0
    """1: chunks come from strangers. nvCOMP is not safe on damaged streams, which can be validated only in
    part before it decodes them: zstd, zlib and gzip are then left to the host."""
    gds: str = "auto"
    """Whether files are read straight into device memory, through KvikIO. `auto`: where GPUDirect Storage is
    on and requests are large; `on`: also in KvikIO's compatibility mode, and of any size; `off`: never."""
    remote: str = "staging"
    """How chunks come from servers to a device: `staging`, through pinned host memory; `kvikio`, through
    KvikIO's RemoteFile, where nothing on the host has to see them and the server's options can be said so."""
    native: int = 1
    """0: the host reads without its compiled core, chunk by chunk. Results are the same."""
    native_library: str = ""
    """Another build of that core, for tests."""
    wave_nbytes: int = 0
    """Device memory that the encoded and decoded chunks of the waves of a read may take, scratch included. 0:
    what the device suggests, 2 GiB where it has that."""
    write_empty_chunks: int = 0
    """1: chunks that hold the fill value alone are stored too."""
    verify: int = 0
    """1: each chunk is decoded again when it was encoded, and compared, before it is stored."""
    fsync: int = 0
    """1: what is written to a local disk has reached it when the call returns. Slow."""
    index_cache_nbytes: int = 64 * MiB
    """Decoded shard indexes kept by each array handle."""
    cache_nbytes: int = GiB
    """Decoded chunks kept in host memory by reads that ask for it, for all handles together; 0: none."""
    device_cache_nbytes: int = 2 * GiB
    """The same in the memory of a device."""
    max_chunk_nbytes: int = 4 * GiB
    """A chunk that decodes to more is refused."""
    max_document_nbytes: int = 64 * MiB
    """A metadata document larger than this is refused."""
    cache_dir: str = os.path.join(os.path.expanduser("~"), ".cache", "gpuzarr")
    """Where compiled kernels are kept."""
    cuda_home: str = ""
    """Where a CUDA toolkit is, for its NVRTC; also `$CUDA_HOME` and `$CUDA_PATH`. A wheel's comes first."""
    cxx: str = ""
    """The C++ compiler of device `sim`; also `$CXX`. Empty: g++, c++ or clang++, whichever is there."""
    sim_sanitize: int = 0
    """1: device `sim` compiles kernels with AddressSanitizer and UBSan."""


def _from_environment() -> Config:
    cuda = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH", "")
    found: dict[str, Any] = {"cxx": os.environ.get("CXX", ""), "cuda_home": cuda}
    for setting in fields(Config):
        text = os.environ.get(f"GPUZARR_{setting.name.upper()}")
        if text:
            try:
                found[setting.name] = int(text) if setting.type == "int" else text
            except ValueError:
                raise ArgumentError(
                    f"GPUZARR_{setting.name.upper()}={text!r} is not a whole number"
                ) from None
    return _checked(Config(**found))


_FROM_0 = (
    *(
        "cache_nbytes",
        "coalesce_gap",
        "device_cache_nbytes",
        "fsync",
        "native",
        "sim_sanitize",
        "strict",
        "untrusted",
        "verify",
        "wave_nbytes",
    ),
    "write_empty_chunks",
)


def _checked(config: Config) -> Config:
    for setting in fields(Config):
        value = getattr(config, setting.name)
        least = 0 if setting.name in _FROM_0 else 1
        if setting.type == "str" and not isinstance(value, str):
            raise ArgumentError(f"{setting.name}={value!r} is not a string")
        if setting.type == "int" and (type(value) is not int or value < least):
            raise ArgumentError(f"{setting.name}={value!r} is not a whole number of at least {least}")
    if config.gds not in ("auto", "on", "off"):
        raise ArgumentError(f"gds={config.gds!r} is none of auto, on and off")
    if config.remote not in ("staging", "kvikio"):
        raise ArgumentError(f"remote={config.remote!r} is none of staging and kvikio")
    return config


_current = _from_environment()


def current() -> Config:
    """The settings in force."""
    return _current


def configure(**changes: Any) -> Config:
    """Change settings of this process; returns the settings that were in force before."""
    global _current
    unknown = changes.keys() - {setting.name for setting in fields(Config)}
    if unknown:
        raise ArgumentError(f"no setting called {', '.join(sorted(unknown))}", hint="see gpuzarr.Config")
    before, _current = _current, _checked(replace(_current, **changes))
    return before


@contextmanager
def configured(**changes: Any) -> Iterator[Config]:
    """Change settings for the length of a `with` block."""
    global _current
    before = configure(**changes)
    try:
        yield _current
    finally:
        _current = before
