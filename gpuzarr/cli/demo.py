"""gpuzarr demo: make a volume (or take yours), read it, check every byte against zarr-python, show times and
a picture."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from statistics import median

import numpy as np

import gpuzarr
from gpuzarr.cli import ome, poster, volume, witness
from gpuzarr.cli.info import members
from gpuzarr.cli.race import Key, Workload, lengths, race, table
from gpuzarr.cli.read import host
from gpuzarr.cli.show import Screen, by, size_text, storage_options
from gpuzarr.errors import ArgumentError, MissingDependencyError
from gpuzarr.store.local import LocalStore

_PATCHES = 64
_ROUNDS = 3
_LOCAL, _REMOTE = 1024, 64  # MiB read at once


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("url", metavar="URL", nargs="?", help="your own data; default: a volume is made")
    parser.add_argument(
        "--directory", default="gpuzarr-demo", metavar="DIR", help="for the volume and demo.png"
    )
    parser.add_argument(
        "--size",
        choices=("small", "full"),
        default="full",
        help="small: 3 MB and few reads; full: 315 MB (default)",
    )
    parser.add_argument(
        "--mib", type=int, help=f"most to read at once (default: {_LOCAL}, or {_REMOTE} where not local)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N (default: auto)")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="storage option")


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """The demo, top to bottom. 1 if a byte differs."""
    directory = Path(arguments.directory)
    options = storage_options(arguments.option)
    if arguments.url is None:
        target, path = (
            str(_made(directory, volume.FULL if arguments.size == "full" else volume.SMALL, screen)),
            "",
        )
    else:
        target, path = arguments.url, ""
    array, scale = _finest(gpuzarr.open(target, path, device=arguments.device, storage_options=options))
    local = isinstance(array.store, LocalStore)
    box = _central(array, (arguments.mib or (_LOCAL if local else _REMOTE)) << 20)
    quick = not local or arguments.size == "small"
    screen.line()
    screen.line((array.name, "title"))
    screen.line(
        f"{by(array.shape)} {array.dtype} in chunks {by(array.chunks)}", f", on device {array.device}"
    )
    if lengths(box) != array.shape:
        screen.line((f"reading the box of {by(lengths(box))} in its middle", "note"))
    workloads = _workloads(array, box, _PATCHES // 4 if quick else _PATCHES)
    peer = race(array, target, options, workloads, 1 if quick else _ROUNDS, screen)
    if peer is None:
        return 1
    screen.line()
    screen.table(*table(array, workloads))
    if peer:
        screen.line(
            (f"{peer}, by turns, medians of {len(workloads[0].ours)}; ratio: its time over ours", "note")
        )
    screen.line()
    patches = workloads[1]
    screen.text(str(array.explain(patches.keys[0])), "note")
    screen.line()
    _picture(array, box, patches, scale, workloads, directory, screen)
    return 0


def _made(directory: Path, recipe: volume.Recipe, screen: Screen) -> Path:
    """The recipe's volume in the directory, made unless it is there."""
    folder = directory / f"organoid-{recipe.shape[2]}.zarr"
    if folder.is_dir():
        found = gpuzarr.open(folder)
        if found.attrs.get("gpuzarr_demo") == recipe.key():
            screen.line((f"{folder} is there already", "note"))
            return folder
    directory.mkdir(parents=True, exist_ok=True)
    witness.write_volume(recipe, folder, screen)
    return folder


def _finest(node: gpuzarr.Array | gpuzarr.Group) -> tuple[gpuzarr.Array, tuple[float, str] | None]:
    """The array of highest resolution, and the size and unit of its elements along the last axis, if it is
    known."""
    if isinstance(node, gpuzarr.Array):
        return node, None
    for image in ome.multiscales(node.attrs):
        for level in image.levels[:1]:
            found = node[level.path]
            if isinstance(found, gpuzarr.Array):
                known = level.scale and image.axes and image.axes[-1][1]
                return found, (level.scale[-1], image.axes[-1][1]) if known else None
    below: list[gpuzarr.Array] = []
    pending = [node]
    for group in pending:  # breadth first, and not for ever
        for _, member in members(group):
            if isinstance(member, gpuzarr.Array) and member.dtype.kind in "biufc":
                below.append(member)
            elif isinstance(member, gpuzarr.Group) and len(pending) < 50:
                pending.append(member)
    if not below:
        raise ArgumentError(
            f"no array of numbers in {node.name}", hint="give the URL of an array or of an image"
        )
    return max(below, key=lambda one: one.nbytes), None


