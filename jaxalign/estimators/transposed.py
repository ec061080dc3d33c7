"""The same estimators with `coef_` as scikit-learn has it, (n_targets, n_features), which MNE reads."""

from __future__ import annotations

from jaxalign.estimators.banded import BandedRidgeCV
from jaxalign.estimators.fractional import FractionalRidgeCV
from jaxalign.estimators.ridge import Ridge
from jaxalign.estimators.ridge_cv import RidgeCV


class SklearnRidge(Ridge):
    """Ridge whose coef_ is (*shape of one row of y, n_features), as scikit-learn and MNE (ReceptiveField) read it."""

    _targets_first = True


class SklearnRidgeCV(RidgeCV):
    """RidgeCV whose coef_ is (*shape of one row of y, n_features), as scikit-learn and MNE (ReceptiveField) read it."""

    _targets_first = True


class SklearnBandedRidgeCV(BandedRidgeCV):
    """BandedRidgeCV whose coef_ is (*shape of one row of y, n_features), as scikit-learn and MNE read it."""

    _targets_first = True


class SklearnFractionalRidgeCV(FractionalRidgeCV):
    """FractionalRidgeCV whose coef_ is (*shape of one row of y, n_features), as scikit-learn and MNE read it."""

    _targets_first = True
