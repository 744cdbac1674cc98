"""A mapping of keys to bytes as a store: a dict, zarr v2 stores, fsspec mappers, anything with `[key]`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field

from gpuzarr.errors import ReadOnlyError, StoreError
from gpuzarr.store.base import Buffer, Pieces, Place, Request, Same, Traits, below, clean_key, cut, joined


@dataclass(frozen=True, slots=True)
class MappingStore:
    """Values are bytes-like; a missing key is a KeyError, as in any mapping."""

    mapping: Mapping[str, bytes]
    url: str = "memory:"
    traits: Traits = field(default_factory=Traits)

    def place(self, key: str) -> tuple[object, str]:
        """Stores of one mapping are the same place."""
        return Same(self.mapping), key

    def get_ranges(self, requests: Sequence[Request], place: Place | None = None) -> list[Buffer | None]:
        """The values themselves, not copies."""
        found: list[Buffer | None] = []
        for request in requests:
            try:
                value = self.mapping[clean_key(request.key)]
            except KeyError:
                found.append(None)
            except OSError as error:
                raise StoreError(f"cannot read {request.key}: {error}") from error
            else:
                try:
                    found.append(cut(memoryview(value).cast("B"), request))
                except TypeError as error:
                    raise StoreError(f"the value of {request.key} is not bytes: {error}") from error
        return found

    def put(self, objects: Sequence[tuple[str, Buffer | Pieces]]) -> None:
        """Copies, as `bytes`."""
        mapping = self._mutable()
        for key, value in objects:
            try:
                mapping[clean_key(key)] = bytes(joined(value))
            except OSError as error:
                raise StoreError(f"cannot write {key}: {error}", chunk=key) from error

    def delete(self, keys: Sequence[str]) -> None:
        """Without looking first."""
        mapping = self._mutable()
        for key in keys:
            try:
                del mapping[clean_key(key)]
            except KeyError:
                pass
            except OSError as error:
                raise StoreError(f"cannot delete {key}: {error}", chunk=key) from error

    def delete_below(self, prefix: str) -> None:
        """Key by key."""
        self.delete(list(self.list(prefix)))

    def _mutable(self) -> MutableMapping[str, bytes]:
        if not isinstance(self.mapping, MutableMapping):
            raise ReadOnlyError(f"a {type(self.mapping).__name__} cannot be written", hint="give a dict")
        return self.mapping

    def size(self, key: str) -> int | None:
        """Known only where the value lies in memory anyway."""
        if not isinstance(self.mapping, dict):
            return None
        value = self.mapping.get(key)
        return None if value is None else memoryview(value).nbytes

    def exists(self, key: str) -> bool:
        """Whether the mapping holds `key`."""
        return clean_key(key) in self.mapping

    def list(self, prefix: str = "") -> Iterator[str]:
        """Keys in the mapping's order."""
        return (key for key in list(self.mapping) if key.startswith(prefix))

    def list_dir(self, prefix: str = "") -> Iterator[str]:
        """Names in the mapping's order."""
        return below(iter(list(self.mapping)), prefix)
