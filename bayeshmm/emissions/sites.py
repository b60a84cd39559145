"""The regressions as Pyro sites; the last batch axis of a value is that of the plate of runs."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from bayeshmm.emissions.hyperpriors import Hyperpriors
from bayeshmm.emissions.law import Effects, Law, Tail
from bayeshmm.emissions.layout import Layout
from bayeshmm.emissions.regression import Precisions, RegressionPrior
from bayeshmm.emissions.tails import StudentT
from bayeshmm.nested import batched


def regressions(prior: RegressionPrior, prefix: str = "", runs: int = 1) -> tuple[Law, Precisions]:
    """Sample ``shrinkage, scale, variance, coefficient, ...``, their names after `prefix`.

    Coefficients that an equation does not have are no sites: they are 0. The effects of all runs
    are one site, outside of any plate, so that a guide holds them all where a step sees some.

    Parameters
    ----------
    prior
        Of the regressions.
    prefix
        Of the names.
    runs
        Number N of runs, for run effects.

    Returns
    -------
    law
        Values that all runs share, n = 1, and the effects of all runs.
    precisions
        The hyper-parameters.
    """
    layout, shrinkage = prior.layout, prior.shrinkage(())

    def gamma(name: str, shape: Tensor, rate: Tensor) -> Tensor:
        return pyro.sample(f"{prefix}{name}", dist.Gamma(shape, rate).to_event(1))

    def normal(name: str, deviation: Tensor, event: int) -> Tensor:
        law = dist.Normal(torch.zeros_like(deviation), deviation).to_event(event)
        return pyro.sample(f"{prefix}{name}", law)

    precisions = Precisions(
        gamma("shrinkage", shrinkage.group_shape, shrinkage.group_rate),
        gamma("scale", shrinkage.scale_shape, shrinkage.scale_rate),
    )
    rate = 0.5 * precisions.scales[..., None, :]
    rate = rate.expand(*rate.shape[:-2], prior.states, layout.metrics)
    variance = pyro.sample(
        f"{prefix}variance", dist.InverseGamma(prior.shapes.expand(rate.shape), rate).to_event(2)
    )
    deviation = (variance[..., None] / prior.expand(precisions)[..., None, :, :]).sqrt()
    coefficient = normal("coefficient", deviation[..., : layout.past], 3)
    present = contrasts(layout)
    if present.any():
        drawn = normal("contrast", deviation[..., present], 2)
        every = drawn.new_zeros(*drawn.shape[:-1], present.numel())
        every = every.index_copy(-1, present.flatten().nonzero()[:, 0], drawn)
        every = every.unflatten(-1, present.shape)[..., layout.past :]
        coefficient = torch.cat([coefficient, every], -1)
    effects = None
    if layout.run_effects:
        spread = (variance / precisions.groups[..., -1:, None]).sqrt()[..., None, :, :]
        mean = normal("run_effect", spread.expand(*spread.shape[:-3], runs, -1, -1), 3)
        effects = Effects(mean if mean.ndim == 3 else mean.squeeze(-4))
    variance = batched(variance, 2)
    law = Law(batched(coefficient, 3), 1.0 / variance, variance.log(), effects=effects)
    return law, Precisions(*(batched(part, 1) for part in precisions))


def contrasts(layout: Layout) -> Tensor:
    """Which regressors of each equation are increments of other metrics, bool (D, R)."""
    return layout.active & (torch.arange(layout.regressors) >= layout.past)


def tail(hyperpriors: Hyperpriors) -> Tail:
    """Sample the ``degrees`` of freedom, here continuous and unbounded."""
    shape, rate = torch.tensor(hyperpriors.degrees, dtype=torch.float64)
    return StudentT.value(batched(pyro.sample("degrees", dist.Gamma(shape, rate)), 0))
