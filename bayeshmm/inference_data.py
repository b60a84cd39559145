"""Posterior draws as ArviZ ``InferenceData``, in the units of the data."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bayeshmm._arviz import az
from bayeshmm.emissions.law import Law
from bayeshmm.emissions.layout import Layout
from bayeshmm.emissions.likelihood import log_likelihood
from bayeshmm.encoding import Encoded
from bayeshmm.hmm import run_log_densities
from bayeshmm.nested import take

if TYPE_CHECKING:
    from bayeshmm.posterior import Posterior
    from bayeshmm.runs import Runs

Array = NDArray[Any]

DRAWS_AT_ONCE = 20
"""Draws that are computed on as one batch, which bounds the memory."""


NEVER = 1e-300
"""An exit probability that is none: the phase is never left."""


def inference_data(posterior: Posterior) -> Any:
    """Draws, run-marginal log-likelihoods and data.

    Posterior variables, with dimensions from ``state, state_to, metric, metric_to, regressor``:

    * ``initial (state)``, ``transition (state, state_to)`` (past the minimum dwell, over a base
      step: the greatest common divisor of all gaps between rows) and ``dwell (state)``, the
      expected length of a visit in training steps; with `Grouped` both begin with ``condition``;
    * the hyper-parameters of the chain by their names;
    * ``covariance (state, metric, metric_to)`` of a row's noise, in the units of the data (after
      the logarithm where one is taken);
    * `Gaussian`: ``mean (state, metric)`` in the units of the data; otherwise ``coefficient
      (state, metric, regressor)``, of the past, and ``contrast (state, metric, metric_to)``, of
      the increments of the metrics before it in model order, both per root mean square of the
      regressor and of the response;
    * ``run_effect (run, state, metric)``: what each run adds to the mean of a `Gaussian` phase, in
      the units of the data, or else to the drift, in those units a row;
    * ``degrees``: degrees of freedom of Student-t noise, whose ``covariance`` is that of a row of
      weight one;
    * ``shrinkage (kind)``: precision of each kind of coefficient, in units of the noise's;
    * of an emission of a user's own: its sites by their names, instead of the emission's above;
    * ``path (run, time)``: -1 beyond the end of a run.

    ``log_likelihood/log_lik (run)`` is the log density of each run given the parameters of a draw,
    the path summed out; the first values enter by their expected law, the same in every draw.

    ``arviz.summary`` uses the name ``metric`` for columns of its own: rename the dimension for it,
    ``idata.posterior.rename(metric="of")``.
    """
    runs, chains = posterior.runs, posterior.draws.chains
    calendar = posterior.encoding.calendar

    def by_chain(values: Array | Tensor) -> Array:
        array = np.asarray(values)
        return array.reshape(chains, len(array) // chains, *array.shape[1:])

    variables: dict[str, Array | Tensor] = {
        "initial": posterior.draws.chain.initial[:, 0],
        "transition": conditions(posterior, posterior.draws.chain.transition),
        "dwell": expected_dwell(posterior),
        **emission_parameters(posterior),
        **{name: values[:, 0] for name, values in posterior.draws.hyper.items()},
        "path": posterior.paths,
    }
    names = [str(name) for name in posterior.state_names]
    groups = {
        "posterior": {name: by_chain(values) for name, values in variables.items()},
        "log_likelihood": {"log_lik": by_chain(run_log_likelihoods(posterior))},
        "observed_data": {"y": runs.values, "step": runs.steps},
    }
    by_condition = ["condition"] if calendar.by else []
    coords = {
        **({"condition": list(calendar.conditions)} if calendar.by else {}),
        "state": names,
        "state_to": names,
        "metric": list(runs.metrics),
        "metric_to": list(runs.metrics),
        **_names(posterior),
        "run": list(runs.names),
        "time": np.arange(runs.steps.shape[1]),
    }
    dims = {
        **emission_dims(posterior),
        "initial": ["state"],
        "transition": [*by_condition, "state", "state_to"],
        "dwell": [*by_condition, "state"],
        "path": ["run", "time"],
        **{
            name: ["state", f"{name}_cell"][: values.ndim - 2]
            for name, values in posterior.draws.hyper.items()
        },
        "log_lik": ["run"],
        "y": ["run", "time", "metric"],
        "step": ["run", "time"],
    }
    if "posterior" in inspect.signature(az.from_dict).parameters:
        return az.from_dict(**groups, coords=coords, dims=dims)
    return az.from_dict(groups, coords=coords, dims=dims)


def conditions(posterior: Posterior, values: Array | Tensor) -> Array | Tensor:
    """Draws (S, n, ...) of the chain: those of every condition, or the one that runs share."""
    return values if posterior.encoding.calendar.by else values[:, 0]


def expected_dwell(posterior: Posterior) -> Array:
    """Expected length of a visit to each phase, (draws, [conditions,] K), in training steps.

    d - 1 + 1/e_k rows where they are evenly spaced; infinite for a phase that is never left.
    """
    calendar = posterior.encoding.calendar
    exits = conditions(posterior, posterior.draws.chain.log_exits[..., 0].exp().numpy())
    beyond = np.where(exits > NEVER, 1.0 / exits, np.inf)
    return ((posterior.minimum_dwell - 1.0) * calendar.gap + beyond) * calendar.base


DIMS = {
    "mean": ["state", "metric"],
    "coefficient": ["state", "metric", "regressor"],
    "contrast": ["state", "metric", "metric_to"],
    "covariance": ["state", "metric", "metric_to"],
    "run_effect": ["run", "state", "metric"],
    "shrinkage": ["kind"],
}
"""Of the parameters of this package's emissions."""


