"""What was measured, for people: tables, each under what it shows, and the goals beside the figures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpuzarr.cli.show import Part, Screen

Row = dict[str, Any]

GB = 1e9
MOVERS = ("gz_scatter", "gz_shuffle", "gz_crc32c_append", "gz_pack", "gz_convert")
"""Kernels that do little more than move bytes."""
_DASH = "–"


def show_ceilings(screen: Screen, ceilings: dict[str, float]) -> None:
    """What this machine can do at most."""
    names = {
        "copy": "device to device, read + written",
        "link": "pinned host memory to device",
        "cache": "page cache to staging memory, all threads",
        "host": "host to host, read + written, all threads",
    }
    rows: list[list[Part]] = [[text, rate(ceilings[name])] for name, text in names.items()]
    screen.table(["ceiling", "GB/s"], rows)
    screen.line()


def show_decode(screen: Screen, rows: list[Row]) -> None:
    """Device only: rates by chain and size, then the parts of each."""
    if not rows:
        return
    header = ["decoded on the device", "chunk", "chunks", "to 1", "ms", "GB/s", "of roofline", "of nvCOMP"]
    cells: list[list[Part]] = []
    for row in rows:
        cells.append(
            [
                row["chain"],
                size(row["chunk_nbytes"]),
                f"{row['chunks']:,}",
                f"{row['decoded'] / row['encoded']:.2f}",
                milliseconds(row["seconds"]),
                rate(row["rate"]),
                percent(row["of_roofline"]),
                percent(row.get("of_library")),
            ]
        )
    screen.table(header, cells)
    screen.line(("roofline: encoded bytes read and result written once, at the rate of a plain copy", "note"))
    screen.line(("of nvCOMP: its call by itself over the whole, copy into the result included", "note"))
    screen.line()
    show_parts(screen, rows)


def show_parts(screen: Screen, rows: list[Row]) -> None:
    """What each row's time is made of."""
    cells: list[list[Part]] = [
        [
            f"{row['chain']}, {size(row['chunk_nbytes'])}",
            name,
            milliseconds(part["seconds"]),
            rate(part["nbytes"] / part["seconds"]) if part["nbytes"] and part["seconds"] else _DASH,
            percent(part["of_copy"]),
        ]
        for row in rows
        for name, part in row["parts"].items()
        if part["seconds"] >= 0.01 * row["seconds"]
    ]
    screen.table(["part by part", "part", "ms", "GB/s moved", "of a copy"], cells)
    screen.line()


def show_whole(screen: Screen, rows: list[Row], missing: dict[str, str]) -> None:
    """Whole reads: steps, bytes, limits, then everyone side by side."""
    if not rows:
        return
    steps = ("plan", "fetch", "crossing", "device", "all", "chosen")
    header = ["page cache to device, ms", *steps, "binds", "of it", "of bound", "GB/s"]
    cells: list[list[Part]] = [
        [
            row["name"],
            *(milliseconds(row["seconds"][step]) for step in steps),
            row["binding"],
            percent(row["of_binding"]),
            percent(row["of_bound"]),
            rate(row["rate"]),
        ]
        for row in rows
    ]
    screen.table(header, cells)
    screen.line(("all: on the device whatever it costs; chosen: what the library does by itself", "note"))
    screen.line(("bound: the smaller of link × ratio and decoding, as bytes a second", "note"))
    screen.line()
    header = ["bytes", "read", "requests", "crossed", "chunks", "by the host", "decoded", "waves", "memory"]
    cells = [
        [
            row["name"],
            size(row["counts"]["bytes_read"]),
            f"{row['counts']['requests']:,}",
            size(row["counts"]["bytes_crossed"]),
            f"{row['counts']['chunks']:,}",
            f"{row['counts']['on_host']:,}",
            size(row["decoded"]),
            f"{row['counts']['waves']:,}",
            size(row["counts"]["peak_device_bytes"]),
        ]
        for row in rows
    ]
    screen.table(header, cells)
    screen.line()
    names = list(dict.fromkeys(name for row in rows for name in row["peers"]))
    cells = []
    for row in rows:
        ours = row["seconds"]["chosen"]
        line: list[Part] = [row["name"], milliseconds(ours)]
        for name in names:
            peer = row["peers"].get(name, {})
            spent = peer.get("seconds")
            line.append(f"{milliseconds(spent)} ({spent / ours:.1f} ×)" if spent else _DASH)
        cells.append(line)
    screen.table(["everyone, ms", "gpuzarr", *names], cells)
    for row in rows:
        for name, peer in row["peers"].items():
            if "why" in peer:
                screen.line((f"{name}, {row['name']}: {peer['why']}", "note"))
    for name, why in missing.items():
        screen.line((f"not beside: {name}: {why}", "note"))
    screen.line()


