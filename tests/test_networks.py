"""Networks of the zoo: what JAX computes is what torch computes, from real checkpoints, on one device or many."""

import json
from dataclasses import replace

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxalign.commands.models import settings_of
from jaxalign.contracts import MeshConfig, Sound
from jaxalign.errors import ConfigError, DataError
from jaxalign.models import building, open_source, parity
from jaxalign.models.network import Network
from jaxalign.runtime import mesh

TOLERANCE = 2e-4
"""Largest difference over largest value, float32: what the zoo asks for; about 1e-6 is found."""

COSINE = 0.999
"""bfloat16 has 8 bits; the two engines round differently from layer to layer."""

QUICK = ["llava", "qwen2_5_vl", "granite_speech", "composite_ultravox"]
LOADED = [*checkpoints.PROCESSORS, *(name for name in checkpoints.architectures() if name.startswith("composite"))]
LOADED_QUICK = ["qwen2_5_vl", "qwen2_audio", "wav2vec2"]
AUDIO = [name for name in LOADED if checkpoints.architecture(name).traced]


def some_now(names, quick):
    """Some names for the quick tests, the rest for `make test-all`."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow) for name in names]


def stimuli(entry, seed=0):
    """Two pictures of different sizes, or two sounds of different rates and lengths."""
    random = np.random.default_rng(seed)
    if entry.takes == "image":
        return [random.integers(0, 256, (40 + 9 * at, 50, 3), dtype=np.uint8) for at in range(2)]
    lengths = ((14000, 16000), (3700, 8000))
    return [Sound((0.1 * random.standard_normal(n)).astype(np.float32), rate) for n, rate in lengths]


def close(found, expected, tolerance=1e-5):
    assert set(found) == set(expected)
    for key, values in expected.items():
        scale = np.abs(np.asarray(values)).max()
        np.testing.assert_allclose(found[key], values, rtol=0, atol=tolerance * scale, err_msg=str(key))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Name of an architecture -> an entry that loads its miniature; each is written once."""
    made = {}

    def entry(name):
        if name not in made:
            made[name] = checkpoints.write(tmp_path_factory.mktemp(name), name)
        return made[name]

    return entry


# Parity on miniatures, without processors


@pytest.mark.parametrize("name", some_now(checkpoints.architectures(), QUICK))
def test_jax_computes_every_layer_as_torch_does(name):
    found = parity.compare(checkpoints.architecture(name))
    layer, error = found.worst
    print(f"parity {name}: {len(found.errors)} layers, worst {error:.1e} at {layer}")
    assert error < TOLERANCE


@pytest.mark.parametrize("name", some_now(["llava", "qwen2_5_vl", "qwen2_audio", "composite_ultravox"], ["llava"]))
def test_bfloat16_follows_torchs_bfloat16(name):
    found = parity.compare(checkpoints.architecture(name), "bfloat16")
    assert min(found.cosines.values()) > COSINE


@pytest.mark.parametrize("name", some_now(["llava", "qwen2_5_vl", "internvl"], ["qwen2_5_vl"]))
def test_left_padding_is_masked_alike(name):
    import torch

    entry = checkpoints.architecture(name)
    inputs = parity.tiny.inputs_of(entry, building.miniature(entry))
    ids, mask = inputs["input_ids"], inputs["attention_mask"].clone()
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), ids], dim=1)
    mask = torch.cat([torch.tensor([[0, 0, 0], [1, 1, 1]]), mask], dim=1)
    changes = {"input_ids": padded, "attention_mask": mask}
    if "mm_token_type_ids" in inputs:
        changes["mm_token_type_ids"] = (padded == entry.tiny.token_id).int()
    found = parity.compare(entry, changes=changes)
    # What torch and JAX give to a query that sees no key is of no meaning, and differs: rows of padding are left out.
    assert len(found.errors) >= 9
    assert found.worst[1] < TOLERANCE


