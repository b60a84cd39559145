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

from bayeshmm import (
    decoding,
    differences,
    evidence,
    messages,
    phases,
    relabelling,
    run_densities,
    sensitivity,
)
from bayeshmm.attribution import explanation, profiles
from bayeshmm.checks import checking, predictive, residuals
from bayeshmm.emissions import Emission
from bayeshmm.hmm import HMM
from bayeshmm.inference.gibbs import Draws
from bayeshmm.inference.variational import VariationalFit
from bayeshmm.inference_data import inference_data
from bayeshmm.phases import population, questions, seeds
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
    palette : tuple of int
        Number of each phase's colour, the same in every picture; `bayeshmm.align` gives one phase
        one colour in several posteriors.
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
    palette: tuple[int, ...] = field(default=())
    losses: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def __post_init__(self) -> None:
        if not self.state_names:
            names = tuple(f"phase {k}" for k in range(self.states))
            object.__setattr__(self, "state_names", names)
        if not self.palette:
            object.__setattr__(self, "palette", tuple(range(self.states)))

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
        runs = self.modelled(runs)
        return decoding.state_probabilities(self, messages.smooth, runs, joined=True)

    def filter(self, runs: Runs | None = None) -> xr.DataArray:
        """Probability of each phase in each row given the rows up to it: see `smooth`.

        The parameters are those of the fit, which saw all rows of the fitted runs; of new runs
        nothing is known but the rows up to each, and what they may have of run effects is taken
        for noise of the rows.
        """
        runs = self.modelled(runs)
        return decoding.state_probabilities(self, messages.filter, runs, joined=False)

    relabelled = relabelling.relabelled

    # Questions with a room of their own: functions of a posterior, which are its methods.
    entry_times = questions.entry_times
    exit_times = questions.exit_times
    transition_times = questions.transition_times
    change_density = questions.change_density
    dwell_times = questions.dwell_times
    routes = questions.routes
    visit_order = questions.visit_order
    recurrence = questions.recurrence
    edge_usage = questions.edge_usage
    occupied = questions.occupied
    population = population.population
    seeds_needed = seeds.seeds_needed
    profiles = profiles.phase_profiles
    explain_transition = explanation.explain_transition
    condition_differences = differences.condition_differences
    log_density = run_densities.log_density
    evidence = evidence.evidence
    sensitivity = sensitivity.sensitivity
    residuals = residuals.pseudo_residuals
    predictive_checks = predictive.predictive_checks
    check = checking.check

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

    def modelled(self, runs: Runs | None) -> Runs:
        """The fitted runs, or new ones with the metrics of the fit."""
        if runs is None:
            return self.runs
        return runs if runs.metrics == self.metrics else runs.select(self.metrics)