def show_crossover(screen: Screen, rows: list[Row]) -> None:
    """Who is sooner, and what the choice costs."""
    if not rows:
        return
    header = ["host or device, ms", "chunk", "chunks", "host", "device", "better", "choice", "regret"]
    cells: list[list[Part]] = [
        [
            row["chain"],
            size(row["chunk_nbytes"]),
            f"{row['count']:,}",
            milliseconds(row["seconds"]["host"]),
            milliseconds(row["seconds"]["device"]),
            row["better"],
            (row["choice"], "good" if row["choice"] == row["better"] else "bad"),
            percent(row["regret"]),
        ]
        for row in rows
    ]
    screen.table(header, cells)
    wrong = [row for row in rows if row["choice"] != row["better"]]
    worst = max((row["regret"] for row in rows), default=0.0)
    screen.line(
        (
            f"{len(wrong)} of {len(rows)} choices are not the better one; regret at most {percent(worst)}",
            "note",
        )
    )
    screen.line()


# ---- goals


def goals(document: Row) -> list[Row]:
    """The table of goals, each with what was measured. `met` is None where nothing was."""
    shuffled, whole = document.get("shuffle", []), document.get("whole", [])
    decode = document.get("decode", [])
    lz4 = [row for row in decode if row["chain"] == "blosc(lz4, shuffle)" and row["chunk_nbytes"] >= 64 << 10]
    zstd = [row for row in decode if row["chain"] == "zstd" and 64 << 10 <= row["chunk_nbytes"] <= 1 << 20]
    fused = [row["fused_of_copy"] for row in shuffled if "fused_of_copy" in row]
    chunks, many, shards, inner = whole[:4], whole[4:5], whole[5:6], whole[6:7]
    crossing, written = document.get("crossover", []), document.get("encode", [])
    large = [row for row in written if row["chunk_nbytes"] >= 1 << 20]
    movers = [row for row in document.get("kernels", []) if row["kernel"] in MOVERS]
    kernels = [row["of_copy"] for row in movers if "axes reversed" not in row["what"]]
    boxes = [row["seconds"]["warm as f32"] for row in document.get("patches", [])]
    cpu = [
        row["peers"]["gpuzarr cpu + upload"]["seconds"] / row["seconds"]["all"]
        for row in many
        if "seconds" in row["peers"].get("gpuzarr cpu + upload", {})
    ]
    return [
        _goal("blosc(lz4, shuffle), device only, chunks of 64 KiB and more", "≥ 150 GB/s",
              _least(row["rate"] / GB for row in lz4), 150, "GB/s"),
        _goal("zstd chunks of 64 KiB to 1 MiB, device only, copy into the result included",
              "≥ 95 % of nvCOMP's own", _percent(_least(row.get("of_library") for row in zstd)), 95, "%"),
        _goal("unshuffle + swap + crop into the result", "≥ 80 % of a copy",
              _percent(_least(fused)), 80, "%"),
        _goal("page cache → device, 1 MiB chunks", "≥ 90 % of the smaller of link × ratio and decoding",
              _percent(_least(row["of_bound"] for row in chunks)), 90, "%"),
        _goal("1024 × 64 KiB blosc chunks, end to end", "≥ 10 GB/s",
              _least(row["rate"] / GB for row in many), 10, "GB/s"),
        _goal("the same beside all CPU cores", "faster", _least(cpu), 1, "× as fast"),
        _goal("3.28 GB, 8 shards × 400 zstd chunks of 1 MB", "≤ 0.2 s",
              _most(row["seconds"]["all"] for row in shards), 0.2, "s", least=False),
        _goal("32 inner chunks of one shard", "≤ 1 ms",
              _most(row["seconds"]["chosen"] * 1e3 for row in inner), 1, "ms", least=False),
        _goal("host where the host is sooner", "the better one is chosen",
              _percent(_most(row["regret"] for row in crossing)), None, "% longer than the better"),
        _goal("blosc(lz4, shuffle) chunks of 1 MiB, encoded on the device", "≥ 50 GB/s",
              _least(row["rate"] / GB for row in large if row["chain"] == "blosc(lz4, shuffle)"), 50, "GB/s"),
        _goal("zstd chunks of 1 MiB, encoded on the device", "≥ 90 % of nvCOMP's own",
              _percent(_least(row.get("of_library") for row in large if row["chain"] == "zstd")), 90, "%"),
        _goal("writes from the device beside all CPU cores, 1 MiB chunks", "faster",
              _least(row["host"]["seconds"] / row["write"]["seconds"] for row in large), 1, "× as fast"),
        _goal("gather in order, shuffle, checksum, pack and convert, each by itself", "≥ 80 % of a copy",
              _percent(_least(kernels)), 80, "%"),
        _goal("64 boxes of 64³ as float32, from chunks that the device keeps", "≤ 5 ms",
              _most(seconds * 1e3 for seconds in boxes), 5, "ms", least=False),
        _goal("patch loader, 64 × 96³ a batch", "the GPU never waits", None, None, ""),
    ]  # fmt: skip


