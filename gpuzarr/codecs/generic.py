"""Any codec that is registered with numcodecs and unknown here, on the host, behind one wrapper.

It reads whatever numcodecs can reach: plugins, and imagecodecs' formats, which are registered when one of
them is asked for. What such a codec makes of hostile bytes is its own affair; what it returns is compared
with what the metadata promise."""

from __future__ import annotations

import difflib
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Self

import numpy as np
from numcodecs import registry as numcodecs_registry
from numpy.typing import NDArray

from gpuzarr.codecs.base import Buffer, ChunkSpec, Codec, as_array, check_size
from gpuzarr.codecs.registry import names
from gpuzarr.errors import MetadataError, MissingDependencyError, UnsupportedError


@dataclass(frozen=True, slots=True)
class Generic(Codec):
    """`document` is the configuration as JSON, without the id."""

    name: str = ""  # type: ignore[misc]  # of this codec, not of its class
    v2_name: str = ""
    document: str = "{}"
    wrapped: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def find(cls, name: str, v2_name: str, configuration: Mapping[str, Any]) -> Self:
        """The codec that numcodecs has under `v2_name`. One that it has not is an UnsupportedError."""
        if v2_name == "pickle":
            raise UnsupportedError("pickle runs code that the data brings along", codec=name)
        if v2_name.startswith("imagecodecs_"):
            _register_imagecodecs()
        options = {key: value for key, value in configuration.items() if key != "id"}
        known = numcodecs_registry.codec_registry.keys() | numcodecs_registry.entries.keys()
        if v2_name not in known:
            v3, v2 = names()
            near = difflib.get_close_matches(name, [*v3, *v2, *known], n=2)
            raise UnsupportedError(
                f"no codec is called {name!r}",
                codec=name,
                hint=(f"is it {' or '.join(near)}? " if near else "")
                + "numcodecs.registry.register_codec adds a codec of your own",
            )
        try:
            document = json.dumps(options, sort_keys=True)
            wrapped = numcodecs_registry.get_codec({"id": v2_name, **options})
        except ImportError as error:
            raise MissingDependencyError(f"codec {name!r} cannot be loaded: {error}", codec=name) from error
        except (TypeError, ValueError) as error:
            raise MetadataError(f"bad configuration: {error}", codec=name) from error
        return cls(name, v2_name, document, wrapped)

    @classmethod
    def from_config(cls, configuration: Mapping[str, Any]) -> Self:
        """From the id and the options in one, as in a v2 document."""
        name = configuration.get("id")
        if not isinstance(name, str):
            raise MetadataError(f"a codec without an id: {dict(configuration)!r}")
        return cls.find(name, name, configuration)

    def to_config(self) -> dict[str, Any]:
        """The options it was made from."""
        options: dict[str, Any] = json.loads(self.document)
        return options

    def decode(self, chunk: Buffer, decoded: ChunkSpec, out: NDArray[np.uint8] | None = None) -> Buffer:
        """Whatever the codec returns, if it is of the right size."""
        plain: Buffer = self.wrapped.decode(chunk)
        if decoded.dtype.kind in "OT":
            return as_array(plain, decoded)
        check_size(plain.nbytes if isinstance(plain, np.ndarray | memoryview) else len(plain), decoded)
        return plain

    def encode(self, chunk: Buffer, decoded: ChunkSpec) -> Buffer:
        """It is given an array of the chunk's shape."""
        stored: Buffer = self.wrapped.encode(np.ascontiguousarray(as_array(chunk, decoded)))
        return stored


@cache
def _register_imagecodecs() -> None:
    try:
        module = importlib.import_module("imagecodecs.numcodecs")
    except ImportError as error:
        raise MissingDependencyError(
            "imagecodecs is not installed", hint="pip install 'gpuzarr[image]'"
        ) from error
    module.register_codecs(verbose=False)
