"""What phases are, what changes at a change, and which metrics say so."""

from bayeshmm.attribution.explanation import explain_transition
from bayeshmm.attribution.profiles import phase_profiles

__all__ = ["explain_transition", "phase_profiles"]
