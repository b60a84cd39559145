"""What a fitted model believes: of the parameters, the phases and the time of every change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from bayeshmm import messages, phases, sensitivity
from bayeshmm.emissions.law import Law
from bayeshmm.emissions.likelihood import log_likelihood
from bayeshmm.encoding import Encoded, Encoding
from bayeshmm.hmm import HMM
from bayeshmm.inference.gibbs import Draws
from bayeshmm.inference.predictive import predict
from bayeshmm.inference.variational import VariationalFit
from bayeshmm.inference_data import DRAWS_AT_ONCE, inference_data
from bayeshmm.nested import take
from bayeshmm.runs import Runs
from bayeshmm.transitions import Chain

SMOOTHING_DRAWS = 200
"""Posterior draws that state probabilities are averaged over."""


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
        ``"gibbs"``: the draws are exact; ``"vi"``: they are the variational posterior's own, and
        intervals are too narrow.
    restarts : DataFrame
        A row per starting point: objective reached, agreement with the best.
    diagnostics : Series
        Of the sampler: largest R-hat, smallest effective sample size, ...
    state_names : tuple of str
        Names of the phases.
    """

    runs: Runs
    hmm: HMM
    inference: str
    restarts: pd.DataFrame
    diagnostics: pd.Series
    encoding: Encoding
    variational: VariationalFit
    draws: Draws
    seed: int = 0
    state_names: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.state_names:
            names = tuple(f"phase {k}" for k in range(self.states))
            object.__setattr__(self, "state_names", names)

    @property
    def states(self) -> int:
        """Number of phases K."""
        return self.hmm.states

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
        return self._state_probabilities(messages.smooth, runs, joined=True)

    def filter(self, runs: Runs | None = None) -> xr.DataArray:
        """Probability of each phase in each row given the rows up to it: see `smooth`.

        The parameters are those of the fit, which saw all rows of the fitted runs; of new runs
        nothing is known but the rows up to each, and what they may have of run effects is taken
        for noise of the rows.
        """
        return self._state_probabilities(messages.filter, runs, joined=False)

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
        return phases.entry_times(*self._path_table(runs), level)

    def transition_times(self, level: float = 0.9, runs: Runs | None = None) -> pd.DataFrame:
        """Every change of phase in every run.

        Returns
        -------
        DataFrame
            Columns run, source, target, occurrence (the first, second, ... such change of the
            run), probability, median, lower, upper. A change at row t is reported as its step.
        """
        return phases.transition_times(*self._path_table(runs), level)

    def log_density(self, runs: Runs) -> xr.DataArray:
        """Log posterior predictive density of whole runs, in the units of the data.

        The posterior is updated on each run by itself: a deterministic lower bound, tight to a
        small fraction of a nat a row, where averages over draws are nats a row too low.

        Parameters
        ----------
        runs
            New runs. Runs that were fitted are allowed as a shortcut: each is scored by the
            posterior less its own statistics, without a refit; ``attrs["shortcut"]`` names them.

        Returns
        -------
        DataArray
            Over run.
        """
        runs = self._modelled(runs)
        known = self._known(runs)
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
            attrs={"shortcut": [runs.names[n] for n in np.flatnonzero(known)]},
        )

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
            With ``inference="vi"``, whose draws are blind to hyper-priors.

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
            f"{len(self.runs)} runs, {self.hmm.family!r}, minimum dwell "
            f"{self.variational.prior.minimum_dwell} rows{self._dwell_in_steps()}; "
            f"{len(self.paths)} draws by {self.inference}"
        )

    def _repr_html_(self) -> str:
        """Show the phases as a table in a notebook."""
        table = phases.state_occupancy(self.paths, self.state_names)
        return f"<p>{repr(self).replace('<', '&lt;')}</p>{table.round(3).to_html()}"

    def _dwell_in_steps(self) -> str:
        gap = self.runs.step_gap
        return "" if gap is None else f" ({self.variational.prior.minimum_dwell * gap} steps)"

    def _modelled(self, runs: Runs) -> Runs:
        return runs if runs.metrics == self.metrics else runs.select(self.metrics)

    def _known(self, runs: Runs) -> NDArray[np.bool_]:
        """Which of `runs` are the very runs that were fitted, (N,)."""
        own = {name: n for n, name in enumerate(self.runs.names)}
        known = np.zeros(len(runs), dtype=bool)
        for i, name in enumerate(runs.names):
            n, length = own.get(name), int(runs.lengths[i])
            known[i] = (
                n is not None
                and length == self.runs.lengths[n]
                and np.array_equal(
                    runs.values[i, :length], self.runs.values[n, :length], equal_nan=True
                )
            )
        return known

    def _parameter_draws(self, runs: Runs | None, joined: bool) -> tuple[Encoded, Law, Chain, Runs]:
        """Draws of the parameters that rule `runs`.

        Those of the fit, (S, 1, ...); where new runs are `joined` to what it knows, they have their
        own, (S, N, ...). New runs that are not have an unknown effect: noise, for all it knows.
        """
        which = torch.linspace(0, len(self.paths) - 1, min(SMOOTHING_DRAWS, len(self.paths)))
        index = which.round().long()
        law: Law = take(self.draws.law, index)
        chain: Chain = take(self.draws.chain, index)
        runs = self.runs if runs is None else self._modelled(runs)
        data = self.encoding.encode(runs)
        known = torch.from_numpy(self._known(runs))
        names = self.runs.names
        place = [names.index(name) if name in names else 0 for name in runs.names]
        own = law.of_runs(torch.tensor(place))
        if known.all():
            return data, own, chain, runs
        generator = torch.Generator().manual_seed(self.seed)
        if joined:
            updated = predict(self.variational, data)
            new_law = updated.regression.sample(generator, (len(index),))
            new_chain = updated.chain.sample(generator, (len(index),))
        else:
            new_law, new_chain = self._of_unknown_effect(law, index), chain

        def choose(own: Tensor, new: Tensor) -> Tensor:
            return torch.where(known.reshape(-1, *[1] * (new.ndim - 2)), own, new)

        own = own.by_run()
        own = own._replace(
            coefficients=choose(own.coefficients, new_law.coefficients),
            precision=choose(own.precision, new_law.precision),
            log_variance=choose(own.log_variance, new_law.log_variance),
        )
        chain = Chain(*(choose(*part) for part in zip(chain, new_chain, strict=True)))
        return data, own, chain, runs

    def _of_unknown_effect(self, law: Law, index: Tensor) -> Law:
        """Draws of a law whose run effects add to the noise of every row."""
        if law.effects is None:
            return law
        spread = 1.0 / self.draws.precisions.groups[index][..., -1, None, None]
        return law._replace(
            effects=None,
            precision=law.precision / (1.0 + spread),
            log_variance=law.log_variance + torch.log1p(spread),
        )

    def _batches(
        self, runs: Runs | None, function: Callable[[Chain, Tensor, Tensor], Tensor], joined: bool
    ) -> tuple[list[Tensor], Runs]:
        """Apply a message-passing function to batches of parameter draws."""
        data, law, chain, runs = self._parameter_draws(runs, joined)
        results = []
        for first in range(0, len(law.precision), DRAWS_AT_ONCE):
            some = slice(first, first + DRAWS_AT_ONCE)
            rows, _ = log_likelihood(data.design, take(law, some))
            log = take(chain, some).log
            results.append(function(log, rows, data.design.lengths))
        return results, runs

    def _state_probabilities(
        self, function: Callable[..., Tensor], runs: Runs | None, joined: bool
    ) -> xr.DataArray:
        dwell = self.variational.prior.minimum_dwell
        batches, runs = self._batches(
            runs,
            lambda log, rows, lengths: function(
                log.initial, log.transition, rows, lengths=lengths, minimum_dwell=dwell
            ).sum(0),
            joined,
        )
        total = torch.stack(batches).sum(0).numpy()
        count = total.sum(-1, keepdims=True)
        with np.errstate(invalid="ignore"):
            probabilities = np.where(runs.steps[..., None] >= 0, total / count, np.nan)
        return xr.DataArray(
            probabilities,
            dims=("run", "time", "state"),
            coords={
                "run": list(runs.names),
                "state": list(self.state_names),
                "step": (("run", "time"), runs.steps),
            },
        )

    def _path_table(
        self, runs: Runs | None
    ) -> tuple[NDArray[np.int8], NDArray[np.int64], tuple[str, ...], tuple[str, ...]]:
        """Paths, steps, run names and state names, as the tables of `phases` take them."""
        if runs is None:
            return self.paths, self.runs.steps, self.runs.names, self.state_names
        runs = self._modelled(runs)
        if self._known(runs).all():
            place = [self.runs.names.index(name) for name in runs.names]
            return (
                self.paths[:, place, : runs.steps.shape[1]],
                runs.steps,
                runs.names,
                self.state_names,
            )
        generator = torch.Generator().manual_seed(self.seed + 1)
        dwell = self.variational.prior.minimum_dwell

        def draw(log: Chain, rows: Tensor, lengths: Tensor) -> Tensor:
            uniforms = torch.rand(rows.shape[:-1], dtype=torch.float64, generator=generator)
            return messages.sample_paths(
                log.initial,
                log.transition,
                rows,
                lengths=lengths,
                minimum_dwell=dwell,
                uniforms=uniforms,
            )

        batches, runs = self._batches(runs, draw, joined=True)
        paths = torch.cat(batches).to(torch.int8).numpy()
        return paths, runs.steps, runs.names, self.state_names
