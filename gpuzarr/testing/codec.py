"""The contract of a Codec, as tests that every codec passes on golden chunks, whole and damaged."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuzarr import config
from gpuzarr.codecs.base import Buffer, ChunkSpec, Codec, as_array, as_bytes
from gpuzarr.codecs.chain import Chain, bind
from gpuzarr.errors import GpuzarrError, MetadataError

MUTATIONS = 60
"""Damaged chunks that `CodecContract` tries for each case."""


@dataclass(frozen=True)
class CodecCase:
    """One chunk for `CodecContract`: what is encoded, what other software made of it, and what that decodes
    to."""

    codec: Codec
    values: NDArray[Any]
    encoded: bytes
    """By an implementation that is not the one under test."""
    decoded: NDArray[Any]
    """Other than `values` where the codec is lossy."""
    tolerance: float = 0
    """How far decoding what the codec itself encodes may be from `decoded`."""
    remake: Callable[[Mapping[str, Any]], Codec] | None = None
    """Makes the codec from its configuration, where its class does not."""
    peer: Callable[[bytes], Any] | None = None
    """Decodes what the codec encodes, by an implementation that is not the one under test."""

    @cached_property
    def spec(self) -> ChunkSpec:
        """The chunk's shape and type."""
        return ChunkSpec.of(self.values.shape, self.values.dtype)

    @cached_property
    def chain(self) -> Chain:
        """The codec alone, bound to the chunk."""
        return bind((self.codec,), self.values.shape, self.values.dtype)

    @property
    def label(self) -> str:
        """For test reports."""
        shape = "x".join(map(str, self.values.shape))
        return f"{self.codec.name}-{self.values.dtype.str}-{shape}"


def equal(found: NDArray[Any], expected: NDArray[Any]) -> bool:
    """The same values, bit by bit. Objects are equal if they are of one type and equal, arrays too."""
    if found.dtype != expected.dtype or found.shape != expected.shape:
        return False
    if expected.dtype != object:
        return np.ascontiguousarray(found).tobytes() == np.ascontiguousarray(expected).tobytes()
    return all(
        type(one) is type(other)
        and (equal(one, other) if isinstance(other, np.ndarray) else bool(one == other))
        for one, other in zip(found.reshape(-1), expected.reshape(-1), strict=True)
    )


