"""Gibbs sampling, NUTS and variational inference draw from one posterior.

Means and spreads of the same quantities are compared in their Monte-Carlo standard errors; the
limit on |z| has a false-alarm rate of 1 % over all statistics of a test (Bonferroni). Gibbs has the
chain's hyper-parameters on a grid where the others have them continuous: a hundredth of a standard
deviation is allowed for that.
"""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from synthetic_runs import PLAIN, phase_of_rows, tidy

import bayeshmm as bh
from bayeshmm._arviz import az

GRID = 0.01
"""Standard deviations by which a grid may move a mean."""

ENGINES = {
    "gibbs": (bh.Gibbs(thin=3), 8000),
    "nuts": (bh.NUTS(warmup=150), 1200),
    "vi": (bh.VI(), 8000),
}


@pytest.fixture(scope="module")
def switching():
    """Six runs of one metric that go to and fro between two levels, three times each."""
    rng = np.random.default_rng(0)
    frames = []
    for n in range(6):
        changes = np.cumsum(rng.integers(6, 14, 5))
        level = 4.0 * (phase_of_rows(changes, 60) % 2)
        frames.append(tidy(f"seed-{n}", level[:, None] + rng.standard_normal((60, 1))))
    frame = pd.concat(frames)
    frame["arm"] = np.where(frame["run"] < "seed-3", "a", "b")
    return bh.Runs.from_dataframe(frame)


def quantities(posterior):
    """Draws of what has a say in the likelihood, (chains, draws, quantities): free of the tails."""
    chain, law = posterior.draws.chain, posterior.draws.law
    exits = chain.log_exits[..., 0].flatten(1).numpy()
    level, noise = law.coefficients[:, 0, :, 0, 0], law.log_variance[:, 0, :, 0]
    values = np.concatenate([exits, level, noise, chain.initial[:, 0, :1]], 1)
    share = np.stack([(posterior.paths == k).mean((1, 2)) for k in range(2)], -1)
    values = np.concatenate([values, share[:, :1]], 1)
    centred = values - REFERENCE.setdefault("mean", values.mean(0))
    both = np.concatenate([values, centred**2], 1)
    return both.reshape(posterior.draws.chains, -1, both.shape[1])


REFERENCE: dict[str, np.ndarray] = {}


def summary(posterior):
    """Mean, deviation and standard error of every quantity."""
    draws = quantities(posterior)
    mean, deviation = draws.mean((0, 1)), draws.std((0, 1))
    if posterior.draws.chains > 1:
        sizes = np.array([float(az.ess(draws[..., i])) for i in range(draws.shape[-1])])
        return mean, deviation, deviation / np.sqrt(sizes)
    share = 1.0 / posterior.diagnostics["effective_draws"] + 1.0 / draws.shape[1]
    return mean, deviation, deviation * np.sqrt(share)


@pytest.mark.calibration
@pytest.mark.parametrize(
    "transition",
    [bh.Dirichlet(), bh.LeftToRight(), bh.Grouped("arm"), bh.StickyHDP(2)],
    ids=lambda transition: type(transition).__name__,
)
def test_engines_agree(switching, transition):
    REFERENCE.clear()
    found = {}
    for name, (settings, draws) in ENGINES.items():
        posterior = bh.fit(
            switching, 2, emission=bh.Gaussian(**PLAIN), transition=transition,
            inference=settings, minimum_dwell=2, restarts=4, draws=draws, progress=False,
        )  # fmt: skip
        found[name] = summary(posterior)
    mean, deviation, error = found["gibbs"]
    worst = {}
    for name in ("nuts", "vi"):
        gap = np.abs(found[name][0] - mean) - GRID * deviation
        worst[name] = float((gap / np.hypot(error, found[name][2])).max())
    limit = norm.isf(0.005 / (len(mean) * len(worst)))
    assert max(worst.values()) < limit, worst
