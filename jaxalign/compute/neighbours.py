"""Which cells touch, on montages, time and layers, and which are connected through cells that touch."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


def neighbours_of(adjacency: np.ndarray) -> np.ndarray:
    """Turn a table of which cells touch into a list of neighbours.

    Args:
        adjacency: (n_cells, n_cells) bool, symmetric; the diagonal does not matter.
    Returns:
        (n_cells, max_degree) int32, rows filled up with the cell itself; at least one column.
    Raises:
        ValueError: if it is not square and symmetric.
    """
    adjacency = np.asarray(adjacency)
    if adjacency.ndim != 2 or adjacency.shape[0] != adjacency.shape[1]:
        raise ValueError(f"adjacency has shape {adjacency.shape}: give (n_cells, n_cells) of true and false.")
    touches = adjacency.astype(bool) & ~np.eye(len(adjacency), dtype=bool)
    n_one_way = int(np.count_nonzero(touches & ~touches.T))
    if n_one_way:
        raise ValueError(
            f"{n_one_way} cells have a neighbour that does not have them: give `adjacency | adjacency.T` if either is enough."
        )
    cells, others = np.nonzero(touches)
    degree = np.bincount(cells, minlength=len(touches))
    listed = np.tile(np.arange(len(touches), dtype=np.int32)[:, None], (1, max(1, degree.max(initial=0))))
    listed[cells, np.arange(len(cells)) - np.repeat(np.cumsum(degree) - degree, degree)] = others
    return listed


def grid_neighbours(adjacency: np.ndarray | None, n_times: int) -> np.ndarray:
    """Neighbours on channels times time: the same channel one time bin away, and adjacent channels at the same time.

    Args:
        adjacency: (n_channels, n_channels) bool, of the montage; None for one row of time bins.
        n_times: time bins.
    Returns:
        (n_channels * n_times, max_degree) int32; cell channel * n_times + time, as responses are laid out.
    Raises:
        ValueError: as `neighbours_of`, or without time bins.
    """
    if n_times < 1:
        raise ValueError(f"n_times={n_times}: give at least one time bin.")
    space = neighbours_of(np.zeros((1, 1), bool) if adjacency is None else adjacency)
    times = np.arange(n_times, dtype=np.int32)
    steps = np.stack([np.maximum(times - 1, 0), np.minimum(times + 1, n_times - 1)], axis=1)
    own = np.arange(len(space), dtype=np.int32) * n_times
    before_and_after = own[:, None, None] + np.where(steps == times[:, None], times[:, None], steps)[None]
    beside = space[:, None, :] * n_times + times[None, :, None]
    return np.concatenate([before_and_after, beside], axis=2).reshape(len(space) * n_times, -1).astype(np.int32)


def layer_neighbours(model_of_layer: Sequence[str], n_times: int) -> np.ndarray:
    """Neighbours on layers times time: the next and the last layer of the same model, and one time bin away.

    A cluster never runs from one model into another: what touches what between models would be arbitrary.

    Args:
        model_of_layer: (n_layers,), the model and part that each layer belongs to, its layers in their order.
        n_times: time bins.
    Returns:
        (n_layers * n_times, max_degree) int32; cell layer * n_times + time.
    Raises:
        ValueError: without layers or time bins.
    """
    if not len(model_of_layer):
        raise ValueError("model_of_layer is empty: name the model of every layer.")
    adjacency = np.zeros((len(model_of_layer),) * 2, bool)
    last: dict[str, int] = {}
    for layer, model in enumerate(model_of_layer):
        if model in last:
            adjacency[layer, last[model]] = adjacency[last[model], layer] = True
        last[model] = layer
    return grid_neighbours(adjacency, n_times)


# Connected cells.


def connected(side: jax.Array, neighbours: jax.Array, labels: jax.Array | None = None) -> jax.Array:
    """Label the connected cells of one side by their smallest index.

    Labels are pointers that are shortened as they spread, so that a chain takes rounds in the logarithm of its length.

    Args:
        side: (n_cells,) integers; 0 is outside, and only cells of one side connect.
        neighbours: (n_cells, max_degree) int32, filled up with the cell itself.
        labels: (n_cells,) int32, indices of cells already known to be connected to each; None for none.
    Returns:
        (n_cells,) int32; outside, the cell's own index.
    """
    own = jnp.arange(side.shape[0], dtype=jnp.int32)
    linked = (side[neighbours] == side[:, None]) & (side != 0)[:, None]
    near = jnp.where(linked, neighbours, own[:, None])

    def spread(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        pointer, _ = state
        further = pointer[pointer]
        lowest = jnp.min(further[near], axis=1)
        # The cell pointed to learns what any of its followers has found: without it, news would walk one cell a round.
        found = pointer.at[pointer].min(lowest)
        found = jnp.minimum(jnp.minimum(found, lowest), further)
        return found, jnp.any(found != pointer)

    start = own if labels is None else labels
    return jax.lax.while_loop(lambda state: state[1], spread, (start, jnp.array(True)))[0]
