"""A torch module as a pure JAX function, by way of torchax, whatever its family. Imports torch and torchax at once.

Three rules make the multimodal classes of transformers traceable under `jax.jit`:
1. Only what varies from stimulus to stimulus is traced. Token ids, grids and masks that are the same for every batch are
   constants of the compiled program, and stay plain torch tensors on the CPU: the code that turns them into Python
   numbers (`tolist`, `item`, `nonzero`) then runs while tracing, in torch.
2. Moving a plain tensor to the device of a traced one changes nothing, and neither does moving a traced one to the CPU.
3. A plain tensor that meets a traced one becomes a constant there; a boolean one stays NumPy, so that indexing by it
   keeps a static shape.

Source: the import shim and rules were measured on 56 architectures with torchax 0.0.13, torch 2.13, transformers 5.23.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn.utils import stateless
from torch.utils import _mode_utils as mode_utils
from torch.utils import _pytree as torch_pytree

from jaxalign.errors import ConfigError
from jaxalign.models.attention import scaled_dot_product_attention
from jaxalign.models.hooks import Outputs, to_numpy
from jaxalign.models.torchax_import import import_torchax

# Checks on values cannot be traced; transformers leaves them out when this is set before they run.
os.environ.setdefault("TRANSFORMERS_DISABLE_TORCH_CHECK", "1")

torchax = import_torchax()
_tensor = torchax.tensor
_ops = torchax.ops

LARGE_CONSTANT = 4096
"""Values from which a constant is kept for its next use."""

TORCH_DTYPES = {bool: torch.bool, int: torch.int64, float: torch.float32}
"""Python types that some model code gives where torch expects a dtype."""


def is_traced(value: Any) -> bool:
    """Whether a value lives in JAX."""
    return isinstance(value, _tensor.Tensor | _tensor.View)


def _plainly(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call torch itself, without JAX seeing it."""
    with mode_utils.no_dispatch(), torch._C.DisableTorchFunction():
        return function(*args, **kwargs)


def _lift(value: torch.Tensor) -> Any:
    """A tensor of either kind as what JAX computes with."""
    if is_traced(value):
        return value.jax()  # type: ignore[attr-defined]
    return value.detach().numpy() if value.dtype == torch.bool else to_numpy(value)


