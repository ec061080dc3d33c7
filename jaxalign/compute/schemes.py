"""Which relabelling is a valid null under which cross-validation, and relabellings that keep groups together."""

import numpy as np

from jaxalign.errors import nearest

SCHEMES = ("test_stimuli", "responses")
"""test_stimuli relabels held-out stimuli, weights unchanged; responses permutes response rows before any fit."""

CROSS_VALIDATIONS = ("fixed_split", "k_fold", "nested", "leave_one_out", "groups", "runs")


def default_scheme(is_fixed_split: bool) -> str:
    """Cheapest null that is valid for the cross-validation: test_stimuli for a given test set, else responses."""
    return "test_stimuli" if is_fixed_split else "responses"


def check_scheme(scheme: str, cv: str) -> None:
    """Refuse a null that is too narrow for its cross-validation.

    When every stimulus is held out in one fold and fits the weights of the others, a pair of stimuli enters the score
    from both sides and fold scores are correlated. Relabelling held-out stimuli breaks that tie in the null but not in
    the observed score, so the null has about half the variance that it should have.

    Args:
        scheme: "test_stimuli" or "responses".
        cv: "fixed_split", or a cross-validation in which each stimulus is both trained on and tested: "k_fold",
            "nested", "leave_one_out", "groups" or "runs".
    Raises:
        ValueError: if a name is unknown, or held-out stimuli would be relabelled under anything but a fixed split.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"scheme={scheme!r} is not a null. {nearest(scheme, SCHEMES)}")
    if cv not in CROSS_VALIDATIONS:
        raise ValueError(f"cv={cv!r} is not a cross-validation. {nearest(cv, CROSS_VALIDATIONS)}")
    if scheme == "test_stimuli" and cv != "fixed_split":
        raise ValueError(
            f"scheme='test_stimuli' with cv={cv!r}: training sets overlap and each held-out score shares data with the others, so relabelling held-out stimuli has a false positive rate of .098 to .124 at .05 in simulation. Use scheme='responses', which permutes the responses before fitting, with the same decomposition and penalties chosen anew (.037 to .060)."
        )


def group_labellings(groups: np.ndarray, n_permutations: int, seed: int) -> np.ndarray:
    """Relabellings that move whole groups and keep the order within each.

    Labelling i depends on (seed, scheme, n_groups, i) alone. Stimulus k of a group takes the place of stimulus k of
    another, in row order.

    Args:
        groups: (n_rows,) labels, such as the sentence of each word or the concept of each picture.
        n_permutations: random labellings beside the observed one.
        seed: integer.
    Returns:
        (n_permutations + 1, n_rows) int32; row 0 is the identity.
    Raises:
        ValueError: if groups differ in size, or there are fewer than 2.
    """
    groups = np.asarray(groups)
    _, member, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    n_groups = len(sizes)
    if n_groups < 2:
        raise ValueError(f"{n_groups} group of {len(groups)} stimuli: whole groups trade places, so 2 are needed.")
    if sizes.min() != sizes.max():
        found = ", ".join(
            f"{count} of size {size}" for size, count in zip(*np.unique(sizes, return_counts=True), strict=True)
        )
        raise ValueError(
            f"{n_groups} groups differ in size ({found}): whole groups trade places only when all have the same size. Give groups of one size, or leave out the others."
        )
    members = np.argsort(member, kind="stable").reshape(n_groups, sizes[0])
    rows = np.empty((n_permutations + 1, len(groups)), np.int32)
    rows[0] = np.arange(len(groups))
    for index in range(1, n_permutations + 1):
        key = np.random.SeedSequence([seed, 0x6209B, n_groups, index])
        rows[index, members] = members[np.random.Generator(np.random.Philox(key)).permutation(n_groups)]
    return rows