class CodecContract:
    """Subclass it as `TestMyCodec(CodecContract)` and give `cases`. Needs pytest; every test runs for every
    case."""

    @abstractmethod
    def cases(self) -> Sequence[CodecCase]:
        """The chunks to try."""

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """One test a case."""
        if "case" in metafunc.fixturenames:
            cases = self.cases()
            metafunc.parametrize("case", cases, ids=[f"{i}-{case.label}" for i, case in enumerate(cases)])

    def test_golden(self, case: CodecCase) -> None:
        """What others encoded decodes to what it should, from every kind of buffer, and twice the same."""
        aligned = np.frombuffer(b"\0" + case.encoded, np.uint8)[1:]
        for chunk in (case.encoded, bytearray(case.encoded), memoryview(case.encoded), aligned):
            found = as_array(case.codec.decode(chunk, case.spec), case.spec)
            assert equal(found, case.decoded)
        through = self._decoded(case, case.encoded)
        assert through is not None
        assert equal(through, case.decoded)

    def test_round_trip(self, case: CodecCase) -> None:
        """What the codec encodes, it decodes; encoding leaves its input as it is."""
        before = case.values.copy()
        encoded = case.codec.encode(case.values, case.spec)
        found = as_array(case.codec.decode(encoded, case.spec), case.spec)
        assert equal(case.values, before)
        if case.tolerance:
            assert np.allclose(found, case.decoded, rtol=0, atol=case.tolerance)
            assert found.dtype == case.decoded.dtype
        else:
            assert equal(found, case.decoded)

    def test_peer_decodes(self, case: CodecCase) -> None:
        """What the codec encodes, others decode to the same: a chunk as it is, one that holds one value many
        times, and one of noise."""
        if case.peer is None:
            return
        chunks = [case.values]
        if case.codec.kind == "bytes" and case.spec.nbytes:  # which lose nothing
            noise = np.random.default_rng(1).integers(0, 256, case.spec.nbytes, np.uint8)
            chunks.append(np.full_like(case.values, case.values.flat[0]))
            if case.values.dtype.kind in "iu":
                chunks.append(noise.view(case.values.dtype).reshape(case.values.shape))
        for values in chunks:
            encoded = as_bytes(case.codec.encode(values, case.spec)).tobytes()
            found = as_array(case.peer(encoded), case.spec)
            expected = case.decoded if values is case.values else values
            if case.tolerance:
                assert np.allclose(found, expected, rtol=0, atol=case.tolerance)
            else:
                assert equal(found.astype(expected.dtype, copy=False).reshape(expected.shape), expected)

    def test_sizes_are_true(self, case: CodecCase) -> None:
        """A size that the codec declares is the size it has."""
        declared = case.codec.encoded(case.spec).nbytes
        assert declared in (None, len(case.encoded))
        assert declared in (None, as_bytes(case.codec.encode(case.values, case.spec)).nbytes)

    def test_out(self, case: CodecCase) -> None:
        """Decoding into `out`, wherever it lies, gives the same and writes nothing beside it."""
        if case.spec.nbytes is None:
            assert case.spec.dtype.kind in "OT"  # objects have no bytes to decode into
            return
        for offset in (64, 65):
            memory = np.full(case.spec.nbytes + 2 * offset, 0xA5, np.uint8)
            found = case.codec.decode(case.encoded, case.spec, memory[offset : offset + case.spec.nbytes])
            assert equal(as_array(found, case.spec), case.decoded)
            assert (memory[:offset] == 0xA5).all()
            assert (memory[offset + case.spec.nbytes :] == 0xA5).all()

    def test_configuration(self, case: CodecCase) -> None:
        """The configuration is JSON, makes the codec again, and refuses what it does not know."""
        make = case.remake or type(case.codec).from_config
        configuration = json.loads(json.dumps(case.codec.to_config()))
        assert make(configuration) == case.codec
        assert hash(make(configuration)) == hash(case.codec)
        try:
            make({**configuration, "no such option": 1})
        except MetadataError as error:
            assert case.codec.name in str(error)  # noqa: PT017
        else:
            raise AssertionError("an unknown option is accepted")

    def test_is_frozen(self, case: CodecCase) -> None:
        """A codec is a value."""
        for field in fields(case.codec):
            try:
                setattr(case.codec, field.name, None)
            except AttributeError:
                continue
            raise AssertionError(f"{field.name} can be changed")

    def test_elementwise(self, case: CodecCase) -> None:
        """Where values are encoded one by one, a part of the chunk encodes to a part of the result."""
        if not case.codec.elementwise or not case.values.ndim:
            return
        part = case.values[1:]
        spec = ChunkSpec.of(part.shape, part.dtype)
        whole = as_array(case.codec.encode(case.values, case.spec), case.codec.encoded(case.spec))
        encoded = as_array(case.codec.encode(part, spec), case.codec.encoded(spec))
        assert equal(encoded, whole[1:])
        assert equal(as_array(case.codec.decode(encoded, spec), spec), case.decoded[1:])

    def test_truncated(self, case: CodecCase) -> None:
        """A chunk that was cut off anywhere is an error, never a result."""
        lengths = {
            *range(min(len(case.encoded), 40)),
            *range(max(len(case.encoded) - 20, 0), len(case.encoded)),
        }
        for length in lengths:
            assert self._decoded(case, case.encoded[:length]) is None, f"{length} bytes decode"

    def test_overlong(self, case: CodecCase) -> None:
        """A chunk with something behind it is an error or what it was."""
        for behind in (b"\0", b"\xff" * 8, bytes(16), case.encoded):
            found = self._decoded(case, case.encoded + behind)
            assert found is None or equal(found, case.decoded)

    def test_mutated(self, case: CodecCase) -> None:
        """A chunk with other bytes in it is an error or decodes to as much as it should."""
        random = np.random.default_rng(len(case.encoded))
        for _ in range(MUTATIONS):
            damaged = np.frombuffer(case.encoded, np.uint8).copy()
            near = random.integers(
                0, min(len(damaged), int(random.choice((8, 32, len(damaged))))), int(random.integers(1, 5))
            )
            damaged[near] = random.choice((0, 1, 0x7F, 0x80, 0xFF, int(random.integers(256))), len(near))
            self._decoded(case, damaged.tobytes())

    def test_promises(self, case: CodecCase) -> None:
        """A chunk that decodes to one value more or less than promised is an error."""
        shape = case.values.shape
        for wrong in ((shape[0] + 1, *shape[1:]), (shape[0] - 1, *shape[1:])):
            spec = ChunkSpec.of(wrong, case.values.dtype)
            try:
                found = as_array(bind((case.codec,), wrong, spec.dtype).decode(case.encoded), spec)
            except GpuzarrError:
                continue
            raise AssertionError(f"{found.shape} for {wrong}")

    def test_limit(self, case: CodecCase) -> None:
        """Where nothing is promised, no more bytes than the configuration allows."""
        if case.codec.kind != "bytes" or case.spec.nbytes is None:
            return
        spec = replace(case.spec.opaque(None), dtype=case.spec.dtype)
        with config.configured(max_chunk_nbytes=case.spec.nbytes):
            assert as_bytes(case.codec.decode(case.encoded, spec)).tobytes() == case.decoded.tobytes()
        with config.configured(max_chunk_nbytes=case.spec.nbytes - 1):
            try:
                case.codec.decode(case.encoded, spec)
            except GpuzarrError:
                return
            raise AssertionError("decodes to more than max_chunk_nbytes")

    def _decoded(self, case: CodecCase, chunk: Buffer) -> NDArray[Any] | None:
        """What a damaged chunk decodes to, of the right shape and type; None if that is a GpuzarrError."""
        try:
            found = case.chain.decode(chunk)
        except GpuzarrError:
            return None
        assert found.shape == case.decoded.shape
        # the chain leaves the byte order to whoever copies the chunk into a result
        assert found.dtype.newbyteorder("=") == case.decoded.dtype.newbyteorder("=")
        return found.astype(case.decoded.dtype, copy=False)
