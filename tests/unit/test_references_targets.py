"""What a reference set names: which store it lies in, who may name what, who is told which secrets."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from gpuzarr.errors import ArgumentError, MetadataError, MissingDependencyError, StoreError
from gpuzarr.store.base import Request, Store
from gpuzarr.store.local import LocalStore
from gpuzarr.store.memory import MappingStore
from gpuzarr.store.references import open_reference_set, open_references, split_target
from gpuzarr.store.urls import open_store
from tests.unit.test_references import BYTES, Afar

SECRET = "do-not-show-this"


class Everything(Afar):
    """A store in which everything lies; it notes what was asked of it."""

    def __init__(self, name: str, url: str, asked: list[tuple[str, str]], objects: dict[str, bytes]) -> None:
        super().__init__(objects, url)
        self.name, self.asked, self.objects = name, asked, objects

    def get_ranges(self, requests: Sequence[Request], place: Any = None) -> Any:
        self.asked += [(self.name, request.key) for request in requests]
        return [self.objects.get(one.key, BYTES)[one.start :][: one.nbytes] for one in requests]

    def stream(self, requests: Sequence[Request], place: Any = None) -> Any:
        return iter(enumerate(self.get_ranges(requests)))


class Openings:
    """Notes which roots are opened, and with what."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.asked: list[tuple[str, str]] = []

    def __call__(self, root: str, options: Mapping[str, Any]) -> Store:
        self.seen.append((root, dict(options)))
        return Everything(root, root.split("?")[0], self.asked, {})


def asked(text_url: str, key: str, target: str | None, options: Any = None) -> tuple[Any, Any]:
    """What is opened and asked for a target of a set at a place."""
    openings = Openings()
    text = json.dumps({"a": [target, 0, 1]}).encode()
    held = Everything("text", text_url, openings.asked, {key: text})
    store = open_references(held, key, options, openings)
    openings.asked.clear()
    store.get_ranges([Request("a")])
    assert len(openings.asked) == 1
    return openings.asked[0], openings.seen


@pytest.mark.parametrize(
    ("url", "root", "key"),
    [
        ("s3://bucket/a/b.nc", "s3://bucket", "a/b.nc"),
        ("S3://Bucket/a?b#c.nc", "s3://Bucket", "a?b#c.nc"),
        ("gs://b/x", "gs://b", "x"),
        ("abfs://c@account.dfs.core.windows.net/x/y", "abfs://c@account.dfs.core.windows.net", "x/y"),
        ("https://host:8080/a//b/../c%20d.nc#mode=bytes", "https://host:8080", "a/c d.nc"),
        ("https://host/a.nc?X-Sig=a/b%2F#f", "https://host/?X-Sig=a/b%2F", "a.nc"),
        ("/data/../x/y.nc", "/", "x/y.nc"),
        ("file:///data/x.nc", "/", "data/x.nc"),
        ("file:/data/x.nc", "/", "data/x.nc"),
        ("local:///x.nc", "/", "x.nc"),
        ("memory://a/b", "memory://", "a/b"),
    ],
)
def test_roots(url: str, root: str, key: str) -> None:
    assert split_target(url) == (root, key)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "x.nc",
            "s3://",
            "s3://bucket",
            "s3://bucket/",
            "s3:///x",
            "s3://b/../x",
            "s3://b//x",
            "https://h",
        ),
        *("https://h/?q=x", "simplecache::file:///etc/passwd", "s3://x::file:///etc/passwd", "://x/y"),
        *("https://h\n/x", "file:x", "a b://c/d", "s3://b/a\0b", "file:///", "https://h/..", "s3://b/\ud800"),
    ],
)
def test_targets_that_are_none(url: str) -> None:
    with pytest.raises(StoreError):
        split_target(url)


