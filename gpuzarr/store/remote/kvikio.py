"""Ranges of remote objects straight into device memory, through KvikIO's RemoteFile.

    object  | piece | piece | pi |     up to 4 MiB each, one GET of KvikIO's own, all in flight
    memory  | ............... .. |

What RemoteFile cannot say is left to staging memory: `endpoint` gives None. It sends plain GETs, with S3's
signature if there are keys, and follows no redirect. It tries again where the server is busy, and no further.
Of what it answers nothing can be relied on but its errors: `pread` says that all bytes came when the answer
was too short, when there was none in a redirect, and when the copy to the device failed (seen in 26.10).
Whoever reads looks whether the last byte was written, and at versions (`engine/feeds.py`).
"""

from __future__ import annotations

import ctypes
import operator
import os
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from gpuzarr import config
from gpuzarr.errors import MissingDependencyError, StoreError
from gpuzarr.store import gds
from gpuzarr.store.base import Request
from gpuzarr.store.remote.transport import shown

if TYPE_CHECKING:
    from gpuzarr.store.remote.base import RemoteStore
    from gpuzarr.store.remote.options import Spoken

THREADS = 16
"""That wait for answers, each with a pinned buffer of 16 MiB."""

_KEYS = {
    "access_key_id": "AWS_ACCESS_KEY_ID",
    "secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "session_token": "AWS_SESSION_TOKEN",
}
_ENDPOINTS = "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host or bucket, as RemoteFile asks it."""

    root: str
    """URL of the host, or of the server of a bucket that is asked with a signature."""
    most: int
    """Requests in flight."""
    bucket: str = ""
    query: str = field(default="", repr=False)
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Region and credentials, as `open_s3` calls them."""

    def open(self, kvikio: Any, path: str, nbytes: int) -> Any:
        """A handle of the first `nbytes` bytes of an object. Sends nothing."""
        quoted = quote(path)
        if not self.keys:
            return kvikio.RemoteFile.open_http(f"{self.root}/{quoted}{self.query}", nbytes)
        # It takes the object's name as a part of a URL.
        return kvikio.RemoteFile.open_s3(self.bucket, quoted, nbytes, aws_endpoint_url=self.root, **self.keys)

    def wrong(self, path: str, error: Exception) -> StoreError:
        """The error, without KvikIO's words, in which URLs are with their signatures."""
        status = re.search(r"returned error: (\d{3})", str(error))
        said = type(error).__name__ + (f", {status[1]}" if status else "")
        return StoreError(f"cannot read {path} at {self.root} into device memory: {said}")


def endpoint(scheme: str, place: tuple[str, str | None, str], said: Spoken, query: str, most: int) -> Any:
    """The Endpoint of a place (opening._place); None where RemoteFile would ask otherwise than the store."""
    if scheme not in ("http", "s3") or said.unknown or said.provider or set(said.client) - {"allow_http"}:
        return None
    if scheme == "http":
        return Endpoint(place[2], most, query=query)
    words, environ = dict(said.config), os.environ
    around = {environ[name] for name in _ENDPOINTS if environ.get(name)}
    root = words.pop("endpoint", None) or (around.pop() if len(around) == 1 else None)
    region = words.pop("region", None) or environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    region = str(region or "us-east-1")
    if around and root is None:
        return None
    root = str(root or f"https://s3.{region}.amazonaws.com").rstrip("/")
    anonymous = words.pop("skip_signature", False)
    keys = {name: words.pop(name) for name in _KEYS if name in words}
    # What is left are words for requester pays, hosts named by buckets, and the like.
    if words or not root.startswith(("http://", "https://")) or "@" in root:
        return None
    if anonymous:
        return Endpoint(f"{root}/{place[2]}", most)
    if not keys:
        keys = {name: environ[theirs] for name, theirs in _KEYS.items() if environ.get(theirs)}
    elif "session_token" not in keys and environ.get("AWS_SESSION_TOKEN"):
        return None  # which RemoteFile would send with the keys of another
    if not {"access_key_id", "secret_access_key"} <= keys.keys():
        return None
    told = {f"aws_{name}": str(value) for name, value in keys.items()}
    return Endpoint(root, most, place[2], keys={"aws_region_name": region, **told})


