"""A plan in words: what a read would ask for, what would run where, and why there."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from gpuzarr import config
from gpuzarr.codecs.chain import Chain
from gpuzarr.device.choose import Place
from gpuzarr.engine.host import bundles
from gpuzarr.engine.planning import make_plan
from gpuzarr.engine.source import ReadStats, Source
from gpuzarr.plan.table import ABSENT, WHOLE
from gpuzarr.selection import Selection

_STATTED = 1000  # objects whose sizes are looked up


@dataclass(frozen=True, slots=True)
class StageReport:
    """One step of decoding."""

    name: str
    place: str
    why: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a read would do. `str()` of it is for people."""

    array: str
    device: str
    shape: tuple[int, ...]
    dtype: str
    result_nbytes: int
    chunks: int
    absent: int
    objects: int
    requests: int
    stored_nbytes: int | None
    """Encoded bytes to fetch; None where only the objects know their sizes."""
    decoded_nbytes: int | None
    """Bytes of all touched chunks, decoded; None for variable-length values."""
    batches: int
    stages: tuple[StageReport, ...]

    def __str__(self) -> str:
        fetch = "unknown until read" if self.stored_nbytes is None else size_text(self.stored_nbytes)
        decoded = "of variable length" if self.decoded_nbytes is None else size_text(self.decoded_nbytes)
        absent = f", {self.absent:,} missing (filled)" if self.absent else ""
        unit = "waves" if self.device != "cpu" else "bundles"
        lines = [
            f"{self.array} → {self.shape} {self.dtype}, {size_text(self.result_nbytes)} on {self.device}",
            f"  plan     {self.chunks:,} chunks in {self.objects:,} objects{absent}",
            f"  fetch    {self.requests:,} requests, {fetch}",
            f"  decode   {decoded}, in {self.batches:,} {unit}",
        ]
        width = max(len(stage.name) for stage in self.stages)
        lines += [
            f"           {stage.name:<{width}}  on {stage.place:<6} {stage.why}" for stage in self.stages
        ]
        return "\n".join(line.rstrip() for line in lines)

    def _repr_pretty_(self, printer: object, cycle: bool) -> None:
        printer.text(str(self))  # type: ignore[attr-defined]


def explain(source: Source, selection: Selection, place: Place) -> Explanation:
    """Plan a read and report it. Shard indexes are read; no chunk is."""
    plan = make_plan(source, selection, ReadStats()) if selection.size else None
    meta = source.meta
    present = np.zeros(0, np.int64) if plan is None else plan.nbytes[plan.nbytes != ABSENT]
    stored: int | None = int(present[present != WHOLE].sum())
    objects = 0 if plan is None else len(np.unique(plan.key[plan.nbytes != ABSENT]))
    if plan is not None and np.any(present == WHOLE):
        stored = _sizes(source, plan.objects) if objects <= _STATTED else None
    decoded = None
    if meta.has_bytes:
        volumes = (
            np.array([prod(one) for one in plan.shapes], np.int64)
            if plan is not None
            else np.zeros(1, np.int64)
        )
        rows = np.zeros(0, np.int64) if plan is None else plan.shape[plan.nbytes != ABSENT]
        decoded = int(volumes[rows].sum()) * meta.carrier.itemsize
    on_device = place.device is not None and meta.has_bytes
    chain = meta.chain(plan.shapes[0] if plan is not None and plan.shapes else _some_shape(source))
    if on_device:
        batches = -(-2 * (decoded or 0) // config.current().wave_nbytes)
    else:
        batches = 0 if plan is None else len(bundles(plan, source)) - 1
    return Explanation(
        array=source.name,
        device=place.name if on_device else "cpu",
        shape=selection.result_shape,
        dtype=str(meta.dtype),
        result_nbytes=selection.size * meta.dtype.itemsize,
        chunks=0 if plan is None else len(plan),
        absent=0 if plan is None else int((plan.nbytes == ABSENT).sum()),
        objects=objects,
        requests=0 if plan is None else plan.requests,
        stored_nbytes=stored,
        decoded_nbytes=decoded,
        batches=batches,
        stages=_stages(chain, place, meta.has_bytes),
    )


def _some_shape(source: Source) -> tuple[int, ...]:
    grid = source.meta.chunk_grid
    return grid.chunk_shape or tuple(int(axis.sizes(np.zeros(1, np.int64))[0]) for axis in grid.axes)


def _sizes(source: Source, objects: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> int | None:
    """The bytes of whole objects, where the store knows them; a missing object has none."""
    total = 0
    for cell in objects.tolist():
        key = source.key(cell)
        nbytes = source.store.size(key)
        if nbytes is None and source.store.traits.concurrency > 1:
            return None
        total += nbytes or 0
    return total


def _stages(chain: Chain, place: Place, has_bytes: bool) -> tuple[StageReport, ...]:
    """The stages in the order in which they run, then the copy into the result."""
    reports: list[StageReport] = []
    on_device = place.device is not None and has_bytes
    for position, (stage, reason) in enumerate(zip(chain.stages, chain.host_reasons, strict=True)):
        if not on_device:
            why = "values without fixed bytes are read on the host" if place.device is not None else ""
            reports.append(StageReport(stage.name, "cpu", why))
        elif position >= chain.device_from:
            besides = f", {stage.codec.exceptions} on the host" if stage.codec.exceptions else ""
            why = f"all chunks of a wave in one launch{besides}"
            reports.append(StageReport(stage.name, place.name, why))
        else:
            reports.append(StageReport(stage.name, "cpu", reason or "before a stage that has no device form"))
    folded = []
    if chain.layout.dtype != chain.spec.dtype:
        folded.append("byte order")
    if chain.axes != tuple(range(len(chain.axes))):
        folded.append("order of axes")
    why = f"with {' and '.join(folded)}" if folded else ""
    reports.append(StageReport("scatter", place.name if on_device else "cpu", why))
    return tuple(reports)


def size_text(nbytes: float) -> str:
    """A size as people read it: 1.5 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if nbytes < 1024 or unit == "TiB":
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    raise AssertionError
