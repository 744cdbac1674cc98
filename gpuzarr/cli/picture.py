"""Arrays as pictures: contrast by percentiles, a colour map, frames and labels. Needs pillow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuzarr.errors import ArgumentError, MissingDependencyError, StoreError

Pixels = NDArray[np.uint8]

_STOPS = (
    (0, "#05070f"),
    (0.18, "#0b1d3a"),
    (0.38, "#12507a"),
    (0.58, "#1c9a9a"),
    (0.78, "#8fdca6"),
    (1, "#fffbe0"),
)
"""Night blue to warm white, even in lightness, told apart by people who see red and green alike."""


def pillow() -> Any:
    """The PIL package, its parts imported."""
    try:
        import PIL.Image
        import PIL.ImageDraw
        import PIL.ImageFont
    except ImportError as error:
        raise MissingDependencyError("pictures need pillow", hint='pip install "gpuzarr[cli]"') from error
    return PIL


def save(pixels: Pixels, path: str) -> None:
    """Write uint8[h, w] or uint8[h, w, 3] as an image of the kind that the suffix names."""
    try:
        pillow().Image.fromarray(np.ascontiguousarray(pixels)).save(path)
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot write {path}: {error}") from error


def stretch(
    values: NDArray[Any], low: float = 0.5, high: float = 99.8, gamma: float = 1.0
) -> NDArray[np.float32]:
    """Values as 0 to 1 between two percentiles of the finite ones. Constant arrays are 0, NaNs too."""
    real = np.abs(values) if values.dtype.kind == "c" else values
    plain = real.astype(np.float32)
    finite = plain[np.isfinite(plain)]
    if not finite.size:
        return np.zeros(plain.shape, np.float32)
    sample = finite[:: max(finite.size // 1_000_000, 1)]
    bottom, top = (float(x) for x in np.percentile(sample, (low, high)))
    if top <= bottom:
        bottom, top = float(np.min(finite)), float(np.max(finite))
    scaled = (np.nan_to_num(plain, nan=bottom, posinf=top, neginf=bottom) - bottom) / max(top - bottom, 1e-30)
    return curve(scaled, gamma)


def curve(scaled: NDArray[Any], gamma: float) -> NDArray[np.float32]:
    """Values cut off at 0 and 1; a gamma below 1 lifts the dark ones."""
    lifted: NDArray[np.float32] = np.power(np.clip(scaled, 0, 1), gamma, dtype=np.float32)
    return lifted


def gray(values: NDArray[Any]) -> Pixels:
    """A 2-d array, or a 2-d array of three channels (first or last), as 8-bit pixels. uint8 colours stay as
    they are."""
    squeezed = values.reshape([n for n in values.shape if n != 1] or [1, 1])
    if squeezed.ndim == 3 and squeezed.shape[0] == 3 and squeezed.shape[2] != 3:
        squeezed = np.moveaxis(squeezed, 0, 2)
    if squeezed.dtype.kind not in "biufc" or not (
        squeezed.ndim == 2 or (squeezed.ndim == 3 and squeezed.shape[2] == 3)
    ):
        raise ArgumentError(
            f"a selection of shape {values.shape} and type {values.dtype} is not a picture",
            hint="select numbers of two dimensions, or of two and three channels",
        )
    if squeezed.ndim == 3:
        if squeezed.dtype == np.uint8:
            return squeezed
        return np.stack([gray(squeezed[:, :, channel]) for channel in range(3)], axis=2)
    return np.round(stretch(squeezed) * 255).astype(np.uint8)


def coloured(scaled: NDArray[np.float32]) -> Pixels:
    """Values from 0 to 1 in the colour map: uint8[..., 3]."""
    at = [stop for stop, _ in _STOPS]
    channels = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for _, colour in _STOPS])
    ramp = np.stack([np.interp(np.linspace(0, 1, 256), at, channels[:, c]) for c in range(3)], axis=1)
    return ramp.round().astype(np.uint8)[(scaled * 255).astype(np.uint8)]


def scale_bar(pixel: float, width: int) -> float:
    """A round length, in the unit of `pixel`, of about a fifth of `width` pixels."""
    about = pixel * width / 5
    power = 10.0 ** np.floor(np.log10(about))
    return float(power * max(step for step in (1, 2, 5) if step * power <= about * 1.001))


def fit(pixels: Pixels, width: int, height: int) -> Any:
    """A PIL image of the pixels, scaled to fit a box."""
    module = pillow()
    image = module.Image.fromarray(np.ascontiguousarray(pixels))
    factor = min(width / image.width, height / image.height)
    size = (max(round(image.width * factor), 1), max(round(image.height * factor), 1))
    return image.resize(
        size, module.Image.Resampling.LANCZOS if factor < 1 else module.Image.Resampling.BICUBIC
    )


def frame_colours(count: int) -> Sequence[tuple[int, int, int]]:
    """Colours that stand out from the map, from amber to rose."""
    steps = [i / max(count - 1, 1) for i in range(count)]
    return [(255, round(200 - 93 * step), round(87 + 42 * step)) for step in steps]
