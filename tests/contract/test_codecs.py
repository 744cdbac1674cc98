"""Every registered codec passes the CodecContract on chunks that other software encoded."""

from __future__ import annotations

import base64
import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest

from gpuzarr.codecs import registry
from gpuzarr.codecs.generic import Generic
from gpuzarr.testing.codec import CodecCase, CodecContract

GOLDEN = Path(__file__).parents[1] / "data" / "codecs" / "golden.json"


def _array(values: Any, entry: dict[str, Any]) -> np.ndarray:
    if entry["dtype"] != "|O":
        return np.frombuffer(base64.b64decode(values), entry["dtype"]).reshape(entry["shape"])
    array = np.empty(len(values), object)
    for i, value in enumerate(values):
        if "item" in entry:
            value = np.array(value, entry["item"])
        array[i] = bytes.fromhex(value["bytes"]) if isinstance(value, dict) and "bytes" in value else value
    return array.reshape(entry["shape"])


@cache
def _entries() -> tuple[dict[str, Any], ...]:
    return tuple(json.loads(GOLDEN.read_text(encoding="utf-8")))


def _case(entry: dict[str, Any]) -> CodecCase:
    codec = registry.from_v2(entry["v2"]) if "v2" in entry else registry.from_v3(*entry["v3"])
    remake = None
    if isinstance(codec, Generic):
        wrapper = codec

        def remake(configuration: Any) -> Generic:
            return Generic.find(wrapper.name, wrapper.v2_name, configuration)

    peer = None
    if "v2" in entry:  # what numcodecs has, its codecs decode

        def peer(encoded: bytes) -> Any:
            return numcodecs.get_codec(entry["v2"]).decode(encoded)

    return CodecCase(
        codec,
        _array(entry["values"], entry),
        base64.b64decode(entry["encoded"]),
        _array(entry.get("decoded", entry["values"]), entry),
        entry.get("tolerance", 0),
        remake,
        peer,
    )


def _available(entry: dict[str, Any]) -> bool:
    return "needs" not in entry or importlib.util.find_spec(entry["needs"]) is not None


class TestCodecs(CodecContract):
    """All of them."""

    def cases(self) -> list[CodecCase]:
        return [_case(entry) for entry in _entries() if _available(entry)]


def _packages() -> list[str]:
    return sorted({entry["needs"] for entry in _entries() if "needs" in entry})


@pytest.mark.parametrize("package", _packages())
def test_optional_packages(package: str) -> None:
    """Names the packages whose codecs were left out above."""
    pytest.importorskip(package, reason=f"{package} is not installed: its codec has no contract test here")
    assert any(entry.get("needs") == package and _available(entry) for entry in _entries())


def test_every_codec_has_a_case() -> None:
    v3, v2 = registry.names()
    tried = {type(_case(entry).codec) for entry in _entries()}
    assert {cls.__name__ for cls in {*v3.values(), *v2.values()} - tried} == set()


@pytest.mark.parametrize("form", ["v2", "v3"])
def test_every_name_finds_its_codec(form: str) -> None:
    for name, cls in registry.names()[form == "v2"].items():
        entry = next(e for e in _entries() if type(_case(e).codec) is cls)
        configuration = _case(entry).codec.to_config()
        made = (
            registry.from_v3(name, configuration)
            if form == "v3"
            else registry.from_v2({"id": name, **configuration})
        )
        assert type(made) is cls
