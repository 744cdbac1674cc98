"""gpuzarr read: read a selection into a .npy file, a picture, a pipe or the terminal."""

from __future__ import annotations

import argparse
import os
import sys
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

import gpuzarr
from gpuzarr.cli import keys, picture
from gpuzarr.cli.info import members
from gpuzarr.cli.show import Screen, by, size_text, storage_options
from gpuzarr.errors import ArgumentError, StoreError
from gpuzarr.selection import basic

_SLAB = 256 << 20  # bytes read before they are written
_SLAB_CHUNKS = 1 << 18  # chunks that are planned at once
_PRINTED = 64 << 20  # bytes read for a terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("target", metavar="TARGET", help="a path or URL")
    parser.add_argument("path", metavar="PATH", nargs="?", default="", help="the array in it")
    parser.add_argument(
        "selection", metavar="SELECTION", nargs="?", help='as in NumPy: "0, :, ::2"; default: all'
    )
    parser.add_argument("-o", "--output", default="-", help="out.npy, out.png, or - for stdout (default)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N (default: auto)")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="storage option")


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Read and write."""
    array, key = _opened(arguments)
    key = keys.full(key, array.shape)
    suffix = Path(arguments.output).suffix.lower()
    if arguments.output == "-":
        if screen.stream.isatty():
            _print(array, key, screen)
        else:
            _write_npy(sys.stdout.buffer, array, key, Screen(sys.stderr))
    elif suffix == ".npy":
        _save(arguments.output, array, key, screen)
    elif suffix == ".png":
        picture.save(picture.gray(host(array.read(key))), arguments.output)
    else:
        raise ArgumentError(f"cannot write {arguments.output}", hint="give a name that ends in .npy or .png")
    if arguments.output != "-":
        screen.line("wrote ", (arguments.output, "name"))
    return 0


def _opened(arguments: argparse.Namespace) -> tuple[gpuzarr.Array, keys.Key]:
    """The array and the key. A single argument behind the target is a path, unless only a selection looks
    like that, or the target is an array itself."""
    path, text = arguments.path, arguments.selection
    if text is None and keys.looks_like_key(path):
        path, text = "", path
    options = {"device": arguments.device, "storage_options": storage_options(arguments.option)}
    if text is None and path.strip().lstrip("+-").isdigit():
        root = gpuzarr.open(arguments.target, **options)
        if isinstance(root, gpuzarr.Array):
            return root, keys.parse(path)
    node = gpuzarr.open(arguments.target, path, **options)
    if isinstance(node, gpuzarr.Group):
        names = [name for name, member in members(node) if isinstance(member, gpuzarr.Array)][:8]
        raise ArgumentError(
            f"{node.name} is a group", hint=f"read one of its arrays: {', '.join(names) or 'none'}"
        )
    return node, keys.parse(text or "...")


def host(result: Any) -> NDArray[Any]:
    """A result in host memory."""
    return np.asarray(result.get() if hasattr(result, "get") else result)


def _print(array: gpuzarr.Array, key: keys.Key, screen: Screen) -> None:
    explained = array.explain(key)
    if explained.result_nbytes > _PRINTED:
        raise ArgumentError(
            f"{by(explained.shape)} elements, {size_text(explained.result_nbytes)}, are too much to show",
            hint="select less, or write a file with -o out.npy",
        )
    found = host(array.read(key))
    screen.text(np.array2string(found, threshold=200, edgeitems=4, max_line_width=110))
    screen.line((f"{by(found.shape)} {array.dtype}, {size_text(found.nbytes)}", "note"))


def _save(path: str, array: gpuzarr.Array, key: keys.Key, screen: Screen) -> None:
    """Beside the target first, so that nobody finds half a file under its name."""
    part = f"{path}.part"
    try:
        with open(part, "wb") as stream:
            _write_npy(stream, array, key, screen)
        os.replace(part, path)
    except OSError as error:
        if isinstance(error, gpuzarr.GpuzarrError):
            raise
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        Path(part).unlink(missing_ok=True)


def _write_npy(stream: BinaryIO, array: gpuzarr.Array, key: keys.Key, screen: Screen) -> None:
    """The header, then the elements slab by slab, so that memory stays bounded and a pipe is fed while
    reading."""
    dtype = array.dtype
    if dtype.kind == "O":
        raise ArgumentError(
            f"{array.name} holds objects, which have no .npy form", hint="print a selection of it"
        )
    if dtype.kind == "T":  # strings of any length: as long as the longest
        found = np.array(host(array.read(key)).tolist(), "U")
        np.lib.format.write_array_header_2_0(stream, np.lib.format.header_data_from_array_1_0(found))
        stream.write(found.tobytes())
        return
    shape = basic(key, array.shape).result_shape
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(stream, header)
    axis = next((i for i, item in enumerate(key) if isinstance(item, slice)), 0)
    sizes = array.metadata.chunk_grid.chunk_shape  # None if chunks differ
    chunk = sizes[axis] if sizes else None
    slab = min(_SLAB, _SLAB_CHUNKS * prod(sizes) * dtype.itemsize) if sizes else _SLAB
    with screen.progress(f"reading {by(shape)} {dtype}", prod(shape) * dtype.itemsize) as advance:
        for part in keys.slabs(key, array.shape, dtype.itemsize, chunk, slab):
            found = np.ascontiguousarray(host(array.read(part)))
            stream.write(memoryview(found.reshape(-1).view(np.uint8)))
            advance(found.nbytes)
    stream.flush()
