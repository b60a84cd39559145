"""Prior sensitivity: how far the answers move when one prior is made wider or narrower.

Every posterior draw is weighed by the ratio of the changed to the present prior density of its
parameters, and the weights are Pareto-smoothed: nothing is fitted again. The hyper-parameters
are integrated out of both densities, which leaves weights that vary far less than the densities
of the drawn hyper-parameters do.

References
----------
Kallioinen, Paananen, Bürkner and Vehtari (2024), "Detecting and diagnosing prior and likelihood
sensitivity with power-scaling".
Vehtari, Simpson, Gelman, Yao and Gabry (2024), "Pareto smoothed importance sampling".
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayeshmm.emissions.hyperpriors import Hyperpriors
from bayeshmm.emissions.law import Law
from bayeshmm.emissions.regression import RegressionPrior, Shrinkage
from bayeshmm.emissions.tails import StudentT
from bayeshmm.inference.importance import RELIABLE, smoothed
from bayeshmm.inference_data import emission_parameters
from bayeshmm.phases.visits import first_entries
from bayeshmm.transitions.rows import ExitRows

if TYPE_CHECKING:
    from bayeshmm.hmm import Prior
    from bayeshmm.posterior import Posterior

Array = NDArray[np.float64]

POWERS = {"shrinkage": 2, "run_effects": 2, "scale": -2, "noise_shape": -1, "degrees": -1}
"""Power of the factor by which a hyper-prior's rate, or ``noise_shape``, is multiplied."""

UNITS = {
    "entry_time": "training steps",
    "entry_probability": "probability",
    "occupancy": "share of rows",
    "transition": "probability",
    "dwell": "relative",
    "noise": "relative",
    "in_sd": "posterior standard deviations",
    "error_in_sd": "posterior standard deviations",
}


class SensitivityWarning(UserWarning):
    """The draws cannot say what a changed prior would do; the message names the remedy."""


class Answers(NamedTuple):
    """Quantities that users ask for: values (S, M), NaN in draws without one, and M names."""

    values: Array
    names: list[str]


def sensitivity(posterior: Posterior, factor: float = 2.0) -> pd.DataFrame:
    """How far the answers move when each prior is narrowed or widened.

    The draws are weighed by the ratio of the changed to the present prior; nothing is fitted
    again. `factor` is what a changed prior does to

    ==================  ===================================================  ================
    part                what is multiplied where it is widened               hyper-prior
    ==================  ===================================================  ================
    ``shrinkage``       coefficients, in units of the noise                  rate * factor^2
    ``run_effects``     run effects, in units of the noise                   rate * factor^2
    ``scale``           the noise of every metric                            rate / factor^2
    ``noise_shape``     how unlike phases may be in their noise (about so)   shape / factor
    ``degrees``         degrees of freedom of Student-t noise                rate / factor
    ``expected_dwell``  rows that a phase is expected to last past its       of `Dirichlet`
                        minimum dwell
    ==================  ===================================================  ================

    Parameters
    ----------
    factor
        Above 1; narrowing divides by it.

    Returns
    -------
    DataFrame
        Indexed by (part, change), parts that the model does not have left out:

        * ``prior``: what the changed prior is, as written in `Hyperpriors` or `Dirichlet`;
        * ``k_hat``: above 0.7 the row is not to be believed;
        * the largest shifts of posterior means, in the units in ``attrs["units"]``:
          ``entry_time`` (when a run first enters a phase, training steps; of entries more
          probable than not), ``entry_probability`` (that it ever does), ``occupancy`` (a
          phase's share of rows), ``transition`` (a transition probability), ``dwell`` and
          ``noise`` (relative: 0.1 is ten per cent; of the expected dwell past the minimum, and
          of a metric's noise in a phase);
        * ``in_sd``: the largest of all these in its posterior standard deviation, that of
          ``most_moved``; ``error_in_sd`` is the Monte-Carlo error of one shift: a shift that is
          not several times larger may be no more than that.

    Raises
    ------
    ValueError
        If the emission is a user's own.

    Warns
    -----
    SensitivityWarning
        Where ``k_hat`` is above 0.7: fit again with that prior and compare.
    """
    if not 1.0 < factor < math.inf:
        raise ValueError(f"factor={factor} must be a number above 1: 2 doubles and halves.")
    prior, draws = posterior.variational.prior, len(posterior.paths)
    efficiency = min(1.0, posterior.diagnostics["effective_draws"] / draws)
    entries, _ = first_entries(posterior.paths, posterior.runs.steps, posterior.states)
    entries = entries.reshape(draws, -1)
    entered = 1.0 - np.isnan(entries)
    answers = quantities(posterior, entries)
    rows = []
    for part in parts(prior):
        _, present = under(posterior, part, 1.0)
        for change, times in (("narrowed", 1.0 / factor), ("widened", factor)):
            written, log_density = under(posterior, part, times)
            weights, k_hat = smoothed((log_density - present).numpy(), efficiency)
            rows.append(
                {
                    "part": part,
                    "change": change,
                    "prior": written,
                    "k_hat": k_hat,
                    "entry_probability": np.abs(shifts(entered, weights)[1]).max(),
                    "error_in_sd": math.sqrt(((weights - 1 / draws) ** 2).sum() / efficiency),
                    **largest(answers, weights),
                }
            )
    table = pd.DataFrame(rows).set_index(["part", "change"])
    table = table[["prior", "k_hat", *UNITS, "most_moved"]]
    table.attrs = {"units": UNITS, "factor": factor}
    if len(doubtful := table.index[table["k_hat"] > RELIABLE]):
        warnings.warn(
            f"the draws cannot say what these priors would do (k-hat above {RELIABLE}): "
            f"{', '.join(map(' '.join, doubtful))}. Fit again with what the column `prior` says, "
            "as in Gaussian(hyperpriors=Hyperpriors(...)) or Dirichlet(expected_dwell=...), and "
            "compare the answers; or ask about a smaller change (factor=).",
            SensitivityWarning,
            stacklevel=2,
        )
    return table


