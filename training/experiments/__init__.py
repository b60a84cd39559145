"""Small experiments whose training goes through phases; each run takes seconds on one core.

An experiment is a module with a frozen dataclass ``Config`` and ``train(seed, directory, config)``,
which trains one model and logs the run. Every random number comes from ``seed``; no global state is
touched.
"""

EXPERIMENTS = ("digits", "modular_addition", "sparse_parity", "two_stage")
"""The modules, by the names that `training.sweep` and the command line know them by."""
