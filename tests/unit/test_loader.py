"""PatchLoader: its batches against slices of NumPy arrays, what it reads, counted, and how loops end."""

from __future__ import annotations

import copy
import gc
import io
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuzarr
from gpuzarr.engine import cache
from gpuzarr.errors import ArgumentError, ChecksumError, GpuzarrError, StoreError
from gpuzarr.loading import Balanced, Blocks, Grid, Listed, PatchLoader, Uniform, Weighted
from gpuzarr.loading import loop as loop_module
from gpuzarr.loading import reading as module
from gpuzarr.loading.bar import Bar
from gpuzarr.store.base import Buffer, Place, Request
from gpuzarr.store.memory import MappingStore
from gpuzarr.testing.store import CountingStore
from tests import devices, fake_cupy
from tests.conftest import to_host
from tests.devices import SOME

RNG = np.random.default_rng(5)
IMAGE = RNG.integers(0, 60_000, (24, 30, 28)).astype("u2")
LABEL = RNG.integers(0, 3, IMAGE.shape).astype("u1")
COLOUR = RNG.random((3, *IMAGE.shape)).astype("f4")
COARSE = np.ascontiguousarray(IMAGE[::2, ::3, ::2])
BOX = (6, 9, 8)


def stored(values: np.ndarray, device: str = "cpu", chunks: Any = 8, **options: Any) -> Any:
    held: dict[str, bytes] = {}
    shape = (1,) * (values.ndim - 3) + (chunks,) * 3
    gpuzarr.save(held, values, chunks=shape, codecs=["zstd"], **options)
    return gpuzarr.open_array(held, device=device)


def loader(batch_size: int = 4, **options: Any) -> PatchLoader:
    return PatchLoader(stored(IMAGE), BOX, batch_size, **options)


def at(values: np.ndarray, origin: Sequence[int], box: Sequence[int] = BOX) -> np.ndarray:
    return values[(..., *(slice(o, o + n) for o, n in zip(origin, box, strict=True)))]


def cut(origins: np.ndarray, values: np.ndarray = IMAGE, box: Sequence[int] = BOX) -> np.ndarray:
    return np.stack([at(values, origin, box) for origin in origins.tolist()])


def expected(of: PatchLoader, epoch: int = 0) -> list[np.ndarray]:
    """What an epoch of a loader over IMAGE is."""
    return [cut(of.origins(i, epoch)) for i in range(of.batches.length)]


def same(found: Sequence[Any], wanted: Sequence[Any]) -> bool:
    return len(found) == len(wanted) and all(map(np.array_equal, found, wanted))


