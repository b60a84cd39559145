"""Emission families and their conjugate Bayesian regressions."""

from bayeshmm.emissions.custom import PyroEmission
from bayeshmm.emissions.families import Autoregressive, Emission, Gaussian
from bayeshmm.emissions.hyperpriors import Hyperpriors

__all__ = ["Autoregressive", "Emission", "Gaussian", "Hyperpriors", "PyroEmission"]