class Bridge(_tensor.Environment):  # type: ignore[name-defined]
    """torchax's environment with the three rules, and with operators that it lacks or gets wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.keeps_all = False
        self.constants: dict[Any, tuple[Any, Any]] = {}
        self._mend_in_place()
        self._mend_indexing()
        self._register(torch.nn.functional.scaled_dot_product_attention, self._attention, is_jax_function=True)
        scatter = torch.ops.aten.masked_scatter
        stock = self._get_op_or_decomp(scatter.default).func
        for name in (scatter, scatter.default):
            self._register(name, partial(_masked_scatter, stock), is_jax_function=True)
        self._register(torch.nn.functional.embedding_bag, _embedding_bag, is_jax_function=True)

    def _register(
        self, name: Any, function: Callable[..., Any], is_jax_function: bool, is_view_op: bool = False
    ) -> None:
        self._ops[name] = _ops.ops_registry.Operator(name, function, is_jax_function, True, False, is_view_op)

    def _mend_in_place(self) -> None:
        """Give every in-place operator that is only known as a decomposition a proper one.

        Without, torchax writes the result nowhere when the operator works on a view: `x[a:b].masked_fill_(mask, 0)`
        silently changes nothing.
        """
        self.mended: list[str] = []
        for operator in list(self._decomps):
            name = str(getattr(operator, "overloadpacket", operator)).rsplit(".", 1)[-1]
            is_in_place = name.endswith("_") and not name.endswith("__")
            if is_in_place and hasattr(torch.ops.aten, name[:-1]) and operator not in self._ops:
                functional = getattr(torch.ops.aten, name[:-1])
                self._register(operator, _ops.op_base.InplaceOp(functional), is_jax_function=False, is_view_op=True)
                self.mended.append(name)

    def _mend_indexing(self) -> None:
        plain = self._ops[torch.Tensor.__getitem__].func

        def getitem(x: Any, index: Any) -> Any:
            if self.keeps_all and is_traced(index) and index.dtype == torch.bool:
                values = x.jax()
                return _tensor.Tensor(values.reshape(-1, *values.shape[index.ndim :]), self)
            return plain(x, index)

        self._register(torch.Tensor.__getitem__, getitem, is_jax_function=False, is_view_op=True)

    def t2j_iso(self, tree: Any) -> Any:
        return torch_pytree.tree_map_only(torch.Tensor, self._lifted, tree)

    def _lifted(self, value: torch.Tensor) -> Any:
        """A tensor of either kind as what JAX computes with; a large constant is one, however many layers read it."""
        if is_traced(value) or value.numel() < LARGE_CONSTANT:
            return _lift(value)
        memory = value.untyped_storage().data_ptr(), value.storage_offset()
        key = (*memory, tuple(value.shape), value.stride(), value.dtype, value._version)
        if key not in self.constants:
            self.constants[key] = value, _lift(value)
        return self.constants[key][1]

    def _attention(self, query: Any, key: Any, value: Any, attn_mask: Any = None, *args: Any, **options: Any) -> Any:
        """Attention under a mask that is one constant for all layers."""
        if isinstance(attn_mask, np.ndarray):
            attn_mask = self.constants.setdefault(id(attn_mask), (attn_mask, jnp.asarray(attn_mask)))[1]
        return scaled_dot_product_attention(query, key, value, attn_mask, *args, **options)

    def dispatch(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        kwargs = dict(kwargs or {})
        if isinstance(kwargs.get("dtype"), type):
            kwargs["dtype"] = TORCH_DTYPES.get(kwargs["dtype"], kwargs["dtype"])
        leaves = torch_pytree.tree_leaves((args, kwargs))
        names_device = any(isinstance(leaf, torch.device) for leaf in leaves)
        makes_traced = kwargs.get("device") is not None and self._should_use_torchax_tensor(kwargs["device"])
        is_move = func is torch.Tensor.to or names_device or makes_traced
        if not is_move and not any(is_traced(leaf) for leaf in leaves):
            return _plainly(func, *args, **kwargs)
        if func is torch.Tensor.expand_as and not is_traced(args[0]):
            return _plainly(args[0].expand, args[1].shape)  # masks of placeholders stay constants
        if func is torch.Tensor.__getitem__ and not is_traced(args[0]):
            args = (_tensor.Tensor(jnp.asarray(_lift(args[0])), self), *args[1:])
        return super().dispatch(func, types, args, kwargs)

    def _to_copy(self, the_tensor: Any, new_dtype: Any, new_device: Any) -> Any:
        dtype = TORCH_DTYPES.get(new_dtype, new_dtype)
        if is_traced(the_tensor):
            return super()._to_copy(the_tensor, dtype, None)
        return the_tensor if dtype is None else _plainly(the_tensor.to, dtype=dtype)

    def _torch_Tensor_to(self, args: Any, kwargs: Any) -> Any:
        types_as_dtypes = tuple(TORCH_DTYPES.get(one, one) if isinstance(one, type) else one for one in args)
        return super()._torch_Tensor_to(types_as_dtypes, kwargs)

    def _handle_tensor_constructor(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Integers and booleans made of nothing traced are constants, wherever the model wants them."""
        device, dtype = kwargs.get("device"), kwargs.get("dtype")
        is_for_jax = device is not None and self._should_use_torchax_tensor(device)
        may_be_constant = dtype is None or not (dtype.is_floating_point or dtype.is_complex)
        given = torch_pytree.tree_leaves((args, {name: value for name, value in kwargs.items() if name != "device"}))
        if not is_for_jax or not may_be_constant or any(is_traced(value) for value in given):
            return super()._handle_tensor_constructor(func, args, kwargs)
        made = _plainly(func, *args, **{**kwargs, "device": "cpu"})
        return _tensor.Tensor(jnp.asarray(to_numpy(made)), self) if made.is_floating_point() else made

    @contextmanager
    def keeping_all(self, is_on: bool) -> Iterator[None]:
        """Let a traced boolean index keep every row, in order.

        Right only where the rows that a mask would drop are padding with a place of its own behind: the caller makes
        as many placeholders as there are rows, and masks them afterwards.
        """
        before, self.keeps_all = self.keeps_all, is_on
        try:
            yield
        finally:
            self.keeps_all = before
            self.constants.clear()