def readers() -> list[threading.Thread]:
    """Threads that read ahead."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("gpuzarr-loader")]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Any:
    yield
    if readers():
        gc.collect()
    assert readers() == []
    cache.clear()


# ---- what a batch holds


@pytest.mark.parametrize("name", SOME)
def test_values_are_converted_where_they_land(name: str) -> None:
    of = PatchLoader(
        {"image": stored(IMAGE, name), "plain": stored(IMAGE, name)},
        BOX,
        4,
        dtype={"image": "float32"},
        rescale={"image": (1 / 255, -0.5)},
    )
    batch = next(iter(of))
    of.close()
    wanted = cut(of.origins(0))
    assert np.array_equal(to_host(batch["plain"]), wanted)
    scaled = wanted.astype("f4") * np.float32(1 / 255) + np.float32(-0.5)
    assert to_host(batch["image"]).dtype == np.float32
    assert np.array_equal(to_host(batch["image"]), scaled)
    for options in ({"dtype": "int8"}, {"rescale": "much"}, {"dtype": {"images": "float32"}}):
        with pytest.raises(ArgumentError):
            PatchLoader({"image": stored(IMAGE, name)}, BOX, 4, **options)


def test_several_arrays_on_every_device(device: str) -> None:
    """Channels, a coarser array, a wider one: the same boxes of each."""
    of = PatchLoader(
        {
            "image": stored(IMAGE, device),
            "label": stored(LABEL, device),
            "colour": stored(COLOUR, device),
            "coarse": stored(COARSE, device),
        },
        BOX,
        5,
        sampler=Uniform(7),
        scale={"coarse": (2, 3, 2)},
        margin={"label": 2},
        channels={"colour": [2, 0]},
        with_origins=True,
        seed=1,
    )
    batches = [{name: to_host(array) for name, array in batch.items()} for batch in of]
    assert [len(batch["image"]) for batch in batches] == [5, 2]
    for i, batch in enumerate(batches):
        origins = batch["origins"]
        assert (origins == of.origins(i)).all()
        assert (origins % (2, 3, 2) == 0).all()
        assert origins.min() >= 2
        assert np.array_equal(batch["image"], cut(origins))
        wide = cut(origins - 2, LABEL, [n + 4 for n in BOX])
        assert np.array_equal(batch["label"], wide)
        assert np.array_equal(batch["colour"], cut(origins, COLOUR[[2, 0]]))
        assert np.array_equal(batch["coarse"], cut(origins // (2, 3, 2), COARSE, (3, 3, 4)))
        assert (batch["label"].dtype, batch["colour"].dtype) == (LABEL.dtype, COLOUR.dtype)


@pytest.mark.skipif(bool(devices.CHOSEN), reason="of a stand-in for CuPy")
@pytest.mark.parametrize("machine", fake_cupy.ORDERS)
@pytest.mark.parametrize("reuse", [False, True])
def test_batches_of_cupy(machine: str, reuse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the stand-in for CuPy: what was not waited for, or runs too early, is wrong here."""
    fake_cupy.install(monkeypatch, machine)
    seen: list[Any] = []

    def look(batch: Any, rng: Any) -> Any:
        seen.append(threading.current_thread() is threading.main_thread())
        return batch

    options: dict[str, Any] = {"sampler": Uniform(14), "transform": look, "reuse": reuse, "threads": 2}
    of = PatchLoader({"i": stored(IMAGE, "cuda:0"), "l": stored(LABEL, "cuda:0")}, BOX, 4, **options)
    for i, batch in enumerate(of):
        assert np.array_equal(batch["i"].get(), cut(of.origins(i)))
        assert np.array_equal(batch["l"].get(), cut(of.origins(i), LABEL))
    assert seen == [True] * 4


def test_one_array_gives_arrays() -> None:
    of = loader()
    assert same(list(of), expected(of))
    assert same([of.batch(2, 7)], [cut(of.origins(2, 7))])


@pytest.mark.parametrize("chosen", [None, 1, [1], slice(0, 3, 2), [2, -1], (slice(None),), ([0, 2],)])
def test_channels(chosen: Any) -> None:
    of = PatchLoader({"c": stored(COLOUR)}, BOX, 3, sampler=Uniform(3), channels=chosen)
    one = chosen[0] if isinstance(chosen, tuple) else chosen
    taken = COLOUR[[one]] if isinstance(one, int) else COLOUR if one is None else COLOUR[one]
    assert np.array_equal(next(iter(of))["c"], cut(of.origins(0), taken))


def test_channels_of_two_axes() -> None:
    times = np.stack([COLOUR, COLOUR + 1])
    of = PatchLoader({"t": stored(times)}, BOX, 2, sampler=Uniform(2), channels={"t": (1, [2, 0])})
    assert np.array_equal(next(iter(of))["t"], cut(of.origins(0), times[1:, [2, 0]]))


@pytest.mark.parametrize("device", ["cpu", "sim"])
@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_boxes_over_the_edge(mode: str, device: str) -> None:
    of = PatchLoader(
        {"image": stored(IMAGE, device), "label": stored(LABEL, device)},
        BOX,
        6,
        sampler=Listed([[-5, -5, -5], [19, 25, 23], [0, 25, -5], [3, 4, 5], [-5, 0, 0], [1, 1, 23]]),
        mode=mode,
        fill={"label": 255},
        overhang=5,
    )
    options: dict[str, Any] = {"mode": mode}
    for name, values, fill in (("image", IMAGE, 0), ("label", LABEL, 255)):
        if mode == "constant":
            options["constant_values"] = fill
        padded = np.pad(values, 5, **options)
        (batch,) = list(of) if name == "image" else [of.batch(0)]
        assert np.array_equal(to_host(batch[name]), cut(of.origins(0) + 5, padded))


