"""Low-level features of pictures: grey values, luminance and contrast, energy of Gabor filters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np

LUMA = np.array([0.299, 0.587, 0.114])
"""Red, green and blue in a grey value, ITU-R BT.601: what Pillow's "L" and MATLAB's rgb2gray take."""

LUMINANCE = np.array([0.2126, 0.7152, 0.0722])
"""Linear red, green and blue in CIE Y under the primaries of sRGB, ITU-R BT.709."""

REACH_SD = 3.0
"""Gabor filters end at this many standard deviations of their envelope."""


@dataclass(frozen=True)
class Bank:
    """Gabor filters of one size of picture, ready for the Fourier domain.

    Attributes:
        spectra: (n_filters, side, side) complex64, scale by scale, orientations within; side is size_px + 2 * radius.
        radius: pixels that the widest filter reaches to each side.
    """

    spectra: jax.Array
    radius: int


def grey(picture: np.ndarray) -> np.ndarray:
    """Grey values from 0 to 1 as they are shown on a screen, not linear in light. (height, width, 3) uint8 -> (height, width)"""
    return picture @ (LUMA / 255)


def luminance(picture: np.ndarray) -> np.ndarray:
    """CIE Y from 0 (black) to 1 (white), linear in light. (height, width, 3) uint8, sRGB -> (height, width)

    Source:
        IEC 61966-2-1:1999.
    """
    linear = _linear()
    parts = [weight * linear[picture[..., channel]] for channel, weight in enumerate(LUMINANCE)]
    return parts[0] + parts[1] + parts[2]


def area_mean(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Means over a grid of equal cells; a pixel on an edge counts by the part of it that is inside.

    Args:
        values: (any_height, any_width).
        height: cells from top to bottom.
        width: cells from left to right.
    Returns:
        (height, width) float64
    """
    return _shares(values.shape[0], height) @ values @ _shares(values.shape[1], width).T


