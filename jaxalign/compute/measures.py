"""What each similarity measure is: its definition, its range, what leaves it unchanged, and where its mean lies on noise."""

from __future__ import annotations

from dataclasses import dataclass

from jaxalign.errors import nearest


@dataclass(frozen=True)
class Measure:
    """A similarity of two sets of patterns over the same stimuli; higher is more similar, for every one.

    Attributes:
        base: matrix that is made of the patterns of one side.
        transform: what is done to that matrix before the inner product.
        packing: of the transformed matrices, for measures of the form <A, P B P'>; None for the others.
        low, high: range.
        unchanged_by: what may be done to either side without a change: "translation" of all patterns, "scale" of all
            values by one positive factor, "rotation" (and reflection) of the features, "feature scale" of each feature.
        is_biased: noise does not score 0 on average, and the mean depends on width and number of stimuli; scores are
            then compared between layers, models or subjects only as z, against their own null.
        is_root: the score is the root of the inner product.
        same_as: another name with the same value.
    """

    base: str
    transform: str
    packing: str | None
    low: float
    high: float
    unchanged_by: tuple[str, ...]
    is_biased: bool
    is_root: bool = False
    same_as: str | None = None

    @property
    def is_trace_form(self) -> bool:
        """Whether all labellings are one gather and one matrix product."""
        return self.packing is not None


_TURNED = ("translation", "scale", "rotation")
_INFINITE = float("inf")

MEASURES = {
    "cka": Measure("gram", "unit u-centred", "triangle", -1, 1, _TURNED, False),
    "cka_rbf": Measure("rbf", "unit u-centred", "triangle", -1, 1, _TURNED, False),
    "cka_biased": Measure("gram", "unit centred", "gram", 0, 1, _TURNED, True, same_as="rv"),
    "cka_rbf_biased": Measure("rbf", "unit centred", "gram", 0, 1, _TURNED, True),
    "rv": Measure("gram", "unit centred", "gram", 0, 1, _TURNED, True, same_as="cka_biased"),
    "hsic": Measure("raw gram", "u-centred", "triangle", -_INFINITE, _INFINITE, ("translation", "rotation"), False),
    "hsic_rbf": Measure("rbf", "u-centred", "triangle", -1, 1, _TURNED, False),
    "hsic_biased": Measure("raw gram", "centred", "gram", 0, _INFINITE, ("translation", "rotation"), True),
    "hsic_rbf_biased": Measure("rbf", "centred", "gram", 0, 1, _TURNED, True),
    "dcor_debiased": Measure("distances", "unit u-centred", "triangle", -1, 1, _TURNED, False),
    "dcor": Measure("distances", "unit centred", "gram", 0, 1, _TURNED, True, is_root=True),
    "dcor_squared": Measure("distances", "unit centred", "gram", 0, 1, _TURNED, True),
    "mutual_knn": Measure("cosine", "neighbours", "full", 0, 1, ("scale", "rotation"), True),
    "cknna": Measure("cosine", "neighbourhood", None, -_INFINITE, _INFINITE, ("scale", "rotation"), True),
    "mi_gaussian": Measure("columns", "columns", None, 0, 8.06, ("translation", "scale", "feature scale"), True),
    "procrustes": Measure("shape", "shape", None, 0, 1, _TURNED, True),
}
"""Name -> definition. `dcor_debiased` is the bias-corrected squared distance correlation of Szekely & Rizzo 2014."""

ALIASES = {
    "cka_debiased": "cka",
    "cka_linear": "cka",
    "distance_correlation": "dcor",
    "dcor2": "dcor_squared",
    "cka-kernel=linear-hsic=song-score": "cka",
    "cka-kernel=linear-hsic=gretton-score": "cka_biased",
    "mutual_knn-topk=10": "mutual_knn",
    "procrustes_angular": "procrustes",
}

AS_PUBLISHED = (
    "rsa_spearman",
    "rsa_pearson",
    "kendall",
    "cka_biased",
    "dcor_squared",
    "hsic_rbf_biased",
    "rv",
    "mi_gaussian",
)
"""The eight of arXiv 2601.16540 as its code computes them: linear CKA and RV have one value there, the distance
correlation is squared, and CKA and HSIC keep their bias."""


def measure_of(name: str) -> tuple[str, Measure]:
    """Canonical name and definition of a measure.

    Raises:
        ValueError: if there is none of that name; names the nearest.
    """
    canonical = ALIASES.get(name, name)
    if canonical not in MEASURES:
        raise ValueError(f"measure={name!r} is not known. {nearest(name, sorted([*MEASURES, *ALIASES]))}")
    return canonical, MEASURES[canonical]
