"""The model: initial law, transitions and emissions put together. Calling it is the Pyro model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral
from typing import Any

import numpy as np
import pyro
from pyro.ops.provenance import extract_provenance, track_provenance
from torch import Tensor

from bayeshmm import defaults, messages
from bayeshmm.emissions import sites
from bayeshmm.emissions.custom import PyroEmission
from bayeshmm.emissions.families import Emission, entry_layout, layout, named_emission
from bayeshmm.emissions.law import Law
from bayeshmm.emissions.likelihood import log_likelihood
from bayeshmm.emissions.regression import Precisions, RegressionPrior
from bayeshmm.emissions.tails import StudentT
from bayeshmm.encoding import Encoded, Encoding
from bayeshmm.own_encoding import OwnRows, OwnUnits
from bayeshmm.runs import Runs
from bayeshmm.simulation import Simulation, simulate
from bayeshmm.transitions import (
    Calendar,
    Chain,
    Dirichlet,
    Grouped,
    Transition,
    TransitionPrior,
)


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
        `Dirichlet`, `LeftToRight`, `StickyHDP` or `Grouped`; None is ``Dirichlet()``.
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
    >>> pyro.render_model(hmm, (runs,))  # needs bayeshmm[graph]         # doctest: +SKIP
    """

    states: int
    emission: str | Emission | PyroEmission = "autoregressive"
    transition: Transition | None = None
    minimum_dwell: int | None = None

    def __post_init__(self) -> None:
        whole = isinstance(self.states, Integral) and not isinstance(self.states, bool)
        if not whole or self.states < 1:
            raise ValueError(f"states must be an integer of at least 1, not {self.states!r}.")
        object.__setattr__(self, "states", int(self.states))
        transition = self.transition
        if isinstance(transition, type) or not isinstance(transition, Transition | None):
            raise ValueError(
                "transition must be Dirichlet(...), LeftToRight(...), StickyHDP(...), "
                f"Grouped(...) or None, not {transition!r}."
            )
        dwell = self.minimum_dwell
        if dwell is not None and (isinstance(dwell, bool) or int(dwell) != dwell or dwell < 1):
            raise ValueError(f"minimum_dwell must be a number of rows of at least 1, not {dwell}.")
        object.__setattr__(self, "emission", named_emission(self.emission))

    @property
    def dynamic(self) -> bool:
        """Whether phases are laws of motion, of one of this package's families."""
        return isinstance(self.emission, Emission) and self.emission.dynamic

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
                f"{type(emission).__name__} has no conjugate updates, which this needs: "
                'bayeshmm.fit(..., inference="vi") or "nuts" does without, and so does Pyro, '
                "whose model bayeshmm.HMM is (see PyroEmission)."
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

    def calendar(self, runs: Runs) -> Calendar:
        """Units of the chain for `runs`: its base step, and the conditions that runs belong to."""
        by = self.transition.by if isinstance(self.transition, Grouped) else None
        return Calendar.of(runs, by)

    def transition_prior(self, runs: Runs, calendar: Calendar | None = None) -> TransitionPrior:
        """Prior of the chain for `runs`, in units of `calendar`; None is that of the runs."""
        calendar = calendar or self.calendar(runs)
        dwell, transition = self.dwell(runs), self.transition or Dirichlet()
        rows = calendar.expected_rows(runs, self.states, dwell, transition.expected_dwell)
        if isinstance(transition, Grouped):
            return transition.prior(self.states, dwell, rows, len(calendar.conditions))
        return transition.prior(self.states, dwell, rows)

    def prior(self, runs: Runs, calendar: Calendar | None = None) -> Prior:
        """The parts of the model for `runs`, in units of `calendar`; None is that of the runs."""
        chain = self.transition_prior(runs, calendar)
        return Prior.of(self.family, len(runs.metrics), self.states, chain)

    def encode(
        self,
        runs: Runs,
        log: Sequence[str] | Mapping[str, float] = (),
        calendar: Calendar | None = None,
    ) -> tuple[Encoding, Encoded]:
        """Units fixed by `runs` (the chain's by `calendar`, if given), and `runs` in them."""
        encoding = Encoding.fit(runs, self.family, calendar or self.calendar(runs), log)
        return encoding, encoding.encode(runs)

    def encode_own(self, runs: Runs) -> tuple[OwnUnits, OwnRows]:
        """The same for an emission of the user's own, in the units of the data."""
        assert isinstance(self.emission, PyroEmission)
        units = OwnUnits(self.emission, self.states, runs.metrics, self.calendar(runs))
        return units, units.encode(runs)

    def simulate(
        self,
        lengths: Sequence[int],
        seed: int,
        *,
        metrics: int | Sequence[str] = 2,
        step_gap: int = 1,
        steps: Sequence[int] | Sequence[Sequence[int]] | None = None,
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
            Training steps between rows, the first of which is step 0.
        steps
            Training steps of the rows, in place of `step_gap`: one increasing sequence, which
            each run follows as far as it goes, or one for each run.

        Returns
        -------
        Simulation
            The ``runs``, the true ``parameters`` and the true ``paths``.

        Raises
        ------
        ValueError
            If a run grows beyond all numbers, or the model cannot have such runs.
        """
        return simulate(self, lengths, seed, metrics=metrics, step_gap=step_gap, steps=steps)

    def __call__(self, runs: Runs, subsample_size: int | None = None) -> None:
        """The Pyro model of `runs`, the states marginalised.

        Sites: those of the chain (``initial``, ``exit``, ``jump``, ... as its structure has them)
        and its hyper-parameters; ``variance`` (K, D), ``coefficient`` (K, D, P) of the past and
        ``contrast`` (K, C) of the regressions, C pairs of metrics, and their hyper-parameters
        ``shrinkage`` and ``scale``; ``degrees`` of freedom of Student-t noise; ``run_effect`` (N,
        K, D) of all runs; those of the regressions with the prefix ``entry_`` for the law of the
        first values.

        Parameters
        ----------
        runs
            The data.
        subsample_size
            Runs per step, drawn by Pyro's plate; None takes all.
        """
        if isinstance(self.emission, PyroEmission):
            own_model(*_prepared_own(self, runs), subsample_size)
        else:
            model(*_prepared(self, runs), subsample_size)


def model(prior: Prior, data: Encoded, subsample_size: int | None = None) -> None:
    """The Pyro model of encoded runs, of which each step may see some; see `HMM`."""
    runs = len(data.design.lengths)
    law, _, chain = parameters(prior, runs)
    entry = None if prior.entry is None else sites.regressions(prior.entry, "entry_")[0]
    # which sites a value comes from, as Pyro's inspection asks, is lost on compiled code
    (law, chain, entry), provenance = extract_provenance((law, chain, entry))
    with pyro.plate("runs", runs, subsample_size=subsample_size) as index:
        some = data if len(index) == runs else data.take(index)
        total = run_log_densities(some, law.of_runs(index).by_run(), chain, prior.minimum_dwell)
        if entry is not None and some.entry is not None:
            total = total + log_likelihood(some.entry, entry)[0][..., 0, 0]
        pyro.factor("log_marginal", track_provenance(total, provenance))


def own_model(
    transition: TransitionPrior, data: OwnRows, subsample_size: int | None = None
) -> None:
    """The Pyro model with an emission of the user's own, of which each step may see some runs."""
    chain, parameters = transition.model(), data.units.sample()
    runs, dwell = len(data.lengths), transition.minimum_dwell
    with pyro.plate("runs", runs, subsample_size=subsample_size) as index:
        some = data if len(index) == runs else data.take(index)
        law = (chain, some.log_likelihood(parameters))
        (followed, rows), provenance = extract_provenance(law)
        log = some.schedule.spread(followed.log, dwell)
        total = messages.log_marginal(
            log.initial, log.transition, rows, lengths=some.lengths, minimum_dwell=dwell
        )
        pyro.factor("log_marginal", track_provenance(total, provenance))


def parameters(prior: Prior, runs: int) -> tuple[Law, Precisions, Chain]:
    """Pyro sites of everything that rules the rows of so many runs, and what they make up."""
    chain = prior.transition.model()
    law, precisions = sites.regressions(prior.regression, runs=runs)
    if prior.tail is not None:
        law = law._replace(tail=sites.tail(prior.regression.hyperpriors))
    return law, precisions, chain


def run_log_densities(
    data: Encoded | OwnRows, law: Any, chain: Chain, minimum_dwell: int
) -> Tensor:
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
    log = data.schedule.spread(chain.log, minimum_dwell)
    total = messages.log_marginal(
        log.initial,
        log.transition,
        data.rows(law),
        lengths=data.lengths,
        minimum_dwell=minimum_dwell,
    )
    return total + data.log_jacobian


@lru_cache(maxsize=2)
def _prepared(hmm: HMM, runs: Runs) -> tuple[Prior, Encoded]:
    """What every step of an inference on the same runs needs again."""
    hmm.check(runs)
    return hmm.prior(runs), hmm.encode(runs)[1]


@lru_cache(maxsize=2)
def _prepared_own(hmm: HMM, runs: Runs) -> tuple[TransitionPrior, OwnRows]:
    """The same for an emission of the user's own."""
    hmm.check(runs)
    return hmm.transition_prior(runs), hmm.encode_own(runs)[1]
