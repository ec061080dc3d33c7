"""RDMs of many patterns at once: over time, per channel or group, in searchlights, and between two times."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxalign.compute.crossnobis import crossnobis
from jaxalign.compute.distances import dissimilarities, distance_name
from jaxalign.compute.stats import dot


def bin_times(values: jax.Array, bins: Sequence[Sequence[int]]) -> jax.Array:
    """Mean of the time points of each bin; bins may overlap and differ in length.

    Args:
        values: (..., n_times), any unit.
        bins: for each bin, the indices of its time points.
    Returns:
        (..., n_bins), in the unit of the values.
    Raises:
        ValueError: if a bin is empty or names a time that is not there.
    """
    n_times = values.shape[-1]
    share = np.zeros((n_times, len(bins)), values.dtype)
    for place, times in enumerate(bins):
        wrong = [int(time) for time in times if not 0 <= time < n_times]
        if len(times) == 0 or wrong:
            raise ValueError(
                f"Bin {place} holds {len(times)} time points, of which {wrong} are not among 0 to {n_times - 1}: a bin needs at least one, by index."
            )
        np.add.at(share[:, place], np.asarray(times), 1 / len(times))
    flat = dot(values.reshape(-1, n_times), jnp.asarray(share))
    return flat.reshape(*values.shape[:-1], len(bins))


def rdm_movie(
    values: jax.Array,
    distance: str = "correlation",
    *,
    radius: int = 0,
    is_unit: jax.Array | None = None,
    precision: jax.Array | None = None,
    is_per_channel: bool = False,
) -> jax.Array:
    """One RDM per time, of the channels at all time points of a window around it.

    Args:
        values: (n_stimuli, n_channels, n_times), one unit for all channels; `bin_times` bins them first.
        distance: a name in DISTANCES or an alias of one.
        radius: time points on either side that belong to the window; mne-rsa calls it temporal_radius.
        is_unit: (n_stimuli, n_channels, n_times) bool, false where a measurement is missing.
        precision: (n_channels, n_channels) of mahalanobis; each time point of a window is taken under it.
        is_per_channel: divide sums by the number of channels times the points of a window.
    Returns:
        (n_pairs, n_times - 2 * radius), at the times radius, ..., n_times - 1 - radius.
    Raises:
        ValueError: if a window is longer than the data, or as `dissimilarities`.
    """
    n_stimuli, n_channels, n_times = values.shape
    length = _window_length(radius, n_times)
    if precision is not None:
        precision = jnp.kron(precision, jnp.eye(length, dtype=precision.dtype))
    width = jnp.asarray(n_channels * length, jnp.int32)

    def window(array: jax.Array, start: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(array, start, length, axis=2).reshape(n_stimuli, -1)

    def at(start: jax.Array) -> jax.Array:
        mask = None if is_unit is None else window(is_unit, start)
        options = {"is_unit": mask, "precision": precision}
        return dissimilarities(window(values, start), width, distance, is_per_channel=is_per_channel, **options)

    return jax.lax.map(at, jnp.arange(n_times - length + 1)).T


def _window_length(radius: int, n_times: int) -> int:
    if radius < 0 or 2 * radius + 1 > n_times:
        raise ValueError(
            f"radius={radius} makes windows of {2 * radius + 1} time points and the data have {n_times}: use a radius from 0 to {(n_times - 1) // 2}."
        )
    return 2 * radius + 1


# Searchlights, channels and groups.


@dataclass(frozen=True, eq=False)
class Patches:
    """Which measurements make each RDM.

    Attributes:
        index: (n_patches, size) int32, positions in channels x times, channel by channel; padded at the end with 0.
        is_member: (n_patches, size) bool, false where padded.
        shape: (n_centres, n_times'), or (n_centres,) where a patch spans all times; n_patches is their product.
        n_measurements: n_channels * n_times of the data that the patches are of.
    """

    index: np.ndarray
    is_member: np.ndarray
    shape: tuple[int, ...]
    n_measurements: int


def searchlight(neighbours: np.ndarray, n_times: int, radius: int | None = None) -> Patches:
    """Patches of every channel with its neighbours, at every time whose window lies in the data.

    The identity as neighbours gives one RDM per channel.

    Args:
        neighbours: (n_channels, n_channels) bool, the montage's adjacency; a channel is always part of its own patch.
        n_times: time points of the data.
        radius: time points on either side of the centre; None takes all times into one patch.
    Returns:
        Patches of shape (n_channels, n_times - 2 * radius), or (n_channels,) without a radius.
    Raises:
        ValueError: if neighbours is not square, or a window is longer than the data.
    """
    neighbours = np.asarray(neighbours, bool)
    if neighbours.ndim != 2 or neighbours.shape[0] != neighbours.shape[1]:
        raise ValueError(f"neighbours has shape {neighbours.shape}: it must be (n_channels, n_channels).")
    return groups(neighbours | np.eye(len(neighbours), dtype=bool), n_times, radius)


def groups(members: np.ndarray, n_times: int, radius: int | None = None) -> Patches:
    """Patches of groups of channels, such as regions, at every time whose window lies in the data.

    Args:
        members: (n_groups, n_channels) bool; groups may overlap.
        n_times: time points of the data.
        radius: time points on either side of the centre; None takes all times into one patch.
    Returns:
        Patches of shape (n_groups, n_times - 2 * radius), or (n_groups,) without a radius.
    Raises:
        ValueError: if a group is empty, or a window is longer than the data.
    """
    members = np.asarray(members, bool)
    if not members.any(1).all():
        raise ValueError(f"Group {int(members.any(1).argmin())} of {len(members)} has no channel. Leave it out.")
    length = n_times if radius is None else _window_length(radius, n_times)
    starts, window = np.arange(n_times - length + 1), np.arange(length)
    size = int(members.sum(1).max()) * length
    index = np.zeros((len(members), len(starts), size), np.int32)
    is_member = np.zeros(index.shape, bool)
    for group, row in enumerate(members):
        channels = np.flatnonzero(row)
        found = channels[None, :, None] * n_times + starts[:, None, None] + window[None, None, :]
        index[group, :, : found[0].size] = found.reshape(len(starts), -1)
        is_member[group, :, : found[0].size] = True
    shape = (len(members),) if radius is None else (len(members), len(starts))
    return Patches(index.reshape(-1, size), is_member.reshape(-1, size), shape, members.shape[1] * n_times)


def searchlight_rdms(
    values: jax.Array,
    patches: Patches,
    distance: str = "correlation",
    *,
    is_unit: jax.Array | None = None,
    is_per_channel: bool = False,
    patches_per_chunk: int = 8,
) -> jax.Array:
    """One RDM per patch, a few patches at a time. Noise is normalised before: `values` whitened, or divided by its SD.

    Args:
        values: (n_stimuli, n_channels, n_times), one unit for all channels.
        patches: from `searchlight` or `groups`.
        distance: a name in DISTANCES or an alias of one; "difference" or "euclidean" for patches of one measurement.
        is_unit: (n_stimuli, n_channels, n_times) bool, false where a measurement is missing.
        is_per_channel: divide sums by the number of measurements of the patch.
        patches_per_chunk: patches computed at a time.
    Returns:
        (n_pairs, n_patches); reshape the last axis to `patches.shape`.
    Raises:
        ValueError: if the patches are of other data, a patch has one measurement and the distance needs two, or as
            `dissimilarities`.
    """
    _check_patches(values, patches, distance)
    flat = values.reshape(values.shape[0], -1)
    flat_is_unit = None if is_unit is None else is_unit.reshape(flat.shape)

    def of_patch(patch: tuple[jax.Array, jax.Array]) -> jax.Array:
        index, is_member = patch
        found = jnp.where(is_member[None, :], flat[:, index], 0)
        mask = None if flat_is_unit is None else flat_is_unit[:, index]
        width = jnp.sum(is_member, dtype=jnp.int32)
        return dissimilarities(found, width, distance, is_unit=mask, is_per_channel=is_per_channel)

    chunk = min(patches_per_chunk, len(patches.index))
    return jax.lax.map(of_patch, (jnp.asarray(patches.index), jnp.asarray(patches.is_member)), batch_size=chunk).T


def _check_patches(values: jax.Array, patches: Patches, distance: str) -> None:
    n_measurements = values.shape[1] * values.shape[2]
    if n_measurements != patches.n_measurements:
        raise ValueError(
            f"The patches are of {patches.n_measurements} measurements per stimulus and values has {n_measurements} ({values.shape[1]} channels x {values.shape[2]} times)."
        )
    name, sizes = distance_name(distance), patches.is_member.sum(1)
    if name in ("correlation", "cosine") and sizes.min() < 2:
        raise ValueError(
            f"Patch {int(sizes.argmin())} has a single measurement and {name} needs at least 2. Use distance='difference' or 'euclidean', or a longer window."
        )


# Across partitions.


def crossnobis_movie(
    patterns: jax.Array,
    is_present: jax.Array | None = None,
    precision: jax.Array | None = None,
    *,
    is_per_channel: bool = True,
) -> jax.Array:
    """One `crossnobis` RDM per time.

    Args:
        patterns: (n_partitions, n_stimuli, n_channels, n_times), any unit.
        is_present: (n_partitions, n_stimuli) bool; None when all are.
        precision: (n_channels, n_channels) for all times, or (n_times, n_channels, n_channels).
        is_per_channel: divide by the number of channels.
    Returns:
        (n_pairs, n_times), signed.
    Raises:
        ValueError: as `crossnobis`.
    """
    at_times = jnp.moveaxis(patterns, 3, 0)
    precisions = precision if precision is not None and precision.ndim == 3 else None

    def at(time: tuple[jax.Array, jax.Array | None]) -> jax.Array:
        own = precision if time[1] is None else time[1]
        return crossnobis(time[0], is_present, own, is_per_channel=is_per_channel)

    return jax.lax.map(at, (at_times, precisions)).T


def generalisation_rdms(
    patterns: jax.Array,
    is_present: jax.Array | None = None,
    precision: jax.Array | None = None,
    *,
    is_per_channel: bool = True,
) -> jax.Array:
    """Temporal generalisation: does what tells two stimuli apart at one time tell them apart at another?

    The mean over ordered pairs of different partitions a, b of (x_i^a - x_j^a)(t1) P (x_i^b - x_j^b)(t2)': `crossnobis`
    where t1 is t2. Both orders of every two partitions are in it, so it is symmetric in t1 and t2; each pair of times
    is computed once. Negative where the difference between two stimuli turns around.

    Args:
        patterns: (n_partitions, n_stimuli, n_channels, n_times), any unit.
        is_present: (n_partitions, n_stimuli) bool; None when all are.
        precision: (n_channels, n_channels) inverse noise covariance, symmetric; None is the identity.
        is_per_channel: divide by the number of channels.
    Returns:
        (n_pairs, n_times, n_times), signed; n_pairs * n_times^2 values are kept.
    Raises:
        ValueError: as `crossnobis`.
    Source: King & Dehaene 2014, Trends Cogn. Sci. 18:203.
    """
    n_times = patterns.shape[3]
    at_times = jnp.moveaxis(patterns, 3, 0)
    first, second = np.triu_indices(n_times)
    place = np.zeros((n_times, n_times), np.int32)
    place[first, second] = place[second, first] = np.arange(len(first))

    def between(times: tuple[jax.Array, jax.Array]) -> jax.Array:
        one, other = at_times[times[0]], at_times[times[1]]
        return crossnobis(one, is_present, precision, other=other, is_per_channel=is_per_channel)

    return jax.lax.map(between, (jnp.asarray(first), jnp.asarray(second))).T[:, place]
