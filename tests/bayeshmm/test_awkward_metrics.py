"""Fits to metrics that are saturated, quantised, functions of others, or all but constant.

No density exceeds the probability of one recorded value, nothing is infinite, and what a user
should know is said.
"""

import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose
from synthetic_runs import QUICK, change_rows, changed, moving_runs, phase_of_rows, tidy

import bayeshmm as bh
from bayeshmm.emissions.likelihood import log_likelihood
from bayeshmm.scaling import FINEST

RUNS, ROWS = 6, 60
LAWS = np.array(
    [[(-0.20, 0.00, 0.10), (0.00, 0.30, 0.30)], [(0.00, 0.00, 0.10), (0.40, 0.30, 0.30)]]
)
FAMILIES = ["gaussian", "autoregressive"]


@pytest.fixture(scope="module")
def changes():
    """Rows at which the phases of `base` change, (RUNS, 1)."""
    return change_rows(RUNS, 0, [(24, 34)])


@pytest.fixture(scope="module")
def base(changes):
    """Runs of two ordinary metrics, m0 and m1, through two laws of motion."""
    return moving_runs(changes, [ROWS] * RUNS, LAWS, np.array([10.0, 0.0]), seed=1)


def row(frame) -> np.ndarray:
    return frame.groupby("run").cumcount().to_numpy()


def accuracy(frame, rng, step=1 / 512, share=0.2):
    """Climbs in `share` of the rows, roughly, and is exactly 1 in all others."""
    climb = row(frame) / (share * ROWS)
    rough = np.round((0.5 + 0.4 * climb + 0.02 * rng.standard_normal(len(frame))) / step) * step
    return np.where(climb < 1, rough, 1.0)


def accidents(values, rng):
    """The values with errors of a few units in the last place of single precision."""
    return values + rng.integers(-1, 2, len(values)) * 2.0**-24


def cosine(frame, rng):
    """Exactly 1 in the first row."""
    return np.where(row(frame) == 0, 1.0, 0.7 + 0.2 * rng.random(len(frame)))


def decay(frame, rng):
    """From 1e3 to 1e-8."""
    return 10 ** (3 - 11 * row(frame) / ROWS) * np.exp(0.1 * rng.standard_normal(len(frame)))


def parts(frame, rng, digits=17):
    """The norms of four layers and of all weights."""
    norms = {
        f"layer{i}": 5.0 - i + 0.02 * rng.standard_normal(len(frame)).cumsum() for i in range(4)
    }
    total = np.sqrt(sum(norm**2 for norm in norms.values()))
    return {
        name: np.array([float(f"{value:.{digits}g}") for value in values])
        for name, values in {**norms, "total": total}.items()
    }


def single(frame, rng):
    """A norm in single precision, printed with six digits, that rests in the last third."""
    norm = 28.0 + 1e-3 * rng.standard_normal(len(frame)).cumsum()
    norm = np.where(row(frame) < 40, norm, 28.123456).astype(np.float32)
    return np.array([float(f"{value:.6g}") for value in norm])


def resting(frame, rng):
    """Two continuous metrics that rest from about the same row."""
    rough = rng.random((2, len(frame)))
    return {
        "y": np.where(row(frame) < 33, 1 - 0.3 * rough[0], 1.0),
        "x": np.where(row(frame) < 36, 1 - 0.3 * rough[1], 7.0),
    }


def count(frame, rng):
    """Integers that do not move in the last run."""
    counts = rng.poisson(3.0, len(frame)).cumsum()
    return np.where(frame["run"] == f"seed-{RUNS - 1}", 7, counts)


Columns = Callable[[pd.DataFrame, np.random.Generator], Mapping[str, object]]

AWKWARD: dict[str, tuple[Columns, float | None, str | None]] = {
    "saturated": (
        lambda frame, rng: {"x": accuracy(frame, rng)},
        1 / 512,
        "'x' in 8[01]%.*metrics=.*finer measure",
    ),
    "averaged": (
        lambda frame, rng: {"x": accidents(accuracy(frame, rng), rng)},
        1 / 512,
        "'x' in 8[01]%.*metrics=.*finer measure",
    ),
    "constant in the later phase": (
        lambda frame, rng: {"x": accuracy(frame, rng, share=0.6)},
        1 / 512,
        None,
    ),
    "at rest together": (resting, None, None),
    "cosine": (lambda frame, rng: {"x": cosine(frame, rng)}, None, None),
    "affine": (lambda frame, rng: {"x": 3 * frame["m0"] - 7}, None, "'x' of m0.*metrics="),
    "sum of two": (
        lambda frame, rng: {"x": frame["m0"] + frame["m1"]},
        None,
        "'x' of m0, m1.*metrics=",
    ),
    "norm of four": (parts, None, "'total' of layer0, layer1, layer2, layer3.*metrics="),
    "norm of four, six digits": (
        lambda frame, rng: parts(frame, rng, 6),
        1e-5,
        "'total' of layer0, layer1, layer2, layer3.*metrics=",
    ),
    "single precision, six digits": (lambda frame, rng: {"x": single(frame, rng)}, 1e-4, None),
    "eleven orders of magnitude": (lambda frame, rng: {"x": decay(frame, rng)}, None, None),
    "constant in one run": (
        lambda frame, rng: {"x": count(frame, rng)},
        1.0,
        "'x' in 'seed-5'.*metrics=.*runs.subset",
    ),
}


