"""How many phases: state counts and families judged on runs that a fit has not seen."""

from bayeshmm.comparison.comparing import compare
from bayeshmm.comparison.result import Comparison, ComparisonWarning

__all__ = ["Comparison", "ComparisonWarning", "compare"]
