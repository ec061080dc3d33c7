"""Controls: low-level features of stimuli, which a network's features must beat before its layers mean anything."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from jaxalign.contracts import Fit, Sound
from jaxalign.errors import ConfigError, DataError, nearest
from jaxalign.models import controls_pictures, controls_sound, controls_text
from jaxalign.models.checks import checked_picture, checked_sound
from jaxalign.models.controls_sound import Course, Frames
from jaxalign.models.controls_text import Frequencies
from jaxalign.models.sound import resampled

IMAGE_FITS = ("stretch", "crop")
SOUND_POOLINGS = ("mean", "frames")


@dataclass(frozen=True)
class Control:
    """Low-level features as a model of its own, in rows beside those of networks.

    Layers for images (width):
        pixels (pixels_px ** 2): grey values, shrunk by area.
        luminance_contrast (2): mean CIE Y and RMS contrast of the picture.
        luminance_contrast_grid (2 * n_cells ** 2): the same of each cell.
        gabor (n_scales * n_orientations * n_cells ** 2): contrast energy, averaged over cells.
    Layers for sounds:
        envelope (1): broadband amplitude.
        envelope_statistics (4): its mean, SD, maximum and mean rise; not by time bins.
        mel (n_mels): log-mel spectrogram.
        duration (1): seconds; not by time bins.
    Layers for texts, each once per column:
        words (3): the following three together.
        n_characters, n_words, word_length (1): without white space; letters and digits; mean characters per word.
        log_frequency (1): mean Zipf frequency of the words; left out without a table of frequencies.

    Values keep their units (see the functions of each layer), so columns of one layer may differ in scale. A layer of
    width 1 that is the same for all stimuli, such as n_words of single words, cannot be scored: do not list it. Columns
    that come with a recording, such as word onsets, ratings or surprisal, are no business of a control: model=[metadata]
    scores them.

    Attributes:
        name: what the control is called in rows.
        takes: kind of stimulus, "image", "audio" or "text".
        layers: names from above, of the kind that is taken.
        pooling: for sounds, "mean" over time (a row per sound) or "frames" (a row per time bin).
        image_fit: "stretch" every picture to a square, or "crop" its largest central square.
        pixels_px: edge of the shrunk picture of the layer pixels.
        gabor_px: edge of the shrunk picture that is filtered.
        n_cells: cells of the grid, from top to bottom and from left to right.
        n_orientations: of Gabor filters, from 0 (vertical stripes) to below 180 degrees.
        n_scales: of Gabor filters, one octave apart.
        shortest_wavelength_px: of Gabor filters, in pixels of the shrunk picture.
        bandwidth_octaves: of Gabor filters, full width at half height; 1 gives an envelope with an SD of 0.56 wavelengths.
        rate_hz: sounds are resampled to this rate first; half of it is the highest frequency that counts.
        n_mels: bands of the log-mel spectrogram.
        bin_s: width of a time bin for the pooling "frames".
        columns: columns of a text stimulus that are read.
        frequency_path: CSV or TSV file with the columns word and count, for the layer log_frequency.
        batch_size: stimuli at a time.
    """

    name: str
    takes: str
    layers: tuple[str, ...]
    pooling: str = "mean"
    image_fit: str = "stretch"
    pixels_px: int = 32
    gabor_px: int = 128
    n_cells: int = 8
    n_orientations: int = 8
    n_scales: int = 4
    shortest_wavelength_px: float = 4.0
    bandwidth_octaves: float = 1.0
    rate_hz: int = 16000
    n_mels: int = 80
    bin_s: float = 0.1
    columns: tuple[str, ...] = ()
    frequency_path: str | None = None
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name in ("layers", "columns"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def open(self) -> ControlSource:
        """Check the settings and read the table of frequencies, if there is one.

        Raises:
            ConfigError: if a layer, a kind or a number cannot be.
            DataError: if the table of frequencies is missing or none.
        """
        _check(self)
        frequencies = controls_text.read_frequencies(self.frequency_path) if self.frequency_path else None
        layers = tuple(name for name in self.layers if name != "log_frequency" or frequencies is not None)
        if not layers:
            raise ConfigError(
                f"Model '{self.name}' has the layer log_frequency alone and no table: set model.{self.name}.frequency_path=FILE.csv "
                "with the columns word and count."
            )
        return ControlSource(self, layers, frequencies)


Rows = Callable[["ControlSource", Sequence[Any]], Any]
"""Stimuli of one batch -> (n_batch, width)."""


@dataclass(frozen=True)
class Layer:
    """How one layer is computed.

    Attributes:
        takes: kind of stimulus.
        width: settings -> columns.
        rows: source and checked stimuli -> (n_batch, width).
        course: sound, settings -> features over time; None where there is no time course.
    """

    takes: str
    width: Callable[[Control], int]
    rows: Rows
    course: Callable[[Sound, Control], Course] | None = None


def _pixels(source: ControlSource, pictures: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack([controls_pictures.pixels(picture, source.settings.pixels_px) for picture in pictures])


def _contrast(source: ControlSource, pictures: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack([controls_pictures.luminance_contrast(picture, 1) for picture in pictures])


def _contrast_grid(source: ControlSource, pictures: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack([controls_pictures.luminance_contrast(picture, source.settings.n_cells) for picture in pictures])


def _gabor(source: ControlSource, pictures: Sequence[np.ndarray]) -> jax.Array:
    size = source.settings.gabor_px
    shrunk = np.stack(
        [controls_pictures.area_mean(controls_pictures.grey(picture), size, size) for picture in pictures]
    )
    return controls_pictures.gabor_energy(shrunk, source.bank, source.settings.n_cells)


def _over_time(course: Callable[[Sound, Control], Course]) -> Rows:
    """The mean over the whole sound."""
    return lambda source, sounds: np.stack([course(sound, source.settings).values.mean(axis=0) for sound in sounds])


def _envelope(sound: Sound, _settings: Control) -> Course:
    return controls_sound.envelope(sound)


def _mel(sound: Sound, settings: Control) -> Course:
    return controls_sound.log_mel(sound, settings.n_mels)


def _statistics(_source: ControlSource, sounds: Sequence[Sound]) -> np.ndarray:
    return np.stack([controls_sound.envelope_statistics(sound) for sound in sounds])


def _duration(_source: ControlSource, sounds: Sequence[Sound]) -> np.ndarray:
    return np.array([[sound.duration_s] for sound in sounds])


def _measured(start: int, stop: int) -> Rows:
    """Some of the three measures of texts, column by column."""

    def rows(_source: ControlSource, texts: Sequence[Sequence[str]]) -> np.ndarray:
        return np.array([np.concatenate([controls_text.measures(one)[start:stop] for one in text]) for text in texts])

    return rows


def _log_frequency(source: ControlSource, texts: Sequence[Sequence[str]]) -> np.ndarray:
    assert source.frequencies is not None, "the layer is left out without a table"
    return np.array([[controls_text.log_frequency(one, source.frequencies) for one in text] for text in texts])


LAYERS: dict[str, Layer] = {
    "pixels": Layer("image", lambda settings: settings.pixels_px**2, _pixels),
    "luminance_contrast": Layer("image", lambda _settings: 2, _contrast),
    "luminance_contrast_grid": Layer("image", lambda settings: 2 * settings.n_cells**2, _contrast_grid),
    "gabor": Layer("image", lambda one: one.n_scales * one.n_orientations * one.n_cells**2, _gabor),
    "envelope": Layer("audio", lambda _settings: 1, _over_time(_envelope), _envelope),
    "envelope_statistics": Layer("audio", lambda _settings: 4, _statistics),
    "mel": Layer("audio", lambda settings: settings.n_mels, _over_time(_mel), _mel),
    "duration": Layer("audio", lambda _settings: 1, _duration),
    "words": Layer("text", lambda settings: 3 * len(settings.columns), _measured(0, 3)),
    "n_characters": Layer("text", lambda settings: len(settings.columns), _measured(0, 1)),
    "n_words": Layer("text", lambda settings: len(settings.columns), _measured(1, 2)),
    "word_length": Layer("text", lambda settings: len(settings.columns), _measured(2, 3)),
    "log_frequency": Layer("text", lambda settings: len(settings.columns), _log_frequency),
}


@dataclass(frozen=True)
class ControlSource:
    """A control that is ready; see ActivationSource.

    Attributes:
        settings: what was asked for.
        layers: those that can be computed.
        frequencies: of words, or None.
    """

    settings: Control
    layers: tuple[str, ...]
    frequencies: Frequencies | None = None

    @property
    def takes(self) -> str:
        return self.settings.takes

    @property
    def batch_size(self) -> int:
        return self.settings.batch_size

    @property
    def bin_s(self) -> float | None:
        return self.settings.bin_s if self._pooling == "frames" else None

    def bucket(self, _duration_s: float) -> float:
        """Nothing is compiled for a duration."""
        return 0.0

    @property
    def _pooling(self) -> str:
        return self.settings.pooling if self.settings.takes == "audio" else "none"

    @property
    def fits(self) -> tuple[Fit, ...]:
        """One per layer, without a depth."""
        return tuple(
            Fit(self.settings.name, "", name, 0.0, self._pooling, LAYERS[name].width(self.settings))
            for name in self.layers
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers: settings, the content of the table of frequencies, versions."""
        settings = json.loads(json.dumps(asdict(self.settings))) | {"layers": list(self.layers)}
        del settings["frequency_path"]  # its content counts, not where it is
        sha256 = self.frequencies.sha256 if self.frequencies else ""
        versions = {name: version(name) for name in ("jax", "numpy", "scipy")}
        return {"class": "Control", **settings, "frequencies_sha256": sha256, **versions}

    @cached_property
    def bank(self) -> controls_pictures.Bank:
        """Gabor filters of these settings."""
        one = self.settings
        return controls_pictures.gabor_bank(
            one.gabor_px, one.n_orientations, one.n_scales, one.shortest_wavelength_px, one.bandwidth_octaves
        )

    n_weight_bytes = 0

    def release(self) -> None:
        """Nothing to give back."""

    def activations(self, stimuli: Sequence[Any]) -> dict[tuple[str, str], jax.Array]:
        """Features of one batch by (layer, pooling); (n_batch, n_bins, width) with zeros behind each sound for "frames"."""
        if len(stimuli) != self.batch_size:
            raise DataError(
                f"Model '{self.settings.name}' is given {len(stimuli)} stimuli and its batch_size is {self.batch_size}: "
                "pad the last batch with any stimulus."
            )
        prepared = [PREPARE[self.takes](stimulus, index, self.settings) for index, stimulus in enumerate(stimuli)]
        if self._pooling != "frames":
            rows = {name: LAYERS[name].rows(self, prepared) for name in self.layers}
        else:
            n_bins = max(controls_sound.n_bins_of(sound.duration_s, self.settings.bin_s) for sound in stimuli)
            rows = {
                name: np.stack([frames(sound, name, self.settings, n_bins).values for sound in stimuli])
                for name in self.layers
            }
        return {(name, self._pooling): _on_device(values) for name, values in rows.items()}


