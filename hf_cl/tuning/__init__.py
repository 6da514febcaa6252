"""Many runs: a study of methods, settings, class orders and seeds, on this machine or a cluster."""

from hf_cl.tuning.engines import ENGINES
from hf_cl.tuning.study import Study, read_study, write_study

__all__ = ["ENGINES", "Study", "read_study", "write_study"]
