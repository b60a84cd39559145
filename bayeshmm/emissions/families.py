"""Emission families: what a phase's law of motion may depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from bayeshmm import defaults
from bayeshmm.emissions.design import Design
from bayeshmm.emissions.features import past
from bayeshmm.emissions.layout import Layout

Array = NDArray[np.float64]
Covariance = Literal["full", "diagonal"]


@runtime_checkable
class Emission(Protocol):
    """What a family of emissions has to say of itself."""

    @property
    def covariance(self) -> Covariance:
        """Whether the noise of a row is correlated between metrics."""
        ...

    @property
    def groups(self) -> tuple[str, ...]:
        """Name of every past regressor of a metric."""
        ...

    @property
    def dynamic(self) -> bool:
        """Whether a row depends on the rows before it."""
        ...

    def past(self, values: Array) -> tuple[Array, Array]:
        """Reference (N, T, D) and features (N, T, D, P) of standardised `values`."""
        ...


@dataclass(frozen=True)
class Gaussian:
    """A level for every metric in every phase, with Gaussian noise: the classical HMM.

    Phases are then *levels*: a smooth drift is cut into many of them. Prefer `Autoregressive`
    unless levels are what you mean.

    Parameters
    ----------
    covariance
        ``"full"``: the metrics' noise is correlated within a row; ``"diagonal"``: it is not.
    """

    covariance: Covariance = defaults.COVARIANCE

    def __post_init__(self) -> None:
        _check_covariance(self.covariance)

    @property
    def groups(self) -> tuple[str, ...]:
        """The level alone."""
        return ("level",)

    @property
    def dynamic(self) -> bool:
        """No: rows are independent given the phase."""
        return False

    def past(self, values: Array) -> tuple[Array, Array]:
        """A reference of 0 and a constant regressor."""
        return np.zeros_like(values), np.ones((*values.shape, 1))


@dataclass(frozen=True)
class Autoregressive:
    """A law of motion for every metric in every phase.

    The increment of a metric is regressed on an intercept, its level, the differences between
    its last values and, where half-lives are given, on its exponential moving averages less its
    level (a heterogeneous autoregression). Zero coefficients mean "stay where you are", and every
    kind of coefficient is shrunk towards that by a learned amount.

    Parameters
    ----------
    lags
        Number of past observed values, in rows, at least 1.
    half_lives
        Half-lives of the moving averages, in rows.
    covariance
        ``"full"``: the metrics' increments are correlated within a row; ``"diagonal"``: not.

    References
    ----------
    Corsi (2009), "A simple approximate long-memory model of realized volatility".
    """

    lags: int = defaults.LAGS
    half_lives: Sequence[float] = defaults.HALF_LIVES
    covariance: Covariance = defaults.COVARIANCE

    def __post_init__(self) -> None:
        _check_covariance(self.covariance)
        if isinstance(self.lags, bool) or not isinstance(self.lags, int) or self.lags < 1:
            raise ValueError(f"lags must be an integer of at least 1, not {self.lags!r}.")
        if any(not half_life > 0 for half_life in self.half_lives):
            raise ValueError(f"half_lives must be positive (rows), not {self.half_lives!r}.")
        object.__setattr__(self, "half_lives", tuple(float(h) for h in self.half_lives))

    @property
    def groups(self) -> tuple[str, ...]:
        """Intercept, level, differences and averages."""
        differences = [f"difference {lag}" for lag in range(1, self.lags)]
        return ("intercept", "level", *differences, *(f"average {h:g}" for h in self.half_lives))

    @property
    def dynamic(self) -> bool:
        """Yes."""
        return True

    def past(self, values: Array) -> tuple[Array, Array]:
        """Last observed value, and the features after an intercept."""
        reference, features = past(values, self.lags, self.half_lives)
        return reference, np.concatenate([np.ones((*values.shape, 1)), features], axis=-1)


def named_emission(emission: str | Emission) -> Emission:
    """The family that a shortcut names, or the family itself.

    Raises
    ------
    ValueError
        If it names no family, or is none.
    """
    shortcuts: dict[str, Emission] = {"autoregressive": Autoregressive(), "gaussian": Gaussian()}
    if isinstance(emission, str) and emission in shortcuts:
        return shortcuts[emission]
    if isinstance(emission, type) or not isinstance(emission, Emission):
        raise ValueError(
            f"emission={emission!r} is not known: use one of {sorted(shortcuts)}, "
            "Gaussian(...) or Autoregressive(...)."
        )
    return emission


def layout(emission: Emission, metrics: int) -> Layout:
    """Shape of the regressions of `emission` for so many metrics."""
    return Layout(metrics, emission.groups, emission.covariance == "full")


def regressor_scale(emission: Emission, values: Array) -> Array:
    """Pooled root mean square of every regressor, (D, P); 1 where it is always zero."""
    reference, features = emission.past(values)
    used = ~np.isnan(values) & ~np.isnan(reference)
    squares = (features**2 * used[..., None]).sum(axis=(0, 1)) / np.maximum(
        used.sum(axis=(0, 1)), 1
    )[:, None]
    return np.where(squares > 0, np.sqrt(squares), 1.0)


def design(
    emission: Emission,
    values: Array,
    lengths: NDArray[np.int64],
    increment: Array,
    resolution: Array,
    scale: Array,
) -> Design:
    """Responses and regressors of standardised runs.

    Parameters
    ----------
    emission
        The family.
    values
        Standardised values in model order, (N, T, D), NaN where missing or padded.
    lengths
        (N,).
    increment, resolution
        In model order and standardised units, (D,); see `Scaling`.
    scale
        From `regressor_scale`, (D, P).
    """
    reference, features = emission.past(values)
    unit = increment if emission.dynamic else np.ones_like(increment)
    response = (values - reference) / unit
    observed = ~np.isnan(response)
    features = features / scale
    features[np.arange(values.shape[1]) >= lengths[:, None]] = 0.0
    return Design(
        layout=layout(emission, values.shape[2]),
        response=torch.from_numpy(np.nan_to_num(response)),
        past=torch.from_numpy(features),
        observed=torch.from_numpy(observed),
        lengths=torch.from_numpy(lengths),
        rounding=torch.from_numpy((resolution / unit) ** 2 / 12.0),
    )


def entry_design(emission: Emission, values: Array, resolution: Array) -> Design | None:
    """First observed value of every metric of every run, under a law of its own.

    A dynamic family says nothing of the value that a metric starts from: it has a law that no
    state enters, a regression on an intercept and on the first values of the metrics before it.
    None for families without a past, whose first row is a row like any other.
    """
    if not emission.dynamic:
        return None
    seen = ~np.isnan(values)
    first = np.take_along_axis(values, seen.argmax(axis=1)[:, None], axis=1)
    N, _, D = first.shape
    return Design(
        layout=Layout(D, ("entry",), emission.covariance == "full"),
        response=torch.from_numpy(np.nan_to_num(first)),
        past=torch.ones(N, 1, D, 1, dtype=torch.float64),
        observed=torch.from_numpy(~np.isnan(first)),
        lengths=torch.ones(N, dtype=torch.int64),
        rounding=torch.from_numpy(resolution**2 / 12.0),
    )


def _check_covariance(covariance: str) -> None:
    if covariance not in ("full", "diagonal"):
        raise ValueError(f"covariance must be 'full' or 'diagonal', not {covariance!r}.")
