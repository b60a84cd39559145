"""The model: initial law, transitions and emissions put together. Calling it is the Pyro model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from bayeshmm import defaults, messages
from bayeshmm.emissions.families import Emission, layout, named_emission
from bayeshmm.emissions.layout import Layout
from bayeshmm.emissions.likelihood import Law, log_likelihood
from bayeshmm.emissions.regression import Precisions, RegressionPrior
from bayeshmm.encoding import Encoded, Encoding
from bayeshmm.runs import Runs
from bayeshmm.transitions import Chain, Dirichlet, TransitionPrior


@dataclass(frozen=True)
class Prior:
    """The parts of a model for given runs, as the engines use them.

    Attributes
    ----------
    regression
        Of the rows.
    transition
        Of the chain.
    entry
        Of the first values (one state); None where the first row is a row like any other.
    minimum_dwell
        Rows.
    """

    regression: RegressionPrior
    transition: TransitionPrior
    entry: RegressionPrior | None
    minimum_dwell: int


@dataclass(frozen=True)
class HMM:
    """A hidden Markov model of training runs with learned priors.

    Parameters
    ----------
    states
        Number of phases K.
    emission
        `Autoregressive`, `Gaussian`, or the shortcut ``"autoregressive"`` or ``"gaussian"``.
    transition
        `Dirichlet`; None is ``Dirichlet()``.
    minimum_dwell
        Rows that every visit to a phase lasts at least. None: 10, or a tenth of the median run
        where that is less.

    Examples
    --------
    An `HMM` is a Pyro model of `Runs`:

    >>> hmm = HMM(3)                                                     # doctest: +SKIP
    >>> guide = pyro.infer.autoguide.AutoNormal(hmm)                     # doctest: +SKIP
    >>> svi = pyro.infer.SVI(hmm, guide, adam, pyro.infer.Trace_ELBO())  # doctest: +SKIP
    >>> svi.step(runs)                                                   # doctest: +SKIP
    """

    states: int
    emission: str | Emission = "autoregressive"
    transition: Dirichlet | None = None
    minimum_dwell: int | None = None

    def __post_init__(self) -> None:
        whole = isinstance(self.states, Integral) and not isinstance(self.states, bool)
        if not whole or self.states < 1:
            raise ValueError(f"states must be an integer of at least 1, not {self.states!r}.")
        object.__setattr__(self, "states", int(self.states))
        if not isinstance(self.transition, Dirichlet | None):
            raise ValueError(f"transition must be Dirichlet(...) or None, not {self.transition!r}.")
        dwell = self.minimum_dwell
        if dwell is not None and (isinstance(dwell, bool) or int(dwell) != dwell or dwell < 1):
            raise ValueError(f"minimum_dwell must be a number of rows of at least 1, not {dwell}.")
        object.__setattr__(self, "emission", named_emission(self.emission))

    @property
    def family(self) -> Emission:
        """The emission family."""
        return named_emission(self.emission)

    def check(self, runs: Runs) -> None:
        """Check that `runs` can be modelled with so many states and this dwell.

        Raises
        ------
        ValueError
            Naming the run, the metric and the mend.
        """
        if not isinstance(runs, Runs):
            raise TypeError(
                f"runs must be Runs, not {type(runs).__name__}: Runs.read(...) or "
                "Runs.from_dataframe(...) makes them."
            )
        runs.check_modelled()
        longest = int(runs.lengths.max())
        name = runs.names[int(runs.lengths.argmax())]
        if self.states > longest:
            raise ValueError(
                f"states={self.states} is more than the {longest} rows of the longest run, "
                f"{name!r}: fit fewer states, or log more often."
            )
        if self.minimum_dwell is not None and self.minimum_dwell > longest:
            raise ValueError(
                f"minimum_dwell={self.minimum_dwell} is longer than the longest run, {name!r} with "
                f"{longest} rows: no phase could ever end. Give a smaller minimum_dwell."
            )

    def dwell(self, runs: Runs) -> int:
        """Minimum dwell for `runs`, in rows."""
        if self.minimum_dwell is not None:
            return int(self.minimum_dwell)
        return max(1, min(defaults.MINIMUM_DWELL, int(np.median(runs.lengths)) // 10))

    def prior(self, runs: Runs) -> Prior:
        """The parts of the model for `runs`."""
        dwell = self.dwell(runs)
        transition = self.transition or Dirichlet()
        if transition.expected_dwell is None:
            rows = max(float(np.median(runs.lengths)) / self.states, 2.0 * dwell)
        elif runs.step_gap is None:
            raise ValueError(
                "expected_dwell is in training steps, and the runs are not evenly spaced: log "
                "every n steps, or leave expected_dwell to its default."
            )
        else:
            rows = transition.expected_dwell / runs.step_gap
        D = len(runs.metrics)
        full = self.family.covariance == "full"
        return Prior(
            regression=RegressionPrior(layout(self.family, D), self.states),
            transition=transition.prior(self.states, dwell, rows),
            entry=RegressionPrior(Layout(D, ("entry",), full), 1) if self.family.dynamic else None,
            minimum_dwell=dwell,
        )

    def encode(
        self, runs: Runs, log: Sequence[str] | Mapping[str, float] = ()
    ) -> tuple[Encoding, Encoded]:
        """Units fixed by `runs`, and `runs` in them."""
        encoding = Encoding.fit(runs, self.family, log)
        return encoding, encoding.encode(runs)

    def __call__(self, runs: Runs, subsample_size: int | None = None) -> None:
        """The Pyro model of `runs`, the states marginalised.

        Sites: ``initial``, ``exit``, ``jump`` and their hyper-parameters; ``variance`` (K, D) and
        ``coefficient`` (K, D, R) of the regressions and their hyper-parameters ``shrinkage`` and
        ``scale``; the same with the prefix ``entry_`` for the law of the first values.

        Parameters
        ----------
        runs
            The data.
        subsample_size
            Runs per step, drawn by Pyro's plate; None takes all.
        """
        prior, data = _prepared(self, runs)
        chain = prior.transition.model()
        law = regression_model(prior.regression, "")
        total = run_log_densities(data, law, chain, prior.minimum_dwell)
        if prior.entry is not None and data.entry is not None:
            first, _ = log_likelihood(data.entry, regression_model(prior.entry, "entry_"))
            total = total + first[..., 0, 0]
        with pyro.plate("runs", len(runs), subsample_size=subsample_size) as index:
            pyro.factor("log_marginal", total[..., index])


def run_log_densities(data: Encoded, law: Law, chain: Chain, minimum_dwell: int) -> Tensor:
    """Log density of every run given the parameters, paths summed out.

    Parameters
    ----------
    data
        N runs.
    law, chain
        Values of the parameters, with any leading axes and an axis of runs of size 1 or N.
    minimum_dwell
        Rows.

    Returns
    -------
    Tensor
        Shape (..., N), in the units of the data. The first values of a dynamic family, whose law no
        state enters, are left to the caller.
    """
    rows, _ = log_likelihood(data.design, law)
    log = chain.log
    total = messages.log_marginal(
        log.initial,
        log.transition,
        rows,
        lengths=data.design.lengths,
        minimum_dwell=minimum_dwell,
    )
    return total + data.log_jacobian


@lru_cache(maxsize=2)
def _prepared(hmm: HMM, runs: Runs) -> tuple[Prior, Encoded]:
    """What every step of an inference on the same runs needs again."""
    hmm.check(runs)
    return hmm.prior(runs), hmm.encode(runs)[1]


def regression_model(prior: RegressionPrior, prefix: str) -> Law:
    """Pyro sites of the regressions and their hyper-parameters.

    Returns
    -------
    Law
        Values with the axis of runs (n = 1) in place.
    """
    G, D = len(prior.layout.group_names), prior.layout.metrics

    def gamma(name: str, parameters: tuple[float, float], size: int) -> Tensor:
        shape, rate = (torch.full((size,), p, dtype=torch.float64) for p in parameters)
        return pyro.sample(f"{prefix}{name}", dist.Gamma(shape, rate).to_event(1))

    precisions = Precisions(gamma("shrinkage", prior.group, G), gamma("scale", prior.scale, D))
    rate = 0.5 * precisions.scales[..., None, :].expand(
        *precisions.scales.shape[:-1], prior.states, D
    )
    variance = pyro.sample(
        f"{prefix}variance", dist.InverseGamma(prior.shapes.expand(rate.shape), rate).to_event(2)
    )
    precision = prior.expand(precisions)[..., None, :, :]
    deviation = (variance[..., None] / precision).sqrt()
    coefficient = pyro.sample(
        f"{prefix}coefficient", dist.Normal(torch.zeros_like(deviation), deviation).to_event(3)
    )
    return Law(
        coefficient.unsqueeze(-4), 1.0 / variance.unsqueeze(-3), variance.log().unsqueeze(-3)
    )


def label_symmetries(states: int) -> float:
    """Log K!, the number of labellings of the same posterior mode."""
    return math.lgamma(states + 1)
