"""Bridge estimates of integrals that are known, and the laws that they are met with."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy.special import gammaln
from scipy.stats import multivariate_normal

from bayeshmm.inference.bridge import Part, bridge
from bayeshmm.inference.surrogate import SparseNormal, Surrogate
from bayeshmm.inference.unconstrained import Unconstrained, isolated
from bayeshmm.transitions.log_ratios import DirichletLogRatios, log_cells

CHAINS, DRAWS = 4, 250


def parameters():
    """Simplices near their corners, a funnel, and a batch of rows with a plate beside it."""
    size = pyro.sample("size", dist.Gamma(torch.tensor(2.0).double(), 4.0))
    cells = torch.stack([0.2 * size, 2.0 * size, 3.0 * size], -1)
    share = pyro.sample(
        "share", dist.Dirichlet(cells[..., None, :].expand(*cells.shape[:-1], 2, 3)).to_event(1)
    )
    variance = pyro.sample("variance", dist.InverseGamma(torch.ones(2).double(), 1.0).to_event(1))
    scale = variance.sqrt()[..., None].expand(*variance.shape, 3)
    effect = pyro.sample("effect", dist.Normal(torch.zeros_like(scale), scale).to_event(2))
    return share, effect


def funnel():
    """With a plate of five runs that no site is in."""
    parameters()
    with pyro.plate("runs", 5):
        pyro.factor("nothing", torch.zeros(5).double())


COUNTS = torch.tensor([[0.0, 3.0, 40.0], [12.0, 5.0, 2.0]], dtype=torch.float64)
VALUES = torch.tensor([0.4, 0.5, 0.7, 0.9], dtype=torch.float64)


def counted():
    """Counts with a Dirichlet law each: a site with a plate of its own."""
    with pyro.plate("rows", 2):
        share = pyro.sample("share", dist.Dirichlet(torch.full((3,), 0.4).double()))
    pyro.factor("counts", (COUNTS * share.log()).sum(-1).sum(-1, keepdim=True))


def counted_in_logs():
    """The same, with the logarithms of the shares' ratios for the site."""
    cells = torch.full((2, 3), 0.4).double()
    ratio = pyro.sample("ratio", DirichletLogRatios(cells).to_event(1))
    with pyro.plate("rows", 2):
        pyro.factor("counts", (COUNTS * log_cells(ratio)).sum(-1))


def levelled():
    """Normal values with a level and a variance."""
    variance = pyro.sample("variance", dist.InverseGamma(torch.tensor(3.0).double(), 0.5))
    level = pyro.sample("level", dist.Normal(torch.zeros_like(variance), (variance / 0.2).sqrt()))
    rows = dist.Normal(level[..., None], variance.sqrt()[..., None]).log_prob(VALUES)
    pyro.factor("rows", rows.sum(-1))


def drawn(sample, seed):
    """The part of a posterior of which `sample` gives values of the sites."""
    with isolated(seed):
        return sample()


def funnel_values(size):
    with poutine.block(), pyro.plate("draws", size, dim=-2):
        trace = poutine.trace(parameters).get_trace()
    return {
        name: trace.nodes[name]["value"][:, 0] for name in ("size", "share", "variance", "effect")
    }


def part(model, latent, values):
    space = Unconstrained(model)
    return Part(space, latent, space.points(values).unflatten(0, (CHAINS, -1)))


def funnel_part(seed, size=CHAINS * DRAWS):
    return part(funnel, parameters, drawn(lambda: funnel_values(size), seed))


def counted_part(seed):
    law = dist.Dirichlet(0.4 + COUNTS)
    return part(counted, counted, {"share": drawn(lambda: law.sample((CHAINS * DRAWS,)), seed)})


def counted_in_logs_part(seed):
    law = DirichletLogRatios(0.4 + COUNTS)
    values = drawn(lambda: law.sample((CHAINS * DRAWS,)), seed)
    return part(counted_in_logs, counted_in_logs, {"ratio": values})


def levelled_part(seed):
    """Exact draws of the normal-inverse-gamma posterior."""
    shape, rate, mean, precision = levelled_posterior()

    def sample():
        variance = dist.InverseGamma(shape, rate).sample((CHAINS * DRAWS,))
        level = dist.Normal(mean, (variance / precision).sqrt()).sample()
        return {"variance": variance, "level": level}

    return part(levelled, levelled, drawn(sample, seed))


def levelled_posterior():
    n, precision = len(VALUES), 0.2 + len(VALUES)
    mean = VALUES.sum() / precision
    rate = 0.5 + 0.5 * (VALUES.square().sum() - precision * mean**2)
    return torch.tensor(3.0 + n / 2).double(), rate, mean, precision


def known(name):
    if name == "funnel":
        return 0.0  # nothing but a prior
    if name.startswith("counted"):
        cells = 0.4 + COUNTS.numpy()
        after = gammaln(cells).sum(1) - gammaln(cells.sum(1))
        return float((after - 3 * gammaln(0.4) + gammaln(1.2)).sum())
    shape, rate, _, precision = (float(part) for part in levelled_posterior())
    n = len(VALUES)
    return float(
        gammaln(shape) - gammaln(3.0) + 3.0 * math.log(0.5) - shape * math.log(rate)
        + 0.5 * math.log(0.2 / precision) - 0.5 * n * math.log(2 * math.pi)
    )  # fmt: skip


