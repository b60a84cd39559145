"""Find the phases in neural-network training runs, and know how sure you are.

>>> import bayeshmm as bh                                   # doctest: +SKIP
>>> runs = bh.Runs.read("runs/")                            # doctest: +SKIP
>>> comparison = bh.compare(runs, states=range(1, 9))       # doctest: +SKIP
>>> posterior = comparison.best                             # doctest: +SKIP
>>> posterior.entry_times(level=0.9)                        # doctest: +SKIP
"""

from bayeshmm import hu2023, messages, plots
from bayeshmm.aligned import align, alignment_table
from bayeshmm.alignment import agreement, match_states
from bayeshmm.checks import Check
from bayeshmm.comparison import Comparison, ComparisonWarning, compare
from bayeshmm.diagnostics import ConvergenceWarning
from bayeshmm.distributions import HiddenMarkov
from bayeshmm.emissions import (
    Autoregressive,
    Emission,
    Gaussian,
    Hyperpriors,
    PyroEmission,
)
from bayeshmm.evidence import Evidence, EvidenceWarning
from bayeshmm.fitting import fit
from bayeshmm.hmm import HMM
from bayeshmm.inference.importance import ApproximationWarning
from bayeshmm.inference.settings import NUTS, VI, Gibbs
from bayeshmm.lineage import audit
from bayeshmm.metric_checks import MetricWarning, SpacingWarning
from bayeshmm.posterior import Posterior
from bayeshmm.runs import Runs
from bayeshmm.sensitivity import SensitivityWarning
from bayeshmm.storage import load
from bayeshmm.transitions import Dirichlet, Grouped, LeftToRight, StickyHDP

__all__ = [
    "HMM",
    "NUTS",
    "VI",
    "ApproximationWarning",
    "Autoregressive",
    "Check",
    "Comparison",
    "ComparisonWarning",
    "ConvergenceWarning",
    "Dirichlet",
    "Emission",
    "Evidence",
    "EvidenceWarning",
    "Gaussian",
    "Gibbs",
    "Grouped",
    "HiddenMarkov",
    "Hyperpriors",
    "LeftToRight",
    "MetricWarning",
    "Posterior",
    "PyroEmission",
    "Runs",
    "SensitivityWarning",
    "SpacingWarning",
    "StickyHDP",
    "agreement",
    "align",
    "alignment_table",
    "audit",
    "compare",
    "fit",
    "hu2023",
    "load",
    "match_states",
    "messages",
    "plots",
]
