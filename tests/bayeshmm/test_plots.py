from itertools import combinations, pairwise
from types import SimpleNamespace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from bayeshmm import phases as tables
from bayeshmm import plots
from bayeshmm.plots.style import phase_colours, phase_hatches
from bayeshmm.runs import Runs


@pytest.fixture(autouse=True)
def _close_figures():
    mpl.use("Agg")
    yield
    plt.close("all")


class FakePosterior:
    """What the plots need of a posterior, from given paths (draws, runs, rows)."""

    def __init__(self, runs, paths, state_names):
        self.runs, self.paths, self.state_names = runs, paths, tuple(state_names)
        self.palette = tuple(range(len(self.state_names)))

    def smooth(self, runs):
        paths = self._paths(runs)
        shares = np.stack([(paths == k).mean(0) for k in range(len(self.state_names))], axis=-1)
        shares[paths[0] < 0] = np.nan
        return xr.DataArray(shares, dims=("run", "time", "state"))

    def transition_times(self, level, runs):
        return tables.transition_times(
            self._paths(runs), runs.steps, runs.names, self.state_names, level
        )

    def _paths(self, runs):
        place = [self.runs.names.index(name) for name in runs.names]
        return self.paths[:, place, : runs.steps.shape[1]]


def make_posterior(routes, K=None, runs=12, rows=120, draws=40, names=None, seed=0):
    """Runs take the routes in turn; the time of every change differs a little between draws."""
    rng = np.random.default_rng(seed)
    K = K or 1 + max(max(route) for route in routes)
    paths = np.full((draws, runs, rows), -1, dtype=np.int8)
    frames = []
    for n in range(runs):
        route = routes[n % len(routes)]
        length = rows - n % 3
        changes = np.linspace(0, length, len(route) + 1)[1:-1]
        cuts = np.round(changes + rng.normal(0, 1.5, (draws, len(changes))))
        paths[:, n, :length] = np.array(route)[(np.arange(length)[:, None] >= cuts[:, None]).sum(2)]
        progress = np.linspace(0, 1, length)
        values = {
            "train/loss": np.exp(-6 * progress),
            "test/loss": np.exp(1 - 4 * progress**3),
            "test/acc": progress**2,
            "weight/_all/l2": 40 - 10 * progress,
        }
        frames.append(pd.DataFrame({"run": f"seed-{n}", "step": 50 * np.arange(length), **values}))
    state_names = names or [f"phase {k}" for k in range(K)]
    return FakePosterior(Runs.from_dataframe(pd.concat(frames)), paths, state_names)


@pytest.fixture(scope="module")
def posterior():
    names = ["memorise", "plateau", "grok", "refine"]
    return make_posterior([[0, 1, 2, 3], [0, 2, 3], [0, 1, 2, 3]], names=names)


def texts(figure):
    return [t.get_text() for t in figure.findobj(mpl.text.Text) if t.get_text()]


class TestStyle:
    def test_a_phase_keeps_its_colour(self):
        assert phase_colours(12)[:5] == phase_colours(5)

    def test_twelve_phases_are_told_apart_by_colour_and_more_by_hatch(self):
        colours = np.array([to_rgb(colour) for colour in phase_colours(12)])
        assert min(np.linalg.norm(a - b) for a, b in combinations(colours, 2)) > 0.2
        assert len(set(zip(phase_colours(30), phase_hatches(30), strict=True))) == 30


