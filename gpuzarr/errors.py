"""Every exception gpuzarr raises on purpose. Each says what is wrong, where, and what to do next.

    GpuzarrError
    ├── ArgumentError           (ValueError)           a call's arguments do not fit together
    ├── SelectionError          (IndexError)           a key does not fit the array's shape
    ├── NotFoundError           (FileNotFoundError, KeyError)  no array or group under that name
    ├── MetadataError           (ValueError)           a metadata document is malformed or contradicts itself
    │   └── UnsupportedError    (NotImplementedError)  well formed, but it asks for what gpuzarr does not have
    ├── ChunkError              (ValueError)           a chunk's bytes are not what the metadata promises
    │   └── ChecksumError                              the bytes were changed since they were written
    ├── LimitError              (MemoryError)          more memory than the configuration allows
    ├── StoreError              (OSError)              the storage failed, or a key may not be used
    │   ├── ForbiddenError      (PermissionError)      the storage says that it is not for us
    │   └── ChangedError                               an object was replaced while it was read
    ├── ReadOnlyError           (PermissionError)      a write to something opened for reading
    ├── DeviceError             (RuntimeError)         a device is missing or a kernel failed
    └── MissingDependencyError  (ImportError)          an optional package is not installed

Codecs and stores know neither array nor chunk. They raise with what they know; `located` fills in the rest on
the way up.
"""

from __future__ import annotations

from typing import Self

_LONGEST = 1000  # characters


class GpuzarrError(Exception):
    """The root. `what` is the fault; `array`, `chunk` and `codec` say where; `hint` says what to do next."""

    def __init__(
        self,
        what: str,
        *,
        array: str | None = None,
        chunk: str | None = None,
        codec: str | None = None,
        hint: str | None = None,
    ) -> None:
        # What is quoted from a document may be as long as that is.
        what = what if len(what) <= _LONGEST else f"{what[: _LONGEST - 1]}…"
        super().__init__(what)
        self.what = what
        self.array = array
        self.chunk = chunk
        self.codec = codec
        self.hint = hint

    def located(
        self, *, array: str | None = None, chunk: str | None = None, codec: str | None = None
    ) -> Self:
        """The same error with the places that were not known where it was raised."""
        self.array = self.array or array
        self.chunk = self.chunk or chunk
        self.codec = self.codec or codec
        return self

    def __str__(self) -> str:
        places = (("array", self.array), ("chunk", self.chunk), ("codec", self.codec))
        where = ", ".join(f"{name} {place}" for name, place in places if place)
        text = self.what + (f" [{where}]" if where else "") + (f"; {self.hint}" if self.hint else "")
        # JSON can spell half a surrogate pair, which no terminal or log can take.
        return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.array, self.chunk, self.codec, self.hint)


def _rebuild(
    kind: type[GpuzarrError],
    what: str,
    array: str | None,
    chunk: str | None,
    codec: str | None,
    hint: str | None,
) -> GpuzarrError:
    return kind(what, array=array, chunk=chunk, codec=codec, hint=hint)


class ArgumentError(GpuzarrError, ValueError):
    """A call's arguments do not fit together."""


class SelectionError(GpuzarrError, IndexError):
    """A key does not fit the array's shape."""


class NotFoundError(GpuzarrError, FileNotFoundError, KeyError):
    """No array or group under that name."""


class MetadataError(GpuzarrError, ValueError):
    """A metadata document is malformed or contradicts itself."""


class UnsupportedError(MetadataError, NotImplementedError):
    """A well-formed document asks for something gpuzarr does not have."""


class ChunkError(GpuzarrError, ValueError):
    """A chunk's bytes are not what the metadata promises."""


class ChecksumError(ChunkError):
    """A checksum does not match: the bytes were changed since they were written."""


class LimitError(GpuzarrError, MemoryError):
    """More memory is asked for than the configuration allows."""


class StoreError(GpuzarrError, OSError):
    """The storage failed, or a key may not be used."""


class ForbiddenError(StoreError, PermissionError):
    """The storage does not let these credentials read or write an object."""


class ChangedError(StoreError):
    """An object was replaced by another between two requests that should have seen the same."""


class ReadOnlyError(GpuzarrError, PermissionError):
    """A write to something that was opened for reading."""


class DeviceError(GpuzarrError, RuntimeError):
    """A device is missing, or a kernel failed."""


class MissingDependencyError(GpuzarrError, ImportError):
    """An optional package is not installed. The hint is the command that installs it."""
