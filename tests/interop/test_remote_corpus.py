"""Reference sets and Icechunk repositories of the corpus, from servers: HTTP, S3 of byte ranges, moto's
S3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gpuzarr
from tests import corpus
from tests.corpus import ROOT, UNREADABLE, Entry, entries
from tests.devices import SOME
from tests.servers.ranges import RangeServer
from tests.servers.s3 import S3Server

KERCHUNK = [one for one in entries() if one.dialect == "kerchunk"]
ICECHUNK = [one for one in entries() if one.dialect == "icechunk" and one.id not in UNREADABLE]
pytestmark = pytest.mark.skipif(not entries(), reason="the corpus is not there (GPUZARR_FIXTURES)")


@pytest.fixture(scope="module")
def ranges() -> Iterator[RangeServer]:
    with RangeServer(ROOT, s3=True) as server:
        yield server


@pytest.fixture(scope="module")
def moto() -> Iterator[S3Server]:
    repository = ROOT / "gen_public" / "icechunk_repo"
    with S3Server() as server:
        files = [path for path in repository.rglob("*") if path.is_file()]
        held = {f"icechunk_repo/{path.relative_to(repository)}": path.read_bytes() for path in files}
        server.fill("corpus", held)
        yield server


class Elsewhere(Entry):
    """An entry that lies behind a URL."""

    target: Any
    options: dict[str, Any] | None = None

    def open(self, device: str) -> gpuzarr.Array:
        """From there."""
        return gpuzarr.open_array(self.target, self.array, device=device, storage_options=self.options)


def elsewhere(entry: Entry, target: Any, options: dict[str, Any] | None = None) -> Elsewhere:
    found = Elsewhere(entry.fields)
    object.__setattr__(found, "target", target)
    object.__setattr__(found, "options", options)
    return found


@pytest.mark.parametrize("device", list(SOME))
@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_reference_sets_from_servers(ranges: RangeServer, scheme: str, device: str) -> None:
    """Every set, its targets beside it on the server."""
    failed = []
    for entry in KERCHUNK:
        options: dict[str, Any] = {}
        if scheme == "http":
            target = f"{ranges.url}/{entry.path}"
        else:
            bucket, _, key = entry.path.partition("/")
            target = f"s3://{bucket}/{key}"
            options = {"endpoint_url": ranges.url, "key": "key", "secret": "secret"}
        if entry.id in UNREADABLE:
            continue
        try:
            corpus.check(elsewhere(entry, target, options), device)
        except Exception as error:
            failed.append(f"{entry.id} {entry.path}/{entry.array}: {error}")
    assert failed == []
    assert len(KERCHUNK) > 30


@pytest.mark.parametrize("device", list(SOME))
def test_repositories_from_s3(moto: S3Server, device: str) -> None:
    """Every version: a tag, and two branches."""
    icechunk = pytest.importorskip("icechunk", reason="icechunk is not there")
    storage = icechunk.s3_storage(
        bucket="corpus",
        prefix="icechunk_repo",
        endpoint_url=moto.endpoint_url,
        access_key_id=moto.key,
        secret_access_key=moto.secret,
        region=moto.region,
        allow_http=True,
        force_path_style=True,
    )
    for entry in ICECHUNK:
        kind, _, name = entry.version.partition("=")
        session = icechunk.Repository.open(storage).readonly_session(**{kind: name})
        corpus.check(elsewhere(entry, session), device)


def test_a_set_costs_few_requests(ranges: RangeServer) -> None:
    """The set itself is one; the chunks of a file beside one another are joined."""
    entry = next(one for one in KERCHUNK if one.path.endswith("kerchunk_earliest.json") and one.array == "d")
    ranges.forget()
    array = gpuzarr.open_array(f"{ranges.url}/{entry.path}", "d", device="cpu")
    assert [Path(one.path).name for one in ranges.seen] == ["kerchunk_earliest.json"]
    ranges.forget()
    array[...]
    assert {Path(one.path).name for one in ranges.seen} == {"earliest.h5"}
    assert len(ranges.seen) <= 2


def test_a_set_from_a_server_names_no_local_file(ranges: RangeServer) -> None:
    document = {".zarray": {"zarr_format": 2, "shape": [4], "chunks": [4], "dtype": "|u1", "order": "C"}}
    document[".zarray"] |= {"fill_value": 0, "filters": None, "compressor": None}
    refs = {**document, "0": ["/etc/hostname", 0, 4]}
    import json

    with RangeServer({"set.json": json.dumps(refs).encode()}) as server:
        array = gpuzarr.open_array(f"{server.url}/set.json", device="cpu")
        with pytest.raises(gpuzarr.GpuzarrError, match="allow_local"):
            array[...]
