"""Prompts and processors that do not fit the stimuli are told, of pictures and of sounds alike."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from jaxalign.contracts import Sound
from jaxalign.errors import ConfigError
from jaxalign.models.processing import Images, Sounds

MEDIA = 7


class Processor:
    """Gives the token ids that it was made with, one row per stimulus; refuses where there are none."""

    tokenizer = None
    sampling_rate = 8000
    image_token, audio_token = "<image>", "<audio>"

    def __init__(self, *ids):
        self.ids = ids

    def __call__(self, text, images=(), audio=(), **options):
        if not self.ids:
            raise ValueError("more media than places")
        return {"input_ids": torch.tensor([self.ids] * len(text)), "other": torch.zeros(1), "text": text}


def settings(**changes):
    return SimpleNamespace(
        **{"name": "m", "prompt": "Hm?", "image_size": (4, 4), "image_fit": "crop", "traced": (), "max_audio_s": None}
        | {"bin_s": 0.5, "language_frame_s": 0.5, **changes}
    )


def batch_of(kind, *ids):
    processing = kind(settings(), Processor(*ids), MEDIA, frozenset({"input_ids"}))
    stimulus = np.zeros((4, 4, 3), np.uint8) if kind is Images else Sound(np.ones(4000, np.float32), 8000)
    return processing.batches([stimulus], 1)[0]


@pytest.mark.parametrize(("kind", "medium"), [(Images, "image"), (Sounds, "audio")])
def test_a_prompt_without_a_place_for_the_stimulus_is_refused(kind, medium):
    with pytest.raises(ConfigError, match=rf"prompt of 'm', 'Hm\?', gives 0 {medium} tokens \(id 7\).*'<{medium}>'"):
        batch_of(kind, 1, 2)


@pytest.mark.parametrize(("kind", "what"), [(Images, "its pictures"), (Sounds, r"a sound of 1\.00 s")])
def test_a_processor_that_refuses_is_told(kind, what):
    with pytest.raises(ConfigError, match=rf"processor of 'm' refuses {what} with the prompt 'Hm\?': more media"):
        batch_of(kind)


@pytest.mark.parametrize(("kind", "is_token"), [(Images, [1, 1, 1]), (Sounds, [1, 1, 0])])
def test_tokens_are_those_of_the_prompt_and_of_the_stimulus(kind, is_token):
    """A sound of .5 s has one token of .5 s; what its bucket of 1 s adds is no token."""
    batch = batch_of(kind, 1, MEDIA, MEDIA)
    np.testing.assert_array_equal(batch.tokens.is_token, [is_token])
    np.testing.assert_array_equal(batch.tokens.is_media, [[0, *is_token[1:]]])
    assert set(batch.static) == {"input_ids"}, "what the network does not take is left out"
