"""Compiles core.c: when gpuzarr is installed (hatch.py), and by hand in a checkout: `python -m
gpuzarr.native.build`.

It takes a C compiler and nothing else. Where there is none, the package is built without the core, and reads
are as right as with it, only slower.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SOURCE, LIBRARY = HERE / "core.c", HERE / "libgpuzarr_core.so"
FLAGS = ("-std=c11", "-O3", "-shared", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")


def compiler() -> list[str] | None:
    """`$CC`, else the compiler that is there."""
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    return next(([name] for name in ("cc", "gcc", "clang") if shutil.which(name)), None)


def build(library: Path = LIBRARY, flags: tuple[str, ...] = ()) -> str:
    """Compile the core to `library`. Empty, or why there is none."""
    command = compiler()
    if sys.platform not in ("linux", "darwin") or command is None:
        return "no C compiler" if sys.platform in ("linux", "darwin") else f"not made for {sys.platform}"
    # Put in place as a whole: another process may be running the one that is there.
    made = library.with_name(f"{library.name}.{os.getpid()}")
    try:
        done = subprocess.run(
            [*command, *FLAGS, *flags, "-o", str(made), str(SOURCE)],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            return f"{command[0]} cannot compile core.c: {done.stderr.strip()}"
        os.replace(made, library)
    except OSError as error:
        return f"{command[0]} cannot be run: {error}"
    finally:
        made.unlink(missing_ok=True)
    return ""


if __name__ == "__main__":  # [another library [flags …]]
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else LIBRARY
    # Warnings are errors for who works on core.c, not for who installs it with a compiler to come.
    sys.exit(build(where, ("-Werror", *sys.argv[2:])) or 0)  # an empty string would be a failure
