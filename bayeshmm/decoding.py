"""Decoding: which phase each row of a run is in, by the draws of a fitted model.

Runs that were fitted are ruled by the draws' own parameters. New runs are first joined to what the
fit knows, each by itself, and have parameters of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from bayeshmm import messages
from bayeshmm.emissions.law import Law
from bayeshmm.encoding import Encoded
from bayeshmm.inference.predictive import predict
from bayeshmm.inference_data import DRAWS_AT_ONCE
from bayeshmm.nested import take
from bayeshmm.own_encoding import OwnRows, Sites
from bayeshmm.runs import Runs
from bayeshmm.transitions import Chain

if TYPE_CHECKING:
    from bayeshmm.posterior import Posterior

SMOOTHING_DRAWS = 200
"""Posterior draws that state probabilities are averaged over."""


def some_draws(draws: int, most: int) -> Tensor:
    """Indices of at most so many of the draws, evenly spread."""
    return torch.linspace(0, draws - 1, min(draws, most)).round().long()


def known_runs(posterior: Posterior, runs: Runs) -> NDArray[np.bool_]:
    """Which of `runs` are the very runs that were fitted, (N,)."""
    fitted, calendar = posterior.runs, posterior.encoding.calendar
    groups, own = (calendar.groups(some) for some in (fitted, runs))
    place = {name: n for n, name in enumerate(fitted.names)}
    known = np.zeros(len(runs), dtype=bool)
    for i, name in enumerate(runs.names):
        n, rows = place.get(name), slice(int(runs.lengths[i]))
        known[i] = (
            n is not None
            and runs.lengths[i] == fitted.lengths[n]
            and (groups is None or own is None or own[i] == groups[n])
            and np.array_equal(runs.steps[i, rows], fitted.steps[n, rows])
            and np.array_equal(runs.values[i, rows], fitted.values[n, rows], equal_nan=True)
        )
    return known


def state_probabilities(
    posterior: Posterior, function: Callable[..., Tensor], runs: Runs, *, joined: bool
) -> xr.DataArray:
    """Probability of each phase in each row, averaged over draws.

    Parameters
    ----------
    posterior
        The fit.
    function
        `messages.smooth` or `messages.filter`.
    runs
        Known or new ones, with the fit's metrics.
    joined
        Whether new runs are joined to what the fit knows, all their rows at once.
    """
    total = torch.stack(
        [part.sum(0) for part in _in_batches(posterior, runs, function, joined)]
    ).sum(0)
    probabilities = total.numpy()
    count = probabilities.sum(-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        probabilities = np.where(runs.steps[..., None] >= 0, probabilities / count, np.nan)
    return xr.DataArray(
        probabilities,
        dims=("run", "time", "state"),
        coords={
            "run": list(runs.names),
            "state": list(posterior.state_names),
            "step": (("run", "time"), runs.steps),
        },
    )


def state_paths(posterior: Posterior, runs: Runs) -> NDArray[np.int8]:
    """Draws of the paths of known or new `runs`, (draws, N, T); -1 beyond the end of a run."""
    if known_runs(posterior, runs).all():
        place = [posterior.runs.names.index(name) for name in runs.names]
        return posterior.paths[:, place, : runs.steps.shape[1]]
    generator = torch.Generator().manual_seed(posterior.seed + 1)

    def draw(initial: Tensor, transition: Tensor, rows: Tensor, **settings: object) -> Tensor:
        uniforms = torch.rand(rows.shape[:-1], dtype=torch.float64, generator=generator)
        return messages.sample_paths(initial, transition, rows, uniforms=uniforms, **settings)  # type: ignore[arg-type]

    return torch.cat(_in_batches(posterior, runs, draw, True)).to(torch.int8).numpy()


def _in_batches(
    posterior: Posterior, runs: Runs, function: Callable[..., Tensor], joined: bool
) -> list[Tensor]:
    """Apply a function of `messages` to batches of parameter draws."""
    data, law, chain = parameters(posterior, runs, joined)
    dwell, results = posterior.minimum_dwell, []
    for first in range(0, len(chain.initial), DRAWS_AT_ONCE):
        some = slice(first, first + DRAWS_AT_ONCE)
        rows = data.rows(take(law, some))
        log = data.schedule.spread(take(chain, some).log, dwell)
        settings = {"lengths": data.lengths, "minimum_dwell": dwell}
        results.append(function(log.initial, log.transition, rows, **settings))
    return results


def parameters(
    posterior: Posterior, runs: Runs, joined: bool
) -> tuple[Encoded | OwnRows, Law | Sites, Chain]:
    """`runs` in the units of the fit, and draws of the parameters that rule them.

    Those of the fit, (S, 1, ...); where new runs are `joined` to what it knows, they have their
    own, (S, N, ...). New runs that are not have an unknown effect: noise, for all it knows. Where
    an emission is the user's own, all runs are ruled by the draws.
    """
    draws, fitted = posterior.draws, posterior.runs.names
    index = some_draws(len(draws.paths), SMOOTHING_DRAWS)
    law: Law | Sites = take(draws.law, index)
    encoded: Encoded | OwnRows = posterior.encoding.encode(runs)
    chain, data = encoded.schedule.of_groups(take(draws.chain, index)), encoded.ungrouped()
    if not isinstance(law, Law) or isinstance(encoded, OwnRows):
        return data, law, chain
    known = torch.from_numpy(known_runs(posterior, runs))
    place = [fitted.index(name) if name in fitted else 0 for name in runs.names]
    own = law.of_runs(torch.tensor(place))
    if known.all():
        return data, own, chain
    generator = torch.Generator().manual_seed(posterior.seed)
    if joined:
        updated = predict(posterior.variational, encoded)
        new_law = updated.regression.sample(generator, (len(index),))
        new_chain = updated.chain.sample(generator, (len(index),))
    else:
        new_law, new_chain = _of_unknown_effect(posterior, law, index), chain

    def choose(own: Tensor, new: Tensor) -> Tensor:
        return torch.where(known.reshape(-1, *[1] * (new.ndim - 2)), own, new)

    own = own.by_run()
    own = own._replace(
        coefficients=choose(own.coefficients, new_law.coefficients),
        precision=choose(own.precision, new_law.precision),
        log_variance=choose(own.log_variance, new_law.log_variance),
    )
    return data, own, Chain(*(choose(*part) for part in zip(chain, new_chain, strict=True)))


def _of_unknown_effect(posterior: Posterior, law: Law, index: Tensor) -> Law:
    """Draws of a law whose run effects add to the noise of every row."""
    if law.effects is None:
        return law
    spread = 1.0 / posterior.draws.precisions.groups[index][..., -1, None, None]
    return law._replace(
        effects=None,
        precision=law.precision / (1.0 + spread),
        log_variance=law.log_variance + torch.log1p(spread),
    )
