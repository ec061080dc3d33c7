"""Devices: the mesh, what is split over which axis, explicit transfers and the cache of compiled steps. Only this file names an axis."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxalign.contracts import MeshConfig, Metric, Null, Scores
from jaxalign.errors import ConfigError

FIT, TARGET = "fit", "target"

LAYOUT = {
    "features": P(FIT),
    "rdm_features": P(None, FIT),
    "responses": P(None, TARGET),
    "patterns": P(None, None, TARGET),
    "family": P(TARGET),
    "shared": P(),
}
"""What is split over what: features over fits, responses over targets, everything else is on every device."""

SAME_FOR_ANY_NUMBER = {"xla_disable_hlo_passes": "cse"}
"""XLA removes common subexpressions earlier in a program for several devices than in one for a single device, then fuses
other operations, and the last bits differ (ridge, by 2e-6). Without that pass both programs are the same."""


def make_mesh(config: MeshConfig) -> Mesh:
    """The mesh over all devices of this process, or over as many as the configuration asks for.

    Each process computes on its own devices: units need nothing from each other, so no process waits for another.

    Raises:
        ConfigError: if more devices are asked for than there are.
    """
    devices = jax.local_devices()
    n_target = config.target if config.target is not None else 1
    n_fit = config.fit if config.fit is not None else max(1, len(devices) // max(1, n_target))
    if n_fit < 1 or n_target < 1 or n_fit * n_target > len(devices):
        raise ConfigError(
            f"mesh.fit={n_fit} x mesh.target={n_target} needs {n_fit * n_target} devices; there are {len(devices)} ({devices[0].platform})."
        )
    return _mesh_of(np.asarray(devices[: n_fit * n_target]).reshape(n_fit, n_target))


def _mesh_of(grid: np.ndarray) -> Mesh:
    return Mesh(grid, (FIT, TARGET), axis_types=(AxisType.Auto, AxisType.Auto))


def arranged(mesh: Mesh, config: MeshConfig, n_blocks: int, n_tiles: int) -> Mesh:
    """The mesh for that many blocks of fits and tiles of targets: devices without fits would score padding.

    Where the configuration leaves the target axis open, devices without fits share the tiles. What one device computes
    stays the same, and so do the bytes of its results.
    """
    n_fit, n_target = shape_of(mesh)
    kept = max(1, min(n_fit, n_blocks))
    if config.target is not None:
        return _mesh_of(mesh.devices[:kept])
    n_target = max(1, min(mesh.devices.size // kept, n_tiles))
    return _mesh_of(mesh.devices.reshape(-1)[: kept * n_target].reshape(kept, n_target))


def column(mesh: Mesh) -> Mesh:
    """One device for each place on the fit axis: where features are decomposed, once, whatever the targets are split over."""
    return _mesh_of(mesh.devices[:, :1])


def spread(mesh: Mesh, features_state: Any) -> Any:
    """What was made of features on a column of the mesh, copied to the devices beside it."""
    if shape_of(mesh)[1] == 1:
        return features_state
    return jax.device_put(features_state, NamedSharding(mesh, P(FIT)))


def platform_of(mesh: Mesh) -> str:
    """Platform whose routines the kernels use: cpu, cuda or tpu."""
    platform = mesh.devices.flat[0].platform
    return "cuda" if platform == "gpu" else platform


def shape_of(mesh: Mesh) -> tuple[int, int]:
    """Devices along the fit axis and along the target axis."""
    return mesh.shape[FIT], mesh.shape[TARGET]


def place(mesh: Mesh, layout: str, tree: Any) -> Any:
    """Move host arrays to the devices, laid out by name; the only way data go there."""
    return jax.device_put(tree, NamedSharding(mesh, LAYOUT[layout]))


def place_null(mesh: Mesh, null: Null) -> Null:
    """A null on the devices: labellings and aggregates everywhere, families with their targets.

    Labellings that are there already are not moved again.
    """
    specs = Null(LAYOUT["shared"], LAYOUT["shared"], LAYOUT["family"], null.n_families, null.is_calibrated)
    return jax.tree.map(lambda array, spec: jax.device_put(array, NamedSharding(mesh, spec)), null, specs)


@cache
def features_step(metric: Metric, mesh: Mesh, layout: str) -> Any:
    """Compiled `metric.features_state` of a block of fits, each device on its own fits."""
    step = partial(metric.features_state, platform=platform_of(mesh))
    return _compiled(step, mesh, (LAYOUT[layout], P()), P(FIT))


@cache
def responses_step(metric: Metric, mesh: Mesh, layout: str) -> Any:
    """Compiled `metric.responses_state` of a tile of targets, each device on its own targets."""
    # Regression targets stay as large as they are, so their buffer can be given away; RDMs are larger than patterns.
    given_away = (0,) if layout == "responses" else ()
    return _compiled(metric.responses_state, mesh, (LAYOUT[layout], P()), P(None, TARGET), given_away)


@cache
def score_step(metric: Metric, mesh: Mesh, n_families: int, is_calibrated: bool) -> Any:
    """Compiled `metric.score`: each device scores its fits against its targets; nothing crosses devices."""

    def local(features_state: Any, responses_state: Any, design: Any, null: Null) -> tuple[Scores, jax.Array]:
        scores = metric.score(features_state, responses_state, design, null)
        # Maxima get an axis for the tiles that lie side by side; the rest joins on the target axis.
        return replace(scores, maxima=jnp.zeros(0, scores.value.dtype)), scores.maxima[:, None]

    cell, fold = P(FIT, None, TARGET), P(FIT, None, None, TARGET)
    out = Scores(cell, fold, cell, cell, P(), P(FIT, TARGET), P(FIT, TARGET), P(FIT, TARGET))
    null_spec = Null(P(), P(), P(TARGET), n_families, is_calibrated)
    specs = (P(FIT), P(None, TARGET), P(), null_spec)
    return _compiled(local, mesh, specs, (out, P(FIT, TARGET)))


def _compiled(function: Any, mesh: Mesh, in_specs: Any, out_specs: Any, given_away: tuple[int, ...] = ()) -> Any:
    """The function on each device's own part, compiled to the same arithmetic for any number of devices."""
    # check_vma=True cannot lower eigh above 256 and any svd for TPU (loop carries change type).
    local = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
    options = None if platform_of(mesh) == "tpu" else SAME_FOR_ANY_NUMBER
    return jax.jit(local, compiler_options=options, donate_argnums=given_away)


