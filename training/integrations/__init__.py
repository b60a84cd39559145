"""Callbacks that log with `training.MetricHook` from the trainers of other libraries.

`training.integrations.lightning`, `training.integrations.huggingface` and
`training.integrations.accelerate` need the library that each is named after, and nothing else of
this package imports them.
"""
