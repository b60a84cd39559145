"""Emission families: what a phase's law of motion may depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from bayeshmm import defaults
from bayeshmm.emissions.custom import PyroEmission
from bayeshmm.emissions.design import Design
from bayeshmm.emissions.features import past
from bayeshmm.emissions.hyperpriors import WEAKLY_INFORMATIVE, Hyperpriors
from bayeshmm.emissions.layout import Layout
from bayeshmm.scaling import EVENLY, Pace, spanned_gaps

Array = NDArray[np.float64]
Coupling = Literal["diagonal", "full"]
Covariance = Literal["full", "diagonal"]
Noise = Literal["normal", "student-t"]


@runtime_checkable
class Emission(Protocol):
    """What a family of regressions has to say of itself."""

    @property
    def features(self) -> tuple[str, ...]:
        """Name of every feature of one metric's past; the first is a constant."""
        ...

    @property
    def dynamic(self) -> bool:
        """Whether a row depends on the rows before it."""
        ...

    @property
    def coupling(self) -> Coupling:
        """Whose past a metric depends on: its own or that of all metrics."""
        ...

    @property
    def covariance(self) -> Covariance:
        """Whether the noise of a row is correlated between metrics."""
        ...

    @property
    def noise(self) -> Noise:
        """Law of the noise of a row."""
        ...

    @property
    def run_effects(self) -> bool:
        """Whether each run has its own level, or drift, in each phase."""
        ...

    @property
    def hyperpriors(self) -> Hyperpriors:
        """What is believed before any run is seen."""
        ...

    def past(self, values: Array, pace: Pace = EVENLY) -> tuple[Array, Array]:
        """Reference (N, T, D) and features (N, T, D, F) of standardised `values`."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Regressions:
    """What all families of regressions have in common."""

    covariance: Covariance = defaults.COVARIANCE
    noise: Noise = defaults.NOISE
    run_effects: bool = defaults.RUN_EFFECTS
    hyperpriors: Hyperpriors = WEAKLY_INFORMATIVE

    def __post_init__(self) -> None:
        _check("covariance", self.covariance, Covariance)
        _check("noise", self.noise, Noise)
        if not isinstance(self.run_effects, bool):
            raise ValueError(f"run_effects must be True or False, not {self.run_effects!r}.")
        if isinstance(self.hyperpriors, Mapping):
            object.__setattr__(self, "hyperpriors", Hyperpriors(**self.hyperpriors))
        if not isinstance(self.hyperpriors, Hyperpriors):
            raise ValueError(f"hyperpriors must be Hyperpriors(...), not {self.hyperpriors!r}.")

    def __repr__(self) -> str:
        """Own settings first; hyper-priors only where they are not the default."""
        shared = {part.name for part in fields(_Regressions)}
        parts = sorted(fields(self), key=lambda part: part.name in shared)
        shown = [
            f"{part.name}={getattr(self, part.name)!r}"
            for part in parts
            if part.name != "hyperpriors" or self.hyperpriors != WEAKLY_INFORMATIVE
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, repr=False)
class Gaussian(_Regressions):
    """A level for every metric in every phase: the classical HMM, with learned priors.

    Phases are then *levels*: a smooth drift is cut into many of them. Prefer `Autoregressive`
    unless levels are what you mean.

    Parameters
    ----------
    covariance
        ``"full"``: the metrics' noise is correlated within a row; ``"diagonal"``: it is not.
    noise
        ``"student-t"``: a row may be an outlier, in all metrics alike; the degrees of freedom are
        learned. ``"normal"``: none may.
    run_effects
        Whether each run has its own level in each phase, about the common one and as near to it
        as the runs show. Without them, runs that differ in level look like different phases: for
        ten simulated runs two noise standard deviations apart, the density of unseen runs is five
        nats a row lower, and goes on rising where with run effects it stops at the true number.
    hyperpriors
        See `Hyperpriors`.
    """

    @property
    def features(self) -> tuple[str, ...]:
        """The level alone."""
        return ("level",)

    @property
    def dynamic(self) -> bool:
        """No: rows are independent given the phase."""
        return False

    @property
    def coupling(self) -> Coupling:
        """There is no past to depend on."""
        return "diagonal"

    def past(self, values: Array, pace: Pace = EVENLY) -> tuple[Array, Array]:
        """A reference of 0 and a constant regressor."""
        return np.zeros_like(values), np.ones((*values.shape, 1))


@dataclass(frozen=True, repr=False)
class Autoregressive(_Regressions):
    """A law of motion for every metric in every phase.

    The increment of a metric from its last observed value is regressed on an intercept, its
    level, the differences between its last observed values and, where half-lives are given, on
    its exponential moving averages (over the rows that were observed) less its level: a
    heterogeneous autoregression. Zero coefficients mean "stay where you are", and every kind of
    coefficient is shrunk towards that by a learned amount. A metric that is missing in a row is
    integrated out exactly given these features.

    Where rows are not equally far apart, this is a law per *logged row*, not one per training step
    that is seen through gaps: an autoregression thinned to every other row is another one. What is
    known of the gap Delta of a row, in units of the median gap, enters its regressors and its unit:
    averages weigh a value of age a by ``2^(-a/h)``; past differences are extrapolated to Delta (by
    a factor of 10 at most); increments of a metric, past and present, are in units proportional to
    ``Delta^eta``, with ``eta`` between 0 and 1 found from the fitted runs (see `Scaling`). For an
    exact law per training step take `Gaussian` levels with ``minimum_dwell=1``.

    Parameters
    ----------
    lags
        Number of past observed values, in rows, at least 1.
    half_lives
        Half-lives of the moving averages, in rows; where rows are uneven, in median gaps.
    coupling
        ``"diagonal"``: a metric depends on its own past; ``"full"``: on that of all metrics, whose
        coefficients are shrunk by amounts of their own.
    covariance
        ``"full"``: the metrics' increments are correlated within a row; ``"diagonal"``: not.
    noise
        ``"student-t"``: a row may be an outlier, in all metrics alike; the degrees of freedom are
        learned. ``"normal"``: none may.
    run_effects
        Whether each run has its own drift in each phase, about the common one and as near to it
        as the runs show.
    hyperpriors
        See `Hyperpriors`.

    References
    ----------
    Corsi (2009), "A simple approximate long-memory model of realized volatility".
    Litterman (1986), "Forecasting with Bayesian vector autoregressions".
    """

    lags: int = defaults.LAGS
    half_lives: Sequence[float] = defaults.HALF_LIVES
    coupling: Coupling = defaults.COUPLING

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("coupling", self.coupling, Coupling)
        if isinstance(self.lags, bool) or not isinstance(self.lags, int) or self.lags < 1:
            raise ValueError(f"lags must be an integer of at least 1, not {self.lags!r}.")
        if any(not half_life > 0 for half_life in self.half_lives):
            raise ValueError(f"half_lives must be positive (rows), not {self.half_lives!r}.")
        object.__setattr__(self, "half_lives", tuple(float(h) for h in self.half_lives))

    @property
    def features(self) -> tuple[str, ...]:
        """Intercept, level, differences and averages."""
        differences = [f"difference {lag}" for lag in range(1, self.lags)]
        return ("intercept", "level", *differences, *(f"average {h:g}" for h in self.half_lives))

    @property
    def dynamic(self) -> bool:
        """Yes."""
        return True

    def past(self, values: Array, pace: Pace = EVENLY) -> tuple[Array, Array]:
        """Last observed value, and the features after an intercept."""
        reference, features = past(values, self.lags, self.half_lives, pace)
        return reference, np.concatenate([np.ones((*values.shape, 1)), features], axis=-1)


def named_emission(emission: str | Emission | PyroEmission) -> Emission | PyroEmission:
    """The family that a shortcut names, or the emission itself.

    Raises
    ------
    ValueError
        If it names no family, or is none.
    """
    shortcuts: dict[str, Emission] = {"autoregressive": Autoregressive(), "gaussian": Gaussian()}
    if isinstance(emission, str) and emission in shortcuts:
        return shortcuts[emission]
    if isinstance(emission, type) or not isinstance(emission, Emission | PyroEmission):
        raise ValueError(
            f"emission={emission!r} is not known: use one of {sorted(shortcuts)}, "
            "Gaussian(...), Autoregressive(...), or an emission of your own (PyroEmission)."
        )
    return emission


def layout(emission: Emission, metrics: int) -> Layout:
    """Shape of the regressions of `emission` for so many metrics."""
    return Layout(
        metrics,
        emission.features,
        emission.covariance == "full",
        emission.coupling == "full",
        emission.run_effects,
    )


def entry_layout(emission: Emission, metrics: int) -> Layout:
    """Shape of the law of the first values: a constant, and the metrics before it."""
    return Layout(metrics, ("entry",), emission.covariance == "full")


def feature_scale(emission: Emission, values: Array, pace: Pace = EVENLY) -> Array:
    """Pooled root mean square of every feature, (D, F); 1 where it is always zero."""
    reference, features = emission.past(values, pace)
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
    pace: Pace = EVENLY,
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
        From `feature_scale`, (D, F).
    pace
        How far apart rows are: increments are in units of ``increment * gap^exponent``. The
        variance of rounding is that of a row at the typical gap.
    """
    reference, features = emission.past(values, pace)
    unit = increment if emission.dynamic else np.ones_like(increment)
    response = (values - reference) / unit
    if emission.dynamic:
        response /= spanned_gaps(values, pace.gaps) ** pace.exponent
    observed = ~np.isnan(response)
    features = features / scale
    features[np.arange(values.shape[1]) >= lengths[:, None]] = 0.0
    shape = layout(emission, values.shape[2])
    if shape.coupled:
        every = features[..., 1:].reshape(*values.shape[:2], -1)
        features = np.concatenate([features[:, :, 0, :1], every], -1)[:, :, None, :]
    return Design(
        layout=shape,
        response=torch.from_numpy(np.nan_to_num(response)),
        past=torch.from_numpy(features).expand(-1, -1, shape.metrics, -1),
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
        layout=entry_layout(emission, D),
        response=torch.from_numpy(np.nan_to_num(first)),
        past=torch.ones(N, 1, D, 1, dtype=torch.float64),
        observed=torch.from_numpy(~np.isnan(first)),
        lengths=torch.ones(N, dtype=torch.int64),
        rounding=torch.from_numpy(resolution**2 / 12.0),
    )


def _check(name: str, value: object, allowed: Any) -> None:
    if value not in get_args(allowed):
        listed = " or ".join(map(repr, get_args(allowed)))
        raise ValueError(f"{name} must be {listed}, not {value!r}.")
