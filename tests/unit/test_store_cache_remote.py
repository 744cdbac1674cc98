"""Caches before servers: what goes over the wire, counted by the server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuzarr
from gpuzarr.store.caching.opening import cached
from gpuzarr.store.urls import open_store
from tests.servers.ranges import RangeServer

pytest.importorskip("obstore", reason="obstore is not installed, which sends the requests")

VALUES = np.arange(40 * 50, dtype="i4").reshape(40, 50)


class Held:
    """An array behind a server."""

    def __init__(self, shards: Any) -> None:
        self.shards = shards
        self.objects: dict[str, bytes] = {}
        self.save(VALUES)

    def save(self, values: Any) -> None:
        self.values = values
        form: dict[str, Any] = {"chunks": (10, 10), "shards": self.shards, "codecs": ["zstd"]}
        gpuzarr.save(self.objects, values, **form, overwrite=True, device="cpu")

    def read(self, cache: Any) -> list[int]:
        """All of it, through a new handle: the statuses of the answers."""
        self.server.forget()
        array = gpuzarr.open_array(cached(open_store(self.server.url), cache), device="cpu")
        np.testing.assert_array_equal(array[...], self.values)
        return sorted(one.status for one in self.server.seen)

    server: RangeServer


@pytest.fixture(params=[None, (20, 50)], ids=["chunks", "shards"])
def held(request: pytest.FixtureRequest) -> Iterator[Held]:
    held = Held(request.param)
    with RangeServer(held.objects) as held.server:
        yield held


@pytest.mark.parametrize("check", ["once", "always", "never"])
def test_a_second_handle_brings_no_bytes(held: Held, tmp_path: Path, check: str) -> None:
    """What is asked again is confirmed with 304; an object once, however many of its ranges are read."""
    cache = {"kind": "disk", "directory": tmp_path / "cache", "check": check}
    assert set(held.read(cache)) <= {200, 206}
    assert held.read(cache) == ([] if check == "never" else [304] * len(held.objects))
    assert sum(one.nbytes for one in held.server.seen) == 0


def test_a_handle_asks_for_nothing_twice(held: Held) -> None:
    store = cached(open_store(held.server.url), {"kind": "memory", "nbytes": 1 << 20})
    array = gpuzarr.open_array(store, device="cpu")
    for _ in range(2):
        np.testing.assert_array_equal(array[...], VALUES)
        held.server.forget()
    np.testing.assert_array_equal(array[...], VALUES)
    assert held.server.seen == []
    assert store.cache_stats.hits > 0


def test_what_changes_is_seen_by_the_next_handle(held: Held, tmp_path: Path) -> None:
    cache = ["memory", {"kind": "disk", "directory": tmp_path / "cache"}]
    held.read(cache)
    held.save(VALUES * 3)
    assert held.read(cache).count(304) == 1, "the document alone is what it was"
    assert held.read(cache) == [304] * len(held.objects)


def test_what_changes_under_a_handle(held: Held, tmp_path: Path) -> None:
    """What it has confirmed it may keep; of a shard it never mixes two."""
    store = cached(open_store(held.server.url), {"kind": "disk", "directory": tmp_path / "cache"})
    array = gpuzarr.open_array(store, device="cpu")
    np.testing.assert_array_equal(array[:7, :7], VALUES[:7, :7])
    held.save(VALUES * 3)
    found = array[:20, :50]
    if held.shards:
        assert any(np.array_equal(found, one[:20, :50]) for one in (VALUES, VALUES * 3))
    np.testing.assert_array_equal(found[:10, 10:], VALUES[:10, 10:50] * 3)
    np.testing.assert_array_equal(array[20:], VALUES[20:] * 3)


def test_a_server_without_etags(held: Held, tmp_path: Path) -> None:
    """It cannot confirm: each handle reads anew, and then no more."""
    held.server.switch(etag=None)
    cache = {"kind": "disk", "directory": tmp_path / "cache"}
    for values in (VALUES, VALUES, VALUES * 7):
        held.save(values)
        assert 304 not in held.read(cache)
    store = cached(open_store(held.server.url), cache)
    array = gpuzarr.open_array(store, device="cpu")
    np.testing.assert_array_equal(array[...], held.values)
    held.server.forget()
    np.testing.assert_array_equal(array[...], held.values)
    assert held.server.seen == []
