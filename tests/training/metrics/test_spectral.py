"""The spectral metrics against LAPACK in float64, formula by formula."""

import numpy as np
import pytest
import torch
from measuring import array, measure, measured, randomised, row_of

from training.metrics import spectral
from training.metrics.spectral import Spectral


def network(dtype=torch.float32):
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, (2, 5)),
        torch.nn.BatchNorm2d(4),
        torch.nn.Flatten(),
        torch.nn.Linear(12, 7),
        torch.nn.Linear(7, 1),
    )
    return randomised(model, dtype=dtype)


def expected(matrix):
    """Return the statistics, term by term."""
    s = np.linalg.svd(matrix, compute_uv=False)
    mean = sum(s) / len(s)
    entropy = -sum(p * np.log(p) for p in s / sum(s))
    return {
        "spectral_norm": s[0],
        "sv_mean": mean,
        "sv_var": sum((value - mean) ** 2 for value in s) / len(s),
        "stable_rank": (matrix**2).sum() / s[0] ** 2,
        "effective_rank": np.exp(entropy),
    }


def expected_row(model):
    matrices = {
        "0.weight": array(model[0].weight).reshape(4, 30),
        "3.weight": array(model[3].weight),
    }
    stats = {name: expected(matrix) for name, matrix in matrices.items()}
    row = {f"weight/{name}/{stat}": v for name in stats for stat, v in stats[name].items()}
    for stat in stats["0.weight"]:
        row[f"weight/_all/{stat}"] = (stats["0.weight"][stat] + stats["3.weight"][stat]) / 2
    return row


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_statistic(dtype):
    model = network(dtype)
    assert measured(Spectral, model, "*") == pytest.approx(expected_row(model), rel=1e-10)
    over_all = {key: v for key, v in expected_row(model).items() if "_all" in key}
    assert measured(Spectral, model) == pytest.approx(over_all, rel=1e-10)
    assert tuple(over_all) == Spectral.KEYS


def test_low_ranks():
    model = torch.nn.Linear(60, 40, bias=False, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (40, 60))
    model.weight.data = left @ right.mT
    row = measured(Spectral, model)
    s = np.linalg.svd(array(model.weight), compute_uv=False)[:3]
    assert row["weight/_all/sv_mean"] == pytest.approx(s.sum() / 40, rel=1e-6)
    p = s / s.sum()
    assert row["weight/_all/effective_rank"] == pytest.approx(np.exp(-p @ np.log(p)), rel=1e-5)
    model.weight.data.zero_()
    assert set(measured(Spectral, model).values()) == {0.0}


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("exact", [1024, 6])
def test_a_matrix_that_is_not_finite_gives_nan(monkeypatch, bad, exact):
    monkeypatch.setattr(spectral, "EXACT", exact)
    model = network()
    model[3].weight.data[2, 2] = bad
    row = measured(Spectral, model, "*")
    of_bad = [v for key, v in row.items() if "3.weight" in key or key == "log/spectral_error"]
    assert of_bad
    assert np.isnan(of_bad).all()
    assert np.isnan(row["weight/_all/spectral_norm"])
    assert np.isfinite(row["weight/0.weight/effective_rank"])


def test_large_matrices_are_followed(monkeypatch):
    model = network()
    exact_row = expected_row(model)
    monkeypatch.setattr(spectral, "EXACT", 6)  # 4 x 30 is exact, 7 x 12 is not
    row = measured(Spectral, model, "*")
    for stat in ("sv_mean", "sv_var", "effective_rank"):
        assert row[f"weight/_all/{stat}"] == pytest.approx(exact_row[f"weight/0.weight/{stat}"])
        assert f"weight/3.weight/{stat}" not in row
    error = row["log/spectral_error"]
    assert 0 <= error < 1e-4
    for stat in ("spectral_norm", "stable_rank"):
        for tensor in ("_all", "0.weight", "3.weight"):
            key = f"weight/{tensor}/{stat}"
            assert row[key] == pytest.approx(exact_row[key], rel=2 * error + 1e-5)


def test_the_error_is_the_largest_of_the_row(monkeypatch):
    monkeypatch.setattr(spectral, "EXACT", 2)
    monkeypatch.setattr("training.metrics.singular_values.FIRST_STEPS", 2)
    model = randomised(torch.nn.Sequential(torch.nn.Linear(50, 40), torch.nn.Linear(40, 30)))
    errors = [measured(Spectral, part)["log/spectral_error"] for part in model]
    assert measured(Spectral, model)["log/spectral_error"] == max(errors) > min(errors) > 0


def test_a_resumed_iteration_goes_on(monkeypatch):
    monkeypatch.setattr(spectral, "EXACT", 2)
    model = randomised(torch.nn.Linear(90, 80))
    first = measure(Spectral, model)
    row_of(first)
    resumed = measure(Spectral, model)
    assert resumed.state_dict() == {}
    resumed.load_state_dict(first.state_dict())
    assert row_of(resumed) == row_of(first) != measured(Spectral, model)


def test_a_model_without_a_matrix():
    with pytest.raises(ValueError, match="two sides above 1"):
        measure(Spectral, torch.nn.LayerNorm(5))
