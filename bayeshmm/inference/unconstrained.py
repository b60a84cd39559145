"""A Pyro model as a log density on a vector space."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide.initialization import InitMessenger, init_to_median
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Transform, biject_to


class Site(NamedTuple):
    """A latent site of a model.

    Attributes
    ----------
    shape
        Of its value.
    batch
        Number of its axes that are plates.
    transform
        From the reals to its support.
    free
        Shape of its image in the reals.
    """

    shape: tuple[int, ...]
    batch: int
    transform: Transform
    free: tuple[int, ...]


class Unconstrained:
    """A Pyro model, given its data, as a log density on the reals.

    All latent sites must be continuous. Plates may have any latent sites within, and models must
    broadcast over batch axes in front of those of their plates, as they do where Pyro takes several
    particles at once: ``.to_event`` for every axis that is no plate.

    Parameters
    ----------
    model
        Called with nothing, or with keywords that leave its latent sites what they are.

    Attributes
    ----------
    sites
        Latent sites by name, in the order in which the model samples them: points of the space are
        their images, one after the other.
    nesting
        Number of axes that are plates.
    size
        Dimensions.
    """

    def __init__(self, model: Callable[..., Any]) -> None:
        self.model = model
        with isolated(0):
            trace = poutine.trace(InitMessenger(init_to_median)(model)).get_trace()
        self.sites: dict[str, Site] = {}
        self.nesting = 0
        for name, site in trace.iter_stochastic_nodes():
            if site_is_subsample(site):
                continue
            transform = biject_to(site["fn"].support)
            free = transform.inv(site["value"]).shape
            batch = len(site["fn"].batch_shape)
            self.sites[name] = Site(tuple(site["value"].shape), batch, transform, tuple(free))
        for site in trace.nodes.values():
            for frame in site.get("cond_indep_stack", ()):
                if frame.vectorized:
                    self.nesting = max(self.nesting, -frame.dim)
        self._sizes = [torch.Size(site.free).numel() for site in self.sites.values()]
        self.size = sum(self._sizes)
        if not self.size:
            raise ValueError("the model has no latent sites: there is nothing to infer.")

    def places(self, name: str) -> Tensor:
        """Where the image of a site is in a point, in the shape of that image."""
        before = sum(self._sizes[: list(self.sites).index(name)])
        size = torch.Size(self.sites[name].free).numel()
        return torch.arange(before, before + size).reshape(self.sites[name].free)

    def values(self, points: Tensor) -> dict[str, Tensor]:
        """Values of the sites, (..., *shape), at points (..., size)."""
        return {name: value for name, value, _ in self.constrained(points)}

    def constrained(self, points: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Name, value and log Jacobian determinant (...) of every site at points (..., size)."""
        parts = points.split(self._sizes, -1)
        for (name, site), part in zip(self.sites.items(), parts, strict=True):
            free = part.unflatten(-1, site.free) if site.free else part[..., 0]
            value = site.transform(free)
            change = site.transform.log_abs_det_jacobian(free, value)
            yield name, value, change.reshape(*points.shape[:-1], -1).sum(-1)

    def points(self, values: dict[str, Tensor]) -> Tensor:
        """Points (S, size) at values of all sites, (S, *shape)."""
        parts = [
            site.transform.inv(values[name]).reshape(len(values[name]), -1)
            for name, site in self.sites.items()
        ]
        return torch.cat(parts, -1)

    def log_density(self, points: Tensor, **settings: Any) -> Tensor:
        """Log joint density of points (..., size) and the data, (...).

        Parameters
        ----------
        points
            In the unconstrained space, the Jacobian determinant being part of the density.
        **settings
            For the model.
        """
        flat = points.reshape(-1, self.size)
        held, total = {}, torch.zeros(len(flat), dtype=points.dtype)
        for name, value, change in self.constrained(flat):
            site = self.sites[name]
            plates = (1,) * (self.nesting - site.batch)
            held[name] = value.reshape(len(flat), *plates, *site.shape)
            total = total + change
        with poutine.block():
            trace = poutine.trace(poutine.condition(self.model, held)).get_trace(**settings)
        trace.compute_log_prob()
        for node in trace.nodes.values():
            if node["type"] == "sample":
                terms = node["log_prob"]  # without an axis of points where it depends on none
                varies = terms.ndim > self.nesting
                total = total + (terms.reshape(len(flat), -1).sum(1) if varies else terms.sum())
        return total.reshape(points.shape[:-1])


@contextmanager
def isolated(seed: int) -> Iterator[None]:
    """Pyro's parameters and all global random numbers are as before afterwards.

    Inside, random numbers start from `seed`, and distributions do not check their arguments: a
    chain of leapfrog steps may well end where these are infinite.
    """
    state = pyro.util.get_rng_state()
    try:
        with pyro.get_param_store().scope(), pyro.validation_enabled(False):
            pyro.set_rng_seed(seed)
            yield
    finally:
        pyro.util.set_rng_state(state)
