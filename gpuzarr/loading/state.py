"""Where a loader stands: an epoch, and how many of its batches were handed out. And whose state it is."""

from __future__ import annotations

from collections.abc import Mapping
from operator import index
from typing import Any

from gpuzarr.errors import ArgumentError
from gpuzarr.loading.batches import Batches

VERSION = 1


def identity(batches: Batches, sampler: object, order: str) -> dict[str, Any]:
    """What has to be the same for batches to be the same, as far as it can be told; and the number of ranks,
    which may change. Plain values."""
    numbering, space = batches.numbering, batches.space
    return {
        "seed": batches.seed,
        "batch_size": int(numbering.batch_size),
        "boxes": numbering.count,
        "drop_last": bool(numbering.drop_last),
        "shape": list(space.box),
        "frame": list(space.shape),
        "sampler": type(sampler).__name__,
        "order": order,
        "length": numbering.length,
        "world_size": int(numbering.world_size),
    }


def state_of(mine: Mapping[str, Any], position: int) -> dict[str, Any]:
    """A state for `json` or `pickle`. It is the same on every rank."""
    epoch, batch = divmod(position, mine["length"])
    return {"version": VERSION, "epoch": epoch, "batch": batch, "of": dict(mine)}


def position_of(state: Mapping[str, Any], mine: Mapping[str, Any]) -> int:
    """The position that a state says, or an error where it is of a loader that makes other batches. The
    number of ranks may be another one, if what they have taken together is a whole number for each."""
    try:
        version, of = state["version"], dict(state["of"])
        epoch, batch, world = index(state["epoch"]), index(state["batch"]), index(of["world_size"])
        if epoch < 0 or batch < 0 or world < 1:
            raise ValueError(f"batch {batch} of epoch {epoch} of {world} ranks")
    except (KeyError, TypeError, ValueError) as error:
        raise ArgumentError(f"this is no state of a loader: {error!r}") from error
    if version != VERSION:
        raise ArgumentError(f"a state of version {version!r}", hint=f"this gpuzarr knows version {VERSION}")
    ranks = "length", "world_size"
    different = [name for name, value in mine.items() if name not in ranks and of.get(name) != value]
    if different:
        name = different[0]
        raise ArgumentError(
            f"the state is of a loader with {name}={of.get(name)!r}, this one has {mine[name]!r}",
            hint="restore it into a loader that is made alike",
        )
    taken, length = batch * world, mine["length"]
    if taken % mine["world_size"]:
        raise ArgumentError(
            f"{batch} batches of {world} ranks cannot be shared by {mine['world_size']}",
            hint="restore with as many ranks, or from the end of an epoch",
        )
    batch = taken // mine["world_size"]
    if batch > length:
        raise ArgumentError(f"the state has taken {batch} batches of an epoch of {length}")
    return int(epoch * length + batch)