def frames(sound: Sound, layer: str, settings: Control, n_bins: int | None = None) -> Frames:
    """Features of one sound by time bins of settings.bin_s seconds.

    Args:
        sound: any rate and length.
        layer: "envelope" or "mel".
        settings: of the control.
        n_bins: bins of the result, no fewer than the sound has; its own by default.
    Returns:
        Frames with values (n_bins, width), zero behind the sound, and is_real (n_bins,).
    Raises:
        ConfigError: if the layer has no time course.
        DataError: if the sound is empty or not finite.
    """
    known = [name for name, one in LAYERS.items() if one.course is not None]
    course = LAYERS[layer].course if layer in LAYERS else None
    if course is None:
        raise ConfigError(f"The layer {layer!r} has no time course. {nearest(layer, known)}")
    heard = _sound(sound, 0, settings)
    return controls_sound.framed(course(heard, settings), sound.duration_s, settings.bin_s, n_bins)


# Stimuli


def _picture(picture: Any, index: int, settings: Control) -> np.ndarray:
    """(height, width, 3) uint8, cropped if so asked."""
    values = checked_picture(picture, index, settings.name)
    return controls_pictures.centre_square(values) if settings.image_fit == "crop" else values


def _sound(sound: Any, index: int, settings: Control) -> Sound:
    """The sound at the rate of the control."""
    return resampled(checked_sound(sound, index, settings.name), settings.rate_hz)