class TestPhases:
    def test_one_run_has_a_panel_for_every_scale_and_a_strip(self, posterior):
        ax = plots.phases(posterior, "seed-0")
        ax.figure.draw_without_rendering()
        loss, accuracy = ax.figure.axes
        assert ax is loss
        assert loss.get_yscale() == "log"
        assert accuracy.get_yscale() == "linear"
        assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("loss", "accuracy")
        assert accuracy.get_xlabel() == "training steps"
        assert loss.get_title("left") == "seed-0"
        assert len(loss.lines) == 2 * 4 + 3  # two metrics in four phases, three changes
        assert len(accuracy.lines) == 4 + 3
        (strip,) = accuracy.child_axes
        assert len(strip.collections) == 4
        shown = texts(ax.figure)
        for label in ("memorise", "refine", "train/loss", "test/acc", "change, 90% interval"):
            assert label in shown

    def test_lines_have_the_colours_of_the_phases_and_join(self, posterior):
        ax = plots.phases(posterior, "seed-0", "train/loss")
        segments = ax.lines[:4]
        assert [line.get_color() for line in segments] == phase_colours(4)
        for before, after in pairwise(segments):
            assert before.get_xydata()[-1].tolist() == after.get_xydata()[0].tolist()
        steps = np.unique(np.concatenate([line.get_xdata() for line in segments]))
        np.testing.assert_array_equal(steps, 50 * np.arange(120))

    def test_changes_are_drawn_at_their_medians_in_their_intervals(self, posterior):
        ax = plots.phases(posterior, "seed-1", "train/loss", level=0.5)
        table = posterior.transition_times(0.5, posterior.runs.subset("seed-1"))
        assert [line.get_xdata()[0] for line in ax.lines[3:]] == table["median"].tolist()
        spans = [(p.get_x(), p.get_x() + p.get_width()) for p in ax.patches]
        for interval in table[["lower", "upper"]].itertuples(index=False):
            assert tuple(interval) in spans
        assert "change, 50% interval" in texts(ax.figure)

    def test_the_strip_is_the_smoothed_probability(self, posterior):
        ax = plots.phases(posterior, "seed-0", "train/loss")
        first = ax.child_axes[0].collections[0].get_paths()[0]
        probability = posterior.smooth(posterior.runs.subset("seed-0"))[0, :, 0]
        middle = int(np.flatnonzero((probability > 0.2) & (probability < 0.8))[0])
        assert probability[middle] != probability[middle + 1]
        for step in (50 * middle, 50 * (middle + 1)):  # it lasts from its row to the next
            height = first.vertices[first.vertices[:, 0] == step, 1]
            assert np.isclose(height, float(probability[middle])).any()

    def test_missing_values_leave_no_gap(self):
        posterior = make_posterior([[0, 1]])
        frame = posterior.runs.to_dataframe()
        frame.loc[frame["step"] % 200 != 0, "test/acc"] = np.nan
        posterior.runs = Runs.from_dataframe(frame)
        ax = plots.phases(posterior, "seed-0", "test/acc")
        steps = np.unique(np.concatenate([line.get_xdata() for line in ax.lines[:2]]))
        np.testing.assert_array_equal(steps, np.arange(0, 6000, 200))

    @pytest.mark.parametrize(("best", "labels"), [(1e-4, "0.01"), (0.3, "0.5"), (2.9, "4")])
    def test_loss_axes_are_labelled_in_plain_numbers(self, best, labels):
        posterior = make_posterior([[0, 1]], runs=2)
        frame = posterior.runs.to_dataframe()
        frame["test/loss"] = best + (5 - best) * np.exp(-frame["step"] / 500)
        posterior.runs = Runs.from_dataframe(frame)
        ax = plots.phases(posterior, "seed-0", "test/loss")
        ax.figure.draw_without_rendering()
        low, high = ax.get_ylim()
        ticks = [*ax.yaxis.get_major_ticks(), *ax.yaxis.get_minor_ticks()]
        shown = {t.label1.get_text() for t in ticks if low <= t.get_loc() <= high} - {""}
        assert labels in shown
        assert 2 <= len(shown) <= 9
        assert not any("e" in label for label in shown)

    def test_default_is_one_run_of_each_route_the_most_common_first(self, posterior):
        axes = plots.phases(posterior)
        assert [ax.get_title("left") for ax in axes] == ["seed-0", "seed-1"]

    def test_several_runs_share_the_scale_of_a_metric(self, posterior):
        axes = plots.phases(posterior, ["seed-3", "seed-1", "seed-2"], ["test/acc"])
        assert axes.shape == (3,)
        assert len({ax.get_ylim() for ax in axes}) == 1
        assert len(axes[0].figure.axes) == 3

    def test_other_metrics_have_a_panel_each(self, posterior):
        ax = plots.phases(posterior, "seed-0", ["weight/_all/l2", "test/loss"])
        assert [a.get_ylabel() for a in ax.figure.axes] == ["weight/_all/l2", "loss"]

    def test_given_axes_hold_one_run_with_two_scales(self, posterior):
        figure, (ax, other) = plt.subplots(2, layout="constrained")
        assert plots.phases(posterior, "seed-0", ax=ax) is ax
        twin = figure.axes[2]
        assert (ax.get_ylabel(), twin.get_ylabel()) == ("loss", "accuracy")
        assert ax.get_xlabel() == "training steps"
        assert not other.lines
        labels = [text.get_text() for text in ax.get_legend().get_texts()]
        assert labels[:4] == list(posterior.state_names)
        assert labels[-3:] == ["train/loss", "test/loss", "test/acc"]

    def test_given_axes_refuse_several_runs_and_three_scales(self, posterior):
        _, ax = plt.subplots()
        with pytest.raises(ValueError, match="ax holds one run"):
            plots.phases(posterior, ["seed-0", "seed-1"], ax=ax)
        with pytest.raises(ValueError, match="loss, accuracy, weight/_all/l2"):
            plots.phases(posterior, "seed-0", list(posterior.runs.columns), ax=ax)

    def test_unknown_names_are_errors(self, posterior):
        with pytest.raises(ValueError, match="seed-99"):
            plots.phases(posterior, "seed-99")
        with pytest.raises(ValueError, match="did you mean 'train/loss'"):
            plots.phases(posterior, "seed-0", "train/los")


