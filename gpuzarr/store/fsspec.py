"""Anything fsspec can read as a store (https://filesystem-spec.readthedocs.io): one `cat_ranges` for many
ranges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpuzarr.errors import StoreError
from gpuzarr.store.base import Buffer, Place, Request, Traits, clean_key

REMOTE = Traits(concurrency=64, coalesce_gap=1 << 20, request_nbytes=16 << 20)
"""A round trip costs as much as moving about a megabyte."""

_ABSENT = (FileNotFoundError, KeyError, NotADirectoryError, IsADirectoryError)


@dataclass(frozen=True, slots=True)
class FsspecStore:
    """`root` is a path of the file system `fs`."""

    fs: Any
    root: str
    url: str
    traits: Traits = field(default=REMOTE)

    def get_ranges(self, requests: Sequence[Request], place: Place | None = None) -> list[Buffer | None]:
        """All ranges in flight at once where the file system is asynchronous."""
        if not requests:
            return []
        paths = [self._path(request.key) for request in requests]
        if all(request.start == 0 and request.nbytes is None for request in requests) and len(
            set(paths)
        ) == len(paths):
            answers = self._whole(paths)
        elif any(request.start < 0 for request in requests):
            answers = [self._one(path, request) for path, request in zip(paths, requests, strict=True)]
        else:
            starts = [request.start for request in requests]
            ends = [None if r.nbytes is None else r.start + r.nbytes for r in requests]
            answers = self.fs.cat_ranges(paths, starts, ends, on_error="return")
        return [self._bytes(answer, request) for answer, request in zip(answers, requests, strict=True)]

    def _whole(self, paths: list[str]) -> list[Any]:
        if len(paths) == 1:
            return [self._one(paths[0], Request(paths[0]))]
        found = self.fs.cat(paths, on_error="return")
        return [found.get(path, found.get(self.fs._strip_protocol(path))) for path in paths]

    def _one(self, path: str, request: Request) -> Any:
        start = request.start or None
        end = None if request.nbytes is None else request.start + request.nbytes
        try:
            return self.fs.cat_file(path, start=start, end=end or None)
        except (OSError, KeyError) as error:
            return error

    def _path(self, key: str) -> str:
        return f"{self.root}/{clean_key(key)}" if self.root else clean_key(key)

    def _bytes(self, answer: Any, request: Request) -> Buffer | None:
        if answer is None or isinstance(answer, _ABSENT):
            return None
        if isinstance(answer, Exception):
            raise StoreError(f"cannot read {request.key} from {self.url}: {answer}") from answer
        return memoryview(answer)

    def size(self, key: str) -> int | None:
        """Unknown: asking costs a round trip."""
        return None

    def exists(self, key: str) -> bool:
        """Whether the file system says so."""
        try:
            return bool(self.fs.isfile(self._path(key)))
        except OSError as error:
            raise StoreError(f"cannot look for {key} at {self.url}: {error}") from error

    def list(self, prefix: str = "") -> Iterator[str]:
        """Every file below."""
        top = f"{self.root}/{prefix}".rstrip("/")
        base = self.fs._strip_protocol(self.root).rstrip("/") + "/"
        try:
            return (str(path).removeprefix(base) for path in self.fs.find(top))
        except _ABSENT:
            return iter(())

    def list_dir(self, prefix: str = "") -> Iterator[str]:
        """The names in one directory."""
        try:
            listed = self.fs.ls(f"{self.root}/{prefix}".rstrip("/"), detail=False)
        except _ABSENT:
            return iter(())
        except OSError as error:
            raise StoreError(f"cannot list {prefix or '/'} at {self.url}: {error}") from error
        return iter(sorted({str(path).rstrip("/").rsplit("/", 1)[-1] for path in listed}))
