from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex
from synthetic_runs import EVERY, LAWS, phase_of_rows

import bayeshmm as bh
from bayeshmm.attribution.profiles import phase_profiles
from bayeshmm.phases import modal_path
from bayeshmm.plots.profiles import profiles
from bayeshmm.plots.style import phase_colours


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def table(posterior):
    return phase_profiles(posterior, level=0.98).set_index(["state", "metric"])


def test_a_row_for_every_phase_and_metric(posterior, table):
    assert list(table.index) == [
        (state, metric) for state in posterior.state_names for metric in posterior.metrics
    ]
    quantities = ("level", "drift", "persistence", "noise")
    tails = [f"{quantity}{tail}" for quantity in quantities for tail in ("", "_lower", "_upper")]
    assert sorted(table.columns) == sorted(tails)
    for quantity in quantities:
        assert (table[f"{quantity}_lower"] <= table[quantity]).all()
        assert (table[quantity] <= table[f"{quantity}_upper"]).all()


def test_profiles_are_those_of_the_laws(posterior, changes, table):
    runs, before, levels = posterior.runs, {0: [], 1: [], 2: []}, {0: [], 1: [], 2: []}
    for n, length in enumerate(runs.lengths):
        phase = phase_of_rows(changes[n], length)
        for t in range(length):
            levels[phase[t]].append(runs.values[n, t])
            before[phase[t]].append(runs.values[n, max(t - 1, 0)])
    for k, name in enumerate(posterior.state_names):
        drift, pull, noise = LAWS[k].T
        truth = {
            "level": np.mean(levels[k], axis=0),
            "drift": (drift - pull * np.mean(before[k], axis=0)) / EVERY,
            "persistence": 1.0 - pull,
            "noise": noise,
        }
        for quantity, values in truth.items():
            for metric, value in zip(posterior.metrics, values, strict=True):
                row = table.loc[(name, metric)]
                lower, upper = row[f"{quantity}_lower"], row[f"{quantity}_upper"]
                slack = 0.3 * (upper - lower)
                assert lower - slack < value < upper + slack, (name, metric, quantity)


def test_levels_have_no_drift(level_posterior):
    found = phase_profiles(level_posterior).set_index(["state", "metric"])
    assert not {"drift", "persistence"} & set(found.columns)
    assert found.loc[("phase 1", "m0"), "level"] == pytest.approx(8.0, abs=0.2)
    assert found.loc[("phase 0", "m1"), "noise"] == pytest.approx(0.8**0.5, rel=0.15)


@pytest.mark.filterwarnings("ignore::bayeshmm.ConvergenceWarning")  # of so few draws
@pytest.mark.parametrize("family", ["autoregressive", "gaussian"])
def test_levels_of_a_logarithm_are_geometric_means_in_the_metric_s_units(moving, levels, family):
    frame = (moving if family == "autoregressive" else levels[0]).to_dataframe()
    frame["m1"] = np.exp(frame["m1"] / 10.0) - 0.5
    runs = bh.Runs.from_dataframe(frame)
    settings = {"minimum_dwell": 5, "restarts": 2, "draws": 50, "progress": False}
    posterior = bh.fit(runs, 2, emission=family, log={"m1": 0.5}, **settings)
    found = phase_profiles(posterior).set_index(["state", "metric"])["level"]
    path, (axes, *_) = modal_path(posterior.paths), profiles(posterior, ["m1", "m0"])
    ticks = [line.get_xdata() for line in axes.lines if line.get_marker() == "|"]
    for k, name in enumerate(posterior.state_names):
        mean = np.exp(np.log(runs.values[path == k, 1] + 0.5).mean()) - 0.5
        assert found[name, "m1"] == pytest.approx(mean, rel=0.1)
        assert min(ticks[k]) < found[name, "m1"] < max(ticks[k])
    titles = [panel.get_title(loc="right") for panel in axes.figure.axes]
    assert titles == (["", "of its log", "", ""] if posterior.hmm.dynamic else ["", ""])


def test_level_of_the_intervals_is_checked(posterior):
    with pytest.raises(ValueError, match="level=90 must lie between 0 and 1"):
        phase_profiles(posterior, level=90)


def test_an_emission_of_a_users_own_has_no_profile(posterior):
    with pytest.raises(ValueError, match="has no conjugate updates, which this question needs"):
        phase_profiles(replace(posterior, mode=None))


def test_every_metric_has_a_level_and_a_drift(posterior):
    axes = profiles(posterior)
    assert [ax.get_title(loc="left") for ax in axes] == ["m0", "m1", "m2"]
    assert len(axes[0].figure.axes) == 6
    names = [label.get_text() for label in axes[0].get_yticklabels()]
    assert names == list(posterior.state_names)
    assert axes[0].figure.get_figwidth() <= 8.0
    bottom = [ax.get_xlabel() for ax in axes[0].figure.axes[-2:]]
    assert bottom == ["mean in the phase", "drift per 100 steps"]


def test_what_is_drawn_is_the_table_in_the_colours_of_the_phases(posterior):
    ax = profiles(posterior, "m0", level=0.98)
    table = phase_profiles(posterior, level=0.98).query("metric == 'm0'")
    drift_ax = ax.figure.axes[1]
    for panel, quantity, scale in ((ax, "level", 1), (drift_ax, "drift", 100)):
        dots = [line for line in panel.lines if line.get_marker() == "o"]
        np.testing.assert_allclose([dot.get_xdata()[0] for dot in dots], table[quantity] * scale)
        assert [to_hex(dot.get_color()).upper() for dot in dots] == phase_colours(3)
        ticks = [line for line in panel.lines if line.get_marker() == "|"]
        assert [len(line.get_xdata()) for line in ticks] == [8, 8, 8]


def test_one_metric_on_given_axes(posterior):
    _, ax = plt.subplots()
    assert profiles(posterior, "m1", ax) is ax
    assert len(ax.figure.axes) == 1
    with pytest.raises(ValueError, match="ax holds one metric, not 3"):
        profiles(posterior, ax=ax)


def test_unknown_metrics(posterior):
    with pytest.raises(ValueError, match="m9"):
        profiles(posterior, ["m0", "m9"])


def test_a_model_of_levels_has_one_panel_a_metric(level_posterior):
    axes = profiles(level_posterior)
    assert len(axes) == len(axes[0].figure.axes) == 2
