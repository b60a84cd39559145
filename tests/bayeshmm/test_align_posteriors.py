"""`align`: one name, colour and place for each phase, in posteriors of any kind."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from synthetic_runs import QUICK

import bayeshmm as bh
from bayeshmm import plots
from bayeshmm.aligned import align, alignment_table
from bayeshmm.plots.style import phase_colours
from bayeshmm.relabelling import relabelled

SETTINGS = QUICK | {"minimum_dwell": 5}


@pytest.fixture(scope="module")
def fewer(moving):
    """Two phases of `moving`."""
    return bh.fit(moving, 2, **SETTINGS)


@pytest.fixture(scope="module")
def elsewhere(unseen):
    """Three phases of other runs, in another order."""
    return relabelled(bh.fit(unseen, 3, **SETTINGS), [2, 0, 1])


def assert_same(one, other):
    """Names, colours, places and draws."""
    assert one.state_names == other.state_names
    assert one.palette == other.palette
    np.testing.assert_array_equal(one.paths, other.paths)


class TestAlign:
    def test_a_relabelling_is_undone(self, posterior):
        named = posterior.rename({0: "memorise", 2: "grok"})
        kept, moved = align([named, relabelled(posterior, [2, 0, 1])])
        assert_same(kept, named)
        assert_same(moved, named)
        np.testing.assert_array_equal(moved.smooth(), posterior.smooth())

    def test_fewer_phases_have_names_and_colours_of_the_reference(self, posterior, fewer):
        named = posterior.rename({0: "a", 1: "b", 2: "c"})
        kept, other = align([named, fewer])
        assert_same(kept, named)
        colours = dict(zip(named.state_names, named.palette, strict=True))
        assert len(set(other.state_names)) == 2
        assert [colours[name] for name in other.state_names] == list(other.palette)
        assert list(other.palette) == sorted(other.palette)

    def test_a_further_phase_comes_last_under_a_name_and_colour_of_its_own(self, posterior, fewer):
        kept, other = align([fewer, posterior])
        assert_same(kept, fewer)
        assert other.state_names == ("phase 0", "phase 1", "phase 2")
        assert other.palette == (0, 1, 2)
        table = alignment_table([fewer, posterior]).set_index("phase")
        new = table.loc["phase 2", "state"]
        old = posterior.paths == posterior.state_names.index(new)
        np.testing.assert_array_equal(other.paths == 2, old)

    def test_a_free_name_and_colour_are_kept(self, posterior, fewer):
        painted = replace(posterior, state_names=("x", "y", "z"), palette=(5, 6, 7))
        _, other = align([fewer, painted])
        assert other.state_names[:2] == fewer.state_names
        assert other.palette[:2] == fewer.palette
        assert other.state_names[2] in painted.state_names
        assert other.palette[2] == 5 + painted.state_names.index(other.state_names[2])

    def test_aligning_again_changes_nothing(self, posterior, fewer, elsewhere):
        once = align([fewer, posterior, elsewhere])
        for one, other in zip(align(once), once, strict=True):
            assert_same(one, other)

    def test_a_reference_outside_the_list(self, posterior):
        named = posterior.rename({0: "memorise", 2: "grok"})
        (moved,) = align([relabelled(posterior, [1, 2, 0])], reference=named)
        assert_same(moved, named)

    def test_runs_without_one_in_common_are_compared_by_applying_each_fit(
        self, posterior, elsewhere
    ):
        _, other = align([posterior, elsewhere])
        assert other.state_names == posterior.state_names
        assert other.palette == posterior.palette
        medians = [
            one.entry_times().groupby("state")["median"].median() for one in (posterior, other)
        ]
        assert (medians[0] - medians[1]).abs().max() < 60  # of changes about 200 steps apart

    def test_runs_of_one_name_are_not_the_same_runs(self, posterior, elsewhere):
        """The same names, other values: each is applied to the other."""
        frame = elsewhere.runs.to_dataframe().replace({"run": {"unseen-0": "seed-0"}})
        renamed = replace(elsewhere, runs=bh.Runs.from_dataframe(frame))
        rows = alignment_table([posterior, renamed])
        pd.testing.assert_frame_equal(rows, alignment_table([posterior, elsewhere]))

    def test_other_metrics_of_the_same_runs(self, posterior, moving):
        blind = bh.fit(moving, 3, metrics=["m0", "m1"], **SETTINGS)
        _, other = align([posterior, blind])
        assert other.state_names == posterior.state_names

    def test_mappings_keep_their_keys(self, posterior, fewer):
        aligned = align({"three": posterior, "two": fewer})
        assert list(aligned) == ["three", "two"]
        assert_same(aligned["two"], align([posterior, fewer])[1])
        table = alignment_table({"three": posterior, "two": fewer})
        assert set(table["posterior"]) == {"two"}

    def test_states_with_an_order_of_their_own_keep_their_places(self, posterior, moving):
        ordered = bh.fit(moving, 3, transition=bh.LeftToRight(), **SETTINGS)
        _, other = align([relabelled(posterior, [2, 1, 0]).rename({0: "last"}), ordered])
        np.testing.assert_array_equal(other.paths, ordered.paths)
        assert other.state_names == ("phase 0", "phase 1", "last")
        assert other.palette == (0, 1, 2)

    def test_nothing_to_compare_on(self, posterior, elsewhere):
        frame = elsewhere.runs.to_dataframe().rename(columns={"m0": "other"})
        apart = replace(elsewhere, runs=bh.Runs.from_dataframe(frame))
        with pytest.raises(ValueError, match=r"no run in common.*'m0', 'other'"):
            align([posterior, apart])

    def test_no_posteriors(self):
        assert align([]) == []
        assert align({}) == {}


class TestTable:
    def test_shares(self, posterior, fewer):
        table = alignment_table([posterior, fewer])
        assert list(table) == [
            *("posterior", "phase", "state", "reference", "own", "shared", "agreement")
        ]
        assert len(table) == 3
        assert table[["reference", "own"]].sum().tolist() == pytest.approx([1, 1])
        either = table["reference"] + table["own"] - table["shared"]
        np.testing.assert_allclose(table["agreement"], table["shared"] / either)
        (absent,) = table.index[table["state"].isna()]
        assert table.loc[absent, ["own", "shared", "agreement"]].tolist() == [0, 0, 0]
        assert table["shared"].sum() > 0.5

    def test_a_copy_agrees_entirely(self, posterior):
        table = alignment_table([posterior, relabelled(posterior, [1, 2, 0])])
        assert table["agreement"].tolist() == [1, 1, 1]
        assert table["state"].tolist() == ["phase 0", "phase 1", "phase 2"]


class TestRelabelled:
    def test_no_permutation(self, posterior):
        with pytest.raises(ValueError, match="no permutation of 3 states"):
            relabelled(posterior, [0, 1, 1])

    def test_what_cannot_move(self, short):
        ordered = bh.fit(short, 2, transition=bh.LeftToRight(), **QUICK)
        with pytest.raises(ValueError, match="cannot change places"):
            relabelled(ordered, [1, 0])

    def test_names_and_colours_move_along(self, posterior):
        named = replace(posterior.rename({0: "a", 1: "b", 2: "c"}), palette=(4, 0, 1))
        moved = relabelled(named, [2, 0, 1])
        assert moved.state_names == ("c", "a", "b")
        assert moved.palette == (1, 4, 0)

    def test_the_worst_quantity_speaks_of_the_same_phase(self, posterior):
        diagnostics = posterior.diagnostics.copy()
        diagnostics["worst"] = "noise of phase 2"
        moved = relabelled(replace(posterior, diagnostics=diagnostics), [2, 0, 1])
        assert moved.diagnostics["worst"] == "noise of phase 0"


def test_colours_are_kept_in_a_file(posterior, tmp_path):
    replace(posterior, palette=(3, 0, 7)).save(tmp_path / "one.nc")
    assert bh.load(tmp_path / "one.nc").palette == (3, 0, 7)


def colours_in(figure):
    """Every colour that an artist of the figure has, in hex."""
    found = set()
    for artist in figure.findobj():
        for kind in ("get_facecolor", "get_edgecolor", "get_color"):
            if hasattr(artist, kind):
                colour = getattr(artist, kind)()
                colours = colour if np.ndim(colour) == 2 else [colour]
                found |= {to_hex(one).upper() for one in colours if len(one)}
    return found


PICTURES = {
    "phases": lambda posterior: plots.phases(posterior, "seed-0"),
    "explanation": lambda posterior: plots.explanation(posterior, 0, 1),
    "state_tree": lambda posterior: plots.state_tree([posterior]),
}
ALL = [*PICTURES, "training_map", "ribbon", "change_times", "dwell_times", "profiles", "residuals"]


@pytest.mark.parametrize("name", ALL)
def test_a_phase_keeps_its_colour_everywhere(posterior, name):
    painted = replace(posterior, palette=(3, 5, 8))
    axes = PICTURES.get(name, getattr(plots, name))(painted)
    shown = colours_in(np.ravel(np.asarray(axes, dtype=object))[0].figure)
    plt.close("all")
    assert len(shown & set(phase_colours([3, 5, 8]))) >= 2
    assert not shown & set(phase_colours(3))