def test_an_array_that_is_smaller_than_a_box_lies_in_its_middle() -> None:
    box = (30, 9, 8)
    of = PatchLoader(stored(IMAGE), box, 2, sampler=Uniform(2), mode="constant", fill=9)
    padded = np.pad(IMAGE, ((3, 3), (0, 0), (0, 0)), constant_values=9)
    origins = of.origins(0)
    assert set(origins[:, 0].tolist()) == {-3}
    assert np.array_equal(next(iter(of)), cut(origins + np.array([3, 0, 0]), padded, box))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (30, 9, 8)}, "no box of 30 elements fits into axis 0, which has 24"),
        ({"shape": (6, 0, 8)}, "shape"),
        ({"shape": 6}, "is not a box"),
        ({"shape": (2, 2, 2, 2)}, "boxes of 4 axes in an array of 3"),
        ({"margin": 10}, "with its margins"),
        ({"margin": -1}, "margin"),
        ({"scale": {"label": (2, 3, 2)}}, "does not lie over"),
        ({"scale": {"label": 0}}, "scale of 'label'"),
        ({"scale": {"other": 2}}, "'other', which is no array"),
        ({"scale": 4}, "no whole number of elements of 'image'"),
        ({"mode": "mirror"}, "'mirror' of 'image' is not known"),
        ({"channels": {"image": 0}}, "for 0 axes before"),
        ({"overhang": (1, 2)}, "overhang"),
        ({"arrays": {}}, "no arrays"),
        ({"arrays": IMAGE}, "is a ndarray, not a gpuzarr.Array"),
        ({"arrays": {"image": "a.zarr"}}, "array 'image' is a str"),
        ({"arrays": {3: stored(IMAGE)}}, "not a string"),
        ({"arrays": stored(IMAGE), "with_origins": True}, "with_origins needs a dict"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 1.5}, "seed=1.5"),
        ({"prefetch": -1}, "prefetch=-1"),
        ({"threads": 0}, "threads=0"),
        ({"retries": True}, "retries=True"),
    ],
)
def test_what_is_refused(options: Any, message: str) -> None:
    given = {"arrays": {"image": stored(IMAGE), "label": stored(LABEL)}, "shape": BOX, "batch_size": 4}
    with pytest.raises(ArgumentError, match=message):
        PatchLoader(**{**given, **options})


@pytest.mark.parametrize("chosen", [3, [0, 3], [-4], "red", [0.5], ([0], [0])])
def test_channels_that_are_refused(chosen: Any) -> None:
    with pytest.raises(ArgumentError, match="channels"):
        PatchLoader({"c": stored(COLOUR)}, BOX, 3, channels=chosen)


# ---- what it reads


def counting(values: np.ndarray = IMAGE) -> tuple[CountingStore, Any]:
    held: dict[str, bytes] = {}
    gpuzarr.save(held, values, chunks=(8, 8, 8), codecs=["zstd"])
    store = CountingStore(MappingStore(held))
    array = gpuzarr.open_array(store, device="cpu")
    store.forget()
    return store, array


