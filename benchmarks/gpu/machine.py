"""Clocks and ceilings: how long queued work takes, and what this machine can do at most.

On a GPU a clock is a pair of CUDA events in the lane's own stream; there is one pair around all that a lane
has queued and, if asked for, one around each thing of it: kernels by name, nvCOMP's call by itself. On `sim`
the host's clock stands in, so that everything here runs without a GPU; its figures mean nothing.

To put events between launches, this looks into the lanes' queues, which is nobody else's business.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuzarr import config
from gpuzarr.device.base import Device, DeviceBuffer, Lane
from gpuzarr.device.choose import choose
from gpuzarr.device.nvcomp import Compressor
from gpuzarr.device.sim_nvcomp import HostLibrary

MiB, GiB = 1 << 20, 1 << 30
_PIECE = 4 * MiB  # that one thread reads or copies at a time


class WrongResultError(Exception):
    """What was read is not what was stored. Nothing is timed then."""


@dataclass(slots=True)
class Timing:
    """Seconds of a lane's queue, and of its parts by name, each in the order of first use."""

    seconds: float
    parts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Bytes a second."""

    copy: float
    """From device memory to device memory, bytes read and written both counted."""
    link: float
    """From pinned host memory to the device."""
    cache: float
    """From the page cache into staging memory, on all threads."""
    host: float
    """From host memory to host memory on all threads, bytes read and written both counted."""

    def as_dict(self) -> dict[str, float]:
        """By name."""
        return asdict(self)


class Machine:
    """A device with its clock. `timed` says whether its figures mean anything."""

    timed = False
    compresses: tuple[str, ...] = ("zstd",)
    """Formats for which its library has a compressor."""

    def __init__(self, device: Device, rounds: int) -> None:
        """`rounds`: how often everything is timed; the median counts."""
        self.device, self.rounds = device, rounds
        self.lane = device.lane()

    @property
    def name(self) -> str:
        """What `device=` accepts."""
        return self.device.name

    @staticmethod
    def named(name: str, rounds: int) -> Machine:
        """The machine whose device is called so: `cuda`, `sim`."""
        device = choose(name).device
        if device is None:
            raise SystemExit(f"{name} has no memory of its own: this is a benchmark of devices")
        return (Gpu if device.name.startswith("cuda") else Machine)(device, rounds)

    def facts(self) -> dict[str, Any]:
        """The device, for the record."""
        return {
            "device": self.name,
            "note": "nothing here has run on a GPU: seconds mean nothing",
        }

    # ---- clocks

    def run(self, lane: Lane, detail: bool = False) -> Timing:
        """Do what a lane has queued, wait for it, and say how long it took."""
        queue: list[Callable[[], None]] = lane._queue  # type: ignore[attr-defined]
        parts: dict[str, float] = {}
        if detail:
            lane._queue = [partial(_clocked, _name(work), work, parts) for work in queue]  # type: ignore[attr-defined]
        began = perf_counter()
        lane.synchronize()
        return Timing(perf_counter() - began, parts)

    def measure(self, queue: Callable[[Lane, int], None], detail: bool = False) -> Timing:
        """The median over rounds of what `queue(lane, round)` queues, after one round that is not counted.
        With `detail`, the parts come from rounds of their own, so that their clocks cost the total nothing.
        A chunk that could not be decoded is a WrongResultError."""
        plain = [self.once(queue, i, False).seconds for i in range(self.rounds + 1)][1:]
        timing = Timing(median(plain))
        if detail:
            each = [self.once(queue, i, True).parts for i in range(self.rounds)]
            timing.parts = {name: median(one[name] for one in each) for name in each[0]}
        return timing

    def once(self, queue: Callable[[Lane, int], None], i: int = 0, detail: bool = False) -> Timing:
        """What `queue(lane, i)` queues, once. See `measure`."""
        queue(self.lane, i)
        timing = self.run(self.lane, detail)
        faults = self.lane.take_faults()
        self.lane.reset()
        if len(faults):
            raise WrongResultError(f"chunks {faults[:9].tolist()} were not decoded on {self.name}")
        return timing

    def wall(self, work: Callable[[], object], rounds: int | None = None) -> float:
        """Median seconds by the host's clock, after one round that is not counted."""
        return median(self.walls(work, rounds))

    def walls(self, work: Callable[[], object], rounds: int | None = None) -> list[float]:
        """Seconds of each round."""
        work()
        spent = []
        for _ in range(rounds or self.rounds):
            self.synchronize()
            began = perf_counter()
            made = work()
            self.synchronize()
            spent.append(perf_counter() - began)
            del made
        return spent

    # ---- the library's own calls

    def library(self) -> Compressor:
        """nvCOMP with its work on this machine's lane, or what stands in for it."""
        return HostLibrary()

    def address(self, buffer: DeviceBuffer) -> int:
        """Where a buffer lies, for the library."""
        return int(buffer.bytes().ctypes.data)  # type: ignore[attr-defined]

    def call(self, lane: Lane, name: str, work: Callable[[], None]) -> None:
        """Queue a call of the library."""
        lane._queue.append(work)  # type: ignore[attr-defined]

    # ---- what other readers need

    def synchronize(self) -> None:
        """Wait for everything that anyone queued on the device."""

    def to_device(self, array: NDArray[Any]) -> Any:
        """A host array as an array of the device."""
        return self.device.array(array)  # type: ignore[attr-defined]

    def free(self) -> None:
        """Give cached device memory back."""

    # ---- ceilings

    def ceilings(self, nbytes: int, folder: Path) -> Ceilings:
        """Measured with `nbytes` bytes of noise; files are made in `folder`."""
        noise = np.random.default_rng(1).integers(0, 256, nbytes, np.uint8)
        return Ceilings(
            self.copy_rate(noise),
            self.link_rate(noise),
            self.cache_rate(noise, folder),
            self.host_rate(noise),
        )

    def copy_rate(self, noise: NDArray[np.uint8]) -> float:
        """Device to device."""
        return self.host_rate(noise)

    def link_rate(self, noise: NDArray[np.uint8]) -> float:
        """Pinned host memory to device, in copies of a block of staging."""
        staging = self.device.staging()
        for begin in range(0, noise.nbytes, _PIECE):
            part = noise[begin : begin + _PIECE]
            staging.take(part.nbytes)[1][:] = part
        blocks = staging.blocks

        def queue(lane: Lane, i: int) -> None:
            for _, block in blocks:
                lane.upload(block)

        seconds = self.measure(queue).seconds
        staging.reset()
        return sum(block.nbytes for _, block in blocks) / seconds

    def cache_rate(self, noise: NDArray[np.uint8], folder: Path) -> float:
        """Page cache to staging memory: one file a thread, pieces of 4 MiB."""
        threads = config.current().threads
        shares = np.array_split(noise, max(min(threads, noise.nbytes // 4096), 1))
        paths = [folder / f"noise-{i}" for i in range(len(shares))]
        for path, share in zip(paths, shares, strict=True):
            path.write_bytes(share.tobytes())
        staging = self.device.staging()
        into = [staging.take(share.nbytes)[1] for share in shares]
        with ThreadPoolExecutor(threads) as pool:
            seconds = self.wall(lambda: list(pool.map(_read, paths, into)))
        same = all(np.array_equal(a, b) for a, b in zip(into, shares, strict=True))
        staging.reset()
        for path in paths:
            path.unlink()
        if not same:
            raise WrongResultError("a file is not what was written")
        return noise.nbytes / seconds

    def host_rate(self, noise: NDArray[np.uint8]) -> float:
        """Host memory to host memory."""
        into = np.empty_like(noise)
        begins = range(0, noise.nbytes, _PIECE)
        pieces = [(into[at : at + _PIECE], noise[at : at + _PIECE]) for at in begins]
        with ThreadPoolExecutor(config.current().threads) as pool:
            seconds = self.wall(lambda: list(pool.map(lambda piece: np.copyto(*piece), pieces)))
        return 2 * noise.nbytes / seconds


class Gpu(Machine):
    """A CUDA device, with CUDA's clocks."""

    timed = True
    compresses = ("lz4", "zstd")

    def __init__(self, device: Device, rounds: int) -> None:
        super().__init__(device, rounds)
        import cupy

        self.cupy = cupy
        self.number = int(device.name.partition(":")[2] or 0)
        cupy.cuda.Device(self.number).use()

    def facts(self) -> dict[str, Any]:
        """What the driver and CuPy say."""
        runtime = self.cupy.cuda.runtime
        properties = runtime.getDeviceProperties(self.number)
        name = properties["name"]
        return {
            "device": self.name,
            "gpu": name.decode() if isinstance(name, bytes) else name,
            "memory": properties.get("totalGlobalMem"),
            "l2": properties.get("l2CacheSize"),
            "multiprocessors": properties.get("multiProcessorCount"),
            "compute_capability": self.cupy.cuda.Device(self.number).compute_capability,
            "driver": _nvidia_smi("driver_version"),
            "link": _nvidia_smi("pcie.link.gen.current,pcie.link.width.current"),
            "cuda_driver": runtime.driverGetVersion(),
            "cuda_runtime": runtime.runtimeGetVersion(),
        }

    def run(self, lane: Lane, detail: bool = False) -> Timing:
        """With events before, after and in between."""
        channel = lane._channel  # type: ignore[attr-defined]
        stream, marks = channel.stream, []
        if detail:
            queue, channel.queue = channel.queue, []
            for name, work in queue:
                before, after = self._event(), self._event()
                marks.append((name, before, after))
                channel.queue.append((name, partial(_between, work, before, after, stream)))
        first, last = self._event(), self._event()
        first.record(stream)
        lane.submit()
        last.record(stream)
        lane.synchronize()
        parts: dict[str, float] = {}
        for name, before, after in marks:
            parts[name] = parts.get(name, 0.0) + self._seconds(before, after)
        return Timing(self._seconds(first, last), parts)

    def _event(self) -> Any:
        return self.cupy.cuda.Event()

    def _seconds(self, first: Any, last: Any) -> float:
        return float(self.cupy.cuda.get_elapsed_time(first, last)) / 1e3

    def library(self) -> Compressor:
        """nvCOMP."""
        return self.lane._nvcomp()  # type: ignore[attr-defined, no-any-return]

    def address(self, buffer: DeviceBuffer) -> int:
        """In device memory."""
        return int(buffer.address)  # type: ignore[attr-defined]

    def call(self, lane: Lane, name: str, work: Callable[[], None]) -> None:
        """Between events of its own."""
        lane._enqueue(name, work)  # type: ignore[attr-defined]

    def synchronize(self) -> None:
        """Of the whole device."""
        self.cupy.cuda.runtime.deviceSynchronize()

    def to_device(self, array: NDArray[Any]) -> Any:
        """As people do it."""
        return self.cupy.asarray(array)

    def free(self) -> None:
        """CuPy's pool."""
        self.cupy.get_default_memory_pool().free_all_blocks()

    def copy_rate(self, noise: NDArray[np.uint8]) -> float:
        """One plain copy of a few times what the cache holds."""
        source, target = (self.cupy.empty(4 * noise.nbytes, np.uint8) for _ in range(2))
        for i in range(4):
            source[i * noise.nbytes : (i + 1) * noise.nbytes].set(noise)
        stream, runtime, spent = self.cupy.cuda.Stream(non_blocking=True), self.cupy.cuda.runtime, []
        self.synchronize()
        for _ in range(self.rounds + 1):
            first, last = self._event(), self._event()
            first.record(stream)
            runtime.memcpyAsync(
                target.data.ptr, source.data.ptr, source.nbytes, runtime.memcpyDeviceToDevice, stream.ptr
            )
            last.record(stream)
            stream.synchronize()
            spent.append(self._seconds(first, last))
        if not np.array_equal(target[-noise.nbytes :].get(), noise):
            raise WrongResultError("a copy on the device is not what was copied")
        return float(2 * source.nbytes / median(spent[1:]))


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for the length of a block, where temporary files are, or in GPUZARR_BENCH_DIR. What was just
    written there is in the page cache, if memory is large enough."""
    asked = os.environ.get("GPUZARR_BENCH_DIR")
    with tempfile.TemporaryDirectory(dir=asked) as folder:
        yield Path(folder)


def _clocked(name: str, work: Callable[[], None], parts: dict[str, float]) -> None:
    began = perf_counter()
    work()
    parts[name] = parts.get(name, 0.0) + perf_counter() - began


def _between(work: Callable[[], None], before: Any, after: Any, stream: Any) -> None:
    before.record(stream)
    work()
    after.record(stream)


def _name(work: Any) -> str:
    """What device sim has queued: a kernel, a call of what stands in for nvCOMP, a copy."""
    first = work.args[0] if isinstance(work, partial) and work.args else work
    if isinstance(first, str):
        return f"nvCOMP ({first})"
    return str(getattr(first, "name", "copies"))


def _read(path: Path, into: NDArray[np.uint8]) -> None:
    with path.open("rb", buffering=0) as file:
        for begin in range(0, into.nbytes, _PIECE):
            file.readinto(into[begin : begin + _PIECE])


def _nvidia_smi(fields: str) -> str | None:
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip().splitlines()[0]
