"""Engines agree: variational bound, Gibbs draws, and evidences by other means, model by model.

Draws are compared with exact expectations chain by chain; the limits on |z| have a false-alarm
rate of 1 % over all statistics of a test (Bonferroni).
"""

import math

import numpy as np
import pytest
import torch
from evidence import bridge, path_log_joints
from scipy.special import gammaln, logsumexp
from scipy.stats import cauchy, gamma, qmc
from scipy.stats import t as student_t
from small_designs import known, name, problem, random_values
from torch.distributions import Beta, Gamma, InverseGamma, Normal

from bayeshmm import Autoregressive, Gaussian, messages
from bayeshmm.emissions.hyperpriors import Hyperpriors
from bayeshmm.emissions.law import Effects, Law
from bayeshmm.emissions.likelihood import log_likelihood
from bayeshmm.emissions.regression import Precisions
from bayeshmm.emissions.tails import StudentT
from bayeshmm.inference import gibbs
from bayeshmm.inference.search import search
from bayeshmm.transitions import Chain


def largest_z(chains, exact):
    """Largest |z| of statistics (chains, statistics) of independent chains, and its limit."""
    error = chains.std(0, ddof=1) / math.sqrt(len(chains))
    limit = student_t.isf(0.005 / len(exact), len(chains) - 1)
    return np.abs((chains.mean(0) - exact) / error).max(), limit


@pytest.mark.parametrize(
    "family",
    [
        Gaussian(noise="normal"),
        Autoregressive(lags=1, coupling="full", covariance="diagonal", noise="normal"),
        Gaussian(run_effects=False),
        Autoregressive(lags=2),
    ],
    ids=name,
)
def test_paths_are_drawn_as_often_as_enumeration_says(family):
    """Whether neighbouring rows share a state, hyper-parameters known: free of the labels."""
    degrees = StudentT(2.0, 0.1).grid[12].item()
    normal = family.noise == "normal"
    family = known(family, None if normal else degrees)
    values = random_values(runs=2, rows=5, metrics=2, seed=1)
    values[0, 3:] += 3.0
    values[1, 2, 1] = np.nan
    prior, data = problem(family, 2, values)
    weights = None
    if not normal:
        seen = data.design.observed.any(-1)
        weights = torch.ones(512, *seen.shape, dtype=torch.float64)
        points = qmc.Sobol(int(seen.sum()), rng=0).random(len(weights))
        weights[:, seen] = torch.from_numpy(gamma(degrees / 2, scale=2 / degrees).ppf(points))
    ones = Precisions(*(torch.ones_like(part) for part in prior.regression.shrinkage((1,))[::2]))
    paths, terms = path_log_joints(data.design, prior.transition, ones, weights)
    law = terms.reshape(-1, len(paths)).logsumexp(0).softmax(0).numpy()
    labels = np.array(paths)
    exact = np.tensordot(law, labels[..., 1:] == labels[..., :-1], 1).flatten()

    generator = torch.Generator().manual_seed(0)
    fit, _ = search(prior, data, 2, seed=0)
    state, kept = gibbs.start(fit, 150, generator), []
    for i in range(120):
        state = gibbs.sweep(prior, data, state, generator)
        if i >= 30:
            kept.append((state.paths[..., 1:] == state.paths[..., :-1]).flatten(1).numpy())
    unsettled = (exact > 0.02) & (exact < 0.98)  # the dwell of two rows settles others
    assert unsettled.sum() >= 3
    z, limit = largest_z(np.mean(kept, 0)[:, unsettled], exact[unsettled])
    assert z < limit


class TestQuadrature:
    """One metric, one phase, no past: everything but two or three numbers integrates by formula."""

    def values(self):
        rng = np.random.default_rng(0)
        return 0.7 * rng.standard_normal((4, 1, 1)) + rng.standard_t(3, (4, 15, 1))

    @pytest.mark.parametrize(
        ("family", "most"),
        [
            (Gaussian(noise="normal", run_effects=False), 1.0),
            (Gaussian(noise="normal"), 1.0),
            (Gaussian(run_effects=False), 3.0),
        ],
        ids=["normal", "effects", "student-t"],
    )
    def test_bound_and_draws(self, family, most):
        prior, data = problem(family, 1, self.values())
        exact, evidence = integrated(prior, data.design.response[..., 0].numpy())
        fit, _ = search(prior, data, 1, seed=0)
        assert evidence - most < fit.bound < evidence
        chains = 60
        draws = gibbs.sample(fit, data, chains * 100, chains=chains, warmup=30, thin=1)
        numbers = [draws.law.coefficients[:, 0, 0, 0, 0], draws.law.log_variance[:, 0, 0, 0]]
        if draws.law.effects is not None:
            numbers.append(draws.precisions.groups[:, 0, -1].log())
        if draws.law.tail is not None:
            numbers.append(draws.law.tail.degrees[:, 0].log())
        each = torch.stack(numbers, 1).unflatten(0, (chains, -1))
        z, limit = largest_z(torch.cat([each, each.square()], -1).mean(1).numpy(), exact)
        assert z < limit


