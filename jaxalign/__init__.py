"""jaxalign: which layer of which model represents the same things as the brain, where on the head, and when.

The public API on one page. Names are imported when they are first used: `import jaxalign` touches no device.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxalign import compute as compute
    from jaxalign import errors as errors
    from jaxalign import estimators as estimators
    from jaxalign import results as results
    from jaxalign.api import across_subjects as across_subjects
    from jaxalign.api import correlate as correlate
    from jaxalign.api import encode as encode
    from jaxalign.api import partition as partition
    from jaxalign.api import predict as predict
    from jaxalign.api import rdm as rdm
    from jaxalign.api import rsa as rsa
    from jaxalign.api import rsa_within as rsa_within
    from jaxalign.api import similarity as similarity
    from jaxalign.compute import labellings as labellings
    from jaxalign.compute.correlation import Correlation as Correlation
    from jaxalign.compute.geometry import Rsa as Rsa
    from jaxalign.compute.ridge import Ridge as Ridge
    from jaxalign.compute.similarity import Similarity as Similarity
    from jaxalign.estimators import BandedRidgeCV as BandedRidgeCV
    from jaxalign.estimators import FractionalRidgeCV as FractionalRidgeCV
    from jaxalign.estimators import RidgeCV as RidgeCV
    from jaxalign.results import load as load
    from jaxalign.results import load_ceilings as load_ceilings

__version__ = "0.1.0"

_HOMES = {
    "compute": "jaxalign.compute",
    "errors": "jaxalign.errors",
    "results": "jaxalign.results",
    "labellings": "jaxalign.compute.labellings",
    "Correlation": "jaxalign.compute.correlation",
    "Ridge": "jaxalign.compute.ridge",
    "Rsa": "jaxalign.compute.geometry",
    "Similarity": "jaxalign.compute.similarity",
    "load": "jaxalign.results",
    "load_ceilings": "jaxalign.results",
    "rdm": "jaxalign.api",
    "rsa": "jaxalign.api",
    "rsa_within": "jaxalign.api",
    "similarity": "jaxalign.api",
    "encode": "jaxalign.api",
    "correlate": "jaxalign.api",
    "predict": "jaxalign.api",
    "across_subjects": "jaxalign.api",
    "partition": "jaxalign.api",
    "estimators": "jaxalign.estimators",
    "RidgeCV": "jaxalign.estimators",
    "BandedRidgeCV": "jaxalign.estimators",
    "FractionalRidgeCV": "jaxalign.estimators",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxalign' has no attribute {name!r}")
    module = import_module(_HOMES[name])
    return module if module.__name__.rsplit(".", 1)[-1] == name else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*_HOMES, "__version__"])
