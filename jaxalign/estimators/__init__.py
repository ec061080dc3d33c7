"""Ridge regressions with the face of scikit-learn: fit, predict and score, a penalty for every target."""

from jaxalign.estimators.banded import BandedRidgeCV, GroupRidgeCV
from jaxalign.estimators.fractional import FractionalRidgeCV
from jaxalign.estimators.ridge import Ridge
from jaxalign.estimators.ridge_cv import AlphaEdgeWarning, RidgeCV
from jaxalign.estimators.transposed import SklearnBandedRidgeCV, SklearnFractionalRidgeCV, SklearnRidge, SklearnRidgeCV

__all__ = [
    "AlphaEdgeWarning",
    "BandedRidgeCV",
    "FractionalRidgeCV",
    "GroupRidgeCV",
    "Ridge",
    "RidgeCV",
    "SklearnBandedRidgeCV",
    "SklearnFractionalRidgeCV",
    "SklearnRidge",
    "SklearnRidgeCV",
]
