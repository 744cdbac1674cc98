"""Reference sets as JSON: what fsspec makes of them, with Jinja; and documents that lie."""

from __future__ import annotations

import base64
import gzip
import json
import tracemalloc
import zlib
from typing import Any

import numcodecs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuzarr
from gpuzarr.errors import (
    GpuzarrError,
    LimitError,
    MetadataError,
    StoreError,
    UnsupportedError,
)
from gpuzarr.store.base import Request
from gpuzarr.store.memory import MappingStore
from gpuzarr.store.references import ReferenceStore, open_reference_set, open_references
from gpuzarr.store.references.document import Document, Part
from gpuzarr.store.references.templates import Template

KEY = {"v/0": ["x", 0, 1]}


def opened(text: bytes | Any, name: str = "refs.json") -> ReferenceStore:
    stored = text if isinstance(text, bytes) else json.dumps(text).encode()
    return open_references(MappingStore({name: stored}), name)


def theirs(document: dict[str, Any]) -> dict[str, Any]:
    """What fsspec makes of a set: key -> [url, …] or text."""
    pytest.importorskip("jinja2", reason="jinja2 is not installed, with which fsspec renders templates")
    from fsspec.implementations.reference import ReferenceFileSystem

    made = ReferenceFileSystem(
        json.loads(json.dumps(document)), simple_templates=False, remote_protocol="memory"
    )
    return {key: list(one) if isinstance(one, list) else one for key, one in made.references.items()}


def _spaced(found: Any) -> Any:
    """A JSON object as Python writes it: fsspec may use another library."""
    return json.dumps(json.loads(found)) if isinstance(found, str) and found[:1] == "{" else found


def ours(document: dict[str, Any]) -> dict[str, Any]:
    made = Document(document, "set", {})
    found = {key: made.known(key) for key in made.list("")}
    return {key: _listed(one) for key, one in found.items()}


def _listed(found: Any) -> Any:
    if not isinstance(found, Part):
        return bytes(found).decode()
    return [found.url] if found.nbytes is None else list(found)


# ---- as fsspec reads them

SPECIFICATION = {
    "version": 1,
    "templates": {"u": "server.domain/path", "f": "{{c}}"},
    "gen": [
        {
            "key": "gen_key{{i}}",
            "url": "http://{{u}}_{{i}}",
            "offset": "{{(i + 1) * 1000}}",
            "length": "1000",
            "dimensions": {"i": {"stop": 5}},
        }
    ],
    "refs": {
        "key0": "data",
        "key1": ["http://target_url", 10000, 100],
        "key2": ["http://{{u}}", 10000, 100],
        "key3": ["http://{{f(c='text')}}", 10000, 100],
    },
}


def test_the_example_of_the_specification() -> None:
    """It evaluates to what is printed there, and by fsspec."""
    expected = {
        "key0": "data",
        "key1": ["http://target_url", 10000, 100],
        "key2": ["http://server.domain/path", 10000, 100],
        "key3": ["http://text", 10000, 100],
        **{f"gen_key{i}": [f"http://server.domain/path_{i}", 1000 * (i + 1), 1000] for i in range(5)},
    }
    assert ours(SPECIFICATION) == expected == theirs(SPECIFICATION)


names = st.sampled_from(["i", "j", "u", "blob"])
numbers = st.integers(0, 40)
texts = st.text("ab_/.}% ", max_size=6)


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    signs = st.sampled_from([" + ", " - ", "*", "//", " % ", "/"])
    return st.one_of(
        st.tuples(inner, signs, inner).map("({0[0]}{0[1]}{0[2]})".format),
        st.tuples(inner, signs, inner).map("{0[0]}{0[1]}{0[2]}".format),
        inner.map("(-{})".format),
        st.tuples(inner, st.sampled_from(["**2", "**3", "**0", " ** (-1)"])).map("".join),
        inner.map(" {} ".format),
    )


