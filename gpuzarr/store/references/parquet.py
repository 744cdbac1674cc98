"""Reference sets as directories of Parquet files (https://fsspec.github.io/kerchunk/spec.html).

    .zmetadata               {"metadata": {"a/.zarray": …, …}, "record_size": n}
    a/refs.0.parq            the references of chunks 0 to n - 1 of array a, counted in C order
    a/refs.1.parq            …

    path, offset, size, raw  a row: `raw` is the chunk; else `size` bytes at `offset` of `path`, all of it
                             where both are 0; no chunk where there is no path

Of 100 million references only the files are read that the wanted keys fall in. They are kept, decoded, within
`index_cache_nbytes`.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from math import prod
from typing import Any, Final, NamedTuple

import numpy as np

from gpuzarr import config
from gpuzarr.errors import GpuzarrError, MetadataError, StoreError
from gpuzarr.store.base import Request, Store, below
from gpuzarr.store.references.document import Found, Part, inline, is_key, load
from gpuzarr.store.references.records import Record, decoded
from gpuzarr.store.references.text import limit_nbytes, too_large

_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,17}\Z")
_RECORD: Final = re.compile(r"refs\.(0|[1-9][0-9]{0,17})\.parq\Z")
_FURTHEST: Final = 1 << 62


class Grid(NamedTuple):
    """How an array's chunks are counted and named."""

    counts: tuple[int, ...]
    separator: str

    def number(self, name: str) -> int | None:
        """The number of the chunk that is called `name`; None if none is."""
        parts = name.split(self.separator)
        if len(parts) != max(len(self.counts), 1) or not all(map(_INDEX.fullmatch, parts)):
            return None
        number = 0
        for part, count in zip(map(int, parts), self.counts or (1,), strict=True):
            if part >= count:
                return None
            number = number * count + part
        return number

    def name(self, number: int) -> str:
        """The other way round."""
        parts = []
        for count in reversed(self.counts or (1,)):
            number, part = divmod(number, count)
            parts.append(str(part))
        return self.separator.join(reversed(parts))