def centre_square(picture: np.ndarray) -> np.ndarray:
    """The largest square in the middle. (height, width, ...) -> (side, side, ...)"""
    side = min(picture.shape[:2])
    top, left = ((length - side) // 2 for length in picture.shape[:2])
    return picture[top : top + side, left : left + side]


def pixels(picture: np.ndarray, size_px: int) -> np.ndarray:
    """Grey values of a picture shrunk to size_px x size_px by area. (height, width, 3) uint8 -> (size_px ** 2,)"""
    return area_mean(grey(picture), size_px, size_px).ravel()


def luminance_contrast(picture: np.ndarray, n_cells: int) -> np.ndarray:
    """Mean luminance and RMS contrast of each cell of a grid; of the whole picture for n_cells=1.

    RMS contrast is the standard deviation of CIE Y over pixels, Y from 0 to 1, not divided by the mean: it is 0.5 at
    most, and 0 for black.

    Args:
        picture: (height, width, 3) uint8, sRGB.
        n_cells: cells from top to bottom, and from left to right.
    Returns:
        (2 * n_cells ** 2,) all means row by row, then all contrasts.
    Source:
        Peli 1990, JOSA A 7:2032, doi:10.1364/JOSAA.7.002032.
    """
    values = luminance(picture)
    mean = area_mean(values, n_cells, n_cells)
    centred = values - mean.mean()  # the difference of two squares keeps its digits
    shift = area_mean(centred, n_cells, n_cells)
    variance = np.maximum(area_mean(centred**2, n_cells, n_cells) - shift**2, 0.0)
    return np.concatenate([mean.ravel(), np.sqrt(variance).ravel()])


# Gabor filters


def sigma_px(wavelength_px: float, bandwidth_octaves: float) -> float:
    """Standard deviation of the envelope of a Gabor filter whose response halves over so many octaves, in pixels.

    Source:
        Petkov & Kruizinga 1997, Biol. Cybern. 76:83, doi:10.1007/s004220050323.
    """
    ratio = 2.0**bandwidth_octaves
    return wavelength_px / math.pi * math.sqrt(math.log(2) / 2) * (ratio + 1) / (ratio - 1)


def gabor(wavelength_px: float, angle: float, bandwidth_octaves: float) -> np.ndarray:
    """A quadrature pair as one complex filter: even (cosine) plus i times odd (sine).

    The envelope is round and sums to 1, so a grating of amplitude A and this wavelength gives A / 2 at every scale. A
    multiple of the envelope is taken off the even filter, so that it sums to 0: uniform grey gives nothing.

    Args:
        wavelength_px: of the carrier, in pixels.
        angle: in radians, of the direction in which the carrier changes; 0 answers to vertical stripes.
        bandwidth_octaves: full width at half height of the frequency response.
    Returns:
        (2 * radius + 1, 2 * radius + 1) complex128, radius = ceil(3 SD of the envelope).
    Source:
        Daugman 1985, JOSA A 2:1160, doi:10.1364/JOSAA.2.001160.
    """
    sigma = sigma_px(wavelength_px, bandwidth_octaves)
    radius = math.ceil(REACH_SD * sigma)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    envelope = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    envelope /= envelope.sum()
    carrier = np.exp(2j * np.pi / wavelength_px * (x * np.cos(angle) + y * np.sin(angle)))
    return envelope * (carrier - (envelope * carrier).sum())


def wavelengths_px(n_scales: int, shortest_px: float) -> tuple[float, ...]:
    """Wavelengths one octave apart, the shortest first, in pixels."""
    return tuple(shortest_px * 2.0**scale for scale in range(n_scales))


def gabor_bank(size_px: int, n_orientations: int, n_scales: int, shortest_px: float, bandwidth_octaves: float) -> Bank:
    """Filters of all scales and orientations for pictures of size_px x size_px.

    Args:
        size_px: edge of the pictures.
        n_orientations: equally spaced from 0 to below pi.
        n_scales: one octave apart.
        shortest_px: shortest wavelength in pixels.
        bandwidth_octaves: of every filter.
    Returns:
        A Bank of n_scales * n_orientations filters, on the default device.
    """
    angles = np.pi * np.arange(n_orientations) / n_orientations
    filters = [
        gabor(wavelength, angle, bandwidth_octaves)
        for wavelength in wavelengths_px(n_scales, shortest_px)
        for angle in angles
    ]
    radius = max(len(one) for one in filters) // 2
    side = size_px + 2 * radius
    spectra = np.empty((len(filters), side, side), np.complex64)
    for index, one in enumerate(filters):
        whole = np.zeros((side, side), complex)
        whole[: len(one), : len(one)] = one
        spectra[index] = np.fft.fft2(np.roll(whole, (-(len(one) // 2),) * 2, axis=(0, 1)))
    return Bank(jax.device_put(spectra), radius)


def gabor_energy(pictures: np.ndarray, bank: Bank, n_cells: int) -> jax.Array:
    """Contrast energy of every filter, averaged over a grid of cells.

    Energy is the root of the summed squares of the even and the odd response, at every pixel; pictures are mirrored at
    their edges.

    Args:
        pictures: (n_batch, size_px, size_px) grey values.
        bank: filters for this size.
        n_cells: cells from top to bottom and from left to right; a divisor of size_px.
    Returns:
        (n_batch, n_filters * n_cells ** 2) float32: scale, orientation, row, column, the last changing fastest.
    Source:
        Adelson & Bergen 1985, JOSA A 2:284, doi:10.1364/JOSAA.2.000284; as a model of voxels Kay et al. 2008, Nature
        452:352, doi:10.1038/nature06713.
    """
    centred = pictures - pictures.mean(axis=(1, 2), keepdims=True)
    edges = ((0, 0), (bank.radius,) * 2, (bank.radius,) * 2)
    padded = np.pad(centred, edges, mode="symmetric").astype(np.float32)
    return _energy(jax.device_put(padded), bank.spectra, bank.radius, n_cells)


@partial(jax.jit, static_argnames=("radius", "n_cells"))
def _energy(padded: jax.Array, spectra: jax.Array, radius: int, n_cells: int) -> jax.Array:
    """(n_batch, side, side), (n_filters, side, side) -> (n_batch, n_filters * n_cells ** 2); one filter at a time."""
    n_batch, size = padded.shape[0], padded.shape[1] - 2 * radius
    transformed = jnp.fft.fft2(padded)

    def of_filter(spectrum: jax.Array) -> jax.Array:
        response = jnp.abs(jnp.fft.ifft2(transformed * spectrum[None]))
        inside = response[:, radius : radius + size, radius : radius + size]
        return inside.reshape(n_batch, n_cells, size // n_cells, n_cells, size // n_cells).mean(axis=(2, 4))

    energy = jax.lax.map(of_filter, spectra)
    return energy.transpose(1, 0, 2, 3).reshape(n_batch, -1)


@cache
def _linear() -> np.ndarray:
    """(256,) light of each 8-bit value of sRGB, from 0 to 1."""
    values = np.arange(256) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


@lru_cache(maxsize=64)
def _shares(n_pixels: int, n_cells: int) -> np.ndarray:
    """(n_cells, n_pixels) share of each pixel in each cell's mean; rows sum to 1."""
    edges = np.arange(n_cells + 1) * (n_pixels / n_cells)
    pixel = np.arange(n_pixels)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    shares = np.clip(overlap, 0.0, None)
    return shares / shares.sum(axis=1, keepdims=True)
