"""ArviZ, imported without the notice of its own refactoring that it shows once a day."""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing", category=FutureWarning)
    import arviz as az

__all__ = ["az"]
