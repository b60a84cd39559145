import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex
from synthetic_runs import EVERY

from bayeshmm.attribution.explanation import explain_transition
from bayeshmm.plots.explanation import explanation
from bayeshmm.plots.style import INK, phase_colours


@pytest.fixture(autouse=True)
def no_figure_stays_open():
    yield
    plt.close("all")


def test_metrics_stand_in_order_of_their_shares(posterior):
    table = explain_transition(posterior, 0, 1)
    axes = explanation(posterior, 0, 1)
    assert [ax.get_title(loc="left") for ax in axes] == table["metric"].tolist()
    share = axes[0].get_title(loc="right")
    assert share.startswith(f"{table['share'][0]:.0%} ({table['share_lower'][0]:.0%} to ")
    words = [text.get_text() for text in axes[0].figure.legends[0].get_texts()]
    assert words == ["phase 0", "phase 1", "median run", "rows of the evidence"]


def test_runs_are_laid_on_their_changes(posterior):
    ax = explanation(posterior, 1, 2, "m0", window=4)
    times = posterior.transition_times().query("source == 'phase 1' and target == 'phase 2'")
    times = times.set_index("run")["median"].astype(int)
    left, entered = phase_colours(3)[1:]
    before, after = (
        [line for line in ax.lines if to_hex(line.get_color()).upper() == colour]
        for colour in (left, entered)
    )
    assert len(before) == len(after) == 8
    runs = posterior.runs
    for n, line in enumerate(after):
        row = times[runs.names[n]] // EVERY
        np.testing.assert_array_equal(line.get_xdata(), EVERY * np.arange(13))
        np.testing.assert_array_equal(line.get_ydata(), runs.values[n, row : row + 13, 0])
        np.testing.assert_array_equal(before[n].get_xdata(), EVERY * np.arange(-12, 1))
    (middle,) = (line for line in ax.lines if to_hex(line.get_color()) == INK)
    now = [line.get_ydata()[0] for line in after]
    assert middle.get_ydata()[12] == pytest.approx(np.median(now))
    assert ax.patches[0].get_extents().width > 0


def test_one_metric_on_given_axes(posterior):
    _, ax = plt.subplots()
    assert explanation(posterior, 0, 1, ax=ax) is ax
    assert ax.get_title(loc="left") == explain_transition(posterior, 0, 1)["metric"][0]
    with pytest.raises(ValueError, match="ax holds one metric, not 2"):
        explanation(posterior, 0, 1, ["m0", "m1"], ax=ax)


def test_changes_and_metrics_are_checked(posterior):
    with pytest.raises(ValueError, match="no run changes from 'phase 2' to 'phase 0'"):
        explanation(posterior, 2, 0)
    with pytest.raises(ValueError, match="m9"):
        explanation(posterior, 0, 1, "m9")