FORKS_AND_RETURNS = {
    1: [[0]],
    2: [[0, 1], [0, 1, 0]],
    3: [[0, 1, 2], [0, 2], [0, 1, 2, 1]],
    4: [[0, 1, 2, 3], [0, 2, 3], [0, 1, 2, 1, 3], [0, 3]],
    5: [[0, 1, 2, 4], [0, 1, 3, 4], [0, 3, 4, 0, 4], [0, 1, 2, 1, 2, 4]],
    6: [[0, 1, 2, 3, 4, 5], [0, 2, 4, 5], [0, 1, 3, 5], [0, 1, 2, 3, 2, 3, 4, 5], [0, 5, 1]],
    8: [
        *([0, 1, 2, 3, 4, 5, 6, 7], [0, 2, 4, 6, 7], [0, 1, 2, 1, 3, 5, 7], [0, 3, 6, 7]),
        *([0, 1, 4, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5, 6, 2, 6, 7], [0, 1, 2, 3, 7, 0]),
    ],
    12: [list(range(12)), [0, 3, 5, 11], [0, 2, 1, 3, 4, 7, 6, 8, 9, 10, 11]],
}


def boxes(ax):
    ax.figure.draw_without_rendering()
    return {text: text.get_window_extent() for text in ax.texts if text.get_text()}


