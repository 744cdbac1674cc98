"""What a codec is: one step between a chunk and its stored bytes.

    array codecs       array -> array     transpose, delta, cast_value
    serializers        array -> bytes     bytes, vlen-utf8, zfpy
    bytes codecs       bytes -> bytes     blosc, gzip, crc32c

A codec is a frozen dataclass whose fields are its configuration. It knows one chunk at a time on the host and
N chunks at a time on a device; it knows nothing of arrays, keys or stores. Where it needs to know what it
decodes *to*, it is told by a ChunkSpec. Values on the host are buffers or ndarrays, and either may stand for
the other: `as_bytes` and `as_array` reinterpret without copying, so codecs that work on typed values may
stand anywhere in a Zarr v2 filter list.

The host form is the specification: a device form returns the same bytes for the same input, always.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from gpuzarr import config
from gpuzarr.device.base import DeviceBuffer, Lane, Streams, Uncompressed
from gpuzarr.errors import ChunkError, LimitError, MetadataError

Buffer = bytes | bytearray | memoryview | NDArray[Any]
"""C-contiguous bytes, or an array of typed values that are stored as such."""

Kind = Literal["array", "serializer", "bytes"]

_PACKED_NBYTES = 64 << 10  # of a string, what one block of threads copies


@dataclass(frozen=True, slots=True)
class ChunkSpec:
    """What one chunk is at one point of a chain."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    """With its byte order. Objects (`O`, `T`) have no bytes: only serializers turn them into some."""
    nbytes: int | None
    """None: only the stream knows."""

    @classmethod
    def of(cls, shape: tuple[int, ...], dtype: np.dtype[Any]) -> ChunkSpec:
        """An array chunk. `nbytes` follows from shape and dtype, unless the values are objects."""
        return cls(shape, dtype, None if dtype.kind in "OT" else prod(shape) * dtype.itemsize)

    def opaque(self, nbytes: int | None) -> ChunkSpec:
        """Bytes that are no longer typed values."""
        return ChunkSpec((), np.dtype("u1"), nbytes)

    def typed(self, dtype: np.dtype[Any]) -> ChunkSpec:
        """The same number of elements, of another type."""
        items = prod(self.shape) if self.shape or self.nbytes == self.dtype.itemsize else None
        if items is None and self.nbytes is not None:
            items = self.nbytes // max(self.dtype.itemsize, 1)
        return replace(self, dtype=dtype, nbytes=None if items is None else items * dtype.itemsize)

    @property
    def limit(self) -> int:
        """The most bytes that decoding to this may produce."""
        return config.current().max_chunk_nbytes if self.nbytes is None else self.nbytes


@dataclass(frozen=True, slots=True)
class Batch:
    """N byte strings in one device arena. `offset` and `nbytes` are int64[n], in host memory."""

    data: DeviceBuffer
    offset: NDArray[np.int64]
    nbytes: NDArray[np.int64]
    notes: NDArray[np.int64] | None = None  # [n, k]
    """What the codec's `inspect` gave of each, where the codec has notes."""
    planes: NDArray[np.int64] | None = None  # [n, 3]
    """Decoded but for a shuffle (codecs/planes.py): its kind (0 none, 1 bytes, 2 bits), typesize,
    blocksize."""

    def __len__(self) -> int:
        return len(self.offset)


@dataclass(frozen=True, slots=True)
class Encoded:
    """N byte strings on their way through the encoders of a device, which alone knows how long they are."""

    data: DeviceBuffer
    pitch: int
    """String i begins at byte `i * pitch`, a multiple of 16, and has the bytes up to the next for itself."""
    nbytes: DeviceBuffer
    """int64[n]"""
    limit: int
    """None is longer."""
    count: int

    def __len__(self) -> int:
        return self.count

    @property
    def offset(self) -> NDArray[np.int64]:
        """int64[n]"""
        return np.arange(self.count, dtype=np.int64) * self.pitch

    @classmethod
    def room(cls, lane: Lane, limit: int, count: int, nbytes: DeviceBuffer | None = None) -> Encoded:
        """Memory for `count` strings of at most `limit` bytes, and for their sizes, where it is not given."""
        pitch = pitch_of(limit)
        return cls(lane.empty(pitch * count), pitch, nbytes or lane.empty(8 * count), limit, count)


