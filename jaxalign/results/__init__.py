"""The table of scores, its figures and its report; reads rows, never the arrays of a run."""

from jaxalign.results.ceilings import load_ceilings as load_ceilings
from jaxalign.results.table import KEYS as KEYS
from jaxalign.results.table import SCHEMA as SCHEMA
from jaxalign.results.table import load as load
from jaxalign.results.table import summary as summary
