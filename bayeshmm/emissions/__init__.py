"""Emission families and their conjugate Bayesian regressions."""

from bayeshmm.emissions.families import Autoregressive, Emission, Gaussian

__all__ = ["Autoregressive", "Emission", "Gaussian"]
