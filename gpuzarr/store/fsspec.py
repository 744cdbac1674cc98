"""Anything fsspec can read as a store (https://filesystem-spec.readthedocs.io): one `cat_ranges` for many
ranges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from gpuzarr.errors import ReadOnlyError, StoreError
from gpuzarr.store.base import Buffer, Pieces, Place, Request, Same, Traits, clean_key, joined
from gpuzarr.store.remote.base import REMOTE

_ABSENT = (FileNotFoundError, KeyError, NotADirectoryError, IsADirectoryError)


@dataclass(frozen=True, slots=True)
class FsspecStore:
    """`root` is a path of the file system `fs`."""

    fs: Any
    root: str
    url: str
    traits: Traits = field(default=REMOTE)

    def place(self, key: str) -> tuple[object, str]:
        """The path on the file system, of which fsspec makes one for the same options."""
        token = getattr(self.fs, "_fs_token", None)
        return (Same(self.fs) if token is None else token), f"{self.root}/{key}"

    def get_ranges(self, requests: Sequence[Request], place: Place | None = None) -> list[Buffer | None]:
        """All ranges in flight at once where the file system is asynchronous."""
        if not requests:
            return []
        paths = [self._path(request.key) for request in requests]
        starts = [request.start for request in requests]
        ends = [_end(request) for request in requests]
        try:
            answers = self.fs.cat_ranges(paths, starts, ends, on_error="return")
        except (OSError, KeyError, ValueError) as error:
            raise StoreError(f"cannot read from {self.url}: {error}") from error
        return [self._bytes(answer, request) for answer, request in zip(answers, requests, strict=True)]

    def put(self, objects: Sequence[tuple[str, Buffer | Pieces]]) -> None:
        """All in flight at once where the file system is asynchronous. Object stores and memory show an
        object whole or not at all; so do local files, which are written beside their place and renamed.
        Other file systems do what they do."""
        values = {self._path(key): bytes(joined(value)) for key, value in objects}
        keys = ", ".join(key for key, _ in objects[:1])
        try:
            if self._local:
                for path, value in values.items():
                    self._rename_into(path, value)
            else:
                self.fs.pipe(values)
        except (NotImplementedError, AttributeError) as error:
            raise ReadOnlyError(f"{self.url} cannot be written: fsspec only reads it") from error
        except (OSError, ValueError, RuntimeError) as error:
            what = f"cannot write {keys} to {self.url}: {error or type(error).__name__}"
            raise StoreError(what, chunk=keys) from error

    @property
    def _local(self) -> bool:
        protocol = self.fs.protocol
        return "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    def _rename_into(self, path: str, value: bytes) -> None:
        folder, _, name = path.rpartition("/")
        partial = f"{folder}/.~{name}.{uuid4().hex}"
        self.fs.makedirs(folder, exist_ok=True)
        try:
            self.fs.pipe_file(partial, value)
            self.fs.mv(partial, path)
        except BaseException:
            with suppress(OSError):
                self.fs.rm_file(partial)
            raise

    def delete(self, keys: Sequence[str]) -> None:
        """One request each."""
        for key in keys:
            try:
                self.fs.rm_file(self._path(key))
            except _ABSENT:
                pass
            except NotImplementedError as error:
                raise ReadOnlyError(f"{self.url} cannot be written: fsspec only reads it") from error
            except OSError as error:
                raise StoreError(f"cannot delete {key} at {self.url}: {error}", chunk=key) from error

    def delete_below(self, prefix: str) -> None:
        """With one call."""
        top = f"{self.root}/{prefix}".rstrip("/")
        try:
            self.fs.rm(top, recursive=True)
        except _ABSENT:
            pass
        except NotImplementedError as error:
            raise ReadOnlyError(f"{self.url} cannot be written: fsspec only reads it") from error
        except OSError as error:
            raise StoreError(f"cannot delete {prefix or '/'} at {self.url}: {error}") from error

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


def _end(request: Request) -> int | None:
    """Where a range ends, as fsspec counts: from the object's end where it is negative."""
    end = None if request.nbytes is None else request.start + request.nbytes
    return None if request.start < 0 and end == 0 else end
