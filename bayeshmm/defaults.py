"""The defaults that evidence chose, in one place.

Sparse parity, 20 seeds, 9 metrics, 6 phases; log density of a run left out by the cavity shortcut,
nats per row in the units of the data:

=======================================  =====
5 lags, dwell 10, full covariance        37.48
the same with dwell 20                   36.59
1 lag, dwell 10                          36.73
1 lag and half-lives 3, 10, 30           37.70
3 lags, diagonal covariance              32.41
=======================================  =====

Five lags and moving averages are nearly equals there, and lags need no half-lives to be chosen; the
full covariance is worth five nats a row. These are one experiment's figures: compare families on
your own runs, ``bayeshmm.compare(runs, emission=[...])``.
"""

from typing import Literal

LAGS = 5
"""Past observed values that `Autoregressive` looks back on, in rows."""

HALF_LIVES: tuple[float, ...] = ()
"""Half-lives of the moving averages of `Autoregressive`, in rows."""

COVARIANCE: Literal["full", "diagonal"] = "full"
"""Noise of a row: correlated between the metrics or not."""

MINIMUM_DWELL = 10
"""Rows that a phase lasts at least; a tenth of the median run where that is less."""

RESTARTS = 16
"""Starts of the search for a mode."""

DRAWS = 1000
"""Posterior draws."""

TOLERANCE = 0.5
"""Nats per row of held-out runs that a further phase must be worth."""
