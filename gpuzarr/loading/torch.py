"""PyTorch's side of a PatchLoader. The one room that imports torch.

    data_loader(loader, num_workers=4)     a torch DataLoader over whole batches, with epochs and a state
    IterablePatches(loader)                the IterableDataset inside, for a DataLoader of your own:
                                           DataLoader(IterablePatches(loader), batch_size=None)
    MapPatches(loader)                     box i by number, for samplers of torch's: `__getitems__` reads all
                                           boxes of a batch by one call an array

A PatchLoader is an iterable of whole batches already, and reads ahead with threads that leave Python alone
while they decode: `for batch in loader` with `to=torch.from_dlpack` needs nothing from here, and Lightning
takes it as it is. Worker processes pay off where a transform in Python is slow. They hand over the same
batches in the same order as the loader itself, however many there are.

Epochs: a DataLoader sends its dataset to workers, which are copies and cannot tell each other of epochs.
`data_loader` counts them; around a dataset, call `set_epoch`, as for torch's DistributedSampler. The number
lies in shared memory, so that persistent workers see it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from time import perf_counter, sleep
from typing import Any, cast

import numpy as np

from gpuzarr import config
from gpuzarr.errors import ArgumentError, DeviceError, GpuzarrError, MissingDependencyError
from gpuzarr.loading.loader import PatchLoader
from gpuzarr.loading.loop import Reading

try:
    import torch  # type: ignore[import-not-found, unused-ignore]
    from torch.utils.data import (  # type: ignore[import-not-found, unused-ignore]
        DataLoader,
        Dataset,
        IterableDataset,
        get_worker_info,
    )
    from torch.utils.dlpack import from_dlpack  # type: ignore[import-not-found, unused-ignore]
except ImportError as error:
    raise MissingDependencyError(
        "PyTorch is not installed", hint='install it with: pip install "gpuzarr[torch]"'
    ) from error

__all__ = ["IterablePatches", "MapPatches", "data_loader", "pinned", "ranked", "tensors"]


def tensors(batch: Any) -> Any:
    """Arrays as tensors over the same memory: a batch, or a dict, list or tuple of them. Else what it is."""
    if isinstance(batch, torch.Tensor):
        return batch
    if isinstance(batch, Mapping):
        return {name: tensors(value) for name, value in batch.items()}
    if type(batch) in (list, tuple):
        return type(batch)(tensors(value) for value in batch)
    return from_dlpack(batch) if hasattr(batch, "__dlpack__") else batch


def pinned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """A fresh NumPy array in pinned memory, from which a copy to a GPU does not wait:
    `PatchLoader(empty=pinned)`. It is torch's, and goes back to torch's pool."""
    memory = torch.empty(prod(shape) * dtype.itemsize, dtype=torch.uint8, pin_memory=True)
    return memory.numpy().view(dtype).reshape(shape)


def ranked(loader: PatchLoader) -> PatchLoader:
    """The loader for this process's rank in torch.distributed, where that was initialised and the loader was
    made for one rank."""
    distributed = torch.distributed
    if loader.batches.numbering.world_size > 1 or not distributed.is_available():
        return loader
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return loader
    mine = loader.for_rank(distributed.get_rank(), distributed.get_world_size())
    mine.stats = loader.stats
    return mine


def _shared_number() -> Any:
    """A whole number that worker processes see."""
    number: Any = torch.zeros((), dtype=torch.int64)
    return number.share_memory_()


class IterablePatches(IterableDataset):  # type: ignore[misc, type-arg, unused-ignore]
    """A loader's batches, as tensors over the arrays' memory. Of n workers, worker k hands over the batches
    k, k + n, ...: a DataLoader asks them in turn, so the order is the loader's own.

    In a process of torch.distributed it takes the rank it has there when the dataset is made, unless the
    loader was given one. Use `batch_size=None`; the batches are whole."""

    def __init__(self, loader: PatchLoader) -> None:
        super().__init__()
        self.loader = ranked(loader)
        self.hand_errors_over = False
        # Shared with workers: where the next loop begins, and so in which epoch.
        self._position = _shared_number()
        self.set_position(self.loader.position)

    def set_epoch(self, epoch: int) -> None:
        """Begin the next loops with this epoch."""
        self.set_position(epoch * self.loader.batches.length)

    def set_position(self, position: int) -> None:
        """Begin the next loops with the batch at this position: epoch × batches of an epoch + batch."""
        self._position.fill_(position)

    def __len__(self) -> int:
        """Batches of an epoch, of this rank."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        """The batches of an epoch; in a worker, those that are its turn."""
        first, worker = int(self._position), get_worker_info()
        if worker is None:
            return map(tensors, self.loader.loop(first))
        return self._in_worker(first, worker.id, worker.num_workers)

    def _in_worker(self, first: int, worker: int, workers: int) -> Iterator[Any]:
        """Errors go to the main process as they are, if it knows of that: torch would make a new one, of a
        text that is cut before it says what is wrong."""
        try:
            loader, length = _in_worker(self.loader, workers), self.loader.batches.length
            end = (first // length + 1) * length
            if loader.endless or first + worker < end:
                yield from map(tensors, loader.loop(first + worker, workers, end))
        except GpuzarrError as error:
            if not self.hand_errors_over:
                raise error.with_traceback(None) from None
            yield _Failed(error, worker)


@dataclass(frozen=True, slots=True)
class _Failed:
    """What a worker hands over in the place of a batch."""

    error: GpuzarrError
    worker: int


class MapPatches(Dataset):  # type: ignore[misc, type-arg, unused-ignore]
    """The boxes of an epoch by number, from 0 to `boxes` - 1, for samplers of torch's. The loader's batch
    size, order of ranks and transform are not used; `to` is.

    `__getitems__` reads all boxes of a batch by one call for each array, each chunk once. It gives a list of
    samples, as torch expects; with `collate_fn=MapPatches.collate` the batch stays in one piece, and nothing
    is copied. A number is another box in another epoch, unless the sampler is a grid or a list without
    shuffling: call `set_epoch`."""

    def __init__(self, loader: PatchLoader) -> None:
        super().__init__()
        self.loader = loader
        self._epoch = _shared_number()
        self.set_epoch(loader.epoch)

    def set_epoch(self, epoch: int) -> None:
        """The epoch whose boxes are numbered."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        """Boxes of an epoch."""
        return self.loader.boxes

    def __getitem__(self, index: int) -> Any:
        """One box."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The boxes `indices`, read together."""
        worker = get_worker_info()
        loader = self.loader if worker is None else _in_worker(self.loader, worker.num_workers)
        batches, epoch = loader.batches, int(self._epoch)
        origins = batches.origins_of(np.asarray(indices, np.int64), epoch)
        arrays = batches.read(origins, loader.stats)
        return _Whole(tensors(batches.arranged(arrays, origins)), len(origins))

    @staticmethod
    def collate(samples: list[Any]) -> Any:
        """The batch that `__getitems__` read, in one piece."""
        if not isinstance(samples, _Whole):
            raise ArgumentError("these samples were not read together", hint="leave collate_fn to torch")
        return samples.batch