def endpoint_of(store: RemoteStore) -> Endpoint | None:
    """How RemoteFile asks for the objects of a store; None if it cannot."""
    found = None if store.missing_on_403 else getattr(store.transport, "endpoint", None)
    return found if isinstance(found, Endpoint) else None


def mode() -> str:
    """`kvikio`, if it is there and reads from servers; else the reason why not."""
    kvikio, why = _loaded()
    return "kvikio" if kvikio is not None else why


def piece_nbytes() -> int:
    """Bytes that KvikIO reads in one task, and copies to the device at once. Of larger reads it would send
    several requests, of which one could come too short unseen."""
    get = _kvikio().defaults.get
    return max(min(gds.PIECE_NBYTES, int(get("task_size")), int(get("bounce_buffer_size"))), 1)


def read(store: RemoteStore, reads: Sequence[tuple[str, int, int, int]]) -> None:
    """Read objects into device memory: of `key`, from byte `start` on, `nbytes` bytes to an address, at most
    `piece_nbytes`. Reads of one object stand together. When this returns or raises, nothing is under way any
    more; the bytes may be there (see above)."""
    kvikio, end = _kvikio(), endpoint_of(store)
    if end is None:
        raise StoreError(f"KvikIO cannot ask {store.url} as this store does")
    flying: deque[tuple[str, Any, Any]] = deque()
    wrong: list[StoreError] = []

    def land() -> None:
        path, _, future = flying.popleft()
        try:
            future.get()
        except Exception as error:  # RuntimeError, OverflowError, and others of its layers
            wrong.append(end.wrong(path, error))

    try:
        for key, of_one in groupby(reads, operator.itemgetter(0)):
            path, ranges = store.prefix + key, list(of_one)
            try:
                handle = end.open(kvikio, path, max(start + nbytes for _, start, nbytes, _ in ranges))
                for _, start, nbytes, address in ranges:
                    while len(flying) >= end.most and not wrong:
                        land()
                    if wrong:
                        break
                    # The handle has to outlive its futures, the memory's description need not.
                    future = handle.pread(gds.Memory(address, nbytes), nbytes, start)
                    flying.append((path, handle, future))
            except Exception as error:
                wrong.append(end.wrong(path, error))
            if wrong:
                break
    finally:
        while flying:
            land()
    if wrong:
        raise wrong[0]


def stand_in(store: RemoteStore, reads: Sequence[tuple[str, int, int, int]]) -> None:
    """The same by the store itself, into memory of the host: what device `sim` has in KvikIO's place."""
    answers = store.get_ranges([Request(key, start, nbytes) for key, start, nbytes, _ in reads])
    for (key, _, nbytes, address), answer in zip(reads, answers, strict=True):
        if answer is None or len(answer) != nbytes:
            raise StoreError(f"{key} has changed")
        ctypes.memmove(address, bytes(answer), nbytes)


def _kvikio() -> Any:
    found, why = _loaded()
    if found is None:
        raise MissingDependencyError(why, hint='pip install "gpuzarr[cuda13]", or gpuzarr[cuda12]')
    return found


@cache
def _loaded() -> tuple[Any, str]:
    """KvikIO, or None and why not. Its threads wait here, so it gets more of them than files take, unless
    somebody has chosen."""
    kvikio, why = gds.loaded()
    if kvikio is None:
        return None, why
    try:
        if not kvikio.is_remote_file_available():
            return None, "this KvikIO was built without remote files"
        if kvikio.defaults.get("num_threads") in (1, config.current().threads):
            kvikio.defaults.set("num_threads", max(config.current().threads, THREADS))
    except Exception as error:  # an older one
        return None, f"this KvikIO does not read from servers: {shown(error)}"
    return kvikio, ""