class TestTrainingMap:
    def test_phases_and_changes_have_their_numbers(self, posterior):
        ax = plots.training_map(posterior)
        shown = [text.get_text().replace("\n", " ") for text in ax.texts]
        usage = tables.edge_usage(posterior.paths, posterior.state_names)
        for edge in usage.to_dict("records"):
            label = (
                f"P(used) {edge['probability']:.2f} [{edge['lower']:.2f}, {edge['upper']:.2f}]"
                f" {edge['runs']} runs"
            )
            assert label in shown
        occupancy = tables.state_occupancy(posterior.paths, posterior.state_names)
        for state in occupancy.to_dict("records"):
            at = shown.index(state["state"])
            assert shown[at + 1 : at + 3] == [
                f"{state['rows']:.0%} of rows",
                f"{state['runs']} runs",
            ]
        arrows = [p for p in ax.patches if isinstance(p, FancyArrowPatch)]
        nodes = [p for p in ax.patches if isinstance(p, FancyBboxPatch)]
        assert (len(arrows), len(nodes)) == (len(usage), 4)
        assert [mpl.colors.to_hex(n.get_edgecolor()).upper() for n in nodes] == phase_colours(4)

    def test_phases_stand_in_the_order_of_first_visits(self):
        ax = plots.training_map(make_posterior([[2, 0, 1]]))
        places = {text.get_text(): text.get_position()[0] for text in ax.texts}
        assert places["phase 2"] < places["phase 0"] < places["phase 1"]

    @pytest.mark.parametrize("K", FORKS_AND_RETURNS)
    def test_nothing_overlaps(self, K):
        ax = plots.training_map(make_posterior(FORKS_AND_RETURNS[K], runs=30))
        self.assert_clear(ax)
        shown = [text for text in ax.texts if "P(used) " in text.get_text()]
        assert all(text.get_fontsize() == 7 for text in shown)

    @pytest.mark.parametrize("K", [4, 8])
    def test_nothing_overlaps_in_given_axes(self, K):
        _, (left, _) = plt.subplots(1, 2, figsize=(16, 5), layout="constrained")
        ax = plots.training_map(make_posterior(FORKS_AND_RETURNS[K], runs=30), ax=left)
        assert ax is left
        self.assert_clear(ax)
        frame = ax.get_window_extent()
        for box in boxes(ax).values():
            assert box.x0 >= frame.x0 - 1
            assert box.x1 <= frame.x1 + 1

    def assert_clear(self, ax):
        extents = boxes(ax)
        for (one, a), (two, b) in combinations(extents.items(), 2):
            assert not a.padded(-0.5).overlaps(b.padded(-0.5)), (one, two)
        nodes = [p.get_window_extent() for p in ax.patches if isinstance(p, FancyBboxPatch)]
        labels = {t: box for t, box in extents.items() if "P(used) " in t.get_text()}
        for text, box in labels.items():
            assert not any(box.overlaps(node) for node in nodes), text
        for arrow in ax.patches:
            if isinstance(arrow, FancyArrowPatch):
                # Edges of cubic Bezier arcs and heads lie within a path's polygons.
                path = arrow.get_path().transformed(ax.transData)
                for polygon in path.to_polygons(closed_only=False):
                    inside = np.concatenate([np.linspace(p, q, 200) for p, q in pairwise(polygon)])
                    for text, box in labels.items():
                        hit = (inside > [box.x0, box.y0]) & (inside < [box.x1, box.y1])
                        assert not hit.all(axis=1).any(), (text, arrow)

    def test_rare_changes_are_dashed_and_the_rarest_left_out(self):
        routes = [[0, 1, 2]] * 17 + [[0, 2]] * 2 + [[1, 0]]
        posterior = make_posterior(routes, runs=20)
        ax = plots.training_map(posterior, threshold=0.06)
        arrows = [p for p in ax.patches if isinstance(p, FancyArrowPatch)]
        assert sorted(arrow.get_linestyle() == "-" for arrow in arrows) == [False, True, True]
        (rare,) = (a for a in arrows if a.get_linestyle() != "-")
        assert rare.get_linewidth() < min(a.get_linewidth() for a in arrows if a is not rare)
        assert any(
            "below 0.06 are left out" in text.get_text().replace("\n", " ") for text in ax.texts
        )

    def test_long_names_stay_inside_their_phase(self):
        names = ["a", "a rather long name for a phase", "c", "d", "e", "f"]
        ax = plots.training_map(make_posterior([[0, 1, 2, 3, 4, 5]], names=names))
        extents = {text.get_text(): box for text, box in boxes(ax).items()}
        nodes = [p.get_window_extent() for p in ax.patches if isinstance(p, FancyBboxPatch)]
        name = extents[names[1]]
        assert any(node.x0 < name.x0 and name.x1 < node.x1 for node in nodes)