def integrated(prior, z):
    """First and second moments of level, log variance and one number more; log evidence.

    The more is the log precision of run effects or the log degrees of freedom. Shrinkage and scale
    are integrated by formula: a Cauchy law, and a ratio of Gamma functions.
    """
    level, log_variance = np.linspace(-3.0, 3.0, 121), np.linspace(-4.0, 4.0, 121)
    cell = (level[1] - level[0]) * (log_variance[1] - log_variance[0])
    axes = [level[:, None, None], log_variance[:, None]]
    b, variance = axes[0], np.exp(axes[1])
    a = prior.regression.hyperpriors.noise_shape
    log = cauchy.logpdf(b, scale=np.sqrt(variance)) - a * axes[1] + gammaln(a + 0.5)
    log = log - gammaln(a) - gammaln(0.5) - (a + 0.5) * np.log1p(1.0 / variance)
    if prior.tail is not None:
        axes.append(prior.tail.grid.log().numpy())
        log = log + prior.tail.log_prior.numpy()
        for x in z.flatten():
            log = log + student_t.logpdf(x, np.exp(axes[2]), b, np.sqrt(variance))
    else:
        rows, precision = z.shape[1], np.full(1, np.inf)
        if prior.regression.layout.run_effects:
            axes.append(np.linspace(-12.0, 8.0, 161))
            precision = np.exp(axes[2])
            log = log + gamma(0.5, scale=2.0).logpdf(precision) + axes[2]
            cell *= axes[2][1] - axes[2][0]
        for run in z:
            sums, squares = (run - b[..., None]).sum(-1), ((run - b[..., None]) ** 2).sum(-1)
            squares = (squares - sums**2 / (precision + rows)) / variance
            normaliser = rows * (axes[1] + math.log(2 * math.pi)) + np.log1p(rows / precision)
            log = log - 0.5 * (squares + normaliser)
    log = log + math.log(cell)
    evidence = logsumexp(log)
    law = np.exp(log - evidence)
    moments = [(law * axis**power).sum() for power in (1, 2) for axis in axes]
    return np.array(moments), evidence


class Unconstrained:
    """All unknowns of a model with two states as points of a vector space.

    Degrees of freedom, which are on a grid, are spread evenly over the cells about its points.
    """

    def __init__(self, prior, data):
        self.prior, self.data = prior, data
        self.active = prior.regression.layout.active
        if prior.tail is not None:
            self.grid = prior.tail.grid.log()
            self.cell = float(self.grid[1] - self.grid[0])

    def points(self, draws, rng):
        """Of draws, (S, dimensions); the shapes of their parts are kept."""
        law, precisions, chain = draws.law, draws.precisions, draws.chain
        parts = {
            "coefficients": law.coefficients[:, 0][..., self.active],
            "log_variance": law.log_variance[:, 0],
            "log_groups": precisions.groups[:, 0].log(),
            "log_scales": precisions.scales[:, 0].log(),
            "initial": torch.logit(chain.initial[:, 0, 0]),
            "exit": torch.logit(chain.transition[:, 0].flip(-1).diagonal(dim1=-2, dim2=-1)),
        }
        if law.effects is not None:
            parts["effects"] = law.effects.mean
        if law.tail is not None:
            spread = torch.from_numpy(rng.uniform(-0.5, 0.5, len(law.tail.degrees)))
            parts["log_degrees"] = law.tail.degrees[:, 0].log() + self.cell * spread
        self.shapes = {name: part.shape[1:] for name, part in parts.items()}
        return torch.cat([part.flatten(1) for part in map(self.wide, parts.values())], 1).numpy()

    @staticmethod
    def wide(part):
        return part[:, None] if part.ndim == 1 else part

    def log_density(self, points):
        """Joint log density of the points and the data, (S,)."""
        sizes = [max(1, math.prod(shape)) for shape in self.shapes.values()]
        split = torch.from_numpy(points).split(sizes, 1)
        at = {
            name: part.reshape(-1, *shape)
            for part, (name, shape) in zip(split, self.shapes.items(), strict=True)
        }
        prior, regression = self.prior, self.prior.regression
        K, D, R = regression.states, regression.layout.metrics, regression.layout.regressors
        S, variance = len(points), at["log_variance"].exp()
        groups, scales = at["log_groups"].exp(), at["log_scales"].exp()

        total = sum(
            at[part].flatten(1).sum(1) for part in ("log_variance", "log_groups", "log_scales")
        )
        start = regression.shrinkage(())
        total = total + Gamma(start.group_shape, start.group_rate).log_prob(groups).sum(1)
        total = total + Gamma(start.scale_shape, start.scale_rate).log_prob(scales).sum(1)
        noise = InverseGamma(regression.shapes, 0.5 * scales[:, None])
        total = total + noise.log_prob(variance).sum((1, 2))
        coefficients = torch.zeros(S, K, D, R, dtype=torch.float64)
        coefficients[..., self.active] = at["coefficients"]
        precision = regression.expand(Precisions(groups, scales))[:, None] / variance[..., None]
        terms = Normal(0.0, precision.rsqrt()).log_prob(coefficients) * self.active
        total = total + terms.sum((1, 2, 3))
        law = Law(coefficients[:, None], 1.0 / variance[:, None], at["log_variance"][:, None])
        if "effects" in at:
            deviation = (variance / groups[:, -1, None, None]).sqrt()[:, None]
            total = total + Normal(0.0, deviation).log_prob(at["effects"]).sum((1, 2, 3))
            law = law._replace(effects=Effects(at["effects"]))
        if "log_degrees" in at:
            place = ((at["log_degrees"] - self.grid[0]) / self.cell).round().long()
            inside = (place >= 0) & (place < len(self.grid))
            place = place.clamp(0, len(self.grid) - 1)
            total = total + prior.tail.log_prior[place] - math.log(self.cell)
            total = torch.where(inside, total, -torch.inf)
            law = law._replace(tail=prior.tail.value(prior.tail.grid[place][:, None]))

        first, leave = at["initial"].sigmoid(), at["exit"].sigmoid()
        for logits in (at["initial"][:, None], at["exit"]):
            total = total - torch.nn.functional.softplus(logits).sum(1)
            total = total - torch.nn.functional.softplus(-logits).sum(1)
        transition = prior.transition
        exits = Beta(*transition.exits.grid[:, 0].T[:, :, None]).log_prob(leave[:, None])
        total = total + (transition.exits.log_prior + exits.sum(-1)).logsumexp(1)
        matrix = torch.stack(
            [
                torch.stack([1 - leave[:, 0], leave[:, 0]], 1),
                torch.stack([leave[:, 1], 1 - leave[:, 1]], 1),
            ],
            1,
        )
        chain = Chain(torch.stack([first, 1 - first], 1)[:, None], matrix[:, None]).log
        rows, _ = log_likelihood(self.data.design, law)
        marginal = messages.log_marginal(
            chain.initial, chain.transition, rows,
            lengths=self.data.design.lengths, minimum_dwell=prior.minimum_dwell,
        )  # fmt: skip
        return (total + marginal.sum(1)).numpy()


