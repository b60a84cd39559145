"""Posterior draws are calibrated, and the check that says so finds draws that are not."""

import numpy as np
import pytest
import torch
from scipy import stats

from bayeshmm.nested import expanded
from benchmarks.calibration import main, many, seeds_of
from benchmarks.calibration.datasets import (
    FAMILIES,
    METRICS,
    STATES,
    Effort,
    calibrated,
    entry_rows,
    quantities,
    simulated,
)
from benchmarks.calibration.ranks import band, coverage, distance, effective_size, uniform_ranks
from benchmarks.calibration.report import misses, pooled

QUICK = Effort(runs=6, rows=30, starts=2, chains=4, warmup=50, sweeps=100)
CLASSES = 10
"""Of quantities, in each family."""


def exact_ranks(rng, datasets=100, components=3, alike=5, width=1.0):
    """Ranks of dependent quantities, whose intervals are `width` times as wide as they should be.

    Quantities of one data set share half of the variance of their errors.
    """
    shared = rng.standard_normal((datasets, 1, 1))
    own = rng.standard_normal((datasets, components, alike))
    return stats.norm.cdf(np.sqrt(0.5) * (shared + own) / width)


class TestRanks:
    @pytest.mark.parametrize("law", [stats.norm(), stats.binom(3, 0.4)], ids=["normal", "discrete"])
    def test_among_exact_draws_they_are_uniform(self, law):
        rng = np.random.default_rng(0)
        truth, draws = law.rvs(2000, random_state=rng), law.rvs((40, 2000), random_state=rng)
        ranks = uniform_ranks(truth, draws, np.full(2000, 20), rng)
        assert stats.kstest(ranks, "uniform").pvalue > 0.01

    def test_autocorrelated_draws_are_worth_fewer(self):
        rng = np.random.default_rng(0)
        draws = np.empty((8, 1000, 60))
        draws[:, 0] = rng.standard_normal((8, 60))
        for t in range(1, 1000):
            draws[:, t] = 0.6 * draws[:, t - 1] + 0.8 * rng.standard_normal((8, 60))
        sizes = effective_size(draws.reshape(8000, 60), 8)
        assert sizes.mean() == pytest.approx(8000 * 0.4 / 1.6, rel=0.1)

    def test_chains_apart_are_worth_few_draws_and_constants_all(self):
        rng = np.random.default_rng(0)
        draws = rng.standard_normal((4, 200, 2)) + 10 * np.arange(4)[:, None, None]
        draws[..., 1] = 7.0
        apart, constant = effective_size(draws.reshape(800, 2), 4)
        assert apart < 20
        assert constant == 800


class TestVerdict:
    def test_the_band_holds_for_dependent_ranks(self):
        rng = np.random.default_rng(1)
        found = [distance(exact_ranks(rng)) for _ in range(1000)]
        bands = [band(exact_ranks(rng), 0.9) for _ in range(10)]
        assert np.mean(bands) == pytest.approx(np.quantile(found, 0.9), rel=0.08)

    def test_the_error_of_a_coverage_holds_for_dependent_ranks(self):
        rng = np.random.default_rng(2)
        z = [coverage(exact_ranks(rng), 0.9).z for _ in range(1000)]
        assert np.std(z) == pytest.approx(1, abs=0.1)

    def test_exact_ranks_pass_and_others_do_not(self):
        rng = np.random.default_rng(3)
        assert misses({("gibbs", "exact"): exact_ranks(rng)}) == []
        narrow = misses({("gibbs", "narrow"): exact_ranks(rng, width=0.7)})
        assert any("narrow: intervals of 90%" in miss for miss in narrow)
        one_off = exact_ranks(rng)
        one_off[:, 1] **= 2  # of three components, biased
        assert any("one: ranks" in miss for miss in misses({("gibbs", "one"): one_off}))


class TestQuantities:
    @pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
    def test_labels_do_not_matter(self, family):
        simulation = simulated(family, QUICK, seed=0)
        law, precisions, chain, *_ = simulation.parameters
        paths, order = torch.from_numpy(simulation.paths), torch.tensor([2, 0, 1])
        renamed = law._replace(
            coefficients=law.coefficients[:, order],
            precision=law.precision[:, order],
            log_variance=law.log_variance[:, order],
            effects=law.effects._replace(mean=law.effects.mean[:, order]),
        )
        other_chain = chain._replace(
            initial=chain.initial[:, order], transition=chain.transition[:, order][:, :, order]
        )
        other_paths = torch.where(paths >= 0, order.argsort()[paths], -1)
        one = quantities(family, *expanded((law, precisions, chain, paths), 1))
        other = quantities(family, *expanded((renamed, precisions, other_chain, other_paths), 1))
        assert len(one) == CLASSES
        for name, values in one.items():
            assert np.array_equal(values, other[name]), name

    def test_entry_rows_are_the_first_rows_of_the_states(self):
        paths = torch.tensor([[[0, 0, 1, 0], [1, 1, -1, -1]]])
        assert entry_rows(paths).tolist() == [[[0, 4], [2, 0], [4, 4]]]

    def test_every_quantity_has_a_component_of_its_own(self):
        family = FAMILIES["AR(1)"]
        simulation = simulated(family, QUICK, seed=0)
        law, precisions, chain, *_ = simulation.parameters
        true = expanded((law, precisions, chain, torch.from_numpy(simulation.paths)), 1)
        shapes = {name: part.shape[1:] for name, part in quantities(family, *true).items()}
        assert shapes["transition probabilities"] == (STATES**2, 1)
        assert shapes["entry times"] == (STATES, QUICK.runs)
        assert shapes["run effects"] == (STATES * METRICS, QUICK.runs)
        assert shapes["coefficients"] == (STATES * (2 + 2 + 1), 1)  # own past, and a contrast


def test_the_exact_sampler_is_calibrated_and_the_variational_posterior_is_not():
    """Few and small data sets: an exact sampler fails with probability 2 %, the seeds are fixed."""
    ranks = pooled(many(calibrated, FAMILIES["AR(1)"], QUICK, seeds=range(20), jobs=1))
    assert misses(ranks) == []
    assert misses(ranks, "conjugate") != []


@pytest.mark.calibration
@pytest.mark.parametrize("name", FAMILIES)
def test_the_exact_sampler_is_calibrated_in_every_family(name):
    """An exact sampler fails in any family with probability 2 %, the seeds are fixed."""
    seeds = seeds_of(name, 200)
    ranks = pooled(many(calibrated, FAMILIES[name], Effort(), seeds=seeds, jobs=2))
    assert misses(ranks, comparisons=CLASSES * len(FAMILIES)) == []


def test_the_benchmark_writes_its_tables(tmp_path, monkeypatch, capsys):
    small = Effort(runs=2, rows=12, starts=1, chains=2, warmup=2, sweeps=10)
    monkeypatch.setattr("benchmarks.calibration.Effort", lambda: small)
    status = main(["--datasets", "3", "--jobs", "1", "--out", str(tmp_path / "tables.md")])
    text = (tmp_path / "tables.md").read_text("utf-8")
    assert status in {0, 1}
    assert "## averages" in text
    assert "| AR(1), fitted by levels |" in text
    assert capsys.readouterr().out.startswith(text)