def make_comparison(scores, best_key, score="elpd"):
    keys = [(name, k + 1) for name, values in scores.items() for k in range(len(values))]
    index = pd.MultiIndex.from_tuples(keys, names=["emission", "states"])
    table = pd.DataFrame({score: np.concatenate(list(scores.values()))}, index=index)
    if score != "elpd":
        table["elpd"] = np.nan
    table["elpd_diff"] = table["elpd"] - table["elpd"].max()
    table["elpd_se"], table["diff_se"] = 1.5, 0.2 - 0.05 * table["elpd_diff"]
    return SimpleNamespace(table=table, best_key=best_key, score=score)


LEVELS = [0.6, 7.0, 9.4, 11.2, 11.8, 12.2]
DYNAMICS = [23.8, 30.0, 32.0, 31.9, 32.2, 32.6]


class TestStateCounts:
    def test_every_family_is_a_line_with_bars(self):
        comparison = make_comparison(
            {"autoregressive": DYNAMICS, "gaussian": LEVELS}, ("autoregressive", 3)
        )
        ax = plots.state_counts(comparison)
        assert [c.get_label() for c in ax.containers] == ["autoregressive", "gaussian"]
        for container, values in zip(ax.containers, (DYNAMICS, LEVELS), strict=True):
            line, _, (bars,) = container
            assert line.get_ydata().tolist() == values
            assert line.get_xdata().tolist() == [1, 2, 3, 4, 5, 6]
            lengths = [np.ptp(segment[:, 1]) / 2 for segment in bars.get_segments()]
            family = comparison.table.loc[container.get_label(), "diff_se"]
            np.testing.assert_allclose(lengths, family)
        assert "number of phases" in ax.get_xlabel()
        assert "nats per row" in ax.get_ylabel()

    def test_the_choice_is_ringed(self):
        ax = plots.state_counts(
            make_comparison({"autoregressive": DYNAMICS}, ("autoregressive", 3))
        )
        (ring,) = (c for c in ax.collections if c.get_label().startswith("chosen"))
        assert ring.get_offsets().tolist() == [[3, 32.0]]
        assert "chosen: 3 phases" in [text.get_text() for text in ax.get_legend().get_texts()]

    def test_a_family_far_below_does_not_flatten_the_others(self):
        comparison = make_comparison(
            {"autoregressive": DYNAMICS, "gaussian": LEVELS}, ("autoregressive", 3)
        )
        ax = plots.state_counts(comparison)
        ax.figure.draw_without_rendering()
        assert "compressed scale" in [text.get_text() for text in ax.texts]

        def height(y):
            return ax.transAxes.inverted().transform(ax.transData.transform((1, y)))[1]

        assert height(32.6) - height(31.9) > 0.1
        assert 0 <= height(min(LEVELS)) < height(max(LEVELS)) < height(30) < height(32.6) <= 1
        ticks = ax.get_yticks()
        assert (ticks < 20).any()
        assert (ticks > 30).sum() >= 2

    def test_the_scale_is_linear_where_all_are_near(self):
        near = {"autoregressive": DYNAMICS[1:], "coupled": [y - 1 for y in DYNAMICS[1:]]}
        ax = plots.state_counts(make_comparison(near, ("coupled", 2)))
        assert ax.get_yscale() == "linear"
        assert not ax.texts

    def test_scores_of_later_rows_stand_in_for_held_out_runs(self):
        comparison = make_comparison({"gaussian": LEVELS}, ("gaussian", 4), score="step_ahead")
        ax = plots.state_counts(comparison)
        assert ax.containers[0][0].get_ydata().tolist() == LEVELS
        assert "one-step-ahead" in ax.get_ylabel()

    def test_draws_into_given_axes(self):
        _, ax = plt.subplots()
        comparison = make_comparison({"gaussian": LEVELS}, ("gaussian", 6))
        assert plots.state_counts(comparison, ax=ax) is ax
