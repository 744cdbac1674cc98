"""An asynchronous file system of fsspec as a transport: s3fs, gcsfs, adlfs, its HTTP. It is slower than
obstore and tells no versions, but takes every option.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from gpuzarr.errors import ForbiddenError, ReadOnlyError, StoreError
from gpuzarr.store.base import Buffer, Pieces, joined
from gpuzarr.store.remote.base import Again, Got, OutOfRange, Room, shown

_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Fsspec:
    """`root`, a bucket or a host, is put before every path; `query`, which may be a signature, behind it."""

    fs: Any
    root: str
    place: object
    secrets: tuple[str, ...] = ()
    query: str = ""

    def _at(self, path: str) -> str:
        return f"{self.root}{path}{self.query}"

    def __repr__(self) -> str:
        return f"Fsspec({self.place})"

    def get(
        self, path: str, start: int, nbytes: int | None, version: str | None, unless: str | None, room: Room
    ) -> Got | None:
        """One `cat_file`. fsspec does not tell how much is to come.

        Always a range: without one, s3fs looks the size up in listings that it remembers, and cuts the read.
        """
        end = None if nbytes is None or start < 0 else start + nbytes
        data = self._told(lambda: self.fs.cat_file(self._at(path), start=start, end=end), path, "read")
        if data is None:
            return None
        room(len(data))
        return Got(memoryview(data), None, start, None)

    def size(self, path: str) -> int | None:
        """One request or two."""
        found = self._told(lambda: self.fs.info(self._at(path)), path, "read")
        return None if found is None or found.get("type") == "directory" else int(found.get("size") or 0)

    def put(self, path: str, value: Buffer | Pieces) -> None:
        """One `pipe_file`."""
        self._told(lambda: self.fs.pipe_file(self._at(path), bytes(joined(value))), path, "write")

    def put_if(self, path: str, value: Buffer | Pieces, version: str | None) -> bool:
        """Without the condition, which fsspec cannot send."""
        self.put(path, value)
        return True

    def delete(self, paths: Sequence[str]) -> None:
        """One call each: those that are not there are no error."""
        for path in paths:
            self._told(partial(self.fs.rm_file, self._at(path)), path, "delete")

    def list(self, prefix: str) -> Iterator[str]:
        """Every file below."""
        top = (self.root + prefix).rstrip("/")
        found = self._told(lambda: self.fs.find(top, refresh=True), prefix, "list") or ()
        base = self.fs._strip_protocol(self.root).rstrip("/") + "/"
        return (str(path).removeprefix(base) for path in found)

    def list_dir(self, prefix: str) -> Iterator[str]:
        """The names in one directory."""
        top = (self.root + prefix).rstrip("/")
        found = self._told(lambda: self.fs.ls(top, detail=False, refresh=True), prefix, "list") or ()
        return iter(sorted({str(path).rstrip("/").rsplit("/", 1)[-1] for path in found}))

    def _told(self, send: Callable[[], Any], path: str, what: str) -> Any:
        try:
            return send()
        except _ABSENT:
            return None
        except NotImplementedError:
            raise ReadOnlyError(f"fsspec only reads there: {path} cannot be changed") from None
        except Exception as error:
            raise self._failure(error, path, what) from None

    def _failure(self, error: Exception, path: str, what: str) -> Exception:
        said = shown(error, self.secrets) or type(error).__name__
        status = getattr(error, "status", None) or getattr(error, "code", None)
        if isinstance(error, PermissionError) or status in (401, 403):
            return ForbiddenError(f"may not {what} {path}: {said}", chunk=path)
        if type(error).__name__ == "NoCredentialsError":
            hint = 'storage_options={"anon": True} for public data'
            return ForbiddenError(f"no credentials for {path}: {said}", hint=hint)
        if status == 416 or "InvalidRange" in said or "Range Not Satisfiable" in said:
            return OutOfRange()
        if isinstance(status, int) and 400 <= status < 500 and status not in (408, 425, 429):
            return StoreError(f"cannot {what} {path}: {said}")
        # Those that are asynchronous try again themselves.
        return Again(f"{type(error).__name__}: {said}", slow=status in (429, 503), most=4)
