"""What holds for our Dockerfiles, checked without a container engine and without a network.

    python docker/lint.py [Dockerfile ...]

prints one line a fault and fails if there is one. It knows the few instructions that these files use;
docker/check.sh asks hadolint as well, where that is installed.
"""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KNOWN = frozenset(
    ["FROM", "ARG", "ENV", "LABEL", "RUN", "COPY", "WORKDIR", "USER", "HEALTHCHECK", "ENTRYPOINT", "CMD"]
)
COMPILER = re.compile(r"^(gcc|g\+\+|clang|make|cmake|build-essential|cuda-nvcc.*|.*-dev)$")
LABELS = ("title", "description", "licenses", "revision", "base.name")


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction, its continuation lines joined."""

    line: int
    name: str
    rest: str

    @property
    def copied(self) -> tuple[str | None, list[str], str]:
        """COPY: the stage it copies from, the sources, the target."""
        words = shlex.split(self.rest)
        stage = next((word.removeprefix("--from=") for word in words if word.startswith("--from=")), None)
        paths = [word for word in words if not word.startswith("--")]
        return stage, paths[:-1], paths[-1]

    @property
    def commands(self) -> list[list[str]]:
        """RUN: the words of each command between `&&`."""
        return [shlex.split(one) for one in re.split(r"&&|;", self.rest)]


def parse(text: str) -> list[list[Step]]:
    """The stages of a Dockerfile, each with its FROM first."""
    stages: list[list[Step]] = []
    held, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or not (held or line.strip()):
            continue
        first = first if held else number
        held += line.strip()
        if held.endswith("\\"):
            held = held[:-1]
            continue
        name, _, rest = held.partition(" ")
        held = ""
        if name == "FROM":
            stages.append([])
        if not stages:
            raise SystemExit(f"line {first}: {name} before FROM")
        stages[-1].append(Step(first, name, rest.strip()))
    return stages


def faults(text: str, root: Path = ROOT) -> Iterator[tuple[int, str]]:
    """(line, what is wrong) for every broken rule."""
    stages = parse(text)
    names = {stage[0].rest.split(" AS ")[-1] for stage in stages if " AS " in stage[0].rest}
    for stage in stages:
        yield from _pinned(stage[0], names)
        for step in stage:
            if step.name not in KNOWN:
                yield step.line, f"{step.name} is not used here"
            elif step.name == "RUN":
                yield from _run(step)
            elif step.name == "COPY":
                yield from _copy(step, names, root)
            elif step.name in ("ENTRYPOINT", "CMD") and not _words(step.rest):
                yield step.line, f"{step.name} is a list of words, so that no shell stands in between"
        yield from _order(stage)
    yield from _last(stages[-1])


def _pinned(step: Step, names: set[str]) -> Iterator[tuple[int, str]]:
    image = step.rest.split(" AS ")[0]
    tag = image.rpartition(":")[2] if ":" in image else ""
    if image not in names and not re.match(r"\d+\.\d+\.\d+", tag):
        yield step.line, f"{image} is not pinned to a version of three numbers"


def _words(text: str) -> bool:
    try:
        words = json.loads(text)
    except ValueError:
        return False
    return isinstance(words, list) and all(isinstance(word, str) for word in words)


def _run(step: Step) -> Iterator[tuple[int, str]]:
    commands = step.commands
    for words in commands:
        if words[:2] == ["apt-get", "install"]:
            if not {"--yes", "-y"} & set(words) or "--no-install-recommends" not in words:
                yield step.line, "apt-get install needs --yes and --no-install-recommends"
            if ["apt-get", "update"] not in commands or ["rm", "-rf", "/var/lib/apt/lists/*"] not in commands:
                yield step.line, "update, install and removal of the package lists belong in one RUN"
        if "pip" in words and "install" in words and not {"--require-hashes", "--no-index"} & set(words):
            yield step.line, "pip install needs --require-hashes, or --no-index for our own wheel"
        if words and words[0] in ("sudo", "apt", "curl", "wget"):
            yield step.line, f"{words[0]} is not used here"


def _copy(step: Step, names: set[str], root: Path) -> Iterator[tuple[int, str]]:
    stage, sources, _ = step.copied
    if stage is not None:
        if stage not in names:
            yield step.line, f"no stage is called {stage}"
        return
    ignore = (root / ".dockerignore").read_text().splitlines()
    for source in sources:
        if source in (".", "./", "*"):
            yield step.line, "copy what is needed by name, not the whole tree"
        elif not (root / source).exists():
            yield step.line, f"there is no {source}"
        elif ignored(source, ignore):
            yield step.line, f"{source} is left out by .dockerignore"


def ignored(path: str, rules: list[str]) -> bool:
    """Whether .dockerignore leaves `path` out: the last rule that matches it or a folder above it decides."""
    parts = path.rstrip("/").split("/")
    above = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    out = False
    for rule in rules:
        rule = rule.strip()
        if rule and not rule.startswith("#"):
            pattern = rule.removeprefix("!").strip("/")
            deep = pattern.startswith("**/")  # at any depth, so the names alone are compared
            tried = parts if deep else above
            if any(fnmatch.fnmatchcase(one, pattern.removeprefix("**/")) for one in tried):
                out = not rule.startswith("!")
    return out


def _order(stage: list[Step]) -> Iterator[tuple[int, str]]:
    """Requirements are installed before our own code is copied, else every change installs them anew."""
    code = next((step.line for step in stage if step.name == "COPY" and "gpuzarr" in step.copied[1]), None)
    for step in stage:
        if code is not None and step.name == "RUN" and "--require-hashes" in step.rest and step.line > code:
            yield step.line, "install the requirements before gpuzarr is copied"


def _last(stage: list[Step]) -> Iterator[tuple[int, str]]:
    """What ends up in the image."""
    by_name = {name: [step for step in stage if step.name == name] for name in KNOWN}
    end = stage[-1].line
    users = by_name["USER"]
    if not users or not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", users[-1].rest):
        yield end, "the image runs as a user with a number other than 0"
    for step in by_name["RUN"]:
        if users and step.line > users[-1].line:
            yield step.line, "RUN after USER"
        for word in (word for words in step.commands for word in words if "install" in words):
            if COMPILER.match(word):
                yield step.line, f"{word} stays in the image"
    if len(by_name["ENTRYPOINT"]) != 1 or by_name["ENTRYPOINT"][0].rest != '["gpuzarr"]':
        yield end, "the entrypoint is gpuzarr"
    if not any("PYTHONUNBUFFERED=1" in step.rest for step in by_name["ENV"]):
        yield end, "PYTHONUNBUFFERED=1 is missing"
    labels = " ".join(step.rest for step in by_name["LABEL"])
    for label in LABELS:
        if f"org.opencontainers.image.{label}=" not in labels:
            yield end, f"label org.opencontainers.image.{label} is missing"
    named = re.search(r'image\.base\.name="([^"]*)"', labels)
    if named and not named[1].endswith(stage[0].rest):
        yield stage[0].line, f"label base.name says {named[1]}"


def main() -> int:
    """Check the files that are named, or ours."""
    paths = [Path(one) for one in sys.argv[1:]] or sorted(Path(__file__).parent.glob("Dockerfile.*"))
    found = [f"{path}:{line}: {what}" for path in paths for line, what in faults(path.read_text())]
    sys.stdout.write(("\n".join(found) or f"{len(paths)} Dockerfiles: no faults") + "\n")
    return bool(found)


if __name__ == "__main__":
    raise SystemExit(main())
