"""The notebook face of compute/: features and responses in, labelled scores out, in one call."""

from jaxalign.api.held_out import HeldOut, across_subjects, partition, predict
from jaxalign.api.result import Result
from jaxalign.api.scores import correlate, encode, rdm, rsa

__all__ = ["HeldOut", "Result", "across_subjects", "correlate", "encode", "partition", "predict", "rdm", "rsa"]
