"""PyTorch's side: the same batches with any number of workers, and what happens when one of them dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuzarr
from gpuzarr.errors import ArgumentError, DeviceError, StoreError
from gpuzarr.loading import Balanced, Blocks, Grid, PatchLoader, Uniform
from tests.unit.test_loader import page_blocks, page_names

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch.utils.data import DataLoader, DistributedSampler, get_worker_info  # noqa: E402

from gpuzarr.loading.torch import (  # noqa: E402
    IterablePatches,
    MapPatches,
    data_loader,
    pinned,
    ranked,
    tensors,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*worker processes in total"),
    pytest.mark.filterwarnings("ignore:.*fork"),
    pytest.mark.filterwarnings("ignore:.*pin_memory"),
]
fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

RNG = np.random.default_rng(8)
IMAGE = RNG.integers(0, 60_000, (2, 20, 24, 28)).astype("u2")
LABEL = RNG.integers(0, 3, IMAGE.shape[1:]).astype("u1")
BOX = (4, 5, 6)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("arrays")
    gpuzarr.save(folder / "image", IMAGE, chunks=(1, 8, 8, 8))
    gpuzarr.save(folder / "label", LABEL, chunks=(8, 8, 8))
    return {name: gpuzarr.open_array(folder / name, device="cpu") for name in ("image", "label")}


def noise(batch: Any, rng: np.random.Generator) -> Any:
    """Picklable, so that spawned workers have it."""
    return {**batch, "noise": rng.random(len(batch["image"]))}


def loader(arrays: dict[str, Any], batch_size: int = 6, **options: Any) -> PatchLoader:
    options = {"sampler": Balanced(LABEL, count=50), "seed": 4, "transform": noise, **options}
    return PatchLoader(arrays, BOX, batch_size, with_origins=True, **options)


def numpy_of(batch: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in batch.items()}


def assert_same(found: Any, wanted: Any) -> None:
    found, wanted = list(found), list(wanted)
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        one, other = numpy_of(one), numpy_of(other)
        assert list(one) == list(other)
        for name, value in one.items():
            assert value.dtype == other[name].dtype
            assert np.array_equal(value, other[name])


def wanted(arrays: dict[str, Any], epoch: int = 0, **options: Any) -> list[dict[str, Any]]:
    """An epoch without PyTorch; its boxes against slices."""
    of = loader(arrays, prefetch=0, **options)
    of.set_epoch(epoch)
    batches = list(of)
    for batch in batches:
        for i, (z, y, x) in enumerate(batch["origins"].tolist()):
            box = (slice(z, z + 4), slice(y, y + 5), slice(x, x + 6))
            assert np.array_equal(batch["image"][i], IMAGE[(..., *box)])
            assert np.array_equal(batch["label"][i], LABEL[box])
    return batches


def workers() -> list[Any]:
    return [n for n in (0, 1, 4) if n == 0 or hasattr(os, "fork")]


# ---- whole batches


@pytest.mark.parametrize("order", ["random", Blocks(8, at_once=2, per_block=3)], ids=["random", "blocks"])
@pytest.mark.parametrize("num_workers", workers())
def test_any_number_of_workers_gives_the_same_batches(arrays: Any, num_workers: int, order: Any) -> None:
    """Epoch after epoch, and behind a state that was taken in the middle of one."""
    context = "fork" if num_workers else None
    of = data_loader(loader(arrays, order=order), num_workers, multiprocessing_context=context)
    assert len(of) == 9
    for epoch in range(2):
        batches = list(of)
        assert all(isinstance(value, torch.Tensor) for batch in batches for value in batch.values())
        assert_same(batches, wanted(arrays, epoch, order=order))
    stats = of.patches.loader.stats
    assert (stats.batches, stats.patches, stats.bytes) == (18, 100, 100 * 120 * (2 * 2 + 1))
    assert 0 < stats.wait_s <= stats.elapsed_s
    loop = iter(of)
    assert_same([next(loop) for _ in range(4)], wanted(arrays, 2, order=order)[:4])
    state = of.state_dict()
    assert (state["epoch"], state["batch"]) == (2, 4)
    del loop
    again = data_loader(loader(arrays, order=order), num_workers, multiprocessing_context=context)
    again.load_state_dict(state)
    assert_same(again, wanted(arrays, 2, order=order)[4:])
    assert_same(again, wanted(arrays, 3, order=order))
    plain = loader(arrays, order=order)
    plain.load_state_dict(state)
    assert_same(plain, wanted(arrays, 2, order=order)[4:])
    again.set_epoch(1)
    assert_same(again, wanted(arrays, 1, order=order))


@fork
def test_persistent_workers_hear_of_epochs(arrays: Any) -> None:
    of = data_loader(loader(arrays), 2, persistent_workers=True, multiprocessing_context="fork")
    for epoch in range(3):
        assert_same(of, wanted(arrays, epoch))


@pytest.mark.slow
def test_spawned_workers(arrays: Any) -> None:
    of = data_loader(loader(arrays), 2, multiprocessing_context="spawn", persistent_workers=True)
    for epoch in range(2):
        assert_same(of, wanted(arrays, epoch))


@fork
def test_more_workers_than_batches(arrays: Any) -> None:
    of = data_loader(loader(arrays, 30), 4, multiprocessing_context="fork")
    assert_same(of, wanted(arrays, batch_size=30))


@fork
@pytest.mark.parametrize("num_workers", [0, 3])
def test_endless(arrays: Any, num_workers: int) -> None:
    context = "fork" if num_workers else None
    of = data_loader(loader(arrays, endless=True), num_workers, multiprocessing_context=context)
    batches = [batch for _, batch in zip(range(12), of, strict=False)]
    assert_same(batches, [*wanted(arrays), *wanted(arrays, 1)[:3]])


def test_tensors_share_the_memory(arrays: Any) -> None:
    seen: list[Any] = []

    def keep(batch: Any, rng: Any) -> Any:
        seen.append(batch)
        return batch["image"], [batch["label"], "text"]

    image, (label, text) = next(iter(data_loader(loader(arrays, transform=keep, prefetch=0))))
    assert image.data_ptr() == seen[0]["image"].__array_interface__["data"][0]
    assert label.data_ptr() == seen[0]["label"].__array_interface__["data"][0]
    assert (image.dtype, label.dtype, text) == (torch.uint16, torch.uint8, "text")
    assert tensors(image) is image


def test_a_loader_needs_nothing_of_this_to_give_tensors(arrays: Any) -> None:
    batches = list(loader(arrays, to=torch.from_dlpack))
    assert isinstance(batches[0]["image"], torch.Tensor)
    assert_same(batches, wanted(arrays))


def test_a_dataset_in_a_data_loader_of_ones_own(arrays: Any) -> None:
    patches = IterablePatches(loader(arrays))
    of = DataLoader(patches, batch_size=None)
    assert len(of) == 9
    for _ in range(2):
        assert_same(of, wanted(arrays))
    patches.set_epoch(3)
    assert_same(of, wanted(arrays, 3))


def test_nothing_is_left_of_a_loop_that_was_broken_off(arrays: Any) -> None:
    for _ in data_loader(loader(arrays)):
        break
    assert [t for t in threading.enumerate() if t.name.startswith("gpuzarr-loader")] == []


@pytest.mark.parametrize("option", ["batch_size", "shuffle", "sampler", "drop_last", "collate_fn"])
def test_options_that_are_the_loaders(arrays: Any, option: str) -> None:
    with pytest.raises(ArgumentError, match=f"no {option}"):
        data_loader(loader(arrays), **{option: None})


# ---- what goes wrong


def die(batch: Any, rng: np.random.Generator) -> Any:
    if get_worker_info() is not None and (batch["origins"] == DEADLY).all(axis=1).any():
        os.kill(os.getpid(), signal.SIGKILL)
    return batch


DEADLY = np.array([16, 15, 12])


@fork
def test_a_worker_that_dies_is_an_error(arrays: Any) -> None:
    """The batches before it come; none is skipped; the next loop begins with the one that failed."""
    options: dict[str, Any] = {"sampler": Grid(shuffle=False), "transform": die}
    plain = list(loader(arrays, **options))
    at = next(i for i, batch in enumerate(plain) if (batch["origins"] == DEADLY).all(axis=1).any())
    of = data_loader(loader(arrays, **options), 2, multiprocessing_context="fork")
    found: list[Any] = []

    def take() -> None:
        for batch in of:
            found.append(numpy_of(batch))

    with pytest.raises(RuntimeError, match="DataLoader worker"):
        take()
    assert len(found) <= at
    assert_same(found, plain[: len(found)])
    state = of.state_dict()
    assert (state["epoch"], state["batch"]) == (0, len(found))
    alone = data_loader(loader(arrays, **options))
    alone.load_state_dict(state)
    assert_same(alone, plain[len(found) :])


def fail(batch: Any, rng: np.random.Generator) -> Any:
    raise StoreError("the network is gone", array="s3://a/b", chunk="c/1", hint="call again")


@pytest.mark.parametrize("num_workers", workers()[:2])
def test_an_error_in_a_worker_stays_what_it_is(arrays: Any, num_workers: int) -> None:
    context = "fork" if num_workers else None
    of = data_loader(loader(arrays, transform=fail), num_workers, multiprocessing_context=context)
    with pytest.raises(StoreError, match="the network is gone") as caught:
        next(iter(of))
    assert str(caught.value) == "the network is gone [array s3://a/b, chunk c/1]; call again"
    assert of.state_dict()["batch"] == 0
    patches = IterablePatches(loader(arrays, transform=fail))
    plain = DataLoader(patches, None, num_workers=num_workers, multiprocessing_context=context)
    with pytest.raises(StoreError, match="the network is gone"):
        next(iter(plain))


def fail_while(path: Path, batch: Any, rng: np.random.Generator) -> Any:
    return fail(batch, rng) if path.exists() and (batch["origins"] == DEADLY).all(axis=1).any() else batch


@fork
def test_persistent_workers_go_on_behind_an_error(arrays: Any, tmp_path: Path) -> None:
    flag = tmp_path / "down"
    flag.touch()
    options: dict[str, Any] = {"sampler": Grid(shuffle=False), "transform": partial(fail_while, flag)}
    of = data_loader(loader(arrays, **options), 2, persistent_workers=True, multiprocessing_context="fork")
    found: list[Any] = []

    def take() -> None:
        for batch in of:
            found.append(numpy_of(batch))

    with pytest.raises(StoreError, match="the network is gone") as caught:
        take()
    flag.unlink()
    plain = list(loader(arrays, **options))
    at = next(i for i, batch in enumerate(plain) if (batch["origins"] == DEADLY).all(axis=1).any())
    assert caught.value.__notes__ == [f"in batch {at} of epoch 0, in worker {at % 2}"]
    assert len(found) == at
    take()
    assert_same(found, plain)


@fork
def test_batches_on_a_gpu_are_not_made_in_workers(arrays: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpuzarr.Array, "device", "cuda:0")
    for of in (
        data_loader(loader(arrays), 1, multiprocessing_context="fork"),
        DataLoader(IterablePatches(loader(arrays)), None, num_workers=1, multiprocessing_context="fork"),
    ):
        with pytest.raises(DeviceError, match=r"(?s)cuda:0 cannot be made in a worker.*num_workers=0"):
            next(iter(of))


# ---- box by box


@fork
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("whole", [False, True])
def test_boxes_by_number(arrays: Any, num_workers: int, whole: bool) -> None:
    of = MapPatches(loader(arrays))
    options: dict[str, Any] = {"collate_fn": MapPatches.collate} if whole else {}
    context = "fork" if num_workers else None
    batches = list(
        DataLoader(of, batch_size=6, num_workers=num_workers, multiprocessing_context=context, **options)
    )
    plain = [{name: value for name, value in batch.items() if name != "noise"} for batch in wanted(arrays)]
    assert_same(batches, plain)
    assert len(of) == 50
    assert np.array_equal(of[7]["image"], plain[1]["image"][1])


def test_a_batch_of_boxes_is_one_read(arrays: Any) -> None:
    of = MapPatches(PatchLoader(arrays, BOX, 1, sampler=Uniform(40)))
    samples = of.__getitems__([3, 1, 4, 1, 5, 9, 26, 5])
    origins = of.loader.batches.origins_of([3, 1, 4, 1, 5, 9, 26, 5], 0)
    chunks = {
        (z // 8, y // 8, x // 8)
        for low in origins.tolist()
        for z in (low[0], low[0] + 3)
        for y in (low[1], low[1] + 4)
        for x in (low[2], low[2] + 5)
    }
    assert of.loader.stats.reads.chunks == 3 * len(chunks), "two channels and a label"
    batch = MapPatches.collate(samples)
    assert batch["image"].shape == (8, 2, *BOX)
    assert batch["image"][2].data_ptr() == samples[2]["image"].data_ptr()
    with pytest.raises(ArgumentError, match="not read together"):
        MapPatches.collate(list(samples))
    with pytest.raises(ArgumentError, match="boxes 3 to 40 of 40"):
        of.__getitems__([3, 40])


def test_a_distributed_sampler(arrays: Any) -> None:
    of = MapPatches(loader(arrays, sampler=Grid(shuffle=False)))
    boxes = []
    for rank in range(2):
        sampler = DistributedSampler(of, num_replicas=2, rank=rank, shuffle=True)
        sampler.set_epoch(1)
        batches = DataLoader(of, batch_size=8, sampler=sampler, collate_fn=MapPatches.collate)
        boxes += [tuple(origin) for batch in batches for origin in batch["origins"].tolist()]
    grid = of.loader.batches.origins_of(np.arange(len(of)), 0).tolist()
    assert set(boxes) == set(map(tuple, grid))
    assert len(boxes) - len(grid) in (0, 1)


def test_boxes_have_epochs(arrays: Any) -> None:
    of = MapPatches(loader(arrays))
    before = of[0]["origins"]
    of.set_epoch(2)
    assert (of[0]["origins"] == torch.from_numpy(of.loader.origins(0, 2))[0]).all()
    assert (of[0]["origins"] != before).any()


# ---- distributed, pinned, Lightning


@pytest.fixture
def second_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)


@pytest.mark.usefixtures("second_of_two")
def test_the_rank_is_that_of_torch_distributed(arrays: Any) -> None:
    second = wanted(arrays, rank=1, world_size=2)
    assert_same(ranked(loader(arrays)), second)
    assert_same(data_loader(loader(arrays)), second)
    assert_same(DataLoader(IterablePatches(loader(arrays)), batch_size=None), second)
    own = loader(arrays, rank=0, world_size=3)
    assert ranked(own) is own, "a loader that was given a rank keeps it"


def test_a_process_group_that_comes_later_keeps_the_state(arrays: Any, request: Any) -> None:
    of = data_loader(loader(arrays, drop_last=True))
    loop = iter(of)
    for _ in range(2):
        next(loop)
    state = of.state_dict()
    restored = data_loader(loader(arrays, drop_last=True))
    restored.load_state_dict(state)
    request.getfixturevalue("second_of_two")
    assert_same(restored, wanted(arrays, drop_last=True)[3:8:2])


def test_pinned_memory_is_torchs(arrays: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU there is none to be had: ordinary memory stands in for it."""
    asked: list[bool] = []
    empty = torch.empty

    def stand_in(*args: Any, pin_memory: bool = False, **options: Any) -> Any:
        asked.append(pin_memory)
        return empty(*args, **options)

    monkeypatch.setattr(torch, "empty", stand_in)
    found = pinned((3, 4), np.dtype("u2"))
    assert (found.shape, found.dtype, asked) == ((3, 4), np.uint16, [True])
    assert_same(loader(arrays, empty=pinned), wanted(arrays))
    assert all(asked)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined")
