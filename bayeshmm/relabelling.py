"""A posterior with its states in another order: nothing that it says of a phase changes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from bayeshmm.emissions.law import Effects, Law
from bayeshmm.inference.gibbs import Draws
from bayeshmm.transitions import Chain

if TYPE_CHECKING:
    from bayeshmm.posterior import Posterior


def relabelled(posterior: Posterior, order: Sequence[int] | NDArray[np.int64]) -> Posterior:
    """The same posterior with another order of its phases; their names and colours move along.

    Parameters
    ----------
    order
        ``order[i]`` is the present number of what becomes phase i.

    Raises
    ------
    ValueError
        If `order` is no permutation, or the states cannot change places: they have an order of
        their own (`LeftToRight`), or their parameters are those of a user's own emission.
    """
    if sorted(order) != list(range(posterior.states)):
        raise ValueError(f"order={list(order)} is no permutation of {posterior.states} states.")
    if not movable(posterior):
        raise ValueError(
            "these phases cannot change places: they have an order of their own, or parameters of "
            "a user's own emission. Posterior.rename gives them other names."
        )
    index = torch.as_tensor(np.asarray(order))
    place = {str(k): str(i) for i, k in enumerate(order)}
    diagnostics = posterior.diagnostics.copy()
    diagnostics["worst"] = re.sub(
        r"(?<= of phase )\d+$", lambda found: place[found[0]], diagnostics["worst"]
    )
    return replace(
        posterior,
        diagnostics=diagnostics,
        mode=posterior.variational.relabelled(index),
        draws=_relabelled_draws(posterior, index),
        state_names=tuple(posterior.state_names[k] for k in order),
        palette=tuple(posterior.palette[k] for k in order),
    )


def movable(posterior: Posterior) -> bool:
    """Whether the states may change places, and their parameters are known to."""
    mode = posterior.mode
    return mode is not None and mode.prior.transition.exchangeable


def _relabelled_draws(posterior: Posterior, order: torch.Tensor) -> Draws:
    draws, transition = posterior.draws, posterior.variational.prior.transition
    law: Law = draws.law
    effects = law.effects and Effects(law.effects.mean[..., order, :])
    place = np.append(np.argsort(order.numpy()), -1).astype(draws.paths.dtype)  # -1 is padding
    return replace(
        draws,
        law=law._replace(
            coefficients=law.coefficients[..., order, :, :],
            precision=law.precision[..., order, :],
            log_variance=law.log_variance[..., order, :],
            effects=effects,
        ),
        chain=Chain(
            draws.chain.initial[..., order], draws.chain.transition[..., order, :][..., order]
        ),
        hyper=transition.relabelled(draws.hyper, order),
        paths=place[draws.paths],
    )
