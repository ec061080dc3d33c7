"""Controls: each against a slow definition in float64, a peer where there is one, and as the rest of the program sees it."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import convolve
from scipy.signal import hilbert
from skimage.color import rgb2xyz
from skimage.filters import gabor_kernel
from skimage.transform import downscale_local_mean

from jaxalign import config, store
from jaxalign.commands.composed import compose
from jaxalign.contracts import MeshConfig, Sound
from jaxalign.errors import ConfigError, DataError
from jaxalign.models import controls_pictures, controls_sound, controls_text, open_source
from jaxalign.models.controls import LAYERS, Control, frames
from jaxalign.runtime import extraction
from jaxalign.sources.audio_files import Sounds
from jaxalign.sources.image_files import Images
from jaxalign.sources.pictures import Pictures

ENTRIES = [name for name in config.options("model") if config.entry_values("model", name)["schema"] == "control"]


def image_control(*layers, **settings):
    return Control(**{"name": "c", "takes": "image", "layers": layers, "batch_size": 2, **settings})


def sound_control(*layers, **settings):
    return Control(**{"name": "c", "takes": "audio", "layers": layers, "batch_size": 2, **settings})


def text_control(*layers, **settings):
    return Control(
        **{"name": "c", "takes": "text", "layers": layers, "batch_size": 2, "columns": ("text",), **settings}
    )


def rows(settings, *stimuli):
    """The rows of one layer."""
    ((_, values),) = settings.open().activations(stimuli).items()
    assert values.dtype == np.float32
    return np.asarray(values, np.float64)


@pytest.fixture
def pictures(rng):
    """Two pictures of different size, noise on gradients."""
    sizes = [(24, 40), (37, 19)]
    return [
        rng.integers(0, 256, (*size, 3), np.uint8) // 2 + np.arange(size[1], dtype=np.uint8)[:, None] for size in sizes
    ]


# Grey values


def mean_of_cells(values, height, width):
    """Slow definition: of every pixel, the part that is inside the cell."""
    found = np.zeros((height, width))
    tall, wide = values.shape[0] / height, values.shape[1] / width
    for row in range(height):
        for column in range(width):
            total = 0.0
            for y in range(values.shape[0]):
                for x in range(values.shape[1]):
                    part_y = max(0.0, min((row + 1) * tall, y + 1) - max(row * tall, y))
                    part_x = max(0.0, min((column + 1) * wide, x + 1) - max(column * wide, x))
                    total += part_y * part_x * values[y, x]
            found[row, column] = total / (tall * wide)
    return found


@pytest.mark.parametrize("size", [1, 3, 8, 50])
def test_pixels_are_means_of_grey_by_area(pictures, size):
    found = rows(image_control("pixels", pixels_px=size), *pictures)
    for picture, row in zip(pictures, found, strict=True):
        grey = (0.299 * picture[..., 0] + 0.587 * picture[..., 1] + 0.114 * picture[..., 2]) / 255
        np.testing.assert_allclose(row, mean_of_cells(grey, size, size).ravel(), atol=1e-6)


def test_pixels_agree_with_pillow_and_scikit_image(rng):
    picture = rng.integers(0, 256, (64, 96, 3), np.uint8)
    (found, _) = rows(image_control("pixels", pixels_px=32), picture, picture)
    grey = np.asarray(Image.fromarray(picture).convert("L"), float) / 255
    np.testing.assert_allclose(found, downscale_local_mean(grey, (2, 3)).ravel(), atol=0.5 / 255)


def test_a_crop_is_the_central_square(pictures):
    wide, tall = pictures
    found = rows(image_control("pixels", pixels_px=6, image_fit="crop"), wide, tall)
    squares = [wide[:, 8:32], tall[9:28]]
    np.testing.assert_array_equal(found, rows(image_control("pixels", pixels_px=6), *squares))


# Luminance and contrast


def light(picture):
    """CIE Y of sRGB, IEC 61966-2-1."""
    values = picture / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_luminance_is_y_and_contrast_its_standard_deviation(pictures):
    found = rows(image_control("luminance_contrast"), *pictures)
    expected = [[light(picture).mean(), light(picture).std()] for picture in pictures]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    peer = [rgb2xyz(picture)[..., 1].mean() for picture in pictures]
    np.testing.assert_allclose(found[:, 0], peer, atol=1e-4)  # its matrix has other last digits


def test_the_grid_has_the_values_of_its_cells(rng):
    picture = rng.integers(0, 256, (24, 40, 3), np.uint8)
    found = rows(image_control("luminance_contrast_grid", n_cells=4), picture, picture)[0]
    cells = light(picture).reshape(4, 6, 4, 10)
    np.testing.assert_allclose(
        found, np.concatenate([cells.mean((1, 3)).ravel(), cells.std((1, 3)).ravel()]), atol=1e-6
    )


@pytest.mark.parametrize(("value", "mean"), [(0, 0.0), (255, 1.0), (128, 0.2158605)])
def test_uniform_pictures_have_a_luminance_and_no_contrast(value, mean):
    uniform = np.full((17, 23, 3), value, np.uint8)
    found = rows(image_control("luminance_contrast_grid", n_cells=3), uniform, uniform)[0]
    np.testing.assert_allclose(found, [mean] * 9 + [0.0] * 9, atol=1e-6)


# Gabor filters

SMALL = {"gabor_px": 32, "n_cells": 4, "n_orientations": 3, "n_scales": 2, "shortest_wavelength_px": 4.0}


@pytest.mark.parametrize("wavelength", [4.0, 7.5, 16.0])
@pytest.mark.parametrize("angle", [0.0, 0.7, math.pi / 2])
@pytest.mark.parametrize("octaves", [1.0, 1.4])
def test_filters_are_those_of_scikit_image_but_for_their_mean(wavelength, angle, octaves):
    found = controls_pictures.gabor(wavelength, angle, octaves)
    peer = gabor_kernel(1 / wavelength, theta=angle, bandwidth=octaves, n_stds=5)
    reach = len(found) // 2
    centre = [length // 2 for length in peer.shape]
    peer = peer[centre[0] - reach : centre[0] + reach + 1, centre[1] - reach : centre[1] + reach + 1]
    envelope = np.abs(peer) / np.abs(peer).sum()
    peer = peer / np.abs(peer).sum()
    np.testing.assert_allclose(found, peer - envelope * peer.sum(), atol=1e-12)
    assert abs(found.sum()) < 1e-12


def test_energies_are_those_of_plain_convolutions(pictures):
    """Float64, with scikit-image's kernels and scipy's convolution."""
    found = rows(image_control("gabor", **SMALL), *pictures)
    for picture, row in zip(pictures, found, strict=True):
        small = mean_of_cells((picture @ [0.299, 0.587, 0.114]) / 255, 32, 32)
        expected = []
        for wavelength in (4.0, 8.0):
            for angle in np.pi * np.arange(3) / 3:
                kernel = gabor_kernel(1 / wavelength, theta=angle, bandwidth=1, n_stds=5)
                reach = math.ceil(3 * wavelength / math.pi * math.sqrt(math.log(2) / 2) * 3)
                y, x = (length // 2 for length in kernel.shape)
                kernel = kernel[y - reach : y + reach + 1, x - reach : x + reach + 1]
                kernel /= np.abs(kernel).sum()
                kernel -= np.abs(kernel) / np.abs(kernel).sum() * kernel.sum()
                even, odd = (convolve(small, part, mode="reflect") for part in (kernel.real, kernel.imag))
                expected.append(np.sqrt(even**2 + odd**2).reshape(4, 8, 4, 8).mean((1, 3)).ravel())
        np.testing.assert_allclose(row, np.concatenate(expected), atol=2e-6)


def test_a_grating_drives_its_own_filter_most():
    x = np.arange(128)
    for scale, wavelength in enumerate([4, 8, 16, 32]):
        stripes = np.round(127.5 + 100 * np.cos(2 * np.pi * x / wavelength)).astype(np.uint8)
        vertical = np.repeat(np.tile(stripes, (128, 1))[..., None], 3, axis=2)
        found = rows(image_control("gabor"), vertical, vertical.transpose(1, 0, 2)).reshape(2, 4, 8, 8, 8)
        mean = found.mean((3, 4))
        assert np.unravel_index(mean[0].argmax(), (4, 8)) == (scale, 0)
        assert np.unravel_index(mean[1].argmax(), (4, 8)) == (scale, 4), "turned by 90 degrees"
        inner = found[0, scale, 0, 3:5, 3:5]
        np.testing.assert_allclose(inner, 100 / 255 / 2, rtol=0.02)


def test_uniform_pictures_have_no_energy_and_brightness_adds_none(pictures):
    white = np.full((40, 40, 3), 255, np.uint8)
    assert rows(image_control("gabor", **SMALL), white, white).max() < 1e-6
    dim = [picture // 2 for picture in pictures]
    found, brighter = (rows(image_control("gabor", **SMALL), *two) for two in (dim, [one + 60 for one in dim]))
    np.testing.assert_allclose(found, brighter, atol=2e-6)


# Envelope


@pytest.mark.parametrize("n_samples", [1, 2, 7, 1000, 1001])
def test_the_envelope_is_that_of_scipy(rng, n_samples):
    values = rng.normal(0.2, 0.1, n_samples).astype(np.float32)
    found = controls_sound.envelope(Sound(values, 1000))
    expected = np.abs(hilbert(values.astype(float) - values.astype(float).mean()))
    np.testing.assert_allclose(found.values[:, 0], expected, atol=1e-12)
    np.testing.assert_allclose(found.times_s, (np.arange(n_samples) + 0.5) / 1000)


def test_the_envelope_of_a_modulated_tone_is_its_modulation():
    t = np.arange(16000) / 16000
    modulation = 0.3 - 0.2 * np.cos(2 * np.pi * 4 * t)
    tone = Sound((modulation * np.sin(2 * np.pi * 1000 * t)).astype(np.float32), 16000)
    np.testing.assert_allclose(controls_sound.envelope(tone).values[:, 0], modulation, atol=1e-6)
    binned = frames(tone, "envelope", sound_control("envelope", bin_s=0.025)).values[:, 0]
    np.testing.assert_allclose(binned, modulation.reshape(40, 400).mean(axis=1), atol=1e-6)
    mean, deviation, highest, rise = controls_sound.envelope_statistics(tone)
    assert mean == pytest.approx(0.3, abs=1e-4) and deviation == pytest.approx(0.2 / math.sqrt(2), abs=1e-3)
    assert highest == pytest.approx(0.5, abs=1e-3)
    assert rise == pytest.approx(4 * 0.4 / 0.99, rel=0.02), "by 0.4 four times, in the 0.99 s from first to last bin"


def test_statistics_are_those_of_bins_of_ten_milliseconds(rng):
    values = rng.normal(0, 0.1, 16000).astype(np.float32)
    binned = np.abs(hilbert(values.astype(float) - values.astype(float).mean())).reshape(100, 160).mean(axis=1)
    rise = np.maximum(np.diff(binned), 0).mean() * 100
    found = rows(sound_control("envelope_statistics"), Sound(values, 16000), Sound(values, 16000))[0]
    np.testing.assert_allclose(found, [binned.mean(), binned.std(), binned.max(), rise], rtol=1e-5)


def test_a_row_is_the_mean_over_the_sound(rng):
    values = rng.normal(0, 0.1, 12345).astype(np.float32)
    both = sound_control("envelope", "duration").open().activations([Sound(values, 16000)] * 2)
    expected = np.abs(hilbert(values.astype(float) - values.astype(float).mean())).mean()
    np.testing.assert_allclose(both["envelope", "mean"], [[expected]] * 2, rtol=1e-6)
    np.testing.assert_allclose(both["duration", "mean"], [[12345 / 16000]] * 2, rtol=1e-6)


# Log-mel spectrogram


def mel_spectrogram(values, rate_hz, n_mels):
    """Slow definition of the power in mel bands: (n_times, n_mels), window by window and frequency by frequency."""
    window, step = round(0.025 * rate_hz), round(0.01 * rate_hz)
    padded = np.pad(np.asarray(values, float), window // 2, mode="reflect")
    n = np.arange(window)
    hann = np.sin(np.pi * n / window) ** 2
    top = 15 + 27 * np.log(rate_hz / 2 / 1000) / np.log(6.4)
    edges = [mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27) for mel in np.linspace(0, top, n_mels + 2)]
    found = np.zeros((len(values) // step, n_mels))
    for time in range(len(found)):
        part = padded[time * step : time * step + window] * hann
        for k in range(window // 2 + 1):
            power = np.abs((part * np.exp(-2j * np.pi * k * n / window)).sum()) ** 2
            f = k * rate_hz / window
            for band in range(n_mels):
                low, centre, high = edges[band : band + 3]
                if low < f < high:
                    height = (f - low) / (centre - low) if f <= centre else (high - f) / (high - centre)
                    found[time, band] += power * height * 2 / (high - low)
    return found


def test_log_mel_is_its_slow_definition(rng):
    values = rng.normal(0, 0.1, 1700).astype(np.float32)
    power = np.log10(mel_spectrogram(values, 8000, 12))
    found = controls_sound.log_mel(Sound(values, 8000), 12)
    np.testing.assert_allclose(found.values, power, atol=1e-9)
    np.testing.assert_allclose(found.times_s, np.arange(21) * 0.01)
    mean = rows(sound_control("mel", rate_hz=8000, n_mels=12), Sound(values, 8000), Sound(values, 8000))[0]
    np.testing.assert_allclose(mean, power.mean(axis=0), atol=1e-5)


def test_log_mel_is_the_input_of_whisper(rng):
    from transformers import WhisperFeatureExtractor

    values = rng.normal(0, 0.1, 32000).astype(np.float32)
    values[8000:20000] = 0  # the floor of 80 dB below the loudest counts
    made = WhisperFeatureExtractor()(values, sampling_rate=16000, return_tensors="np", padding=False)
    found = controls_sound.log_mel(Sound(values, 16000), 80).values
    np.testing.assert_allclose((found.T + 4) / 4, made["input_features"][0], atol=1e-5)


def test_a_tone_is_loudest_in_its_band():
    t = np.arange(16000) / 16000
    tones = [Sound(np.sin(2 * np.pi * hertz * t).astype(np.float32), 16000) for hertz in (250, 4000)]
    low, high = rows(sound_control("mel"), *tones)
    window, _ = controls_sound.samples_of(16000)
    filters = controls_sound.mel_filters(80, window, 16000)
    for found, hertz in ((low, 250), (high, 4000)):
        assert filters[:, found.argmax()].argmax() * 16000 / window == pytest.approx(hertz, abs=40)


def test_silence_has_numbers():
    silent = Sound(np.zeros(16000, np.float32), 16000)
    for layer, value in (("mel", -10.0), ("envelope", 0.0), ("envelope_statistics", 0.0)):
        np.testing.assert_allclose(rows(sound_control(layer), silent, silent), value)


@pytest.mark.parametrize("n_samples", [1, 2, 100, 161, 401])
def test_the_shortest_sounds_have_a_row(rng, n_samples):
    short = Sound(rng.normal(0, 0.1, n_samples).astype(np.float32), 16000)
    for layer in ("mel", "envelope", "envelope_statistics", "duration"):
        found = rows(sound_control(layer), short, short)
        assert found.shape[0] == 2 and np.isfinite(found).all()


def test_blocks_of_windows_change_nothing(rng, monkeypatch):
    sound = Sound(rng.normal(0, 0.1, 16000).astype(np.float32), 16000)
    whole = controls_sound.log_mel(sound, 80).values
    monkeypatch.setattr(controls_sound, "FRAMES_AT_ONCE", 7)
    np.testing.assert_allclose(controls_sound.log_mel(sound, 80).values, whole, atol=1e-12)


def test_the_rate_of_the_file_does_not_matter():
    """A band-limited sound has the same features at 44.1 kHz and at 16 kHz."""
    made = []
    for rate in (44100, 16000):
        t = np.arange(2 * rate) / rate
        loudness = 0.2 + 0.1 * np.sin(2 * np.pi * 3 * t)
        made.append(Sound((loudness * np.sin(2 * np.pi * 700 * t)).astype(np.float32), rate))
    high, low = rows(sound_control("envelope_statistics"), *made)
    np.testing.assert_allclose(high, low, rtol=0.02)
    band = rows(sound_control("mel"), *made)
    loud = band[1] > band[1].max() - 2
    np.testing.assert_allclose(band[0][loud], band[1][loud], atol=0.02)


# Time bins


@pytest.mark.parametrize("layer", ["envelope", "mel"])
@pytest.mark.parametrize("bin_s", [0.004, 0.05, 0.1, 0.3])
def test_bins_are_means_of_what_falls_into_them(rng, layer, bin_s):
    sound = Sound(rng.normal(0, 0.1, 11111).astype(np.float32), 16000)
    settings = sound_control(layer, bin_s=bin_s)
    found = frames(sound, layer, settings)
    course = LAYERS[layer].course(sound, settings)
    n_bins = math.ceil(11111 / 16000 / bin_s)
    assert found.values.shape == (n_bins, LAYERS[layer].width(settings)) and found.is_real.all()
    for index, values in enumerate(found.values):
        inside = (course.times_s >= index * bin_s - 1e-9) & (course.times_s < (index + 1) * bin_s - 1e-9)
        if not inside.any():  # shorter than a window's step: the nearest
            inside = np.arange(len(course.times_s)) == np.abs(course.times_s - (index + 0.5) * bin_s).argmin()
        np.testing.assert_allclose(values, course.values[inside].mean(axis=0), atol=1e-5)


def test_bins_behind_a_sound_are_masked_and_change_nothing(rng):
    sound = Sound(rng.normal(0, 0.1, 8000).astype(np.float32), 16000)
    settings = sound_control("mel")
    own, padded = frames(sound, "mel", settings), frames(sound, "mel", settings, 9)
    np.testing.assert_array_equal(padded.is_real, [True] * 5 + [False] * 4)
    np.testing.assert_array_equal(padded.values[:5], own.values)
    assert not padded.values[5:].any()


def test_rows_by_time_bin_are_frames(rng):
    long, short = (Sound(rng.normal(0, 0.1, n).astype(np.float32), 16000) for n in (8000, 3000))
    source = sound_control("envelope", "mel", pooling="frames").open()
    found = source.activations([long, short])
    assert source.bin_s == 0.1 and [fit.pooling for fit in source.fits] == ["frames"] * 2
    for layer, width in (("envelope", 1), ("mel", 80)):
        values = np.asarray(found[layer, "frames"])
        assert values.shape == (2, 5, width) and not values[1, 2:].any()
        np.testing.assert_array_equal(values[1, :2], frames(short, layer, source.settings).values)


@pytest.mark.parametrize("layer", ["duration", "pixels", "melody"])
def test_layers_without_a_time_course_say_so(layer):
    with pytest.raises(ConfigError, match="no time course"):
        frames(Sound(np.ones(9, np.float32), 16000), layer, sound_control("mel"))


# Texts


@pytest.mark.parametrize(
    ("text", "characters", "found"),
    [
        ("The cat sat.", 10, ["The", "cat", "sat"]),
        ("  don't — well-known,  ", 17, ["don't", "well-known"]),
        ("l\u2019e\u0301te\u0301", 5, ["l\u2019\u00e9t\u00e9"]),
        ("3 apples_and 4.5", 14, ["3", "apples", "and", "4", "5"]),
        ("Straße\n\tÄrger", 11, ["Straße", "Ärger"]),
    ],
)
def test_words_and_characters_are_counted(text, characters, found):
    assert controls_text.words(text) == found and controls_text.n_characters(text) == characters
    length = sum(map(len, found)) / len(found)
    np.testing.assert_allclose(controls_text.measures(text), [characters, len(found), length])


def test_columns_of_texts_stand_side_by_side():
    stimuli = [{"cue": "red apple", "answer": "pear", "FAS": "0.1"}, {"cue": "a", "answer": "to be or", "FAS": "0.2"}]
    found = text_control("words", "n_words", columns=("cue", "answer")).open().activations(stimuli)
    np.testing.assert_allclose(found["words", "none"], [[8, 2, 4, 4, 1, 4], [1, 1, 1, 6, 3, 2]])
    np.testing.assert_array_equal(found["n_words", "none"], [[2, 1], [1, 3]])


def table(folder, text, name="words.csv"):
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_frequency_is_the_mean_zipf_value(tmp_path):
    path = table(tmp_path, "rank,Word,count\n1,the,600\n2,The,99\n3,don’t,200\n4,cat,100\n")
    found = rows(text_control("log_frequency", frequency_path=path), {"text": "THE cat"}, {"text": "don't zzz"})
    # Four rows, three words after capitals, 999 occurrences.
    zipf = {count: math.log10((count + 1) / (999 + 3) * 1e9) for count in (699, 200, 100, 0)}
    np.testing.assert_allclose(found[:, 0], [(zipf[699] + zipf[100]) / 2, (zipf[200] + zipf[0]) / 2], rtol=1e-6)


def test_without_a_table_frequency_is_left_out():
    assert [fit.layer for fit in text_control("words", "log_frequency").open().fits] == ["words"]
    with pytest.raises(ConfigError, match="frequency_path=FILE"):
        text_control("log_frequency").open()


def test_the_content_of_the_table_is_part_of_the_identity(tmp_path):
    one, same, other = (
        table(tmp_path, f"word\tcount\ncat\t{count}\n", f"{name}.tsv") for name, count in (("a", 1), ("b", 1), ("c", 2))
    )
    identities = [text_control("log_frequency", frequency_path=path).open().identity for path in (one, same, other)]
    assert identities[0] == identities[1] != identities[2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("word,counts\ncat,1\n", r"none is 'count'\. Nearest: counts"),
        ("word,count\ncat,many\n", "line 2: the count is 'many'"),
        ("word,count\ncat,1\ndog,-3\n", "line 3: the count is '-3'"),
        ("word,count\ncat,nan\n", "the count is 'nan'"),
        ("word,count\ncat\n", "line 2, has 1 fields and 2 are needed"),
        ("word,count\n", "counts 0 words"),
        ("", "has 0 columns"),
    ],
)
def test_a_wrong_table_of_frequencies_is_refused(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        text_control("log_frequency", frequency_path=table(tmp_path, text)).open()


def test_a_missing_table_of_frequencies_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.csv are not there"):
        text_control("log_frequency", frequency_path=str(tmp_path / "nowhere.csv")).open()


# Bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (image_control(), "0 layers: give one or more of pixels"),
        (image_control("pixel"), "Nearest: pixels"),
        (image_control("mel"), "the layer 'mel' of image stimuli"),
        (image_control("pixels", "pixels"), "lists 2 layers, some twice"),
        (image_control("pixels", takes="images"), "Nearest: image"),
        (image_control("pixels", pixels_px=0), "pixels_px=0: a whole number from 1"),
        (image_control("pixels", image_fit="pad"), "image_fit='pad'"),
        (image_control("gabor", gabor_px=100), "gabor_px=100 and n_cells=8"),
        (image_control("gabor", n_scales=6), "from 4 to 128 px in pictures of 128 px"),
        (image_control("gabor", shortest_wavelength_px=1.5), r"from 1\.5 to 12 px"),
        (image_control("gabor", bandwidth_octaves=0.0), "bandwidth_octaves=0.0: a number above 0"),
        (sound_control("mel", pooling="last"), "pooling 'last'"),
        (
            sound_control("mel", "duration", pooling="frames"),
            r"frames of duration, which has no .* model\.\w+\.layers=\[mel\]",
        ),
        (
            sound_control("duration", pooling="frames"),
            r"which has no time course: set model\.\w+\.layers=\[envelope,mel\]",
        ),
        (sound_control("mel", bin_s=float("nan")), "bin_s=nan"),
        (sound_control("mel", rate_hz=0), "rate_hz=0"),
        (sound_control("mel", n_mels=300), r"300 mel bands at 16000 Hz, and \d+ of them hold none of the 201"),
        (text_control("words", columns=()), "reads 0 columns"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_numbers(settings, message):
    with pytest.raises(ConfigError, match=message):
        settings.open()


@pytest.mark.parametrize(
    ("settings", "stimulus", "message"),
    [
        (image_control("pixels"), np.zeros((4, 4), np.uint8), r"Image 1 .* uint8 of shape \(4, 4\)"),
        (image_control("pixels"), np.zeros((4, 4, 3)), r"Image 1 .* float64"),
        (image_control("pixels"), np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
        (sound_control("mel"), np.zeros(9, np.float32), "Sound 1 .* is a ndarray"),
        (sound_control("mel"), Sound(np.zeros(0, np.float32), 16000), "0 samples"),
        (sound_control("mel"), Sound(np.array([0, np.nan], np.float32), 16000), "2 samples, 1 of them not finite"),
        (text_control("words"), "hello", "Text 1 .* is a str"),
        (text_control("words"), {"texts": "hello"}, "Nearest: texts"),
        (text_control("words"), {"text": 3}, "holds 3"),
        (text_control("words"), {"text": " ... "}, "5 characters and 0 words"),
    ],
)
def test_stimuli_that_cannot_be_are_refused_with_numbers(settings, stimulus, message):
    good = {
        "image": np.zeros((4, 4, 3), np.uint8),
        "audio": Sound(np.ones(9, np.float32), 16000),
        "text": {"text": "hello"},
    }[settings.takes]
    source = settings.open()
    with pytest.raises(DataError, match=message):
        source.activations([good, stimulus])


def test_a_batch_of_another_size_is_refused(pictures):
    with pytest.raises(DataError, match="given 1 stimuli and its batch_size is 2"):
        image_control("pixels").open().activations(pictures[:1])


# As the rest of the program sees them


def stimuli_for(takes, n):
    rng = np.random.default_rng(3)
    if takes == "image":
        return list(Pictures(max(n, 4), 48).images())[:n]
    if takes == "audio":
        return [Sound(rng.normal(0, 0.1, 4000 + 500 * index).astype(np.float32), 16000) for index in range(n)]
    return [{"text": " ".join(["word"] * (index + 1))} for index in range(n)]


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_keeps_what_a_source_promises(name):
    """Widths, order of rows and identity; a stimulus has the same row whatever stands beside it."""
    settings = replace(compose([f"model=[{name}]"], needs=("model",)).model[name], batch_size=3)
    source = open_source(settings)
    assert isinstance(settings, Control) and settings.name == name and source.batch_size == 3
    assert (
        source.bin_s is None
        and source.bucket(3.0) == 0.0
        and json.loads(json.dumps(source.identity)) == source.identity
    )
    stimuli = stimuli_for(source.takes, 3)
    found = source.activations(stimuli)
    turned = source.activations(stimuli[::-1])
    assert list(found) == [(fit.layer, fit.pooling) for fit in source.fits]
    for fit in source.fits:
        values = np.asarray(found[fit.layer, fit.pooling])
        assert values.shape == (3, fit.width) and values.dtype == np.float32 and np.isfinite(values).all()
        assert np.ptp(values, axis=0).any(), "different stimuli have different features"
        np.testing.assert_allclose(values[::-1], turned[fit.layer, fit.pooling], atol=1e-6)


def test_entries_for_pictures_sounds_and_texts_are_there():
    takes = [config.entry_values("model", name)["takes"] for name in ENTRIES]
    assert sorted(ENTRIES) == ["envelope", "gabor", "luminance", "mel", "pixels", "words"]
    assert [takes.count(kind) for kind in ("image", "audio", "text")] == [3, 2, 1]


def quiet(_stage, _done):
    pass


def test_pictures_in_files_become_rows_of_a_store(tmp_path):
    (tmp_path / "in").mkdir()
    pixels = list(Pictures(7, 40).images())
    for index, picture in enumerate(pixels):
        Image.fromarray(picture).save(tmp_path / "in" / f"s{index}.png")
    stimuli = extraction.shown_by_kind(Images(str(tmp_path / "in")))
    settings = image_control("pixels", "luminance_contrast", batch_size=4)
    source = extraction.open_for(settings, stimuli, MeshConfig())
    folder = extraction.extracted(source, stimuli["image"](), str(tmp_path / "store"), quiet)
    for fit in source.fits:
        one = replace(settings, layers=(fit.layer,), batch_size=7)
        np.testing.assert_array_equal(store.read(folder, fit), rows(one, *pixels).astype(np.float32))


@pytest.mark.parametrize("pooling", ["mean", "frames"])
def test_sounds_in_files_become_rows_and_damaged_ones_are_named(tmp_path, rng, pooling):
    import soundfile as sf

    (tmp_path / "in").mkdir()
    lengths = [8000, 24000, 4000, 16001]
    for index, length in enumerate(lengths):
        sf.write(tmp_path / "in" / f"s{index}.wav", rng.normal(0, 0.1, length), 16000, subtype="FLOAT")
    content = (tmp_path / "in" / "s2.wav").read_bytes()
    (tmp_path / "in" / "s2.wav").write_bytes(content[:-100])
    source = sound_control("mel", pooling=pooling).open()

    def extracted():
        shown = extraction.shown_by_kind(Sounds(str(tmp_path / "in")))["audio"]()
        return extraction.extracted(source, shown, str(tmp_path / "store"), quiet)

    with pytest.raises(DataError, match=r"1 of 4 stimuli could not be shown[\s\S]*s2: .*s2\.wav is cut short"):
        extracted()
    (tmp_path / "in" / "s2.wav").write_bytes(content)
    folder = extracted()
    sounds = list(Sounds(str(tmp_path / "in")).sounds())
    if pooling == "mean":
        expected = [LAYERS["mel"].course(sound, source.settings).values.mean(axis=0) for sound in sounds]
    else:
        expected = np.concatenate([frames(sound, "mel", source.settings).values for sound in sounds])
        assert len(expected) == 5 + 15 + 3 + 11
    np.testing.assert_allclose(store.read(folder, source.fits[0]), expected, atol=1e-5)
