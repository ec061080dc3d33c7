"""Known answers: what each device computes of one small problem, beside packaged float64 numbers, and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxalign.compute import folds
from jaxalign.compute.geometry import Rsa
from jaxalign.compute.ridge import Ridge
from jaxalign.compute.stats import centre, dot
from jaxalign.contracts import Array, Design, Features, Null, Patterns, Responses, Scores
from jaxalign.errors import PrecisionError
from jaxalign.runtime import mesh as devices_of

ANSWERS = Path(__file__).with_name("selfcheck_answers.npz")
N, WIDTH, N_TARGETS, N_CHANNELS, N_TEST, N_INNER, N_PERMUTATIONS = 256, 256, 4, 32, 24, 3, 100
"""Stimuli, units, targets, channels of a pattern, held-out stimuli, inner folds and relabellings of the problem."""

SEED = 4
"""Of the hash: the first from 0 upwards that leaves MARGIN and GAP."""

ALPHAS = (1.0, 10.0, 100.0, 1000.0)
FAMILY = (0, 0, 1, 1)
RIDGE = Ridge(alphas="given", alpha_values=ALPHAS, n_permutations=N_PERMUTATIONS)
READOUT = Ridge(alphas="given", alpha_values=(100.0,), solver="eigh")
"""One penalty, so that no choice stands between the arithmetic and the predictions; compiled in half the time."""

RSA = Rsa(n_folds=0, n_permutations=N_PERMUTATIONS)

MARGIN = 3e-5
"""No permuted score of the problem is nearer to the observed one, nor the criterion of the second best penalty to that of
the best. Two scores that keep the contract differ from their definitions by 2e-5 at most: counts must then be equal."""

GAP = 1.4e-6
"""Entries of one RDM differ by more than this share of its largest: RSA takes nearer ones for ties (`geometry.ROUNDING_EPS`),
and the plain definition does not."""

GRAM_ROWS = 8
"""Every so many rows of the Gram matrix are compared, with all columns: each tile of a matrix unit is met."""


@dataclass(frozen=True)
class Part:
    """One comparison.

    Attributes:
        what, unit: what is compared and the unit of its error, for people.
        allowed: the largest error that keeps the contract.
    """

    what: str
    unit: str
    allowed: float


PARTS = {
    "gram": Part("centred Gram matrix", "of the root of the product of two squared lengths", 1e-5),
    "predictions": Part("ridge predictions of held-out stimuli", "of the target's SD", 1e-4),
    "penalties": Part("chosen penalties", "that differ", 0),
    "ridge scores": Part("r and r2 of held-out stimuli", "absolute", 1e-5),
    "ridge counts": Part("exceedance counts of ridge", "that differ", 0),
    "ridge maxima": Part("family maxima of ridge under each labelling", "absolute", 1e-5),
    "rsa scores": Part("Spearman r of RDMs", "absolute", 1e-5),
    "rsa counts": Part("exceedance counts of RSA", "that differ", 0),
    "rsa maxima": Part("family maxima of RSA under each labelling", "absolute", 1e-5),
}
QUICK = ("gram", "predictions")

ROUNDINGS: dict[str, str] = {
    "highest": "as jaxalign asks for",
    "bf16x3": "three bfloat16 passes, emulated",
    "tf32": "10 bits of mantissa, emulated",
    "bf16": "7 bits of mantissa, emulated",
    "default": "of this device, nothing asked for",
}
"""Ways to multiply float32 matrices."""


# The problem: integers from a hash, scaled by a power of two, so that float32 holds them exactly.


@dataclass(frozen=True)
class Problem:
    """Inputs of the known answers, on the host, float32.

    Attributes:
        features: (n, width), responses: (n, n_targets), patterns: (n, n_channels, n_targets).
        rows: (n_permutations + 1, n_test) int32, the identity first.
        design: one fixed test set, contiguous inner folds.
    """

    features: np.ndarray
    responses: np.ndarray
    patterns: np.ndarray
    rows: np.ndarray
    design: Design


def problem() -> Problem:
    """The one problem; no library's random numbers take part, so it is the same for every version of them."""
    units = _integers(0, 12, N, WIDTH)
    features = units + _integers(1, 11, WIDTH)[None, :]
    weights = np.sign(_integers(2, 8, 6, N_TARGETS))
    noise = _integers(3, 12, N, N_TARGETS) * np.array([1, 3, 9, 27])
    responses = units[:, :6] @ weights + noise
    grain = _integers(4, 12, N, N_CHANNELS, N_TARGETS) * np.array([1, 2, 4, 8])
    patterns = units[:, :N_CHANNELS, None] + grain
    is_test = np.isin(np.arange(N), np.arange(N_TEST) * (N // N_TEST))[None]
    design = folds.design(is_test, N_INNER, 0, shuffle=False, is_fixed_split=True)
    return Problem(_exact(features), _exact(responses), _exact(patterns), _labellings(), design)


def _integers(stream: int, bits: int, *shape: int) -> np.ndarray:
    """Integers of that many bits, about 0, by the mixing function of SplitMix64. -> shape, int64"""
    state = np.arange(1, 1 + math.prod(shape), dtype=np.uint64) + np.uint64((SEED << 40) + (stream << 32))
    state *= np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    top = ((state ^ (state >> np.uint64(31))) >> np.uint64(64 - bits)).astype(np.int64)
    return (top - (1 << (bits - 1))).reshape(shape)


def _exact(whole: np.ndarray) -> np.ndarray:
    """Integers below 2^24, over 1024."""
    assert np.abs(whole).max() < 1 << 24
    return whole.astype(np.float32) / np.float32(1024)


def _labellings() -> np.ndarray:
    order = np.argsort(_integers(5, 48, N_PERMUTATIONS, N_TEST), axis=1, kind="stable")
    return np.concatenate([np.arange(N_TEST)[None], order]).astype(np.int32)


@cache
def answers() -> dict[str, np.ndarray]:
    """The packaged float64 answers; tests/make_selfcheck_answers.py makes them from slow definitions."""
    with np.load(ANSWERS, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


# What runs on the devices. Each device gets the whole problem: a fit along one axis, a tile of targets along the other.


@dataclass(frozen=True)
class CentredGram:
    """Products of centred stimuli, as a step of features: (n_fits, n, n)."""

    precision: str = "highest"

    def features_state(self, features: Features, design: Design, platform: str) -> Array:
        is_row = jnp.ones(features.values.shape[1], bool)
        return jax.lax.map(lambda values: _products(centre(values, is_row), self.precision), features.values)


@dataclass(frozen=True)
class Readout:
    """Predictions of the held-out stimuli, as a step of features: (n_fits, n_outer, n_test, n_targets), in SD."""

    ridge: Ridge

    def features_state(self, features: Features, given: tuple[Responses, Design], platform: str) -> Array:
        responses, design = given
        targets = self.ridge.responses_state(responses, design)
        states = self.ridge.features_state(features, design, platform)
        return jax.lax.map(lambda state: self.ridge.held_out(state, targets, design)[0], states)


def _products(values: Array, precision: str) -> Array:
    """values values' with its factors rounded. (n, p) -> (n, n)

    `reduce_precision` because XLA may leave out a cast to bfloat16 and back.
    """
    if precision == "default":
        return jnp.matmul(values, values.T, precision=jax.lax.Precision.DEFAULT)
    if precision == "highest":
        return dot(values, values.T)
    high = jax.lax.reduce_precision(values, 8, 10 if precision == "tf32" else 7)
    if precision != "bf16x3":
        return dot(high, high.T)
    low = jax.lax.reduce_precision(values - high, 8, 7)
    return dot(high, high.T) + (dot(high, low.T) + dot(low, high.T))


def _blocks(given: Problem, mesh: Mesh) -> tuple[Features, Responses, Patterns]:
    """The problem once per fit and once per tile of the mesh."""
    n_fit, n_tile = devices_of.shape_of(mesh)
    features = np.broadcast_to(given.features, (n_fit, N, WIDTH))
    return (
        Features(np.ascontiguousarray(features), np.full(n_fit, WIDTH, np.int32)),
        Responses(np.tile(given.responses, (1, n_tile))),
        Patterns(np.tile(given.patterns, (1, 1, n_tile))),
    )


def _gram(given: Problem, mesh: Mesh, precision: str = "highest") -> Array:
    features = devices_of.place(mesh, "features", _blocks(given, mesh)[0])
    step = devices_of.features_step(CentredGram(precision), mesh, "features")
    return step(features, devices_of.place(mesh, "shared", given.design))


def _predictions(given: Problem, mesh: Mesh) -> Array:
    features = devices_of.place(mesh, "features", _blocks(given, mesh)[0])
    step = devices_of.features_step(Readout(READOUT), mesh, "features")
    return step(features, devices_of.place(mesh, "shared", (Responses(given.responses), given.design)))


def _scores(metric: Ridge | Rsa, given: Problem, mesh: Mesh) -> tuple[Scores, Array]:
    """Scores and maxima of a metric through its three steps, as a run takes them."""
    features, responses, patterns = _blocks(given, mesh)
    n_tile = devices_of.shape_of(mesh)[1]
    family = np.tile(np.asarray(FAMILY, np.int32), n_tile)
    null = Null(given.rows, np.zeros((N_TARGETS, 0), np.float32), family, 1 + max(FAMILY), False)
    design = devices_of.place(mesh, "shared", given.design)
    other = responses if metric.takes == "responses" else patterns
    ours = devices_of.features_step(metric, mesh, "features")(devices_of.place(mesh, "features", features), design)
    placed = devices_of.place(mesh, metric.takes, other)
    theirs = devices_of.responses_step(metric, mesh, metric.takes)(placed, design)
    score = devices_of.score_step(metric, mesh, null.n_families, null.is_calibrated)
    return score(ours, theirs, design, devices_of.place_null(mesh, null))


# What is found, beside what is known.


def _per_device(array: Array) -> dict[jax.Device, np.ndarray]:
    """The part that each device computed, without axes of length 1, float64."""
    return {
        shard.device: np.squeeze(jax.device_get(shard.data)).astype(np.float64) for shard in array.addressable_shards
    }


Errors = dict[jax.Device, float]


def _largest(array: Array, answer: np.ndarray, unit: np.ndarray | float = 1.0) -> Errors:
    """Largest error in a unit; NaN stays."""
    return {device: float(np.max(np.abs(found - answer) / unit)) for device, found in _per_device(array).items()}


def _n_different(array: Array, answer: np.ndarray, relative: float = 0.0) -> Errors:
    found = _per_device(array)
    return {device: float(np.sum(~(np.abs(one - answer) <= relative * answer))) for device, one in found.items()}


def _gram_errors(array: Array) -> Errors:
    length = np.sqrt(answers()["gram_diagonal"])
    unit = length[::GRAM_ROWS, None] * length[None, :]
    return _largest(array[:, ::GRAM_ROWS], answers()["gram"], unit)


def errors(given: Problem, mesh: Mesh, names: tuple[str, ...] = tuple(PARTS)) -> dict[str, Errors]:
    """Error of each part on each device of the mesh, in the unit of the part.

    Args:
        given: see `problem`; the answers are those of its numbers, whatever was done to them since.
        mesh: devices; all compute at once.
        names: parts of PARTS.
    """
    known = answers()
    found: dict[str, Errors] = {}
    if "gram" in names:
        found["gram"] = _gram_errors(_gram(given, mesh))
    if "predictions" in names:
        found["predictions"] = _largest(_predictions(given, mesh), known["predictions"])
    for name, metric in (("ridge", RIDGE), ("rsa", RSA)):
        if f"{name} scores" in names:
            scores, maxima = _scores(metric, given, mesh)
            found[f"{name} scores"] = _largest(scores.value, known[f"{name}_scores"])
            found[f"{name} counts"] = _n_different(scores.exceed_count, known[f"{name}_counts"])
            found[f"{name} maxima"] = _largest(maxima, known[f"{name}_maxima"])
            if name == "ridge":
                # A geometric mean over folds, by logarithms in float32.
                found["penalties"] = _n_different(scores.alpha, known["penalties"], 1e-4)
    return {name: found[name] for name in PARTS if name in found}


def precisions(mesh: Mesh) -> dict[str, float]:
    """Error of the Gram matrix for each way to multiply, the worst over devices, in the unit of the part "gram"."""
    given = problem()
    return {name: max(_gram_errors(_gram(given, mesh, name)).values()) for name in ROUNDINGS}


def check(mesh: Mesh, change: Callable[[np.ndarray], np.ndarray] | None = None) -> dict[str, Any]:
    """All parts on all devices, and the table of precisions, as JSON values.

    Args:
        mesh: devices.
        change: done to features, responses and patterns before they are placed, to see the check fail.
    """
    return {**_report(errors(_changed(change), mesh)), "precisions": precisions(mesh)}


def quick(mesh: Mesh, change: Callable[[np.ndarray], np.ndarray] | None = None) -> dict[str, Any]:
    """The Gram matrix and the readout on all devices: what a run checks before it starts.

    Args:
        mesh: devices of the run.
        change: see `check`.
    Returns:
        As `check`, without precisions.
    Raises:
        PrecisionError: as `demand`.
    """
    report = _report(errors(_changed(change), mesh, QUICK))
    demand(report)
    return report


def _changed(change: Callable[[np.ndarray], np.ndarray] | None) -> Problem:
    given = problem()
    if change is None:
        return given
    return Problem(change(given.features), change(given.responses), change(given.patterns), given.rows, given.design)


def _report(found: dict[str, Errors]) -> dict[str, Any]:
    devices = list(next(iter(found.values())))
    of_device = [
        {
            "device": str(device),
            "kind": device.device_kind,
            "errors": {name: one[device] for name, one in found.items()},
        }
        for device in devices
    ]
    allowed = {name: PARTS[name].allowed for name in found}
    passed = all(_is_kept(name, one[device]) for name, one in found.items() for device in devices)
    return {"passed": passed, "allowed": allowed, "devices": of_device}


def _is_kept(name: str, error: float) -> bool:
    """Not "above": a NaN is no agreement."""
    return error <= PARTS[name].allowed


def demand(report: dict[str, Any]) -> None:
    """Refuse devices that break the contract.

    Raises:
        PrecisionError: naming the device, the part, the error that was found and that which is allowed.
    """
    broken = [
        (one, name, error)
        for one in report["devices"]
        for name, error in one["errors"].items()
        if not _is_kept(name, error)
    ]
    if not broken:
        return
    one, name, error = broken[0]
    part = PARTS[name]
    n_devices = len({bad["device"] for bad, _, _ in broken})
    raise PrecisionError(
        f"{one['device']} ({one['kind']}): {part.what}: {error:.3g} {part.unit}, and {part.allowed:g} is allowed; {len(broken)} comparisons fail on {n_devices} of {len(report['devices'])} devices. "
        "Results of this machine cannot be trusted. Unset what lowers precision (XLA_FLAGS, NVIDIA_TF32_OVERRIDE, JAX_DEFAULT_MATMUL_PRECISION), try another jaxlib or driver, leave the device out, and see `jaxalign selfcheck` for all errors."
    )


def as_text(report: dict[str, Any]) -> str:
    """The report of `check` as tables."""
    lines = [f"{'error against float64':46s} {'allowed':>8s}  {'found':>8s}  device with the largest"]
    for name, allowed in report["allowed"].items():
        # NaN would lose every comparison.
        worst = max(report["devices"], key=lambda one: (math.isnan(one["errors"][name]), one["errors"][name]))
        error = worst["errors"][name]
        mark = "" if _is_kept(name, error) else "  FAILS"
        lines.append(
            f"{PARTS[name].what:46s} {allowed:8.0e}  {error:8.1e}  {worst['device']}, {PARTS[name].unit}{mark}"
        )
    lines += ["", f"{'Gram matrix by precision':46s} {'allowed':>8s}  {'found':>8s}"]
    bound = f"{PARTS['gram'].allowed:8.0e}"
    lines += [
        f"{name + ', ' + ROUNDINGS[name]:46s} {bound}  {error:8.1e}" for name, error in report["precisions"].items()
    ]
    verdict = "all compute as promised" if report["passed"] else "at least one breaks the contract"
    return "\n".join([*lines, "", f"Devices: {len(report['devices'])} ({report['devices'][0]['kind']}), {verdict}."])
