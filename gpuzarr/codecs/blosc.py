"""Blosc 1 containers: a chunk in blocks, each shuffled, then compressed (Zarr v3 core codec `blosc`;
numcodecs `blosc`).

Device form: kernels/blosc.cu finds the streams of all blocks of all chunks, kernels/lz4.cu, blosclz.cu and
nvCOMP decode them, each in one launch, and kernels/unshuffle.cu undoes the shuffles. What a launch has to
know of a container is read on the host before it crosses; one with snappy inside is decoded there.

Encoding goes the other way, in codecs/blosc_encode.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
from numcodecs import blosc
from numpy.typing import NDArray

from gpuzarr import config
from gpuzarr.codecs.base import (
    Batch,
    Buffer,
    ChunkSpec,
    Encoded,
    Rates,
    Stored,
    as_bytes,
    check_size,
    even,
    library_refused,
)
from gpuzarr.codecs.blosc_encode import INNER, STREAM_NBYTES, Cut, encoded
from gpuzarr.codecs.blosc_header import (
    ALIGNED,
    BIT_SHUFFLED,
    BLOSCLZ,
    BYTE_SHUFFLED,
    CNAMES,
    FUTURE,
    HEADER,
    LEAST_STREAM,
    LZ4,
    MAX_NBYTES,
    MEMCPYED,
    MOST_SPLITS,
    RAW,
    SHUFFLES,
    SNAPPY,
    UNSPLIT,
    ZLIB,
    ZSTD,
    blocks_of,
    read_header,
)
from gpuzarr.codecs.planes import Shuffled
from gpuzarr.codecs.registry import codec
from gpuzarr.codecs.zstd import DEVICE_LEVEL, zstd_compress_scratch, zstd_scratch
from gpuzarr.device.base import DeviceBuffer, Lane, Streams
from gpuzarr.errors import ArgumentError, ChunkError, MetadataError, UnsupportedError

MOST_FRAMES, FRAME_NBYTES = 16, 8 << 10
"""More zstd frames than these, and one for so many bytes, would take too much scratch memory."""
LIBRARY: Final = ("zlib", "zstd")
"""Inner codecs that are left to nvCOMP."""
COPIED_NBYTES: Final = 32 << 10
"""Of a payload that is stored as it is, what one warp copies."""


class Notes(NamedTuple):
    """The columns of `Batch.notes`, as kernels/blosc.cu reads them."""

    inner: NDArray[np.int64]
    shuffle: NDArray[np.int64]
    typesize: NDArray[np.int64]
    blocksize: NDArray[np.int64]
    splits: NDArray[np.int64]
    cbytes: NDArray[np.int64]


@codec("blosc", "numcodecs.blosc", v2="blosc")
@dataclass(frozen=True, slots=True)
class Blosc(Shuffled):
    """`shuffle` is a name (v3) or a number (v2; -1 takes bits for one-byte values and bytes for others).
    `typesize`, where None, is the item size of what is encoded; `blocksize` 0 leaves the choice to
    c-blosc."""

    cname: str = "lz4"
    clevel: int = 5
    shuffle: int | str = 1
    blocksize: int = 0
    typesize: int | None = None
    notes: ClassVar[int] = len(Notes._fields)
    rates: ClassVar[Rates] = Rates(host=3e9, stream=1e9, device=150e9, cuts=True)
    exceptions: ClassVar[str] = "those with snappy or very many blocks inside"

    def __post_init__(self) -> None:
        known = (
            self.cname in CNAMES,
            type(self.clevel) is int and 0 <= self.clevel <= 9,
            self.shuffle in SHUFFLES if isinstance(self.shuffle, str) else self.shuffle in (-1, 0, 1, 2),
            type(self.blocksize) is int and 0 <= self.blocksize < 2**31,
            self.typesize is None or (type(self.typesize) is int and self.typesize > 0),
        )
        if not all(known):
            name = ("cname", "clevel", "shuffle", "blocksize", "typesize")[known.index(False)]
            raise MetadataError(f"{name} {getattr(self, name)!r} is not one of Blosc's", codec="blosc")

    def to_config(self) -> dict[str, Any]:
        """v2 documents have no `typesize`."""
        stated = super(Blosc, self).to_config()
        if self.typesize is None:
            del stated["typesize"]
        return stated

    def to_document(self, zarr_format: int, dtype: np.dtype[Any]) -> dict[str, Any]:
        """v3 names the shuffle and states the typesize; v2 has a number, and takes the typesize from the
        array."""
        size = self.typesize or max(dtype.itemsize, 1)
        shuffle = self._shuffle
        if shuffle == -1:
            shuffle = 2 if size == 1 else 1
        stated = {"cname": self.cname, "clevel": self.clevel, "blocksize": self.blocksize}
        if zarr_format == 2:
            return {**stated, "shuffle": shuffle}
        return {**stated, "shuffle": list(SHUFFLES)[shuffle], "typesize": size}

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """Straight into `out`. Outside of the main thread numcodecs takes no lock and starts no threads."""
        stored = as_bytes(chunk)
        header = read_header(stored)
        check_size(header.nbytes, decoded)
        if header.inner == SNAPPY and not header.memcpyed:
            raise _no_snappy()
        try:
            plain: Buffer = blosc.decompress(stored, out)
        except RuntimeError as error:
            raise ChunkError(f"damaged Blosc blocks: {error}") from error
        return plain

    def decode_part(
        self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8], begin: int, end: int
    ) -> bool:
        """Only the blocks that hold the bytes, where these are a part of all."""
        stored = as_bytes(chunk)
        header = read_header(stored)
        check_size(header.nbytes, decoded)
        if header.memcpyed:
            out[begin:end] = stored[HEADER.size + begin : HEADER.size + end]
            return True
        if header.inner == SNAPPY:
            return False
        found = blocks_of(stored, header, begin, end)
        if found is None:
            return False
        container, first, nbytes = found
        try:
            blosc.decompress(container, out[first : first + nbytes])
        except RuntimeError as error:
            raise ChunkError(f"damaged Blosc blocks: {error}") from error
        return True

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """One container of at most 2³¹−17 plain bytes."""
        plain = as_bytes(chunk)
        if plain.nbytes > MAX_NBYTES:
            raise ArgumentError(
                f"Blosc cannot hold {plain.nbytes} bytes in one chunk", hint="use smaller chunks"
            )
        if self.cname == "snappy":
            raise _no_snappy()
        typesize = self.typesize or max(decoded.dtype.itemsize, 1)
        stored: Buffer = blosc.compress(
            plain, self.cname.encode(), self.clevel, self._shuffle, self.blocksize, typesize
        )
        return stored

    def host_only(self, decoded: ChunkSpec) -> str | None:
        """The device takes chunks of known size. Where the array says what else is inside, the host does."""
        if not decoded.nbytes:
            return "size known only from the stream" if decoded.nbytes is None else "no bytes"
        if self.cname in LIBRARY:
            return library_refused(decoded)
        return "snappy inside has no device form" if self.cname == "snappy" else None

    def inspect(self, stored: Stored, decoded: ChunkSpec) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """What the headers say. The kernels check the rest."""
        head = stored.peek(HEADER.size)
        version, inner_version, flags, typesize = head[:, :4].astype(np.int64).T
        nbytes, blocksize, cbytes = head[:, 4:].copy().view("<i4").astype(np.int64).T
        sound = (version == 2) & (flags & FUTURE == 0) & (typesize > 0) & (nbytes == decoded.nbytes)
        sound &= (blocksize > 0) & (blocksize <= nbytes) & (cbytes >= 16) & (cbytes <= stored.nbytes)
        typesize, blocksize = np.maximum(typesize, 1), np.maximum(blocksize, 1)
        small = (typesize > MOST_SPLITS) | (blocksize // typesize < LEAST_STREAM)
        splits = np.where(small | (flags & UNSPLIT != 0), 1, typesize)
        inner = flags >> 5
        known = [BLOSCLZ, LZ4, *self._library()]
        compressed = np.isin(inner, known) & (inner_version == 1) & (blocksize % splits == 0)
        compressed &= blocksize >= np.minimum(LEAST_STREAM, nbytes)  # so that streams are not too many
        compressed &= 16 + 4 * -(-nbytes // blocksize) <= cbytes - 4
        frames = -(-nbytes // blocksize) * splits
        compressed &= (inner != ZSTD) | (frames <= MOST_FRAMES + nbytes // FRAME_NBYTES)
        plain = flags & MEMCPYED != 0
        taken = sound & np.where(plain, cbytes == nbytes + 16, compressed)
        byte_shuffled = (flags & BYTE_SHUFFLED != 0) & (typesize > 1)
        shuffle = np.where(byte_shuffled, 1, np.where(flags & BIT_SHUFFLED != 0, 2, 0))
        blocksize = np.where(plain, np.minimum(nbytes, COPIED_NBYTES), blocksize)
        notes = Notes(
            inner=np.where(plain, -1, inner),
            shuffle=np.where(plain, 0, shuffle),
            typesize=np.where(plain, 1, typesize),
            blocksize=blocksize,
            splits=np.where(plain, 1, splits),
            cbytes=cbytes,
        )
        return np.stack(notes, axis=1), taken

    def _library(self) -> list[int]:
        """The inner codecs that go to nvCOMP here: zstd only where the array says so, for its scratch."""
        if config.current().untrusted:
            return []
        return [ZLIB, ZSTD] if self.cname == "zstd" else [ZLIB]

    def scratch(self, decoded: ChunkSpec) -> int:
        """The bytes before they are shuffled back, rows for as many streams as there can be, and what nvCOMP
        takes."""
        nbytes, row = decoded.nbytes or 0, _Streams.ROW_NBYTES
        library = 0
        if self.cname in LIBRARY:
            row += 64
            library = zstd_scratch(nbytes, MOST_FRAMES + nbytes // FRAME_NBYTES)
            library = library if self.cname == "zstd" else nbytes
        return nbytes + ALIGNED + row * (nbytes // LEAST_STREAM + 1) + library

    def decode_planes(self, batch: Batch, decoded: ChunkSpec, lane: Lane) -> Batch:
        """Device form: kernels/blosc.cu, then lz4.cu, blosclz.cu and nvCOMP, each for the streams of its
        own."""
        nbytes, notes, count = decoded.nbytes or 0, batch.notes, len(batch)
        if notes is None or notes.shape != (count, self.notes):
            raise ChunkError("containers that were not inspected", codec=self.name)
        inner, _, _, blocksize, splits, cbytes = notes.T
        if np.any(cbytes > batch.nbytes):
            raise ChunkError("a Blosc container that is larger than its chunk", codec=self.name)
        pitch = -(-nbytes // ALIGNED) * ALIGNED
        placed = even(lane.empty(pitch * count), pitch, count)
        fault = lane.faults(count)

        blocks = -(-nbytes // blocksize)
        streams = blocks * splits - np.where(nbytes % blocksize, splits - 1, 0)
        kind = np.maximum(inner, BLOSCLZ)  # by inner codec, so that each has its rows side by side
        kind[inner == RAW] = LZ4
        order = np.argsort(kind, kind="stable")
        first = np.empty(count, np.int64)
        first[order] = np.cumsum(streams[order]) - streams[order]
        table = _Streams.on(lane, int(streams.sum()))
        most = int(blocks.max())
        lane.launch(
            "gz_blosc_walk",
            -(-count * most // 128),
            128,
            src=batch.data,
            offset=batch.offset,
            notes=notes,
            into=placed.offset,
            first=first,
            **table.columns(),
            fault=fault,
            nbytes=nbytes,
            pitch=most,
            chunks=count,
        )
        places: dict[str, Any] = {"src": batch.data, "dst": placed.data}
        for one in np.unique(kind).tolist():
            mine = np.flatnonzero(kind == one)
            begin, many = int(first[mine].min()), int(streams[mine].sum())
            rows = {**places, **table.columns(begin, many)}
            if one == LZ4:
                lane.launch("gz_lz4", -(-many // 2), 64, **rows, fault=fault, streams=many, sized=0)
            elif one == BLOSCLZ:
                lane.launch("gz_blosclz", -(-many // 2), 64, **rows, fault=fault, streams=many)
            else:
                share = np.maximum(blocksize // splits, nbytes % blocksize)[mine]
                found = Streams(
                    **rows, count=many, largest=int(share.max()), total=len(mine) * nbytes, stored=True
                )
                lane.decompress("zlib" if one == ZLIB else "zstd", found, fault)
        sizes = np.full(count, nbytes, np.int64)
        return replace(placed, nbytes=sizes, planes=np.ascontiguousarray(notes[:, 1:4]))

    def encode_host_only(self, decoded: ChunkSpec) -> str | None:
        """The device has encoders for LZ4 and zstd, each with one level of its own."""
        if not decoded.nbytes:
            return "size known only from the stream" if decoded.nbytes is None else "no bytes"
        if decoded.nbytes > MAX_NBYTES:
            return f"{decoded.nbytes} bytes are no Blosc container"
        if self.cname not in INNER or not self.clevel:
            return f"{self.cname} at level {self.clevel} inside has no encoder on a device"
        if self.cname == "zstd" and self.clevel > DEVICE_LEVEL:
            return f"zstd at level {self.clevel} inside"
        return None

    def encode_bound(self, nbytes: int) -> int:
        """A header before the bytes as they are."""
        return nbytes + HEADER.size

    def encode_scratch(self, nbytes: int) -> int:
        """The shuffled bytes, the streams with their rows, and what nvCOMP takes."""
        streams = nbytes // STREAM_NBYTES + 2 * MOST_SPLITS
        library = zstd_compress_scratch(nbytes) if self.cname == "zstd" else 0
        return 3 * nbytes + streams * (_Streams.ROW_NBYTES + 64) + library

    def encode_batch(self, batch: Encoded, decoded: ChunkSpec, lane: Lane) -> Encoded:
        """Device form: codecs/blosc_encode.py."""
        typesize = self.typesize or max(decoded.dtype.itemsize, 1)
        return encoded(batch, Cut.of(self.cname, batch.limit, typesize, self.blocksize, self._shuffle), lane)

    @property
    def _shuffle(self) -> int:
        return SHUFFLES[self.shuffle] if isinstance(self.shuffle, str) else self.shuffle


@dataclass(frozen=True, slots=True)
class _Streams:
    """The streams of a batch, a row each, in device memory."""

    ROW_NBYTES: ClassVar[int] = 4 * 8 + 4

    table: DeviceBuffer
    count: int

    @classmethod
    def on(cls, lane: Lane, count: int) -> _Streams:
        """Room for `count` rows."""
        return cls(lane.empty(cls.ROW_NBYTES * count), count)

    def columns(self, first: int = 0, count: int | None = None) -> dict[str, DeviceBuffer]:
        """`count` rows of each column, as the kernels name them."""
        count = self.count if count is None else count
        names = "src_offset", "src_nbytes", "dst_offset", "dst_nbytes"
        found = {
            name: self.table.part(8 * (i * self.count + first), 8 * count) for i, name in enumerate(names)
        }
        return {**found, "owner": self.table.part(8 * 4 * self.count + 4 * first, 4 * count)}


def _no_snappy() -> UnsupportedError:
    return UnsupportedError("numcodecs' Blosc is built without snappy", codec="blosc", hint="use lz4 or zstd")
