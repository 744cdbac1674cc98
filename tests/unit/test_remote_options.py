"""`storage_options` as fsspec users write them, and where credentials are kept."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

import gpuzarr
from gpuzarr.store.remote import RemoteStore
from gpuzarr.store.remote.options import spoken, without_user
from gpuzarr.store.urls import open_store
from tests.servers.ranges import RangeServer


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


CASES: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ("s3", {"anon": True}, {"skip_signature": True}, {}),
    ("s3", {"key": "k", "secret": "s", "token": "t"}, dict(zip(
        ("access_key_id", "secret_access_key", "session_token"), "kst", strict=True)), {}),
    ("s3", {"anon": True, "endpoint_url": "http://h:1"},
     {"skip_signature": True, "endpoint": "http://h:1"}, {"allow_http": True}),
    ("s3", {"anon": True, "client_kwargs": {"endpoint_url": "https://h", "region_name": "eu-west-1"}},
     {"skip_signature": True, "endpoint": "https://h", "region": "eu-west-1"}, {}),
    ("s3", {"anon": True, "requester_pays": True}, {"skip_signature": True, "request_payer": True}, {}),
    ("s3", {"anon": True, "config_kwargs": {"s3": {"addressing_style": "virtual"}}},
     {"skip_signature": True, "virtual_hosted_style_request": True}, {}),
    ("s3", {"anon": True, "default_block_size": 5}, {"skip_signature": True}, {}),
    ("gs", {"token": "anon"}, {"skip_signature": True}, {}),
    ("gs", {"token": "/key.json", "project": "p"}, {"application_credentials": "/key.json"}, {}),
    ("gs", {"token": {"type": "s"}}, {"service_account_key": '{"type": "s"}'}, {}),
    ("az", {"account_name": "a", "account_key": "k"}, {"account_name": "a", "account_key": "k"}, {}),
    ("az", {"account_name": "a", "sas_token": "sv=1"}, {"account_name": "a", "sas_key": "sv=1"}, {}),
    ("az", {"connection_string": "AccountName=a;AccountKey=k==;BlobEndpoint=http://h"},
     {"account_name": "a", "account_key": "k==", "endpoint": "http://h"}, {"allow_http": True}),
    ("http", {"headers": {"X": "1"}}, {}, {"default_headers": {"X": "1"}, "allow_http": True}),
    ("http", {"client_kwargs": {"headers": {"X": "1"}, "auth": ("u", "p")}}, {},
     {"default_headers": {"X": "1", "Authorization": "Basic dTpw"}, "allow_http": True}),
]  # fmt: skip


@pytest.mark.parametrize(("scheme", "options", "config", "client"), CASES)
def test_options_in_obstores_words(
    scheme: str, options: dict[str, Any], config: dict[str, Any], client: dict[str, Any]
) -> None:
    said = spoken(scheme, options)
    assert (said.config, said.client, said.unknown) == (config, client, [])


@pytest.mark.parametrize(
    ("scheme", "options", "unknown"),
    [
        ("s3", {"anon": True, "s3_additional_kwargs": {"a": 1}}, ["s3_additional_kwargs"]),
        ("s3", {"anon": True, "client_kwargs": {"proxy": 1}}, ["client_kwargs[proxy]"]),
        (
            "s3",
            {"anon": True, "config_kwargs": {"signature_version": "s3"}},
            ["config_kwargs[signature_version]"],
        ),
        ("gs", {"token": "browser"}, ["token"]),
        ("http", {"get_client": 1}, ["get_client"]),
    ],
)
def test_what_obstore_does_not_know_is_left_to_fsspec(
    scheme: str, options: dict[str, Any], unknown: list[str]
) -> None:
    assert spoken(scheme, options).unknown == unknown


def test_options_without_words_go_to_fsspec() -> None:
    with RangeServer({"bucket/a": b"1"}, s3=True) as server:
        options = {
            "anon": True,
            "endpoint_url": server.url,
            "s3_additional_kwargs": {"RequestPayer": "requester"},
        }
        store = open_store("s3://bucket", options)
        assert "Fsspec" in repr(store)
        assert store.get_ranges([gpuzarr.store.base.Request("a")]) == [b"1"]


def test_who_vouches_for_servers(tmp_path: Path) -> None:
    """A file of certificates is read; whatever else is not yes or no is fsspec's."""
    file, other = tmp_path / "ca.pem", tmp_path / "ca.der"
    file.write_bytes(b"# ours\n-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n")
    other.write_bytes(b"0\x82\x01")

    def told(scheme: str, **options: Any) -> tuple[dict[str, Any], list[str]]:
        said = spoken(scheme, {"anon": True, **options} if scheme == "s3" else options)
        said.client.pop("allow_http", None)
        return said.client, said.unknown

    insecure: tuple[dict[str, Any], list[str]] = {"allow_invalid_certificates": True}, []
    assert told("s3", client_kwargs={"verify": str(file)}) == ({"root_certificate": file.read_bytes()}, [])
    assert told("s3", client_kwargs={"verify": file}) == ({"root_certificate": file.read_bytes()}, [])
    assert told("s3", client_kwargs={"verify": True}) == ({}, [])
    assert told("s3", client_kwargs={"verify": False}) == insecure
    for odd in (str(other), str(tmp_path), str(tmp_path / "none.pem"), 0, ssl.create_default_context()):
        assert told("s3", client_kwargs={"verify": odd}) == ({}, ["client_kwargs[verify]"])
    assert told("http", ssl=False) == told("http", client_kwargs={"ssl": False}) == insecure
    assert told("http", ssl=True) == told("http", client_kwargs={"ssl": None}) == ({}, [])
    context = ssl.create_default_context()
    assert told("http", ssl=context) == ({}, ["ssl"])
    assert told("http", client_kwargs={"ssl": context}) == ({}, ["client_kwargs[ssl]"])