# Forward passes of networks

STIMULUS, WEIGHT = "stimulus", "weight"
REPLICATED_SHARE = 0.5
"""Of a device's memory: weights up to it are on every device, which then computes its own stimuli; others are split."""


@dataclass(frozen=True)
class Replicated:
    """Every device holds all weights and computes its own part of a batch: the same numbers for any number of devices."""

    mesh: Mesh

    @property
    def n_parallel(self) -> int:
        """Parts of a batch."""
        return self.mesh.devices.size

    def weight(self, _name: str, values: np.ndarray) -> jax.Array:
        """A parameter on every device."""
        return jax.device_put(values, NamedSharding(self.mesh, P()))

    def batch(self, tree: Any) -> Any:
        """Inputs split over devices by stimulus."""
        return jax.device_put(tree, NamedSharding(self.mesh, P(STIMULUS)))

    def compiled(self, function: Any) -> Any:
        """The function on each device's own stimuli."""
        specs = (P(), P(STIMULUS))
        return _compiled(function, self.mesh, specs, P(STIMULUS))


@dataclass(frozen=True)
class Sharded:
    """Weights split over all devices, each along its longest axis that divides; every device sees the whole batch.

    The compiler gathers what a layer needs. Sums may be split, so the last digits can differ from those of one device.
    """

    mesh: Mesh

    n_parallel = 1

    def weight(self, _name: str, values: np.ndarray) -> jax.Array:
        """A parameter, split over devices."""
        return jax.device_put(values, NamedSharding(self.mesh, self.split(values.shape)))

    def split(self, shape: tuple[int, ...]) -> P:
        """Over which axis a parameter of this shape is split."""
        n_devices = self.mesh.devices.size
        axes = [axis for axis, size in enumerate(shape) if size % n_devices == 0 and size >= n_devices]
        chosen = max(axes, key=lambda axis: shape[axis]) if axes else None
        return P(*(WEIGHT if axis == chosen else None for axis in range(len(shape))))

    def batch(self, tree: Any) -> Any:
        """Inputs on every device."""
        return jax.device_put(tree, NamedSharding(self.mesh, P()))

    def compiled(self, function: Any) -> Any:
        """The function as one program over all devices; rows come back on every device."""
        return jax.jit(function, out_shardings=NamedSharding(self.mesh, P()))


def placement(config: MeshConfig, device_bytes: int, n_weight_bytes: int) -> Replicated | Sharded:
    """Where a network runs, by the bytes of its weights.

    Args:
        config: which devices.
        device_bytes: memory that one device may hold.
        n_weight_bytes: of all weights together.
    """
    devices = make_mesh(config).devices.reshape(-1)
    if len(devices) > 1 and n_weight_bytes > REPLICATED_SHARE * device_bytes:
        return Sharded(Mesh(devices, (WEIGHT,), axis_types=(AxisType.Auto,)))
    return Replicated(Mesh(devices, (STIMULUS,), axis_types=(AxisType.Auto,)))