class _Whole(list[Any]):
    """Samples that are views of one batch."""

    def __init__(self, batch: Any, count: int) -> None:
        self.batch = batch
        super().__init__(
            {name: array[i] for name, array in batch.items()} if isinstance(batch, dict) else batch[i]
            for i in range(count)
        )


def data_loader(loader: PatchLoader, num_workers: int = 0, **options: Any) -> PatchDataLoader:
    """A torch DataLoader over a loader's batches. Each loop is the next epoch; `state_dict` and
    `load_state_dict` are the loader's own, and count what was handed out, not what workers have read ahead.
    With 0 workers the loader's threads read. `options` are DataLoader's: `pin_memory`,
    `multiprocessing_context="spawn"`, `persistent_workers`, `prefetch_factor`."""
    for name in ("batch_size", "shuffle", "sampler", "batch_sampler", "drop_last", "collate_fn"):
        if name in options:
            raise ArgumentError(f"{name} is the PatchLoader's to say", hint=f"data_loader takes no {name}")
    patches = IterablePatches(loader)
    patches.hand_errors_over = True
    return PatchDataLoader(patches, batch_size=None, num_workers=num_workers, **options)


class PatchDataLoader(DataLoader):  # type: ignore[misc, type-arg, unused-ignore]
    """See `data_loader`."""

    @property
    def patches(self) -> IterablePatches:
        """The dataset, which has the loader."""
        return cast(IterablePatches, self.dataset)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override, unused-ignore]
        """One epoch: what is left of the one whose state was loaded, else the next one."""
        patches = self.patches
        patches.loader = ranked(patches.loader)
        loader = patches.loader
        if self.num_workers:
            _require_host(loader)
        first = loader.start()
        patches.set_position(first)
        return self._counted(super().__iter__(), loader, first)

    def _counted(self, batches: Iterator[Any], loader: PatchLoader, position: int) -> Iterator[Any]:
        """Counts what is handed out; without workers the loop of the loader does."""
        tally, asked = loader.tally() if self.num_workers else None, perf_counter()
        try:
            for batch in _handed_over(batches):
                epoch, number = divmod(position, loader.batches.length)
                if isinstance(batch, _Failed):
                    batch.error.add_note(f"in batch {number} of epoch {epoch}, in worker {batch.worker}")
                    raise batch.error
                if tally is not None:
                    tally.handed_out(position, len(loader.batches.numbering.boxes(number)), asked)
                position += 1
                loader.moved(position)
                yield batch
                asked = perf_counter()
        except Exception:
            loader.moved(position, True)
            self._iterator = None  # persistent workers, one of which may be dead
            raise
        finally:
            if tally is not None:
                tally.close()

    def set_epoch(self, epoch: int) -> None:
        """Begin the next loop with this epoch."""
        self.patches.loader.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """See PatchLoader."""
        state: dict[str, Any] = self.patches.loader.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See PatchLoader."""
        self.patches.loader.load_state_dict(state)


def _handed_over(batches: Iterator[Any]) -> Iterator[Any]:
    """Batches of workers. What a worker was handing over when it died is lost with it, as an error of the
    connection; torch's own, which names the worker, is on its way then."""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (ConnectionError, EOFError, FileNotFoundError) as error:
            if str(error).startswith("Caught "):
                raise  # of a worker that is alive
            for _ in range(_NEWS):
                sleep(0.1)
            raise RuntimeError("a DataLoader worker died while it handed over a batch") from error
        yield batch


def _require_host(loader: PatchLoader) -> None:
    for part in loader.batches.parts:
        if part.array.device.startswith("cuda"):
            raise DeviceError(
                f"batches on {part.array.device} cannot be made in a worker process",
                array=part.array.name,
                hint='use num_workers=0, whose threads read ahead; or open the arrays with device="cpu"',
            )


def _in_worker(loader: PatchLoader, workers: int) -> PatchLoader:
    """The loader as a worker process uses it: with its share of the cores, and reading no more than it is
    asked for, since torch asks ahead."""
    global _prepared
    _require_host(loader)
    if not _prepared:
        _prepared = True
        config.configure(threads=max(config.current().threads // workers, 1))
    inside = copy.copy(loader)
    inside.reading = Reading(0, 1, False)
    return inside


_NEWS = 50
"""Tenths of a second until torch has heard that a worker died, at most."""
_prepared = False
"""Whether this is a worker process that has its share of the cores."""
