"""What is compared: emission families with their noise, run effects, coupling and dwell."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

from bayeshmm import Autoregressive, Gaussian
from bayeshmm.emissions.families import Emission

MINIMUM_DWELL = 10
"""Rows, where nothing else is said."""

COUPLED = ", coupled"
"""What the name of a family with coupling has more than that of the same family without."""


@dataclass(frozen=True)
class Family:
    """A row of the tables.

    Attributes
    ----------
    name
        What is varied, separated by commas.
    emission, minimum_dwell
        Of the `HMM`.
    """

    name: str
    emission: Emission
    minimum_dwell: int = MINIMUM_DWELL


def all_families() -> list[Family]:
    """All families, in the order of the tables."""
    autoregressive: Any = partial(Autoregressive, coupling="diagonal", covariance="full")
    laws = {
        "levels": partial(Gaussian, covariance="full"),
        "AR(1)": partial(autoregressive, lags=1),
        "AR(5)": partial(autoregressive, lags=5),
        "HAR": partial(autoregressive, lags=1, half_lives=(3, 10, 30)),
        "AR(5)" + COUPLED: partial(autoregressive, lags=5, coupling="full"),
        "AR(5), diagonal covariance": partial(autoregressive, lags=5, covariance="diagonal"),
    }
    noises = {", normal": "normal", ", t": "student-t"}
    effects = {"": False, ", run effects": True}
    crossed = [
        Family(law + noise + effect, laws[law](noise=noises[noise], run_effects=effects[effect]))
        for law, noise, effect in product(laws, noises, effects)
    ]
    dwells = [Family(f"default, dwell {rows}", Autoregressive(), rows) for rows in (5, 10, 20)]
    return crossed + dwells
