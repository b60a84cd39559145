"""Rows that are not equally far apart: units, features and responses of a law of motion."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from synthetic_runs import PLAIN, tidy

import bayeshmm as bh
from bayeshmm.emissions import families
from bayeshmm.emissions.features import STRETCH, past
from bayeshmm.encoding import Encoding
from bayeshmm.inference.search import search
from bayeshmm.scaling import Pace, Scaling, observed_increments, spanned_gaps
from bayeshmm.transitions import Calendar


def encoding_of(runs, emission):
    return Encoding.fit(runs, emission, Calendar.of(runs))


def by_definition(run, steps, lags, half_lives, exponent):
    """Reference, features and gap of every row of one metric's run, from their definitions.

    Steps are in typical gaps; a gap over rows that miss the metric is a mean over them.
    """
    rows = []
    for t in range(len(run)):
        old = [s for s in range(t) if not np.isnan(run[s])][::-1]
        if not old:
            rows.append([np.nan] + [0.0] * (lags + len(half_lives)) + [1.0])
            continue
        gap = (steps[t] - steps[old[0]]) / (t - old[0])
        features = [run[old[0]]]
        for i in range(lags - 1):
            if i + 1 < len(old):
                own = (steps[old[i]] - steps[old[i + 1]]) / (old[i] - old[i + 1])
                difference = run[old[i]] - run[old[i + 1]]
                features.append(difference * min(gap / own, STRETCH) / gap**exponent)
            else:
                features.append(0.0)
        for h in half_lives:
            weights = np.array([2 ** (-(steps[t] - steps[s]) / h) for s in old])
            features.append(weights @ run[old] / weights.sum() - run[old[0]])
        rows.append([run[old[0]], *features, gap])
    table = np.array(rows)
    return table[:, 0], table[:, 1:-1], table[:, -1]


def log_spaced(runs):
    """Rows 1, 2, 4, ... of the runs, then every sixteenth."""
    rows = runs.to_dataframe()
    row = rows["step"] // 10
    kept = (row % 16 == 0) | row.isin([1, 2, 4, 8])
    return bh.Runs.from_dataframe(rows[kept])


LAGS, HALF_LIVES = 4, (1.5, 20.0)


@pytest.fixture(scope="module")
def gaps():
    """Between 1/60 and 20 typical gaps."""
    return np.exp(np.random.default_rng(1).normal(0, 1.2, (6, 40))).clip(1 / 60, 20)


@pytest.mark.parametrize("exponent", [0.0, np.array([0.3, 1.0])], ids=["none", "by metric"])
def test_features_by_definition(gappy, gaps, exponent):
    values, gaps = gappy.values, gaps[:, : gappy.values.shape[1]]
    found = past(values, LAGS, HALF_LIVES, Pace(gaps, exponent))
    spans = spanned_gaps(values, gaps)
    stretched = False
    for n in range(6):
        for j in range(2):
            expected = by_definition(
                values[n, :, j],
                gaps[n].cumsum(),
                LAGS,
                HALF_LIVES,
                np.broadcast_to(exponent, 2)[j],
            )
            for part, value in zip((*found, spans), expected, strict=True):
                assert_allclose(part[n, :, j], value, rtol=1e-9, atol=1e-12)
            stretched |= bool((spans[n, 1:, j] > STRETCH * spans[n, :-1, j]).any())
    assert stretched


def test_gaps_of_one_change_no_digit(gappy):
    """However the steps are numbered, and whatever is missing."""
    for family in (bh.Autoregressive(lags=3, half_lives=(4.0,)), bh.Gaussian()):
        even = encoding_of(gappy, family)
        stretched = bh.Runs.from_dataframe(
            gappy.to_dataframe().assign(step=lambda rows: 7 * rows["step"] + 3)
        )
        other = encoding_of(stretched, family)
        assert (even.scaling.gap, other.scaling.gap) == (10, 70)
        for scaling in (even.scaling, other.scaling):
            assert scaling.gap_exponent is None
        ones = families.design(
            family,
            even.scaling.standardise(gappy),
            gappy.lengths.copy(),
            even.scaling.increment[even.scaling.order],
            even.scaling.resolution[even.scaling.order],
            even.feature_scale,
            Pace(np.ones(gappy.steps.shape), np.array([0.4, 0.7])),
        )
        known = even.encode(gappy)
        for design in (other.encode(stretched).design, ones):
            assert_array_equal(design.response, known.design.response)
            assert_array_equal(design.past, known.design.past)
            assert_array_equal(design.rounding, known.design.rounding)
        assert_array_equal(other.encode(stretched).log_jacobian, known.log_jacobian)


def test_levels_do_not_depend_on_gaps(gappy):
    uneven = log_spaced(gappy)
    encoding = encoding_of(uneven, bh.Gaussian())
    data = encoding.encode(uneven)
    assert_array_equal(data.design.response, np.nan_to_num(encoding.scaling.standardise(uneven)))
    assert_array_equal(data.log_jacobian, encoding.scaling.log_jacobian(uneven))


@pytest.mark.parametrize(("power", "slope"), [(0.5, 0.5), (1.0, 1.0), (-0.5, 0.0), (2.0, 1.0)])
def test_the_exponent_is_the_slope_of_log_size_on_log_gap(power, slope):
    """Increments of ``gap^power`` times noise; slopes are kept between 0 and 1."""
    rng = np.random.default_rng(2)
    gaps = rng.integers(1, 100, (8, 60))
    steps = np.pad(gaps.cumsum(1), ((0, 0), (1, 0)))
    moves = gaps**power * rng.standard_normal(gaps.shape)
    values = np.pad(moves.cumsum(1), ((0, 0), (1, 0)))
    rows = [tidy(f"{n}", values[n][:, None]).assign(step=steps[n]) for n in range(8)]
    runs = bh.Runs.from_dataframe(pd.concat(rows))
    scaling = Scaling.fit(runs)
    assert scaling.gap_exponent == pytest.approx([slope], abs=0.1)
    assert scaling.gap == np.median(gaps)
    rows = np.log(np.abs(moves)).ravel(), np.log(gaps).ravel()
    if 0 < power < 1:
        fitted = np.polyfit(rows[1], rows[0], 1)[0]
        assert scaling.gap_exponent == pytest.approx([fitted])


@pytest.fixture(scope="module")
def walks():
    """Random walks whose rows are 1 to 30 steps apart."""
    rng = np.random.default_rng(3)
    frames = []
    for n in range(5):
        gaps = np.append(0, rng.integers(1, 31, 29))
        moves = np.sqrt(gaps)[:, None] * rng.standard_normal((30, 2)) @ [[2.0, 0.3], [0, 0.5]]
        values = 5 + moves.cumsum(0)
        frames.append(tidy(f"seed-{n}", values).assign(step=gaps.cumsum()))
    frame = pd.concat(frames)
    missing = rng.random((len(frame), 2)) < 0.1
    frame[["m0", "m1"]] = frame[["m0", "m1"]].mask(missing)
    return bh.Runs.from_dataframe(frame)


def test_responses_are_in_units_that_grow_with_the_gap(walks):
    encoding = encoding_of(walks, bh.Autoregressive(lags=2))
    data, scaling = encoding.encode(walks), encoding.scaling
    assert (scaling.gap_exponent > 0.2).all()
    response, seen = data.design.response.numpy(), data.design.observed.numpy()
    assert_allclose([np.mean(response[..., j][seen[..., j]] ** 2) for j in (0, 1)], 1)
    gaps = np.pad(np.diff(walks.steps), ((0, 0), (1, 0))) / scaling.gap
    j = scaling.order.tolist().index(1)
    step = observed_increments(walks.values)[:, :, 1]
    beside = np.isfinite(walks.values[:, :-1, 1]) & np.isfinite(walks.values[:, 1:, 1])
    unit = scaling.sd[1] * scaling.increment[1] * gaps[:, 1:] ** scaling.gap_exponent[1]
    assert_allclose(response[:, 1:, j][beside], (step[:, 1:] / unit)[beside])


def test_jacobian_is_the_derivative_of_the_response(walks):
    """A row that moves by itself moves its own response, by finite differences."""
    encoding = encoding_of(walks, bh.Autoregressive(lags=2))
    known = encoding.encode(walks)
    slopes = np.zeros(len(walks))
    small = 1e-6
    for t in range(1, 30):
        moved = walks.recorded.copy()
        moved[:, t] += small
        response = encoding.encode(replace(walks, recorded=moved)).design.response
        change = (response - known.design.response)[:, t].numpy() / small
        slopes += np.where(change != 0, np.log(np.where(change != 0, change, 1)), 0).sum(1)
    order = encoding.scaling.order
    first = (~np.isnan(walks.values)).sum(1)[:, order] - known.design.observed.sum(1).numpy()
    slopes -= first @ np.log(encoding.scaling.sd[order])
    assert_allclose(known.log_jacobian, slopes, rtol=1e-6)


def test_units_of_metrics_and_steps_shift_the_density_by_their_jacobian(walks):
    """Designs are the same; a metric in other units adds minus its log per value."""
    frame = walks.to_dataframe()
    other = bh.Runs.from_dataframe(
        frame.assign(m1=3.0 - 40 * frame["m1"], step=100 * frame["step"])
    )
    one, two = (encoding_of(runs, bh.Autoregressive()).encode(runs) for runs in (walks, other))
    for part in ("response", "past"):
        there, here = (getattr(data.design, part).abs().numpy() for data in (two, one))
        assert_allclose(there, here, atol=1e-9)
    values = (~np.isnan(walks.values[:, :, 1])).sum(1)
    assert_allclose(two.log_jacobian, one.log_jacobian.numpy() - values * np.log(40))


def test_other_gaps_are_read_by_a_fit_on_uneven_runs(walks):
    """A run at any pace is in the units of the fitted runs."""
    encoding = encoding_of(walks, bh.Autoregressive(lags=2))
    frame = walks.to_dataframe()
    slower = bh.Runs.from_dataframe(frame.assign(step=4 * frame["step"]))
    one, two = encoding.encode(walks), encoding.encode(slower)
    faster = 4.0 ** -encoding.scaling.gap_exponent[encoding.scaling.order]
    assert_allclose(two.design.response, one.design.response.numpy() * faster)
    assert_allclose(two.design.past[..., 1], one.design.past[..., 1])


@pytest.mark.parametrize("rows", [{"step": 2}, {"step": 0.5}], ids=["twice", "half"])
def test_other_gaps_mean_nothing_to_a_fit_on_even_runs(short, rows):
    encoding = encoding_of(short, bh.Autoregressive(lags=2))
    frame = short.to_dataframe()
    steps = (frame["step"] * rows["step"]).astype(int)
    other = bh.Runs.from_dataframe(frame.assign(step=steps)).subset(["seed-1"])
    wrong = r"(?s)'seed-1': the rows of steps 0 and (20|5) are (20|5) steps apart, and all "
    with pytest.raises(ValueError, match=wrong + r"rows of the fitted runs 10.*10 steps apart"):
        encoding.encode(other)


def test_a_grid_of_powers_of_two_is_told_by_the_exponent():
    """Norms and losses that follow power laws, at steps 1, 2, 4, ..., then every thousand."""
    steps = np.array([0, *(2**k for k in range(10)), *range(1000, 31000, 1000)])
    rng, frames = np.random.default_rng(0), []
    for n in range(6):
        walk = np.sqrt(np.diff(steps, prepend=0)) * rng.standard_normal(len(steps))
        norm = (steps + 10.0) ** 0.5 + 0.05 * walk.cumsum()
        loss = (1 + steps / 30) ** -0.4 + 0.005 * rng.standard_normal(len(steps))
        frames.append(tidy(f"seed-{n}", np.stack([loss, norm], -1)).assign(step=steps))
    runs = bh.Runs.from_dataframe(pd.concat(frames))
    hmm = bh.HMM(1, bh.Autoregressive(lags=3, **PLAIN), minimum_dwell=1)

    def density(encoding):
        data = encoding.encode(runs)
        return search(hmm.prior(runs), data, 1, 0)[0].bound + float(data.log_jacobian.sum())

    encoding = encoding_of(runs, hmm.family)
    scaling = replace(encoding.scaling, gap_exponent=np.zeros(2))
    steps = observed_increments(scaling.standardise(runs))[:, :, np.argsort(scaling.order)]
    scaling = replace(scaling, increment=np.sqrt(np.nanmean(steps**2, axis=(0, 1))))
    scale = families.feature_scale(hmm.family, scaling.standardise(runs), scaling.pace(runs))
    plain = replace(encoding, scaling=scaling, feature_scale=scale)
    assert encoding.scaling.gap_exponent[1] > 0.3
    assert density(encoding) > density(plain) + 30
