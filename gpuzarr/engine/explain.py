"""A plan in words: what a read would ask for, what would run where, and why there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpuzarr.codecs.chain import Chain
from gpuzarr.device.choose import Place
from gpuzarr.engine.device import device_nbytes, host_is_sooner, wave_budget
from gpuzarr.engine.direct import how, worth
from gpuzarr.engine.host import bundles
from gpuzarr.engine.planning import make_plan
from gpuzarr.engine.source import ReadStats, Source
from gpuzarr.plan.table import ABSENT, unsized
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
    direct: str = ""
    """How encoded bytes go straight into device memory: `gds`, `compat`, `kvikio`, `sim`; empty if they do
    not."""

    def __str__(self) -> str:
        fetch = "unknown until read" if self.stored_nbytes is None else size_text(self.stored_nbytes)
        decoded = "of variable length" if self.decoded_nbytes is None else size_text(self.decoded_nbytes)
        absent = f", {self.absent:,} missing (filled)" if self.absent else ""
        direct = f", straight into device memory ({self.direct})" if self.direct else ""
        unit = "wave" if self.device != "cpu" else "bundle"
        lines = [
            f"{self.array} → {self.shape} {self.dtype}, {size_text(self.result_nbytes)} on {self.device}",
            f"  plan     {_count(self.chunks, 'chunk')} in {_count(self.objects, 'object')}{absent}",
            f"  fetch    {_count(self.requests, 'request')}, {fetch}{direct}",
            f"  decode   {decoded}, in {_count(self.batches, unit)}",
        ]
        width = max((len(stage.name) for stage in self.stages), default=0)
        lines += [
            f"           {stage.name:<{width}}  on {stage.place:<6} {stage.why}" for stage in self.stages
        ]
        return "\n".join(line.rstrip() for line in lines)

    def _repr_pretty_(self, printer: object, cycle: bool) -> None:
        printer.text(str(self))  # type: ignore[attr-defined]


def explain(source: Source, selection: Selection, place: Place) -> Explanation:
    """Plan a read and report it. Shard indexes are read; no chunk is, and no index that would come with its
    shard."""
    meta = source.meta
    on_device = place.device is not None and meta.has_bytes
    plan = make_plan(source, selection, ReadStats(), host=not on_device)
    present = plan.nbytes != ABSENT
    objects = len(np.unique(plan.key[present]))
    stored: int | None = int(plan.nbytes[plan.nbytes >= 0].sum())
    if np.any(unsized(plan.nbytes)):
        stored = _sizes(source, plan.objects) if objects <= _STATTED else None
    of_shape = np.bincount(plan.shape[present], minlength=len(plan.shapes)).tolist()
    chains = [meta.chain(shape) for shape in plan.shapes]
    decoded = None
    if meta.has_bytes:
        decoded = sum(n * chain.spec.limit for n, chain in zip(of_shape, chains, strict=True))
    direct = ""
    if on_device and place.device is not None:
        taken = sum(n * device_nbytes(chain) for n, chain in zip(of_shape, chains, strict=True)) + (
            stored or 0
        )
        batches = -(-taken // wave_budget(place.device))
        sooner = host_is_sooner(place.device, plan, chains, 0, len(plan))
        likely = (decoded if stored is None else stored) or 0
        if plan.requests and not sooner:
            direct = how(source.store, chains, place.device)
            direct = direct if worth(direct, likely, plan.requests) else ""
    else:
        batches, sooner = len(bundles(plan, source)) - 1, False
    return Explanation(
        array=source.name,
        device=place.name if on_device else "cpu",
        shape=selection.result_shape,
        dtype=str(meta.dtype),
        result_nbytes=selection.size * meta.dtype.itemsize,
        chunks=len(plan),
        absent=len(plan) - int(present.sum()),
        objects=objects,
        requests=plan.requests,
        stored_nbytes=stored,
        decoded_nbytes=decoded,
        batches=batches,
        stages=_stages(chains[0], place, meta.has_bytes, sooner) if chains else (),
        direct=direct,
    )


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


def _stages(chain: Chain, place: Place, has_bytes: bool, sooner: bool) -> tuple[StageReport, ...]:
    """The stages in the order in which they run, then the copy into the result."""
    reports: list[StageReport] = []
    on_device = place.device is not None and has_bytes
    for position, (stage, reason) in enumerate(zip(chain.stages, chain.host_reasons, strict=True)):
        if not on_device:
            why = "values without fixed bytes are read on the host" if place.device is not None else ""
            reports.append(StageReport(stage.name, "cpu", why))
        elif position >= chain.device_from and sooner:
            reports.append(StageReport(stage.name, "cpu", "sooner there: the setting strict overrules that"))
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


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"