def parts(prior: Prior) -> list[str]:
    """Names of the priors that the model has."""
    has = {
        "run_effects": prior.regression.layout.run_effects,
        "degrees": prior.tail is not None,
        "expected_dwell": prior.transition.states > 1
        and isinstance(prior.transition.exits, ExitRows),
    }
    return [part for part in (*POWERS, "expected_dwell") if has.get(part, True)]


def under(posterior: Posterior, part: str, times: float) -> tuple[str, Tensor]:
    """A prior made wider by a factor, and what it says of the draws.

    Returns
    -------
    written
        The changed prior as it is written in code.
    log_density
        Log prior density of every draw, less a constant that no `times` enters, (S,).
    """
    prior, draws = posterior.variational.prior, posterior.draws
    if part == "expected_dwell":
        assert isinstance(prior.transition.exits, ExitRows)
        present, calendar = prior.transition.exits, posterior.encoding.calendar
        exits = ExitRows(present.active[:, 0], times * present.excess)
        steps = (prior.minimum_dwell * calendar.gap + exits.excess) * calendar.base
        return f"{part}={steps:g}", exits.log_density(draws.chain.log_exits[:, 0])
    hyperpriors = changed(prior.regression.hyperpriors, part, times)
    written = f"{part}={getattr(hyperpriors, part)}"
    if part == "degrees" and draws.law.tail is not None:
        return written, log_degrees(StudentT(*hyperpriors.degrees), draws.law.tail.degrees)
    regression = replace(prior.regression, hyperpriors=hyperpriors)
    return written, log_regressions(regression, draws.law)


def changed(hyperpriors: Hyperpriors, part: str, times: float) -> Hyperpriors:
    """The hyper-priors with one of them made wider by a factor."""
    value, by = getattr(hyperpriors, part), times ** POWERS[part]
    new: Any = value * by if part == "noise_shape" else (value[0], value[1] * by)
    return replace(hyperpriors, **{part: new})


def log_regressions(prior: RegressionPrior, law: Law) -> Tensor:
    """Log prior density of coefficients, variances and run effects, (S,).

    The precisions ``lambda`` and the scales ``psi`` are integrated out: their laws are conjugate,
    so that the normalisers of their prior and of their posterior remain.
    """
    a, before, after = prior.shapes, prior.shrinkage(()), prior.posterior_shrinkage(law)
    variances = a * (math.log(2.0) + law.log_variance) + torch.lgamma(a)
    total = _log_normaliser(after) - _log_normaliser(before) - variances.sum((-1, -2))
    return total[:, 0]