def _masked_scatter(stock: Callable[..., Any], values: Any, mask: Any, source: Any) -> Any:
    """Rows of a source into the places that a constant mask marks, in order.

    torchax counts through the mask of every unit, which XLA folds while compiling (Audio Flamingo 3, two sounds: 69 s).

    Raises:
        ConfigError: if there are more places than the source has values for.
    """
    if not isinstance(mask, np.ndarray):
        return stock(values, mask, source)
    mask = np.broadcast_to(mask, values.shape)
    is_by_row = values.ndim > 1 and bool((mask == mask[..., :1]).all())
    width = values.shape[-1] if is_by_row else 1
    places = np.flatnonzero(mask[..., 0] if is_by_row else mask)
    rows = source.reshape(-1, width)
    if len(rows) < len(places):
        raise ConfigError(
            f"The prompt has {len(places)} media tokens and the encoder makes {len(rows)}: the processor and the network do not "
            "belong together, or image_size is one that this network does not take."
        )
    flat = values.reshape(-1, width)
    return flat.at[places].set(rows[: len(places)].astype(values.dtype)).reshape(values.shape)


def _embedding_bag(ids: Any, table: Any, per_sample_weights: Any = None, mode: str = "sum", **_options: Any) -> Any:
    """Weighted sum of rows of a table. ids (n, k), weights (n, k) -> (n, width); torchax's own lowering is wrong."""
    if mode != "sum" or ids.ndim != 2:
        raise NotImplementedError(f"embedding_bag of mode {mode} over {ids.ndim} axes: only sums over 2 axes are known")
    rows = jnp.asarray(table)[ids]
    return (rows if per_sample_weights is None else rows * per_sample_weights[..., None]).sum(1)


@cache
def environment() -> Bridge:
    """The one environment of the process."""
    return Bridge()


def weights_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What a pure function takes as weights: parameters once each, and floating buffers such as rotary frequencies.

    Other buffers (position ids) are constants of the program.
    """
    buffers = {name: value for name, value in module.named_buffers() if value.is_floating_point()}
    return dict(module.named_parameters()) | buffers


def set_parameter(module: torch.nn.Module, name: str, values: np.ndarray) -> None:
    """Give a module on the meta device one of its parameters."""
    path, _, last = name.rpartition(".")
    is_half = values.dtype == jnp.bfloat16
    tensor = torch.from_numpy(np.array(values.view(np.int16) if is_half else values))
    value = tensor.view(torch.bfloat16) if is_half else tensor
    owner = module.get_submodule(path)
    if last in owner._buffers:
        owner._buffers[last] = value
    else:
        setattr(owner, last, torch.nn.Parameter(value, requires_grad=False))


def as_function(
    module: torch.nn.Module,
    forward: Callable[[dict[str, Any]], Outputs],
    keeps_all: bool = False,
) -> Callable[[Mapping[str, jax.Array], Mapping[str, Any]], dict[str, jax.Array]]:
    """A forward pass as a pure function of weights and inputs.

    Args:
        module: what `forward` calls; its own weights are not used, and may be on the meta device.
        forward: inputs -> named outputs, such as captured layers. Called while tracing.
        keeps_all: see Bridge.keeping_all.
    Returns:
        (weights as `weights_of` names them, traced inputs) -> the named outputs as JAX arrays.
    """
    bridge = environment()

    def function(weights: Mapping[str, jax.Array], inputs: Mapping[str, Any]) -> dict[str, jax.Array]:
        here, given = bridge.j2t_iso((dict(weights), dict(inputs)))
        replaced = stateless._reparametrize_module(module, here, tie_weights=True)
        with warnings.catch_warnings(), bridge, torch.no_grad(), bridge.keeping_all(keeps_all), replaced:
            # Indices are 64-bit in torch and 32-bit here; sequences are far shorter than either.
            warnings.filterwarnings("ignore", "Explicitly requested dtype (int|float)64", UserWarning)
            outputs = {name: _settled(value) for name, value in forward(given).items()}
        return {name: jnp.asarray(value) for name, value in bridge.t2j_iso(outputs).items()}

    return function


def _settled(value: Any) -> Any:
    """A view as the tensor that it shows."""
    return value.torch() if isinstance(value, _tensor.View) else value
