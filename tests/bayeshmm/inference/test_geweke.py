"""Joint distribution test of the Gibbs sampler (Geweke 2004).

Alternating "data given parameters" with one Gibbs sweep must leave the prior invariant. The
statistics are bounded or logged functions of every block; the limit on the largest |z| has a
false-alarm rate of 1 % over all statistics (Bonferroni), with batch-means standard errors.
"""

from dataclasses import fields

import numpy as np
import pytest
import torch
from scipy.stats import t as student_t
from simulation import simulate_paths, simulate_values

from bayeshmm.emissions import Autoregressive, Gaussian, families
from bayeshmm.emissions.likelihood import Moments
from bayeshmm.emissions.regression import RegressionPrior
from bayeshmm.hmm import Prior
from bayeshmm.inference import gibbs
from bayeshmm.transitions import TransitionPrior

K, D, DWELL = 3, 2, 2
LENGTHS = [7, 6]
SWEEPS = 3000


class Joint:
    """The model on a fixed pattern of observed entries, with units of one and no rounding."""

    def __init__(self, family):
        self.family = family
        layout = families.layout(family, D)
        # tame hyper-priors: with heavy tails the statistics would never settle
        regression = RegressionPrior(
            layout, K, noise_shape=3.0, group=(5.0, 0.05), scale=(5.0, 5.0)
        )
        self.prior = Prior(regression, TransitionPrior(K, DWELL, 5.0), None, DWELL)
        self.observed = np.ones((len(LENGTHS), max(LENGTHS), D), dtype=bool)
        self.observed[0, 3, 0] = False  # one leading and one trailing missing entry
        self.observed[1, 2, 1] = False
        self.first = np.array([[0.3, -0.5], [1.0, 0.2]])
        self.scale = np.ones((D, len(family.groups)))

    def prior_state(self, generator, rng):
        regression, transition = self.prior.regression, self.prior.transition
        precisions = regression.shrinkage((1, 1)).sample(generator)
        R = regression.layout.regressors
        blank = torch.zeros(1, 1, K, D, R + 1, R + 1, dtype=torch.float64)
        nothing = Moments(blank, *[blank[..., 0, 0]] * 2)
        law = regression.posterior(nothing, precisions).sample(generator)
        point = transition.grid_point(transition.grid((1, 1)), generator)
        chain = transition.prior_law(point).sample(generator)
        paths = simulate_paths(
            rng, chain.initial[0, 0].numpy(), chain.transition[0, 0].numpy(), LENGTHS, DWELL
        )
        return gibbs.State(law, precisions, chain, torch.from_numpy(paths)[None])

    def design(self, state, rng):
        values = simulate_values(
            rng,
            self.family,
            state.law.coefficients[0, 0].numpy(),
            1.0 / state.law.precision[0, 0].numpy(),
            state.paths[0].numpy(),
            self.observed,
            self.first,
            self.scale,
        )
        return families.design(
            self.family, values, np.array(LENGTHS), np.ones(D), np.zeros(D), self.scale
        )

    def statistics(self, state):
        law, precisions, chain, paths = state
        counts = gibbs.path_counts(paths, K, DWELL)
        share = torch.stack([(paths == k).sum() for k in range(K)]) / sum(LENGTHS)
        parts = [
            law.log_variance.flatten(),
            torch.tanh(law.coefficients[..., self.prior.regression.layout.active].flatten()),
            precisions.groups.log().flatten(),
            precisions.scales.log().flatten(),
            chain.initial.flatten(),
            chain.transition.flatten(),
            share,
            counts.transition.flatten() / sum(LENGTHS),
        ]
        values = torch.cat(parts)
        return torch.cat([values, values.square()]).numpy()


def largest_z(family, sweep, sweeps=SWEEPS, seed=0):
    """Largest |z| over the statistics, and its 1 % limit."""
    joint = Joint(family)
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    marginal = np.array(
        [joint.statistics(joint.prior_state(generator, rng)) for _ in range(sweeps)]
    )
    state, chain = joint.prior_state(generator, rng), []
    for _ in range(sweeps):
        state = sweep(joint.prior, joint.design(state, rng), state, generator)
        chain.append(joint.statistics(state))
    batches = np.array(chain).reshape(40, -1, marginal.shape[1]).mean(1)
    variance = batches.var(0, ddof=1) / 40 + marginal.var(0, ddof=1) / sweeps
    moving = variance > 1e-20
    z = (batches.mean(0) - marginal.mean(0))[moving] / np.sqrt(variance[moving])

    return np.abs(z).max(), student_t.isf(0.005 / moving.sum(), 39)


@pytest.mark.parametrize(
    "family",
    [Gaussian(), Autoregressive(lags=2), Autoregressive(lags=1, covariance="diagonal")],
    ids=repr,
)
def test_gibbs_leaves_the_prior_invariant(family):
    z, limit = largest_z(family, gibbs.sweep)
    assert z < limit


def test_a_planted_error_is_found():
    """Half a count too many in the shape of every variance."""

    def wrong(prior, design, state, generator):
        class Wrong(RegressionPrior):
            def posterior(self, moments, precisions):
                return super().posterior(moments._replace(counts=moments.counts + 1.0), precisions)

        regression = Wrong(*(getattr(prior.regression, f.name) for f in fields(RegressionPrior)))
        return gibbs.sweep(
            Prior(regression, prior.transition, None, prior.minimum_dwell), design, state, generator
        )

    z, limit = largest_z(Gaussian(), wrong, sweeps=2000)
    assert z > limit


@pytest.mark.calibration
@pytest.mark.parametrize("seed", [1, 2])
def test_gibbs_leaves_the_prior_invariant_over_a_long_run(seed):
    z, limit = largest_z(Autoregressive(lags=2), gibbs.sweep, sweeps=20000, seed=seed)
    assert z < limit
