"""One Parquet file of references as columns. Needs pyarrow, which is imported here and nowhere else.

path     text or null        stays in its dictionary: spelled out for every row it could take any memory
offset   whole number
size     whole number
raw      bytes or null       likewise
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gpuzarr.errors import MetadataError, MissingDependencyError
from gpuzarr.store.base import Buffer
from gpuzarr.store.references.text import limit_nbytes, too_large

_ROW_NBYTES: Final = 40
"""Of memory, for one row without its texts."""
_COLUMNS: Final = ("path", "offset", "size", "raw")


@dataclass(frozen=True, slots=True)
class Record:
    """One file, decoded. A column of texts holds numbers of what is kept once; -1: none."""

    path: NDArray[np.int32]
    paths: list[str]
    start: NDArray[np.int64]
    nbytes: NDArray[np.int64]
    raw: NDArray[np.int32]
    raws: Any
    """A pyarrow array of bytes."""
    weight: int
    """Bytes of memory."""

    def __len__(self) -> int:
        return len(self.path)

    def inline(self, row: int) -> Buffer | None:
        """The bytes of a row that refers to nothing."""
        number = int(self.raw[row])
        return None if number < 0 else memoryview(self.raws[number].as_buffer())


def decoded(stored: Buffer, name: str) -> Record:
    """The columns of a file. What is no such file is a MetadataError, what is too large a LimitError."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError(
            f"{name} is a Parquet file, which pyarrow reads: {error}", hint='pip install "gpuzarr[parquet]"'
        ) from error
    try:
        source = pyarrow.py_buffer(stored)
        metadata = pyarrow.parquet.read_metadata(pyarrow.BufferReader(source))
        weight = _weighed(metadata, name)
        texts = [one for one in ("path", "raw") if one in metadata.schema.names]
        reader = pyarrow.BufferReader(source)
        file = pyarrow.parquet.ParquetFile(reader, metadata=metadata, read_dictionary=texts)
        columns = [one for one in _COLUMNS if one in file.schema_arrow.names]
        table = file.read(columns, use_threads=False).unify_dictionaries()
        path, paths = _texts(pyarrow, table, "path")
        raw, raws = _texts(pyarrow, table, "raw")
        start, nbytes = (_numbers(pyarrow, table, column) for column in ("offset", "size"))
        urls = [one.decode() if isinstance(one, bytes) else one for one in paths.to_pylist()]
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, LookupError) as error:
        raise MetadataError(f"{name} is no Parquet file of references: {error}"[:500]) from None
    return Record(path, urls, start, nbytes, raw, raws, weight)


def _weighed(metadata: Any, name: str) -> int:
    """The memory that a file takes when it is decoded, which is bounded before it is."""
    texts = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    weight = int(metadata.num_rows * _ROW_NBYTES + max(texts, 0))
    if weight > limit_nbytes():
        raise too_large(name, limit_nbytes())
    return weight


def _texts(pyarrow: Any, table: Any, name: str) -> tuple[NDArray[np.int32], Any]:
    """A column of texts as numbers, and what they number."""
    types, none = pyarrow.types, np.full(table.num_rows, -1, np.int32)
    if name not in table.column_names or types.is_null(table.schema.field(name).type):
        return none, pyarrow.array([], pyarrow.binary())
    column = table.column(name)
    if types.is_floating(column.type) and np.isnan(column.to_numpy()).all():
        return none, pyarrow.array([], pyarrow.binary())  # as pandas says that there are none
    if not types.is_dictionary(column.type):
        column = column.dictionary_encode()
    column = column.combine_chunks()
    if isinstance(column, pyarrow.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pyarrow.array([], column.type)
    texts = column.dictionary
    known = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    if not any(is_one(texts.type) for is_one in known):
        raise TypeError(f"column {name} holds {texts.type}, not texts")
    numbers: NDArray[np.int32] = (
        column.indices.cast(pyarrow.int32()).fill_null(-1).to_numpy(zero_copy_only=False)
    )
    return numbers, texts


def _numbers(pyarrow: Any, table: Any, name: str) -> NDArray[np.int64]:
    if name not in table.column_names:
        return np.zeros(table.num_rows, np.int64)
    column = table.column(name).cast(pyarrow.int64()).fill_null(0)
    numbers: NDArray[np.int64] = column.to_numpy()
    return numbers
