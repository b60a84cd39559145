"""The regressions as Pyro sites; the last batch axis of a value is that of the plate of runs."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from bayeshmm.emissions.hyperpriors import Hyperpriors
from bayeshmm.emissions.law import Effects, Law, Tail
from bayeshmm.emissions.regression import Precisions, RegressionPrior
from bayeshmm.emissions.tails import StudentT
from bayeshmm.nested import batched


def regressions(prior: RegressionPrior, prefix: str = "") -> tuple[Law, Precisions]:
    """Sample ``shrinkage, scale, variance, coefficient``, their names after `prefix`.

    Returns
    -------
    law
        Values that all runs share, n = 1.
    precisions
        The hyper-parameters.
    """
    D, shrinkage = prior.layout.metrics, prior.shrinkage(())

    def gamma(name: str, shape: Tensor, rate: Tensor) -> Tensor:
        return pyro.sample(f"{prefix}{name}", dist.Gamma(shape, rate).to_event(1))

    precisions = Precisions(
        gamma("shrinkage", shrinkage.group_shape, shrinkage.group_rate),
        gamma("scale", shrinkage.scale_shape, shrinkage.scale_rate),
    )
    rate = 0.5 * precisions.scales[..., None, :].expand(
        *precisions.scales.shape[:-1], prior.states, D
    )
    variance = pyro.sample(
        f"{prefix}variance", dist.InverseGamma(prior.shapes.expand(rate.shape), rate).to_event(2)
    )
    precision = prior.expand(precisions)[..., None, :, :]
    deviation = (variance[..., None] / precision).sqrt()
    coefficient = pyro.sample(
        f"{prefix}coefficient", dist.Normal(torch.zeros_like(deviation), deviation).to_event(3)
    )
    variance = batched(variance, 2)
    law = Law(batched(coefficient, 3), 1.0 / variance, variance.log())
    return law, Precisions(*(batched(part, 1) for part in precisions))


def tail(hyperpriors: Hyperpriors) -> Tail:
    """Sample the ``degrees`` of freedom, here continuous and unbounded."""
    shape, rate = torch.tensor(hyperpriors.degrees, dtype=torch.float64)
    return StudentT.value(batched(pyro.sample("degrees", dist.Gamma(shape, rate)), 0))


def run_effects(law: Law, precision: Tensor, runs: int) -> Law:
    """Sample ``run_effect``, inside the plate of the runs, into each run's own constant.

    Parameters
    ----------
    law
        Shared by all runs, n = 1.
    precision
        ``lambda_run``, (..., 1).
    runs
        Size of the plate.
    """
    deviation = (law.precision * precision[..., None, None]).rsqrt()
    deviation = deviation.expand(*deviation.shape[:-3], runs, -1, -1)
    effect = pyro.sample(
        "run_effect", dist.Normal(torch.zeros_like(deviation), deviation).to_event(2)
    )
    return law._replace(effects=Effects(effect)).by_run()
