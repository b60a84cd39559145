"""Comparisons with other libraries, on data and on the clock.

Every module is a benchmark of its own, ``python -m benchmarks.NAME``; ``python -m benchmarks`` runs
them all. It has ``main(arguments) -> int``, whose exit status is 0 where the benchmark reached what
its docstring claims, 1 where it did not, and 2 where it could not run: its data or the other
library are absent, and it has said where to find them.
"""
