"""Numbers on their way to the host."""

import numpy as np
import pytest
import torch

from training.host import HostCopy


def test_tensors_come_back_in_order_shape_and_float64():
    tensors = [
        torch.tensor(1, dtype=torch.int32),
        torch.arange(6.0).reshape(2, 3),
        torch.empty(0, 4),
        torch.tensor([True, False]),
        torch.tensor(1 / 3, dtype=torch.float64, requires_grad=True),
        torch.tensor([0.5, torch.nan], dtype=torch.bfloat16),
    ]
    arrays = HostCopy(tensors).arrays()
    assert [array.dtype for array in arrays] == [np.float64] * 6
    for tensor, array in zip(tensors, arrays, strict=True):
        np.testing.assert_array_equal(array, tensor.detach().double().numpy())
    assert HostCopy([]).arrays() == []


def test_what_happens_to_a_tensor_afterwards_does_not_matter():
    tensor = torch.ones(3, dtype=torch.float64)
    copy = HostCopy([tensor])
    tensor.zero_()
    assert copy.arrays()[0].tolist() == [1, 1, 1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_nothing_waits_for_a_gpu():
    torch.cuda.set_sync_debug_mode("error")
    try:
        tensors = [torch.ones(1000, device="cuda") * i for i in range(3)]
        arrays = HostCopy([*tensors, torch.ones(2)]).arrays()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [array.sum() for array in arrays] == [0, 1000, 2000, 2]