def _central(array: gpuzarr.Array, nbytes: int) -> Key:
    """A box of at most `nbytes` around the middle. Axes before the last three (time, channel) go first."""
    sides = list(array.shape)
    while math.prod(sides) * array.dtype.itemsize > nbytes and max(sides) > 1:
        leading = [axis for axis, n in enumerate(sides[:-3]) if n > 1]
        axis = leading[0] if leading else sides.index(max(sides))
        sides[axis] = sides[axis] * 7 // 8
    return tuple(slice((n - k) // 2, (n - k) // 2 + k) for n, k in zip(array.shape, sides, strict=True))


def _workloads(array: gpuzarr.Array, box: Key, patches: int) -> list[Workload]:
    """The whole box, random patches in it, and planes through its middle."""
    sides = _patch(lengths(box))
    rng = np.random.default_rng(5)
    found = [
        Workload("whole", [box]),
        Workload(
            f"{patches} random patches of {by(sides)}", [_random_box(box, sides, rng) for _ in range(patches)]
        ),
    ]
    middles = [slice((s.start + s.stop) // 2, (s.start + s.stop) // 2 + 1) for s in box]
    long = [axis for axis, n in enumerate(lengths(box)) if n > 1]
    if len(long) > 2:
        planes = [(*box[:axis], middles[axis], *box[axis + 1 :]) for axis in long]
        found.append(Workload(f"{len(planes)} planes through the middle", planes))
    return found


def _patch(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a patch: a cube along the last three axes of a volume, else a square."""
    volume_like = len([n for n in shape if n >= 16]) > 2
    side = (64 if min(shape[-3:]) >= 128 else 32) if volume_like else 256
    return tuple(min(n, side) if axis >= len(shape) - 3 else 1 for axis, n in enumerate(shape))


def _random_box(box: Key, sides: tuple[int, ...], rng: np.random.Generator) -> Key:
    starts = [int(rng.integers(s.start, s.stop - side + 1)) for s, side in zip(box, sides, strict=True)]
    return tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))


def _picture(
    array: gpuzarr.Array,
    box: Key,
    patches: Workload,
    scale: tuple[float, str] | None,
    workloads: list[Workload],
    directory: Path,
    screen: Screen,
) -> None:
    if array.dtype.kind not in "biufc" or array.ndim < 2 or not array.size:
        screen.line(("no picture: only numbers of two or more dimensions have one", "warn"))
        return
    chosen = [(key, host(array.read(key))) for key in patches.keys]
    middle = tuple((s.start + s.stop) // 2 for s in box[:-2])
    plane = host(array.read((*middle, *box[-2:])))
    whole = workloads[0]
    facts = [
        f"{by(array.shape)} {array.dtype}  ·  {size_text(array.nbytes)}",
        f"whole {whole.nbytes(array) / median(whole.ours) / 1e9:.2f} GB/s  ·  "
        f"{len(patches.keys)} patches {patches.nbytes(array) / median(patches.ours) / 1e9:.2f} GB/s  ·  "
        f"on {array.device}",
    ]
    if whole.theirs:
        facts[-1] += "  ·  every byte as zarr-python reads it"
    try:
        image = poster.draw(plane, box, middle, chosen, scale, facts)
    except MissingDependencyError as error:
        screen.line((f"no picture: {error}", "warn"))
        return
    directory.mkdir(parents=True, exist_ok=True)
    poster.save(image, str(directory / "demo.png"))
    screen.line("a picture of it: ", (str(directory / "demo.png"), "name"))
