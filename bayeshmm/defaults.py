"""The defaults that evidence chose, in one place.

Log density of runs that the fit has not seen, nats a row in standardised units, six phases, every
fourth run held out (`python -m benchmarks.unseen_seeds`; all families, 1 to 8 phases and the
public grokking runs are in ``benchmarks/unseen_seeds.md``):

====================================================  =============  ================
family                                                sparse parity  modular addition
====================================================  =============  ================
the default: 5 lags, Student-t noise, run effects             19.93             30.02
normal noise (with one phase: 1.9 and 2.0 less)               19.83             29.89
no run effects                                                19.89             29.73
1 lag                                                         19.38             29.03
1 lag and half-lives 3, 10, 30                                20.20             30.45
full coupling                                                 20.43             30.66
diagonal covariance                                           19.32             29.41
minimum dwell 20 (5: the same)                                19.94             30.01
levels                                                        13.38             16.10
====================================================  =============  ================

Student-t noise and run effects never cost more than they are worth, and most where they are needed
most: with few phases, and for levels. Moving averages and full coupling are a quarter to two thirds
of a nat better still. They are not the default: averages need half-lives to be chosen, and coupling
takes three times as long to fit, with coefficients that are harder to read. Compare families on
your own runs, ``bayeshmm.compare(runs, emission=[...])``.
"""

from typing import Literal

LAGS = 5
"""Past observed values that `Autoregressive` looks back on, in rows."""

HALF_LIVES: tuple[float, ...] = ()
"""Half-lives of the moving averages of `Autoregressive`, in rows."""

COUPLING: Literal["diagonal", "full"] = "diagonal"
"""Whose past a metric depends on: its own, or that of all metrics."""

NOISE: Literal["normal", "student-t"] = "student-t"
"""Noise of a row."""

RUN_EFFECTS = True
"""Whether each run has its own level or drift in each phase."""

COVARIANCE: Literal["full", "diagonal"] = "full"
"""Noise of a row: correlated between the metrics or not."""

MINIMUM_DWELL = 10
"""Rows that a phase lasts at least; a tenth of the median run where that is less."""

RESTARTS = 16
"""Starts of the search for a mode."""

DRAWS = 1000
"""Posterior draws."""

PRICE_SHARE = 0.05
"""Share of what all phases are worth together that a further one must be worth, see `compare`."""

PRICE_PER_METRIC = 0.01
"""Nats per row of held-out runs, and metric, that a further phase must be worth at least."""

TIE_PER_METRIC = 0.005
"""Nats per row of held-out runs, and metric, by which families differ that predict alike."""