@pytest.mark.parametrize(
    ("text_url", "key", "target", "found"),
    [
        ("s3://b/p", "d/r.json", "x.nc", ("text", "d/x.nc")),
        ("s3://b/p", "d/r.json", "../x.nc", ("text", "x.nc")),
        ("s3://b/p", "d/r.json", "../../x.nc", ("s3://b", "x.nc")),
        ("s3://b/p", "d/r.json", "s3://b/p/y.nc", ("text", "y.nc")),
        ("s3://b/p", "d/r.json", "s3://b/pp/y.nc", ("s3://b", "pp/y.nc")),
        ("s3://b/p", "d/r.json", "s3://c/p/y.nc", ("s3://c", "p/y.nc")),
        ("https://h/p", "d/r.json", "a%20b.nc", ("text", "d/a b.nc")),
        ("https://h/p", "d/r.json", "x.nc?sig=1", ("https://h/?sig=1", "p/d/x.nc")),
        ("https://h", "r.json", "http://h/x.nc", ("http://h", "x.nc")),
        ("memory:", "d/r.json", "x.nc", ("text", "d/x.nc")),
        ("memory:", "d/r.json", "/x.nc", ("/", "x.nc")),
        ("memory:", "d/r.json", "s3://b/x.nc", ("s3://b", "x.nc")),
        ("/data/p", "d/r.json", "x.nc", ("text", "d/x.nc")),
        ("/data/p", "d/r.json", "../../x.nc", ("/", "data/x.nc")),
        ("/data/p", "d/r.json", "/data/p/y.nc", ("text", "y.nc")),
        ("/data/p", "d/r.json", "/data/pp/y.nc", ("/", "data/pp/y.nc")),
        ("/data/p", "d/r.json", "file://rel/x.nc", ("text", "d/rel/x.nc")),
        ("/", "data/r.json", "x.nc", ("text", "data/x.nc")),
        ("memory://r", "d/r.json", "../x", ("text", "x")),
    ],
)
def test_places(text_url: str, key: str, target: str, found: Any) -> None:
    """What lies in the set's own store is read from there; all else by its root."""
    assert asked(text_url, key, target)[0] == found


def test_targets_that_lead_out() -> None:
    for url, key, target in [
        ("s3://b/p", "r.json", "../../x"),
        ("memory:", "d/r.json", "../../x"),
        ("mine", "r.json", "../x"),
    ]:
        with pytest.raises(StoreError, match="leads out"):
            asked(url, key, target)
    with pytest.raises(StoreError, match="names no target"):
        asked("memory:", "r.json", None)
    assert asked("memory:", "r.json", None, {"target": "x"})[0] == ("text", "x")


# ---- local files

LOCAL = [
    *("/etc/passwd", "file:///etc/passwd", "FILE:///etc/passwd", "local:///etc/passwd", "file:/etc/passwd"),
    *("memory://x/y", "simplecache::file:///etc/passwd", "zip://x::/etc/passwd.zip", "dir:///etc/passwd"),
    *("git:///etc/passwd", "sftp://localhost/etc/passwd", "unknown://x/y"),
]


@pytest.mark.parametrize("url", ["https://h", "s3://b/p", "mine", "ftp://h/x", "zip::s3://b/x"])
@pytest.mark.parametrize("target", LOCAL)
def test_a_set_from_elsewhere_names_no_local_file(url: str, target: str) -> None:
    """An error, before anything is opened."""
    with pytest.raises(StoreError) as raised:
        asked(url, "d/r.json", target)
    assert "machine" in str(raised.value)
    assert "allow_local" in str(raised.value)
    if target.count(":") == 1 and target.lower().startswith(("/", "file", "local")):
        assert asked(url, "d/r.json", target, {"allow_local": True})[0] == ("/", "etc/passwd")


def test_what_looks_local_from_elsewhere_is_not() -> None:
    """Relative names stay on the server, whatever they are like."""
    assert asked("https://h/p", "d/r.json", "etc/passwd")[0] == ("text", "d/etc/passwd")
    for target in ("../../../etc/passwd", "../../..", "~/../../../../x"):
        with pytest.raises(StoreError):
            asked("https://h/p", "d/r.json", target)


def test_a_protocol_does_not_open_the_door() -> None:
    for remote in ("file", "local", "FILE", "memory", "simplecache::file", "Memory"):
        with pytest.raises(StoreError, match=r"machine|URL"):
            asked("https://h", "r.json", "etc/passwd", {"remote_protocol": remote})
    assert asked("https://h", "r.json", "x/y", {"remote_protocol": "sftp"})[0] == ("sftp://x", "y")
    assert asked("https://h", "r.json", "sftp://x/y", {"remote_protocol": "sftp"})[0] == ("sftp://x", "y")
    with_leave = {"remote_protocol": "file", "allow_local": True}
    found, _ = asked("https://h", "r.json", "etc/passwd", with_leave)
    assert found == ("/", os.path.abspath("etc/passwd").lstrip("/"))