expressions = st.recursive(
    st.one_of(numbers.map(str), st.sampled_from(["i", "j", "u", "nobody", "'text'", "\"a\" + 'b'"])),
    _grown,
    max_leaves=5,
)


@given(expressions)
@settings(max_examples=300)
def test_expressions(expression: str) -> None:
    """What is rendered is what Jinja renders; what Jinja renders and we do not has a reason."""
    jinja2 = pytest.importorskip("jinja2", reason="jinja2 is not installed")
    known: dict[str, Any] = {"i": 3, "j": 17, "u": "path"}
    text = "a{{" + expression + "}}b"
    try:
        found = Template.parse(text).render(known)
    except (LimitError, UnsupportedError):
        assert "**" in expression or expression[0] in "+-" or expression[-1] in "+-"
        return
    except MetadataError:
        found = None
    try:
        expected = jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(text).render(known)
    except (ArithmeticError, MemoryError, TypeError, ValueError, jinja2.TemplateError):
        expected = None
    if found is None and expected is not None:
        # arithmetic with text: Jinja repeats and formats it
        assert any(word in expression for word in ("u", "'"))
    else:
        assert found == expected


whole = st.one_of(
    st.integers(0, 3).map(lambda stop: {"stop": stop}),
    st.tuples(st.integers(-3, 3), st.integers(-3, 3), st.sampled_from([-2, -1, 1, 2])).map(
        lambda one: dict(zip(("start", "stop", "step"), one, strict=True))
    ),
    st.lists(st.integers(0, 20), max_size=3),
    st.lists(st.sampled_from(["x", "y"]), max_size=2),
)
pieces = st.lists(
    st.one_of(
        texts, st.sampled_from(["{{i}}", "{{ j }}", "{{u}}", "{{f(c='z')}}", "{{f(c=i)}}", "{{f(c=u)}}"])
    ),
    min_size=1,
    max_size=4,
).map("".join)
sizes = st.sampled_from(["100", "{{i * 10}}", "{{4 + j * 7}}", "{{(i + 1) * (j + 2)}}", "{{ i - 1 }}"])


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    rule = {
        "key": "g/{{i}}." + draw(pieces),
        "url": draw(pieces),
        "dimensions": {"i": draw(whole), "j": draw(whole)},
    }
    if draw(st.booleans()):
        rule |= {"offset": draw(sizes), "length": draw(sizes)}
    plain = st.sampled_from(["a{{u}}", "{{u}}/{{f(c='n')}}", "{{ u }}", "no template", "{{f(c=u)}}{x}"])
    refs = {f"r/{i}": [draw(plain), i, 5] if i % 2 else [draw(plain)] for i in range(3)}
    return {
        "version": 1,
        "templates": {"u": draw(texts), "f": "<{{c}}>"},
        "gen": [rule, {**rule, "key": "h/{{i}}"}],
        "refs": {**refs, ".zgroup": '{"zarr_format": 2}', "g/1.": "b", "h/1": {"a": 1}},
    }


@given(documents())
@settings(max_examples=60)
def test_documents(document: dict[str, Any]) -> None:
    """Both make the same of it, or neither can; keys that no reader could ask for aside."""
    try:
        expected = theirs(document)
    except (TypeError, ValueError, ArithmeticError):
        with pytest.raises(GpuzarrError):
            ours(document)
        return
    try:
        ours(document)
    except MetadataError as error:
        assert "no offset or length" in str(error)  # noqa: PT017
        rule = document["gen"][0]
        assert "- 1" in rule["offset"] + rule["length"] or "-" in json.dumps(rule["dimensions"])
        return
    made = Document(document, "set", {})
    found = {key: made.known(key) for key in expected}
    assert {key: _listed(one) for key, one in found.items()} == {
        key: _spaced(one) for key, one in expected.items()
    }
    listed = set(made.list(""))
    assert listed <= set(expected)
    assert all("/" in key[-1:] or "//" in key or "." in key.split("/") for key in set(expected) - listed)