def _texts(stimulus: Any, index: int, settings: Control) -> list[str]:
    """The columns of one text."""
    if not isinstance(stimulus, Mapping):
        raise DataError(
            f"Text {index} of a batch of '{settings.name}' is a {type(stimulus).__name__}: give column -> text."
        )
    for column in settings.columns:
        if column not in stimulus:
            raise DataError(
                f"Model '{settings.name}' reads the column '{column}' of each text. {nearest(column, stimulus)}"
            )
        if not isinstance(stimulus[column], str):
            raise DataError(f"The column '{column}' holds {stimulus[column]!r}: model '{settings.name}' reads text.")
    return [stimulus[column] for column in settings.columns]


PREPARE: dict[str, Callable[[Any, int, Control], Any]] = {"image": _picture, "audio": _sound, "text": _texts}
"""Kind -> function that checks one stimulus, and crops or resamples it."""


def _on_device(values: Any) -> jax.Array:
    array: jax.Array = values if isinstance(values, jax.Array) else jax.device_put(np.asarray(values, np.float32))
    return array


# Settings


def _check(settings: Control) -> None:
    """Refuse settings that cannot be carried out."""
    who = f"Model '{settings.name}'"
    if settings.takes not in PREPARE:
        raise ConfigError(f"{who} takes {settings.takes!r}. {nearest(settings.takes, PREPARE)}")
    known = [name for name, layer in LAYERS.items() if layer.takes == settings.takes]
    if not settings.layers:
        raise ConfigError(f"{who} asks for 0 layers: give one or more of {', '.join(known)}.")
    for name in settings.layers:
        if name not in known:
            raise ConfigError(f"{who} asks for the layer '{name}' of {settings.takes} stimuli. {nearest(name, known)}")
    if len(set(settings.layers)) < len(settings.layers):
        raise ConfigError(f"{who} lists {len(settings.layers)} layers, some twice: {', '.join(settings.layers)}.")
    _check_ranges(settings, who)
    _check_kind(settings, who)