def chunks_of(origins: np.ndarray) -> set[tuple[int, ...]]:
    return {
        (z // 8, y // 8, x // 8)
        for origin in origins.tolist()
        for z in range(origin[0], origin[0] + BOX[0])
        for y in range(origin[1], origin[1] + BOX[1])
        for x in range(origin[2], origin[2] + BOX[2])
    }


def test_a_batch_reads_each_chunk_once() -> None:
    store, array = counting()
    of = PatchLoader(array, BOX, 16, sampler=Uniform(64))
    for i, _ in enumerate(of):
        assert len(of.origins(i)) == 16
    wanted = [len(chunks_of(of.origins(i))) for i in range(4)]
    assert of.stats.reads.requests == len(store.seen) == sum(wanted) == of.stats.reads.chunks


def test_blocks_reuse_chunks_as_rehearsed() -> None:
    """With a cache that holds a window, each chunk of it is decoded once a window; and what the rehearsal
    says without reading is what happens."""
    options: dict[str, Any] = {"sampler": Uniform(640), "seed": 3, "batch_size": 16}
    few = loader(order=Blocks((8, 8, 8), at_once=4, per_block=16), **options)
    plain = loader(**options)
    for of in (few, plain):
        cache.clear()
        with gpuzarr.configured(cache_nbytes=1 << 20):
            assert same(list(of), expected(of))
        rehearsed = of.rehearse(1000, 1 << 20 if of is few else 0)
        assert rehearsed.missed == of.stats.reads.chunks
        assert rehearsed.decoded == sum(len(chunks_of(of.origins(i))) for i in range(40))
        assert (rehearsed.batches, rehearsed.patches) == (40, 640)
    assert few.stats.reads.chunks < plain.stats.reads.chunks / 5
    assert few.stats.hit_rate is not None
    assert few.stats.hit_rate > 0.8
    assert plain.stats.hit_rate is None
    assert "hits" in str(few.rehearse())
    assert few.rehearse().overlapping > plain.rehearse().overlapping


# ---- the same batches, however they are read


@pytest.mark.parametrize(
    "options",
    [
        {"prefetch": 0},
        {"prefetch": 1},
        {"prefetch": 5, "threads": 4},
        {"prefetch": 3, "threads": 3, "reuse": True},
        {"cache": True},
        {"empty": np.zeros},
    ],
)
@pytest.mark.parametrize("order", ["random", "blocks"])
def test_threads_do_not_change_batches(options: Any, order: Any) -> None:
    of = loader(sampler=Balanced(LABEL, count=30), order=order, seed=9, **options)
    for epoch in range(2):
        wanted = expected(of, epoch)
        assert len(wanted) == 8
        for i, batch in enumerate(of):
            assert np.array_equal(batch, wanted[i])
    assert of.stats.batches == 16


def test_ranks_share_the_batches() -> None:
    wanted = expected(loader(sampler=Uniform(40)))
    ranks = [list(loader(sampler=Uniform(40), rank=r, world_size=3)) for r in range(3)]
    mixed = [batch for turn in zip(*ranks, strict=True) for batch in turn]
    assert same(mixed, [*wanted, *wanted[:2]])
    again = loader(sampler=Uniform(40)).for_rank(1, 3)
    assert same(list(again), ranks[1])


def test_a_loader_can_be_sent_to_another_process() -> None:
    of = loader(sampler=Weighted(LABEL, count=12), order="blocks", seed=2)
    next(iter(of))
    for other in (pickle.loads(pickle.dumps(of)), copy.copy(of)):
        other.set_epoch(3)
        assert same(list(other), expected(of, 3))
        assert (other.stats.batches, of.stats.batches) == (3, 1)


# ---- epochs and states


def test_each_loop_is_the_next_epoch() -> None:
    of = loader()
    assert of.epoch == 0
    assert len(of) == 9
    for epoch in range(3):
        assert same(list(of), expected(of, epoch))
        assert of.epoch == epoch + 1
    for i, batch in enumerate(of):
        assert np.array_equal(batch, cut(of.origins(i, 3)))
        if i == 2:
            break
    assert same(list(of), expected(of, 4)), "a loop that was left early is an epoch too"
    of.set_epoch(1)
    assert same(list(of), expected(of, 1))
    with pytest.raises(ArgumentError, match="epoch=-1"):
        of.set_epoch(-1)


def test_an_endless_loop() -> None:
    of = loader(endless=True)
    batches = [batch for _, batch in zip(range(20), of, strict=False)]
    assert same(batches, [*expected(of, 0), *expected(of, 1), *expected(of, 2)[:2]])
    with pytest.raises(TypeError, match="no length"):
        len(of)


def test_the_last_batch_is_kept_or_dropped() -> None:
    assert [len(batch) for batch in loader(10, sampler=Uniform(23))] == [10, 10, 3]
    assert [len(batch) for batch in loader(10, sampler=Uniform(23), drop_last=True)] == [10, 10]


@pytest.mark.parametrize("taken", [0, 1, 4, 9, 13, 18])
@pytest.mark.parametrize("endless", [False, True])
def test_a_state_goes_on_with_the_batch_that_was_not_handed_out(taken: int, endless: bool) -> None:
    def batches(of: PatchLoader) -> Any:
        while True:
            yield from of

    first = loader(seed=6, endless=endless)
    stream = batches(first)
    for _ in range(taken):
        next(stream)
    state = json.loads(json.dumps(first.state_dict()))
    assert (state["epoch"], state["batch"]) == divmod(taken, 9)
    second = loader(seed=6, endless=endless)
    second.load_state_dict(state)
    assert second.state_dict() == state
    other = batches(second)
    for _ in range(12):
        assert np.array_equal(next(other), next(stream))
    assert second.state_dict() == first.state_dict()


def test_a_state_for_another_number_of_ranks() -> None:
    many = [loader(sampler=Uniform(48), rank=r, world_size=4) for r in range(4)]
    for of in many:
        next(iter(of))
    states = [of.state_dict() for of in many]
    assert states.count(states[0]) == 4
    pair = [loader(sampler=Uniform(48), rank=r, world_size=2) for r in range(2)]
    for of in pair:
        of.load_state_dict(states[0])
    mixed = [batch for turn in zip(*pair, strict=True) for batch in turn]
    assert same(mixed, expected(loader(sampler=Uniform(48)))[4:])
    alone = loader(sampler=Uniform(48))
    next(iter(alone))
    with pytest.raises(ArgumentError, match="1 batches of 1 ranks cannot be shared by 2"):
        pair[0].load_state_dict(alone.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, "seed=1, this one has 0"),
        ({"batch_size": 5}, "batch_size=5"),
        ({"sampler": Uniform(30)}, "boxes=30"),
        ({"sampler": Grid()}, "boxes=64|sampler='Grid'"),
        ({"order": "blocks"}, "order='Blocks"),
        ({"drop_last": True}, "drop_last=True"),
    ],
)
def test_states_of_other_loaders_are_refused(options: Any, message: str) -> None:
    state = loader(**options).state_dict()
    with pytest.raises(ArgumentError, match=message):
        loader().load_state_dict(state)


