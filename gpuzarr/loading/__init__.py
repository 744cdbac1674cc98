"""Batches of patches for training: `PatchLoader`, its samplers, and PyTorch's side of it.

    frame       how boxes lie over arrays of several scales
    chance      random numbers as functions of (seed, epoch, index)
    samplers    which boxes: uniform, grid, listed, a user's own
    mask, density                by what lies at their centre: a weight or a class
    order       which box comes when, so that chunks are reused; rehearsal: what that costs and biases
    numbering   which boxes a batch has, which batches a rank
    batches     any batch of any epoch, through reading
    ahead, loop batches made ahead by threads, in order
    loader      the door, with state, stats and bar
    torch       PyTorch's datasets

Which boxes a batch holds is a function of (seed, epoch, number) and nothing else. So any thread, worker
process or rank can make any batch, and where a loader stands is two numbers.
"""

from gpuzarr.loading.density import Balanced, Weighted
from gpuzarr.loading.frame import Space
from gpuzarr.loading.loader import PatchLoader
from gpuzarr.loading.order import Blocks
from gpuzarr.loading.samplers import Custom, Grid, Listed, Uniform
from gpuzarr.loading.stats import LoaderStats

__all__ = [
    "Balanced",
    "Blocks",
    "Custom",
    "Grid",
    "Listed",
    "LoaderStats",
    "PatchLoader",
    "Space",
    "Uniform",
    "Weighted",
]