PARTS = {
    "funnel": funnel_part,
    "counted": counted_part,
    "counted in logs": counted_in_logs_part,
    "levelled": levelled_part,
}


@pytest.mark.parametrize("name", PARTS)
def test_known_integrals(name):
    """Over independent draws: within the errors that are reported, and these are honest."""
    found = [bridge(PARTS[name](seed), seed=seed, at_once=400) for seed in range(8)]
    misses = np.array([(one.value - known(name)) / math.hypot(one.error, 0.003) for one in found])
    assert max(one.error for one in found) < 0.1
    assert max(one.k_hat for one in found) < 1.0
    assert np.abs(misses).max() < 4.0
    assert np.sqrt((misses**2).mean()) < 1.6  # 8 degrees of freedom, and a margin


def test_same_seed_same_estimate_and_global_numbers_are_left_alone():
    some = funnel_part(0)
    state = torch.get_rng_state()
    one, again = (bridge(some, seed=3, at_once=size) for size in (1000, 37))
    assert torch.equal(torch.get_rng_state(), state)
    assert one.value == pytest.approx(again.value, abs=1e-9)


def test_repeated_draws_tell_no_more_than_once():
    """Ten times as many draws of the law are met with; the posterior's are the same."""
    ratios = []
    for seed in range(4):
        few = funnel_part(seed, CHAINS * 100)
        repeated = few._replace(points=few.points.repeat_interleave(10, 1))
        alone, many = (bridge(some, seed=0, at_once=4000).error for some in (few, repeated))
        ratios.append(many / alone)
    assert np.mean(ratios) > 0.4  # 0.32, were the repetitions taken for new draws


def test_draws_of_another_density_are_found_out():
    """Half of them from far away: the two halves of each chain disagree."""
    some = levelled_part(0)
    points = some.points.clone()
    points[:, DRAWS // 2 :] += 3.0
    assert bridge(some._replace(points=points), seed=0, at_once=1000).error > 0.3


class TestSparseNormal:
    @pytest.fixture(scope="class")
    @classmethod
    def draws(cls):
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(4000, 5, dtype=torch.float64, generator=generator)
        mixing = torch.tensor(
            [
                [1.0, 0, 0, 0, 0],
                [2, 1, 0, 0, 0],
                [0, 0, 3, 0, 0],
                [0, 0.7, 0, 1, 0],
                [1, 1, 1, 1, 1e-4],
            ],
            dtype=torch.float64,
        )
        return 5.0 + noise @ mixing.T

    def test_its_density_is_that_of_a_normal_law(self, draws):
        law = SparseNormal(draws)
        covariance = np.cov(draws.numpy().T)
        expected = multivariate_normal(draws.mean(0).numpy(), covariance).logpdf(draws.numpy())
        gap = law.log_density(draws).numpy() - expected
        assert abs(gap.mean()) < 0.01  # correlations that are but noise are left out
        assert gap.std() < 0.1

    def test_its_draws_have_that_law(self, draws):
        law = SparseNormal(draws)
        again = law.sample(4000, torch.Generator().manual_seed(1))
        found, expected = (np.cov(some.numpy().T) for some in (again, draws))
        scale = np.sqrt(np.diag(expected))
        np.testing.assert_allclose(
            found / np.outer(scale, scale), expected / np.outer(scale, scale), atol=0.1
        )
        # what nearly is a combination of the others stays one
        exact = np.linalg.lstsq((draws[:, :4] - 5.0).numpy(), (draws[:, 4] - 5.0).numpy())[0]
        rest = (again[:, 4] - 5.0).numpy() - (again[:, :4] - 5.0).numpy() @ exact
        assert rest.std() < 2e-4

    def test_what_has_nothing_to_do_with_another_is_left_apart(self, draws):
        law = SparseNormal(draws[:, [0, 2]])
        assert law.root[1, 0] == 0


class TestSurrogate:
    @pytest.mark.parametrize("centred", [False, True])
    def test_draws_and_density_are_of_one_normalised_law(self, centred):
        """Means of ratios to another such law are 1, both ways."""
        laws = []
        for seed in (0, 1):
            some = levelled_part(seed)
            laws.append(Surrogate(some.space, some.latent, some.points.flatten(0, 1), centred))
        for one, other in (laws, laws[::-1]):
            points = one.sample(4000, torch.Generator().manual_seed(2))
            ratio = (other.log_density(points) - one.log_density(points)).exp()
            assert float(ratio.mean()) == pytest.approx(1.0, abs=5 * float(ratio.std()) / 4000**0.5)

    def test_prior_sites_that_the_data_leave_alone_keep_their_prior(self):
        """The funnel's effects: normal given their variance, however small that is."""
        some = funnel_part(0, 4000)
        law = Surrogate.fit(some.space, some.latent, some.points.flatten(0, 1))
        values = some.space.values(law.sample(4000, torch.Generator().manual_seed(0)))
        standard = values["effect"] / values["variance"].sqrt()[..., None]
        assert float(standard.std()) == pytest.approx(1.0, abs=0.05)
        small = values["variance"] < values["variance"].quantile(0.1)
        assert float(standard[small].std()) == pytest.approx(1.0, abs=0.1)
        shares = some.space.values(some.points.flatten(0, 1))["share"]
        torch.testing.assert_close(
            values["share"].log().mean(0), shares.log().mean(0), rtol=0.1, atol=0.3
        )
