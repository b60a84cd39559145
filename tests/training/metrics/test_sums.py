"""Sums over tensors are those of NumPy in float64."""

import numpy as np
import pytest
import torch

from training.metrics.sums import PIECE, squares, weight_sums


def values(shape, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (1 + torch.randn(shape, generator=generator)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(0,), (3,), (7, 5), (2, PIECE + 3)])
def test_sums(shape, dtype):
    tensor, before = values(shape, dtype), values(shape, dtype, seed=1)
    wide = tensor.double().numpy().ravel()
    kept = before.to(torch.promote_types(dtype, torch.float32))
    (row,) = weight_sums([tensor]).numpy()
    assert row[:2] == pytest.approx([np.abs(wide).sum(), (wide**2).sum()], rel=1e-12)
    assert row[2:].sum() == pytest.approx(wide.sum(), rel=1e-12)
    assert squares([tensor]).item() == pytest.approx((wide**2).sum(), rel=1e-12)
    moved = ((wide - before.double().numpy().ravel()) ** 2).sum()
    assert squares([tensor], minus=[kept]).item() == pytest.approx(moved, rel=1e-12)


def test_quarters_are_cut_by_position():
    (row,) = weight_sums([torch.arange(10.0)]).numpy()
    assert row[2:].tolist() == [0 + 1 + 2 + 3, 4 + 5, 6 + 7, 8 + 9]


def test_the_order_in_memory_does_not_matter():
    tensor = values((6, 4, 3, 3), torch.float32)
    assert torch.equal(
        weight_sums([tensor]), weight_sums([tensor.to(memory_format=torch.channels_last)])
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_seen(bad):
    tensor = values((1000,), torch.float32)
    tensor[501] = bad
    (row,) = weight_sums([tensor]).numpy()
    expected = [abs(bad), bad * bad, bad]
    np.testing.assert_array_equal(row[[0, 1, 4]], expected)
    assert np.isfinite(row[[2, 3, 5]]).all()
    np.testing.assert_array_equal(squares([tensor]).numpy(), [bad * bad])
    np.testing.assert_array_equal(squares([tensor], minus=[tensor.clone()]).numpy(), [np.nan])
