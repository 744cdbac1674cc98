"""Arrays on an S3 server with latency: seconds, requests and bytes, beside others who read from S3.

The server runs in a process of its own on this machine; every answer waits as long as one from the same
region of a cloud would. Readers take turns on equal results, as everywhere here; requests and bytes are what
the server counted in one read.
"""

from __future__ import annotations

import gc
import importlib.metadata
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gpuzarr
from benchmarks import peers
from benchmarks.arrays import Case
from benchmarks.report import Row
from tests.servers.apart import RangeProcess

LATENCY_S = 0.02
_SIDE, _PATCHES = 96, 32
_SLOW_S = 2.0
"""Who takes longer is timed once: one sample says enough."""
_BUCKET = "bucket"
CASES = ("zstd 1 MiB", "raw 1 MiB", "zstd 1 MiB sharded", "blosc-lz4 32 KiB", "blosc-lz4 8 KiB sharded")
"""By their names in `arrays`."""


@dataclass(frozen=True, slots=True)
class Reader:
    """As `peers.Peer`, of the array `name` in the bucket at an endpoint."""

    name: str
    version: str
    open: Callable[[str, str], Any]
    read: Callable[[Any, Any], Any] = lambda handle, key: handle[key]
    boxes: Callable[[Any, Any, tuple[int, ...]], Any] | None = None
    session: Callable[[], AbstractContextManager[None]] = nullcontext

    def read_boxes(self, handle: Any, origins: Any, shape: tuple[int, ...]) -> Any:
        """[n, *shape]"""
        if self.boxes is not None:
            return self.boxes(handle, origins, shape)
        return np.stack([self.read(handle, key) for key in peers.keys(origins, shape)])


def readers() -> list[Reader]:
    """gpuzarr first, over obstore and over s3fs; then everybody who is installed."""
    found = [_ours("gpuzarr", "obstore")]
    if peers.installed("s3fs"):
        found.append(_ours("gpuzarr on s3fs", "fsspec"))
    if peers.installed("zarr"):
        version = importlib.metadata.version("zarr")
        found.append(Reader("zarr obstore", version, _zarr_obstore, session=_fused))
        if peers.installed("s3fs"):
            found.append(Reader("zarr s3fs", version, _zarr_s3fs, session=_fused))
    if peers.installed("tensorstore"):
        version = importlib.metadata.version("tensorstore")
        read = lambda handle, key: handle[key].read().result()  # noqa: E731
        found.append(Reader("tensorstore", version, _tensorstore, read, _tensorstore_boxes))
    return found


def rows(case: Case, values: NDArray[Any], directory: Path, rounds: int) -> list[Row]:
    """Whole, and many boxes, of the array `directory/bucket/array.zarr`."""
    rng = np.random.default_rng(11)
    side = tuple(min(_SIDE, n) for n in values.shape)
    origins = rng.integers(0, np.array(values.shape) - side + 1, (_PATCHES, len(side)))
    stacked = np.stack([values[key] for key in peers.keys(origins, side)])
    with RangeProcess(directory, s3=True, latency=LATENCY_S) as server:
        whole = Row(f"S3, {LATENCY_S * 1000:.0f} ms, whole", case.name, 1.0)
        boxes = Row(f"S3, {LATENCY_S * 1000:.0f} ms, {_PATCHES} patches", case.name, 1.0)
        _race(whole, server, rounds, values, lambda reader, handle: reader.read(handle, ...))
        _race(boxes, server, rounds, stacked, lambda reader, handle: reader.read_boxes(handle, origins, side))
    return [whole, boxes]


def _race(
    row: Row, server: RangeProcess, rounds: int, expected: NDArray[Any], work: Callable[[Reader, Any], Any]
) -> None:
    everyone, spent, notes = readers(), {}, []
    slow: dict[str, bool] = {}
    for reader in everyone:
        with reader.session():
            server.forget()
            began = perf_counter()
            if not np.array_equal(work(reader, reader.open(server.url, "array.zarr")), expected):
                raise SystemExit(f"{reader.name} reads something else: {row.suite}, {row.name}")
            slow[reader.name] = perf_counter() - began > _SLOW_S
            counts = server.counts()
            notes.append(f"{reader.name} {counts['requests']} requests {counts['nbytes'] / 2**20:.0f} MiB")
        spent[reader.name] = list[float]()
    for turn in range(rounds):
        for reader in everyone[turn % len(everyone) :] + everyone[: turn % len(everyone)]:
            if slow[reader.name] and turn:
                continue
            with reader.session():
                gc.collect()
                began = perf_counter()
                work(reader, reader.open(server.url, "array.zarr"))
                spent[reader.name].append(perf_counter() - began)
    row.seconds = {name: median(times) for name, times in spent.items()}
    row.note = "; ".join(notes)


def _ours(name: str, backend: str) -> Reader:
    def open_array(endpoint: str, array: str) -> Any:
        options: dict[str, Any] = {
            "endpoint_url": endpoint,
            "key": "key",
            "secret": "secret",
            "backend": backend,
        }
        return gpuzarr.open_array(f"s3://{_BUCKET}/{array}", device="cpu", storage_options=options)

    boxes = lambda handle, origins, shape: handle.patches(origins, shape)  # noqa: E731
    return Reader(name, gpuzarr.__version__, open_array, boxes=boxes)


@contextmanager
def _fused() -> Iterator[None]:
    import zarr

    with zarr.config.set({"codec_pipeline.path": "zarr.core.codec_pipeline.FusedCodecPipeline"}):
        yield


def _zarr_obstore(endpoint: str, array: str) -> Any:
    import zarr
    from obstore.store import S3Store

    store = S3Store(
        _BUCKET,
        endpoint=endpoint,
        access_key_id="key",
        secret_access_key="secret",
        region="us-east-1",
        client_options={"allow_http": True},
    )
    return zarr.open_array(zarr.storage.ObjectStore(store, read_only=True), path=array, mode="r")


def _zarr_s3fs(endpoint: str, array: str) -> Any:
    import zarr

    options = {"key": "key", "secret": "secret", "client_kwargs": {"endpoint_url": endpoint}}
    return zarr.open_array(f"s3://{_BUCKET}/{array}", mode="r", storage_options=options)


def _tensorstore(endpoint: str, array: str) -> Any:
    import tensorstore as ts

    store = {
        "driver": "s3",
        "bucket": _BUCKET,
        "path": f"{array}/",
        "endpoint": endpoint,
        "aws_region": "us-east-1",
        "aws_credentials": {"type": "anonymous"},
    }
    return ts.open({"driver": "zarr3", "kvstore": store}, read=True, open=True).result()


def _tensorstore_boxes(handle: Any, origins: Any, shape: tuple[int, ...]) -> Any:
    import tensorstore as ts

    batch = ts.Batch()
    waiting = [handle[key].read(batch=batch) for key in peers.keys(origins, shape)]
    batch.submit()
    return np.stack([one.result() for one in waiting])
