"""A RangeServer in a process of its own, which takes no time of the interpreter that is measured.

    with RangeProcess("/data", latency=0.01) as server:
        ... server.url, server.counts(), server.forget() ...

That is `python -m tests.servers.apart DIRECTORY '{"latency": 0.01}'`, which ends with its standard input.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from tests.servers.ranges import RangeServer


class RangeProcess:
    """The server, seen from its parent. It serves a directory, and takes the switches of a RangeServer."""

    def __init__(self, directory: str | os.PathLike[str], **switches: Any) -> None:
        self._command = [sys.executable, "-m", __name__, os.fspath(directory), json.dumps(switches)]
        self.port = 0

    @property
    def url(self) -> str:
        """Where it is, without a `/` at the end."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        root = Path(__file__).parents[2]
        self._process = subprocess.Popen(
            self._command, cwd=root, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.port = self._ask({})["port"]
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._process.communicate(timeout=10)  # which closes its input
        except subprocess.TimeoutExpired:  # a process that was forked meanwhile holds it open
            self._process.kill()
            self._process.communicate()

    def counts(self) -> dict[str, int]:
        """The sums of `RangeServer.counts`."""
        return self._ask({"do": "counts"})

    def forget(self) -> None:
        """Begin to count anew."""
        self._ask({"do": "forget"})

    def switch(self, **switches: Any) -> None:
        """Behave differently from now on."""
        self._ask({"do": "switch", "with": switches})

    def _ask(self, what: dict[str, Any]) -> dict[str, int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        told: dict[str, int] = json.loads(self._process.stdout.readline())
        return told


def main(directory: str, switches: str) -> None:
    """Serve until standard input ends; each line there is a question, answered by a line."""
    with RangeServer(directory, **json.loads(switches)) as server:
        server.keep = False
        for line in sys.stdin:
            asked = json.loads(line)
            if "do" in asked:
                done = getattr(server, asked["do"])(**asked.get("with", {}))
            else:
                done = {"port": server.port}
            print(json.dumps(done or {}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
