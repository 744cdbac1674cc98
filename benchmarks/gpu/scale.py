"""How much is read: by a GPU, by a GPU in a hurry, by device sim, by a test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Shape = tuple[int, int, int]

KIB8, KIB64, KIB256, MIB1, MIB16 = (16, 16, 16), (32, 32, 32), (32, 64, 64), (64, 64, 128), (128, 256, 256)


@dataclass(frozen=True, slots=True)
class Shards:
    """A sharded array: shapes, every one dividing the next."""

    block: Shape
    chunks: Shape
    shards: Shape
    volume: Shape


@dataclass(frozen=True, slots=True)
class Scale:
    """Sizes of everything. Shapes are of uint16."""

    name: str
    rounds: int
    noise: int
    """Bytes with which ceilings are measured."""
    block: Shape
    volume: Shape
    chunk_shapes: Sequence[Shape]
    sets: int
    few: bool
    """A few chains only."""
    whole: Shape
    """The chunks of the reads of whole arrays."""
    many: tuple[Shape, Shape, Shape]
    """Block, volume and chunks of the read of very many small chunks."""
    published: Shards
    """Of the read that others have published."""
    inner: Shards
    """Of the read of some inner chunks of one shard."""
    inner_read: Shape
    """What is read of it."""
    counts: Sequence[int]
    """Of chunks, for the crossover."""
    sizes: Sequence[int]
    """Of chunks in bytes, for the crossover."""
    most: int
    """Bytes that no read of the crossover exceeds."""
    frame: int
    """Bytes of one huge frame."""
    written: Sequence[Shape]
    """Chunks of what is written."""
    kernel: int
    """Bytes that single kernels take."""
    boxes: int
    """How many are read at once, from an array of the volume's shape with the chunks of `whole`."""
    box: Shape


FULL = Scale(
    name="full",
    rounds=9,
    noise=256 << 20,
    block=(128, 512, 512),
    volume=(512, 512, 1024),
    chunk_shapes=(KIB8, KIB64, KIB256, MIB1, MIB16),
    sets=2,
    few=False,
    whole=MIB1,
    many=((32, 512, 1024), (64, 512, 1024), KIB64),
    published=Shards((160, 640, 400), (80, 80, 80), (400, 640, 800), (800, 1280, 1600)),
    inner=Shards((64, 256, 256), KIB64, (128, 256, 512), (128, 512, 1024)),
    inner_read=(64, 128, 128),
    counts=(1, 4, 16, 64, 256, 1024, 4096),
    sizes=(8 << 10, 64 << 10, 256 << 10, 1 << 20, 16 << 20),
    most=256 << 20,
    frame=64 << 20,
    written=(KIB64, MIB1),
    kernel=256 << 20,
    boxes=64,
    box=(64, 64, 64),
)
QUICK = Scale(
    name="quick",
    rounds=5,
    noise=64 << 20,
    block=(128, 256, 256),
    volume=(256, 256, 512),
    chunk_shapes=(KIB64, MIB1),
    sets=2,
    few=True,
    whole=MIB1,
    many=((32, 512, 1024), (64, 512, 1024), KIB64),
    published=Shards((160, 160, 160), (80, 80, 80), (160, 160, 320), (320, 160, 320)),
    inner=Shards((64, 256, 256), KIB64, (128, 256, 512), (128, 512, 1024)),
    inner_read=(64, 128, 128),
    counts=(1, 16, 256),
    sizes=(64 << 10, 1 << 20),
    most=32 << 20,
    frame=16 << 20,
    written=(KIB64, MIB1),
    kernel=64 << 20,
    boxes=64,
    box=(64, 64, 64),
)
SIM = Scale(
    name="sim",
    rounds=1,
    noise=4 << 20,
    block=(32, 64, 64),
    volume=(32, 64, 128),
    chunk_shapes=(KIB8, KIB64, KIB256),
    sets=2,
    few=False,
    whole=KIB64,
    many=((32, 32, 64), (32, 64, 128), KIB8),
    published=Shards((20, 40, 20), (20, 20, 20), (40, 40, 20), (40, 80, 40)),
    inner=Shards((32, 32, 32), (8, 8, 8), (32, 32, 64), (32, 64, 64)),
    inner_read=(16, 32, 32),
    counts=(1, 4, 16),
    sizes=(8 << 10, 64 << 10),
    most=256 << 10,
    frame=256 << 10,
    written=(KIB8, KIB64),
    kernel=256 << 10,
    boxes=8,
    box=(16, 16, 16),
)
TINY = Scale(
    name="tiny",
    rounds=1,
    noise=64 << 10,
    block=(32, 32, 32),
    volume=(32, 32, 64),
    chunk_shapes=(KIB8,),
    sets=1,
    few=True,
    whole=KIB8,
    many=((32, 32, 32), (32, 32, 32), KIB8),
    published=Shards((32, 32, 32), (16, 16, 16), (32, 16, 32), (32, 32, 32)),
    inner=Shards((32, 32, 32), (8, 8, 8), (32, 32, 32), (32, 32, 32)),
    inner_read=(16, 32, 32),
    counts=(1, 2),
    sizes=(4 << 10,),
    most=64 << 10,
    frame=8 << 10,
    written=(KIB8,),
    kernel=64 << 10,
    boxes=3,
    box=(9, 8, 7),
)
SCALES = {one.name: one for one in (FULL, QUICK, SIM, TINY)}
