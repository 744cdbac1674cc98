"""`storage_options` as fsspec users know them, in obstore's words.

What cannot be said there is left to fsspec, unless the caller asks for obstore: no option is ignored silently
but those that only tune fsspec's own caches.
"""

from __future__ import annotations

import base64
import configparser
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

SCHEMES = {
    **dict.fromkeys(("s3", "s3a"), "s3"),
    **dict.fromkeys(("gs", "gcs"), "gs"),
    **dict.fromkeys(("az", "abfs", "abfss"), "az"),
    **dict.fromkeys(("http", "https"), "http"),
}
"""Scheme of a URL -> whose words."""

_TUNING = (
    *("asynchronous", "batch_size", "block_size", "cache_options", "cache_regions", "cache_type"),
    *("default_block_size", "default_cache_type", "default_fill_cache", "listings_expiry_time", "max_paths"),
    *(
        "skip_instance_cache",
        "use_listings_cache",
        "version_aware",
        "size_policy",
        "simple_links",
        "same_scheme",
    ),
)
"""Options of fsspec that change no byte of what is read."""


@dataclass(slots=True)
class Spoken:
    """What a store of obstore's is made from."""

    config: dict[str, Any] = field(default_factory=dict)
    client: dict[str, Any] = field(default_factory=dict)
    provider: Any = None
    """Fetches credentials that expire."""
    unknown: list[str] = field(default_factory=list)
    """Options that have no words there."""


def spoken(scheme: str, options: Mapping[str, Any]) -> Spoken:
    """The options of one URL scheme."""
    said = Spoken()
    rest = {name: value for name, value in options.items() if name not in _TUNING and value is not None}
    {"s3": _s3, "gs": _gs, "az": _az, "http": _http}[scheme](rest, said)
    said.unknown += sorted(rest)
    return said


_S3_NAMES = {
    "key": "access_key_id",
    "username": "access_key_id",
    "secret": "secret_access_key",
    "password": "secret_access_key",
    "token": "session_token",
    "endpoint_url": "endpoint",
    "region": "region",
    "region_name": "region",
    "anon": "skip_signature",
    "requester_pays": "request_payer",
    # as botocore calls them, in client_kwargs
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}


def _s3(rest: dict[str, Any], said: Spoken) -> None:
    config = said.config
    inner = dict(rest.pop("client_kwargs", None) or {})
    for name, theirs in _S3_NAMES.items():
        for given in (rest, inner):
            if name in given:
                config.setdefault(theirs, given.pop(name))
    _verified(inner, said)
    if rest.pop("use_ssl", True) is False and "endpoint" not in config:
        rest["use_ssl"] = False  # AWS without TLS: fsspec's
    style = dict(rest.pop("config_kwargs", None) or {})
    addressing = dict(style.pop("s3", None) or {})
    if addressing.pop("addressing_style", "path") == "virtual":
        config["virtual_hosted_style_request"] = True
    for tuned in ("max_pool_connections", "connect_timeout", "read_timeout", "retries"):
        style.pop(tuned, None)
    said.unknown += [f"client_kwargs[{name}]" for name in inner]
    said.unknown += [f"config_kwargs[{name}]" for name in (*style, *(f"s3.{one}" for one in addressing))]
    if str(config.get("endpoint", "")).startswith("http://"):
        said.client["allow_http"] = True
    if not config.get("request_payer", True):
        del config["request_payer"]
    profile = rest.pop("profile", None)
    if not config.get("skip_signature"):
        config.pop("skip_signature", None)
        if "access_key_id" not in config:
            _from_aws_files(profile, said)


def _verified(inner: dict[str, Any], said: Spoken) -> None:
    """Which servers are trusted: none is asked, the system's, or also those that a file of certificates (PEM)
    vouches for. What is none of these stays."""
    verify = inner.get("verify", True)
    if isinstance(verify, (str, os.PathLike)):
        try:
            with open(verify, "rb") as file:
                text = file.read(_CERTIFICATES_NBYTES)
        except OSError:
            return
        if b"-----BEGIN CERTIFICATE-----" not in text:
            return
        said.client["root_certificate"] = text
    elif verify is False:
        said.client["allow_invalid_certificates"] = True
    elif verify is not True:
        return
    inner.pop("verify", None)


_CERTIFICATES_NBYTES = 16 << 20


