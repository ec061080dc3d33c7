"""The notebook face of compute/: features and responses in, labelled scores out, in one call."""

from jaxalign.api.geometry import rdm, rsa, similarity
from jaxalign.api.held_out import HeldOut, across_subjects, partition, predict
from jaxalign.api.result import RdmResult, Result
from jaxalign.api.scores import correlate, encode
from jaxalign.api.within import rsa_within

__all__ = [
    "HeldOut",
    "RdmResult",
    "Result",
    "across_subjects",
    "correlate",
    "encode",
    "partition",
    "predict",
    "rdm",
    "rsa",
    "rsa_within",
    "similarity",
]
