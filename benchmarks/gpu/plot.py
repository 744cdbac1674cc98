"""Pictures of a run, from its JSON: `python -m benchmarks.gpu plot FILE.json`. Needs matplotlib."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.gpu.report import GB, size

_GOAL = "0.55"


def plot(file: Path) -> list[Path]:
    """One picture a table, beside the file; their paths."""
    import matplotlib as mpl

    mpl.use("Agg")
    document = json.loads(file.read_text())
    made = []
    for name, draw in (("decode", _decode), ("whole", _whole), ("crossover", _crossover)):
        if document.get(name):
            figure = draw(document)
            figure.suptitle(_title(document), fontsize=9, color="0.4")
            path = file.with_name(f"{file.stem}-{name}.png")
            figure.savefig(path, dpi=150)
            made.append(path)
    return made


def _title(document: dict[str, Any]) -> str:
    machine = document["machine"]
    where = machine.get("gpu", machine["device"])
    sham = "" if document["timed"] else " (simulated: figures mean nothing)"
    return f"gpuzarr on {where}{sham}, {document['date'][:10]}"


def _decode(document: dict[str, Any]) -> Any:
    """Rate over chunk size, a line a chain."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
    rows = document["decode"]
    for chain in dict.fromkeys(row["chain"] for row in rows):
        mine = sorted((row["chunk_nbytes"], row["rate"] / GB) for row in rows if row["chain"] == chain)
        axes.plot(*zip(*mine, strict=True), marker="o", markersize=4, label=chain)
    axes.axhline(document["ceilings"]["copy"] / 2 / GB, color=_GOAL, ls="--", lw=1)
    axes.text(
        rows[0]["chunk_nbytes"],
        document["ceilings"]["copy"] / 2 / GB,
        "a plain copy",
        color=_GOAL,
        va="bottom",
    )
    if document["timed"]:
        axes.axhline(150, color=_GOAL, ls=":", lw=1)
        axes.text(rows[0]["chunk_nbytes"], 150, "goal of blosc(lz4, shuffle)", color=_GOAL, va="bottom")
    _sizes(axes, {row["chunk_nbytes"] for row in rows})
    axes.set(yscale="log", ylabel="decoded, GB/s", title="On the device alone")
    axes.legend(fontsize=7, ncols=2)
    return figure


def _whole(document: dict[str, Any]) -> Any:
    """Steps by themselves beside all together, then who else."""
    import matplotlib.pyplot as plt

    rows = document["whole"]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(12, 1.6 + 0.75 * len(rows)), layout="constrained", sharey=True
    )
    steps = ("plan", "fetch", "crossing", "device", "all")
    for i, step in enumerate(steps):
        at = [row + (i - 2) * 0.16 for row in range(len(rows))]
        left.barh(at, [row["seconds"][step] * 1e3 for row in rows], 0.15, label=step)
    left.set(xscale="log", xlabel="ms", title="Each step by itself, and all together")
    left.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=8)
    left.invert_yaxis()
    left.legend(fontsize=7)
    names = list(dict.fromkeys(name for row in rows for name in row["peers"]))
    width = 0.8 / max(len(names), 1)
    for i, name in enumerate(names):
        mine = [
            (n + (i - (len(names) - 1) / 2) * width, row["peers"][name]["seconds"] / row["seconds"]["chosen"])
            for n, row in enumerate(rows)
            if "seconds" in row["peers"].get(name, {})
        ]
        if mine:
            right.barh(*zip(*mine, strict=True), 0.9 * width, label=name)
    right.axvline(1, color=_GOAL, lw=1)
    right.set(xscale="log", xlabel="their time over gpuzarr's", title="Beside others")
    if names:
        right.legend(fontsize=7)
    return figure


def _crossover(document: dict[str, Any]) -> Any:
    """Host over device by number of chunks, a line a size; a ring where the choice is the worse one."""
    import matplotlib.pyplot as plt

    rows = document["crossover"]
    chains = list(dict.fromkeys(row["chain"] for row in rows))
    figure, grid = plt.subplots(
        1, len(chains), figsize=(5.6 * len(chains), 4.6), layout="constrained", sharey=True, squeeze=False
    )
    for axes, chain in zip(grid[0], chains, strict=True):
        mine = [row for row in rows if row["chain"] == chain]
        for nbytes in sorted({row["chunk_nbytes"] for row in mine}):
            line = [row for row in mine if row["chunk_nbytes"] == nbytes]
            counts = [row["count"] for row in line]
            ratios = [row["seconds"]["host"] / row["seconds"]["device"] for row in line]
            axes.plot(counts, ratios, marker="o", markersize=4, label=f"chunks of {size(nbytes)}")
        bad = [row for row in mine if row["choice"] != row["better"]]
        axes.scatter(
            [row["count"] for row in bad],
            [row["seconds"]["host"] / row["seconds"]["device"] for row in bad],
            s=110, facecolors="none", edgecolors="crimson", label="the worse one is chosen",
        )  # fmt: skip
        axes.axhline(1, color=_GOAL, lw=1)
        axes.set(xscale="log", yscale="log", xlabel="chunks in one read", title=chain)
        axes.legend(fontsize=7)
    grid[0][0].set_ylabel("host's time over the device's")
    return figure


def _sizes(axes: Any, sizes: set[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(sizes), [size(one) for one in sorted(sizes)])
    axes.set_xlabel("chunk, decoded")