SURE = Hyperpriors(degrees=(1e6, 1e6 / 30.0))
MODELS = [
    (Gaussian(noise="normal", run_effects=False), 1.0),
    (Gaussian(noise="normal", covariance="diagonal"), 1.0),
    (Autoregressive(lags=1, noise="normal"), 1.0),
    (Autoregressive(lags=1, coupling="full", noise="normal"), 1.0),
    (Gaussian(run_effects=False, hyperpriors=SURE), 1.0),
    (Autoregressive(lags=1, coupling="full"), 6.0),
]
"""Families, and how far below the evidence the bound may lie.

A nat where the model is well identified. Not where noise has heavy tails of unknown weight: the
bound takes the rows' weights as independent of the variances, which costs a nat or two a phase
however many rows there are.
"""


def two_phases(family):
    """Four runs of two metrics through two phases that nobody could confuse."""
    rng = np.random.default_rng(0)
    heavy = family.noise == "student-t"
    noise = rng.standard_t(4, (4, 60, 2)) if heavy else rng.standard_normal((4, 60, 2))
    noise[..., 1] += 0.5 * noise[..., 0]
    begin, end = rng.integers(16, 25, (4, 1)), rng.integers(36, 45, (4, 1))
    rows = np.arange(60)
    late = (begin <= rows) & (rows < end)
    level = np.where(late[..., None], [8.0, -8.0], [0.0, 0.0])
    values = level + noise + 0.5 * family.run_effects * rng.standard_normal((4, 1, 2))
    if not family.dynamic:
        return values
    drift = np.where(late[..., None], [2.0, -0.5], [-2.0, 1.0])
    steps = drift + 0.5 * noise
    values = np.zeros((4, 60, 2))
    for t in range(1, 60):
        values[:, t] = 0.7 * values[:, t - 1] + steps[:, t]
    return values


@pytest.mark.parametrize(
    ("family", "most"), MODELS, ids=[f"{name(family)}-{most:g}" for family, most in MODELS]
)
def test_the_bound_lies_just_under_the_evidence(family, most):
    """Of one labelling: the draws never leave theirs, so that log K! is in neither."""
    prior, data = problem(family, 2, two_phases(family), dwell=3, expected=30.0)
    fit, _ = search(prior, data, 4, seed=0)
    draws = gibbs.sample(fit, data, 20 * 200, chains=20, warmup=30, thin=1)
    space, rng = Unconstrained(prior, data), np.random.default_rng(0)
    points = rng.permutation(space.points(draws, rng))
    evidence, importance = bridge(space.log_density, points, seed=0)
    assert evidence == pytest.approx(importance, abs=0.2)
    assert evidence - most < fit.bound < evidence + 0.05
