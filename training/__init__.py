"""Train networks and log what their weights do; the companion of `bayeshmm`, and free of it."""

from training import store
from training.hooks import MetricHook
from training.sweep import sweep

__all__ = ["MetricHook", "store", "sweep"]
