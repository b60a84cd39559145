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
    return bh.Runs.from_dataframe(frame.assign(arm=np.where(frame["run"] < "seed-3", "a", "b")))


def quantities(posterior):
    """Draws of what has a say in the likelihood, (chains, draws, quantities): free of the tails."""
    chain, law = posterior.draws.chain, posterior.draws.law
    exits = chain.log_exits[..., 0].flatten(1).numpy()
    level, noise = law.coefficients[:, 0, :, 0, 0], law.log_variance[:, 0, :, 0]
    values = np.concatenate([exits, level, noise, chain.initial[:, 0, :1]], 1)
    share = np.stack([(posterior.paths == k).mean((1, 2)) for k in range(2)], -1)
    values = np.concatenate([values, share[:, :1]], 1)
    return values.reshape(posterior.draws.chains, -1, values.shape[1])


def summary(draws, centre, posterior):
    """Mean, deviation and standard error of every quantity and of its squared distance."""
    draws = np.concatenate([draws, (draws - centre) ** 2], -1)
    mean, deviation = draws.mean((0, 1)), draws.std((0, 1))
    if posterior.draws.chains > 1:
        sizes = np.array([float(az.ess(draws[..., i])) for i in range(draws.shape[-1])])
        return mean, deviation, deviation / np.sqrt(sizes)
    share = 1.0 / posterior.diagnostics["effective_draws"] + 1.0 / draws.shape[1]
    return mean, deviation, deviation * np.sqrt(share)


@pytest.mark.calibration
@pytest.mark.filterwarnings("ignore::bayeshmm.ApproximationWarning")
@pytest.mark.parametrize(
    ("transition", "changed"),
    [
        (bh.Dirichlet(), {}),
        (bh.LeftToRight(), {}),
        (bh.StickyHDP(2), {}),
        # how far conditions are pooled has poles at none and all: with larger steps some diverge
        (bh.Grouped("arm"), {"nuts": (bh.NUTS(chains=2, warmup=150, target_accept=0.97), 600)}),
    ],
    ids=["Dirichlet", "LeftToRight", "StickyHDP", "Grouped"],
)
def test_engines_agree(switching, transition, changed):
    found = {}
    for name, (settings, draws) in (ENGINES | changed).items():
        posterior = bh.fit(
            switching, 2, emission=bh.Gaussian(**PLAIN), transition=transition,
            inference=settings, minimum_dwell=2, restarts=4, draws=draws, progress=False,
        )  # fmt: skip
        draws = quantities(posterior)
        if name == "gibbs":
            varies = draws.std((0, 1)) > 1e-6
            centre = draws[..., varies].mean((0, 1))
        if not posterior.diagnostics.get("k_hat", 0.0) > 0.7:  # what it warns of is not compared
            found[name] = summary(draws[..., varies], centre, posterior)
    mean, deviation, error = found.pop("gibbs")
    worst = {}
    for name, (other, _, its_error) in found.items():
        gap = np.abs(other - mean) - GRID * deviation
        worst[name] = float((gap / np.hypot(error, its_error)).max())
    assert "nuts" in worst
    assert max(worst.values()) < norm.isf(0.005 / (len(mean) * len(worst))), worst