@pytest.mark.parametrize(
    "change", [{"version": 9}, {"epoch": "two"}, {"of": None}, {"batch": 10}, {"epoch": -1}, {"batch": 0.5}]
)
def test_states_that_are_none(change: Any) -> None:
    of = loader()
    state = {**of.state_dict(), **change}
    with pytest.raises(ArgumentError, match="state"):
        of.load_state_dict(state)
    with pytest.raises(ArgumentError, match="no state"):
        of.load_state_dict({})


# ---- how loops end


def test_nothing_is_left_of_a_loop_that_was_broken_off() -> None:
    of = loader(prefetch=4, threads=3)
    for _ in of:
        assert len(readers()) <= 3
        break
    assert readers() == []
    loop = iter(of)
    next(loop)
    del loop
    assert readers() == []
    with of:
        next(iter(of))
        kept = iter(of)
        next(kept)
    assert readers() == []
    del kept


def test_an_error_of_the_consumer_ends_the_loop() -> None:
    of = loader()
    for wrong in (ValueError, KeyboardInterrupt):
        try:
            for _ in of:
                raise wrong
        except wrong:
            pass
        assert readers() == []


def test_a_loop_in_a_cycle_is_collected() -> None:
    class Trainer:
        def __init__(self) -> None:
            self.batches = iter(loader(prefetch=3))
            self.me = self

    trainer = Trainer()
    next(trainer.batches)
    del trainer
    gc.collect()
    assert readers() == []


