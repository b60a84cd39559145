"""The speed benchmark without the clock: its data, contenders, arithmetic and tables."""

import itertools
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from benchmarks.speed import contest, report, timing
from benchmarks.speed.contenders import Contender
from benchmarks.speed.problem import problem
from benchmarks.speed.results import Contest, Growth, Results, Scaling, Scratch
from benchmarks.speed.sizes import MAIN, Size
from benchmarks.speed.targets import FASTER, scale, verdicts
from benchmarks.speed.works import (
    DISCRETE_HMM,
    DYNAMAX,
    ENUMERATION,
    HMMLEARN,
    OURS,
    PRODUCTS,
    Work,
)

ROOT = Path(__file__).parents[2]
TINY = Size("tiny", runs=3, rows=40, metrics=3, states=3)


@pytest.fixture(scope="module")
def tiny():
    return problem(TINY)


def test_threads_can_be_limited_before_libraries_load():
    code = "import benchmarks.speed, sys; sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


class Clock:
    """A clock that stands still but for what `working` calls do."""

    def __init__(self, monkeypatch):
        self.now, self.order = 0.0, []
        monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def working(self, name, durations):
        durations = itertools.cycle(durations)

        def call():
            self.order.append(name)
            self.now += next(durations)

        return call


def test_the_median_of_turns(monkeypatch):
    clock = Clock(monkeypatch)
    calls = [clock.working("even", [0.04]), clock.working("uneven", [1.0, 0.03, 0.05])]
    assert timing.interleaved(calls, seconds=0.2) == pytest.approx([0.04, 0.05])


def test_calls_take_turns_until_their_time_is_over(monkeypatch):
    clock = Clock(monkeypatch)
    timing.interleaved([clock.working("a", [0.04]), clock.working("b", [0.5])], seconds=0.2)
    assert clock.order[4:] == ["a", "b"] * 3 + ["a"] * 2


def test_short_calls_fill_a_turn(monkeypatch):
    clock = Clock(monkeypatch)
    assert timing.interleaved([clock.working("a", [0.002])], 0.0) == pytest.approx([0.002])
    assert len(clock.order) == 2 + 3 * (1 + 15)


@pytest.mark.parametrize("power", [1.0, 1.5])
def test_the_exponent_of_a_power_law(power):
    sizes = [10, 20, 50, 100]
    assert timing.exponent(sizes, [1e-3 * size**power for size in sizes]) == pytest.approx(power)


def test_fast_calls_do_not_bear_on_the_exponent():
    sizes, seconds = [1, 2, 4, 8, 16], [4e-3, 4e-3, 6e-3, 12e-3, 24e-3]
    assert timing.exponent(sizes, seconds) == pytest.approx(1.0)
    assert timing.exponent(sizes[:4], seconds[:4]) is None


def test_rows_have_the_density_of_the_law(tiny):
    normal = multivariate_normal(tiny.means[1], tiny.covariances[1])
    np.testing.assert_allclose(tiny.log_likelihood[..., 1], normal.logpdf(tiny.values))


def test_the_density_of_a_path(tiny):
    paths = np.random.default_rng(0).integers(0, 3, (3, 40))
    expected = [
        np.log(tiny.initial[path[0]])
        + sum(np.log(tiny.transition[i, j]) for i, j in itertools.pairwise(path))
        + sum(rows[t, k] for t, k in enumerate(path))
        for path, rows in zip(paths, tiny.log_likelihood, strict=True)
    ]
    np.testing.assert_allclose(tiny.path_log_density(paths), expected)


def test_the_same_problem_every_time(tiny):
    again = problem(TINY)
    np.testing.assert_array_equal(again.values, tiny.values)
    assert not np.array_equal(problem(TINY, seed=1).values, tiny.values)


@pytest.fixture(scope="module")
def agreed(tiny):
    """Contenders that need no other library, and the remarks."""
    remarks = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contest, "MODULES", ("bayeshmm", "products", "pyro", "absent"))
        return list(contest.agreeing(tiny, remarks)), remarks


