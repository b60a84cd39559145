"""Pictures of posteriors, comparisons and priors; matplotlib only, each returns its Axes."""

from bayeshmm.plots.convergence import convergence
from bayeshmm.plots.counts import state_counts
from bayeshmm.plots.graph import training_map
from bayeshmm.plots.panels import phases
from bayeshmm.plots.prior import prior_predictive

__all__ = ["convergence", "phases", "prior_predictive", "state_counts", "training_map"]