def test_rules_are_spelled_out_when_they_are_needed() -> None:
    rule = {"key": "g/{{i}}", "url": "x", "offset": "{{i}}", "length": "1", "dimensions": {"i": {"stop": 9}}}
    made = Document({"version": 1, "gen": [rule], "refs": {"g/.zarray": "{}"}}, "set", {})
    for key in ("zarr.json", "g/zarr.json", "g/.zarray", "h/1", "g/"):
        made.known(key)
        assert made._rules[0]._targets is None
    assert made.known("g/8") == Part("x", 8, 1)
    assert made.known("g/9") is None
    assert sorted(made.list_dir("g/")) == [".zarray", *map(str, range(9))]
    assert list(made.list_dir("")) == ["g"]


def test_version_0() -> None:
    document = {
        ".zgroup": {"zarr_format": 2},
        "a": "text {{u}}",
        "b": "base64:" + base64.b64encode(bytes(range(9))).decode(),
        "c": ["{{u}}", 1, 2],
        "d": ["e"],
    }
    store = opened(document)
    found = store.get_ranges([Request("a"), Request("b"), Request(".zgroup")])
    assert [bytes(one or b"") for one in found] == [b"text {{u}}", bytes(range(9)), b'{"zarr_format": 2}']
    assert Document(document, "set", {}).known("c") == Part("{{u}}", 1, 2)
    assert ours({"refs": KEY}) == KEY  # as kerchunk's functions pass it on


@pytest.mark.parametrize("pack", [gzip.compress, numcodecs.Zstd().encode])
def test_compressed(pack: Any) -> None:
    text = json.dumps({f"k{i}": "text" for i in range(1000)}).encode()
    assert sorted(opened(pack(text), "r.json.zst").list()) == sorted(json.loads(text))
    for damaged in (pack(text)[:-3], pack(text) + b"more", pack(text)[:20]):
        with pytest.raises(MetadataError):
            opened(damaged)
    with gpuzarr.configured(max_document_nbytes=1000), pytest.raises(LimitError):
        opened(pack(text))
    bomb = zlib.compress(bytes(1 << 20)) if pack is None else pack(bytes(64 << 20))
    with gpuzarr.configured(max_document_nbytes=1 << 20):
        tracemalloc.start()
        with pytest.raises(LimitError):
            opened(bomb)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 16 << 20


# ---- documents that lie


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff{}",
        b"[]",
        b'"text"',
        b"{",
        b"null",
        b'{"a": "x", "a": "y"}',
        b'{"version": 1, "refs": {"a": "x", "a": "y"}}',
        b'{"a":' + b"[" * 200_000,
        b"[" * 200_000,
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"zarr_format": 3, "node_type": "group"}',
        b'{"version": 2, "refs": {}}',
        b'{"version": true, "refs": {}}',
        b'{"version": 1, "refs": []}',
        b'{"version": 1, "templates": []}',
        b'{"version": 1, "templates": {"u": 5}}',
        b'{"version": 1, "templates": {"u": "{{"}}',
        b'{"version": 1, "gen": {}}',
    ],
)
def test_documents_that_are_none(text: bytes) -> None:
    with pytest.raises(MetadataError, match=r"memory:/refs\.json"):
        opened(text)


@pytest.mark.parametrize(
    "value",
    [
        *(None, 5, True, 1.5, [], [5], [["x"]], ["x", 0], ["x", 0, 1, 2], [{}, 0, 1], [True, 0, 1]),
        *(["x", -1, 5], ["x", 0, -5], ["x", 0.0, 5], ["x", "0", 5], ["x", 0, True], ["x", None, 5]),
        *(["x", 1 << 62, 1], ["x", 10**30, 1], ["x", 1, 10**30], ["x", 0, [1]]),
    ],
)
def test_references_that_are_none(value: Any) -> None:
    for document in ({"a/b": value}, {"version": 1, "refs": {"a/b": value}}):
        with pytest.raises(MetadataError, match=r"'a/b' of memory:/refs\.json"):
            opened(document)