def _log_normaliser(law: Shrinkage) -> Tensor:
    """Log integral of the Gamma kernels of all precisions and scales, (..., n)."""
    groups, scales = (
        (torch.lgamma(shape) - shape * rate.log()).sum(-1) for shape, rate in (law[:2], law[2:])
    )
    return groups + scales


def log_degrees(prior: StudentT, degrees: Tensor) -> Tensor:
    """Log prior probability of degrees of freedom (S, 1), (S,)."""
    return prior.log_prior[(prior.grid - degrees).abs().argmin(-1)]


def quantities(posterior: Posterior, entries: Array) -> dict[str, Answers]:
    """What users ask of a posterior, by the column of the table that sums it up.

    Times only of entries that are more probable than not; dwell times by exit probabilities, whose
    inverses they are past the minimum: the dwell of a phase that is never left has no mean.
    """
    phases, metrics, runs = posterior.state_names, posterior.metrics, posterior.runs.names
    among = [f" ({name})" for name in posterior.encoding.calendar.conditions] or [""]
    changes = [f"{one} -> {other}{of}" for of in among for one in phases for other in phases]
    likely = np.flatnonzero((~np.isnan(entries)).mean(0) > 0.5)
    places = [f"entry of {run} into {phase}" for run in runs for phase in phases]
    rows = [(posterior.paths == k).sum((1, 2)) for k in range(posterior.states)]
    chain = posterior.draws.chain
    covariance = emission_parameters(posterior)["covariance"]
    noise = np.sqrt(covariance.diagonal(axis1=-2, axis2=-1))
    found = {
        "entry_time": Answers(entries[:, likely], [places[i] for i in likely]),
        "occupancy": Answers(
            np.stack(rows, -1) / posterior.runs.lengths.sum(),
            [f"rows in {name}" for name in phases],
        ),
        "transition": Answers(
            chain.transition.flatten(1).numpy(), [f"transition {change}" for change in changes]
        ),
        "noise": Answers(
            noise.reshape(len(noise), -1),
            [f"noise of {metric} in {phase}" for phase in phases for metric in metrics],
        ),
    }
    if posterior.states > 1:
        exits = chain.log_exits[..., 0].exp().flatten(1).numpy()
        found["dwell"] = Answers(exits, [f"dwell in {p}{of}" for of in among for p in phases])
    return found


def largest(answers: dict[str, Answers], weights: Array) -> dict[str, Any]:
    """The largest shift of every kind, the largest in posterior deviations, and whose it is."""
    row: dict[str, Any] = {"dwell": 0.0, "in_sd": 0.0, "most_moved": ""}
    for kind, (values, names) in answers.items():
        mean, shift, deviation = shifts(values, weights)
        in_units = np.abs(shift)
        if UNITS[kind] == "relative":  # the larger over the smaller, less one
            in_units = np.expm1(np.abs(np.log1p(shift / mean)))
        in_sd = np.divide(np.abs(shift), deviation, out=np.zeros_like(shift), where=deviation > 0)
        row[kind] = in_units.max()
        if in_sd.max() > row["in_sd"]:
            row |= {"in_sd": in_sd.max(), "most_moved": names[in_sd.argmax()]}
    return row


def shifts(values: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Means of values (S, M), their shifts under weights (S,), and the deviations.

    All are over the draws in which a value is not NaN. Means, because the median of an entry time
    would jump from one recorded step to the next.
    """
    seen = ~np.isnan(values)
    mean = np.nanmean(values, axis=0)
    centred = np.where(seen, values - mean, 0.0)
    deviation = np.sqrt((centred**2).sum(0) / seen.sum(0))
    deviation[np.nanmin(values, axis=0) == np.nanmax(values, axis=0)] = 0.0
    share = np.maximum(weights @ seen, np.finfo(np.float64).tiny)
    return mean, weights @ centred / share, deviation
