"""Sweeps and comparisons on a Dask cluster, workers of which are killed."""

import logging
import os
import signal
import threading
import time

import joblib
import pandas as pd
import pytest
from synthetic_runs import change_rows, moving_runs

import bayeshmm as bh
import training
from training.sweep import SweepError

pytestmark = pytest.mark.integration

SMALL = {"width": 40, "train_points": 100, "test_points": 50, "epochs": 20}


@pytest.fixture(scope="module")
def cluster():
    import dask
    from distributed import Client, LocalCluster

    # a task may be started more often than a sweep starts a run
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 100}),
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
        ) as local,
        Client(local) as client,
        joblib.parallel_config(backend="dask"),
    ):
        yield client


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The runs that this process trains."""
    out = tmp_path_factory.mktemp("here")
    return training.store.read(sweep(out, jobs=1)).rows


@pytest.fixture(scope="module")
def runs():
    return moving_runs(change_rows(6, 0, [(15, 25)]), [40] * 6)


def sweep(out, **settings):
    training.sweep("sparse_parity", seeds=40, out=out, progress=False, **SMALL, **settings)
    return out


def compare(runs, **settings):
    return bh.compare(
        runs, [1, 2, 3], minimum_dwell=4, restarts=2, progress=False, **settings
    ).table


def kill(client, moment):
    """Kill a worker at some moment; the thread that waits for it, and the process."""
    victim = next(iter(client.run(os.getpid).values()))

    def wait():
        while not moment():
            time.sleep(0.01)
        os.kill(victim, signal.SIGKILL)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread, victim


def test_a_sweep(cluster, here, tmp_path):
    pd.testing.assert_frame_equal(training.store.read(sweep(tmp_path)).rows, here, check_exact=True)


def test_a_worker_is_killed_half_way_through_a_sweep(cluster, here, tmp_path):
    thread, victim = kill(cluster, lambda: len(list(tmp_path.glob("seed-*"))) >= 20)
    sweep(tmp_path)
    thread.join(timeout=10)
    assert victim not in cluster.run(os.getpid).values()
    stored = training.store.read(tmp_path)
    pd.testing.assert_frame_equal(stored.rows, here, check_exact=True)
    assert stored.attributes["status"].unique().tolist() == ["finished"]
    assert {path.name for path in tmp_path.iterdir()} == {f"seed-{n}" for n in range(40)}


def test_a_run_that_kills_its_workers_is_given_up(cluster, tmp_path):
    def train(seed, directory):
        if seed == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(SweepError, match="1 of 4 runs failed: seed-1") as failure:
        training.sweep(train, seeds=4, out=tmp_path, progress=False)
    assert "3 workers died" in failure.value.tracebacks["seed-1"]
    assert {path.name for path in tmp_path.glob("seed-*")} == {"seed-0", "seed-2", "seed-3"}


def test_a_comparison(cluster, runs):
    with joblib.parallel_config(backend="sequential"):
        alone = compare(runs)
    pd.testing.assert_frame_equal(compare(runs), alone, check_exact=True)


def test_a_worker_is_killed_during_a_comparison(cluster, runs):
    table = compare(runs)
    thread, victim = kill(cluster, lambda: all(cluster.processing().values()))
    pd.testing.assert_frame_equal(compare(runs), table, check_exact=True)
    thread.join(timeout=10)
    assert victim not in cluster.run(os.getpid).values()
