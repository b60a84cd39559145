"""Joint distribution tests of the Gibbs sampler (Geweke 2004).

Alternating "data given parameters" with one Gibbs sweep must leave the prior invariant. The
statistics are bounded or logged functions of every block; the limit on the largest |z| has a
false-alarm rate of 1 % over all statistics (Bonferroni), with batch-means standard errors.
"""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy.stats import t as student_t
from simulation import simulate_parameters, simulate_paths, simulate_values
from small_designs import encoded, name

from bayeshmm.emissions import Autoregressive, Gaussian, families
from bayeshmm.emissions.hyperpriors import Hyperpriors
from bayeshmm.emissions.law import Effects, Law
from bayeshmm.emissions.regression import Precisions, RegressionPrior
from bayeshmm.emissions.tails import StudentT
from bayeshmm.hmm import Prior
from bayeshmm.inference import gibbs
from bayeshmm.transitions import Dirichlet, Grouped, LeftToRight, Schedule, StickyHDP

K, D, DWELL = 3, 2, 2
LENGTHS = [7, 6, 5]
SWEEPS, FEW, BATCHES = 1200, 600, 20

# tame: with heavy tails the statistics would never settle
TAME = Hyperpriors(
    noise_shape=3.0,
    scale=(5.0, 5.0),
    shrinkage=(5.0, 0.05),
    run_effects=(5.0, 5.0),
    degrees=(4.0, 1.0),
)


class Joint:
    """The model on a fixed pattern of observed entries, with units of one and no rounding."""

    def __init__(self, family, gaps=False, transition=None, schedule=None):
        self.family = replace(family, hyperpriors=TAME)
        transition = transition or Dirichlet().prior(K, DWELL, 5.0)
        self.prior = replace(Prior.of(self.family, D, K, transition), entry=None)
        self.schedule = schedule or Schedule()
        self.observed = np.ones((len(LENGTHS), max(LENGTHS), D), dtype=bool)
        self.observed[0, 3, 0] = self.observed[2, 2, 0] = False  # leading entries
        self.observed[1, 2, 1] = False  # a trailing one
        self.observed[1, 4] = False  # a whole row
        if gaps:
            self.observed[:, 1::2, 0] = False
        self.first = np.array([[0.3, -0.5], [1.0, 0.2], [-0.4, 0.1]])
        self.scale = np.ones((D, len(family.features)))

    def prior_state(self, generator, rng):
        regression, transition = self.prior.regression, self.prior.transition
        groups, scales, coefficients, variance, effects = (
            None if part is None else torch.from_numpy(part)
            for part in simulate_parameters(rng, regression.layout, K, len(LENGTHS), TAME)
        )
        law = Law(coefficients[None, None], 1 / variance[None, None], variance.log()[None, None])
        if effects is not None:
            law = law._replace(effects=Effects(effects[None]))
        if self.prior.tail is not None:
            law = law._replace(tail=self.prior.tail.drawn(self.prior.tail.law((1, 1)), generator))
        chain, hyper = transition.draw(generator, (1, 1))
        paths = simulate_paths(
            rng,
            chain.initial[0, 0].numpy(),
            self.schedule.of_groups(chain).transition[0].numpy(),
            LENGTHS,
            self.prior.minimum_dwell,
            None if self.schedule.gaps is None else self.schedule.gaps.numpy(),
        )
        precisions = Precisions(groups[None, None], scales[None, None])
        return gibbs.State(law, precisions, chain, hyper, torch.from_numpy(paths)[None])

    def data(self, state, rng):
        law = state.law
        values = simulate_values(
            rng,
            self.family,
            law.coefficients[0, 0].numpy(),
            1.0 / law.precision[0, 0].numpy(),
            state.paths[0].numpy(),
            self.observed,
            self.first,
            self.scale,
            None if law.effects is None else law.effects.mean[0].numpy(),
            None if law.tail is None else law.tail.degrees.item(),
        )
        design = families.design(
            self.family, values, np.array(LENGTHS), np.ones(D), np.zeros(D), self.scale
        )
        return replace(encoded(design), schedule=self.schedule)

    def statistics(self, state):
        law, precisions, chain, hyper, paths = state
        pairs = replace(self.schedule, gaps=None)
        counts = pairs.path_counts(paths, chain.log, self.prior.minimum_dwell, torch.Generator())
        share = torch.stack([(paths == k).sum() for k in range(K)]) / sum(LENGTHS)
        parts = [
            law.log_variance.flatten(),
            torch.tanh(law.coefficients[..., self.prior.regression.layout.active].flatten()),
            precisions.groups.log().flatten(),
            precisions.scales.log().flatten(),
            torch.cat([value.clamp_min(1e-6).log().flatten() for value in hyper.values()]),
            chain.initial.flatten(),
            chain.transition.flatten(),
            share,
            counts.transition.flatten() / sum(LENGTHS),
        ]
        if law.effects is not None:
            # of each run, and how large they are: all at once says more of their precision
            effects = law.effects.mean
            parts += [torch.tanh(effects.flatten()), effects.square().mean().log()[None]]
        if law.tail is not None:
            parts.append(law.tail.degrees.log().flatten())
        values = torch.cat(parts)
        return torch.cat([values, values.square()]).numpy()


