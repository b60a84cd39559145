"""Pareto-smoothed weights."""

import numpy as np
import pytest

from bayeshmm.inference.importance import LARGEST, smoothed


@pytest.mark.parametrize("width", [0.5, 0.8, 1.0])
def test_a_law_that_is_too_narrow_is_found_out(width):
    """Draws of N(0, width^2) weighed by N(0, 1): the tail has the shape 1 - width^2."""
    points = width * np.random.default_rng(0).standard_normal(20_000)
    log_ratio = -0.5 * points**2 + 0.5 * (points / width) ** 2
    weights, k_hat = smoothed(log_ratio + 700.0, 1.0)
    assert weights.sum() == pytest.approx(1.0)
    if width == 1.0:
        assert k_hat == 0.0
        np.testing.assert_allclose(weights, 1 / 20_000)
    else:
        assert k_hat == pytest.approx(1.0 - width**2, abs=0.2)
        assert np.mean(points**2) < weights @ points**2 < 1.1


def test_a_tail_that_does_not_matter_is_none():
    """One draw of many has a weight that is a little larger: no shape can be read off that."""
    log_ratio = np.zeros(1000)
    log_ratio[0] = np.log(0.9 * LARGEST)
    weights, k_hat = smoothed(log_ratio, 1.0)
    assert k_hat == 0.0
    assert weights[0] / weights[1] == pytest.approx(0.9 * LARGEST)
