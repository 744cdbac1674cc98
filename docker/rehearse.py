"""Carry out a Dockerfile's steps in plain root file systems, on a machine without a container engine.

    python docker/rehearse.py Dockerfile BASE WORK [COMMAND ...]

Every stage starts as a copy of the folder BASE, which stands for the image that FROM names, and its steps run
in it with chroot, in namespaces of their own. Then each COMMAND runs in the last stage, with its environment,
as its user, in its folder. Needs root, Linux, and the network that the steps need. It is a rehearsal: layers,
the real base image, health checks and the engine's isolation are not part of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from lint import ROOT, Step, ignored, parse

# In a mount and process namespace that ends with the command: nothing stays mounted.
ENTER = 'mount -t proc proc "$1/proc" && mount --rbind /dev "$1/dev" && root=$1 && shift && exec chroot "$@"'
CERTIFICATES = "etc/ssl/certs/rehearsal.pem"


@dataclass
class Stage:
    """A root file system, and what the steps so far have set."""

    root: Path
    environment: dict[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    )
    folder: str = "/"
    user: str = "0"

    def run(self, command: str) -> None:
        """One shell command inside."""
        home = "/root" if self.user == "0" else "/home/gpuzarr"
        environment = {**self.environment, "HOME": home, "PIP_QUIET": "1"}
        if (self.root / CERTIFICATES).exists():
            environment |= {"PIP_CERT": f"/{CERTIFICATES}", "SSL_CERT_FILE": f"/{CERTIFICATES}"}
        for name in ("http_proxy", "https_proxy", "no_proxy"):
            if name in os.environ:
                environment[name] = os.environ[name]
        inside = ["env", "--ignore-environment", *(f"{name}={text}" for name, text in environment.items())]
        shell = [*inside, "/bin/sh", "-c", f"cd {self.folder} && {command}"]
        chroot = [f"--userspec={self.user}", str(self.root), *shell]
        entered = ["sh", "-c", ENTER, "sh", str(self.root), *chroot]
        started = time.monotonic()
        done = subprocess.run(["unshare", "--mount", "--pid", "--fork", *entered], check=False)
        say(f"    {time.monotonic() - started:.0f} s, exit {done.returncode}")
        if done.returncode:
            raise SystemExit(f"failed: {command}")

    def put(self, source: Path, sources: int, target: str) -> None:
        """COPY one source: a folder's contents, or a file into a folder if the target says so."""
        path = self.root / os.path.normpath(os.path.join(self.folder, target)).lstrip("/")
        if source.is_dir():
            shutil.copytree(source, path, symlinks=True, dirs_exist_ok=True)
            return
        if target.endswith("/") or sources > 1:
            path = path / source.name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, path, follow_symlinks=False)


def say(line: str) -> None:
    """One line, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def copy(stage: Stage, step: Step, stages: dict[str, Stage], context: Path) -> None:
    """COPY, from the repository without what .dockerignore leaves out, or from another stage."""
    name, sources, target = step.copied
    for source in sources:
        top = context if name is None else stages[name].root
        stage.put(top / source.lstrip("/"), len(sources), target)


def context_in(work: Path) -> Path:
    """What the engine would be sent: the repository without what .dockerignore leaves out."""
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    context = work / "context"
    shutil.rmtree(context, ignore_errors=True)
    skipped = {".git", ".venv"}
    for directory, folders, files in os.walk(ROOT):
        folders[:] = [one for one in folders if one not in skipped and one != "__pycache__"]
        for name in files:
            path = Path(directory, name)
            relative = path.relative_to(ROOT)
            if not ignored(relative.as_posix(), rules):
                (context / relative.parent).mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, context / relative)
    return context


def fresh(base: Path, root: Path) -> Stage:
    """A copy of the base, with this machine's name servers and certificates."""
    shutil.rmtree(root, ignore_errors=True)
    subprocess.run(["cp", "--archive", "--reflink=auto", str(base), str(root)], check=True)
    for path in ("etc/resolv.conf", "etc/hosts"):
        (root / path).unlink(missing_ok=True)
        shutil.copy(f"/{path}", root / path)
    certificates = os.environ.get("SSL_CERT_FILE")
    if certificates:
        (root / CERTIFICATES).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(certificates, root / CERTIFICATES)
    return Stage(root)


def rehearse(dockerfile: Path, base: Path, work: Path) -> Stage:
    """Carry out every stage; returns the last."""
    context = context_in(work)
    stages: dict[str, Stage] = {}
    for number, steps in enumerate(parse(dockerfile.read_text())):
        name = steps[0].rest.rpartition(" AS ")[2]
        stage = stages[name] = fresh(base, work / f"stage{number}")
        for step in steps[1:]:
            say(f"{step.name} {step.rest[:100]}")
            if step.name == "ENV":
                for pair in step.rest.split():
                    key, _, text = pair.partition("=")
                    stage.environment[key] = Template(text).safe_substitute(stage.environment)
            elif step.name == "WORKDIR":
                stage.folder = step.rest
                (stage.root / step.rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
            elif step.name == "USER":
                stage.user = step.rest
            elif step.name == "RUN":
                stage.run(step.rest)
            elif step.name == "COPY":
                copy(stage, step, stages, context)
    return stage


def main() -> None:
    """See the module."""
    dockerfile, base, work = (Path(one).resolve() for one in sys.argv[1:4])
    work.mkdir(parents=True, exist_ok=True)
    last = rehearse(dockerfile, base, work)
    for command in sys.argv[4:]:
        say(f"$ {command}")
        last.run(command)
    say(f"rehearsed {dockerfile.name}")


if __name__ == "__main__":
    main()
