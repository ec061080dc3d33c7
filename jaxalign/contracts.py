"""The pytrees that rooms exchange (arrays only), the labels that never enter jit, the request of a run, and what a metric offers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import jax
import numpy as np

Array = Any
"""A jax.Array on the devices, a numpy.ndarray of the same shape on the host."""

_pytree = jax.tree_util.register_dataclass


@_pytree
@dataclass(frozen=True)
class Features:
    """A block of fits: pooled activations of several layers, zero padded to one width.

    Attributes:
        values: (n_fits, n_stimuli, width), any unit; columns at and above a fit's own width are zero.
        widths: (n_fits,) int32, the true width of each fit.
    """

    values: Array
    widths: Array


@_pytree
@dataclass(frozen=True)
class Responses:
    """Brain data as regression targets.

    Attributes:
        values: (n_stimuli, n_targets), in the unit of the recording; a target is a channel x time bin, or a voxel.
    """

    values: Array


@_pytree
@dataclass(frozen=True)
class Patterns:
    """Brain data as patterns over channels, from which an RDM per target is made.

    Attributes:
        values: (n_stimuli, n_channels, n_targets), one unit for all channels; a target is a subject x time bin.
    """

    values: Array


@_pytree
@dataclass(frozen=True)
class Rdms:
    """Given dissimilarities, on either side of a metric.

    Attributes:
        values: (n_pairs, n_rdms), the upper triangle row by row (scipy order), without NaN.
    """

    values: Array


@_pytree
@dataclass(frozen=True)
class Folds:
    """Train and test rows of each fold as padded indices, so that every fold has the same static shape.

    Attributes:
        train, test: (..., n_folds, n_train), (..., n_folds, n_test) int32 row indices; padding repeats row 0.
        is_train, is_test: the same shapes, bool, false where padded.
        rest, is_rest: (..., n_folds, n_rest), rows that a fold uses for nothing, such as the gap around a block; None
            without any.
        is_complement: every row is in exactly one of train, test and rest of a fold, so that sums over the training rows
            are those over all rows minus the others.
        is_partition: in addition, the test parts of all folds are disjoint, together are all rows, and nothing rests.
    """

    train: Array
    is_train: Array
    test: Array
    is_test: Array
    rest: Array = None
    is_rest: Array = None
    is_complement: bool = field(default=False, metadata={"static": True})
    is_partition: bool = field(default=False, metadata={"static": True})


@_pytree
@dataclass(frozen=True)
class Design:
    """How rows are used: which score (outer test), which fit, and which choose a penalty (inner test).

    Attributes:
        outer: (n_outer, ...) folds that score.
        inner: (n_outer, n_inner, ...) folds inside each outer fold's training rows.
        rsa_rows: (n_rsa_rows,) int32, the stimuli whose dissimilarities are compared.
        weights: (n_stimuli,), weight of each stimulus when weights are fitted and penalties chosen, such as the number
            of repetitions; 0 leaves a row out. None weighs all alike.
        is_fixed_split: True where the one outer fold is a given test set. Then a permutation relabels the test
            stimuli; otherwise it relabels all responses before anything is fitted.
    """

    outer: Folds
    inner: Folds
    rsa_rows: Array
    weights: Array = None
    is_fixed_split: bool = field(default=False, metadata={"static": True})


@_pytree
@dataclass(frozen=True)
class Null:
    """The labellings shared by every unit of a run, and what is computed per labelling.

    Attributes:
        rows: (n_permutations + 1, n) int32; row 0 is the identity. n counts the stimuli that are relabelled.
        aggregates: (n_targets, n_aggregates), weights of declared aggregates such as the mean over subjects.
        family: (n_targets + n_aggregates,) int32, the family of each cell; -1 for padding.
        n_families: how many families one unit may hold.
        is_calibrated: family maxima run over null-calibrated scores (z); raw scores are right only within one fit
            and one correlation-type statistic.
    """

    rows: Array
    aggregates: Array
    family: Array
    n_families: int = field(default=1, metadata={"static": True})
    is_calibrated: bool = field(default=True, metadata={"static": True})


@_pytree
@dataclass(frozen=True)
class Scores:
    """What a metric says of a block of fits against a tile of targets. Cells are the targets, then the aggregates.

    Attributes:
        value: (n_fits, n_statistics, n_cells); NaN where a target is constant.
        fold_value: (n_fits, n_folds, n_statistics, n_cells), the same before averaging over folds.
        z: (n_fits, n_statistics, n_cells), (value - null mean) / null SD, the observed labelling included.
        exceed_count: (n_fits, n_statistics, n_cells) int32, permutations that reach the observed value.
        maxima: (n_fits, n_statistics, n_families, n_permutations + 1), the family maximum of each labelling.
        alpha: (n_fits, n_targets), geometric mean over outer folds of the chosen penalty; NaN without penalties.
        edge: (n_fits, n_targets) int8, -1 or 1 where a fold chose the lowest or highest candidate; 0 elsewhere.
        validation: (n_fits, n_targets), criterion on the inner folds, mean over outer folds; NaN without.
    """

    value: Array
    fold_value: Array
    z: Array
    exceed_count: Array
    maxima: Array
    alpha: Array
    edge: Array
    validation: Array


class Metric(Protocol):
    """A frozen dataclass with three pure steps; each is compiled once per shape.

    `features_state` is computed once per fit block and used for all targets; `responses_state` once per tile of
    targets and used for all fits.

    Attributes:
        statistics: names of what it scores.
        tail: "greater" or "two-sided".
        takes: the responses it is given, "responses" (targets) or "patterns" (over channels).
        least_width: units that the pattern of a layer, and of the responses, must have.
        takes_rdms: either side may be given RDMs.
        uses_folds: fits weights on training rows; a given test set is then all that is scored and relabelled.
    """

    tail: ClassVar[str]
    takes: ClassVar[str]
    takes_rdms: ClassVar[bool]
    uses_folds: ClassVar[bool]

    @property
    def statistics(self) -> tuple[str, ...]: ...

    @property
    def least_width(self) -> int: ...

    @property
    def n_permutations(self) -> int: ...

    def __hash__(self) -> int: ...

    def features_state(self, features: Any, design: Design, platform: str) -> Any:
        """From Features (or Rdms) of a block of fits, whatever scoring needs of them."""
        ...

    def responses_state(self, responses: Any, design: Design) -> Any:
        """From Responses, Patterns or Rdms of a tile of targets, whatever scoring needs of them."""
        ...

    def score(self, features_state: Any, responses_state: Any, design: Design, null: Null) -> Scores: ...


@dataclass(frozen=True)
class Fit:
    """One layer of one model, by name: the label that belongs to one row block of the bank."""

    model: str
    revision: str
    layer: str
    layer_depth: float
    pooling: str
    width: int

    @property
    def name(self) -> str:
        return f"{self.model}/{self.layer}/{self.pooling}"


@dataclass(frozen=True)
class Recording:
    """Responses of one subject with their labels, on the host.

    Attributes:
        dataset, subject: names.
        stimulus_ids: (n_stimuli,) names, the row order.
        values: (n_stimuli, n_channels, n_time_bins) float32, repetitions averaged.
        channels: channel names.
        starts_s, stops_s: (n_time_bins,) seconds from stimulus onset, half open.
        unit: unit of the values, such as "V".
        n_repetitions: (n_stimuli,) presentations averaged per stimulus.
        is_test: (n_stimuli,) bool, the given test set; all False when the data set has none.
        positions: (n_channels, 3) metres in head coordinates, NaN where unknown.
        is_simulated: True for simulated responses.
        trials: (n_stimuli, n_repetitions, n_channels, n_time_bins) of the test stimuli, or None.
        columns: metadata column name -> (n_stimuli,) values.
        ncsnr: (n_channels, n_time_bins) noise ceiling signal-to-noise ratio that comes with the data, or None.
        lacks: metadata column that these data cannot have -> why, for messages.
    """

    dataset: str
    subject: str
    stimulus_ids: tuple[str, ...]
    values: np.ndarray
    channels: tuple[str, ...]
    starts_s: np.ndarray
    stops_s: np.ndarray
    unit: str
    n_repetitions: np.ndarray
    is_test: np.ndarray
    positions: np.ndarray
    is_simulated: bool = False
    trials: np.ndarray | None = None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)
    ncsnr: np.ndarray | None = None
    lacks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RdmSet:
    """Given RDMs with their labels, on the host: one per subject (a data set) or per layer (a model).

    Attributes:
        stimulus_ids: (n_stimuli,) names.
        names: subject or layer of each RDM.
        values: (n_rdms, n_pairs) upper triangles, scipy order, float32.
    """

    dataset: str
    stimulus_ids: tuple[str, ...]
    names: tuple[str, ...]
    values: np.ndarray
    origin: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class MeshConfig:
    """Devices to use.

    Attributes:
        fit: devices along the fit axis; null takes all devices that `target` leaves.
        target: devices along the target axis; null gives it the devices that have no fits of their own.
        memory_gib: memory that one device may hold; null asks the device, and on a CPU takes half of what is free.
        fits_per_call, targets_per_call: size of the tile that one device computes at a time; null lets the plan choose.
            Results are equal bytes for any number of devices at one tile size.
        host_memory_gib: memory that the process may take on the host; null takes 85 % of what is there.
    """

    fit: int | None = None
    target: int | None = None
    memory_gib: float | None = None
    fits_per_call: int | None = None
    targets_per_call: int | None = None
    host_memory_gib: float | None = None


@dataclass
class DistConfig:
    """Processes of one run. Every process runs the same command; the output folder and the store are shared.

    Attributes:
        mode: "auto" (one process unless a TPU pod, Slurm, Open MPI or Kubernetes started several, or the variables
            JAXALIGN_COORDINATOR, JAXALIGN_N_PROCESSES and JAXALIGN_PROCESS_ID name them), "explicit" (the three
            fields below) or "off".
        coordinator: host:port of process 0.
        n_processes, process_id: how many there are, and which one this is.
        local_device_ids: devices of this machine that the process uses; empty takes all, or what the cluster says.
        initialization_timeout_s: how long processes wait for each other at the start.
        heartbeat_timeout_s: how long after the death of one process the others stop.
    """

    mode: str = "auto"
    coordinator: str = ""
    n_processes: int | None = None
    process_id: int | None = None
    local_device_ids: list[int] = field(default_factory=list)
    initialization_timeout_s: int = 300
    heartbeat_timeout_s: int = 100


@dataclass
class NullConfig:
    """What a permutation may relabel.

    Attributes:
        scheme: "label" (any stimulus), "strata" (only within its category or run), "block" (whole groups of equal
            size), "mismatch" or "circular" (sequences). Where there are no more labellings than permutations asked
            for, all are taken.
        column: metadata column that holds the strata, blocks or sequences.
    """

    scheme: str = "label"
    column: str = ""


@dataclass
class Average:
    """Responses averaged over channels and a window before they are scored, as a target of its own.

    Attributes:
        name: label in the column `channel`.
        channels: channels to average.
        start_s, stop_s: half-open window, seconds after onset.
    """

    name: str = ""
    channels: list[str] = field(default_factory=list)
    start_s: float = 0.0
    stop_s: float = 0.0


@dataclass
class CeilingConfig:
    """Noise ceilings of the scores. They change no score, so that they may be asked for again when all is computed.

    Attributes:
        recipes: names of recipes; the first that a statistic can have stands in its rows, all are in ceilings.parquet.
            "auto" is split_half_spearman_brown_sqrt for responses; for RDMs leave_one_subject_out_rdm, and with one subject
            split_quarter_rdm_two_terms_sqrt.
        normalise: fill the column value_normalised, the score over its ceiling, where that is an estimate above chance.
        n_splits: random splits of the repetitions.
    """

    recipes: list[str] = field(default_factory=lambda: ["auto"])
    normalise: bool = False
    n_splits: int = 20


@dataclass
class RunConfig:
    """One run.

    Attributes:
        name: names the run and its output folder.
        output: folder of results; the same command again does only what is missing.
        seed: of folds, permutations and ceilings.
        model, metric: entries by name.
        dataset: one data set.
        subject: names of the subjects to score; empty takes all.
        stimuli: stimulus set, for data sets that do not bring their own.
        score: metric name -> names of the models it scores; a metric that is not named scores all.
        averages: declared averages of responses.
        n_permutations: of every metric; null keeps each metric's own.
        null: what a permutation may relabel.
        ceiling: noise ceilings.
        store: folder of extracted activations, shared by runs.
        mesh: devices.
        dist: processes.
        profile: "none", or "trace" to write a trace for xprof and Perfetto into the output folder.
        report: write figures and the report.
        force: discard results of this output folder and compute everything.
        precision: of every matrix product.
    """

    name: str = "run"
    output: str = "outputs/${name}"
    seed: int = 0
    model: dict[str, Any] = field(default_factory=dict)
    metric: dict[str, Any] = field(default_factory=dict)
    dataset: Any = None
    subject: Any = None
    stimuli: Any = None
    score: dict[str, list[str]] = field(default_factory=dict)
    averages: list[Average] = field(default_factory=list)
    n_permutations: int | None = None
    null: NullConfig = field(default_factory=NullConfig)
    ceiling: CeilingConfig = field(default_factory=CeilingConfig)
    store: str = "outputs/store"
    mesh: MeshConfig = field(default_factory=MeshConfig)
    dist: DistConfig = field(default_factory=DistConfig)
    profile: str = "none"
    report: bool = True
    force: bool = False
    precision: str = "highest"


@dataclass(frozen=True)
class Sound:
    """One decoded sound, on the host.

    Attributes:
        values: (n_samples,) float32, channels averaged; 1 is full scale of the file.
        rate_hz: samples per second.
    """

    values: np.ndarray
    rate_hz: int

    @property
    def duration_s(self) -> float:
        """Seconds from the first sample to the end of the last."""
        return len(self.values) / self.rate_hz
