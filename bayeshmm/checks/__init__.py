"""Goodness of fit: residuals, replicates, and what they say in words."""

from bayeshmm.checks.checking import Check, Finding, check

__all__ = ["Check", "Finding", "check"]
