"""The write, top to bottom: the same table of pieces as for a read, walked the other way.

    values ─pieces→ chunks   whole ones are not read; the others are read, decoded and updated
    chunks ─encode→ objects  a chunk, or a shard that is assembled once a call
    objects ─put→ store      each appears whole or not at all

A chunk whose bits are all the fill value's is left out, and removed where there was one, unless
`write_empty_chunks` is set. Inner chunks of a shard that a write does not touch keep their encoded bytes.

Writers of one process take turns at an object. Between processes nobody takes turns. Where a store puts under
conditions, as S3 does, parts of one chunk or shard are written again over what another put there meanwhile;
elsewhere two that write parts of one at the same time may lose one of the parts, never more than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from gpuzarr import config
from gpuzarr.device.base import Device
from gpuzarr.device.choose import Place
from gpuzarr.engine.assemble import TRIES, write_shards
from gpuzarr.engine.cache import changing
from gpuzarr.engine.source import ReadStats, Source
from gpuzarr.engine.stats import WriteStats
from gpuzarr.engine.turns import turn
from gpuzarr.engine.update import HostUpdate, Update
from gpuzarr.engine.values import flat_values
from gpuzarr.engine.workers import run_all
from gpuzarr.errors import ChangedError, GpuzarrError, LimitError, ReadOnlyError
from gpuzarr.selection import Selection
from gpuzarr.store.base import Buffer, Pieces, Request, WritableStore, conditional

__all__ = ["WriteStats", "writable", "write"]

_REMOTE_BUNDLE: Final = 64 << 20
"""Decoded bytes that are stored together where a round trip is dear."""


def write(
    source: Source,
    selection: Selection,
    values: Any,
    stats: WriteStats,
    place: Place | None = None,
    written: tuple[int, ...] | None = None,
    lazy: bool = False,
) -> None:
    """Set the selected elements. `values` are broadcast to the selection's shape and cast to the array's
    type; those on the device of `place` are encoded there. `written` and `lazy` are those of `HostUpdate`.
    Behind an error some objects have the new values, the others the old ones."""
    try:
        store = writable(source)
        device = None if place is None else place.device
        update: Update | None = None
        if device is not None and device.owns(values) and not lazy:
            update = _on_device(source, selection, values, stats, device, written)
        if update is None:
            flat = flat_values(source, selection, values)
            if not selection.size:
                return
            update = HostUpdate(source, selection, flat, stats, written, lazy)
        if source.meta.levels:
            write_shards(update, store)
        else:
            write_chunks(update, store)
    except GpuzarrError as error:
        source.located(error)
        raise
    except MemoryError as error:
        raise LimitError(f"out of memory: {error}", array=source.name, hint="write it in parts") from error


def _on_device(
    source: Source,
    selection: Selection,
    values: Any,
    stats: WriteStats,
    device: Device,
    written: tuple[int, ...] | None,
) -> Update | None:
    """A write whose chunks are encoded on the device; None if the host has to."""
    from gpuzarr.engine.encode import DeviceUpdate, Values

    given = Values.of(source, selection, values, device) if selection.size else None
    update = None if given is None else DeviceUpdate(source, selection, given, stats, written)
    return update if update is not None and update.takes_all() else None


def writable(source: Source) -> WritableStore:
    """The store, if it can be written."""
    if not isinstance(source.store, WritableStore):
        raise ReadOnlyError(f"{source.store.url} cannot be written", array=source.name)
    return source.store


def write_chunks(update: Update, store: WritableStore) -> None:
    """Chunks that are objects of their own: a bundle at a time on each thread."""
    count = len(update.plan)
    many = update.together(count)
    if store.traits.concurrency > 1:  # large enough that the store sees many at once
        share = max(count // config.current().threads, 1)
        many = max(many, min(store.traits.concurrency, share, _REMOTE_BUNDLE // update.decoded_nbytes))
    run_all(
        [partial(_bundle, update, store, range(at, min(at + many, count))) for at in range(0, count, many)]
    )


def _bundle(update: Update, store: WritableStore, rows: Sequence[int]) -> None:
    source, plan = update.source, update.plan
    keys = {row: source.key(plan.objects[plan.key[row]].tolist()) for row in rows}
    with turn(store, list(keys.values())):
        update.settle()
        left = list(rows)
        for _ in range(TRIES):
            left = _stored(update, store, left, keys)
            if not left:
                return
        raise ChangedError("others write the same chunk all the time", chunk=keys[left[0]])


def _stored(update: Update, store: WritableStore, rows: list[int], keys: dict[int, str]) -> list[int]:
    """Read, update and store chunks; the rows of those that another has stored meanwhile."""
    source, plan = update.source, update.plan
    partly = [row for row in rows if not update.whole[row] and update.there[row]]
    requests = [Request(keys[row]) for row in partly]

    def place(i: int, nbytes: int) -> memoryview:
        source.check_encoded(nbytes, plan.shapes[plan.shape[partly[i]]], requests[i].key)
        return memoryview(bytearray(nbytes))

    under_conditions = conditional(store)
    versions: dict[int, str | None] = {}
    if not requests:
        old: dict[int, Buffer | None] = {}
    elif under_conditions is None:
        old = dict(zip(partly, source.fetch(requests, ReadStats(), place), strict=True))
    else:
        found = dict(zip(partly, source.fetch_versioned(requests, ReadStats(), place), strict=True))
        old = {row: None if one is None else one.data for row, one in found.items()}
        versions = {row: None if one is None else one.version for row, one in found.items()}
    put: dict[int, Buffer | Pieces] = {}
    gone: list[str] = []
    for row, stored in update.encode(rows, old).items():
        if stored is None and row in versions:
            if versions[row] is not None:  # objects can be replaced under conditions, not deleted
                put[row] = update.blank(row)
        elif stored is None:
            gone.append(keys[row])
        elif stored is not old.get(row):
            put[row] = stored
    lost: list[int] = []
    with changing(store, [keys[row] for row in rows]):
        plain = [(keys[row], value) for row, value in put.items() if row not in versions]
        if plain:
            store.put(plain)
        asked = [row for row in put if row in versions]
        if asked and under_conditions is not None:
            told = under_conditions.put_if([(keys[row], put[row], versions[row]) for row in asked])
            lost = [row for row, done in zip(asked, told, strict=True) if not done]
        if gone:
            store.delete(gone)
    done = [value for row, value in put.items() if row not in lost]
    nbytes = sum(memoryview(value).nbytes for value in done if not isinstance(value, list))
    update.stats.add(objects=len(done), removed=len(gone), bytes_written=nbytes)
    return lost
