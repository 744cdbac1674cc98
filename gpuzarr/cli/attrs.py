"""gpuzarr attrs: show the attributes of an array or group as JSON, set and delete them."""

from __future__ import annotations

import argparse
import json
from typing import Any

import gpuzarr
from gpuzarr.cli import options
from gpuzarr.cli.show import Screen, storage_options
from gpuzarr.errors import ArgumentError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("target", metavar="TARGET", help="a path or URL")
    parser.add_argument(
        "path", metavar="PATH", nargs="?", default="", help="the array or group in it (default: the root)"
    )
    parser.add_argument(
        "settings", metavar="NAME=JSON", nargs="*", help="""set: unit='"µm"' scale=[1,0.5]; text in quotes"""
    )
    parser.add_argument("--delete", action="append", default=[], metavar="NAME", help="remove (repeatable)")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="storage option")


def run(arguments: argparse.Namespace, screen: Screen) -> int:
    """Change what is asked for, then show all."""
    path, settings = arguments.path, list(arguments.settings)
    if "=" in path:
        path, settings = "", [path, *settings]
    changes = _changes(settings)
    node = gpuzarr.open(
        arguments.target,
        path,
        mode="r+" if changes or arguments.delete else "r",
        device="cpu",
        storage_options=storage_options(arguments.option),
    )
    for name in arguments.delete:
        if name not in node.attrs:
            there = ", ".join(list(node.attrs)[:8])
            raise ArgumentError(
                f"no attribute {name!r} of {node.name}", hint=f"there is {there}" if there else None
            )
        if name in changes:
            raise ArgumentError(f"{name} is set and deleted")
        changes[name] = None
    if changes:
        node.update_attributes(changes)
    text = json.dumps(dict(node.attrs), indent=2, ensure_ascii=False)
    if screen.console is None:
        screen.stream.write(text + "\n")
    else:
        from rich.json import JSON

        screen.console.print(JSON(text))
    return 0


def _changes(settings: list[str]) -> dict[str, Any]:
    """`name=JSON` as values by name."""
    found: dict[str, Any] = {}
    for setting in settings:
        name, separator, text = setting.partition("=")
        if not separator or not name:
            raise ArgumentError(f"{setting} sets nothing", hint="write NAME=JSON")
        if name in found:
            raise ArgumentError(f"{name} is set twice")
        value = options.json_value(text, name)
        if value is None:
            raise ArgumentError(f"{name} cannot be null", hint=f"--delete {name} removes it")
        found[name] = value
    return found
