"""The No-U-Turn sampler on any Pyro model, where its posterior is nearly round."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from pyro import infer
from torch import Tensor
from tqdm import tqdm

from bayeshmm.inference.guides import Affine
from bayeshmm.inference.settings import NUTS
from bayeshmm.inference.unconstrained import Unconstrained, isolated


class Chains(NamedTuple):
    """What the sampler drew.

    Attributes
    ----------
    points
        (chains * draws, size), chain by chain.
    divergences
        Number of transitions, after warm-up, whose energy went astray.
    """

    points: Tensor
    divergences: int


def sample(
    space: Unconstrained,
    law: Affine,
    draws: int,
    settings: NUTS,
    *,
    seed: int,
    progress: bool = False,
) -> Chains:
    """Draw from the posterior of a Pyro model.

    The sampler moves in the coordinates that `law` has standard normal, which takes most
    correlations out of the posterior (Hoffman et al., 2019, "NeuTra-lizing bad geometry", with an
    affine map). Each chain starts at a draw of `law`.

    Parameters
    ----------
    space
        Of the model.
    law
        A normal law near the posterior.
    draws
        Of every chain.
    settings
        Chains, warm-up and step size.
    seed
        Same seed, same draws; global random numbers are left alone.
    progress
        Whether to show a progress bar.
    """

    def potential(at: dict[str, Tensor]) -> Tensor:
        noise = at["noise"]
        try:
            energy = -space.log_density(law.forward(noise))
        except ValueError:  # numbers overflowed on the way: this is as far as one can go
            return noise.sum() * 0.0 + torch.inf
        return energy

    streams = np.random.SeedSequence(seed).generate_state(settings.chains + 1).tolist()
    generator = torch.Generator().manual_seed(streams.pop())
    kept, divergences = [], 0
    total = settings.chains * (settings.warmup + draws)
    with tqdm(total=total, desc="NUTS", disable=not progress, leave=False) as bar:

        def advance(*_: Any) -> None:
            bar.update()

        for stream in streams:
            noise = torch.randn(space.size, dtype=torch.float64, generator=generator)
            kernel = infer.NUTS(
                potential_fn=potential,
                target_accept_prob=settings.target_accept,
                max_tree_depth=settings.max_tree_depth,
            )
            mcmc = infer.MCMC(
                kernel,
                num_samples=draws,
                warmup_steps=settings.warmup,
                initial_params={"noise": noise},
                hook_fn=advance,
                disable_progbar=True,
            )
            with isolated(stream):
                mcmc.run()
            kept.append(mcmc.get_samples()["noise"])
            divergences += len(mcmc.diagnostics()["divergences"]["chain 0"])
    return Chains(law.forward(torch.cat(kept)), divergences)