def with_columns(runs: bh.Runs, case: str, seed: int = 0) -> bh.Runs:
    columns = AWKWARD[case][0](runs.to_dataframe(), np.random.default_rng(seed))
    return changed(runs, **columns)


def fitted(runs: bh.Runs, family: str, warning: str | None = None) -> bh.Posterior:
    with pytest.warns(bh.MetricWarning, match=warning) if warning else nullcontext():
        return bh.fit(runs, 2, emission=family, **QUICK)


def row_densities(posterior: bh.Posterior) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-likelihoods of the rows under each draw, (draws, N, T, K), and their bound, (D,).

    Whatever its variance, a Gaussian whose squared residuals are at least f has a log density of
    at most ``-log(2 pi e f) / 2``.
    """
    design = posterior.encoding.encode(posterior.runs).design
    rows, _ = log_likelihood(design, posterior.draws.law)
    return rows, -0.5 * torch.log(2 * torch.pi * torch.e * design.rounding)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module", params=AWKWARD)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def posterior(base, case, family):
    return fitted(with_columns(base, case), family, AWKWARD[case][2])


class TestDensities:
    def test_no_row_exceeds_the_probability_of_one_recorded_value(self, posterior):
        rows, bound = row_densities(posterior)
        assert rows.isfinite().all()
        assert (rows <= bound.sum() + 1e-9).all()

    def test_nor_does_a_whole_run(self, posterior, base, case):
        """In the units of the data, fitted runs and new ones."""
        scaling = posterior.encoding.scaling
        bound = -0.5 * np.log(2 * np.pi * np.e * (scaling.resolution * scaling.sd) ** 2 / 12)
        unseen = moving_runs([[30]], [ROWS], LAWS, np.array([10.0, 0.0]), seed=9, prefix="unseen")
        for runs in (posterior.runs, with_columns(unseen, case, seed=1)):
            density = posterior.log_density(runs)
            assert np.isfinite(density).all()
            assert (density <= ROWS * bound.sum() + 1e-6).all()

    def test_rounding_is_that_of_the_records(self, posterior, case):
        """The variance of a uniform error of the known step, in units of the response."""
        step, scaling = AWKWARD[case][1], posterior.encoding.scaling
        last = len(scaling.metrics) - 1
        place = scaling.order.tolist().index(last)
        unit = scaling.sd[last]
        if posterior.hmm.family.dynamic:
            unit = unit * scaling.increment[last]
        if step is None:
            step = FINEST * scaling.sd[last]
        design = posterior.encoding.encode(posterior.runs).design
        assert design.rounding[place] == pytest.approx(step**2 / 12 / unit**2, rel=1e-3)

    def test_nothing_is_infinite(self, posterior):
        for name, values in posterior.idata.posterior.data_vars.items():
            assert np.isfinite(values).all(), name
        assert_allclose(posterior.smooth().sum("state"), 1.0)
        assert np.isfinite(posterior.diagnostics["elbo"])

    @pytest.mark.parametrize("rough", [False, True], ids=["exact", "averaged"])
    def test_a_metric_that_stands_still_attains_the_bound(self, base, family, rough):
        rng = np.random.default_rng(0)
        x = accuracy(base.to_dataframe(), rng)
        runs = changed(base, x=accidents(x, rng) if rough else x).select("x")
        rows, bound = row_densities(fitted(runs, family, "'x'"))
        assert bound.item() - 1.0 < rows.max().item() <= bound.item()


def boundaries(posterior: bh.Posterior) -> list[list[int]]:
    """Rows at which the most probable phase of each run changes."""
    phases = posterior.smooth().argmax("state").to_numpy()
    return [(np.flatnonzero(np.diff(phase)) + 1).tolist() for phase in phases]


class TestPhases:
    @pytest.mark.parametrize("rough", [False, True], ids=["exact", "averaged"])
    @pytest.mark.parametrize("noise", [0.2, 0.5])
    def test_standing_still_within_the_resolution_is_no_phase(self, family, changes, noise, rough):
        """An accuracy flickers by half a step, then stands still; other metrics change elsewhere.

        A resolution of the accidents of single precision would make it worth ten nats a row to
        stand still. Where the accuracy moves by more than a step, standing still does tell, and may
        outweigh the others: that is the warning's matter.
        """
        rng = np.random.default_rng(3)
        frames = []
        for n, rows in enumerate(changes):
            late = phase_of_rows(rows, ROWS)
            signs = np.array([1.5, -1.5])
            values = late[:, None] * signs + rng.standard_normal((ROWS, 2))
            if family == "autoregressive":
                values = (0.5 * values).cumsum(axis=0)
            steps = np.round(461 + noise * rng.standard_normal(ROWS))
            steps[rng.integers(40, 48) :] = 461
            flicker = steps / 512
            flicker = accidents(flicker, rng) if rough else flicker
            frames.append(tidy(f"seed-{n}", np.column_stack([values, flicker])))
        runs = bh.Runs.from_dataframe(pd.concat(frames))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", bh.MetricWarning)
            found = boundaries(fitted(runs, family))
        off = [
            min((abs(row - truth) for row in rows), default=ROWS)
            for rows, (truth,) in zip(found, changes, strict=True)
        ]
        assert np.median(off) <= 2
        assert max(len(rows) for rows in found) <= 2
