"""Pictures of a posterior and of a comparison; matplotlib only, each returns its Axes."""

from bayeshmm.plots.counts import state_counts
from bayeshmm.plots.graph import training_map
from bayeshmm.plots.panels import phases

__all__ = ["phases", "state_counts", "training_map"]
