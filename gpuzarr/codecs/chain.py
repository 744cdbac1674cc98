"""A chain is an array's codecs bound to one chunk shape.

    encode      transpose → bytes → blosc → crc32c
    decode                          crc32c → blosc → (layout: byte order and axes, applied while copying to
    the result)

Codecs at the head of the list that only lay values out (transpose, bytes) do not run: they become the
*layout* of the decoded bytes, and whoever copies the chunk into a result applies it on the way. What is left
are the stages, in the order in which decoding runs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuzarr.codecs.base import Buffer, ChunkSpec, Codec, as_array
from gpuzarr.codecs.bytes import Bytes, swap_unit
from gpuzarr.codecs.transpose import Transpose
from gpuzarr.errors import ChunkError, GpuzarrError, LimitError, MetadataError


@dataclass(frozen=True, slots=True)
class Stage:
    """One codec that runs. It decodes to `decoded`."""

    codec: Codec
    decoded: ChunkSpec

    @property
    def name(self) -> str:
        """The codec's name, for messages and plans."""
        return self.codec.name


@dataclass(frozen=True, slots=True)
class Chain:
    """See the module. `layout` is the stored form; `axes[i]` is the chunk's axis that lies at place i in
    it."""

    spec: ChunkSpec
    layout: ChunkSpec
    axes: tuple[int, ...]
    stages: tuple[Stage, ...]
    device_from: int
    """Stages before this one run on the host whatever the device; `len(stages)`: all of them."""
    host_reasons: tuple[str | None, ...]
    """For each stage, why it has no device form; None where it has one."""
    encode_to: int
    """Stages from this one on have encoders on a device; those before it are encoded on the host."""

    @property
    def plain(self) -> bool:
        """The decoded bytes are the chunk's values as a C-contiguous native array holds them."""
        return self.layout.dtype == self.spec.dtype and self.axes == tuple(range(len(self.axes)))

    @property
    def swap(self) -> int | None:
        """Bytes that change places together on the way into a result; 0: none; None: fields differ."""
        return swap_unit(self.layout.dtype, self.spec.dtype)

    @property
    def parts(self) -> bool:
        """Decoding a part of a chunk may be less work than all of it."""
        return bool(self.stages) and type(self.stages[-1].codec).decode_part is not Codec.decode_part

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes between neighbours along each axis of the chunk, in its decoded bytes."""
        strides = [0] * len(self.axes)
        step = self.layout.dtype.itemsize
        for place in reversed(range(len(self.axes))):
            strides[self.axes[place]] = step
            step *= self.layout.shape[place]
        return tuple(strides)

    def decode(
        self, chunk: Buffer, out: NDArray[np.uint8] | None = None, part: tuple[int, int] | None = None
    ) -> NDArray[Any]:
        """One chunk as an array of `spec.shape`, perhaps a view with other strides or byte order than
        `spec.dtype`'s.

        `out`, of `layout.nbytes` bytes, may be decoded into; the result then shares its memory. Anything
        wrong with the bytes is a ChunkError that names the codec. `part`: of the decoded bytes only those
        from the first number up to the second are looked at, and the others may be anything.
        """
        return self.arranged(self.run(chunk, 0, len(self.stages), out, part))

    def run(
        self,
        chunk: Buffer,
        first: int,
        last: int,
        out: NDArray[np.uint8] | None = None,
        part: tuple[int, int] | None = None,
    ) -> Buffer:
        """Stages `first` to `last` (exclusive) on the host. `out` is for what the last of them gives, `part`
        what is wanted of it."""
        for position in range(first, last):
            stage = self.stages[position]
            try:
                into = out if position == last - 1 else None
                if part and into is not None and stage.codec.decode_part(chunk, stage.decoded, into, *part):
                    return into
                chunk = stage.codec.decode(chunk, stage.decoded, into)
            except GpuzarrError as error:
                error.located(codec=stage.name)
                raise
            except MemoryError as error:
                raise LimitError(f"out of memory: {error}", codec=stage.name) from error
            except Exception as error:  # codec libraries raise what they like; here it gets one form
                raise ChunkError(f"cannot decode: {error}", codec=stage.name) from error
        return chunk

    def arranged(self, chunk: Buffer) -> NDArray[Any]:
        """Decoded bytes as an array of `spec.shape`: a view of them in the stored layout."""
        try:
            stored = as_array(chunk, self.layout)
        except GpuzarrError as error:
            error.located(codec=self.stages[-1].name if self.stages else "bytes")
            raise
        if stored.ndim != len(self.layout.shape):
            raise ChunkError(f"decodes to {stored.size} values where {prod(self.layout.shape)} are promised")
        return stored if self.axes == tuple(range(stored.ndim)) else stored.transpose(np.argsort(self.axes))

    def encode(self, chunk: NDArray[Any]) -> Buffer:
        """One chunk of `spec.shape`, encoded."""
        return self.encode_stages(self.laid_out(chunk), len(self.stages))

    def laid_out(self, chunk: NDArray[Any], into: NDArray[np.uint8] | None = None) -> NDArray[Any]:
        """One chunk of `spec.shape` in the stored layout: the chunk itself where it is so already, else in
        `into`, of `layout.nbytes` bytes, if that is given."""
        turned = chunk.transpose(self.axes)
        if into is None or (turned.dtype == self.layout.dtype and turned.flags.c_contiguous):
            return np.ascontiguousarray(turned).astype(self.layout.dtype, copy=False)
        made = into.view(self.layout.dtype).reshape(turned.shape)
        made[...] = turned
        return made

    def encode_stages(self, value: Buffer, count: int) -> Buffer:
        """The encoders of the first `count` stages on the host, of which the last one runs first."""
        for stage in reversed(self.stages[:count]):
            value = stage.codec.encode(value, stage.decoded)
        return value


def bind(codecs: tuple[Codec, ...], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Chain:
    """The chain of `codecs` for chunks of one shape. A codec that cannot take what it is given is a
    MetadataError."""
    spec = layout = ChunkSpec.of(shape, dtype)
    axes = tuple(range(len(shape)))
    head = 0
    for codec in codecs:
        if isinstance(codec, Transpose):
            axes = tuple(axes[i] for i in codec.axes(len(axes)))
        elif not isinstance(codec, Bytes):
            break
        layout = _encoded(codec, layout)
        head += 1
    stages: list[Stage] = []
    decoded = layout
    for codec in codecs[head:]:
        encoded = _encoded(codec, decoded)
        if not (isinstance(codec, Bytes) and encoded == decoded):
            stages.insert(0, Stage(codec, decoded))
        decoded = encoded
    reasons = _host_reasons(stages)
    device_from = next((i + 1 for i in range(len(stages) - 1, -1, -1) if reasons[i]), 0)
    if dtype.kind == "O" or swap_unit(layout.dtype, dtype) is None:
        device_from = len(stages)  # the host has to lay the values out
    return Chain(spec, layout, axes, tuple(stages), device_from, reasons, _encode_to(stages))


def _host_reasons(stages: Sequence[Stage]) -> tuple[str | None, ...]:
    """For each stage, why it has no device form. Chunks are inspected while the host has their bytes."""
    reasons = [stage.codec.host_only(stage.decoded) for stage in stages]
    for position, stage in enumerate(stages):
        if stage.codec.notes and reasons[position] is None:
            moved = [i for i in range(position) if stages[i].codec.trailer is None]
            if moved:
                reasons[moved[-1]] = reasons[moved[-1]] or f"the host reads the headers of {stage.name}"
    return tuple(reasons)


def _encode_to(stages: Sequence[Stage]) -> int:
    """Encoding runs from the last stage to the first, and crosses to the host where an encoder is missing."""
    for position in reversed(range(len(stages))):
        if stages[position].codec.encode_host_only(stages[position].decoded):
            return position + 1
    return 0


def _encoded(codec: Codec, decoded: ChunkSpec) -> ChunkSpec:
    try:
        return codec.encoded(decoded)
    except GpuzarrError as error:
        error.located(codec=codec.name)
        raise


def check_order(codecs: Sequence[Codec]) -> None:
    """Zarr v3: array codecs, one serializer, bytes codecs, in this order."""
    kinds = [codec.kind for codec in codecs]
    ranks = [("array", "serializer", "bytes").index(kind) for kind in kinds]
    if kinds.count("serializer") != 1 or ranks != sorted(ranks):
        listed = ", ".join(f"{codec.name} ({codec.kind})" for codec in codecs)
        raise MetadataError(
            f"codecs [{listed}] are not array codecs, then one serializer, then bytes codecs",
            hint='`{"name": "bytes"}` is the usual serializer',
        )
