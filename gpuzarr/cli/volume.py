"""The demo's volume: an organoid under a light-sheet microscope, made from a seed.

Cells are the Voronoi regions of a jittered grid: bright membranes between them, nuclei in them, some of them
labelled. Around and between grow filaments. All of that is drawn at half the resolution, as optics would blur
it anyway; then every block is magnified and gets its photon noise from a seed of its own. So blocks can be
made in any order, by any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import reduce
from itertools import product

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Box = tuple[slice, ...]

_CELL = 12  # half-resolution elements from cell to cell
_OFFSET = 100.0  # what the camera shows in the dark


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to make. Everything follows from it; `version` changes when the result does."""

    shape: tuple[int, int, int]
    chunks: tuple[int, int, int]
    shards: tuple[int, int, int]
    levels: int
    seed: int = 20
    version: int = 1
    micrometers: float = 0.4
    """Size of an element along each axis, at the finest level."""

    def boxes(self) -> list[Box]:
        """The shards, in C order."""
        starts = (range(0, n, s) for n, s in zip(self.shape, self.shards, strict=True))
        return [tuple(slice(a, min(a + s, n)) for a, s, n in zip(at, self.shards, self.shape, strict=True))
                for at in product(*starts)]  # fmt: skip

    @property
    def title(self) -> str:
        """Its shape and size, for people."""
        nbytes = 2 * self.shape[0] * self.shape[1] * self.shape[2]
        return f"{' × '.join(str(n) for n in self.shape)} uint16, {nbytes / 1e6:.0f} MB"

    def key(self) -> str:
        """Tells one volume from another."""
        return f"{self.version}-{self.seed}-{self.shape}-{self.chunks}-{self.shards}-{self.levels}"


SMALL = Recipe((64, 128, 192), (32, 32, 32), (64, 64, 96), 3)
FULL = Recipe((320, 640, 768), (64, 64, 64), (64, 320, 384), 4)


