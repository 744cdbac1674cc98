"""The hook of the package's build: a wheel has the core in it if it can be compiled."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import platform_tags


class Hook(BuildHookInterface):  # type: ignore[misc]
    """Called by hatchling alone."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Such a wheel is for any Python of this platform: the core is no extension module."""
        # By its path: gpuzarr itself cannot be imported where it is built.
        build = runpy.run_path(str(Path(self.root, "gpuzarr", "native", "build.py")))
        why = build["build"]()
        if why:
            self.app.display_warning(f"gpuzarr is built without its host core: {why}")
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{next(iter(platform_tags()))}"
        build_data["artifacts"].append(f"/gpuzarr/native/{build['LIBRARY'].name}")