def test_a_file_of_certificates_reaches_obstore(tmp_path: Path) -> None:
    """Which does not take this one."""
    file = tmp_path / "ca.pem"
    file.write_bytes(b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n")
    with pytest.raises(gpuzarr.GpuzarrError, match="cannot open s3://bucket"):
        open_store("s3://bucket", {"anon": True, "client_kwargs": {"verify": str(file)}})


def test_options_that_say_the_same_twice() -> None:
    """Those of s3fs come before those of the client that it makes."""
    given = {"key": "a", "secret": "b", "region": "c"}
    inner = {"aws_access_key_id": "d", "aws_secret_access_key": "e", "region_name": "f"}
    said = spoken("s3", {**given, "client_kwargs": inner})
    assert said.config == {"access_key_id": "a", "secret_access_key": "b", "region": "c"}
    assert said.unknown == []


def test_credentials_of_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    aws = tmp_path / ".aws"
    aws.mkdir()
    (aws / "credentials").write_text(
        "[default]\naws_access_key_id = one\naws_secret_access_key = first\n"
        "[work]\naws_access_key_id = two\naws_secret_access_key = second\naws_session_token = third\n"
    )
    (aws / "config").write_text(
        "[default]\nregion = eu-central-1\n[profile work]\nregion = us-west-2\nendpoint_url = http://minio:9000\n"
    )
    assert spoken("s3", {}).config == {
        "access_key_id": "one",
        "secret_access_key": "first",
        "region": "eu-central-1",
    }
    work = {
        "access_key_id": "two",
        "secret_access_key": "second",
        "session_token": "third",
        "region": "us-west-2",
        "endpoint": "http://minio:9000",
    }
    assert spoken("s3", {"profile": "work"}).config == work
    assert spoken("s3", {"profile": "work"}).client == {"allow_http": True}
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert spoken("s3", {}).config == work
    assert spoken("s3", {"anon": True}).config == {"skip_signature": True}
    assert spoken("s3", {"key": "k", "secret": "s"}).config == {
        "access_key_id": "k",
        "secret_access_key": "s",
    }
    assert spoken("s3", {"profile": "nobody"}).unknown == ["profile 'nobody', which is in no file"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "three")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "third")
    assert spoken("s3", {}).config == {}  # obstore reads them itself


def test_the_environment_and_fsspecs_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of environment variables sign; options of fsspec's configuration hold."""
    with RangeServer({"bucket/a": b"1"}, s3=True, access_key="from-the-environment") as server:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from-the-environment")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": server.url})
        assert open_store("s3://bucket").get_ranges([gpuzarr.store.base.Request("a")]) == [b"1"]
        monkeypatch.setitem(fsspec.config.conf, "s3", {})
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        assert open_store("s3://bucket/").get_ranges([gpuzarr.store.base.Request("a")]) == [b"1"]


def test_users_in_urls() -> None:
    assert without_user("https://u:p@host/a?b") == ("https://host/a?b", "Basic dTpw")
    assert without_user("https://host/a") == ("https://host/a", None)
    assert without_user("https://u%40x:p%40ss%3Aw@host/a") == ("https://host/a", "Basic dUB4OnBAc3M6dw==")
    store = open_store("https://u:p@host/a%20b/c")
    assert isinstance(store, RemoteStore)
    assert (store.url, store.prefix) == ("https://host/a b/c", "a b/c/")


def test_stores_of_one_bucket_share_connections() -> None:
    one, other = (open_store(f"s3://bucket/{name}", {"anon": True}) for name in "ab")
    elsewhere = open_store("s3://bucket/a", {"key": "k", "secret": "s"})
    assert isinstance(one, RemoteStore)
    assert isinstance(other, RemoteStore)
    assert isinstance(elsewhere, RemoteStore)
    assert one.transport is other.transport
    assert one.transport is not elsewhere.transport
    assert one.place("c") == (("s3", None, "bucket"), "a/c")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_reader_goes_on(tmp_path: Path) -> None:
    """obstore's threads are not in a forked child: there fsspec asks, for handles that were open and for new
    ones."""
    gpuzarr.save(tmp_path / "bucket" / "a", np.arange(64), chunks=8)
    with RangeServer(tmp_path) as server:
        array = gpuzarr.open_array(f"{server.url}/bucket/a", device="cpu")
        alone = gpuzarr.open_array(
            f"{server.url}/bucket/a", device="cpu", storage_options={"backend": "obstore"}
        )
        assert array[...].sum() == alone[...].sum() == 2016
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            said = b"?"
            try:
                total = (
                    array[...].sum() + gpuzarr.open_array(f"{server.url}/bucket/a", device="cpu")[...].sum()
                )
                try:
                    alone[...]
                except gpuzarr.GpuzarrError as error:
                    said = f"{total} {error.hint}".encode()
            finally:
                os.write(write, said)
                os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            said = pipe.read()
        os.waitpid(child, 0)
        assert said.startswith(b"4032 start processes with")
        assert array[...].sum() == 2016