def test_a_local_set_names_local_files(tmp_path: Path) -> None:
    """By absolute and by relative names, and through links, which are the user's own."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_bytes(BYTES)
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "link").symlink_to(tmp_path / "data" / "x")
    refs = {"a": ["../data/x", 1, 2], "b": [f"{tmp_path}/data/x", 3, 2], "c": ["link", 5, 2]}
    refs |= {"d": [f"file://{tmp_path}/sets/link", 7, 2]}
    (tmp_path / "sets" / "r.json").write_text(json.dumps(refs))
    store = open_reference_set(tmp_path / "sets" / "r.json")
    found = store.get_ranges([Request(key) for key in "abcd"])
    assert b"".join(bytes(one or b"") for one in found) == BYTES[1:9]
    inside = open_references(LocalStore(str(tmp_path / "sets")), "r.json")
    with pytest.raises(StoreError, match="outside"):  # that store was opened without leave for links
        inside.get_ranges([Request("c")])
    assert bytes(inside.get_ranges([Request("a")])[0] or b"") == BYTES[1:3]


def test_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set without a place goes by it, as in fsspec."""
    monkeypatch.chdir(tmp_path)
    Path("x").write_bytes(BYTES)
    Path("r.json").write_text(json.dumps({"a": ["x", 0, 4]}))
    for options in (
        {"fo": {"a": ["x", 0, 4]}},
        {"fo": "r.json"},
        {"fo": Path("r.json")},
        {"fo": f"file://{tmp_path}/r.json"},
    ):
        store = open_reference_set("reference://", options)
        assert bytes(store.get_ranges([Request("a")])[0] or b"") == BYTES[:4]
    assert open_reference_set("reference::r.json").exists("a")


# ---- who is told what


def test_options() -> None:
    own = {"key": "mine", "secret": SECRET}
    remote = {"remote_options": {"key": "theirs"}}
    there, elsewhere = "s3://b/other/x", "s3://c/x"
    for options, target, told in [
        (own, there, own),
        (own, elsewhere, {}),
        (own, "https://b/x", {}),
        ({"target_options": own}, there, own),
        ({"target_options": own}, elsewhere, {}),
        ({**own, **remote}, there, {"key": "theirs"}),
        ({**own, **remote}, elsewhere, {"key": "theirs"}),
        ({**own, **remote, "remote_protocol": "s3"}, elsewhere, {"key": "theirs"}),
        ({**own, **remote, "remote_protocol": "s3"}, "s3a://c/x", {"key": "theirs"}),
        ({**own, **remote, "remote_protocol": "s3"}, "https://c/x", {}),
        ({**remote, "remote_protocol": "http"}, "https://c/x", {"key": "theirs"}),
        ({**remote, "remote_protocol": "https"}, "http://c/x", {}),
        ({**own, **remote, "remote_protocol": "gcs"}, there, own),
        ({"remote_protocol": "s3"}, "c/x", {}),
        ({**remote, "remote_protocol": "s3"}, "c/x", {"key": "theirs"}),
    ]:
        _, seen = asked("s3://b/p", "r.json", target, options)
        assert [one for _, one in seen] == [told], (options, target)
    found, seen = asked("s3://b/p", "r.json", "p/y", {**own, **remote, "allow_local": True})
    assert (found, seen) == (("s3://b", "p/p/y"), [("s3://b", {"key": "theirs"})])
    assert asked("/data", "r.json", "/x", {"remote_options": {"key": 1}})[1] == [("/", {})]


def test_protocols_of_targets_without_one() -> None:
    assert asked("/data", "r.json", "c/x", {"remote_protocol": "s3"})[0] == ("s3://c", "x")
    assert asked("/data", "r.json", "/c/x", {"remote_protocol": "gs"})[0] == ("gs://c", "x")
    assert asked("/data", "r.json", "x", {"remote_protocol": "file"})[0] == ("text", "x")
    assert asked("https://h", "r.json", "x", {"remote_protocol": "https"})[0] == ("text", "x")
    assert asked("s3://b", "r.json", "s3://c/x", {"remote_protocol": "gs"})[0] == ("s3://c", "x")


