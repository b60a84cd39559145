"""How many phases: state counts and families judged on runs that a fit has not seen."""

from bayeshmm.comparison.comparing import Comparison, ComparisonWarning, compare

__all__ = ["Comparison", "ComparisonWarning", "compare"]
