"""The model: initial law, transitions and emissions put together. Calling it is the Pyro model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral

import numpy as np
import pyro
import torch
from torch import Tensor

from bayeshmm import defaults, messages
from bayeshmm.emissions import sites
from bayeshmm.emissions.custom import PyroEmission
from bayeshmm.emissions.families import Emission, entry_layout, layout, named_emission
from bayeshmm.emissions.law import Law
from bayeshmm.emissions.likelihood import log_likelihood
from bayeshmm.emissions.regression import RegressionPrior
from bayeshmm.emissions.tails import StudentT
from bayeshmm.encoding import Encoded, Encoding
from bayeshmm.runs import Runs
from bayeshmm.simulation import Simulation, simulate
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
    tail
        Of the degrees of freedom of Student-t noise; None for normal noise.
    """

    regression: RegressionPrior
    transition: TransitionPrior
    entry: RegressionPrior | None
    minimum_dwell: int
    tail: StudentT | None = None

    @classmethod
    def of(cls, family: Emission, metrics: int, states: int, transition: TransitionPrior) -> Prior:
        """The parts for so many metrics and states of `family`, whose dwell is the chain's."""
        entry = None
        if family.dynamic:
            entry = RegressionPrior(entry_layout(family, metrics), 1, family.hyperpriors)
        return cls(
            RegressionPrior(layout(family, metrics), states, family.hyperpriors),
            transition,
            entry,
            transition.minimum_dwell,
            StudentT(*family.hyperpriors.degrees) if family.noise == "student-t" else None,
        )

    def law(self, law: Law, tail: Tensor | None) -> Law:
        """Expectations of all that a row's law depends on: the regressions', and of the tail."""
        if self.tail is None or tail is None:
            return law
        return law._replace(tail=self.tail.expected(tail))


@dataclass(frozen=True)
class HMM:
    """A hidden Markov model of training runs with learned priors.

    Parameters
    ----------
    states
        Number of phases K.
    emission
        `Autoregressive`, `Gaussian`, the shortcut ``"autoregressive"`` or ``"gaussian"``, or an
        emission of your own, `PyroEmission`.
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
    emission: str | Emission | PyroEmission = "autoregressive"
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
        """The emission family.

        Raises
        ------
        ValueError
            If the emission is a user's own, which has no conjugate updates.
        """
        emission = named_emission(self.emission)
        if not isinstance(emission, Emission):
            raise ValueError(
                f"{type(emission).__name__} has no conjugate updates, which fit and compare need: "
                "infer it with Pyro, whose model bayeshmm.HMM is (SVI, MCMC; see PyroEmission)."
            )
        return emission

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

    def transition_prior(self, runs: Runs) -> TransitionPrior:
        """Prior of the chain for `runs`, in rows."""
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
        return transition.prior(self.states, dwell, rows)

    def prior(self, runs: Runs) -> Prior:
        """The parts of the model for `runs`."""
        chain = self.transition_prior(runs)
        return Prior.of(self.family, len(runs.metrics), self.states, chain)

    def encode(
        self, runs: Runs, log: Sequence[str] | Mapping[str, float] = ()
    ) -> tuple[Encoding, Encoded]:
        """Units fixed by `runs`, and `runs` in them."""
        encoding = Encoding.fit(runs, self.family, log)
        return encoding, encoding.encode(runs)

    def simulate(
        self,
        lengths: Sequence[int],
        seed: int,
        *,
        metrics: int | Sequence[str] = 2,
        step_gap: int = 1,
    ) -> Simulation:
        """Draw parameters from the prior, and runs from them.

        The units of the model are those of the data here: means 0, scales 1. The default
        hyper-priors have heavy tails, and a law of motion drawn from them often explodes; tame
        ones are `Hyperpriors` of a family.

        Parameters
        ----------
        lengths
            Rows of each run.
        seed
            Same seed, same runs.
        metrics
            Number of metrics, or their names.
        step_gap
            Training steps between rows.

        Returns
        -------
        Simulation
            The ``runs``, the true ``parameters`` and the true ``paths``.

        Raises
        ------
        ValueError
            If a run grows beyond all numbers, or the model cannot have such runs.
        """
        return simulate(self, lengths, seed, metrics=metrics, step_gap=step_gap)

    def __call__(self, runs: Runs, subsample_size: int | None = None) -> None:
        """The Pyro model of `runs`, the states marginalised.

        Sites: ``initial``, ``exit``, ``jump`` and their hyper-parameters; ``variance`` (K, D) and
        ``coefficient`` (K, D, R) of the regressions and their hyper-parameters ``shrinkage`` and
        ``scale``; ``degrees`` of freedom of Student-t noise; ``run_effect`` (K, D) in the plate
        ``runs``; those of the regressions with the prefix ``entry_`` for the law of the first
        values.

        Parameters
        ----------
        runs
            The data.
        subsample_size
            Runs per step, drawn by Pyro's plate; None takes all.
        """
        if isinstance(self.emission, PyroEmission):
            self._own_model(self.emission, runs, subsample_size)
            return
        prior, data = _prepared(self, runs)
        chain = prior.transition.model()
        law, precisions = sites.regressions(prior.regression)
        if prior.tail is not None:
            law = law._replace(tail=sites.tail(prior.regression.hyperpriors))
        entry = None if prior.entry is None else sites.regressions(prior.entry, "entry_")[0]
        with pyro.plate("runs", len(runs), subsample_size=subsample_size) as index:
            some = data if len(index) == len(runs) else data.take(index)
            if prior.regression.layout.run_effects:
                law = sites.run_effects(law, precisions.groups[..., -1], len(index))
            total = run_log_densities(some, law, chain, prior.minimum_dwell)
            if entry is not None and some.entry is not None:
                total = total + log_likelihood(some.entry, entry)[0][..., 0, 0]
            pyro.factor("log_marginal", total)

    def _own_model(self, emission: PyroEmission, runs: Runs, subsample_size: int | None) -> None:
        """The Pyro model with an emission of the user's own."""
        self.check(runs)
        chain = self.transition_prior(runs).model().log
        parameters = emission.prior(self.states, runs.metrics)
        with pyro.plate("runs", len(runs), subsample_size=subsample_size) as index:
            rows = emission.log_likelihood(parameters, torch.tensor(runs.values)[index])
            total = messages.log_marginal(
                chain.initial,
                chain.transition,
                rows,
                lengths=torch.tensor(runs.lengths)[index],
                minimum_dwell=self.dwell(runs),
            )
            pyro.factor("log_marginal", total)


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


def label_symmetries(states: int) -> float:
    """Log K!, the number of labellings of the same posterior mode."""
    return math.lgamma(states + 1)