def test_the_set_itself_is_opened_with_its_own_options() -> None:
    openings = Openings()
    for target, options, seen in [
        ("s3://b/d/r.json", {"anon": True, "remote_options": {"key": 1}}, ("s3://b", {"anon": True})),
        ("https://h/r.json?sig=1", {}, ("https://h/?sig=1", {})),
        (
            "reference://",
            {"fo": "b/r.json", "target_protocol": "s3", "target_options": {"a": 1}},
            ("s3://b", {"a": 1}),
        ),
        (
            "reference::gs://b/r.json",
            {"token": "anon", "simple_templates": False},
            ("gs://b", {"token": "anon"}),
        ),
        ("reference://", {"fo": "s3://b/r.parq", "lazy": True, "compression": None}, ("s3://b", {})),
    ]:
        with pytest.raises(MetadataError):  # there is no set in those bytes
            open_reference_set(target, options, openings)
        assert openings.seen[-1] == seen
    assert openings.asked[-1] == ("s3://b", "r.parq/.zmetadata")
    assert openings.asked[-3] == ("s3://b", "r.json")


@pytest.mark.parametrize(
    "options",
    [
        *({"remote_options": "x"}, {"target_options": []}, {"template_overrides": 1}, {"allow_local": 1}),
        *({"target": 1}, {"remote_protocol": 5}, {"target_protocol": b"s3"}),
    ],
)
def test_options_that_are_none(options: Any) -> None:
    with pytest.raises(ArgumentError, match=next(iter(options))):
        open_references(MappingStore({"r.json": b"{}"}), "r.json", options)


def test_no_fo() -> None:
    for options in ({}, {"fo": 5}, None):
        with pytest.raises(ArgumentError, match="fo"):
            open_reference_set("reference://", options)
    with pytest.raises(ArgumentError, match="anon"):
        open_reference_set("/r.json", {"anon": True})


def test_secrets_are_not_shown() -> None:
    """Neither those of URLs nor those of options, whoever complains."""

    class Talking(Afar):
        def get_ranges(self, requests: Sequence[Request], place: Any = None) -> Any:
            raise StoreError(f"no answer from https://h/x?sig={SECRET}&more=1 with {SECRET}-too")

        def stream(self, requests: Sequence[Request], place: Any = None) -> Any:
            return self.get_ranges(requests)

    def open_target(root: str, options: Mapping[str, Any]) -> Store:
        assert SECRET in root
        if "refuse" in root:
            raise StoreError(f"cannot open {root}")
        return Talking({}, "https://h")

    options = {"remote_options": {"password": f"{SECRET}-too"}}
    refs = {name: [f"https://h/{name}?sig={SECRET}", 0, 1] for name in ("a", "b", "refuse")}
    refs |= {"c": [f"https://u:{SECRET}@h/x", 0, 1], "d": [f"https://u:{SECRET}@::/x", 0, 1]}
    refs["refuse"] = [f"https://h/x?refuse=1&sig={SECRET}", 0, 1]
    store = open_references(
        MappingStore({"r.json": json.dumps(refs).encode()}), "r.json", options, open_target
    )
    for keys in (["a"], ["a", "b"], ["c"], ["d"], ["refuse"]):
        with pytest.raises(StoreError) as raised:
            store.get_ranges([Request(key) for key in keys])
        said = f"{raised.value} {raised.value!r} {raised.value.args} {raised.value.__cause__}"
        assert SECRET not in said
        assert raised.value.__suppress_context__
        assert raised.value.chunk == (keys[0] if len(keys) == 1 else None)
    assert SECRET not in repr(store) + repr(store._targets._options)
    signed = Afar({"r.json": b"{"}, f"https://h/?{SECRET}")
    with pytest.raises(Exception, match="JSON") as bad:
        open_references(signed, "r.json")
    assert SECRET not in str(bad.value)


def test_one_store_for_each_root() -> None:
    refs = {f"a{i}": [f"s3://b{i % 3}/x{i}", 0, 1] for i in range(90)}
    openings = Openings()
    store = open_references(MappingStore({"r.json": json.dumps(refs).encode()}), "r.json", None, openings)
    assert len(store.get_ranges([Request(key) for key in refs])) == 90
    store.get_ranges([Request("a0"), Request("a1")])
    assert sorted(root for root, _ in openings.seen) == ["s3://b0", "s3://b1", "s3://b2"]
    assert store.traits.concurrency > 64


def test_what_is_missing_for_a_scheme() -> None:
    store = open_references(MappingStore({"r.json": b'{"a": ["nobody://b/x"], "b": "c"}'}), "r.json")
    assert store.get_ranges([Request("b")]) == [b"c"]
    with pytest.raises((StoreError, MissingDependencyError), match="nobody"):
        store.get_ranges([Request("a")])
    assert isinstance(open_store("/"), LocalStore)