def test_lightning_takes_a_loader_and_a_data_loader(arrays: Any, tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch", reason="Lightning is not installed")
    seen: list[list[float]] = []

    class Module(lightning.LightningModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch: Any, number: int) -> Any:
            seen.append(batch["noise"].tolist())
            return self.layer(batch["image"].float().mean().reshape(1, 1)).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 1e-12)

    def fit(batches: Any) -> list[list[float]]:
        seen.clear()
        trainer = lightning.Trainer(
            max_epochs=2,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(Module(), batches)
        return list(seen)

    plain = [batch["noise"].tolist() for epoch in range(2) for batch in wanted(arrays, epoch)]
    assert fit(loader(arrays, to=torch.from_dlpack, transform=as_tensors)) == plain
    assert fit(data_loader(loader(arrays))) == plain


def as_tensors(batch: Any, rng: np.random.Generator) -> Iterator[Any] | Any:
    return tensors(noise(batch, rng))


def test_the_page_says_what_runs() -> None:
    names = page_names() | {"torch": torch}
    for block in page_blocks():
        exec(block, names)
    assert next(iter(names["batches"]))["image"].shape == (2, 64, 64, 64)
    assert next(iter(names["one_by_one"]))["image"].shape == (2, 64, 64, 64)


@pytest.mark.slow
def test_the_example_learns(tmp_path: Path) -> None:
    """Forty steps of it: the held-out volume is told apart better than before."""
    example = Path(__file__).parents[2] / "examples" / "train_cells.py"
    command = [sys.executable, str(example), "--steps", "40", "--directory", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    losses = [float(words[2]) for words in lines if words[:2] in (["before", "loss"], ["after", "loss"])]
    assert len(losses) == 2
    assert losses[1] < 0.7 * losses[0]
    assert "40 batches, 160 patches" in done.stdout
