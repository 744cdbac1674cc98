"""gpuzarr create: make an array of fill values, a group, or the consolidated metadata of one."""

from __future__ import annotations

import argparse

import gpuzarr
from gpuzarr.cli import options
from gpuzarr.cli.copy import counted, described
from gpuzarr.cli.show import Screen, brief, by, size_text, storage_options
from gpuzarr.errors import ArgumentError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("target", metavar="TARGET", help="a path or URL")
    parser.add_argument("path", metavar="PATH", nargs="?", default="", help="the array or group in it")
    parser.add_argument("--shape", metavar="SHAPE", help="1024,1024,256")
    parser.add_argument("--dtype", metavar="TYPE", help="uint16, float32, bfloat16, string, datetime64[s] …")
    parser.add_argument("--group", action="store_true", help="a group, which has neither shape nor type")
    parser.add_argument(
        "--consolidate", action="store_true", help="gather in the group at PATH the metadata of all below it"
    )
    parser.add_argument(
        "--chunks", metavar="SHAPE", default="auto", help="64,64,64, or 10+20+30,64 (default: auto, 1 MiB)"
    )
    parser.add_argument("--shards", metavar="SHAPE", help="256,256,256 or auto (default: none)")
    parser.add_argument(
        "--codecs", metavar="LIST", default="auto", help='zstd,crc32c or "zstd(level=3)" or JSON, none'
    )
    parser.add_argument("--fill", metavar="VALUE", help="of elements that nobody wrote (default: 0)")
    parser.add_argument("--format", type=int, choices=(2, 3), default=3, help="the Zarr format (default: 3)")
    parser.add_argument("--order", choices=("C", "F"), default="C", help="of the elements of stored chunks")
    parser.add_argument("--separator", choices=(".", "/"), help="in the keys of chunks")
    parser.add_argument("--dimensions", metavar="NAMES", help="z,y,x")
    parser.add_argument("--attributes", metavar="JSON", help="""'{"unit": "µm"}'""")
    parser.add_argument("--overwrite", action="store_true", help="delete what is there")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="storage option")


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Make it, and show it."""
    common = {
        "attributes": _attributes(arguments.attributes),
        "zarr_format": arguments.format,
        "overwrite": arguments.overwrite,
        "storage_options": storage_options(arguments.option),
        "device": "cpu",
    }
    with options.in_flags():
        if arguments.group or arguments.consolidate:
            if arguments.shape or arguments.dtype:
                raise ArgumentError("a group has neither --shape nor --dtype")
            if arguments.group:
                group = gpuzarr.create_group(arguments.target, arguments.path, **common)
            facts = ""
            if arguments.consolidate:
                group = gpuzarr.consolidate(
                    arguments.target,
                    arguments.path,
                    device="cpu",
                    storage_options=common["storage_options"],
                )
                facts = f", consolidated metadata of {counted(len(group.metadata.children or ()), 'node')}"
            kind = f"   group, Zarr v{group.zarr_format}{facts}"
            screen.line((brief(group.name, 100), "title"), (kind, "note"))
            return 0
        if not arguments.shape or not arguments.dtype:
            raise ArgumentError("an array needs --shape and --dtype", hint="or make a --group")
        array = gpuzarr.create_array(
            arguments.target,
            arguments.path,
            shape=_shape(arguments.shape),
            dtype=arguments.dtype,
            chunks=options.shape(arguments.chunks, "--chunks"),
            shards=options.shapes(arguments.shards, "--shards") or None,
            codecs=options.codecs(arguments.codecs),
            fill_value=options.fill(arguments.fill),
            order=arguments.order,
            dimension_names=_names(arguments, arguments.dimensions),
            separator=arguments.separator,
            **common,
        )
    screen.line((brief(array.name, 100), "title"), (f"   array, Zarr v{array.zarr_format}", "note"))
    rows = [("shape", by(array.shape)), ("type", str(array.dtype)), *described(array)]
    rows += [
        ("fill", brief(array.fill_value)),
        ("size", f"{size_text(array.nbytes)} decoded, nothing stored"),
    ]
    for label, text in rows:
        screen.line((f"  {label:<8}", "note"), text)
    return 0


def _shape(text: str) -> tuple[int, ...]:
    """Also `()`, one element."""
    return () if text.strip() == "()" else tuple(options.shape(text, "--shape"))


def _names(arguments: argparse.Namespace, text: str | None) -> list[str | None] | None:
    if text is None:
        return None
    if arguments.format == 2:
        raise ArgumentError(
            "Zarr v2 has no dimension names", hint="set the attribute _ARRAY_DIMENSIONS, as xarray does"
        )
    return [name.strip() or None for name in text.split(",")]


def _attributes(text: str | None) -> dict[str, object] | None:
    found = None if text is None else options.json_value(text, "--attributes")
    if found is not None and not isinstance(found, dict):
        raise ArgumentError("--attributes is no JSON object", hint="""write '{"unit": "µm"}'""")
    return found
