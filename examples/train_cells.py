"""Train a small 3-D U-Net on a synthetic volume of cells, on the CPU, in about a minute.

    pip install "gpuzarr[torch]"
    python examples/train_cells.py [--steps 120] [--directory cells]

Two volumes of cells are made and stored as Zarr, one to learn from and one to look at afterwards. The network
is to tell background, the inside of cells, and the membranes between them, which are few voxels: `Balanced`
shows it as many boxes around them as around anything else. `order="blocks"` reuses chunks. The held-out
volume is read as a grid, each box once, and what the network makes of it is put together by `origins`.
"""

# ruff: noqa: T201

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import gpuzarr
from gpuzarr.loading import Balanced, Grid, PatchLoader

CLASSES = ("background", "inside", "membrane")
SHAPE, BOX = (96, 128, 128), (32, 32, 32)


def make_cells(path: Path, seed: int) -> None:
    """An image and its labels: cells are the regions around random points, as far as a radius goes; membranes
    are where two of them meet, and around them."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(n, dtype="f4") for n in SHAPE), indexing="ij"), axis=-1)
    nearest, second = np.full(SHAPE, 99, "f4"), np.full(SHAPE, 99, "f4")
    for centre in rng.random((90, 3)) * SHAPE:
        reach = 26  # voxels further away than this do not notice the cell
        part = tuple(slice(max(int(c) - reach, 0), int(c) + reach + 1) for c in centre)
        far = np.sqrt((((grid[part] - centre) * (1.3, 1, 1)) ** 2).sum(axis=-1)) + rng.normal(0, 1)
        second[part] = np.minimum(second[part], np.maximum(nearest[part], far))
        nearest[part] = np.minimum(nearest[part], far)
    cell = nearest < 16
    membrane = cell & ((second - nearest < 3) | (nearest > 14.5))
    label = (cell + membrane.astype("u1")).astype("u1")
    light = np.choose(label, (100, 140, 260)) + 40 * np.sin(grid[..., 1] / 31) * np.cos(grid[..., 2] / 23)
    image = rng.poisson(light.clip(1)) + rng.normal(0, 30, SHAPE)
    gpuzarr.save(path / "image", image.clip(0, 65535).astype("u2"), chunks=BOX, overwrite=True)
    gpuzarr.save(path / "label", label, chunks=BOX, overwrite=True)


def opened(path: Path) -> dict[str, Any]:
    """The arrays of a volume."""
    return {name: gpuzarr.open_array(path / name, device="cpu") for name in ("image", "label")}


def normalised(image: np.ndarray) -> torch.Tensor:
    """[n, z, y, x] as a network takes it: [n, 1, z, y, x], about zero."""
    return torch.from_numpy((image.astype("f4") - 150) / 60)[:, None]


def augmented(batch: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Flipped along random axes, a little brighter or darker. It runs in the loader's threads."""
    axes = [axis for axis in (1, 2, 3) if rng.random() < 0.5]
    image, label = (np.flip(batch[name], axes) for name in ("image", "label"))
    gain = rng.normal(1, 0.1, (len(image), 1, 1, 1)).astype("f4")
    return {"image": normalised(image * gain), "label": torch.from_numpy(label.astype("i8"))}


class UNet(nn.Module):
    """Two levels down and up again."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first = self.block(1, width)
        self.down1, self.down2 = self.block(width, 2 * width), self.block(2 * width, 4 * width)
        self.up1, self.up2 = self.block(6 * width, 2 * width), self.block(3 * width, width)
        self.last = nn.Conv3d(width, len(CLASSES), 1)

    @staticmethod
    def block(inside: int, outside: int) -> nn.Sequential:
        """Two convolutions."""
        return nn.Sequential(
            *(nn.Conv3d(inside, outside, 3, padding=1), nn.GroupNorm(4, outside), nn.ReLU()),
            *(nn.Conv3d(outside, outside, 3, padding=1), nn.GroupNorm(4, outside), nn.ReLU()),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Scores [n, class, z, y, x] of an image [n, 1, z, y, x]."""
        fine = self.first(image)
        middle = self.down1(functional.max_pool3d(fine, 2))
        coarse = self.down2(functional.max_pool3d(middle, 2))
        middle = self.up1(torch.cat((functional.interpolate(coarse, scale_factor=2), middle), dim=1))
        fine = self.up2(torch.cat((functional.interpolate(middle, scale_factor=2), fine), dim=1))
        scores: torch.Tensor = self.last(fine)
        return scores


@torch.no_grad()
def evaluate(model: UNet, path: Path) -> tuple[float, list[float]]:
    """The mean loss over a whole volume, and the Dice score of each class."""
    model.eval()
    arrays = opened(path)
    grid = PatchLoader(arrays, BOX, 8, sampler=Grid(shuffle=False), with_origins=True)
    found, losses = np.zeros(SHAPE, "u1"), []
    for batch in grid:
        scores = model(normalised(batch["image"]))
        losses.append(functional.cross_entropy(scores, torch.from_numpy(batch["label"].astype("i8"))).item())
        for (z, y, x), best in zip(batch["origins"], scores.argmax(1).numpy(), strict=True):
            found[z : z + BOX[0], y : y + BOX[1], x : x + BOX[2]] = best
    model.train()
    true = arrays["label"][...]
    both = [((found == k) & (true == k)).sum() for k in range(len(CLASSES))]
    either = [(found == k).sum() + (true == k).sum() for k in range(len(CLASSES))]
    return float(np.mean(losses)), [float(2 * b / max(e, 1)) for b, e in zip(both, either, strict=True)]


def report(when: str, model: UNet, path: Path) -> None:
    """A line on the held-out volume."""
    loss, dice = evaluate(model, path)
    scores = ", ".join(f"{name} {score:.3f}" for name, score in zip(CLASSES, dice, strict=True))
    print(f"{when:<8} loss {loss:.3f}   Dice: {scores}")


def train(directory: Path, steps: int, batch_size: int = 4) -> None:
    """Make the volumes, train, and say what that was good for."""
    for seed, name in enumerate(("train", "test")):
        make_cells(directory / name, seed)
    arrays = opened(directory / "train")
    loader = PatchLoader(
        arrays,
        BOX,
        batch_size,
        sampler=Balanced(arrays["label"], count=steps * batch_size),
        order="blocks",
        seed=1,
        transform=augmented,
        progress=True,
    )
    torch.manual_seed(0)
    model = UNet()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {steps} steps of {batch_size} × {BOX}")
    report("before", model, directory / "test")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
    began, losses = time.monotonic(), []
    for batch in loader:  # one epoch
        loss = functional.cross_entropy(model(batch["image"]), batch["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    took = time.monotonic() - began
    report("after", model, directory / "test")
    print(f"training loss {np.mean(losses[:10]):.3f} → {np.mean(losses[-10:]):.3f} in {took:.0f} s")
    print(loader.stats)
    torch.save({"model": model.state_dict(), "loader": loader.state_dict()}, directory / "checkpoint.pt")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--directory", type=Path, help="where to keep volumes and checkpoint")
    options = parser.parse_args()
    with nullcontext(options.directory) if options.directory else tempfile.TemporaryDirectory() as directory:
        train(Path(directory), options.steps)


if __name__ == "__main__":
    main()
