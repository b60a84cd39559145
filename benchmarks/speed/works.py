"""What is timed, and by whom: names alone, so that tables need no library."""

from enum import StrEnum

OURS = "bayeshmm"
HMMLEARN = "hmmlearn"
HMMLEARN_SCALED = "hmmlearn, scaled"
DYNAMAX = "dynamax"
POMEGRANATE = "pomegranate"
DISCRETE_HMM = "Pyro DiscreteHMM"
ENUMERATION = "Pyro enumeration"
PRODUCTS = "matrix products"


class Work(StrEnum):
    """A task that libraries can be compared on."""

    LOG_MARGINAL = "log marginal"
    GRADIENT = "log marginal and gradient"
    COUNTS = "log marginal, states and counts"
    VITERBI = "most probable path"
    FILTER = "causal filter"
    PATH = "one sampled path"
    PATHS = "eleven sampled paths"
    SWEEP = "VI sweep / EM iteration"
    STEP = "SVI step"
