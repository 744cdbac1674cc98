"""The house: imports point down, optional packages have one room each, the public names are these."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import gpuzarr

PACKAGE = Path(gpuzarr.__file__).parent

# Each room may import those below it. `cli, integrations → ome → api → …`
FLOORS = [
    {"cli", "integrations", "loading", "testing", "__main__", "__init__"},
    {"ome", "loading"},
    {"api"},
    {"copying", "progress"},
    {"group"},
    {"array"},
    {"html"},
    {"engine"},
    {"native"},
    {"plan"},
    {"meta"},
    {"grid", "selection"},
    {"codecs"},
    {"store"},
    {"device"},
    {"errors", "config"},
]
FLOOR = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}

OPTIONAL_ROOMS = {
    "cupy": {"device/cuda.py"},
    "kvikio": {"store/gds.py"},
    "zarr": {"integrations/zarr_python.py", "store/zarr_store.py", "cli"},
    "fsspec": {"store/fsspec.py", "store/urls.py", "store/remote/fsspec.py", "store/remote/opening.py"},
    "obstore": {"store/remote/obstore.py", "store/remote/options.py", "store/remote/said.py"},
    "pyarrow": {"store/references/records.py"},
    "icechunk": set(),
    "ml_dtypes": {"meta/dtypes.py"},
    "zfpy": {"codecs/zfpy.py"},
    "pcodec": {"codecs/pcodec.py"},
    "imagecodecs": {"codecs/generic.py"},
    "rich": {"cli", "progress.py"},
    "PIL": {"cli"},
    "torch": {"loading/torch.py"},
}


def modules() -> list[tuple[str, ast.Module]]:
    return [
        (path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text())) for path in PACKAGE.rglob("*.py")
    ]


def imported(tree: ast.Module) -> list[str]:
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += (
                [node.module]
                if node.module != "gpuzarr"
                else [f"gpuzarr.{alias.name}" for alias in node.names]
            )
    return names


def test_imports_point_down() -> None:
    wrong = []
    for path, tree in modules():
        room = path.split("/")[0].removesuffix(".py")
        for name in imported(tree):
            target = name.split(".")[1] if name.startswith("gpuzarr.") else None
            if target in FLOOR and FLOOR[target] < FLOOR[room]:
                wrong.append(f"{path} imports {name}")
    assert wrong == []


def test_every_room_has_a_floor() -> None:
    assert {path.split("/")[0].removesuffix(".py") for path, _ in modules()} <= set(FLOOR)


def test_optional_packages_have_one_room() -> None:
    wrong = []
    for path, tree in modules():
        for name in imported(tree):
            rooms = OPTIONAL_ROOMS.get(name.split(".")[0])
            if rooms is not None and not any(path == room or path.startswith(f"{room}/") for room in rooms):
                wrong.append(f"{path} imports {name}")
    assert wrong == []


def test_public_names() -> None:
    assert gpuzarr.__all__ == [
        "Array",
        "Config",
        "CopyStats",
        "Group",
        "GpuzarrError",
        "PatchLoader",
        "ReadStats",
        "Store",
        "WriteStats",
        "configure",
        "configured",
        "consolidate",
        "copy",
        "create_array",
        "create_group",
        "load",
        "loading",
        "ome",
        "open",
        "open_array",
        "save",
    ]
    assert all(hasattr(gpuzarr, name) for name in gpuzarr.__all__)


def test_import_is_light() -> None:
    """It loads numpy and itself: no codec, no optional package, no fsspec; not even when names are used."""
    code = (
        "import sys, numpy; before = set(sys.modules); import gpuzarr; gpuzarr.open, gpuzarr.Array\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    heavy = {"numcodecs", "fsspec", "zarr", "cupy", "kvikio", "rich", "PIL", "asyncio", "ml_dtypes"}
    assert loaded & heavy == set(), loaded


def test_modules_are_rooms_and_not_halls() -> None:
    long = {path: len((PACKAGE / path).read_text().splitlines()) for path, _ in modules()}
    assert {path: lines for path, lines in long.items() if lines > 400} == {}
