"""Pictures of changes, on paths that are made by hand."""

from itertools import pairwise

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from scipy.stats import geom
from state_paths import NAMES, PATHS, STATES, STEPS, posterior_of

from bayeshmm.phases import transition_times
from bayeshmm.plots.change_times import change_times
from bayeshmm.plots.dwell_times import dwell_times
from bayeshmm.plots.ribbon import ribbon
from bayeshmm.plots.style import phase_colours

PICTURES = (ribbon, change_times, dwell_times)


@pytest.fixture(autouse=True)
def _close_figures():
    mpl.use("Agg")
    yield
    plt.close("all")


@pytest.fixture
def two():
    """Two runs of unequal length, at uneven steps."""
    return posterior_of(PATHS, STATES, STEPS, NAMES, minimum_dwell=2)


def many(runs=40, states=5, rows=100, draws=40, prefix="seed", seed=0):
    """Runs of very different lengths, some of which come back to the second phase."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(rows // 4, rows + 1, runs)
    lengths[0] = rows
    paths = np.full((draws, runs, rows), -1, dtype=np.int8)
    for n, length in enumerate(lengths):
        route = np.arange(states)
        if n % 3 == 0 and states > 2:
            route = np.array([0, 1, 2, 1, *range(2, states)])
        cuts = rng.gamma(9, rows / len(route) / 9, len(route) - 1).cumsum()
        drawn = np.sort(cuts + rng.normal(0, 1.5, (draws, len(cuts))))
        place = (np.arange(length)[:, None] >= drawn[:, None]).sum(axis=2)
        paths[:, n, :length] = route[place]
    return posterior_of(
        paths,
        [f"phase {k}" for k in range(states)],
        names=[f"{prefix}-{n}" for n in range(runs)],
        minimum_dwell=3,
    )


def places(ax):
    """Names of the runs from top to bottom, where all are shown."""
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    return [label.get_text() for label in ax.get_yticklabels()]


def legend(ax):
    (found,) = ax.figure.legends
    return [text.get_text() for text in found.get_texts()]


class TestRibbon:
    def test_a_run_is_a_ribbon_from_its_first_row_to_its_end(self, two):
        ax = ribbon(two, sort_by="run")
        assert places(ax) == NAMES
        corners = np.concatenate(
            [
                path.vertices
                for part in ax.collections
                if isinstance(part, PolyCollection)
                for path in part.get_paths()
            ]
        )
        for place, (first, last, gap) in enumerate([(0, 100, 20), (5, 35, 10)]):
            own = corners[np.abs(corners[:, 1] - place) < 0.5, 0]
            assert (own.min(), own.max()) == (first, last + gap)

    def test_colours_are_those_of_the_phases_and_paler_where_unsure(self):
        sure = np.repeat(np.array([[[0, 0, 1, 1]]]), 8, axis=0)
        shades = ribbon(posterior_of(sure, "ab")).collections
        drawn = [to_hex(part.get_facecolor()[0], keep_alpha=False).upper() for part in shades]
        assert drawn == phase_colours(2)
        unsure = sure.copy()
        unsure[:3, :, 2] = 0
        paler = ribbon(posterior_of(unsure, "ab")).collections[1].get_facecolor()
        assert len(paler) == 2
        assert (paler[0, :3] > paler[1, :3]).all()

    def test_runs_are_sorted_by_a_change(self):
        rows = np.array([8, 3, 99, 5])
        paths = np.tile((np.arange(10) >= rows[:, None]).astype(np.int8), (4, 1, 1))
        posterior = posterior_of(paths, ["start", "end"])
        for sort_by in (None, "end", ("start", "end")):
            ax = ribbon(posterior, sort_by)
            assert places(ax) == ["run-1", "run-3", "run-0", "run-2"]
        assert "change from start to end" in ax.get_title("left")
        assert places(ribbon(posterior, "start")) == places(ribbon(posterior, "run"))

    def test_relabelling_keeps_the_order_of_the_runs(self):
        paths = many(8, 3).paths
        new = np.array([2, 0, 1])
        relabelled = np.where(paths >= 0, new[paths], -1)
        one = ribbon(posterior_of(paths, "abc"))
        two = ribbon(posterior_of(relabelled, [("abc")[k] for k in np.argsort(new)]))
        assert places(one) == places(two)
        assert one.get_title("left") == two.get_title("left")

    @pytest.mark.parametrize("sort_by", ["take-off", ("warm-up", "take-off")])
    def test_an_unknown_phase_is_named(self, two, sort_by):
        with pytest.raises(ValueError, match="no phase 'take-off'; the phases are"):
            ribbon(two, sort_by)


class TestChangeTimes:
    def test_every_probable_change_has_a_density_an_interval_and_a_median(self, two):
        ax = change_times(two, sort_by="run", threshold=0.3)
        table = transition_times(PATHS, STEPS, NAMES, STATES).query("probability >= 0.3")
        dots = [line for line in ax.lines if line.get_marker() == "o"]
        bars = [line for line in ax.lines if line.get_marker() == "None"]
        assert [float(dot.get_xdata()[0]) for dot in dots] == table["median"].tolist()
        assert [list(bar.get_xdata()) for bar in bars] == table[["lower", "upper"]].values.tolist()
        assert [dot.get_ydata()[0] for dot in dots] == [NAMES.index(run) for run in table["run"]]
        filled = [to_hex(dot.get_markerfacecolor()) != "#ffffff" for dot in dots]
        assert filled == (table["probability"] > 0.5).tolist()
        assert sum(isinstance(part, PolyCollection) for part in ax.collections) == len(table)

    def test_the_height_of_a_ridge_is_the_probability_of_the_change(self, two):
        ax = change_times(two, sort_by="run", threshold=0.3)
        ridges = [part for part in ax.collections if isinstance(part, PolyCollection)]
        heights = [np.ptp(part.get_paths()[0].vertices[:, 1]) for part in ridges]
        table = transition_times(PATHS, STEPS, NAMES, STATES).query("probability >= 0.3")
        np.testing.assert_allclose(heights, 0.8 * table["probability"])

    def test_one_phase_fills_the_axis(self, two):
        ax = change_times(two, "plateau")
        assert legend(ax) == ["into plateau", "median, 90% interval"]
        left, right = ax.get_xlim()
        assert (left, right) == pytest.approx((10, 100), abs=10)

    def test_nothing_that_changes_is_an_empty_picture(self):
        ax = change_times(posterior_of(np.zeros((3, 2, 6), dtype=np.int8), ["only"]))
        assert not ax.lines

    def test_an_unknown_phase_is_named(self, two):
        with pytest.raises(ValueError, match="no phase 'take-off'"):
            change_times(two, "take-off")


class TestDwellTimes:
    def test_visits_are_marks_at_their_medians(self):
        rows = np.array([8, 3, 5])
        paths = np.tile((np.arange(10) >= rows[:, None]).astype(np.int8), (4, 1, 1))
        ax = dwell_times(posterior_of(paths, ["start", "end"]))
        whole = [line for line in ax.lines if line.get_marker() == "o"]
        cut = [line for line in ax.lines if line.get_marker() == ">"]
        assert [sorted(line.get_xdata()) for line in whole] == [[30, 50, 80], []]
        assert [sorted(line.get_xdata()) for line in cut] == [[], [10, 40, 60]]

    def test_the_dashed_line_is_geometric_past_the_minimum_dwell(self, two):
        ax = dwell_times(two)
        dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
        assert len(dashed) == 3
        steps, height = dashed[1].get_data()
        base = two.encoding.calendar.base
        least = two.encoding.calendar.gap * base
        rows = np.arange(1, 5)
        at = np.interp(least + base * rows, steps, (1 - height) / 0.72)
        np.testing.assert_allclose(at, geom(0.1).sf(rows), atol=0.01)

    def test_the_band_is_that_of_the_visits(self):
        rows = np.array([2, 3, 4, 5, 6, 7, 8, 9] * 5)
        paths = np.tile((np.arange(12) >= rows[:, None]).astype(np.int8), (50, 1, 1))
        ax = dwell_times(posterior_of(paths, ["start", "end"]))
        median = next(line for line in ax.lines if line.get_linewidth() == 1.8)
        steps, height = median.get_data()
        share = np.interp([15, 45, 75], steps, (0 - height) / 0.72)
        np.testing.assert_allclose(share, [1, 5 / 8, 2 / 8], atol=0.05)


@pytest.mark.parametrize("draw", PICTURES)
@pytest.mark.parametrize(("runs", "states"), [(5, 3), (40, 8), (1, 1)])
def test_labels_do_not_overlap_and_nothing_is_cut_off(draw, runs, states):
    ax = draw(many(runs, states, draws=20, prefix="width-512/lr-0.003/seed"))
    assert ax.get_xlabel().endswith("training steps")
    figure = ax.figure
    figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in ax.get_yticklabels() if t.get_text()]
    boxes.sort(key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 + 1 for low, high in pairwise(boxes))
    (shown,) = figure.legends
    for box in (*boxes, shown.get_window_extent(), ax.xaxis.label.get_window_extent()):
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= figure.bbox.width + 1
    assert figure.get_size_inches()[0] == 8
    assert figure.get_size_inches()[1] <= 10.5


@pytest.mark.parametrize("draw", PICTURES)
def test_given_axes_are_drawn_on_and_names_thinned_where_they_would_overlap(draw):
    figure, axes = plt.subplots(1, 2, figsize=(8, 2.5), layout="constrained")
    posterior = many(40, 3, draws=20)
    assert draw(posterior, ax=axes[0]) is axes[0]
    assert not figure.legends  # beside the axes, which share the figure
    assert axes[0].get_legend() is not None
    if draw is not dwell_times:
        assert 5 < len(places(axes[0])) <= 20
