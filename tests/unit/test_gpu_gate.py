"""`make test-gpu` says what it needs where that is missing."""

from __future__ import annotations

import ctypes
import importlib.util

import pytest

import tests.gpu.__main__ as gate


def test_it_names_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_driver(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", no_driver)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert gate.main() == 1
    said = capsys.readouterr().out
    assert "libcuda.so.1" in said
    assert 'pip install "gpuzarr[cuda13]"' in said
