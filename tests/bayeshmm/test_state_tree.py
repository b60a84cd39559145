"""`plots.state_tree`: boxes, bands and colours from 1 to many phases."""

from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import PathPatch, Rectangle
from numpy.testing import assert_allclose

from bayeshmm.plots.state_tree import state_tree
from bayeshmm.plots.style import phase_colours
from bayeshmm.relabelling import relabelled


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def compared(families, best):
    """What the picture needs of a comparison, of one run; paths are strings of digits."""
    states = {
        (family, 1 + int(max(path))): np.eye(1 + int(max(path)))[[[int(k) for k in path]]]
        for family, paths in families.items()
        for path in paths
    }
    index = pd.MultiIndex.from_tuples(states, names=["emission", "states"])
    table = pd.DataFrame({"elpd": 0.0}, index=index)
    return SimpleNamespace(table=table, best_key=best, states_of=states.__getitem__)


THREE = compared(
    {"ar": ["0000000000", "0000011111", "0001122222"], "levels": ["01" * 5]}, ("ar", 3)
)


def boxes(ax):
    """Place, top, height and colour of every box, by columns, from the top."""
    found = [
        (box.get_x() + box.get_width() / 2, -box.get_y() - box.get_height(), box)
        for box in ax.patches
        if isinstance(box, Rectangle)
    ]
    return [
        (round(x), -top, box.get_height(), to_hex(box.get_facecolor()).upper())
        for x, top, box in sorted(found, key=lambda entry: entry[:2])
    ]


def bands(ax):
    return [patch for patch in ax.patches if isinstance(patch, PathPatch)]


def labels(ax):
    return [tick.get_text() for tick in ax.get_xticklabels()]


class TestComparison:
    def test_boxes_are_shares_of_rows(self):
        found = boxes(state_tree(THREE))
        assert [x for x, *_ in found] == [0, 1, 1, 2, 2, 2]
        assert_allclose([height for _, _, height, _ in found], [1.0, 0.5, 0.5, 0.3, 0.2, 0.5])
        for (x, top, height, _), (other, below, *_) in pairwise(found):
            assert x < other or top - height > below

    def test_the_chosen_number_has_the_colours_of_its_posterior(self):
        """Going down, a merged phase has the colour of its largest part."""
        first, second, third = phase_colours(3)
        colours = [colour for *_, colour in boxes(state_tree(THREE))]
        assert colours[3:] == [first, second, third]
        assert colours[1:3] == [first, third]
        assert colours[0] in (first, third)

    def test_the_rest_of_a_split_has_a_new_colour(self):
        two = SimpleNamespace(**vars(THREE) | {"best_key": ("ar", 2)})
        first, second, third = phase_colours(3)
        assert [colour for *_, colour in boxes(state_tree(two))][1:] == [
            *(first, second),
            *(first, third, second),
        ]

    def test_bands_join_shared_rows_in_the_colour_of_the_left(self):
        ax = state_tree(THREE)
        found = bands(ax)
        heights = [patch.get_path().vertices[[0, -1], 1] for patch in found]
        assert_allclose([top - bottom for top, bottom in heights], [0.5, 0.5, 0.3, 0.2, 0.5])
        left = [colour for *_, colour in boxes(ax)[:3]]
        drawn = [to_hex(patch.get_facecolor()).upper() for patch in found]
        assert drawn == [left[0], left[0], left[1], left[1], left[2]]

    def test_bands_stay_within_their_boxes(self):
        paths = ["".join(str(k) for k in path) for path in random_paths()]
        ax = state_tree(compared({"ar": paths}, ("ar", 4)))
        found = {}
        for x, top, height, _ in boxes(ax):
            found.setdefault(x, []).append((top + 1e-9, top - height - 1e-9))
        for patch in bands(ax):
            vertices = patch.get_path().vertices
            for corner, other in ((0, -1), (3, 4)):
                x, top = vertices[corner]
                assert any(high >= top > vertices[other, 1] >= low for high, low in found[round(x)])

    def test_labels(self):
        ax = state_tree(THREE)
        assert labels(ax) == ["1", "2", "3\nchosen"]
        assert ax.get_xlabel() == "number of phases"
        assert ax.get_ylabel() == "share of rows"
        names = [text.get_text() for text in ax.get_legend().get_texts()]
        assert names == ["phase 0", "phase 1", "phase 2"]
        shares = [text.get_text() for text in ax.texts]
        assert shares == ["100%", "50%", "50%", "30%", "20%", "50%"]

    @pytest.mark.parametrize("width", [3.0, 8.0])
    def test_labels_lie_in_their_boxes(self, width):
        paths = ["".join(str(k) for k in path) for path in random_paths()]
        _, ax = plt.subplots(figsize=(width, 4.0), layout="constrained")
        state_tree(compared({"ar": paths}, ("ar", 4)), ax=ax)
        ax.figure.draw_without_rendering()
        spans = [p.get_window_extent() for p in ax.patches if isinstance(p, Rectangle)]
        assert bool(ax.texts) == (width > 5)
        for text in ax.texts:
            place = text.get_window_extent()
            assert any(
                box.x0 <= place.x0
                and place.x1 <= box.x1
                and box.y0 <= place.y0 <= place.y1 <= box.y1
                for box in spans
            )
        ticks = [tick.get_window_extent() for tick in ax.get_xticklabels()]
        assert all(one.x1 < other.x0 for one, other in pairwise(ticks))
        assert ax.get_legend().get_window_extent().y0 >= ax.get_window_extent().y1 - 1

    def test_another_family(self):
        ax = state_tree(THREE, "levels")
        assert labels(ax) == ["2"]
        assert not bands(ax)

    def test_a_family_that_was_not_compared(self):
        with pytest.raises(ValueError, match=r"'laplace' was not compared.*'ar', 'levels'"):
            state_tree(THREE, "laplace")


def random_paths(rows=400):
    """Paths of 1 to 8 states, each a random refinement of another cut of the rows."""
    rng = np.random.default_rng(0)
    for K in range(1, 9):
        cuts = np.sort(rng.choice(np.arange(1, rows), K - 1, replace=False))
        yield np.searchsorted(cuts, np.arange(rows), side="right")


class TestPosteriors:
    def test_posteriors_are_aligned(self, posterior):
        ax = state_tree([posterior, relabelled(posterior, [2, 0, 1])])
        assert labels(ax) == ["3", "3"]
        found = boxes(ax)
        assert [colour for *_, colour in found] == phase_colours(3) * 2
        assert len(bands(ax)) == 3
        assert sum(height for _, _, height, _ in found) == pytest.approx(2)

    def test_colours_and_names_are_the_posterior_s(self, posterior):
        named = replace(posterior.rename({1: "plateau"}), palette=(6, 2, 4))
        ax = state_tree({"seed 0": named})
        assert labels(ax) == ["3\nseed 0"]
        assert {colour for *_, colour in boxes(ax)} == set(phase_colours([6, 2, 4]))
        names = [text.get_text() for text in ax.get_legend().get_texts()]
        assert names == ["plateau", "phase 2", "phase 0"]

    def test_what_no_tree_can_be_of(self, posterior, level_posterior):
        for posteriors in ([], [posterior, level_posterior]):
            with pytest.raises(ValueError, match="posteriors of the same runs"):
                state_tree(posteriors)
        with pytest.raises(ValueError, match="one family"):
            state_tree([posterior], "autoregressive")
