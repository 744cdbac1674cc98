"""Near byte ranges of one file become one request, and its answer becomes theirs again.

A chunk of a NetCDF file is often a few kilobytes beside the next one: asked for one by one they would cost a
round trip each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gpuzarr.store.base import Request


class Piece(NamedTuple):
    """The bytes that request `number` wants of a target."""

    number: int
    key: str
    start: int
    nbytes: int | None
    exact: bool
    """They are all there, if the reference is right."""


class Run(NamedTuple):
    """One request to a target's store, for the pieces in it."""

    request: Request
    pieces: list[Piece]


def runs(pieces: Sequence[Piece], gap: int, limit: int) -> list[Run]:
    """Pieces no further apart than `gap` bytes share a request, as long as it spans no more than `limit`
    bytes. What is read to a file's end stays alone."""
    cut: list[Run] = []
    key, begin, end = "", 0, 0
    inside: list[Piece] = []
    for piece in sorted((piece for piece in pieces if piece.exact), key=_place):
        stop = piece.start + (piece.nbytes or 0)
        if inside and piece.key == key and piece.start - end <= gap and max(stop, end) - begin <= limit:
            inside.append(piece)
            end = max(stop, end)
            continue
        if inside:
            cut.append(Run(Request(key, begin, end - begin), inside))
        key, begin, end, inside = piece.key, piece.start, stop, [piece]
    if inside:
        cut.append(Run(Request(key, begin, end - begin), inside))
    for piece in pieces:
        if not piece.exact:
            cut.append(Run(Request(piece.key, piece.start, piece.nbytes), [piece]))
    return cut


def _place(piece: Piece) -> tuple[str, int]:
    return piece.key, piece.start
