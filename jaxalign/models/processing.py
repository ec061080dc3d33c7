"""Stimuli to network inputs: the checkpoint's own processor, one fixed shape per batch, and where each token stands."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from jaxalign.errors import ConfigError, DataError
from jaxalign.models.checks import checked_picture, checked_sound
from jaxalign.models.layers import Tokens
from jaxalign.models.sound import resampled

if TYPE_CHECKING:
    import torch

    from jaxalign.contracts import Sound
    from jaxalign.models.network import Network

AUDIO_EDGES_S = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 30.0)
"""Sounds are padded to the next of these durations: as many programs are compiled as buckets are used."""

EXAMPLE_PX = 448
"""Edge of the grey picture that shapes are found with, where the entry names no image_size."""


@dataclass(frozen=True)
class Batch:
    """What a network is called with.

    Attributes:
        traced: inputs that vary from batch to batch.
        static: inputs that are constants of the compiled program, as plain tensors.
        tokens: where the tokens of the language sequence stand.
        n_batch: stimuli.
        n_bins: time bins per stimulus; 0 for images.
    """

    traced: dict[str, np.ndarray]
    static: dict[str, torch.Tensor]
    tokens: Tokens
    n_batch: int
    n_bins: int = 0

    @cached_property
    def signature(self) -> tuple[Any, ...]:
        """Batches of one signature run in one compiled program."""
        static = tuple(
            (name, tuple(value.shape), value.numpy().tobytes()) for name, value in sorted(self.static.items())
        )
        traced = tuple((name, value.shape, str(value.dtype)) for name, value in sorted(self.traced.items()))
        return static, traced, self.n_batch, self.n_bins, self.tokens.is_token.shape


class Processing(Protocol):
    """Stimuli -> batches of one shape, and a batch to find shapes with."""

    def batches(self, stimuli: Sequence[Any], n_chunks: int) -> list[Batch]: ...

    def example(self, n_batch: int) -> Batch: ...


def media_token_id(settings: Network, config: Any) -> int | None:
    """The id that stands for the medium in input_ids; None where media take no place in the prompt.

    Raises:
        ConfigError: if the configuration has no such attribute.
    """
    if not settings.media_token:
        return None
    value = config
    for name in settings.media_token.split("."):
        value = value.get(name) if isinstance(value, dict) else getattr(value, name, None)
    if not isinstance(value, int):
        raise ConfigError(
            f"The configuration of '{settings.name}' has no id at media_token='{settings.media_token}' (found {value!r}): "
            "name the attribute of config.json that holds it, such as image_token_id."
        )
    return value


# Images


@dataclass(frozen=True)
class Images:
    """Pictures through the processor of a vision-language model or of a bare vision encoder."""

    settings: Network
    processor: Any = field(repr=False)
    token_id: int | None
    accepted: frozenset[str]

    def batches(self, stimuli: Sequence[np.ndarray], n_chunks: int) -> list[Batch]:
        """Pictures (height, width, 3) uint8 of any size -> n_chunks batches.

        Raises:
            DataError: if a picture is of another kind.
            ConfigError: if the processor refuses the prompt, or the prompt lacks the image token.
        """
        pictures = [
            fitted(checked_picture(picture, index, self.settings.name), self.settings)
            for index, picture in enumerate(stimuli)
        ]
        n_batch = len(pictures) // n_chunks
        return [self._batch(pictures[start : start + n_batch]) for start in range(0, len(pictures), n_batch)]

    def example(self, n_batch: int) -> Batch:
        """Grey pictures."""
        size = self.settings.image_size or (EXAMPLE_PX, EXAMPLE_PX)
        return self._batch([np.full((*size, 3), 128, np.uint8)] * n_batch)

    def _batch(self, pictures: list[np.ndarray]) -> Batch:
        n_batch = len(pictures)
        made = self._processed(pictures)
        if "input_ids" not in made:
            return _split(self.settings, made, _one_token_each(n_batch), n_batch)
        ids = made["input_ids"].numpy()
        is_media = np.zeros(ids.shape, bool) if self.token_id is None else ids == self.token_id
        if self.token_id is not None:
            _check_prompt(self, is_media, "image")
        mask = made.get("attention_mask")
        is_token = np.ones(ids.shape, bool) if mask is None else mask.numpy().astype(bool)
        return _split(self.settings, made, Tokens(is_token, is_media), n_batch)

    def _processed(self, pictures: list[np.ndarray]) -> dict[str, torch.Tensor]:
        from PIL import Image

        images = [Image.fromarray(picture) for picture in pictures]
        try:
            return _taken(self.accepted, self._asked(images))
        except (ValueError, IndexError) as error:
            raise _refused(self.settings, "its pictures", error) from error

    def _asked(self, images: list[Any]) -> Any:
        """What the processor makes of pictures; most want a list of them per prompt, some one flat list."""
        options: dict[str, Any] = {"return_tensors": "pt"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of arithmetic inside transformers
            if not hasattr(self.processor, "tokenizer"):
                return self.processor(images=images, **options)
            options |= {"text": [self.settings.prompt] * len(images), "padding": True}
            try:
                return self.processor(images=[[image] for image in images], **options)
            except (ValueError, IndexError, TypeError, AttributeError) as error:
                try:
                    return self.processor(images=images, **options)
                except (ValueError, IndexError, TypeError, AttributeError):
                    raise ValueError(str(error)) from error


IMAGE_FITS = ("crop", "stretch", "pad")


def fitted(picture: np.ndarray, settings: Network) -> np.ndarray:
    """A picture at the size that the entry names. (height, width, 3) uint8 -> the same of that size"""
    from PIL import Image, ImageOps

    if settings.image_fit not in IMAGE_FITS:
        raise ConfigError(f"image_fit='{settings.image_fit}' of '{settings.name}' is unknown: {', '.join(IMAGE_FITS)}.")
    if settings.image_size is None:
        return picture
    height, width = settings.image_size
    image, bicubic = Image.fromarray(picture), Image.Resampling.BICUBIC
    if settings.image_fit == "stretch":
        return np.asarray(image.resize((width, height), bicubic))
    if settings.image_fit == "pad":
        return np.asarray(ImageOps.pad(image, (width, height), bicubic, color=(128, 128, 128)))
    return np.asarray(ImageOps.fit(image, (width, height), bicubic))


def _split(settings: Network, made: Mapping[str, torch.Tensor], tokens: Tokens, n_batch: int, n_bins: int = 0) -> Batch:
    """Floats and what the entry names vary; the rest are constants of the program."""
    traced = {name: value for name, value in made.items() if value.is_floating_point() or name in settings.traced}
    static = {name: value for name, value in made.items() if name not in traced}
    return Batch({name: value.numpy() for name, value in traced.items()}, static, tokens, n_batch, n_bins)


def _one_token_each(n_batch: int, duration_s: np.ndarray | None = None) -> Tokens:
    """Tokens of a network without a language sequence."""
    whole = np.ones((n_batch, 1), bool)
    return Tokens(whole, whole, duration_s)


def _taken(accepted: frozenset[str], made: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Of what a processor made, the tensors that the network takes."""
    import torch

    return {name: value for name, value in made.items() if name in accepted and isinstance(value, torch.Tensor)}


