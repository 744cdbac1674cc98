"""The tables of docs/formats.md and docs/errors.md, made from the code they describe.

    python -m tests.docs_tables

writes them between `<!-- table: NAME -->` and `<!-- end -->`. tests/unit/test_docs.py fails while a page
differs from what would be written. Cells about formats and types are not claims: a document that asks for the
feature is opened, and the cell says what came of it.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import gpuzarr
from gpuzarr import errors
from gpuzarr.codecs import registry
from gpuzarr.codecs.base import Codec
from gpuzarr.codecs.chain import bind
from gpuzarr.codecs.sharding import Sharding
from gpuzarr.meta import dtypes

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("formats.md", "errors.md")

BITS = (8, 16, 32, 64)
# Zarr v3 names and v2 codes of each type, and a v3 fill value for it.
TYPES: list[tuple[list[Any], list[Any], Any]] = [
    (["bool"], ["|b1"], False),
    *(([f"int{bits}"], [np.dtype(f"i{bits // 8}").str], 0) for bits in BITS),
    *(([f"uint{bits}"], [np.dtype(f"u{bits // 8}").str], 0) for bits in BITS),
    *(([f"float{bits}"], [f"<f{bits // 8}"], 0.0) for bits in BITS[1:]),
    *(([f"complex{bits}"], [f"<c{bits // 8}"], [0.0, 0.0]) for bits in (64, 128)),
    *(([name], [name], 0) for name in sorted(dtypes.SMALL)),
    ([("numpy.datetime64", {"unit": "ns", "scale_factor": 1})], ["<M8[ns]"], 0),
    ([("numpy.timedelta64", {"unit": "s", "scale_factor": 1})], ["<m8[s]"], 0),
    ([("fixed_length_utf32", {"length_bytes": 20})], ["<U5"], ""),
    ([("null_terminated_bytes", {"length_bytes": 5})], ["|S5"], ""),
    (["r24", ("raw_bytes", {"length_bytes": 3})], ["|V3"], "AAAA"),
    ([("struct", {"fields": [["a", "int32"], ["b", "int8"]]})], [[["a", "<i4"], ["b", "|i1"]]], "AAAAAAA="),
    (["string"], [], ""),
    (["variable_length_bytes", "bytes"], [], ""),
]
V2_OBJECTS: dict[str, Any] = {
    "vlen-utf8": {},
    "vlen-bytes": {},
    "vlen-array": {"dtype": "<i4"},
    "json2": {},
    "pickle": {},
}
SERIALIZERS = {"string": "vlen-utf8", "variable_length_bytes": "vlen-bytes", "bytes": "vlen-bytes"}


def _named(name: str, **configuration: Any) -> dict[str, Any]:
    """An extension point of Zarr v3."""
    return {"name": name, "configuration": configuration}


LITTLE, BIG = _named("bytes", endian="little"), _named("bytes", endian="big")


def _shard(inner: Any = LITTLE, size: int = 2, **changes: Any) -> dict[str, Any]:
    index = [LITTLE, {"name": "crc32c"}]
    return _named(
        "sharding_indexed", **{"chunk_shape": [size], "codecs": [inner], "index_codecs": index, **changes}
    )


DELTA, ZLIB = {"id": "delta", "dtype": "<i2"}, {"id": "zlib", "level": 1}
MIXED = [["a", ">i4"], ["b", "<f8"]]
RECTILINEAR = _named("rectilinear", kind="inline", chunk_shapes=[[1, 3]])
TRANSPOSE, GZIP = _named("transpose", order=[0]), _named("gzip", level=1)

# What a document asks for, and how it differs from a plain one.
V2: list[tuple[str, dict[str, Any]]] = [
    ("`order: F`", {"shape": [4, 4], "chunks": [4, 4], "order": "F"}),
    ("any byte order, a different one for each field", {"dtype": MIXED, "fill_value": None}),
    ("`dimension_separator: /`", {"dimension_separator": "/"}),
    ("`fill_value: null`", {"fill_value": None}),
    ("NaN and infinities as fill values", {"fill_value": "-Infinity", "dtype": "<f4"}),
    ("filters and a compressor", {"filters": [DELTA], "compressor": ZLIB}),
    ("object codec `pickle`", {"dtype": "|O", "filters": [{"id": "pickle"}]}),
    ("a codec that nobody has registered", {"compressor": {"id": "snappy"}}),
]
V3: list[tuple[str, dict[str, Any]]] = [
    ("chunk grid `regular`", {}),
    ("chunk grid `rectilinear` (ZEP 3)", {"chunk_grid": RECTILINEAR}),
    ("key encodings `default` and `v2`", {"chunk_key_encoding": _named("v2", separator="/")}),
    ("extensions as plain names", {"chunk_key_encoding": "default"}),
    ("`dimension_names`", {"dimension_names": ["x"]}),
    ("fill values as bits in hexadecimal", {"data_type": "float32", "fill_value": "0x7fc00001"}),
    ("`sharding_indexed`, index at the end", {"codecs": [_shard()]}),
    ("`sharding_indexed`, index at the start", {"codecs": [_shard(index_location="start")]}),
    ("`sharding_indexed`, index without checksum", {"codecs": [_shard(index_codecs=[LITTLE])]}),
    ("shards in shards", {"codecs": [_shard(_shard(size=1))]}),
    ("transpose outside a shard", {"codecs": [TRANSPOSE, _shard()]}),
    ("bytes codecs behind a shard (fetched whole)", {"codecs": [_shard(), GZIP]}),
    ("the codec name `endian`", {"codecs": [{**BIG, "name": "endian"}]}),
    ("unknown fields with `must_understand: false`", {"new": {"name": "new", "must_understand": False}}),
    ("unknown fields without it", {"new": {"name": "new"}}),
    ("storage transformers", {"storage_transformers": [{"name": "indirect"}]}),
]


def v3(**changes: Any) -> gpuzarr.Array:
    """An array of four int16 in one chunk, changed."""
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [4],
        "data_type": "int16",
        "chunk_grid": _named("regular", chunk_shape=[4]),
        "chunk_key_encoding": {"name": "default"},
        "codecs": [LITTLE],
        "fill_value": 0,
    }
    return gpuzarr.open_array({"zarr.json": json.dumps(document | changes).encode()}, device="cpu")


def v2(**changes: Any) -> gpuzarr.Array:
    """The same in Zarr v2."""
    document = {
        "zarr_format": 2,
        "shape": [4],
        "chunks": [4],
        "dtype": "<i2",
        "order": "C",
        "fill_value": 0,
        "filters": None,
        "compressor": None,
    }
    return gpuzarr.open_array({".zarray": json.dumps(document | changes).encode()}, device="cpu")


def _refused(error: gpuzarr.GpuzarrError) -> str:
    return f"{type(error).__name__}: {error.what}"


def _outcome(make: Callable[..., gpuzarr.Array], changes: dict[str, Any]) -> str:
    try:
        array = make(**changes)
        array[...]  # of missing chunks: the plan and the fill value
    except gpuzarr.GpuzarrError as error:
        return _refused(error)
    return "read"


def _table(head: str, rows: Sequence[Sequence[str]]) -> str:
    names = head.split(" | ")
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines)


def features() -> str:
    """What documents of both versions may ask for."""
    rows = [("v2", label, _outcome(v2, changes)) for label, changes in V2]
    rows += [("v3", label, _outcome(v3, changes)) for label, changes in V3]
    return _table("version | feature | outcome", rows)


def types() -> str:
    """Every data type, by its names."""
    rows = []
    for names, codes, fill in TYPES:
        arrays = [v3(data_type=_type(name), fill_value=fill, codecs=_serializer(name)) for name in names]
        arrays += [v2(dtype=code, fill_value=None) for code in codes]
        (dtype,) = {array.dtype for array in arrays}
        (place,) = {_place(array) for array in arrays}
        texts = [code if isinstance(code, str) else json.dumps(code) for code in codes]
        shown = [name if isinstance(name, str) else name[0] for name in names]
        rows.append((_code(shown), _code(texts), f"`{dtype}`", place))
    for name, options in V2_OBJECTS.items():
        code = f"`|O` with `{name}`"
        try:
            array = v2(dtype="|O", filters=[{"id": name, **options}], fill_value=None)
            rows.append(("", code, f"`{array.dtype}`", _place(array)))
        except gpuzarr.GpuzarrError as error:
            rows.append(("", code, _refused(error), ""))
    return _table("v3 | v2 | in NumPy | decoded on", rows)


def _type(name: Any) -> Any:
    return name if isinstance(name, str) else _named(name[0], **name[1])


def _serializer(name: Any) -> list[Any]:
    known = isinstance(name, str) and name in SERIALIZERS
    return [{"name": SERIALIZERS[name]}] if known else [LITTLE]


def _place(array: gpuzarr.Array) -> str:
    """Where plain chunks of the array are decoded, if it is opened on a device."""
    meta = array.metadata
    chain = meta.chain(array.shape)
    return "device" if meta.has_bytes and chain.device_from == 0 else "host"


def codecs() -> str:
    """The registered codecs."""
    by_v3, by_v2 = registry.names()
    classes = dict.fromkeys([*by_v3.values(), *by_v2.values()])
    rows = []
    for cls in sorted(classes, key=lambda one: one.name.removeprefix("numcodecs.")):
        names = [name for name, found in by_v3.items() if found is cls]
        old = [name for name, found in by_v2.items() if found is cls]
        module = inspect.getmodule(cls)
        assert module is not None
        extra = re.search(r"gpuzarr\[(\w+)\]", inspect.getsource(module))
        note = f" Extra `{extra[1]}`." if extra else ""
        rows.append((_code(names), _code(old), _sentence(module.__doc__) + note, _host(cls), _device(cls)))
    return _table("v3 | v2 | what | host | device", rows)


def _code(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _sentence(text: str | None) -> str:
    """The first sentence of a docstring."""
    flat = " ".join((text or "").partition("\n\n")[0].split())
    return re.split(r"(?<=[.)])\s(?=[A-Z])", flat)[0]


def _host(cls: type[Codec]) -> str:
    return "yes" if cls.decode is not Codec.decode else "no"


def _device(cls: type[Codec]) -> str:
    """Whether N chunks decode in one launch, and when not: the reasons that the codec itself gives."""
    if issubclass(cls, Sharding):
        return "addressing: it decodes nothing"
    if cls.name in ("bytes", "transpose"):
        made = cls.from_config({"endian": "big"} if cls.name == "bytes" else {"order": "F"})
        assert not bind((made,), (2, 2), dtypes.from_v3("int16")).stages
        return "in the copy into the result"
    if cls.decode_batch is Codec.decode_batch:
        return "no"
    reasons = _reasons(cls)
    return "yes" + (f", not for: {'; '.join(reasons)}" if reasons else "")


def _reasons(cls: type[Codec]) -> list[str]:
    """The string literals that `host_only` can return."""
    function = ast.parse(textwrap.dedent(inspect.getsource(cls.host_only))).body[0]
    assert isinstance(function, ast.FunctionDef)
    found: list[str] = []
    for statement in function.body[1:]:
        for node in ast.walk(statement):
            if isinstance(node, ast.Return) and node.value is not None:
                found += _texts(node.value)
    return list(dict.fromkeys(found))


def _texts(value: ast.expr) -> list[str]:
    if isinstance(value, ast.IfExp):
        return _texts(value.body) + _texts(value.orelse)
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return [value.value]
    if isinstance(value, ast.JoinedStr):
        return ["".join(str(p.value) if isinstance(p, ast.Constant) else "…" for p in value.values)]
    return []


def tree() -> str:
    """The exceptions, as their module draws them."""
    drawn = [line for line in (errors.__doc__ or "").splitlines() if line.startswith("    ")]
    return "\n".join(["```", *(line[4:] for line in drawn), "```"])


TABLES = {"features": features, "types": types, "codecs": codecs, "errors": tree}


def render(page: str) -> str:
    """The page with its tables made anew. A name that is no table is a KeyError."""

    def fill(match: re.Match[str]) -> str:
        return f"{match[1]}\n{TABLES[match[2]]()}\n{match[3]}"

    return re.sub(r"(<!-- table: (\w+) -->)\n.*?(<!-- end -->)", fill, page, flags=re.DOTALL)


def main() -> None:
    """Write the pages."""
    for name in PAGES:
        path = DOCS / name
        path.write_text(render(path.read_text(encoding="utf-8")), encoding="utf-8")
        sys.stdout.write(f"{path.name}\n")


if __name__ == "__main__":
    main()
