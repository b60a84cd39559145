"""What the engines draw from: a posterior as a density, where to start, and what points mean."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Protocol

import torch
from torch import Tensor

from bayeshmm.encoding import Encoded
from bayeshmm.hmm import model
from bayeshmm.inference import gibbs
from bayeshmm.inference.guides import Affine, Blocks, full_rank, mean_field
from bayeshmm.inference.settings import GuideKind
from bayeshmm.inference.site_values import Values, site_values, values
from bayeshmm.inference.unconstrained import Unconstrained
from bayeshmm.inference.variational import VariationalFit
from bayeshmm.own_encoding import OwnRows

FULL_RANK = 500
"""Most dimensions in which all parameters vary together unless one asks for it."""

START_DRAWS = 1000
"""Draws of the conjugate posterior that its location and scales are taken from, at least."""

NUMBERS = 1 << 25
"""Most numbers in all of them together."""

AT_ONCE = 1 << 22
"""Numbers (draws by rows by states) that are computed on as one batch, which bounds the memory."""


class Target(Protocol):
    """A posterior as the engines for any Pyro model need it."""

    @property
    def space(self) -> Unconstrained:
        """The posterior's density."""
        ...

    @property
    def data(self) -> Encoded | OwnRows:
        """The runs."""
        ...

    @property
    def minimum_dwell(self) -> int:
        """Rows."""
        ...

    @property
    def states(self) -> int:
        """K."""
        ...

    @property
    def constant(self) -> float:
        """What the log density has beyond that in the units of the conjugate bound."""
        ...

    def start(self, guide: GuideKind | None) -> Affine:
        """Where a guide of some kind starts; None: of the kind that its dimension allows."""
        ...

    def parameters(self, points: Tensor) -> Values:
        """Draws of the parameters, at points (S, size)."""
        ...


@dataclass(frozen=True)
class ConjugateTarget:
    """The posterior of a model whose conjugate fit is known.

    The law of the first values, which no other parameter bears on, is left aside: it has its own
    posterior in the fit.

    Attributes
    ----------
    fit
        To all runs.
    data
        The runs.
    seed
        Of the draws that the start is taken from.
    """

    fit: VariationalFit
    data: Encoded
    seed: int

    @cached_property
    def space(self) -> Unconstrained:
        """The model without the first values."""
        prior, data = replace(self.fit.prior, entry=None), replace(self.data, entry=None)
        return Unconstrained(partial(model, prior, data))

    @property
    def minimum_dwell(self) -> int:
        """Rows."""
        return self.fit.prior.minimum_dwell

    @property
    def states(self) -> int:
        """K."""
        return self.fit.prior.regression.states

    @property
    def constant(self) -> float:
        """The Jacobian determinant of the units, less the bound of the first values."""
        entry = self.fit.entry
        return float(self.data.log_jacobian.sum() - (0.0 if entry is None else entry.bound))

    def start(self, guide: GuideKind | None) -> Affine:
        """Location and scales of the conjugate posterior, hyper-parameters included."""
        size = self.space.size
        kind = guide or ("full-rank" if size <= FULL_RANK else "block")
        blocks = {"full-rank": full_rank, "mean-field": mean_field}.get(kind, self._blocks)(size)
        largest = max(places.shape[-1] for places in blocks)
        draws = max(min(max(START_DRAWS, 4 * largest), NUMBERS // size), 50)
        generator = torch.Generator().manual_seed(self.seed)
        state = gibbs.start(self.fit, draws, generator)
        return Affine.of(self.space.points(site_values(self.fit.prior, state)), blocks)

    def _blocks(self, size: int) -> Blocks:
        """Each state's regressions, each run's effects in each state, and all the rest."""
        by_state = ("variance", "coefficient", "contrast")
        own = [self.space.places(name) for name in by_state if name in self.space.sites]
        groups = [torch.cat([places.flatten(1) for places in own], 1)]
        if "run_effect" in self.space.sites:
            groups.append(self.space.places("run_effect").flatten(0, 1))
        taken = torch.cat([places.flatten() for places in groups])
        rest = torch.ones(size, dtype=torch.bool).index_fill(0, taken, False)
        return [*groups, rest.nonzero().T]

    def parameters(self, points: Tensor) -> Values:
        """Draws of the parameters, at points (S, size)."""
        with torch.no_grad():
            sites = self.space.values(points)
        return values(self.fit.prior, sites, len(self.data.lengths))


def at_once(data: Encoded | OwnRows, states: int) -> int:
    """Draws that are computed on as one batch."""
    return max(1, AT_ONCE // (len(data.lengths) * int(data.lengths.max()) * states))
