"""What a fitted model believes: of the parameters, the phases and the time of every change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from bayeshmm import decoding, differences, evidence, messages, phases, sensitivity
from bayeshmm.averages import averaged_density
from bayeshmm.emissions import Emission
from bayeshmm.evidence import Evidence
from bayeshmm.hmm import HMM
from bayeshmm.inference.gibbs import Draws
from bayeshmm.inference.predictive import predict
from bayeshmm.inference.variational import VariationalFit
from bayeshmm.inference_data import inference_data
from bayeshmm.runs import Runs


@dataclass(frozen=True, eq=False, repr=False)
class Posterior:
    """A fitted model. Made by `bayeshmm.fit`, `bayeshmm.compare` or `bayeshmm.load`.

    Times are in training steps, and intervals are equal-tailed. A phase ("state") is known by its
    number, in order of first visit, and by its name, which `rename` sets.

    Attributes
    ----------
    runs : Runs
        The data.
    hmm : HMM
        The model.
    inference : str
        ``"gibbs"``, ``"nuts"``: the draws are exact; ``"vi"``: they are too where
        ``diagnostics["k_hat"]`` is at most 0.7.
    restarts : DataFrame
        A row per starting point: objective reached, agreement with the best.
    diagnostics : Series
        Of the sampler: largest R-hat, smallest effective sample size, ...
    state_names : tuple of str
        Names of the phases.
    encoding : Encoding or OwnUnits
        Units of the model; the latter for an emission of a user's own.
    mode : VariationalFit or None
        The conjugate fit that the draws started from, where there is one; see `variational`.
    draws : Draws
        In the units of the model.
    losses : ndarray
        Minus the evidence lower bound, one estimate a step of variational inference, in units of
        the data; empty where there was none. `bayeshmm.plots.convergence` shows it.
    """

    runs: Runs
    hmm: HMM
    inference: str
    restarts: pd.DataFrame
    diagnostics: pd.Series
    encoding: Any
    mode: VariationalFit | None
    draws: Draws
    seed: int = 0
    state_names: tuple[str, ...] = field(default=())
    losses: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        if not self.state_names:
            names = tuple(f"phase {k}" for k in range(self.states))
            object.__setattr__(self, "state_names", names)

    @property
    def states(self) -> int:
        """Number of phases K."""
        return self.hmm.states

    @property
    def variational(self) -> VariationalFit:
        """The conjugate fit that the draws started from.

        Raises
        ------
        ValueError
            If the emission is a user's own, which has none.
        """
        if self.mode is None:
            raise ValueError(
                f"{type(self.hmm.emission).__name__} has no conjugate updates, which this question "
                "needs. All that was drawn is in posterior.idata."
            )
        return self.mode

    @property
    def minimum_dwell(self) -> int:
        """Rows that every visit to a phase lasts at least."""
        return self.hmm.dwell(self.runs)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics that the model sees."""
        return self.runs.metrics

    @property
    def paths(self) -> NDArray[np.int8]:
        """Sampled state paths, (draws, N, T); -1 beyond the end of a run."""
        return self.draws.paths

    @cached_property
    def idata(self) -> object:
        """ArviZ ``InferenceData`` of the draws, in the units of the data."""
        return inference_data(self)

    def rename(self, names: Mapping[int | str, str]) -> Posterior:
        """The same posterior with some phases renamed.

        Parameters
        ----------
        names
            From a phase's number or present name to its new name.

        Raises
        ------
        ValueError
            If a phase does not exist, or two would bear one name.
        """
        renamed = list(self.state_names)
        for old, new in names.items():
            if old not in (*range(self.states), *self.state_names):
                raise ValueError(
                    f"there is no phase {old!r}; the phases are {list(self.state_names)}."
                )
            renamed[old if isinstance(old, int) else self.state_names.index(old)] = str(new)
        if len(set(renamed)) < len(renamed):
            raise ValueError(f"two phases would share a name: {renamed}.")
        return replace(self, state_names=tuple(renamed))

    def smooth(self, runs: Runs | None = None) -> xr.DataArray:
        """Probability of each phase in each row given the whole run.

        Parameters
        ----------
        runs
            The fitted runs by default; new runs are each joined to what the fit knows.

        Returns
        -------
        DataArray
            Over (run, time, state), averaged over posterior draws; NaN beyond a run's end; the
            training step is the coordinate ``step`` (run, time).
        """
        runs = self._modelled(runs)
        return decoding.state_probabilities(self, messages.smooth, runs, joined=True)

    def filter(self, runs: Runs | None = None) -> xr.DataArray:
        """Probability of each phase in each row given the rows up to it: see `smooth`.

        The parameters are those of the fit, which saw all rows of the fitted runs; of new runs
        nothing is known but the rows up to each, and what they may have of run effects is taken
        for noise of the rows.
        """
        runs = self._modelled(runs)
        return decoding.state_probabilities(self, messages.filter, runs, joined=False)

    def entry_times(self, level: float = 0.9, runs: Runs | None = None) -> pd.DataFrame:
        """When each run first entered each phase.

        Parameters
        ----------
        level
            Probability content of the intervals.
        runs
            The fitted runs by default.

        Returns
        -------
        DataFrame
            Columns run, state, probability (that it is ever entered), median, lower, upper (given
            that it is), in training steps.
        """
        runs = self._modelled(runs)
        paths = decoding.state_paths(self, runs)
        return phases.entry_times(paths, runs.steps, runs.names, self.state_names, level)

    def transition_times(self, level: float = 0.9, runs: Runs | None = None) -> pd.DataFrame:
        """Every change of phase in every run.

        Returns
        -------
        DataFrame
            Columns run, source, target, occurrence (the first, second, ... such change of the
            run), probability, median, lower, upper. A change at row t is reported as its step.
        """
        runs = self._modelled(runs)
        paths = decoding.state_paths(self, runs)
        return phases.transition_times(paths, runs.steps, runs.names, self.state_names, level)

    def occupied(self, least: float = 0.0) -> pd.DataFrame:
        """How many phases have any rows: with `StickyHDP`, the posterior of their number.

        Of K phases that are all wanted (`Dirichlet`) it tells which the runs do not need. It
        answers how many laws *of this family* the rows ask for, and grows with the data where
        the family does not suit them: `bayeshmm.compare` scores families and numbers on runs left
        out.

        Parameters
        ----------
        least
            Share of all rows that a phase must have to count; 0: any row at all.

        Returns
        -------
        DataFrame
            A row per number, from 0 to that of all phases: ``states, probability``.
        """
        return phases.occupied_states(self.paths, self.state_names, least)

    def condition_differences(self, level: float = 0.9) -> pd.DataFrame:
        """How conditions differ: the posterior of every difference between two of them.

        Returns
        -------
        DataFrame
            A row per ``quantity, first`` and ``second`` condition, and ``place``: ``median, lower,
            upper`` of the second's value less the first's, and ``positive``, the probability that
            it is above 0. The quantities (units are in ``attrs["units"]``) are

            * ``transition``: probability of the change at a base step past the minimum dwell;
            * ``dwell``: expected length of a visit to the phase, in training steps;
            * ``entry``: mean step of the first entry into the phase, of runs that enter it;
            * ``entered``: probability that a run ever enters the phase;
            * ``used``: probability that a run ever makes the change.

            The last three speak of all runs that the condition might have had, so that the
            variation from seed to seed is in their intervals, beside that of the paths: a mean has
            its t law given the runs' steps, a probability its Beta law with Jeffreys' prior. Rows
            are NaN where most draws have fewer than two runs of a condition that enter.

        Raises
        ------
        ValueError
            If the fit has no conditions: it takes ``transition=Grouped(by=...)``.
        """
        return differences.condition_differences(self, level)

    def log_density(self, runs: Runs) -> xr.DataArray:
        """Log posterior predictive density of whole runs, in the units of the data.

        The posterior is updated on each run by itself: a deterministic lower bound, tight to a
        small fraction of a nat a row, where averages over draws are nats a row too low.

        With an emission of a user's own it is such an average all the same: ``attrs["method"]``
        says so, the coordinate ``k_hat`` says where it is not to be believed (above 0.7), and known
        runs are weighed out of the draws.

        Parameters
        ----------
        runs
            New runs. Runs that were fitted are allowed as a shortcut: each is scored by the
            posterior less its own statistics, without a refit; ``attrs["shortcut"]`` names them.

        Returns
        -------
        DataArray
            Over run.

        Warns
        -----
        ApproximationWarning
            Where an average over draws is not to be believed.
        """
        runs = self._modelled(runs)
        known = decoding.known_runs(self, runs)
        if self.mode is None:
            return averaged_density(self, runs, known)
        values = np.empty(len(runs))
        if known.any():
            left_out = predict(self.variational, self.encoding.encode(self.runs), leave_out=True)
            place = [self.runs.names.index(runs.names[n]) for n in np.flatnonzero(known)]
            values[known] = left_out.log_density.numpy()[place]
        if not known.all():
            new = runs.subset([runs.names[n] for n in np.flatnonzero(~known)])
            values[~known] = predict(self.variational, self.encoding.encode(new)).log_density
        return xr.DataArray(
            values,
            coords={"run": list(runs.names)},
            dims="run",
            name="log_density",
            attrs={"method": "updated", "shortcut": [runs.names[n] for n in np.flatnonzero(known)]},
        )

    def evidence(self) -> Evidence:
        """Log evidence (marginal likelihood) of the model, by bridge sampling from the draws.

        It rewards the family that predicts all rows of these runs best, priors included, and
        prefers more phases than held-out runs do where the family is not quite right: choose by
        `bayeshmm.compare`.

        Returns
        -------
        Evidence
            ``log_evidence`` of one labelling of the phases, with its Monte-Carlo ``error``, the
            ``label_term`` (log K! where labels mean nothing) and ``k_hat``.

        Raises
        ------
        ValueError
            With fewer than 100 draws, or draws of a variational approximation that k-hat calls
            poor.

        Warns
        -----
        EvidenceWarning
            Where the error is above 0.3 nats; the message names the remedy.
        """
        return evidence.evidence(self)

    def sensitivity(self, factor: float = 2.0) -> pd.DataFrame:
        """How far the answers move when each prior is narrowed or widened.

        The draws are weighed by the ratio of the changed to the present prior; nothing is fitted
        again. `factor` is what a changed prior does to

        ==================  ===================================================  ================
        part                what is multiplied where it is widened               hyper-prior
        ==================  ===================================================  ================
        ``shrinkage``       coefficients, in units of the noise                  rate * factor^2
        ``run_effects``     run effects, in units of the noise                   rate * factor^2
        ``scale``           the noise of every metric                            rate / factor^2
        ``noise_shape``     how unlike phases may be in their noise (about so)   shape / factor
        ``degrees``         degrees of freedom of Student-t noise                rate / factor
        ``expected_dwell``  rows that a phase is expected to last past its       of `Dirichlet`
                            minimum dwell
        ==================  ===================================================  ================

        Parameters
        ----------
        factor
            Above 1; narrowing divides by it.

        Returns
        -------
        DataFrame
            Indexed by (part, change), parts that the model does not have left out:

            * ``prior``: what the changed prior is, as written in `Hyperpriors` or `Dirichlet`;
            * ``k_hat``: above 0.7 the row is not to be believed;
            * the largest shifts of posterior means, in the units in ``attrs["units"]``:
              ``entry_time`` (when a run first enters a phase, training steps; of entries more
              probable than not), ``entry_probability`` (that it ever does), ``occupancy`` (a
              phase's share of rows), ``transition`` (a transition probability), ``dwell`` and
              ``noise`` (relative: 0.1 is ten per cent; of the expected dwell past the minimum, and
              of a metric's noise in a phase);
            * ``in_sd``: the largest of all these in its posterior standard deviation, that of
              ``most_moved``; ``error_in_sd`` is the Monte-Carlo error of one shift: a shift that is
              not several times larger may be no more than that.

        Raises
        ------
        ValueError
            If the emission is a user's own.

        Warns
        -----
        SensitivityWarning
            Where ``k_hat`` is above 0.7: fit again with that prior and compare.
        """
        return sensitivity.prior_sensitivity(self, factor)

    def save(self, path: str | Path) -> None:
        """Write everything, the data included, to one netCDF file; see `bayeshmm.load`."""
        from bayeshmm.storage import save  # the storage room builds on this one

        save(self, path)

    def __repr__(self) -> str:
        return (
            f"Posterior of {self.states} phases ({', '.join(self.state_names)}) in "
            f"{len(self.runs)} runs, {self._emission_name()}, minimum dwell "
            f"{self.minimum_dwell} rows{self._dwell_in_steps()}; "
            f"{len(self.paths)} draws by {self.inference}"
        )

    def _repr_html_(self) -> str:
        """Show the phases as a table in a notebook."""
        table = phases.state_occupancy(self.paths, self.state_names)
        return f"<p>{repr(self).replace('<', '&lt;')}</p>{table.round(3).to_html()}"

    def _emission_name(self) -> str:
        emission = self.hmm.emission
        return repr(emission) if isinstance(emission, Emission) else type(emission).__name__

    def _dwell_in_steps(self) -> str:
        gap = self.runs.step_gap
        return "" if gap is None else f" ({self.minimum_dwell * gap} steps)"

    def _modelled(self, runs: Runs | None) -> Runs:
        """The fitted runs, or new ones with the metrics of the fit."""
        if runs is None:
            return self.runs
        return runs if runs.metrics == self.metrics else runs.select(self.metrics)
