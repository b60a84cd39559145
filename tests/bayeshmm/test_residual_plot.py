"""The picture of the residuals."""

import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from bayeshmm.checks.residuals import autocorrelation, pseudo_residuals
from bayeshmm.phases import modal_path
from bayeshmm.plots.residuals import FURTHEST, LAGS, residuals
from bayeshmm.plots.style import INK, phase_colours


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def drawn(posterior):
    return pseudo_residuals(posterior).to_numpy()


def curves(ax):
    """Data of the lines with points, by colour."""
    return {to_hex(one.get_color()): one.get_data() for one in ax.lines if one.get_marker() == "."}


def test_every_phase_and_all_rows_have_their_curves(posterior, drawn):
    axes = residuals(posterior)
    assert axes.shape == (3, 2)
    colours = [to_hex(colour) for colour in phase_colours(3)]
    path = modal_path(posterior.paths)
    for j, (left, right) in enumerate(axes):
        assert left.get_title(loc="left") == posterior.metrics[j]
        assert list(curves(left)) == list(curves(right)) == [*colours, INK]
        lags, values = curves(right)[INK]
        np.testing.assert_array_equal(lags, range(1, LAGS + 1))
        expected = [autocorrelation(drawn, lag)[j] for lag in lags]
        np.testing.assert_allclose(values, expected, atol=1e-12)
        for k, colour in enumerate(colours):
            assert curves(right)[colour][1][0] == autocorrelation(drawn, 1, path == k)[j]
    (legend,) = axes[0, 0].figure.legends
    assert [text.get_text() for text in legend.texts] == [*posterior.state_names, "all rows"]


def test_quantiles_keep_the_tails_and_stay_in_the_picture(posterior, drawn, monkeypatch):
    far = pseudo_residuals(posterior)
    far[0, 5, 1] = 20.0
    drawing = sys.modules["bayeshmm.plots.residuals"]  # the package has a function of that name
    monkeypatch.setattr(drawing, "pseudo_residuals", lambda posterior: far)
    ((left, _),) = residuals(posterior, metrics="m1")
    expected, found = curves(left)[INK]
    n = np.count_nonzero(~np.isnan(drawn[..., 1]))
    assert (np.diff(expected) > 0).all()
    assert len(expected) < 145 < n
    assert found[-1] == FURTHEST < left.get_ylim()[1]
    np.testing.assert_allclose(found[:20], np.sort(drawn[..., 1][~np.isnan(drawn[..., 1])])[:20])


def test_metrics_in_the_order_asked_for(posterior):
    axes = residuals(posterior, metrics=["m2", "m0"])
    assert [left.get_title(loc="left") for left, _ in axes] == ["m2", "m0"]
    assert axes[0, 0].figure.get_figwidth() == 8.0


def test_axes_that_are_given(posterior):
    _, pair = plt.subplots(1, 2)
    axes = residuals(posterior, metrics="m0", ax=pair)
    assert axes.shape == (1, 2)
    assert (axes[0, 0], axes[0, 1]) == tuple(pair)
    assert pair[1].get_legend() is not None
    with pytest.raises(ValueError, match="ax holds one metric, in two Axes, not 3 in 2"):
        residuals(posterior, ax=pair)


def test_an_unknown_metric_is_named(posterior):
    with pytest.raises(ValueError, match="accuracy"):
        residuals(posterior, metrics="accuracy")
