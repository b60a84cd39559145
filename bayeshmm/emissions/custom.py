"""Emissions of a user's own: a prior in Pyro and a log-likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class PyroEmission(Protocol):
    """What an emission has to do that is not one of this package's families.

    `bayeshmm.fit` takes it as ``emission=``, with ``inference="vi"`` (the default for it) or
    ``"nuts"``. So does `bayeshmm.HMM`, which is then a Pyro model like any other, with the states
    summed out, for every engine of Pyro's. Rows may also depend on the rows before them.

    Examples
    --------
    Accuracies, each Beta within a phase:

    >>> class Accuracies:
    ...     def prior(self, states, metrics):
    ...         one = torch.ones(states, len(metrics), dtype=torch.float64)
    ...         mean = pyro.sample("mean", dist.Beta(one, one).to_event(2))
    ...         size = pyro.sample("size", dist.LogNormal(3 * one, one).to_event(2))
    ...         return mean, size
    ...
    ...     def log_likelihood(self, parameters, values):
    ...         mean, size = (part[..., None, :, :] for part in parameters)
    ...         inside = values.clamp(1e-3, 1 - 1e-3)[:, :, None, :]
    ...         rows = dist.Beta(mean * size, (1 - mean) * size).log_prob(inside.nan_to_num(0.5))
    ...         return torch.where(inside.isnan(), 0.0, rows).sum(-1)
    >>> posterior = bh.fit(runs, 3, emission=Accuracies())                # doctest: +SKIP
    >>> posterior.entry_times()                                           # doctest: +SKIP

    As a Pyro model, and the phases for any values of the parameters, one draw or many:

    >>> hmm = bh.HMM(3, Accuracies(), minimum_dwell=5)                    # doctest: +SKIP
    >>> guide = pyro.infer.autoguide.AutoMultivariateNormal(hmm)          # doctest: +SKIP
    >>> svi = pyro.infer.SVI(hmm, guide, adam, pyro.infer.Trace_ELBO())   # doctest: +SKIP
    >>> svi.step(runs)                                                    # doctest: +SKIP
    >>> rows = Accuracies().log_likelihood((mean, size), values)          # doctest: +SKIP
    >>> bh.messages.smooth(initial.log(), transition.log(), rows)         # doctest: +SKIP
    """

    def prior(self, states: int, metrics: Sequence[str]) -> Any:
        """Sample the parameters with ``pyro.sample``; declare axes of states by ``.to_event``.

        Parameters
        ----------
        states
            K.
        metrics
            Names of the D metrics.

        Returns
        -------
        Any
            Whatever `log_likelihood` wants. Values may have batch axes in front, the last of
            them that of the plate of runs, of size 1.
        """
        ...

    def log_likelihood(self, parameters: Any, values: Tensor) -> Tensor:
        """Log density of every row in every state.

        Parameters
        ----------
        parameters
            From `prior`.
        values
            Metrics in the units of the data, (N, T, D); NaN where missing or beyond the end.

        Returns
        -------
        Tensor
            Shape (..., N, T, K), 0 for rows of which nothing is observed.
        """
        ...
