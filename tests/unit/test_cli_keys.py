"""Selections as text mean what the same text means to NumPy."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest

from gpuzarr.cli import keys
from gpuzarr.errors import SelectionError


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("0,:,::2", (0, slice(None), slice(None, None, 2))),
        ("[0, :, ::2]", (0, slice(None), slice(None, None, 2))),
        (" -1 , 3:-2 ", (-1, slice(3, -2))),
        ("...", (...,)),
        ("1,...,5:1:-1", (1, ..., slice(5, 1, -1))),
        ("7,", (7,)),
        ("", ()),
    ],
)
def test_parse(text: str, key: keys.Key) -> None:
    assert keys.parse(text) == key


@pytest.mark.parametrize(
    "text", ["a", "1.5", "__import__('os')", "1:2:3:4", "0,,1", "[0", "(0)", "9" * 30, "1e3", "None", "0;1"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(SelectionError) as caught:
        keys.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("...", (50, 7)),
        ("3,...,1:", (5, 6, 7)),
        ("::-3, 2", (40, 5)),
        ("5:36:7", (40,)),
        ("-1,-2", (4, 9)),
        ("", ()),
        ("4:4", (9, 2)),
    ],
)
@pytest.mark.parametrize("nbytes", [1, 64, 1 << 20])
def test_slabs_hold_the_same_elements_in_order(text: str, shape: tuple[int, ...], nbytes: int) -> None:
    array = np.arange(prod(shape)).reshape(shape)
    key = keys.full(keys.parse(text), shape)
    parts = [array[part] for part in keys.slabs(key, shape, array.itemsize, 16, nbytes)]
    assert np.array_equal(np.concatenate([part.ravel() for part in parts] or [[]]), array[key].ravel())


def test_slabs_end_where_chunks_end() -> None:
    parts = [part[0] for part in keys.slabs((slice(None), 0), (100, 3), 8, 32, 8 * 40)]
    assert parts == [slice(0, 32, 1), slice(32, 64, 1), slice(64, 100, 1)]


def test_a_key_must_fit() -> None:
    with pytest.raises(SelectionError):
        keys.full(keys.parse("0,0,0"), (4, 4))
