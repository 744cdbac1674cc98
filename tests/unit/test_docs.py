"""The pages say what is so: tables are fresh, links and paths lead somewhere, every error has advice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import gpuzarr.errors
from gpuzarr.meta import dtypes
from tests import docs_tables

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docker/*.md")])
LINK = re.compile(r"\[[^\]]*\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")
INNER = re.compile(r"`(?:\w+ )?((?:gpuzarr|kernels|tests|docker|docs|benchmarks)/[\w./-]*)")


@pytest.fixture
def _all_types() -> None:
    pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed, and the tables list its types")


@pytest.mark.usefixtures("_all_types")
@pytest.mark.parametrize("name", docs_tables.PAGES)
def test_tables_are_fresh(name: str) -> None:
    """If this fails: python -m tests.docs_tables."""
    page = (docs_tables.DOCS / name).read_text(encoding="utf-8")
    assert docs_tables.render(page) == page


def test_every_table_is_on_a_page() -> None:
    pages = "".join((docs_tables.DOCS / name).read_text(encoding="utf-8") for name in docs_tables.PAGES)
    assert sorted(re.findall(r"<!-- table: (\w+) -->", pages)) == sorted(docs_tables.TABLES)


def test_a_stale_table_is_made_anew() -> None:
    page = "before\n<!-- table: errors -->\nstale\n<!-- end -->\nafter"
    fresh = docs_tables.render(page)
    assert "stale" not in fresh
    assert "ChecksumError" in fresh
    assert fresh.startswith("before\n<!-- table: errors -->\n")
    assert fresh.endswith("\n<!-- end -->\nafter")


def test_every_type_is_listed() -> None:
    listed = [name for names, _, _ in docs_tables.TYPES for name in names if isinstance(name, str)]
    assert set(listed) >= dtypes.CORE | dtypes.SMALL


def test_every_error_has_advice_and_its_place_in_the_tree() -> None:
    classes = [
        one
        for one in vars(gpuzarr.errors).values()
        if isinstance(one, type) and issubclass(one, gpuzarr.GpuzarrError) and one is not gpuzarr.GpuzarrError
    ]
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    assert re.findall(r"^### (\w+)$", page, re.MULTILINE) == [one.__name__ for one in classes]
    drawn = docs_tables.tree().splitlines()
    for one in classes:
        parent, *builtins = [base.__name__ for base in one.__bases__]
        line = next(line for line in drawn if f"── {one.__name__} " in line)
        assert all(builtin in line for builtin in builtins)
        assert line.startswith(("├", "└")) == (parent == "GpuzarrError")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    missing += [path for path in INNER.findall(text) if not (ROOT / path).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    code = re.findall(r"`make ([a-z-]+)|^make ([a-z-]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert {one or other for one, other in code} <= targets