class Records:
    """A set that lies at `folder` of `store`. `url` names it in messages."""

    def __init__(self, store: Store, folder: str, stored: bytes, url: str) -> None:
        self._store, self._folder, self._url = store, folder, url
        document = load(stored, f"{url}/.zmetadata")
        metadata, size = document.get("metadata"), document.get("record_size")
        if not isinstance(metadata, dict) or type(size) is not int or not 0 < size < _FURTHEST:
            raise MetadataError(
                f"{url}/.zmetadata has no metadata documents and record_size, so this is no reference set"
            )
        self._size = size
        try:
            self._metadata: dict[str, Any] = {
                key: json.loads(one) if isinstance(one, str) else one for key, one in metadata.items()
            }
        except (ValueError, RecursionError) as error:
            raise MetadataError(f"{url}/.zmetadata holds a document that is not JSON: {error}") from None
        self._consolidated = {"zarr_consolidated_format": 1, "metadata": self._metadata}
        self._arrays = {key.removesuffix(".zarray").rstrip("/") for key in metadata if _is_zarray(key)}
        self._grids: dict[str, Grid] = {}
        self._kept: OrderedDict[tuple[str, int], Record | None] = OrderedDict()
        self._coming: dict[tuple[str, int], Future[Record | None]] = {}
        self._weight = 0
        self._lock = threading.Lock()

    def find(self, keys: Sequence[str]) -> list[Found]:
        """What keys stand for. The files that they fall in are read together."""
        rows = [self._row(key) for key in keys]
        records = self._records({row[0]: None for row in rows if row is not None})
        return [
            self._document(key) if row is None else self._reference(key, records[row[0]], row[1])
            for key, row in zip(keys, rows, strict=True)
        ]

    def known(self, key: str) -> Found:
        """What a key stands for, if nothing has to be read for that."""
        row = self._row(key)
        if row is None:
            return self._document(key)
        with self._lock:
            record = self._kept.get(row[0])
        return self._reference(key, record, row[1])

    def _document(self, key: str) -> bytes | None:
        found = self._consolidated if key == ".zmetadata" else self._metadata.get(key)
        return None if found is None else inline(found, key, self._url)

    def _row(self, key: str) -> tuple[tuple[str, int], int] | None:
        """The file and the row of a chunk's key; None for every other key."""
        if key in self._metadata:
            return None
        end = len(key)
        while end >= 0:
            end = key.rfind("/", 0, end)
            array = key[: max(end, 0)]
            if array in self._arrays:
                number = self._grid(array).number(key[end + 1 :])
                return None if number is None else ((array, number // self._size), number % self._size)
        return None

    def _grid(self, array: str) -> Grid:
        grid = self._grids.get(array)
        if grid is None:
            grid = self._grids[array] = _grid(self._metadata[_joined(array, ".zarray")], array, self._url)
        return grid

    def _reference(self, key: str, record: Record | None, row: int) -> Found:
        if record is None:
            return None
        if row >= len(record):
            raise StoreError(f"the record of {key} in {self._url} has {len(record)} rows, not {row + 1}")
        if (raw := record.inline(row)) is not None:
            return inline(bytes(raw), key, self._url) if bytes(raw[:7]) == b"base64:" else raw
        if (path := int(record.path[row])) < 0:
            return None
        start, nbytes = int(record.start[row]), int(record.nbytes[row])
        if not 0 <= start <= _FURTHEST or not 0 <= nbytes <= _FURTHEST:
            raise StoreError(f"{key} in {self._url} refers to {nbytes} bytes at {start}", chunk=key)
        return Part(record.paths[path], start, nbytes if start or nbytes else None)

    def _records(self, wanted: Mapping[tuple[str, int], None]) -> dict[tuple[str, int], Record | None]:
        """Files that are kept, or that another thread is reading already, are not read again."""
        mine: dict[tuple[str, int], Future[Record | None]] = {}
        theirs: dict[tuple[str, int], Future[Record | None]] = {}
        found: dict[tuple[str, int], Record | None] = {}
        with self._lock:
            for name in wanted:
                if name in self._kept:
                    self._kept.move_to_end(name)
                    found[name] = self._kept[name]
                elif name in self._coming:
                    theirs[name] = self._coming[name]
                else:
                    mine[name] = self._coming[name] = Future()
        try:
            if mine:
                self._read(mine, found)
        finally:
            with self._lock:
                for name, future in mine.items():
                    del self._coming[name]
                    if not future.done():
                        future.set_exception(
                            StoreError(f"the record of {name[0]} in {self._url} was not read")
                        )
        for name, future in theirs.items():
            found[name] = future.result()
        return found

    def _read(
        self,
        mine: Mapping[tuple[str, int], Future[Record | None]],
        found: dict[tuple[str, int], Record | None],
    ) -> None:
        keys = [_joined(self._folder, _joined(array, f"refs.{n}.parq")) for array, n in mine]

        def place(i: int, nbytes: int) -> memoryview:
            if nbytes > limit_nbytes():
                raise too_large(f"{self._store.url}/{keys[i]}", limit_nbytes())
            return memoryview(bytearray(nbytes))

        answers = self._store.get_ranges([Request(key) for key in keys], place)
        budget = config.current().index_cache_nbytes
        for (name, future), key, stored in zip(mine.items(), keys, answers, strict=True):
            try:
                record = None if stored is None else decoded(stored, f"{self._store.url}/{key}")
            except GpuzarrError as error:
                future.set_exception(error)
                raise
            with self._lock:
                self._kept[name] = found[name] = record
                self._weight += _weight(record)
                while self._weight > budget and len(self._kept) > 1:
                    self._weight -= _weight(self._kept.popitem(last=False)[1])
            future.set_result(record)

    def list(self, prefix: str) -> Iterator[str]:
        """Every key below a prefix. Of an array below it all records are read."""
        names = {*self._metadata, ".zmetadata"}
        yield from (key for key in names if key.startswith(prefix) and is_key(key))
        for array in sorted(self._arrays):
            above = f"{array}/" if array else ""
            if not above.startswith(prefix) and not prefix.startswith(above):
                continue
            for number in self._present(array):
                key = above + self._grid(array).name(number)
                if key.startswith(prefix) and key not in names:
                    yield key

    def _present(self, array: str) -> Iterator[int]:
        """The numbers of the chunks that there are, file by file."""
        above = _joined(self._folder, f"{array}/" if array else "")
        matches = (_RECORD.match(name) for name in self._store.list_dir(above))
        total = prod(self._grid(array).counts)
        for n in sorted(int(match[1]) for match in matches if match):
            if n * self._size >= total:
                return
            record = self._records({(array, n): None})[array, n]
            if record is not None:
                rows = np.flatnonzero((record.path >= 0) | (record.raw >= 0))
                yield from (number for number in (rows + n * self._size).tolist() if number < total)

    def list_dir(self, prefix: str) -> Iterator[str]:
        """The names right below a prefix, each once. Records are read where it is an array's."""
        inside = prefix.rstrip("/")
        if any(f"{inside}/".startswith(f"{array}/" if array else "") for array in self._arrays):
            return below(self.list(prefix), prefix)
        return below((key for key in (*self._metadata, ".zmetadata") if is_key(key)), prefix)

    def a_target(self) -> str | None:
        """A URL of the set: of the array with the most chunks, which is hardly inline. Reads a file."""
        try:
            largest = max(self._arrays, key=lambda array: prod(self._grid(array).counts), default=None)
            record = None if largest is None else self._records({(largest, 0): None})[largest, 0]
        except GpuzarrError:
            return None  # whoever asks for a chunk is told
        return record.paths[0] if record is not None and record.paths else None


def _is_zarray(key: str) -> bool:
    return key.rpartition("/")[2] == ".zarray"


def _joined(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _weight(record: Record | None) -> int:
    return 500 if record is None else record.weight  # that there is none is worth knowing too


def _grid(zarray: Any, array: str, url: str) -> Grid:
    shape = zarray.get("shape") if isinstance(zarray, dict) else None
    chunks = zarray.get("chunks") if isinstance(zarray, dict) else None
    separator = zarray.get("dimension_separator") or "." if isinstance(zarray, dict) else ""
    if (
        not isinstance(shape, list)
        or not isinstance(chunks, list)
        or len(shape) != len(chunks)
        or len(shape) > 32
        or not all(type(n) is int and 0 <= n < _FURTHEST for n in shape)
        or not all(type(n) is int and 0 < n < _FURTHEST for n in chunks)
        or separator not in (".", "/")
    ):
        raise MetadataError(
            f"{_joined(array, '.zarray')} of {url} has no shape and chunks that can be counted"
        )
    return Grid(tuple(-(-extent // chunk) for extent, chunk in zip(shape, chunks, strict=True)), separator)
