"""Train networks and log what their weights do; the companion of `bayeshmm`, and free of it."""

from training import store
from training.cadence import LogSpaced
from training.hooks import MetricHook
from training.metrics import metric
from training.sweep import SweepError, sweep

__all__ = ["LogSpaced", "MetricHook", "SweepError", "metric", "store", "sweep"]
