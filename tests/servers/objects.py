"""What a server serves: the values of a dict or the files of a directory, each with a version.

Both are read anew at each request, so a test changes them as it likes; an object is replaced whole.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol


class Found(Protocol):
    """One object in one version."""

    nbytes: int
    etag: str
    """Without quotes."""
    modified: float
    """Seconds since 1970."""

    def read(self, start: int, stop: int) -> bytes | memoryview:
        """A part of its bytes."""
        ...

    def close(self) -> None:
        """No more is read."""
        ...


class Objects(Protocol):
    """Objects by their keys, which have `/` in them and none in front."""

    def find(self, key: str) -> Found | None:
        """The object as it is now."""
        ...

    def every_key(self) -> list[str]:
        """Every key, in order."""
        ...

    def put(self, key: str, value: bytes) -> str:
        """Store an object, and give its ETag."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        ...


def objects_of(source: MutableMapping[str, bytes] | str | os.PathLike[str]) -> Objects:
    """A dict's or a directory's."""
    return Files(Path(source)) if isinstance(source, (str, os.PathLike)) else Values(source)


class _Value:
    def __init__(self, value: bytes) -> None:
        self.value = value
        self.nbytes = len(value)
        self.etag = hashlib.md5(value, usedforsecurity=False).hexdigest()
        self.modified = time.time()

    def read(self, start: int, stop: int) -> memoryview:
        return memoryview(self.value)[start:stop]

    def close(self) -> None:
        pass


class Values:
    """Those of a dict. Their ETags are MD5 sums, as S3's are."""

    def __init__(self, values: MutableMapping[str, bytes]) -> None:
        self.values = values
        self._known: dict[str, _Value] = {}

    def find(self, key: str) -> _Value | None:
        value = self.values.get(key)
        if value is None:
            return None
        known = self._known.get(key)
        if known is None or known.value is not value:
            known = self._known[key] = _Value(value)
        return known

    def every_key(self) -> list[str]:
        return sorted(self.values)

    def put(self, key: str, value: bytes) -> str:
        self.values[key] = value
        known = self._known[key] = _Value(value)
        return known.etag

    def delete(self, key: str) -> None:
        self.values.pop(key, None)


class _File:
    def __init__(self, fd: int) -> None:
        stat = os.fstat(fd)
        self.fd = fd
        self.nbytes = stat.st_size
        self.etag = f"{stat.st_ino:x}-{stat.st_mtime_ns:x}-{stat.st_size:x}"
        self.modified = stat.st_mtime

    def read(self, start: int, stop: int) -> bytes:
        return os.pread(self.fd, stop - start, start)

    def close(self) -> None:
        os.close(self.fd)


class Files:
    """Those of a directory. A request reads one file from its first byte to its last, even if another takes
    its name meanwhile."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, key: str) -> _File | None:
        try:
            fd = os.open(self._path(key), os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        found = _File(fd)
        if os.path.isdir(fd):
            found.close()
            return None
        return found

    def every_key(self) -> list[str]:
        return sorted(
            os.path.relpath(os.path.join(folder, name), self.root)
            for folder, _, names in os.walk(self.root)
            for name in names
        )

    def put(self, key: str, value: bytes) -> str:
        path = self._path(key)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        fd, temporary = tempfile.mkstemp(dir=self.root, prefix=".put-")
        with os.fdopen(fd, "wb") as file:
            file.write(value)
        os.replace(temporary, path)
        found = self.find(key)
        assert found is not None
        found.close()
        return found.etag

    def delete(self, key: str) -> None:
        with suppress(FileNotFoundError, NotADirectoryError, ValueError):
            os.unlink(self._path(key))

    def _path(self, key: str) -> str:
        if ".." in key.split("/") or key.startswith("/") or key in ("", "."):
            raise ValueError(key)
        return os.path.join(self.root, key)