def emission_dims(posterior: Posterior) -> dict[str, list[str]]:
    """Dimensions of the emission's parameters by name.

    Of a user's own: ``state, metric`` where the first two axes are as long as these, numbered ones
    otherwise.
    """
    law = posterior.draws.law
    if isinstance(law, Law):
        return DIMS
    sizes = {"state": posterior.states, "metric": len(posterior.metrics)}
    dims = {}
    for name, values in law.items():
        dims[name] = [f"{name}_dim_{i}" for i in range(values.ndim - 1)]
        for i, (dim, size) in enumerate(sizes.items()):
            if values.ndim > i + 1 and values.shape[i + 1] == size:
                dims[name][i] = dim
            else:
                break
    return dims


def emission_parameters(posterior: Posterior) -> dict[str, Array]:
    """Emission parameters by name, metrics in the user's order; leading axis draws."""
    law = posterior.draws.law
    if not isinstance(law, Law):
        return {name: values.numpy() for name, values in law.items()}
    scaling, family = posterior.encoding.scaling, posterior.hmm.family
    order = scaling.order
    layout = posterior.variational.prior.regression.layout
    D, P = layout.metrics, layout.past
    coefficients = posterior.draws.law.coefficients[:, 0]
    variance = 1.0 / posterior.draws.law.precision[:, 0]
    tau = torch.eye(D, dtype=torch.float64).expand(*variance.shape, D).clone()
    if layout.full:
        tau[..., : D - 1] -= coefficients[..., P:] * layout.active[:, P:]
    inverse = torch.linalg.solve_triangular(
        tau, torch.eye(D, dtype=torch.float64).expand_as(tau), upper=False, unitriangular=True
    )
    unit = scaling.sd * (scaling.increment if family.dynamic else 1.0)
    covariance = np.asarray((inverse * variance[..., None, :]) @ inverse.transpose(-1, -2))
    own = coefficients[..., :P]
    back = np.argsort(order)
    scale = unit[:, None] * unit[None, :]
    parameters = {"covariance": covariance[..., back, :][..., back] * scale}
    parameters["shrinkage"] = posterior.draws.precisions.groups[:, 0].numpy()
    if law.effects is not None:
        effects = np.asarray((inverse[:, None] @ law.effects.mean[..., None])[..., 0])
        parameters["run_effect"] = effects[..., back] * unit
    if law.tail is not None:
        parameters["degrees"] = law.tail.degrees[:, 0].numpy()
    if not family.dynamic:
        level = np.asarray((inverse @ own)[..., 0]) / posterior.encoding.feature_scale[:, 0]
        parameters["mean"] = level[..., back] * scaling.sd + scaling.mean
        return parameters
    if layout.coupled:
        own = own[..., _user_order(layout, back)]
    parameters["coefficient"] = np.asarray(own)[..., back, :]
    if layout.full:
        contrast = np.eye(D) - np.asarray(tau)
        parameters["contrast"] = contrast[..., back, :][..., back]
    return parameters


def _names(posterior: Posterior) -> dict[str, list[str]]:
    """Names of regressors and of kinds of coefficients, where the emission has them."""
    if posterior.mode is None:
        return {}
    kinds = posterior.mode.prior.regression.layout.group_names
    return {"regressor": regressor_names(posterior), "kind": list(kinds)}


def regressor_names(posterior: Posterior) -> list[str]:
    """Names of the past regressors of an equation."""
    features = posterior.hmm.family.features
    if not posterior.variational.prior.regression.layout.coupled:
        return list(features)
    crossed = (f"{feature} of {metric}" for metric in posterior.metrics for feature in features[1:])
    return [features[0], *crossed]


def _user_order(layout: Layout, back: NDArray[np.int64]) -> Tensor:
    """Places of the regressors of coupled equations, the metrics in the user's order."""
    places = torch.arange(1, layout.past).reshape(layout.metrics, -1)[torch.from_numpy(back)]
    return torch.cat([torch.zeros(1, dtype=torch.int64), places.flatten()])


def run_log_likelihoods(posterior: Posterior, runs: Runs | None = None) -> Array:
    """Log density of every run, fitted ones by default, given each draw, (draws, N)."""
    data = posterior.encoding.encode(posterior.runs if runs is None else runs)
    draws, dwell = posterior.draws, posterior.minimum_dwell
    totals = []
    for first in range(0, len(draws.paths), DRAWS_AT_ONCE):
        some = slice(first, first + DRAWS_AT_ONCE)
        totals.append(
            run_log_densities(data, take(draws.law, some), take(draws.chain, some), dwell)
        )
    total = torch.cat(totals)
    entry = None if posterior.mode is None else posterior.mode.entry
    if entry is not None and isinstance(data, Encoded) and data.entry is not None:
        total = total + log_likelihood(data.entry, entry.regression.law)[0][:, 0, 0]
    return total.numpy()