def _from_aws_files(profile: str | None, said: Spoken) -> None:
    """Credentials and region where people keep them. Environment variables come first, which obstore reads;
    then the files of the AWS command line, by botocore if it is there: it knows single sign-on, roles and
    processes."""
    environ = os.environ
    if profile is None and ("AWS_ACCESS_KEY_ID" in environ or "AWS_WEB_IDENTITY_TOKEN_FILE" in environ):
        return
    wanted = profile or environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE")
    at = [
        environ.get("AWS_SHARED_CREDENTIALS_FILE") or os.path.expanduser("~/.aws/credentials"),
        environ.get("AWS_CONFIG_FILE") or os.path.expanduser("~/.aws/config"),
    ]
    if wanted is None and not any(map(os.path.isfile, at)):
        return
    files = configparser.RawConfigParser(strict=False)
    try:
        files.read(at, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError):
        return
    name = wanted or "default"
    found: dict[str, str] = {}
    for section in (f"profile {name}", name):
        if files.has_section(section):
            found.update(files.items(section))
    if "region" in found and "AWS_REGION" not in environ and "AWS_DEFAULT_REGION" not in environ:
        said.config.setdefault("region", found["region"])
    if endpoint := found.get("endpoint_url"):
        said.config.setdefault("endpoint", endpoint)
        if endpoint.startswith("http://"):
            said.client["allow_http"] = True
    if "aws_access_key_id" in found and "aws_secret_access_key" in found:
        said.config["access_key_id"] = found["aws_access_key_id"]
        said.config["secret_access_key"] = found["aws_secret_access_key"]
        if token := found.get("aws_session_token"):
            said.config["session_token"] = token
    elif found:
        _from_botocore(wanted, said)
    elif profile is not None:
        said.unknown.append(f"profile {profile!r}, which is in no file")


def _from_botocore(profile: str | None, said: Spoken) -> None:
    """Credentials that a role, a process or single sign-on gives, for as long as they last."""
    try:
        from boto3 import Session
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        said.unknown.append("a profile without keys (boto3 can read it)")
        return
    said.provider = Boto3CredentialProvider(Session(profile_name=profile))


def _gs(rest: dict[str, Any], said: Spoken) -> None:
    config, token = said.config, rest.pop("token", None)
    if token == "anon" or rest.pop("anon", False):
        config["skip_signature"] = True
    elif isinstance(token, Mapping):
        config["service_account_key"] = json.dumps(dict(token))
    elif isinstance(token, str) and token not in ("google_default", "cache", "cloud", "browser"):
        config["application_credentials"] = token
    elif token not in (None, "google_default", "cloud"):
        said.unknown.append("token")
    rest.pop("project", None)
    if rest.pop("requester_pays", False):
        said.unknown.append("requester_pays")
    if endpoint := rest.pop("endpoint_url", None):
        config["base_url"] = endpoint
        if str(endpoint).startswith("http://"):
            said.client["allow_http"] = True


_AZ_NAMES = {
    "account_name": "account_name",
    "account_key": "account_key",
    "sas_token": "sas_key",
    "client_id": "client_id",
    "client_secret": "client_secret",
    "tenant_id": "tenant_id",
    "anon": "skip_signature",
    "endpoint_url": "endpoint",
}


def _az(rest: dict[str, Any], said: Spoken) -> None:
    for name, theirs in _AZ_NAMES.items():
        if name in rest:
            said.config[theirs] = rest.pop(name)
    if text := rest.pop("connection_string", None):
        parts = dict(part.split("=", 1) for part in str(text).split(";") if "=" in part)
        names = {
            "AccountName": "account_name",
            "AccountKey": "account_key",
            "SharedAccessSignature": "sas_key",
            "BlobEndpoint": "endpoint",
        }
        said.config |= {theirs: parts[name] for name, theirs in names.items() if name in parts}
    if not said.config.get("skip_signature"):
        said.config.pop("skip_signature", None)
    if str(said.config.get("endpoint", "")).startswith("http://"):
        said.client["allow_http"] = True


def _http(rest: dict[str, Any], said: Spoken) -> None:
    inner = dict(rest.pop("client_kwargs", None) or {})
    headers = {**(inner.pop("headers", None) or {}), **(rest.pop("headers", None) or {})}
    auth = inner.pop("auth", None) or rest.pop("auth", None)
    if isinstance(auth, (tuple, list)) and len(auth) >= 2:  # aiohttp's BasicAuth is a tuple too
        headers["Authorization"] = basic(str(auth[0]), str(auth[1]))
    elif auth is not None:
        said.unknown.append("auth")
    for tuned in ("timeout", "trust_env"):
        inner.pop(tuned, None)
    for given in (rest, inner):
        if given.get("ssl", True) is False:
            said.client["allow_invalid_certificates"] = True
        if isinstance(given.get("ssl"), (bool, type(None))):
            given.pop("ssl", None)
    if headers:
        said.client["default_headers"] = {str(name): str(value) for name, value in headers.items()}
    rest.pop("encoded", None)
    said.client["allow_http"] = True
    said.unknown += [f"client_kwargs[{name}]" for name in inner]


def basic(user: str, password: str) -> str:
    """A header of HTTP's basic authentication."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def without_user(url: str) -> tuple[str, str | None]:
    """A URL without the user and password in it, and the header that says them."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url, None
    user, _, host = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    return urlunsplit(parts._replace(netloc=host)), basic(unquote(name), unquote(password))