def pitch_of(limit: int) -> int:
    """From one string of an `Encoded` to the next: with room for a checksum behind each."""
    return -(-limit // 16) * 16 + 16


def pack(
    lane: Lane,
    src: DeviceBuffer,
    src_offset: NDArray[np.int64],
    nbytes: NDArray[np.int64] | DeviceBuffer,
    dst: DeviceBuffer,
    dst_offset: NDArray[np.int64],
    largest: int,
) -> None:
    """Copy N strings of at most `largest` bytes to other places in device memory (kernels/encoded.cu)."""
    tiles = max(-(-largest // _PACKED_NBYTES), 1)
    lane.launch(
        "gz_pack",
        len(src_offset) * tiles,
        256,
        src=src,
        src_offset=src_offset,
        nbytes=nbytes,
        dst=dst,
        dst_offset=dst_offset,
        largest=largest,
        tiles=tiles,
    )


def even(data: DeviceBuffer, nbytes: int, count: int) -> Batch:
    """`count` strings of `nbytes` bytes, one behind the other."""
    return Batch(data, np.arange(count, dtype=np.int64) * nbytes, np.full(count, nbytes, np.int64))


def unchanged(batch: Batch, decoded: ChunkSpec) -> Batch:
    """The batch itself, for codecs whose decoding changes nothing, if its chunks have the promised size."""
    for nbytes in np.unique(batch.nbytes).tolist():
        check_size(nbytes, decoded)
    return batch


@dataclass(frozen=True, slots=True)
class Stored:
    """N encoded chunks in one piece of host memory. `offset` and `nbytes` are int64[n]."""

    data: NDArray[np.uint8]
    offset: NDArray[np.int64]
    nbytes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offset)

    def peek(self, width: int, at: NDArray[np.int64] | int = 0) -> NDArray[np.uint8]:
        """uint8[n, width]: the bytes from byte `at` of each chunk on; zeros where it has ended."""
        index = np.arange(width, dtype=np.int64) + np.asarray(at, np.int64).reshape(-1, 1)
        inside = (index >= 0) & (index < self.nbytes[:, None])
        if not inside.any():
            return np.zeros((len(self), width), np.uint8)
        found = self.data[np.where(inside, index + self.offset[:, None], self.offset[inside.any(1)][0])]
        found[~inside] = 0
        return found


def library_refused(decoded: ChunkSpec) -> str | None:
    """Why `Lane.decompress` does not take chunks that decode to `decoded`, in a few words."""
    if config.current().untrusted:
        return "nvCOMP is not safe on chunks from strangers"
    return None if 0 < (decoded.nbytes or 0) < 1 << 31 else "size known only from the stream"


def decompressed(algorithm: str, batch: Batch, decoded: ChunkSpec, lane: Lane) -> Batch:
    """N chunks that are one stream each, decompressed by `Lane.decompress`."""
    count, nbytes = len(batch), decoded.limit
    pitch = -(-nbytes // 16) * 16
    placed = even(lane.empty(count * pitch), pitch, count)
    streams = Streams(
        src=batch.data,
        src_offset=batch.offset,
        src_nbytes=batch.nbytes,
        dst=placed.data,
        dst_offset=placed.offset,
        dst_nbytes=np.full(count, nbytes, np.int64),
        owner=np.arange(count, dtype=np.int32),
        count=count,
        largest=nbytes,
        total=count * nbytes,
    )
    lane.decompress(algorithm, streams, lane.faults(count))
    return replace(placed, nbytes=streams.dst_nbytes)


def compressed(algorithm: str, batch: Encoded, lane: Lane) -> Encoded:
    """N chunks that become one stream each, compressed by `Lane.compress`."""
    out = Encoded.room(lane, lane.compress_bound(algorithm, batch.limit), len(batch))
    strings = Uncompressed(
        src=batch.data,
        src_offset=batch.offset,
        src_nbytes=batch.nbytes,
        dst=out.data,
        dst_offset=out.offset,
        dst_nbytes=out.nbytes,
        owner=np.arange(len(batch), dtype=np.int32),
        count=len(batch),
        largest=batch.limit,
    )
    lane.compress(algorithm, strings, lane.faults(len(batch)))
    return out


class Rates(NamedTuple):
    """How fast a codec decodes, in decoded bytes a second, by order of magnitude (engine/route.py)."""

    host: float = 5e9
    """On one thread."""
    stream: float = 100e9
    """One stream on a device."""
    device: float = 1000e9
    """Very many streams on a device."""
    cuts: bool = False
    """A chunk is many streams."""


@dataclass(frozen=True, slots=True)
class Codec:
    """The contract. Subclasses are frozen dataclasses, registered by `registry.codec`."""

    kind: ClassVar[Kind] = "bytes"
    elementwise: ClassVar[bool] = False
    """Array codecs: each value is encoded by itself, so encoding commutes with cutting a chunk into smaller
    ones."""
    name: ClassVar[str] = ""
    """The registered name; set by `registry.codec`."""
    notes: ClassVar[int] = 0
    """How many numbers `inspect` gives; 0: chunks are not inspected."""
    exceptions: ClassVar[str] = ""
    """Which chunks are left to the host, for people: `those of several members`."""
    rates: ClassVar[Rates] = Rates()
    """For the choice between host and device. By default those of a pass over memory."""
    lead: ClassVar[int] = 0
    """The byte of an encoded chunk that the device form would like to find aligned."""

    @classmethod
    def from_config(cls, configuration: Mapping[str, Any]) -> Self:
        """A codec from its configuration in a metadata document. An unknown or missing option is a
        MetadataError."""
        known = {field.name for field in fields(cls)}
        unknown = configuration.keys() - known
        if unknown:
            raise MetadataError(f"unknown option {', '.join(sorted(unknown))}", codec=cls.name)
        try:
            return cls(**configuration)
        except MetadataError:
            raise
        except (TypeError, ValueError) as error:
            raise MetadataError(f"bad configuration: {error}", codec=cls.name) from error

    def to_config(self) -> dict[str, Any]:
        """The configuration as a metadata document holds it."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to_document(self, zarr_format: int, dtype: np.dtype[Any]) -> dict[str, Any]:
        """The configuration for a new array of `dtype`, as other readers of that format expect it."""
        return {key: value for key, value in self.to_config().items() if value is not None}

    @property
    def trailer(self) -> int | None:
        """Bytes behind the decoded ones, where the device form does no more than take them off; else None."""
        return None

    def encoded(self, decoded: ChunkSpec) -> ChunkSpec:
        """What encoding makes of `decoded`. A chunk that this codec cannot take is a MetadataError."""
        return decoded.opaque(None)

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """One encoded chunk, decoded. `out`, where given, has exactly `decoded.nbytes` bytes and may be
        decoded into and returned. Bytes that are not what `decoded` promises are a ChunkError; never more
        than `decoded.limit` bytes are produced."""
        raise NotImplementedError

    def decode_part(
        self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8], begin: int, end: int
    ) -> bool:
        """Decode at least the bytes from `begin` up to `end` to their places in `out`, which has all of
        `decoded.nbytes`, if that is less work than `decode`; the others may be anything. False if it is not,
        or fails: then `decode` says what there is."""
        return False

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """One decoded chunk, encoded."""
        raise NotImplementedError

    def host_only(self, decoded: ChunkSpec) -> str | None:
        """Why `decoded` has no device form, in a few words; None if `decode_batch` takes it."""
        return "no device form"

    def inspect(self, stored: Stored, decoded: ChunkSpec) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Of N encoded chunks, on the host, before they cross: `notes` [n, k], what the launch has to know of
        each, and which of them [n] the device form takes. The others are decoded by the host, which says
        what is wrong with them, if anything is. Reads headers only. Stages before an inspected one leave the
        bytes where they are or run on the host."""
        raise NotImplementedError

    def scratch(self, decoded: ChunkSpec) -> int:
        """Device bytes that `decode_batch` takes for each chunk, besides the decoded ones."""
        return 0

    def decode_batch(self, batch: Batch, decoded: ChunkSpec, lane: Lane) -> Batch:
        """N encoded chunks in device memory, decoded. Every chunk decodes to the same `decoded`. What cannot
        be decoded sets its entry of `lane.faults`, and the host has the last word on it."""
        raise NotImplementedError

    def encode_host_only(self, decoded: ChunkSpec) -> str | None:
        """Why `decoded` is not encoded on a device, in a few words; None if `encode_batch` takes it."""
        return "no encoder on a device"

    def encode_bound(self, nbytes: int) -> int:
        """The most bytes that `encode_batch` makes of a chunk of at most `nbytes` bytes."""
        return nbytes

    def encode_scratch(self, nbytes: int) -> int:
        """Device bytes that `encode_batch` takes for a chunk of at most `nbytes` bytes, besides the encoded
        ones."""
        return 0

    def encode_batch(self, batch: Encoded, decoded: ChunkSpec, lane: Lane) -> Encoded:
        """N decoded chunks in device memory, encoded: what decodes to them, though not always the bytes that
        `encode` makes. `batch` may lose what lies behind its strings, nothing else. What cannot be encoded
        sets its entry of `lane.faults`, and the host encodes it."""
        raise NotImplementedError


def as_bytes(chunk: Buffer) -> NDArray[np.uint8]:
    """The bytes of a chunk as a flat array, without copying what is contiguous."""
    if isinstance(chunk, np.ndarray):
        return np.ascontiguousarray(chunk).reshape(-1).view(np.uint8)
    return np.frombuffer(chunk, np.uint8)


def as_array(chunk: Buffer, spec: ChunkSpec) -> NDArray[Any]:
    """A chunk as the typed values that `spec` promises, without copying. A wrong size is a ChunkError."""
    if spec.dtype.kind in "OT":
        if isinstance(chunk, np.ndarray) and chunk.size == prod(spec.shape):
            return chunk.reshape(spec.shape)
        raise ChunkError(f"expected {prod(spec.shape)} values")
    flat = as_bytes(chunk)
    if spec.nbytes is None:
        if flat.nbytes % spec.dtype.itemsize:
            raise ChunkError(f"{flat.nbytes} bytes are not a whole number of {spec.dtype} values")
        return flat.view(spec.dtype)
    check_size(flat.nbytes, spec)
    if spec.dtype.itemsize == 0:
        return np.zeros(spec.shape, spec.dtype)
    return flat.view(spec.dtype).reshape(
        spec.shape if prod(spec.shape) * spec.dtype.itemsize == spec.nbytes else -1
    )


def check_size(nbytes: int, spec: ChunkSpec) -> None:
    """Raise unless `nbytes` is what `spec` promises."""
    if spec.nbytes is None:
        if nbytes > spec.limit:
            raise LimitError(
                f"decodes to {nbytes} bytes, more than {spec.limit}",
                hint="raise max_chunk_nbytes if it is meant",
            )
    elif nbytes != spec.nbytes:
        raise ChunkError(f"decodes to {nbytes} bytes where the metadata promises {spec.nbytes}")
