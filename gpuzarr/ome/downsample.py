"""Making an array smaller by whole factors: what one block of elements becomes.

    mean      the sum of the block ÷ the number of its elements. Integers and booleans: computed exactly,
              rounded to the nearest, halves up (2.5 → 3, -2.5 → -2). Floats: added one by one in C order of
              the block as float64, divided, rounded once to the array's type; every NaN is the same. Complex
              numbers: the mean of the real parts, and that of the imaginary ones
    mode      the value that is in the block most often, of several the smallest. Integers and booleans
    nearest   the block's first element

At the far edges blocks are smaller, and so is the number of their elements: a length of n becomes ⌈n ÷ f⌉.

The functions use what NumPy and CuPy have in common, in an order of operations that is written down here, so
that they give the same bits on a device.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from typing import Any, Final

import numpy as np

from gpuzarr.errors import ArgumentError

METHODS: Final = ("mean", "mode", "nearest")

Slices = tuple[slice, ...]


def downsample(values: Any, factors: Sequence[int], method: str) -> Any:
    """`values` with each axis made `factors` times smaller; a new array of the same type."""
    made = _module(values).empty(shrunk(values.shape, factors), values.dtype)
    reduce = {"mean": _mean, "mode": _mode, "nearest": _first}[method]
    with np.errstate(all="ignore"):  # infinities and NaNs are values like others
        for source, target, block in parts(values.shape, factors):
            part = values[source]
            offsets = product(*(range(b) for b in block))
            made[target] = reduce([part[tuple(map(slice, one, [None] * len(one), block))] for one in offsets])
    return made


def check(method: str, dtype: Any) -> None:
    """Refuse what has no mean, or no most frequent value."""
    if method not in METHODS:
        raise ArgumentError(f"method {method!r} is none of {', '.join(METHODS)}")
    kinds = {"mean": "biufc", "mode": "biu", "nearest": "biufcmMSV"}[method]
    if dtype.kind not in kinds:
        hint = 'method="nearest" takes other types'
        raise ArgumentError(f"values of type {dtype} have no {method}", hint=hint)


def parts(shape: Sequence[int], factors: Sequence[int]) -> Iterator[tuple[Slices, Slices, tuple[int, ...]]]:
    """An array cut so that within each part all blocks have one shape: where it lies, where its result lies,
    and the blocks' shape. Along each axis there are the whole blocks, and what is left."""
    cuts = []
    for n, f in zip(shape, factors, strict=True):
        whole, left = n // f, n % f
        cut = [(slice(0, whole * f), slice(0, whole), f)] if whole else []
        cuts.append(cut + ([(slice(whole * f, n), slice(whole, whole + 1), left)] if left else []))
    for chosen in product(*cuts):
        sources, targets, block = zip(*chosen, strict=True) if chosen else ((), (), ())
        yield sources, targets, block


def _mean(views: list[Any]) -> Any:
    first, count = views[0], len(views)
    if first.dtype.kind in "biu":
        return _integer_mean(views, count).astype(first.dtype)
    if first.dtype.kind == "c":
        made = first.copy()
        made.real, made.imag = _mean([view.real for view in views]), _mean([view.imag for view in views])
        return made
    total = first.astype("f8")
    for view in views[1:]:
        total += view
    total /= count
    total[total != total] = np.nan
    return total.astype(first.dtype)


def _integer_mean(views: list[Any], count: int) -> Any:
    itemsize = views[0].dtype.itemsize
    if itemsize < 8 and count < 1 << 31:
        wide = 4 if itemsize < 4 and count <= 1 << 15 else 8  # bytes that no sum outgrows
        total = views[0].astype(f"{'u' if views[0].dtype.kind in 'bu' else 'i'}{wide}")
        for view in views[1:]:
            total += view
        return (total + count // 2) // count
    # Sums of 64-bit integers could overflow, sums of their quotients cannot, nor those of the remainders.
    quotient, remainder = views[0] // count, views[0] % count
    for view in views[1:]:
        quotient += view // count
        remainder += view % count
    return quotient + (remainder + count // 2) // count


def _mode(views: list[Any]) -> Any:
    """In sorted order equal values are neighbours; the first of the longest runs is the smallest value."""
    module = _module(views[0])
    ordered = module.sort(module.stack(views), axis=0)
    best, run = ordered[0].copy(), module.ones(views[0].shape, "i8")
    longest = run.copy()
    for before, value in pairwise(ordered):
        run = module.where(value == before, run + 1, 1)
        longer = run > longest
        best, longest = module.where(longer, value, best), module.where(longer, run, longest)
    return best


def _first(views: list[Any]) -> Any:
    return views[0]


def _module(array: Any) -> Any:
    """NumPy or CuPy, whichever the array is of."""
    return sys.modules[type(array).__module__.partition(".")[0]]


def shrunk(shape: Sequence[int], factors: Sequence[int]) -> tuple[int, ...]:
    """The shape of the result."""
    return tuple(-(-n // f) for n, f in zip(shape, factors, strict=True))
