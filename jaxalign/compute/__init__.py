"""Pure functions of arrays: no files, logs, devices or configuration. METRICS is the only table of metrics."""

from jaxalign.compute.correlation import Correlation
from jaxalign.compute.geometry import Rsa
from jaxalign.compute.ridge import Ridge
from jaxalign.compute.similarity import Similarity

METRICS = {"ridge": Ridge, "rsa": Rsa, "similarity": Similarity, "correlation": Correlation}
"""Name in the configuration -> frozen dataclass; the class is the schema of its own configuration group."""
