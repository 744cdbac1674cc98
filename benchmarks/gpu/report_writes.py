"""Tables of writes, of single kernels and of boxes: the other half of `report`."""

from __future__ import annotations

from benchmarks.gpu.report import Row, milliseconds, percent, rate, show_parts, size
from gpuzarr.cli.show import Part, Screen

_DASH = "–"


def show_encode(screen: Screen, rows: list[Row]) -> None:
    """What the device does by itself, whole writes, who else; then part by part."""
    if not rows:
        return
    header = ["encoded on the device", "chunk", "chunks", "to 1", "ms", "GB/s", "of roofline", "of nvCOMP"]
    cells: list[list[Part]] = [
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
        for row in rows
    ]
    screen.table(header, cells)
    screen.line(("GB/s: of decoded bytes, of one part of a write, from values to encoded chunks", "note"))
    screen.line(("roofline: values read and encoded bytes written once, at the rate of a copy", "note"))
    screen.line(("of nvCOMP: its own call for the same chunks over the whole; more: it takes longer", "note"))
    screen.line()
    header = [
        "written into memory, GB/s",
        "chunk",
        "from the device",
        "host, all threads",
        "to 1",
        "to 1, host",
    ]
    cells = [
        [
            row["chain"],
            size(row["chunk_nbytes"]),
            rate(row["write"]["rate"]),
            f"{rate(row['host']['rate'])} ({row['host']['seconds'] / row['write']['seconds']:.2f} ×)",
            f"{_ratio(row['write']):.2f}",
            f"{_ratio(row['host']):.2f}",
        ]
        for row in rows
    ]
    screen.table(header, cells)
    screen.line(
        ("device, host: where values and encoders are; and the host's time over the device's", "note")
    )
    screen.line()
    show_parts(screen, rows)


def _ratio(written: Row) -> float:
    return float(written["rate"] * written["seconds"] / written["encoded"])


def show_kernels(screen: Screen, rows: list[Row]) -> None:
    """Each kernel by itself."""
    if not rows:
        return
    cells: list[list[Part]] = [
        [
            row["name"],
            size(row["nbytes"]),
            milliseconds(row["seconds"]),
            rate(row["rate"]),
            percent(row["of_copy"]),
        ]
        for row in rows
    ]
    screen.table(["kernels by themselves", "moved", "ms", "GB/s moved", "of a copy"], cells)
    screen.line(("moved: what has to be read and written, at least once each", "note"))
    screen.line()


def show_patches(screen: Screen, rows: list[Row]) -> None:
    """Boxes: cold, from the cache, converted; on the device, as the library chooses, on the host."""
    if not rows:
        return
    ways = ("cold", "warm", "cold as f32", "warm as f32")
    header = ["boxes in one read, ms", "chunk", "chunks", *ways, "GB/s, warm"]
    cells: list[list[Part]] = []
    for row in rows:
        for side, mark in (("", ""), (", chosen", ", as the library chooses"), (", host", ", host + upload")):
            cells.append(
                [
                    f"{row['name']}{mark}",
                    size(row["chunk_nbytes"]) if not side else "",
                    f"{row['chunks']:,}" if not side else "",
                    *(milliseconds(row["seconds"][f"{way}{side}"]) for way in ways),
                    rate(row["nbytes"] / row["seconds"][f"warm{side}"]),
                ]
            )
    screen.table(header, cells)
    screen.line(("cold: from files in the page cache; warm: every chunk is kept decoded", "note"))
    screen.line()
