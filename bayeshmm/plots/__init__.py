"""Pictures of posteriors, comparisons and priors; matplotlib only, each returns its Axes."""

from bayeshmm.plots.change_times import change_times
from bayeshmm.plots.convergence import convergence
from bayeshmm.plots.counts import state_counts
from bayeshmm.plots.dwell_times import dwell_times
from bayeshmm.plots.explanation import explanation
from bayeshmm.plots.graph import training_map
from bayeshmm.plots.panels import phases
from bayeshmm.plots.prior import prior_predictive
from bayeshmm.plots.profiles import profiles
from bayeshmm.plots.residuals import residuals
from bayeshmm.plots.ribbon import ribbon
from bayeshmm.plots.state_tree import state_tree

__all__ = [
    "change_times",
    "convergence",
    "dwell_times",
    "explanation",
    "phases",
    "prior_predictive",
    "profiles",
    "residuals",
    "ribbon",
    "state_counts",
    "state_tree",
    "training_map",
]
