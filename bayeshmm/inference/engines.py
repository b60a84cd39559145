"""The ways to get draws from a fitted mode, behind one signature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import torch

from bayeshmm import messages
from bayeshmm.emissions.likelihood import log_likelihood
from bayeshmm.encoding import Encoded
from bayeshmm.inference import gibbs
from bayeshmm.inference.gibbs import Draws
from bayeshmm.inference.threads import one_thread
from bayeshmm.inference.variational import VariationalFit

Inference = Literal["auto", "vi", "gibbs"]


class Engine(Protocol):
    """Draws from the posterior that a variational fit started."""

    def __call__(
        self, fit: VariationalFit, data: Encoded, draws: int, *, seed: int, progress: bool
    ) -> Draws:
        """At least `draws` draws; same seed, same draws."""
        ...


@one_thread()
def variational(
    fit: VariationalFit, data: Encoded, draws: int, *, seed: int, progress: bool = False
) -> Draws:
    """Independent draws of the variational posterior itself: intervals are too narrow."""
    generator = torch.Generator().manual_seed(seed)
    parameters = fit.parameters
    drawn = gibbs.start(fit, draws, generator)
    rows, _ = log_likelihood(data.design, fit.prior.law(parameters.regression.law, parameters.tail))
    expected = parameters.chain.expected_log
    uniforms = torch.rand((draws, *rows.shape[:-1]), dtype=torch.float64, generator=generator)
    paths = messages.sample_paths(
        expected.initial,
        expected.transition,
        rows,
        lengths=data.design.lengths,
        minimum_dwell=fit.prior.minimum_dwell,
        uniforms=uniforms,
    )
    return Draws(*drawn[:3], paths.to(torch.int8).numpy(), chains=1)


ENGINES: Mapping[str, Engine] = {"auto": gibbs.sample, "gibbs": gibbs.sample, "vi": variational}
"""``auto`` is the exact sampler: every built-in emission is conjugate."""