def anatomy(recipe: Recipe, threads: int, advance: Callable[[float], None]) -> Field:
    """Expected light at half the resolution, one element wider than the volume on every side. `advance` gets
    the parts of the work done, which add up to 1."""
    shape = tuple(n // 2 + 2 for n in recipe.shape)
    rng = np.random.default_rng(recipe.seed)
    cells = np.empty(shape, np.float32)
    counts = tuple(-(-n // _CELL) for n in shape)
    grid = tuple(n + 2 for n in counts)
    centres = rng.uniform(0.1, 0.9, (3, *grid)).astype(np.float32)
    labels = np.where(rng.random(grid) < 0.16, rng.uniform(0.8, 1.7, grid), rng.uniform(0.1, 0.34, grid))
    labels = labels.astype(np.float32)

    def draw(layer: int) -> None:
        lit = _layer(layer, centres, labels, counts)
        z = slice(layer * _CELL, min((layer + 1) * _CELL, shape[0]))
        cells[z] = lit[: z.stop - z.start, : shape[1], : shape[2]]

    for _ in in_parallel(draw, counts[0], threads):
        advance(1 / counts[0])
    wall, haze = _organoid(shape, rng)
    cells *= wall
    cells += haze
    _filaments(cells, rng)
    return cells


def in_parallel(run: Callable[[int], None], count: int, threads: int) -> Iterator[None]:
    """`run(0)` to `run(count - 1)` by several threads; yields after each. Stopped, it begins no more."""
    pool = ThreadPoolExecutor(threads)
    try:
        for done in as_completed([pool.submit(run, number) for number in range(count)]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _layer(layer: int, centres: Field, labelled: Field, counts: tuple[int, ...]) -> Field:
    """Membranes and nuclei of one layer of grid cells. Elements are held as [z, y, x in the cell, cell y,
    cell x], so that nothing has to be looked up: a neighbouring cell's centre is a shift of the grid."""
    _, ny, nx = counts
    inside = (np.arange(_CELL, dtype=np.float32) + 0.5) / _CELL
    nearest = np.full((_CELL, _CELL, _CELL, ny, nx), 9, np.float32)
    second, label = nearest.copy(), np.zeros_like(nearest)
    for dz, dy, dx in product((-1, 0, 1), repeat=3):
        at = (layer + 1 + dz, slice(1 + dy, 1 + dy + ny), slice(1 + dx, 1 + dx + nx))
        cz, cy, cx = (centres[(i, *at)] + shift for i, shift in enumerate((dz, dy, dx)))
        apart = (inside[:, None, None] - cz) ** 2
        apart = apart[:, None, None] + ((inside[:, None, None] - cy) ** 2)[None, :, None]
        apart = apart + ((inside[:, None, None] - cx) ** 2)[None, None]
        np.minimum(second, np.maximum(nearest, apart), out=second)
        np.copyto(label, labelled[at], where=apart < nearest)
        np.minimum(nearest, apart, out=nearest)
    np.sqrt(nearest, out=nearest)
    np.sqrt(second, out=second)
    membrane = np.exp(-(((second - nearest) / 0.10) ** 2))
    nucleus = 1 / (1 + np.exp((nearest - 0.27) * 30))
    lit = 420 * membrane + label * (900 * nucleus + 160)
    ordered: Field = np.ascontiguousarray(lit.transpose(0, 3, 1, 4, 2), np.float32)
    return ordered.reshape(_CELL, ny * _CELL, nx * _CELL)


def _organoid(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[Field, Field]:
    """Where there is tissue (0 to 1), with a hollow in it, and the haze of light around."""
    axes = [np.linspace(-1, 1, n, dtype=np.float32) for n in shape]
    z, y, x = axes[0][:, None, None], axes[1][:, None], axes[2]
    bumps = _smooth(shape, (4, 6, 7), rng)
    outer = np.sqrt((z / 1.15) ** 2 + (y / 0.86) ** 2 + (x / 0.88) ** 2) + 0.16 * bumps
    hollow = np.sqrt((z / 0.7) ** 2 + ((y + 0.1) / 0.34) ** 2 + ((x - 0.16) / 0.38) ** 2) + 0.3 * _smooth(
        shape, (4, 7, 8), rng
    )
    wall = 1 / (1 + np.exp((outer - 0.92) * 40)) / (1 + np.exp((1 - hollow) * 18))
    wall *= 0.8 + 0.25 * _smooth(shape, (5, 9, 11), rng)
    return wall.astype(np.float32), (
        14 + 60 * np.exp(-3 * np.maximum(outer - 0.5, 0) ** 2) * (1 - 0.25 * x)
    ).astype(np.float32)


def _smooth(shape: tuple[int, ...], knots: tuple[int, ...], rng: np.random.Generator) -> Field:
    """Random values at a few knots, smooth in between; about -1 to 1."""
    values = rng.uniform(-1, 1, knots).astype(np.float32)
    for axis, (n, k) in enumerate(zip(shape, knots, strict=True)):
        at = np.linspace(0, k - 1, n, dtype=np.float32)
        low = np.minimum(at.astype(np.int64), k - 2)
        t = at - low
        t = (t * t * (3 - 2 * t)).reshape([-1 if i == axis else 1 for i in range(3)])
        values = np.take(values, low, axis) * (1 - t) + np.take(values, low + 1, axis) * t
    return values


def _filaments(cells: Field, rng: np.random.Generator) -> None:
    """Thin fibres that wander, mostly in the plane of view, added where they pass."""
    count = max(cells.size // 300_000, 3)
    reach = 3
    around = np.arange(-reach, reach + 1, dtype=np.float32)
    for _ in range(count):
        at = rng.uniform(0.1, 0.9, 3) * cells.shape
        angle, tilt, bend = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.12), rng.normal(0, 0.012)
        light = rng.uniform(300, 900)
        for _ in range(int(rng.integers(150, 600))):
            bend = 0.97 * bend + rng.normal(0, 0.006)
            angle, tilt = angle + bend, 0.98 * tilt + rng.normal(0, 0.02)
            at += (np.sin(tilt), np.cos(tilt) * np.sin(angle), np.cos(tilt) * np.cos(angle))
            middle = np.round(at).astype(int)
            if np.any(middle < reach) or np.any(middle + reach >= cells.shape):
                break
            fall = [
                np.exp(-(((around + m - a) / 1.1) ** 2)).astype(np.float32)
                for m, a in zip(middle, at, strict=True)
            ]
            spot = tuple(slice(m - reach, m + reach + 1) for m in middle)
            glow = light * fall[0][:, None, None] * fall[1][:, None] * fall[2]
            np.maximum(cells[spot], glow + 0.5 * cells[spot], out=cells[spot])


def block(recipe: Recipe, field: Field, box: Box, number: int) -> NDArray[np.uint16]:
    """The elements of one box, as the camera counts them. Boxes begin and end at even elements."""
    part = field[tuple(slice(one.start // 2, one.stop // 2 + 2) for one in box)]
    light = reduce(_doubled, range(3), part)
    rng = np.random.default_rng((recipe.seed, number))
    noise = rng.standard_normal(light.shape, np.float32)
    noise *= np.sqrt(light + 4)  # photons scatter as a Poisson process does, the camera reads with 2 counts
    light += noise
    light += _OFFSET + 0.5
    return np.clip(light, 0, 65535, out=light).astype(np.uint16)


def _doubled(part: Field, axis: int) -> Field:
    """Twice as many elements along an axis, in between the given ones, the outermost given up."""
    inner = part.swapaxes(0, axis)
    result = np.empty((2 * (len(inner) - 2), *inner.shape[1:]), np.float32)
    result[0::2] = 0.25 * inner[:-2] + 0.75 * inner[1:-1]
    result[1::2] = 0.75 * inner[1:-1] + 0.25 * inner[2:]
    return result.swapaxes(0, axis)


def halved(finer: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """The next level: means of 2 × 2 × 2, rounded."""
    z, y, x = (n // 2 for n in finer.shape)
    blocks = finer[: 2 * z, : 2 * y, : 2 * x].reshape(z, 2, y, 2, x, 2)
    means: NDArray[np.uint16] = ((blocks.sum((1, 3, 5), dtype=np.uint32) + 4) // 8).astype(np.uint16)
    return means
