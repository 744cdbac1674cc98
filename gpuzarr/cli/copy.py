"""gpuzarr copy: copy an array or a hierarchy, as it is or cut, encoded or written in another way."""

from __future__ import annotations

import argparse
import sys
from contextlib import nullcontext
from time import perf_counter

import gpuzarr
from gpuzarr.cli import options
from gpuzarr.cli.info import codec_text
from gpuzarr.cli.show import Screen, brief, by, size_text, storage_options
from gpuzarr.progress import Meter, clock


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("source", metavar="SOURCE", help="a path or URL")
    parser.add_argument("target", metavar="TARGET", help="a path or URL where there is nothing")
    parser.add_argument("--path", default="", help="the array or group in SOURCE (default: all of it)")
    parser.add_argument(
        "--target-path", default="", metavar="PATH", help="where in TARGET (default: its root)"
    )
    parser.add_argument("--chunks", metavar="SHAPE", help="64,64,64 or auto (default: as they are)")
    parser.add_argument(
        "--shards", metavar="SHAPE", help="256,256,256 or auto, or none (default: as they are)"
    )
    parser.add_argument(
        "--codecs", metavar="LIST", help='zstd,crc32c or "zstd(level=3)" or JSON, auto, none (default: kept)'
    )
    parser.add_argument("--format", type=int, choices=(2, 3), help="the Zarr format (default: the source's)")
    parser.add_argument("--order", choices=("C", "F"), help="of the elements of stored chunks")
    parser.add_argument("--separator", choices=(".", "/"), help="in the keys of chunks")
    parser.add_argument("--consolidated", action="store_true", help="write consolidated metadata too")
    parser.add_argument("--overwrite", action="store_true", help="delete the array or group that is there")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted copy")
    parser.add_argument("--verify", action="store_true", help="compare what was written with the source")
    parser.add_argument("--device", default="cpu", help="where chunks are decoded (default: cpu)")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="storage option of SOURCE"
    )
    parser.add_argument(
        "--target-option", action="append", default=[], metavar="NAME=VALUE", help="of TARGET"
    )


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Copy, and say what was done."""
    stats, began = gpuzarr.CopyStats(), perf_counter()
    meter = nullcontext() if arguments.plain else Meter("copying")
    try:
        with options.in_flags(), meter as progress:
            node = gpuzarr.copy(
                arguments.source,
                arguments.target,
                path=arguments.path,
                target_path=arguments.target_path,
                chunks=options.shape(arguments.chunks, "--chunks"),
                shards=options.shapes(arguments.shards, "--shards"),
                codecs=options.codecs(arguments.codecs),
                zarr_format=arguments.format,
                order=arguments.order,
                separator=arguments.separator,
                consolidated=arguments.consolidated,
                overwrite=arguments.overwrite,
                resume=arguments.resume,
                verify=arguments.verify,
                progress=progress,
                stats=stats,
                storage_options=storage_options(arguments.option),
                target_options=storage_options(arguments.target_option),
                device=arguments.device,
            )
    except KeyboardInterrupt:
        print("gpuzarr: what is copied is kept; --resume goes on", file=sys.stderr)
        raise
    _show(node, stats, perf_counter() - began, arguments, screen)
    return 0


def _show(
    node: gpuzarr.Array | gpuzarr.Group,
    stats: gpuzarr.CopyStats,
    seconds: float,
    arguments: argparse.Namespace,
    screen: Screen,
) -> None:
    shown = [
        brief("/".join(filter(None, (place.rstrip("/"), path.strip("/")))), 80)
        for place, path in (
            (arguments.source, arguments.path), (arguments.target, arguments.target_path)
        )
    ]  # fmt: skip
    screen.line((shown[0], "name"), (" → ", "note"), (shown[1], "name"))
    if not stats.arrays and not stats.groups:
        screen.line("  the copy is there already, and whole")
        return
    rows: list[tuple[str, str]] = []
    if isinstance(node, gpuzarr.Array):
        rows.append(("array", f"{by(node.shape)} {node.dtype}, Zarr v{node.zarr_format}"))
        rows += described(node)
    else:
        counts = f"{counted(stats.arrays, 'array')}, {counted(stats.groups, 'group')}"
        rows.append(("copied", f"{counts}, Zarr v{node.zarr_format}"))
    handled = [
        counted(stats.passed, "chunk") + " taken as encoded" if stats.passed else "",
        f"{stats.encoded:,} encoded anew" if stats.encoded else "",
        f"{stats.empty:,} empty, not stored" if stats.empty else "",
    ]
    rows.append(("handled", ", ".join(filter(None, handled)) or "nothing is stored"))
    rows.append(("stored", f"{size_text(stats.bytes_written)} in {counted(stats.objects, 'object')}"))
    if arguments.resume and stats.resumed:
        regions = stats.resumed + stats.regions
        rows.append(("resumed", f"{stats.resumed:,} of {regions:,} regions were there"))
    if arguments.verify:
        rows.append(("verified", "every element equals the source's, to the bit"))
    spent = f"{seconds:.1f} s" if seconds < 60 else clock(seconds)
    rows.append(("time", f"{spent} for {size_text(stats.nbytes)}, {size_text(stats.nbytes / seconds)}/s"))
    for label, text in rows:
        style = "good" if label == "verified" else ""
        screen.line((f"  {label:<10}", "note"), (text, style))


def described(array: gpuzarr.Array) -> list[tuple[str, str]]:
    """How an array is cut and encoded."""
    cut = by(array.chunks) + (f" in shards of {by(array.shards)}" if array.shards else "")
    chain = " → ".join(codec_text(codec, names=False) for codec in array.codecs if codec.name != "bytes")
    return [("chunks", cut), ("codecs", chain or "not compressed")]


def counted(number: int, thing: str) -> str:
    """`1 chunk`, `2,000 chunks`."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"
