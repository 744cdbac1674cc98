"""Plans: columns, computed without a loop over chunks."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from gpuzarr import selection
from gpuzarr.errors import LimitError
from gpuzarr.grid import Grid, RectilinearAxis, RegularAxis
from gpuzarr.plan.coalesce import coalesce
from gpuzarr.plan.pieces import plan_pieces
from gpuzarr.plan.table import ABSENT, WHOLE


def calls_during(action: Any) -> int:
    """Python function calls, the measure of a hidden loop."""
    count = 0

    def tick(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(tick)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


def test_a_million_chunks_without_a_loop() -> None:
    grid = Grid.regular((1000, 1000, 1000), (10, 10, 10))
    chosen = selection.basic(np.s_[5:, ::-1, ::3], (1000, 1000, 1000))
    many = calls_during(lambda: coalesce(plan_pieces(chosen, grid)[0], 0, 1 << 20))
    few = calls_during(
        lambda: coalesce(plan_pieces(selection.basic(np.s_[:20, :20, :20], (1000,) * 3), grid)[0], 0, 1 << 20)
    )
    assert len(plan_pieces(chosen, grid)[0]) == 1_000_000
    assert many <= few + 10


def test_pieces_cover_the_result_once() -> None:
    """Every element of the result lands once, from the chunk element that NumPy names."""
    rng = np.random.default_rng(3)
    axes = (RegularAxis(23, 5), RectilinearAxis(17, np.array([4, 1, 9, 6])))
    chosen = selection.basic((slice(20, 1, -3), rng.integers(0, 17, 9)), (23, 17))
    plan, cells = plan_pieces(chosen, Grid(axes))
    landed = np.full(chosen.flat_shape, -1)
    numbers = np.arange(23 * 17).reshape(23, 17)
    points = plan.points[1]
    assert points is not None
    for row, cell in enumerate(cells.cells):
        lows = [int(axis.low(cell[i : i + 1])[0]) for i, axis in enumerate(axes)]
        rows = lows[0] + plan.chunk_lo[row, 0] + 3 * np.arange(plan.extent[row, 0])
        at = slice(plan.chunk_lo[row, 1], plan.chunk_lo[row, 1] + plan.extent[row, 1])
        columns = lows[1] + points.inside[0, at]
        out = plan.out_lo[row, 0] + np.arange(plan.extent[row, 0])
        assert np.all(landed[np.ix_(out, points.landing[at])] == -1)
        landed[np.ix_(out, points.landing[at])] = numbers[np.ix_(rows, columns)]
    assert np.array_equal(chosen.arrange(landed), numbers[20:1:-3][:, chosen.groups[1].coords[0]])  # type: ignore[union-attr]


def test_chunk_shapes_of_a_rectilinear_grid() -> None:
    grid = Grid((RectilinearAxis(10, np.array([4, 4, 2])), RegularAxis(6, 3)))
    plan, _ = plan_pieces(selection.basic(..., (10, 6)), grid)
    assert {plan.shapes[i] for i in plan.shape.tolist()} == {(4, 3), (2, 3)}
    assert grid.chunk_shape is None
    assert grid.shape == (3, 2)


def test_coalescing_orders_and_divides() -> None:
    from dataclasses import replace

    plan, _ = plan_pieces(selection.basic(..., (6,)), Grid.regular((6,), (1,)))
    plan = replace(
        plan,
        key=np.array([1, 0, 0, 0, 1, 0]),
        start=np.array([0, 90, 0, 10, 5, 0]),
        nbytes=np.array([5, 10, 10, 10, 5, ABSENT]),
    )
    done = coalesce(plan, 0, 1 << 20)
    assert done.key.tolist() == [0, 0, 0, 1, 1, 0]
    assert done.start.tolist()[:5] == [0, 10, 90, 0, 5]
    assert done.request.tolist() == [0, 2, 3, 5]
    assert done.nbytes[-1] == ABSENT
    assert coalesce(plan, 70, 1 << 20).request.tolist() == [0, 3, 5]
    assert coalesce(plan, 70, 15).request.tolist() == [0, 1, 2, 3, 5]
    assert np.all(plan_pieces(selection.basic(..., (6,)), Grid.regular((6,), (1,)))[0].nbytes == WHOLE)


def test_a_plan_larger_than_memory_is_refused() -> None:
    shape = (1 << 40, 1 << 20)
    with pytest.raises(LimitError, match="chunks"):
        plan_pieces(selection.basic(..., shape), Grid.regular(shape, (1, 1)))
