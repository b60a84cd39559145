"""Transitions between phases: how long a phase lasts beyond its dwell, and where it leads."""

from bayeshmm.transitions.calendar import Calendar
from bayeshmm.transitions.chain import Chain, ChainPosterior, Counts
from bayeshmm.transitions.dirichlet import Dirichlet, LeftToRight
from bayeshmm.transitions.grouped import Grouped
from bayeshmm.transitions.hdp import StickyHDP
from bayeshmm.transitions.prior import Transition, TransitionPrior
from bayeshmm.transitions.rows import Hyper
from bayeshmm.transitions.schedule import Schedule

__all__ = [
    "Calendar",
    "Chain",
    "ChainPosterior",
    "Counts",
    "Dirichlet",
    "Grouped",
    "Hyper",
    "LeftToRight",
    "Schedule",
    "StickyHDP",
    "Transition",
    "TransitionPrior",
]