def largest_z(family, sweep=gibbs.sweep, sweeps=SWEEPS, seed=0, **settings):
    """Largest |z| over the statistics, and its 1 % limit."""
    joint = Joint(family, **settings)
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    marginal = np.array(
        [joint.statistics(joint.prior_state(generator, rng)) for _ in range(sweeps // 2)]
    )
    state, chain = joint.prior_state(generator, rng), []
    for _ in range(sweeps):
        state = sweep(joint.prior, joint.data(state, rng), state, generator)
        chain.append(joint.statistics(state))
    batches = np.array(chain).reshape(BATCHES, -1, marginal.shape[1]).mean(1)
    variance = batches.var(0, ddof=1) / BATCHES + marginal.var(0, ddof=1) / len(marginal)
    moving = variance > 1e-20
    z = (batches.mean(0) - marginal.mean(0))[moving] / np.sqrt(variance[moving])
    return np.abs(z).max(), student_t.isf(0.005 / moving.sum(), BATCHES - 1)


PLAIN = {"noise": "normal", "run_effects": False}
PARTS = [
    Autoregressive(lags=2, **PLAIN),
    Gaussian(noise="normal"),
    Autoregressive(lags=1, covariance="diagonal"),
]
ALL = Autoregressive(lags=1, half_lives=(2.0,), coupling="full")
"""Every part at once, in the full covariance."""


@pytest.mark.parametrize("family", [*PARTS, ALL], ids=name)
def test_gibbs_leaves_the_prior_invariant(family):
    z, limit = largest_z(family)
    assert z < limit


LEVELS = Gaussian(**PLAIN)
GROUPS = torch.tensor([0, 1, 0])
UNEVEN = torch.tensor([[1, 2, 4, 8, 5, 3], [3, 1, 1, 6, 2, 1], [2, 2, 9, 1, 1, 1]])
STRUCTURES = {
    "left to right": (LeftToRight().prior(K, DWELL, 5.0), Schedule()),
    "sticky HDP": (StickyHDP(K).prior(K, DWELL, 5.0), Schedule()),
    "grouped": (Grouped().prior(K, DWELL, 5.0, 2), Schedule(GROUPS)),
    "uneven": (Dirichlet().prior(K, 1, 9.0), Schedule(gaps=UNEVEN)),
    "uneven with a dwell": (Dirichlet().prior(K, DWELL, 9.0), Schedule(gaps=UNEVEN)),
    "uneven and grouped": (Grouped().prior(K, 1, 9.0, 2), Schedule(GROUPS, UNEVEN)),
    "uneven from left to right": (LeftToRight().prior(K, 1, 9.0), Schedule(gaps=UNEVEN)),
}


QUICKLY = ["left to right", "sticky HDP", "uneven with a dwell", "uneven and grouped"]


@pytest.mark.parametrize("structure", QUICKLY)
def test_gibbs_leaves_the_prior_of_the_chain_invariant(structure):
    transition, schedule = STRUCTURES[structure]
    z, limit = largest_z(LEVELS, sweeps=FEW, transition=transition, schedule=schedule)
    assert z < limit


class TestPlantedErrorsAreFound:
    @staticmethod
    def wrong(regression: type[RegressionPrior]):
        """A sweep with another regression."""

        def sweep(prior, data, state, generator):
            settings = (getattr(prior.regression, f.name) for f in fields(RegressionPrior))
            planted = replace(prior, regression=regression(*settings))
            return gibbs.sweep(planted, data, state, generator)

        return sweep

    def test_half_a_count_too_many_in_the_shape_of_a_variance(self):
        class Wrong(RegressionPrior):
            def posterior(self, moments, precisions):
                return super().posterior(moments._replace(counts=moments.counts + 1.0), precisions)

        z, limit = largest_z(Gaussian(**PLAIN), self.wrong(Wrong))
        assert z > limit

    def test_effects_of_one_run_too_few_in_the_shape_of_their_precision(self):
        class Wrong(RegressionPrior):
            def posterior_shrinkage(self, law):
                right = super().posterior_shrinkage(law)
                right.group_shape[..., -1] -= 0.5 * K * D
                return right

        z, limit = largest_z(Gaussian(noise="normal"), self.wrong(Wrong), FEW)
        assert z > limit

    def test_missing_entries_that_take_a_weight_for_its_root(self, monkeypatch):
        right = gibbs._impute

        def wrong(completion, pattern, weights, generator):
            return right(completion, pattern, weights.square(), generator)

        monkeypatch.setattr(gibbs, "_impute", wrong)
        z, limit = largest_z(Gaussian(run_effects=False), sweeps=FEW, gaps=True)
        assert z > limit

    def test_degrees_of_freedom_without_their_prior(self, monkeypatch):
        right = StudentT.sample

        def wrong(self, *data):
            flat = StudentT(1e-9, 1e-9)
            return right(flat, *data)

        monkeypatch.setattr(StudentT, "sample", wrong)
        z, limit = largest_z(Gaussian(run_effects=False), sweeps=FEW)
        assert z > limit


@pytest.mark.calibration
@pytest.mark.parametrize("structure", STRUCTURES)
def test_gibbs_leaves_the_prior_of_the_chain_invariant_over_a_long_run(structure):
    transition, schedule = STRUCTURES[structure]
    z, limit = largest_z(LEVELS, sweeps=3000, seed=1, transition=transition, schedule=schedule)
    assert z < limit


@pytest.mark.calibration
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("family", [Autoregressive(lags=2), ALL], ids=name)
def test_gibbs_leaves_the_prior_invariant_over_a_long_run(family, seed):
    z, limit = largest_z(family, sweeps=5000, seed=seed)
    assert z < limit