def show_goals(screen: Screen, document: Row) -> None:
    """Goal beside measured."""
    cells: list[list[Part]] = []
    judged = document["timed"] and document["scale"] == "full"
    for one in goals(document):
        value = f"{one['value']:,.3g} {one['unit']}" if one["value"] is not None else "not measured"
        verdict = {True: ("met", "good"), False: ("short", "bad"), None: (_DASH, "note")}[
            one["met"] if judged else None
        ]
        cells.append([one["name"], one["goal"], value, verdict])
    screen.table(["goal", "", "measured, the worst row", ""], cells)
    if not document["timed"]:
        screen.line(("nothing of this has run on a GPU: that it runs on device sim is all it shows", "warn"))
    elif not judged:
        screen.line(("small arrays: goals are meant for full ones, and are not judged here", "warn"))


def _goal(
    name: str, goal: str, value: float | None, limit: float | None, unit: str, least: bool = True
) -> Row:
    met = None if value is None or limit is None else (value >= limit if least else value <= limit)
    return {"name": name, "goal": goal, "value": value, "unit": unit, "met": met}


def _least(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _most(values: Iterable[float]) -> float | None:
    return max(values, default=None)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


# ---- figures as people read them


def size(nbytes: float) -> str:
    """1 MiB, 80 KiB; what is no round number of them in MB."""
    for unit, word in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if nbytes >= unit:
            return f"{nbytes / unit:,.4g} {word}"
    return f"{nbytes:,.0f} B"


def rate(value: float) -> str:
    """GB/s in three digits."""
    figure = value / GB
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


def milliseconds(seconds: float) -> str:
    """In three digits."""
    figure = seconds * 1e3
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


def percent(share: float | None) -> str:
    """In whole percents."""
    return _DASH if share is None else f"{100 * share:.0f} %"
