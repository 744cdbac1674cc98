"""Remote stores, against real servers: the contract, requests counted, faults, what is forbidden,
credentials."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from gpuzarr.errors import StoreError
from gpuzarr.store.base import Store, WritableStore
from gpuzarr.store.remote.html_index import names_on, walk
from gpuzarr.store.urls import open_store
from gpuzarr.testing.store import StoreContract
from tests.servers.ranges import RangeServer

HTTP: dict[str, bytes] = {}
BUCKETS: dict[str, bytes] = {}
SECRET = "do-not-show-this"


@pytest.fixture(scope="module")
def http() -> Iterator[RangeServer]:
    with RangeServer(HTTP) as server:
        yield server


@pytest.fixture(scope="module")
def buckets() -> Iterator[RangeServer]:
    with RangeServer(BUCKETS, s3=True) as server:
        yield server


class _Served(StoreContract):
    backend = "obstore"
    prefix = ""
    held: dict[str, bytes]

    def fill(self, objects: Mapping[str, bytes]) -> None:
        self.held.clear()
        self.held.update({self.prefix + key: value for key, value in objects.items()})


class TestHttp(_Served):
    prefix = "some/where/"

    @pytest.fixture(autouse=True)
    def _server(self, http: RangeServer) -> None:
        self.server, self.held = http, HTTP

    def make(self, objects: Mapping[str, bytes]) -> Store:
        self.fill(objects)
        return open_store(f"{self.server.url}/some/where/?signature={SECRET}", {"backend": self.backend})

    def test_listing(self) -> None:
        """Of servers that show directories as pages of links."""
        self.server.switch(listing=True)
        try:
            super().test_listing()
        finally:
            self.server.switch(listing=False)


class TestS3(_Served):
    prefix = "bucket/some/where/"

    @pytest.fixture(autouse=True)
    def _server(self, buckets: RangeServer) -> None:
        self.server, self.held = buckets, BUCKETS

    def make(self, objects: Mapping[str, bytes]) -> Store:
        self.fill(objects)
        options: dict[str, Any] = {"key": "key", "secret": SECRET, "endpoint_url": self.server.url}
        return open_store("s3://bucket/some/where", {**options, "backend": self.backend})


class TestS3ThroughFsspec(TestS3):
    backend = "fsspec"


class TestHttpThroughFsspec(TestHttp):
    backend = "fsspec"


class TestObstoreMemory(StoreContract):
    """A store of obstore's own, as a target."""

    def make(self, objects: Mapping[str, bytes]) -> Store:
        from obstore.store import MemoryStore

        target = MemoryStore()
        store = open_store(target)
        assert isinstance(store, WritableStore)
        store.put(list(objects.items()))
        return store


def test_pages_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories in directories, ever more beside one another, and all that are in reach."""
    assert sorted(walk({"a/": ["b", "c/"], "a/c/": ["d"]}.__getitem__, "a/")) == ["a/b", "a/c/d"]
    with pytest.raises(StoreError, match="more than 64 deep"):
        list(walk(lambda at: ["a/"], ""))
    monkeypatch.setattr("gpuzarr.store.remote.html_index._MOST_PAGES", 100)
    with pytest.raises(StoreError, match="more than 100 directories below a/"):
        list(walk(lambda at: [f"{i}/" for i in range(60)], "a/"))
    with pytest.raises(StoreError, match="more than 100 directories below a/"):
        list(walk(lambda at: [f"{i}/" for i in range(101)], "a/"))
    flat = ["x", *(f"{i}/" for i in range(99))]
    assert len(list(walk(lambda at: flat if at == "a/" else ["y"], "a/"))) == 100


def test_pages_of_links() -> None:
    page = b"<html><a href='../'>up</a><a href='?C=N'>N</a><a href='a%20b'>a b</a><a href='c/'>c</a>"
    more = b"<a href='/d/e//'>e</a><a href='x%2Fy'>x</a><a href='/other/z'>z</a><a href='/d/w'>w</a>"
    assert names_on(page + more, "d/") == ["a b", "c/", "w"]
    assert names_on(b"", "d/") == []
    with pytest.raises(StoreError, match="does not list d/"):
        names_on(b"{}", "d/")
