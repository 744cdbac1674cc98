"""The command line: `gpuzarr info | read | copy | create | attrs | doctor | demo`. One module a command;
`show` is what they print with, `options` what several take.

Exit codes: 0 done, 1 a check failed, 2 an error (one line that says what, where and what next), 130 stopped
with Ctrl-C, 141 nobody reads on.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from collections.abc import Sequence

import gpuzarr
from gpuzarr.cli import attrs, copy, create, demo, doctor, info, read
from gpuzarr.cli.show import Screen, clean
from gpuzarr.errors import GpuzarrError

COMMANDS = {
    "info": info, "read": read, "copy": copy, "create": create, "attrs": attrs, "doctor": doctor,
    "demo": demo,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="replace"
            )  # a terminal without Unicode shows `?`, and the command goes on
    given = [_bracketed(one) for one in (sys.argv[1:] if argv is None else argv)]
    arguments = _parser().parse_args(given)
    try:
        code: int = COMMANDS[arguments.command].run(arguments, Screen.on(sys.stdout, arguments.plain))
        return code
    except GpuzarrError as error:
        if arguments.traceback:
            raise
        print(f"gpuzarr: {clean(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gpuzarr: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _bracketed(argument: str) -> str:
    """A selection that begins with a minus sign, in brackets: argparse would take it for an option."""
    return f"[{argument}]" if re.fullmatch(r"-\d+[,:][-+\d,:. ]*", argument) else argument


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--plain", action="store_true", help="no colours, no progress bars")
    common.add_argument("--traceback", action="store_true", help="show where in the program an error arose")
    parser = argparse.ArgumentParser(
        "gpuzarr", description="Read and write Zarr arrays, on the GPU where there is one."
    )
    parser.add_argument("--version", action="version", version=f"gpuzarr {gpuzarr.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        text = (command.__doc__ or "").partition("\n")[0].partition(": ")[2]
        command.add_arguments(commands.add_parser(name, parents=[common], help=text, description=text))
    return parser


__all__ = ["main"]