def test_contenders_agree(agreed):
    contenders, remarks = agreed
    assert {(c.library, c.work) for c in contenders if c.library != OURS} == {
        (PRODUCTS, Work.SWEEP),
        (DISCRETE_HMM, Work.LOG_MARGINAL),
        (DISCRETE_HMM, Work.GRADIENT),
        (DISCRETE_HMM, Work.STEP),
        (ENUMERATION, Work.STEP),
    }
    assert {c.work for c in contenders if c.library == OURS and c.dwell == 1} == set(Work)
    assert len(remarks) == 1
    assert remarks[0].startswith("tiny: absent is not installed")


def test_a_step_of_every_contender_is_finite(agreed):
    contenders, _ = agreed
    losses = [contender.run() for contender in contenders if contender.work is Work.STEP]
    assert len(losses) == 3
    assert np.isfinite(losses).all()


@pytest.mark.parametrize(
    ("answer", "objection"),
    [
        ({"states": np.array([0.5, 1.0])}, None),
        ({"states": np.array([0.5, 1.0 + 1e-5])}, "states differs by 1.0e-05"),
        ({"states": np.array([0.5, np.nan])}, "states differs by nan"),
        ({"states": np.array([0.5])}, r"states of shape \(1,\), not \(2,\)"),
        ({"path": np.array([0.5])}, "nothing to compare"),
    ],
)
def test_disagreement(answer, objection):
    contender = Contender("other", Work.COUNTS, lambda: None, lambda: answer)
    found = contender.disagreement({"states": np.array([0.5, 1.0])})
    assert found is objection is None or re.match(objection, found)


def test_float32_may_differ_by_more():
    answer = {"states": np.array([0.5, 1.0 + 1e-5])}
    contender = Contender("other", Work.COUNTS, lambda: None, lambda: answer)
    reference = {"states": np.array([0.5, 1.0])}
    assert contender.disagreement(reference) is not None
    assert replace(contender, single_precision=True).disagreement(reference) is None


def test_who_fails_or_differs_is_reported(tiny, monkeypatch):
    def module(name):
        def fails(problem):
            raise RuntimeError("broken")

        def differs(problem):
            yield Contender("liar", Work.STEP, lambda: None, lambda: {"total": np.asarray(1.0)})
            yield Contender("crash", Work.STEP, lambda: None, lambda: 1 / 0)

        def ours(problem):
            yield Contender(OURS, Work.STEP, lambda: None, lambda: {"total": np.asarray(2.0)})

        kind = {"ours": ours, "fails": fails, "differs": differs}[name.rpartition(".")[2]]
        return SimpleNamespace(contenders=kind)

    monkeypatch.setattr(contest, "MODULES", ("ours", "fails", "differs"))
    monkeypatch.setattr(contest.importlib, "import_module", module)
    remarks = []
    assert [c.library for c in contest.agreeing(tiny, remarks)] == [OURS]
    assert [remark.partition(":")[2].split(":")[0].strip() for remark in remarks] == [
        "fails failed",
        "liar was not timed on the SVI step",
        "crash was not timed on the SVI step",
    ]


def results(**changed):
    """Made-up timings in which every target is reached exactly or with ease."""
    seconds = {
        (MAIN, Work.SWEEP, OURS, 1): 5e-3,
        (MAIN, Work.SWEEP, HMMLEARN, 1): 116e-3,
        (MAIN, Work.SWEEP, DYNAMAX, 1): 90e-3,
        (MAIN, Work.SWEEP, PRODUCTS, 1): 2e-3,
        (MAIN, Work.STEP, OURS, 1): 10e-3,
        (MAIN, Work.STEP, DISCRETE_HMM, 1): 50e-3,
        (MAIN, Work.STEP, ENUMERATION, 1): 600e-3,
    }
    for dwell in (1, 10, 50):
        seconds |= {
            (MAIN, Work.LOG_MARGINAL, OURS, dwell): 1e-3,
            (MAIN, Work.COUNTS, OURS, dwell): 2e-3,
            (MAIN, Work.PATH, OURS, dwell): 1e-3,
            (MAIN, Work.PATHS, OURS, dwell): 5e-3,
        }
    parts = {
        "contest": Contest(seconds, ["absent is not installed."]),
        "growth": [
            Growth(Work.COUNTS, 1, name, {100: 0.01, 200: 0.02}, 1.0) for name in ("N", "T", "K")
        ],
        "scratch": [Scratch(Work.COUNTS, 1, 5.0)],
        "scaling": [Scaling(Work.COUNTS.value, 0.2, 0.1)],
    }
    return Results(**(parts | changed))


