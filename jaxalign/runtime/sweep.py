"""Several runs as one plan: see run.execute_all."""

from jaxalign.runtime.run import Job as Job
from jaxalign.runtime.run import Outcome as Outcome
