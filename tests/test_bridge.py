"""The bridge from torch to JAX: the rules that make models traceable, and the places where torchax alone is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxalign.models import bridge
from jaxalign.models.patches import prepared


class Masked(torch.nn.Module):
    """Writes into a slice in place, as the attention of Granite Speech does."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, tokens):
        scores = self.linear(tokens)
        scores[1:3].masked_fill_(tokens[1:3] > 0.25, -100.0)
        return scores.softmax(-1)


def run(module, *inputs, forward=None, keeps_all=False):
    """What JAX makes of a module's forward pass under jit."""
    module = prepared(module, ())
    weights = {name: jnp.asarray(bridge.to_numpy(value)) for name, value in bridge.weights_of(module).items()}
    names = [f"input{at}" for at in range(len(inputs))]

    def call(given):
        return {"out": (forward or module)(*(given[name] for name in names))}

    function = jax.jit(bridge.as_function(module, call, keeps_all))
    given = {name: jnp.asarray(bridge.to_numpy(value)) for name, value in zip(names, inputs, strict=True)}
    return np.asarray(function(weights, given)["out"])


def test_an_in_place_write_into_a_slice_is_not_lost():
    """torchax 0.0.13 computes this without a word as if nothing had been masked."""
    module, tokens = Masked(), torch.linspace(-1, 1, 16).reshape(4, 4)
    with torch.no_grad():
        expected = module(tokens).numpy()
    assert expected[2, 2:].max() < 1e-6 < expected[0, 2]
    np.testing.assert_allclose(run(module, tokens), expected, atol=1e-6)


def test_stock_torchax_still_loses_it():
    """When this fails, the mending in Bridge can go."""
    from jaxalign.models.torchax_import import import_torchax

    torchax = import_torchax()
    module, tokens = Masked().eval(), torch.linspace(-1, 1, 16).reshape(4, 4)
    weights, function = torchax.extract_jax(module)
    lost = np.asarray(function(weights, (jnp.asarray(tokens.numpy()),)))
    assert lost[2, 2:].max() > 1e-3


def test_many_in_place_operators_are_mended():
    mended = set(bridge.environment().mended)
    assert len(mended) >= 30
    assert "masked_fill_" in mended


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_tensors_become_numpy_as_they_are(dtype):
    values = torch.tensor([[0, 1, 2], [3, 4, 250]]).to(dtype)
    found = bridge.to_numpy(values)
    assert str(found.dtype) == str(dtype).removeprefix("torch.")
    np.testing.assert_array_equal(found.astype(np.float64), values.double().numpy())


def test_constants_run_in_torch_while_tracing():
    """Ids that are no inputs may become Python numbers, also when they were moved to the device of a traced tensor."""

    def forward(tokens):
        ids = torch.tensor([1, 0, 2]).to(tokens.device)
        lengths = torch.arange(3, device=tokens.device)
        assert ids.tolist() == [1, 0, 2] and int(lengths.sum()) == 3
        return tokens[ids] * (ids > 0).unsqueeze(-1)

    tokens = torch.linspace(0, 1, 12).reshape(3, 4)
    expected = tokens[[1, 0, 2]].numpy() * np.array([[1], [0], [1]])
    np.testing.assert_allclose(run(torch.nn.Identity(), tokens, forward=forward), expected, atol=1e-7)


def test_a_traced_mask_keeps_every_row_only_when_asked():
    def forward(tokens, mask):
        return tokens[mask]

    tokens, mask = torch.linspace(0, 1, 12).reshape(2, 3, 2), torch.tensor([[True, False, True], [True, True, False]])
    found = run(torch.nn.Identity(), tokens, mask, forward=forward, keeps_all=True)
    np.testing.assert_array_equal(found, tokens.reshape(6, 2).numpy())
    with pytest.raises(jax.errors.NonConcreteBooleanIndexError):
        run(torch.nn.Identity(), tokens, mask, forward=forward)


def test_embedding_bags_are_weighted_sums():
    table, ids, weights = torch.linspace(0, 1, 20).reshape(10, 2), torch.tensor([[1, 2], [3, 9]]), torch.rand(2, 2)

    def forward(table, weights):
        return torch.nn.functional.embedding_bag(ids, table, per_sample_weights=weights, mode="sum")

    expected = (table[ids] * weights[..., None]).sum(1).numpy()
    np.testing.assert_allclose(run(torch.nn.Identity(), table, weights, forward=forward), expected, atol=1e-6)


def test_weight_norm_is_folded_before_tracing():
    torch.manual_seed(0)
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(4, 3))
    values = torch.randn(2, 4)
    with torch.no_grad():
        expected = layer(values).numpy()
    np.testing.assert_allclose(run(layer, values), expected, atol=1e-6)
    assert set(bridge.weights_of(layer)) == {"weight", "bias"}


def test_tied_weights_are_one_array():
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Embedding(5, 4)
            self.second = torch.nn.Linear(4, 5, bias=False)
            self.second.weight = self.first.weight

        def forward(self, values):
            return self.second(values + self.first.weight[0])

    module = Tied()
    assert set(bridge.weights_of(module)) == {"first.weight"}
    values = torch.linspace(0, 1, 8).reshape(2, 4)
    with torch.no_grad():
        expected = module(values).numpy()
    np.testing.assert_allclose(run(module, values), expected, atol=1e-6)