@pytest.mark.parametrize("text", ["base64:=", "base64:é", "base64:AAA", "base64:AA A", "\ud800"])
def test_inline_bytes_that_are_none(text: str) -> None:
    store = opened(json.dumps({"a": text, "b": "good"}).encode())
    with pytest.raises(StoreError, match="a in memory:"):
        store.get_ranges([Request("a")])
    assert store.get_ranges([Request("b")]) == [b"good"]


def test_keys_that_lead_out() -> None:
    refs = dict.fromkeys(["../a", "/a", "a//b", "a/../b", ".", "", "a\\b", "b/", "/", "a"], "x")
    store = opened(refs)
    assert list(store.list()) == ["a"]
    assert list(store.list_dir()) == ["a"]
    assert list(store.list_dir("a/")) == []
    assert store.get_ranges([Request("b")]) == [None]


def test_inline_bytes_are_bounded_by_their_document() -> None:
    text = json.dumps({"a": "x" * 5000}).encode()
    with gpuzarr.configured(max_document_nbytes=1000), pytest.raises(LimitError, match="max_document_nbytes"):
        opened(text)


RULE = {"key": "g/{{i}}", "url": "x", "dimensions": {"i": {"stop": 3}}}


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (LimitError, {"dimensions": {"i": {"stop": 10**12}}}),
        (LimitError, {"dimensions": {f"i{n}": {"stop": 100} for n in range(50)}, "key": "g"}),
        (MetadataError, {"dimensions": {"i": {"stop": 10**40}}}),
        (MetadataError, {"dimensions": {"i": {"start": 0, "stop": 3, "step": 0}}}),
        (MetadataError, {"dimensions": {"i": {"start": 0}}}),
        (MetadataError, {"dimensions": {"i": {"stop": 3.0}}}),
        (MetadataError, {"dimensions": {"i": {"stop": True}}}),
        (MetadataError, {"dimensions": {"i": {"stop": 3, "more": 1}}}),
        (MetadataError, {"dimensions": {"i": "abc"}}),
        (MetadataError, {"dimensions": {"i": [[1]]}}),
        (MetadataError, {"dimensions": {"i": [True]}}),
        (MetadataError, {"dimensions": []}),
        (MetadataError, {"dimensions": {"u": [1]}, "key": "g"}),
        (MetadataError, {"key": 1.5}),
        (MetadataError, {"url": None}),
        (MetadataError, {"key": "g/{{k}}"}),
        (MetadataError, {"key": "g/{{i"}),
        (MetadataError, {"key": "g/{{}}"}),
        (MetadataError, {"key": "g/{{i i}}"}),
        (MetadataError, {"offset": "0"}),
        (MetadataError, {"offset": "{{i - 5}}", "length": "1"}),
        (MetadataError, {"offset": "{{i / 2}}", "length": "1"}),
        (MetadataError, {"offset": "{{2 ** 62 + 2 ** 61}}", "length": "1"}),
        (MetadataError, {"offset": "{{1 // i}}", "length": "1"}),
        (MetadataError, {"offset": "{{1 % i}}", "length": "1"}),
        (MetadataError, {"url": "{{'a' * 1000}}"}),
        (MetadataError, {"url": "{{'%99999999d' % i}}"}),
        (MetadataError, {"url": "{{f}}"}),
        (MetadataError, {"url": "{{f(c=f)}}"}),
        (MetadataError, {"url": "{{u(c=1)}}"}),
        (MetadataError, {"url": "{{i(c=1)}}"}),
        (MetadataError, {"url": "{{f(d=1)}}"}),
        (LimitError, {"offset": "{{2 ** 64}}", "length": "1"}),
        (LimitError, {"offset": "{{(9 ** 9) ** 9}}", "length": "1"}),
        (LimitError, {"offset": "{{2 ** 1000000000}}", "length": "1"}),
        (LimitError, {"offset": "{{((10 ** 18) * 10)}}", "length": "1"}),
        (LimitError, {"url": "{{" + "f(c=" * 60 + "'ab'" + ")" * 60 + "}}"}),
        (LimitError, {"url": "{{" + "d(c=" * 30 + "'abcdef'" + ")" * 30 + "}}"}),
        (LimitError, {"url": "{{" + "(" * 60 + "i" + "+1)" * 60 + "}}"}),
        (LimitError, {"url": "{{" + "1+" * 600 + "1}}"}),
        (UnsupportedError, {"url": "{{-i}}"}),
        (UnsupportedError, {"url": "{{ 2 ** 3 ** 2 }}"}),
        (UnsupportedError, {"url": "{{ (0 - 2) ** 2 }}"}),
        (UnsupportedError, {"url": "{{ i | string }}"}),
        (UnsupportedError, {"url": "{{ i.real }}"}),
        (UnsupportedError, {"url": "{{ [i] }}"}),
        (UnsupportedError, {"url": "{{ i if i else u }}"}),
        (UnsupportedError, {"url": "{{ f('x') }}"}),
        (UnsupportedError, {"url": "{{ f(**u) }}"}),
        (UnsupportedError, {"url": "{{ ().__class__ }}"}),
        (UnsupportedError, {"url": "{{ True }}"}),
        (UnsupportedError, {"url": "{{ 1j }}"}),
        (UnsupportedError, {"url": "{{" + "[" * 150 + "]" * 150 + "}}"}),
        (MetadataError, {"url": "{{" + "(" * 450 + ")" * 450 + "}}"}),
        (LimitError, {"url": "{{ " + "-" * 900 + "1}}"}),
        (UnsupportedError, {"url": "{% if i %}{{i}}{% endif %}"}),
        (UnsupportedError, {"url": "{{ i }}{# comment #}"}),
    ],
)
def test_rules_that_ask_for_too_much(kind: type[GpuzarrError], change: dict[str, Any]) -> None:
    """One error that names the rule, when the set is opened, or when it is spelled out; and no memory."""
    document = {
        "version": 1,
        "templates": {"u": "path", "f": "{{c}}", "d": "{{c}}{{c}}{{c}}"},
        "gen": [RULE, {**RULE, **change}],
        "refs": {},
    }
    tracemalloc.start()
    try:
        with pytest.raises(GpuzarrError) as raised:
            opened(document).get_ranges([Request("g/2")])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(raised.value, kind), repr(raised.value)
    assert peak < 8 << 20
    assert "gen" in str(raised.value) or "g/" in str(raised.value)