def test_all_targets_reached():
    judged = verdicts(results())
    assert [verdict.reached for verdict in judged] == [True] * len(judged)


def test_milliseconds_are_scaled_by_hmmlearn():
    assert scale(results().contest) == pytest.approx(0.5)
    measured = {verdict.claim: verdict.measured for verdict in verdicts(results())}
    assert measured[f"{Work.COUNTS}, scaled ms"] == pytest.approx(1.0)
    assert measured[f"{Work.PATH}, scaled ms"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("key", "factor", "missed"),
    [
        ((MAIN, Work.SWEEP, HMMLEARN, 1), 0.5, f"{Work.SWEEP}, hmmlearn over ours"),
        ((MAIN, Work.SWEEP, PRODUCTS, 1), 0.9, f"{Work.SWEEP}, ours over its matrix products"),
        ((MAIN, Work.COUNTS, OURS, 50), 1.6, f"{Work.COUNTS}, dwell 50 over dwell 1"),
        ((MAIN, Work.STEP, ENUMERATION, 1), 0.9, f"{Work.STEP}, {ENUMERATION} over ours"),
    ],
)
def test_a_missed_target_is_told(key, factor, missed):
    found = results()
    found.contest.seconds[key] *= factor
    assert missed in [verdict.claim for verdict in verdicts(found) if verdict.reached is False]


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({"growth": [Growth(Work.COUNTS, 1, "N", {100: 1.0}, 1.2)]}, "exponent in N"),
        ({"growth": [Growth(Work.COUNTS, 1, "T", {100: 1.0}, 0.8)]}, "exponent in T"),
        ({"scratch": [Scratch(Work.COUNTS, 1, 5.0), Scratch(Work.FILTER, 1, 9.0)]}, "scratch"),
        ({"scaling": [Scaling(Work.COUNTS.value, 0.2, 0.19)]}, Work.COUNTS.value),
    ],
)
def test_a_missed_target_of_growth_or_resources_is_told(changed, missed):
    claims = [v.claim for v in verdicts(results(**changed)) if v.reached is False]
    assert len(claims) == 1
    assert claims[0].startswith(missed)


def test_without_other_libraries_ratios_are_not_measured():
    found = results()
    for key in list(found.contest.seconds):
        if key[2] != OURS:
            del found.contest.seconds[key]
    unknown = [verdict.claim for verdict in verdicts(found) if verdict.reached is None]
    assert len(unknown) == len(FASTER) + 1 + 3  # ratios, products, scaled milliseconds
    assert "not measured" in report.document(found, verdicts(found))


def test_the_report():
    found = results()
    text = report.document(found, verdicts(found))
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    titles = ["", "dwell", OURS, "scaled", HMMLEARN, DYNAMAX]
    assert [*titles, DISCRETE_HMM, ENUMERATION, PRODUCTS] in lines
    assert [Work.SWEEP, "1", "5", "2.5", "23.2× (116)", "18× (90)", "", "", "0.4× (2)"] in lines
    assert [Work.PATH, "10", "0.4", "0.2", "", "", "", "", ""] in lines
    assert [Work.COUNTS, "1", *["1.00 (20 at 200)"] * 3] in lines
    assert [Work.COUNTS, "200", "100", "2.00"] in lines
    assert "* absent is not installed." in text
