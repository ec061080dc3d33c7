"""Real pictures that ship with scikit-image and scikit-learn, augmented to as many distinct stimuli as asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from jaxalign.errors import ConfigError, DataError

SKIMAGE_FILES = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "chessboard_RGB.png", "clock_motion.png", "coffee.png",
    "coins.png", "color.png", "grass.png", "gravel.png", "horse.png", "hubble_deep_field.jpg", "ihc.png", "moon.png",
    "page.png", "retina.jpg", "rocket.jpg", "text.png", "motorcycle_left.png", "logo.png",
)  # fmt: skip
"""Tried by name; those that the installed wheel carries are used, and their names go into the stimulus ids."""


@dataclass(frozen=True)
class Pictures:
    """Crops of real pictures, distinct and deterministic: stimulus k depends on (seed, k) alone.

    Attributes:
        n_stimuli: how many.
        size_px: height and width of each stimulus.
        seed: decides crops, flips, rotations and colours.
    """

    n_stimuli: int = 100
    size_px: int = 96
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_stimuli < 4 or self.size_px < 16:
            raise ConfigError(
                f"pictures: n_stimuli={self.n_stimuli}, size_px={self.size_px}: at least 4 stimuli of 16 pixels are needed."
            )

    def ids(self) -> tuple[str, ...]:
        """Stimulus ids in order: index and the picture it is cut from."""
        names = tuple(name for name, _ in _originals())
        return tuple(f"{index:05d}-{names[index % len(names)]}" for index in range(self.n_stimuli))

    def groups(self) -> np.ndarray:
        """(n_stimuli,) the original picture of each stimulus: cuts of one picture resemble each other."""
        return np.arange(self.n_stimuli) % len(_originals())

    def images(self) -> Iterator[np.ndarray]:
        """Stimuli in order, (size_px, size_px, 3) uint8."""
        return (self.image(index) for index in range(self.n_stimuli))

    def image(self, index: int) -> np.ndarray:
        """One stimulus, (size_px, size_px, 3) uint8."""
        originals = _originals()
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, index])))
        return _cut(originals[index % len(originals)][1], self.size_px, rng)


@cache
def _originals() -> tuple[tuple[str, np.ndarray], ...]:
    """Names and pixels (height, width, 3) uint8 of the pictures that are installed."""
    from sklearn.datasets import load_sample_images

    found = [(name, pixels) for name, pixels in _from_skimage()]
    sample = load_sample_images()
    found += [
        (path.rsplit("/", 1)[-1].split(".")[0], pixels)
        for path, pixels in zip(sample.filenames, sample.images, strict=True)
    ]
    if not found:
        raise DataError("No picture was found: install the demo extra, pip install 'jaxalign[demo]'.")
    return tuple(found)


def _from_skimage() -> Iterator[tuple[str, np.ndarray]]:
    """Pictures inside the installed scikit-image; none when it is not installed. Nothing is downloaded."""
    try:
        from importlib.resources import files

        from PIL import Image

        folder = files("skimage.data")
    except ModuleNotFoundError:
        return
    for name in SKIMAGE_FILES:
        if (folder / name).is_file():
            with (folder / name).open("rb") as file:
                yield name.split(".")[0], np.asarray(Image.open(file).convert("RGB"))


def _cut(pixels: np.ndarray, size_px: int, rng: np.random.Generator) -> np.ndarray:
    """A random square of the picture, turned, mirrored, recoloured and resized. -> (size_px, size_px, 3) uint8"""
    from PIL import Image

    shorter = min(pixels.shape[:2])
    side = int(rng.uniform(0.35, 0.9) * shorter)
    top, left = (int(rng.integers(0, length - side + 1)) for length in pixels.shape[:2])
    square = np.rot90(pixels[top : top + side, left : left + side], int(rng.integers(4)))
    square = square[:, ::-1] if rng.random() < 0.5 else square
    resized = Image.fromarray(np.ascontiguousarray(square)).resize((size_px, size_px), Image.Resampling.BILINEAR)
    coloured = np.asarray(resized, np.float32) * rng.uniform(0.6, 1.3, 3) + rng.uniform(-30, 30)
    return np.clip(coloured, 0, 255).astype(np.uint8)