def test_rules_that_render_to_much() -> None:
    """Few in number, each as long as allowed."""
    rule = {**RULE, "url": "{{d(c=d(c=d(c='" + "x" * 900 + "')))}}{{i}}", "dimensions": {"i": {"stop": 5000}}}
    document = {"version": 1, "templates": {"d": "{{c}}{{c}}{{c}}"}, "gen": [rule]}
    with gpuzarr.configured(max_document_nbytes=1 << 20):
        store = opened(document)
        with pytest.raises(LimitError, match="max_document_nbytes"):
            store.exists("g/4")


@pytest.mark.parametrize("text", ["{{u}}", "{{nobody}}", "a{{f}}", "{{u(c=1)}}", "{{", "{{f(c=1)"])
def test_templates_that_name_nothing(text: str) -> None:
    """Also one that names itself: a template knows its arguments alone."""
    with pytest.raises(MetadataError, match=r"memory:/refs\.json"):
        opened({"version": 1, "templates": {"u": "{{u}}", "f": "{{c}}"}, "refs": {"a": [text]}})


def test_overrides() -> None:
    document = {"version": 1, "templates": {"u": "old"}, "refs": {"a": ["{{u}}/x"]}}
    store = open_reference_set(document, {"template_overrides": {"u": "memory://new"}})
    assert store._references.known("a") == Part("memory://new/x", 0, None)
