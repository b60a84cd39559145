"""On a GPU the hook lets no step and no row wait for the device."""

import numpy as np
import pytest
import torch

from training import MetricHook, store

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture
def _no_waiting():
    """Turn what waits for the device into an error, from the first step on."""
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("_no_waiting")
@pytest.mark.parametrize("metrics", ["core", "spectral", "hu2023"])
@pytest.mark.parametrize("scaled", [False, True])
def test_nothing_waits(tmp_path, metrics, scaled):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 8))
    model.cuda()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    scaler = torch.amp.GradScaler("cuda", enabled=scaled)
    inputs = torch.randn(16, 64, device="cuda")
    options = {"every": 2, "metrics": metrics, "activations": "1"}
    with MetricHook(model, optimizer, tmp_path, **options) as hook:
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(10):
            optimizer.zero_grad()
            loss = model(inputs).square().mean()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            hook.log(train_loss=loss)
        torch.cuda.set_sync_debug_mode("default")
    rows = store.read(tmp_path).rows
    assert rows["step"].tolist() == [0, 2, 4, 6, 8, 10]
    assert store.read(tmp_path).attributes["errors"].tolist() == [0]
    assert np.isfinite(rows["train_loss"][1:]).all()
