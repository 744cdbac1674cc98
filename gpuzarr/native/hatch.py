"""The hook of the package's build: a wheel has the core in it if it can be compiled."""

from __future__ import annotations

import contextlib
import runpy
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import platform_tags


class Hook(BuildHookInterface):  # type: ignore[misc]
    """Called by hatchling alone, for wheels."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Such a wheel is for any Python of this platform: the core is no extension module."""
        # By its path: gpuzarr itself cannot be imported where it is built.
        module = runpy.run_path(str(Path(self.root, "gpuzarr", "native", "build.py")))
        build, library = module["build"], module["LIBRARY"]
        if version == "editable":  # it runs from this tree, and looks for the core beside core.c
            why = build(library)
            if why:
                with contextlib.suppress(OSError):
                    library.unlink(missing_ok=True)  # it may be of another core.c
        else:  # the tree stays as it is
            self.folder = tempfile.TemporaryDirectory()
            made = Path(self.folder.name, library.name)
            why = build(made)
            if not why:
                build_data["pure_python"] = False
                build_data["tag"] = f"py3-none-{_platform()}"
                build_data["force_include"][str(made)] = f"gpuzarr/native/{library.name}"
        if why:
            self.app.display_warning(f"gpuzarr is built without its host core: {why}")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """What was made for the wheel is in it now."""
        if version != "editable":
            self.folder.cleanup()


def _platform() -> str:
    """This one's name. Those that promise more (manylinux, musllinux) are given by who has checked it."""
    return next(tag for tag in platform_tags() if not tag.startswith(("manylinux", "musllinux")))
