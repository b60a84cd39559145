"""Singular values against those of LAPACK in float64, and the power iteration's own error."""

import numpy as np
import pytest
import torch

from training.metrics import singular_values
from training.metrics.singular_values import BLOCK, PowerIteration, gram, largest


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_values(values, seed=0):
    """Return a square matrix with these singular values."""
    n = len(values)
    left, right = (torch.linalg.qr(normal(n, n, seed=seed + i)).Q for i in (1, 2))
    return (left * torch.as_tensor(values, dtype=torch.float32)) @ right.mT


def exact(matrix):
    return torch.linalg.svdvals(matrix.double()).numpy()


def computed(matrices):
    return singular_values.singular_values(gram(matrices).numpy())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(7, 20), (20, 7), (1, 9), (3, 12, 5)])
def test_they_are_those_of_lapack(shape, dtype):
    matrices = normal(*shape).to(dtype)
    np.testing.assert_allclose(computed(matrices), exact(matrices), rtol=1e-12)


def test_a_low_rank():
    matrix = normal(64, 3).double() @ normal(3, 100, seed=1).double()
    values, expected = computed(matrix), exact(matrix)
    np.testing.assert_allclose(values[:3], expected[:3], rtol=1e-13)
    assert np.all(values[3:] < 1e-7 * values[0])
    assert np.all(values >= 0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_only_a_matrix_that_is_not_finite_has_none(bad):
    matrices = normal(2, 4, 6)
    matrices[1, 2, 3] = bad
    values = computed(matrices)
    np.testing.assert_allclose(values[0], exact(matrices[0]), rtol=1e-12)
    assert np.isnan(values[1]).all()


def followed(iteration, matrix):
    return largest(iteration.collect(matrix).double().numpy())


SPECTRA = {
    "falling": 0.9 ** np.arange(200),
    "linear": 1 - np.arange(200) / 200,
    "flat": np.ones(200),
    "one above the rest": np.append(1.2, np.linspace(1, 0, 199)),
    "low rank": np.append(np.ones(2), np.zeros(198)),
}


@pytest.mark.parametrize("steps", [2, 50])
@pytest.mark.parametrize("spectrum", [*SPECTRA, "normal", "tall", "wide"])
def test_the_error_bounds_the_distance_to_the_largest(monkeypatch, spectrum, steps):
    monkeypatch.setattr(singular_values, "FIRST_STEPS", steps)
    shapes = {"normal": (300, 300), "tall": (500, 200), "wide": (200, 500)}
    matrix = normal(*shapes[spectrum]) if spectrum in shapes else with_values(SPECTRA[spectrum])
    value, error = followed(PowerIteration(), matrix)
    true = exact(matrix)[0]
    assert error < (0.03 if steps == 50 else 0.5)
    assert true * (1 - error - 1e-5) <= value <= true * (1 + 1e-5)


def test_it_goes_on_where_it_ended():
    matrix, iteration = normal(300, 300), PowerIteration()
    first, *_, last = (followed(iteration, matrix)[1] for _ in range(20))
    assert last < first / 10
    resumed = PowerIteration()
    resumed.basis = iteration.basis
    assert followed(resumed, matrix) == followed(iteration, matrix)


def test_it_sees_another_singular_value_overtake():
    left, right = (torch.linalg.qr(normal(150, 150, seed=i)).Q for i in (1, 2))
    iteration = PowerIteration()
    rest = torch.linspace(0.5, 0, 148)
    for second in np.linspace(0.8, 1.3, 6):
        matrix = (left * torch.cat([torch.tensor([1.0, float(second)]), rest])) @ right.mT
        assert followed(iteration, matrix)[0] == pytest.approx(max(1.0, second), rel=1e-5)


def test_it_survives_rows_without_a_direction():
    matrix, iteration = normal(100, 100), PowerIteration()
    value, _ = followed(iteration, matrix)
    assert np.isnan(followed(iteration, torch.full_like(matrix, torch.nan))).all()
    assert np.isnan(followed(iteration, torch.full_like(matrix, torch.inf))).all()
    assert followed(iteration, torch.zeros_like(matrix)) == (0.0, 0.0)
    assert followed(iteration, matrix)[0] == pytest.approx(value, rel=1e-3)
    assert iteration.basis.shape == (100, BLOCK)


def test_no_random_state_is_touched():
    before = torch.get_rng_state()
    values = {followed(PowerIteration(), normal(50, 60)) for _ in range(2)}
    assert len(values) == 1
    assert torch.equal(before, torch.get_rng_state())
