"""Runs that left nothing but checkpoints, measured after the fact as `MetricHook` would have.

`found` says which runs a folder holds, by the names of its files (`training.checkpoints.layouts`
has the rules); `measure` gives their metrics as the run store does, and keeps them there if asked.
"""

from training.checkpoints.layouts import found
from training.checkpoints.measuring import measure

__all__ = ["found", "measure"]