def _check_ranges(settings: Control, who: str) -> None:
    whole = ("pixels_px", "gabor_px", "n_cells", "n_orientations", "n_scales", "n_mels", "batch_size")
    for name in whole:
        if getattr(settings, name) < 1:
            raise ConfigError(f"{who} has {name}={getattr(settings, name)}: a whole number from 1 upwards is needed.")
    for name in ("bandwidth_octaves", "bin_s"):
        if not getattr(settings, name) > 0:
            raise ConfigError(f"{who} has {name}={getattr(settings, name)}: a number above 0 is needed.")
    if settings.rate_hz < 1000:
        raise ConfigError(f"{who} has rate_hz={settings.rate_hz}: 1000 or more samples per second are needed.")


def _check_kind(settings: Control, who: str) -> None:
    """What the layers of one kind need beyond ranges."""
    if settings.takes == "text" and not settings.columns:
        raise ConfigError(
            f"{who} reads 0 columns of text: set model.{settings.name}.columns=[...] to those of the stimuli."
        )
    if settings.takes == "image":
        _check_pictures(settings, who)
    if settings.takes != "audio":
        return
    if settings.pooling not in SOUND_POOLINGS:
        raise ConfigError(
            f"{who} asks for the pooling '{settings.pooling}'. {nearest(settings.pooling, SOUND_POOLINGS)}"
        )
    timeless = [name for name in settings.layers if LAYERS[name].course is None]
    if settings.pooling == "frames" and timeless:
        kept = [name for name in settings.layers if name not in timeless] or ["envelope", "mel"]
        which = "which has" if len(timeless) == 1 else "which have"
        raise ConfigError(
            f"{who} asks for frames of {', '.join(timeless)}, {which} no time course: set "
            f"model.{settings.name}.layers=[{','.join(kept)}]."
        )
    window, _ = controls_sound.samples_of(settings.rate_hz)
    filters = controls_sound.mel_filters(settings.n_mels, window, settings.rate_hz)
    n_empty = int(np.count_nonzero(~filters.any(axis=0)))
    if "mel" in settings.layers and n_empty:
        raise ConfigError(
            f"{who} asks for {settings.n_mels} mel bands at {settings.rate_hz} Hz, and {n_empty} of them hold none of the "
            f"{len(filters)} frequencies of a window: lower n_mels or raise rate_hz."
        )


def _check_pictures(settings: Control, who: str) -> None:
    if settings.image_fit not in IMAGE_FITS:
        raise ConfigError(f"{who} has image_fit='{settings.image_fit}'. {nearest(settings.image_fit, IMAGE_FITS)}")
    if "gabor" not in settings.layers:
        return
    if settings.gabor_px % settings.n_cells:
        raise ConfigError(
            f"{who} has gabor_px={settings.gabor_px} and n_cells={settings.n_cells}: make gabor_px a multiple of n_cells."
        )
    shortest = settings.shortest_wavelength_px
    longest = controls_pictures.wavelengths_px(settings.n_scales, shortest)[-1]
    if not shortest >= 2 or longest > settings.gabor_px / 2:
        raise ConfigError(
            f"{who} has Gabor wavelengths from {shortest:g} to {longest:g} px in pictures of {settings.gabor_px} px: from 2 px to "
            "half the picture can be. Change shortest_wavelength_px, n_scales or gabor_px."
        )