@pytest.mark.parametrize("name", some_now(["qwen2_audio", "audioflamingo3"], ["audioflamingo3"]))
def test_padded_sounds_of_unequal_length_are_masked_alike(name):
    """Masks as constants of the program, as torch sees them."""
    import torch

    entry = replace(checkpoints.architecture(name), traced=())
    mask_name = next(iter(entry.tiny.ones))
    mask = torch.ones(entry.tiny.ones[mask_name], dtype=torch.long)
    mask[1, 20:] = 0
    inputs = parity.tiny.inputs_of(entry, building.miniature(entry))
    ids = inputs["input_ids"].clone()
    media = (ids[1] == entry.tiny.token_id).nonzero().flatten()
    ids[1, media[len(media) // 2 :]] = 7  # half as many audio tokens
    assert parity.compare(entry, changes={mask_name: mask, "input_ids": ids}).worst[1] < TOLERANCE


# Checkpoints with their processors


@pytest.mark.parametrize("name", some_now(LOADED, LOADED_QUICK))
def test_a_checkpoint_gives_the_same_rows_in_both_engines(written, name):
    """Sounds are padded and masked under JAX, and alone under torch: padding leaves no trace."""
    entry = written(name)
    shown = stimuli(entry)
    source = entry.open()
    found, expected = source.activations(shown), replace(entry, engine="torch").open().activations(shown)
    close(found, expected)
    assert len(source.fits) == len(found)
    for fit in source.fits:
        rows = found[fit.layer, fit.pooling]
        assert (rows.shape, rows.dtype) == ((2, fit.width), jnp.float32)
        assert np.isfinite(rows).all()
        # Layers before the first cross-attention of Mllama see the prompt alone.
        sees_it = name != "mllama" or "language_model.layers" not in fit.layer or fit.layer.endswith(".2")
        assert (np.ptp(np.asarray(rows), axis=0).max() > 0) >= sees_it


def test_the_checkpoint_decides_the_rows(written, tmp_path):
    """transformers' own loading and forward pass, without any of ours."""
    import transformers
    from PIL import Image

    entry = written("llava")
    shown = stimuli(entry)
    model = transformers.LlavaForConditionalGeneration.from_pretrained(entry.path).eval()
    processor = transformers.AutoProcessor.from_pretrained(entry.path)
    images = [Image.fromarray(picture) for picture in shown]
    inputs = processor(images=images, text=[entry.prompt] * 2, return_tensors="pt")
    import torch

    with torch.no_grad():
        out = model(**inputs, output_hidden_states=True, use_cache=False)
    is_media = (inputs["input_ids"] == 150).numpy()[:, :, None]
    found = entry.open().activations(shown)
    for index in range(2):  # the last of hidden_states is behind the norm
        hidden = out.hidden_states[index + 1].double().numpy()
        expected = (hidden * is_media).sum(1) / is_media.sum(1)
        np.testing.assert_allclose(found[f"model.language_model.layers.{index}", "image_mean"], expected, atol=1e-5)
    hidden = out.hidden_states[3].double().numpy()
    expected = (hidden * is_media).sum(1) / is_media.sum(1)
    np.testing.assert_allclose(found["model.language_model.norm", "image_mean"], expected, atol=1e-5)
    hidden = out.hidden_states[0].double().numpy()
    expected = (hidden * is_media).sum(1) / is_media.sum(1)
    np.testing.assert_allclose(found["embeddings", "image_mean"], expected, atol=1e-5)


@pytest.mark.parametrize("name", some_now(AUDIO, ["composite_ultravox"]))
def test_a_sound_has_the_same_rows_in_any_company_and_bucket(written, name):
    entry = written(name)
    short, long = stimuli(entry)[::-1]
    source = entry.open()
    among = source.activations([short, long])
    twice = source.activations([short, short])
    for key, rows in among.items():
        np.testing.assert_allclose(rows[0], twice[key][0], rtol=0, atol=1e-5 * np.abs(np.asarray(rows)).max())


def test_time_bins_average_the_frames_in_them(written):
    entry = replace(written("qwen2_audio"), pooling=("frames",), encoder_pooling=("frames",), bin_s=0.1)
    shown = stimuli(entry)
    source = entry.open()
    assert source.bin_s == 0.1
    found = source.activations(shown)
    mean = written("qwen2_audio").open().activations(shown)
    for (layer, _), bins in found.items():
        assert bins.shape[:2] == (2, 10)
        n_bins = np.isfinite(np.asarray(bins)).all(axis=2).sum(axis=1)
        assert 8 <= n_bins[0] <= 9 and 4 <= n_bins[1] <= 5, "0.875 s and 0.4625 s"
        overall = np.nanmean(np.asarray(bins)[0], axis=0)
        rows = np.asarray(mean[layer, "audio_mean"])[0]
        assert np.corrcoef(overall, rows)[0, 1] > 0.99


# Devices


def sharded(entry, kind):
    """The entry on eight simulated devices: weights on each, or split over all."""
    if kind == "replicated":
        return entry.open(lambda n_bytes: mesh.placement(MeshConfig(), 10**12, n_bytes))
    return entry.open(lambda n_bytes: mesh.placement(MeshConfig(), 1, n_bytes))


@pytest.mark.parametrize("kind", ["replicated", "split"])
@pytest.mark.parametrize("name", some_now(["llava", "qwen2_audio"], ["llava"]))
def test_eight_devices_give_the_same_rows(written, devices, name, kind):
    entry = written(name)
    source = sharded(entry, kind)
    assert source.batch_size == (16 if kind == "replicated" else 2)
    shown = stimuli(entry) * (source.batch_size // 2)
    found = source.activations(shown)
    one = entry.open(lambda n_bytes: mesh.placement(MeshConfig(fit=1, target=1), 10**12, n_bytes))
    alone = one.activations(shown[:2])
    if kind == "replicated":
        for key, rows in alone.items():
            np.testing.assert_array_equal(found[key][-2:], rows, err_msg=str(key))
    else:
        close({key: rows[:2] for key, rows in found.items()}, alone)
        split = [value for value in source.weights.values() if not value.sharding.is_fully_replicated]
        assert sum(value.nbytes for value in split) > 0.9 * sum(value.nbytes for value in source.weights.values())


def test_nothing_leaves_the_devices_during_a_step(written):
    source = written("llava").open()
    batch = source.processing.example(2)
    dynamic = jax.tree.map(lambda value: jax.ShapeDtypeStruct(value.shape, value.dtype), source.dynamic(batch))
    for platform in ("cpu", "cuda", "tpu"):
        lowered = jax.jit(source.function(batch)).trace(source.abstract_weights, dynamic)
        text = lowered.lower(lowering_platforms=(platform,)).as_text()
        assert "stablehlo.dot_general" in text
        for word in ("callback", "outfeed", "infeed", "stablehlo.send", "stablehlo.recv"):
            assert word not in text, f"{word} in the program for {platform}"


def test_a_short_last_batch_is_not_compiled_again(written):
    entry = written("llava")
    source = entry.open()
    for seed in range(3):
        source.activations(stimuli(entry, seed))
    assert len(source.programs) == 1
    with pytest.raises(DataError, match="was given 1 images and takes 2 at a time"):
        source.activations(stimuli(entry)[:1])


# Loading


def test_shards_are_read_one_tensor_at_a_time(tmp_path):
    """What is alive at once, beside what is placed: never more than the largest tensor, and one that is being made."""
    import weakref

    entry = checkpoints.write(tmp_path, "llava", max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    alive, peak, largest = set(), [0], [0]

    class Counting:
        n_parallel = 1

        def weight(self, name, values):
            base = values if values.base is None else values.base
            alive.add(id(base))
            weakref.finalize(base, alive.discard, id(base))
            peak[0], largest[0] = max(peak[0], len(alive)), max(largest[0], values.nbytes)
            return jax.device_put(np.array(values))

    source = entry.open(lambda n_bytes: Counting())
    weights = source.weights
    assert peak[0] <= 2 and largest[0] < sum(value.nbytes for value in weights.values()) / 3
    assert all(parameter.device.type == "meta" for parameter in source.module.parameters())


def test_a_missing_shard_is_named(tmp_path):
    entry = checkpoints.write(tmp_path, "llava", max_shard_size="60KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    shards[1].unlink()
    with pytest.raises(DataError, match=rf"lacks 1 of the {len(shards)} shards .* first {shards[1].name}"):
        entry.open()


def test_a_truncated_shard_is_named(tmp_path):
    entry = checkpoints.write(tmp_path, "llava")
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(DataError, match=r"model\.safetensors \(\d+ bytes\) cannot be read"):
        entry.open()


def test_weights_of_another_class_are_refused(tmp_path, written):
    entry = checkpoints.write(tmp_path, "llava")
    with pytest.raises(
        DataError, match="type 'llava', and Qwen2AudioForConditionalGeneration is of type 'qwen2_audio'"
    ):
        replace(checkpoints.architecture("qwen2_audio"), path=entry.path).open()


def test_missing_parameters_are_counted(tmp_path):
    from safetensors.torch import load_file, save_file

    entry = checkpoints.write(tmp_path, "llava")
    tensors = load_file(tmp_path / "model.safetensors")
    gone = [name for name in tensors if "multi_modal_projector" in name]
    save_file({name: value for name, value in tensors.items() if name not in gone}, tmp_path / "model.safetensors")
    with pytest.raises(
        DataError, match=rf"lacks {len(gone)} parameters of LlavaForConditionalGeneration, first model.multi_modal"
    ):
        _ = entry.open().weights


def test_code_in_a_checkpoint_is_refused(tmp_path):
    entry = checkpoints.write(tmp_path, "llava")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling.Model"}}))
    with pytest.raises(DataError, match="auto_map, which can load code"):
        entry.open()


def test_a_processor_that_needs_torchvision_says_so(tmp_path):
    from transformers.utils import is_torchvision_available

    entry = checkpoints.write(tmp_path, "llava_pixtral")
    if is_torchvision_available():
        assert entry.open().activations(stimuli(entry))
        return
    with pytest.raises(DataError, match=r"without a tokenizer.*needs torchvision"):
        entry.open()


def test_a_hub_model_needs_a_pinned_revision():
    entry = Network(name="x", model_class="LlavaForConditionalGeneration", hub_id="owner/model", revision="main")
    with pytest.raises(
        ConfigError, match=r"owner/model on the hub, and its revision is 'main': pin one by its full 40-digit SHA"
    ):
        entry.open()
    with pytest.raises(DataError, match="not in the cache and could not be fetched"):
        replace(entry, revision="0" * 40).open()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_class": "LlavaForConditionalGenerated"},
            "has no model class .* Nearest: LlavaForConditionalGeneration",
        ),
        ({"engine": "tensorflow"}, "engine='tensorflow'"),
        ({"pooling": ("middle",)}, "pooling 'middle'"),
        ({"layers": ("model.language_model.layer",)}, "none at the path .* Nearest: model.language_model.layers"),
        ({"patches": ("magic",)}, "patch 'magic'"),
        ({"media_token": "image_token"}, "no id at media_token='image_token'"),
        ({"prompt": "what is in the picture ?"}, "prompt"),
        ({"dtype": "float8"}, "dtype='float8'"),
        ({"image_fit": "squeeze"}, "image_fit='squeeze'"),
        ({"takes": "text"}, "schema/text_encoder"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_what_cannot_be_carried_out_is_explained(written, changes, message):
    entry = written("llava")
    with pytest.raises(ConfigError, match=message):
        replace(entry, **changes).open().activations(stimuli(entry))


@pytest.mark.parametrize(
    ("values", "rate", "message"),
    [
        (np.zeros(0), 16000, "has 0 samples"),
        (np.full(1000, np.nan), 16000, "1000 of them not finite"),
        (np.zeros(40000), 16000, "lasts 2.50 s and the model hears 1 s"),
    ],
)
def test_wrong_sounds_are_refused(written, values, rate, message):
    entry = written("qwen2_audio")
    sound = Sound(values.astype(np.float32), rate)
    with pytest.raises(DataError, match=message):
        entry.open().activations([sound, sound])


def test_wrong_pictures_are_refused(written):
    entry = written("llava")
    with pytest.raises(DataError, match=r"Image 1 of a batch of 'llava' is float64 of shape \(4, 4, 3\)"):
        entry.open().activations([stimuli(entry)[0], np.zeros((4, 4, 3))])


# Weights and inputs


def test_untrained_weights_follow_the_seed(written):
    entry = replace(written("llava"), weights="untrained")
    shown = stimuli(entry)
    first, again, other = (replace(entry, seed=seed).open() for seed in (1, 1, 2))
    rows = first.activations(shown)
    close(again.activations(shown), rows, 0)
    key = "model.language_model.layers.2", "image_mean"
    assert np.abs(np.asarray(other.activations(shown)[key]) - rows[key]).max() > 1e-3
    assert first.fits[0].revision == "untrained-seed-1"
    close(replace(entry, seed=1, engine="torch").open().activations(shown), rows)


@pytest.mark.parametrize("fit", ["crop", "stretch", "pad"])
def test_pictures_are_brought_to_one_size(fit):
    from jaxalign.models.processing import fitted

    entry = Network(name="x", model_class="y", image_size=(20, 30), image_fit=fit)
    picture = np.zeros((40, 100, 3), np.uint8)
    picture[:, 50:] = 200
    found = fitted(picture, entry)
    assert found.shape == (20, 30, 3)
    assert found[10, 5].max() < 5 and found[10, 25].min() > 195
    assert (found[0, 5] == 128).all() == (fit == "pad")


@pytest.mark.parametrize("engine", ["torchax", "torch"])
def test_bfloat16_weights_give_float32_rows(written, engine):
    entry = replace(written("llava"), dtype="bfloat16", engine=engine)
    source = entry.open()
    shown = stimuli(entry)
    rows = source.activations(shown)
    assert {value.dtype for value in source.weights.values()} <= {jnp.dtype("bfloat16"), jnp.dtype("float32")}
    exact = written("llava").open().activations(shown)
    for key, values in rows.items():
        assert values.dtype == jnp.float32
        assert np.corrcoef(np.asarray(values).ravel(), np.asarray(exact[key]).ravel())[0, 1] > 0.99


def test_a_source_says_its_shapes_before_it_reads_weights(written, monkeypatch):
    source = open_source(written("llava"))
    monkeypatch.setattr("jaxalign.models.loading.load", lambda *_: pytest.fail("weights were read"))
    assert {key: one.shape for key, one in source.spec.items()} == {
        (fit.layer, fit.pooling): (2, fit.width) for fit in source.fits
    }
    assert [fit.layer_depth for fit in source.fits] == [(at + 1) / 9 for at in range(9)]


# Texts


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    """A causal language model in miniature with a tokenizer, as an entry of captions."""
    folder = tmp_path_factory.mktemp("qwen3")
    entry = settings_of("qwen3_8b")
    kind = building.class_named(entry.model_class)
    building.untrained(kind, building.configuration(kind, entry.tiny.config), "float32", 0).save_pretrained(folder)
    checkpoints.tokenizer({}).save_pretrained(folder)
    return replace(entry, path=str(folder), dtype="float32", batch_size=3, layers=("embeddings", "layers", "norm"))


CAPTIONS = [
    {"caption": "a cat", "second": "the picture is a dog"},
    {"caption": "describe the picture : what is in this image ?", "second": "a dog"},
    {"caption": "the sound", "second": "a cat in the picture"},
]


def test_a_language_model_gives_rows_of_captions(language_model):
    """transformers' own forward pass of each caption alone: padding leaves no trace."""
    import torch

    source = language_model.open()
    found = source.activations(CAPTIONS)
    close(replace(language_model, engine="torch").open().activations(CAPTIONS), found)
    model, tokenizer = source.torch_module, source.processing.tokenizer
    for at, caption in enumerate(CAPTIONS):
        with torch.no_grad():
            out = model(**tokenizer(caption["caption"], return_tensors="pt"), output_hidden_states=True)
        for layer, hidden in (("embeddings", 0), ("layers.0", 1), ("layers.1", 2), ("norm", 3)):
            tokens = out.hidden_states[hidden][0].numpy()
            np.testing.assert_allclose(found[layer, "mean"][at], tokens.mean(0), atol=1e-5)
            np.testing.assert_allclose(found[layer, "last"][at], tokens[-1], atol=1e-5)


def test_a_text_without_tokens_is_refused(language_model):
    with pytest.raises(DataError, match="1 of 3 texts of the batch, first '', have 0 tokens"):
        language_model.open().activations([*CAPTIONS[:2], {"caption": ""}])


def test_several_captions_are_averaged_at_length_1(language_model):
    both = replace(language_model, columns=("caption", "second"), combine="mean", normalize=True)
    found = both.open().activations(CAPTIONS)
    single = [
        replace(language_model, columns=(column,), normalize=True).open().activations(CAPTIONS)
        for column in both.columns
    ]
    for key, rows in found.items():
        np.testing.assert_allclose(rows, (np.asarray(single[0][key]) + np.asarray(single[1][key])) / 2, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(single[0][key], axis=1), 1, atol=1e-5)
