"""Sweeps and comparisons on Ray, workers of which are killed."""

import os
import signal

import joblib
import pandas as pd
import pytest
from synthetic_runs import change_rows, moving_runs

import bayeshmm as bh
import training

pytestmark = pytest.mark.integration

SMALL = {"width": 40, "train_points": 100, "test_points": 50, "epochs": 20}


@pytest.fixture(scope="module")
def ray_backend():
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "disabled")  # else it writes a token to the home folder
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        import ray
        from ray.util.joblib import register_ray

        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20)
        register_ray()
        yield {"backend": "ray", "n_jobs": -1}
        ray.shutdown()


def sweep(out, **settings):
    training.sweep("sparse_parity", seeds=4, out=out, progress=False, **SMALL, **settings)
    return training.store.read(out).rows


def test_a_sweep(ray_backend, tmp_path):
    with joblib.parallel_config(**ray_backend):
        there = sweep(tmp_path / "there")
    pd.testing.assert_frame_equal(there, sweep(tmp_path / "here"), check_exact=True)


def test_a_comparison(ray_backend):
    runs = moving_runs(change_rows(6, 0, [(15, 25)]), [40] * 6)
    settings = {"minimum_dwell": 4, "restarts": 2, "progress": False}
    with joblib.parallel_config(**ray_backend):
        there = bh.compare(runs, [1, 2], **settings).table
    here = bh.compare(runs, [1, 2], **settings).table
    pd.testing.assert_frame_equal(there, here, check_exact=True)


@pytest.mark.parametrize("restarts", [0, -1])
def test_a_worker_dies(ray_backend, tmp_path, restarts):
    """Ray starts it again if it is told to; else the sweep ends, and another goes on with it."""
    runs, died = tmp_path / "runs", tmp_path / "died"

    def train(seed, directory):
        if seed == 2 and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    remote = {"max_restarts": restarts, "max_task_retries": restarts}
    with joblib.parallel_config(**ray_backend, ray_remote_args=remote):
        if not restarts:
            with pytest.raises(Exception, match="died") as death:
                training.sweep(train, seeds=4, out=runs, progress=False)
            assert "sweep again to train the others" in death.value.__notes__[0]
            assert not (runs / "seed-2").exists()
        paths = training.sweep(train, seeds=4, out=runs, progress=False)
    assert sorted(runs.iterdir()) == paths
