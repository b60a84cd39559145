"""Pyro's stochastic variational inference, the same for every model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyro
from numpy.typing import NDArray
from pyro import poutine
from pyro.infer import SVI
from pyro.infer.autoguide import AutoDiagonalNormal, init_to_value
from pyro.infer.elbo import ELBO
from pyro.optim import Adam
from torch import Tensor

Model = Callable[[Any], None]
Values = Mapping[str, Tensor]


def svi_step(
    model: Model, elbo: ELBO, values: Values, data: Any, parameters: Model | None = None
) -> Callable[[], float]:
    """A step with a mean-field guide and one particle.

    Parameters
    ----------
    model
        Called with `data`.
    elbo
        Of one particle.
    values
        Where the guide starts, narrowly, so that every model is timed at likely parameters.
    data
        The data.
    parameters
        The model without its discrete sites, where the guide is not to see them.
    """
    guide = AutoDiagonalNormal(
        parameters or model, init_loc_fn=init_to_value(values=dict(values)), init_scale=0.01
    )
    svi = SVI(model, guide, Adam({"lr": 1e-4}), elbo)
    store = pyro.get_param_store()
    state: dict[str, Any] = {"params": {}, "constraints": {}}

    def step() -> float:
        with store.scope(state):
            return float(svi.step(data))

    return step


def observed_density(model: Model, values: Values, data: Any) -> NDArray[np.float64]:
    """Log density of the data at these values of the sites, priors left out, ()."""
    conditioned = poutine.condition(model, dict(values))
    trace = poutine.trace(conditioned).get_trace(data)
    trace.compute_log_prob(lambda name, site: site["is_observed"] and name not in values)
    sites = (site for name, site in trace.nodes.items() if name not in values)
    total = sum(site["log_prob_sum"] for site in sites if "log_prob_sum" in site)
    return np.asarray(float(total))