def test_ctrl_c_while_waiting_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    of = loader()
    loop = iter(of)
    first = next(loop)
    wait = threading.Condition.wait
    calls: list[int] = []

    def interrupted(self: threading.Condition, timeout: float | None = None) -> bool:
        if threading.current_thread() is threading.main_thread() and not calls:
            calls.append(1)
            raise KeyboardInterrupt
        return wait(self, timeout)

    shared = loop._ahead._shared
    with shared.changed:
        held, shared.made = shared.made, {}  # as if nothing was made yet
    monkeypatch.setattr(threading.Condition, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(loop)
    with shared.changed:
        shared.made.update(held)
        shared.changed.notify_all()
    assert same([first, *loop], expected(of))


def test_a_second_loop_ends_the_first_one_and_says_so() -> None:
    of = loader()
    first = iter(of)
    next(first)
    second = iter(of)
    next(second)
    with pytest.raises(GpuzarrError, match=r"ended before its last batch; .*one at a time"):
        next(first)
    assert len(list(second)) == 8
    assert list(second) == []


def test_a_script_that_ends_within_a_loop_ends() -> None:
    code = (
        "import gpuzarr, numpy\n"
        "from gpuzarr.loading import PatchLoader\n"
        "held = {}; gpuzarr.save(held, numpy.zeros((64, 64), 'u1'), chunks=(8, 8))\n"
        "array = gpuzarr.open_array(held, device='cpu')\n"
        "loop = iter(PatchLoader(array, (8, 8), 4, endless=True, prefetch=4, threads=3))\n"
        "print(next(loop).shape)\n"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "(4, 8, 8)\n", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_forked_child_begins_its_own_loop() -> None:
    of = loader()
    loop = iter(of)
    next(loop)
    wanted = expected(of)
    child = os.fork()
    if not child:
        try:
            try:
                next(loop)
            except GpuzarrError as error:
                assert "another process" in str(error)  # noqa: PT017
            else:
                os._exit(2)
            os._exit(0 if same(list(of), wanted[1:]) else 3)
        finally:
            os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(list(loop)) == 8


# ---- memory


def test_no_more_than_asked_is_read_ahead() -> None:
    """`prefetch` batches besides the one in use: counted by what was read when everything stands still."""
    for prefetch, threads in ((0, 2), (1, 2), (3, 2), (4, 4)):
        _, array = counting()
        made: list[int] = []

        def note(batch: Any, rng: Any, made: list[int] = made) -> Any:
            made.append(1)
            return batch

        of = PatchLoader(
            array, BOX, 4, sampler=Uniform(100), prefetch=prefetch, threads=threads, transform=note
        )
        loop = iter(of)
        for taken in range(1, 4):
            next(loop)
            ahead = loop._ahead._shared
            with ahead.changed:  # makers that have room have begun, and none begins more
                assert ahead.begun - ahead.taken <= prefetch
            assert len(made) <= taken + prefetch
        loop.close()
        assert len(made) <= 3 + prefetch


def test_a_batch_that_is_held_stays_as_it_was() -> None:
    of = loader(prefetch=3, threads=2, sampler=Uniform(40))
    held = list(of)
    assert same(held, expected(of))
    for i, one in enumerate(held):
        assert not any(np.shares_memory(one, other) for other in held[i + 1 :])


def test_arrays_are_reused_where_that_was_asked_for() -> None:
    of = loader(prefetch=2, threads=2, sampler=Uniform(50), reuse=True)
    places = []
    for i, batch in enumerate(of):
        assert np.array_equal(batch, cut(of.origins(i)))
        places.append(batch.__array_interface__["data"][0])
    assert len(batch) == 2
    assert len(set(places[:-1])) <= 3


@pytest.mark.parametrize("device", ["cpu", "sim"])
def test_reused_arrays_on_a_device(device: str) -> None:
    of = PatchLoader(stored(IMAGE, device), BOX, 4, sampler=Uniform(22), reuse=True)
    for i, batch in enumerate(of):
        assert np.array_equal(to_host(batch), cut(of.origins(i)))


def test_arrays_that_somebody_else_makes() -> None:
    made: list[np.ndarray] = []

    def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        made.append(np.full(shape, 7, dtype))
        return made[-1]

    of = loader(empty=empty, prefetch=0, sampler=Uniform(8))
    assert all(batch is one for batch, one in zip(of, made, strict=True))
    for wrong in (lambda shape, dtype: np.zeros(3), lambda shape, dtype: [0]):
        with pytest.raises(ArgumentError, match="empty made"):
            next(iter(loader(empty=wrong)))


# ---- errors


@dataclass
class Failing(CountingStore):
    """A store that fails when it is told to."""

    fails: Callable[[Request], bool] = field(default=lambda request: False)

    def get_ranges(self, requests: Sequence[Request], place: Place | None = None) -> list[Buffer | None]:
        found = CountingStore.get_ranges(self, requests, place)
        if any(self.fails(request) for request in requests):
            raise StoreError("the network is gone")
        return found


def failing() -> tuple[Failing, Any]:
    held: dict[str, bytes] = {}
    gpuzarr.save(held, IMAGE, chunks=BOX, codecs=["zstd"])
    store = Failing(MappingStore(held))
    return store, gpuzarr.open_array(store, device="cpu")


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_a_store_that_fails_in_the_middle_of_an_epoch(prefetch: int) -> None:
    """Batches before come; the error comes in the place of its batch; the next loop begins with that one."""
    store, array = failing()
    of = PatchLoader(array, BOX, 4, sampler=Grid(shuffle=False), prefetch=prefetch, threads=3)
    broken = "c/2/0/0"  # box 32: batch 8
    store.fails = lambda request: request.key == broken
    found = []
    with pytest.raises(StoreError, match="the network is gone") as caught:  # noqa: PT012
        for batch in of:
            found.append(batch)
    assert same(found, expected(of)[:8])
    assert caught.value.__notes__ == ["in batch 8 of epoch 0"]
    assert readers() == []
    assert (of.state_dict()["epoch"], of.state_dict()["batch"]) == (0, 8)
    with pytest.raises(StoreError):
        next(iter(of))
    store.fails = lambda request: False
    assert same(list(of), expected(of)[8:]), "nothing skipped"
    assert same(list(of), expected(of, 1))


def test_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(module, "sleep", pauses.append)
    store, array = failing()
    of = PatchLoader(array, BOX, 4, sampler=Grid(shuffle=False), prefetch=0, retries=2)
    tries: list[str] = []

    def twice(request: Request) -> bool:
        if request.key == "c/1/0/0":
            tries.append(request.key)
        return request.key == "c/1/0/0" and len(tries) <= 2

    store.fails = twice
    assert same(list(of), expected(of))
    assert of.stats.retried == 2
    assert pauses == [0.1, 0.2]
    assert "2 reads tried again" in repr(of.stats)
    tries.clear()
    of = PatchLoader(array, BOX, 4, sampler=Grid(shuffle=False), prefetch=0, retries=1)
    with pytest.raises(StoreError, match="the network is gone"):
        list(of)
    assert of.stats.batches == 4


def test_damaged_chunks_are_not_tried_again() -> None:
    held: dict[str, bytes] = {}
    gpuzarr.save(held, IMAGE, chunks=BOX, codecs=["crc32c"])
    held["c/1/0/0"] = held["c/1/0/0"][:-1] + b"?"
    store = CountingStore(MappingStore(held))
    of = PatchLoader(gpuzarr.open_array(store, device="cpu"), BOX, 4, sampler=Grid(shuffle=False), retries=3)
    with pytest.raises(ChecksumError, match="c/1/0/0"):
        list(of)
    assert of.stats.retried == 0
    assert of.stats.batches == 4


def test_a_sampler_or_a_transform_that_fails() -> None:
    def origin(rng: np.random.Generator, space: Any) -> Any:
        return [0, 0, 999]

    with pytest.raises(ArgumentError, match=r"box \d at \(0, 0, 999\)"):
        list(loader(sampler=origin))

    def broken(batch: Any, rng: Any) -> Any:
        raise ZeroDivisionError("in a transform")

    for prefetch in (0, 2):
        of = loader(transform=broken, prefetch=prefetch)
        with pytest.raises(ZeroDivisionError, match="in a transform"):
            next(iter(of))
        assert of.state_dict()["batch"] == 0


def test_a_thread_that_is_told_to_exit_is_an_error_and_no_hang() -> None:
    def leave(batch: Any, rng: Any) -> Any:
        sys.exit(3)

    with pytest.raises(SystemExit):
        next(iter(loader(transform=leave)))


# ---- what becomes of a batch


def noisy(batch: Any, rng: np.random.Generator) -> Any:
    return batch + rng.integers(0, 1000)


def test_transforms_have_numbers_of_their_own() -> None:
    options: dict[str, Any] = {"transform": noisy, "sampler": Uniform(40)}
    alone = list(loader(**options, prefetch=0))
    noise = [
        int((batch - plain).max())
        for batch, plain in zip(alone, expected(loader(sampler=Uniform(40))), strict=True)
    ]
    assert len(set(noise)) > 5
    assert same(list(loader(**options, prefetch=4, threads=3)), alone)
    ranks = [loader(**options, rank=r, world_size=2) for r in range(2)]
    assert same([batch for turn in zip(*ranks, strict=True) for batch in turn], alone)


def test_transforms_run_where_the_batch_is() -> None:
    """On the host in the reading threads; those of a device on the thread that asks."""
    for device, name in (("cpu", "gpuzarr-loader"), ("sim", "MainThread")):
        seen: list[tuple[str, str]] = []

        def look(batch: Any, rng: Any, seen: Any = seen) -> Any:
            seen.append((threading.current_thread().name, type(batch).__name__))
            return batch

        of = PatchLoader(stored(IMAGE, device), BOX, 4, sampler=Uniform(8), transform=look)
        assert same([to_host(batch) for batch in of], expected(of))
        assert all(thread.startswith(name) for thread, _ in seen)
        assert {kind for _, kind in seen} == {"ndarray" if device == "cpu" else "SimArray"}


def test_consumers_of_dlpack_share_the_memory() -> None:
    seen: list[np.ndarray] = []

    def through(array: Any) -> Any:
        seen.append(array)
        return np.from_dlpack(array)

    of = PatchLoader({"a": stored(IMAGE)}, BOX, 4, sampler=Uniform(4), to=through, prefetch=0)
    (batch,) = of
    assert np.shares_memory(batch["a"], seen[0])
    assert np.array_equal(batch["a"], cut(of.origins(0)))


def test_jax_takes_batches_as_they_are() -> None:
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    of = loader(sampler=Uniform(4), to=jax.dlpack.from_dlpack)
    (batch,) = of
    assert isinstance(batch, jax.Array)
    assert np.array_equal(np.asarray(batch), cut(of.origins(0)))


# ---- what it says


def test_statistics() -> None:
    of = PatchLoader({"i": stored(IMAGE), "l": stored(LABEL)}, BOX, 10, sampler=Uniform(25))
    assert repr(of.stats).startswith("<LoaderStats: 0 batches")
    list(of)
    voxels = 25 * 6 * 9 * 8
    assert (of.stats.batches, of.stats.patches, of.stats.bytes) == (3, 25, 3 * voxels)
    assert 0 <= of.stats.waited <= 1
    assert 0 < of.stats.wait_s <= of.stats.elapsed_s
    assert of.stats.read_s > 0
    text = repr(of.stats)
    assert text.startswith(f"<LoaderStats: 3 batches, 25 patches, {3 * voxels / 1024:.1f} KiB; waited ")
    assert f"{of.stats.reads.chunks:,} chunks decoded" in text
    assert pickle.loads(pickle.dumps(of.stats)).batches == 0


def test_a_loader_says_what_it_is() -> None:
    of = PatchLoader({"i": stored(IMAGE), "c": stored(COLOUR)}, BOX, 10, rank=1, world_size=2)
    assert repr(of) == (
        "<gpuzarr.PatchLoader: 2 batches an epoch, of 10 × i (6, 9, 8), c (3, 6, 9, 8); "
        "Uniform, order random, rank 1 of 2>"
    )
    assert "memory:" in repr(loader())


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100, 1000, 3))
    monkeypatch.setattr("gpuzarr.progress.monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(loop_module, "Bar", lambda *given: Bar(*given, plain=True))
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    of = loader(progress=True)
    for _ in range(2):
        list(of)
    lines = [line.strip() for line in stream.getvalue().split("\r") if line.strip()]
    assert lines[0].startswith("epoch 0   11 %  1 of 9 batches  waited")
    assert lines[1].startswith("epoch 0   22 %  2 of 9 batches  1 patches/s  0:21 left  waited")
    assert lines[8].startswith("epoch 0  100 %  9 of 9 batches  1 patches/s  0:00 left  waited")
    assert lines[9].startswith("epoch 1   11 %  1 of 9 batches  waited")
    assert stream.getvalue().endswith("\r"), "nothing stays"


def test_a_bar_in_a_log_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    list(loader(progress=True))
    assert capsys.readouterr().err == ""


def test_a_bar_of_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich", reason="rich is not installed")
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    before = threading.active_count()
    of = loader(progress=True, endless=True)
    loop = iter(of)
    for _ in range(12):
        next(loop)
    loop._tally._bar._bar.refresh()  # what its thread does a dozen times a second
    loop.close()
    assert "epoch 1" in stream.getvalue()
    assert "3 of 9 batches" in stream.getvalue()
    assert threading.active_count() <= before + gpuzarr.config.current().threads


def test_the_page_says_what_runs() -> None:
    """The Python of docs/loading.md, in order, on small arrays; what needs PyTorch in test_loader_torch."""
    names = page_names()
    for block in page_blocks():
        if "torch" not in block:
            exec(block, names)
    assert names["again"].state_dict() == names["state"]
    assert names["seen"] == [((2, 64, 64, 64), (2, 64, 64, 64))], "two boxes lie side by side"


def page_blocks() -> list[str]:
    page = (Path(__file__).parents[2] / "docs" / "loading.md").read_text(encoding="utf-8")
    return [part.split("```")[0] for part in page.split("```python\n")[1:]]


def page_names() -> dict[str, Any]:
    """What the page leaves to its reader: the arrays, and a training step."""
    seen: list[Any] = []
    arrays = {"image": np.ones((128, 72, 72), "u2"), "label": np.ones((128, 72, 72), "u1")}
    arrays["label"][64:] = 2

    class Opened:
        @staticmethod
        def open(path: str, name: str) -> Any:
            held: dict[str, bytes] = {}
            gpuzarr.save(held, arrays[name], chunks=(64, 64, 64))
            return gpuzarr.open_array(held, device="cpu")

    return {
        "gpuzarr": Opened,
        "seen": seen,
        "train": lambda image, label: seen.append((image.shape, label.shape)),
        "print": str,
    }