def _refused(settings: Network, what: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"The processor of '{settings.name}' refuses {what} with the prompt {settings.prompt!r}: {error}"
    )


def _check_prompt(processing: Images | Sounds, is_media: np.ndarray, kind: str) -> None:
    """Refuse a prompt that leaves a stimulus without a token of its kind (image, audio). (n_batch, n_tokens)"""
    counts = is_media.sum(axis=1)
    if not counts.all():
        settings, placeholder = processing.settings, getattr(processing.processor, f"{kind}_token", None)
        raise ConfigError(
            f"The prompt of '{settings.name}', {settings.prompt!r}, gives {counts.min()} {kind} tokens "
            f"(id {processing.token_id}): it must hold the processor's placeholder {placeholder!r} "
            f"where the {kind} belongs."
        )


# Sounds


@dataclass(frozen=True)
class Sounds:
    """Sounds through the processor of an audio-language model or of a bare speech encoder.

    The shape of a batch is that of a silent sound as long as the bucket. Where the entry lists masks as traced, a sound
    is computed as if it were alone: its padding is masked in encoder and language model, and positions skip it. Where it
    does not, the network hears silence up to the end of the bucket. Pooling runs over the sound alone in both.
    """

    settings: Network
    processor: Any = field(repr=False)
    token_id: int | None
    accepted: frozenset[str]
    canonical: dict[float, dict[str, Any]] = field(default_factory=dict, repr=False)

    def batches(self, stimuli: Sequence[Sound], n_chunks: int) -> list[Batch]:
        """Sounds of any rate and length -> n_chunks batches in the bucket of the longest.

        Raises:
            DataError: if a sound is empty, not finite, or longer than the model takes.
        """
        sounds, edge = self._checked(stimuli)
        n_batch = len(sounds) // n_chunks
        return [self._batch(sounds[start : start + n_batch], edge) for start in range(0, len(sounds), n_batch)]

    def singles(self, stimuli: Sequence[Sound]) -> list[Batch]:
        """Every sound as a batch of its own, without any padding that a mask would hide: for torch."""
        sounds, edge = self._checked(stimuli)
        return [self._single(sound, edge) for sound in sounds]

    def _single(self, sound: np.ndarray, edge: float) -> Batch:
        made = self._processed(self._heard(sound, edge))
        return _split(self.settings, made, self._tokens(made, [made], [sound]), 1, self._n_bins(edge))

    def _n_bins(self, edge: float) -> int:
        return math.ceil(edge / self.settings.bin_s - 1e-9)

    def example(self, n_batch: int) -> Batch:
        """Second-long noise."""
        noise = np.random.default_rng(0).normal(0, 0.1, round(self.rate_hz)).astype(np.float32)
        return self._batch([noise] * n_batch, self.bucket(1.0))

    @property
    def rate_hz(self) -> int:
        extractor = getattr(self.processor, "feature_extractor", None) or getattr(
            self.processor, "audio_processor", None
        )
        return int(getattr(extractor or self.processor, "sampling_rate", 16000))

    def bucket(self, duration_s: float) -> float:
        """The duration that a sound is padded to."""
        edges = [edge for edge in AUDIO_EDGES_S if edge >= duration_s - 1e-9]
        longest = self.settings.max_audio_s
        edge = edges[0] if edges else 30.0 * math.ceil(duration_s / 30.0 - 1e-9)
        return edge if longest is None else min(edge, longest)

    def _checked(self, stimuli: Sequence[Sound]) -> tuple[list[np.ndarray], float]:
        """Sounds at the rate of the network, (n_samples,) float32 each, and the bucket of the longest in seconds."""
        sounds = [self._at_rate(sound, index) for index, sound in enumerate(stimuli)]
        return sounds, self.bucket(max(len(sound) for sound in sounds) / self.rate_hz)

    def _at_rate(self, sound: Sound, index: int) -> np.ndarray:
        values = resampled(checked_sound(sound, index, self.settings.name), self.rate_hz).values
        duration_s, longest = len(values) / self.rate_hz, self.settings.max_audio_s
        if longest is not None and duration_s > longest + 1e-6:
            raise DataError(
                f"Sound {index} of a batch of '{self.settings.name}' lasts {duration_s:.2f} s and the model hears {longest:g} s: "
                "cut it into shorter stimuli."
            )
        return np.array(values)  # a copy that torch may write to

    def _batch(self, sounds: list[np.ndarray], edge: float) -> Batch:
        import torch

        whole = self._canonical(edge)
        single = [self._padded(self._processed(self._heard(sound, edge)), whole) for sound in sounds]
        made = {
            name: torch.cat([one[name] for one in single])
            if value.is_floating_point() or name in self.settings.traced
            else torch.cat([value] * len(sounds))
            for name, value in whole.items()
        }
        tokens = self._tokens(made, single, sounds)
        if "input_ids" in made and "attention_mask" in self.settings.traced:
            made["attention_mask"] = torch.from_numpy(tokens.is_token.astype(np.int64))
        if "input_ids" in made and "position_ids" in self.settings.traced:
            made["position_ids"] = torch.from_numpy(np.maximum(tokens.is_token.cumsum(axis=1) - 1, 0))
        return _split(self.settings, made, tokens, len(sounds), self._n_bins(edge))

    def _heard(self, sound: np.ndarray, edge: float) -> np.ndarray:
        """The sound, with silence up to the bucket where the network cannot be told of padding."""
        takes_waves = "input_values" in self.accepted
        if self.settings.traced or takes_waves:
            return sound
        return np.pad(sound, (0, max(0, round(edge * self.rate_hz) - len(sound))))

    def _canonical(self, edge: float) -> dict[str, Any]:
        """Inputs of a silent sound as long as the bucket."""
        if edge not in self.canonical:
            self.canonical[edge] = self._processed(np.zeros(round(edge * self.rate_hz), np.float32))
        return self.canonical[edge]

    def _processed(self, sound: np.ndarray) -> dict[str, Any]:
        options: dict[str, Any] = {"return_tensors": "pt"}
        try:
            if hasattr(self.processor, "tokenizer"):
                made = self.processor(text=[self.settings.prompt], audio=[sound], **self._rate(), **options)
            else:
                made = self.processor(sound, sampling_rate=self.rate_hz, **options)
        except (ValueError, IndexError) as error:
            raise _refused(self.settings, f"a sound of {len(sound) / self.rate_hz:.2f} s", error) from error
        inputs = _taken(self.accepted, made)
        if "input_ids" in inputs:
            _check_prompt(self, inputs["input_ids"].numpy() == self.token_id, "audio")
        return inputs

    def _rate(self) -> dict[str, Any]:
        """The rate, for processors that want to hear it."""
        takes = inspect.signature(type(self.processor).__call__).parameters
        return {"sampling_rate": self.rate_hz} if "sampling_rate" in takes or "kwargs" in takes else {}

    def _padded(self, made: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
        """Inputs of one sound in the shapes of the bucket, zero behind it; ids as they are."""
        import torch

        def one(name: str, value: Any) -> Any:
            sizes = zip(reversed(whole[name].shape), reversed(value.shape), strict=True)
            gaps = [(0, max(0, target - size)) for target, size in sizes]
            return torch.nn.functional.pad(value, [side for gap in gaps for side in gap])

        return {
            name: value if name == "input_ids" else one(name, value) for name, value in made.items() if name in whole
        }

    def _n_media(self, single: list[dict[str, Any]], duration_s: np.ndarray) -> np.ndarray:
        """Audio tokens of each sound: what the processor gave it alone; from its duration where it was padded first."""
        counts = np.array([int((one["input_ids"] == self.token_id).sum()) for one in single])
        if self.settings.traced or self.settings.language_frame_s is None:
            return counts
        own = np.ceil(duration_s / self.settings.language_frame_s - 1e-4).astype(int)
        return np.minimum(counts, np.maximum(own, 1))

    def _tokens(self, made: dict[str, Any], single: list[dict[str, Any]], sounds: list[np.ndarray]) -> Tokens:
        """Where the tokens of a batch stand: of the audio tokens of a row, the first are the sound's."""
        duration_s = np.array([len(sound) / self.rate_hz for sound in sounds], np.float32)
        if "input_ids" not in made:
            return _one_token_each(len(sounds), duration_s)
        placeholder = made["input_ids"].numpy() == self.token_id
        is_media = placeholder & (placeholder.cumsum(axis=1) <= self._n_media(single, duration_s)[:, None])
        return Tokens(~placeholder | is_media, is_media, duration_s)
