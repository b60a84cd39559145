"""A law close to a posterior, fitted to its draws: normalised, and easy to draw from and to score.

The sites of a model are taken in the order in which it samples them. Simplices and normal sites
have the law that their prior, given their parents, becomes by a conjugate update with what suits
the draws best. Where the data decide, that does not depend on the parents; where they are silent it
is the prior, however wide the parents make it.

* A simplex is ``Dirichlet(a + n)``, a its prior's parameters, and that is all.
* A normal site with prior ``N(mu, tau^2)`` is multiplied by a likelihood ``N(m, s^2)``.
* Any other site, or every one that is no simplex, is taken as it is in unconstrained space.

These, and how far normal sites are from the means of their laws, are jointly normal, each
coordinate regressed on the few coordinates before it that tell most of it. The number of
coefficients then grows with that of the dimensions and not with its square: it is what the draws
have to pay for.

References
----------
Gorinova, Moore and Hoffman (2020), "Automatic reparameterisation of probabilistic programs".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions import Dirichlet, Independent, Normal
from pyro.poutine.messenger import Messenger
from torch import Tensor

from bayeshmm.inference.unconstrained import Site, Unconstrained
from bayeshmm.transitions.chain import TINY
from bayeshmm.transitions.log_ratios import DirichletLogRatios, log_cells

SIMPLICES = (Dirichlet, DirichletLogRatios)
"""The laws of a simplex."""

PARENTS = 30
"""Most coordinates that a coordinate is regressed on."""

NOTABLE = 4.0
"""Smallest correlation that is worth a coefficient, times the root of the number of draws.

Of some hundred coordinates that have nothing to do with one, a few correlate by 3.
"""

SMALLEST = 1e-12
"""Smallest standard deviation and smallest unexplained share of a variance."""


class Simplex(NamedTuple):
    """``Dirichlet(prior + counts)``, of which nothing is left for the joint law."""

    counts: Tensor

    @classmethod
    def fit(cls, prior: Any, values: Tensor) -> Simplex:
        """Counts that suit the draws best."""
        whole = isinstance(prior, Dirichlet)
        log_values = values.clamp_min(TINY).log() if whole else log_cells(values)

        def loss(log_counts: Tensor) -> Tensor:
            cells = prior.concentration + log_counts.exp()
            log_density = torch.lgamma(cells.sum(-1)) - torch.lgamma(cells).sum(-1)
            return -(log_density + (cells * log_values).sum(-1)).mean(0).sum()

        return cls(_least(loss, torch.zeros_like(log_values[0]))[0].exp())

    def draw(self, prior: Any, generator: torch.Generator) -> Tensor:
        """Values."""
        cells = prior.concentration + self.counts
        # a Gamma variable of a small shape, in logarithms
        uniform = torch.rand(cells.shape, dtype=cells.dtype, generator=generator)
        gamma = torch._standard_gamma(cells + 1.0, generator=generator)
        logs = gamma.log() + uniform.clamp_min(TINY).log() / cells
        if isinstance(prior, Dirichlet):
            return logs.softmax(-1).clamp_min(TINY)
        return logs[..., :-1] - logs[..., -1:]

    def log_density(self, prior: Any, value: Tensor) -> Tensor:
        """Log density of values."""
        law = type(prior)(prior.concentration + self.counts)
        return law.log_prob(value.clamp_min(TINY) if isinstance(prior, Dirichlet) else value)


class Centred(NamedTuple):
    """A normal prior times a normal likelihood, deviations in its standard deviations."""

    centre: Tensor
    log_scale: Tensor

    @classmethod
    def fit(cls, prior: Normal, values: Tensor) -> Centred:
        """The likelihood that suits the draws best."""

        def loss(*parameters: Tensor) -> Tensor:
            mean, scale = cls(*parameters).law(prior)
            return (0.5 * ((values - mean) / scale).square() + scale.log()).mean(0).sum()

        deviation = values.std(0).clamp_min(SMALLEST)
        return cls(*_least(loss, values.mean(0), deviation.log()))

    def law(self, prior: Normal) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation."""
        known, told = prior.scale**-2, torch.exp(-2.0 * self.log_scale)
        variance = 1.0 / (known + told)
        return variance * (known * prior.loc + told * self.centre), variance.sqrt()

    def value(self, prior: Normal, noise: Tensor) -> Tensor:
        """Values at standard normal variables."""
        mean, scale = self.law(prior)
        return mean + scale * noise

    def noise(self, prior: Normal, value: Tensor) -> tuple[Tensor, Tensor]:
        """Standard normal variables at values, and the log derivative."""
        mean, scale = self.law(prior)
        return (value - mean) / scale, -scale.log().expand_as(value)


class Surrogate:
    """A law fitted to draws of the posterior of a Pyro model.

    Parameters
    ----------
    space
        Of the model.
    latent
        The latent sites of the model; that it may leave out the data makes it fast.
    points
        Draws in unconstrained space, (S, size).
    centred
        Whether normal sites are taken as deviations from their laws, and not as they are: good
        where the data are silent, bad where they tell a combination of several of them exactly.
    """

    def __init__(
        self, space: Unconstrained, latent: Callable[[], Any], points: Tensor, centred: bool
    ) -> None:
        self.space, self.latent = space, latent
        self._laws: dict[str, Simplex | Centred | None] = {}
        values = space.values(points)
        kinds: dict[type, Any] = dict.fromkeys(SIMPLICES, Simplex)
        if centred:
            kinds[Normal] = Centred

        def fit(name: str, prior: Any) -> Tensor:
            kind = kinds.get(type(prior))
            self._laws[name] = kind and kind.fit(prior, values[name])
            return values[name]

        self._visit(len(points), fit)
        self._joint = SparseNormal(self._deviations(points)[0])

    @classmethod
    def fit(cls, space: Unconstrained, latent: Callable[[], Any], points: Tensor) -> Surrogate:
        """The law of the two kinds under which the draws are the denser."""
        laws = (cls(space, latent, points, centred) for centred in (True, False))
        return max(laws, key=lambda law: float(law.log_density(points).mean()))

    def sample(self, size: int, generator: torch.Generator) -> Tensor:
        """Draws in unconstrained space, (size, dimensions)."""
        noise, values = self._joint.sample(size, generator), {}

        def draw(name: str, prior: Any) -> Tensor:
            nonlocal noise
            site, law = self.space.sites[name], self._laws[name]
            if isinstance(law, Simplex):
                values[name] = law.draw(prior, generator)
            else:
                own, noise = noise.tensor_split([math.prod(site.free)], 1)
                own = own.reshape(size, *site.free)
                values[name] = site.transform(own) if law is None else law.value(prior, own)
            return values[name]

        self._visit(size, draw)
        return self.space.points(values)

    def log_density(self, points: Tensor) -> Tensor:
        """Log density in unconstrained space at points (S, size), (S,)."""
        deviations, volume = self._deviations(points)
        return self._joint.log_density(deviations) + volume

    def _deviations(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Jointly normal coordinates (S, ...) and the log of what else is in the density, (S,)."""
        size, parts = len(points), [points[:, :0]]
        volume = torch.zeros(size, dtype=torch.float64)
        known = {name: (value, change) for name, value, change in self.space.constrained(points)}

        def score(name: str, prior: Any) -> Tensor:
            (value, change), law = known[name], self._laws[name]
            if law is None:
                parts.append(points[:, self.space.places(name).flatten()])
                return value
            if isinstance(law, Simplex):
                terms = law.log_density(prior, value)
            else:
                deviations, terms = law.noise(prior, value)
                parts.append(deviations.reshape(size, -1))
            volume.add_(terms.reshape(size, -1).sum(1) + change)
            return value

        self._visit(size, score)
        return torch.cat(parts, 1), volume

    def _visit(self, size: int, visit: Callable[[str, Any], Tensor]) -> None:
        """Take the sites in order, with values (size, *shape) that `visit` gives by their prior."""
        sites, plates = self.space.sites, self.space.nesting

        class Walk(Messenger):
            def _pyro_sample(self, message: Any) -> None:
                if message["name"] in sites:
                    site = sites[message["name"]]
                    axes = (size, *(1,) * (plates - site.batch))
                    value = visit(message["name"], _unrolled(message["fn"], site, axes))
                    message["value"] = value.reshape(*axes, *site.shape)
                    message["done"] = True

        with torch.no_grad(), pyro.validation_enabled(False), poutine.block(), Walk():
            self.latent()


class SparseNormal:
    """A normal law in which every coordinate is regressed on a few before it.

    Parameters
    ----------
    draws
        (S, size).
    """

    def __init__(self, draws: Tensor) -> None:
        S, size = draws.shape
        self.location = draws.mean(0)
        self.deviation = (draws - self.location).square().mean(0).sqrt().clamp_min(SMALLEST)
        standard = (draws - self.location) / self.deviation
        gram = standard.T @ standard / S
        self.root = torch.eye(size, dtype=torch.float64)  # root @ standard = scale * noise
        self.scale = torch.ones(size, dtype=torch.float64)
        for i in range(1, size):
            chosen: list[int] = []
            weights, left = gram.new_zeros(0), gram[i, i]
            while len(chosen) < PARENTS and left > SMALLEST:
                rest = (gram[i, :i] - weights @ gram[chosen, :i]).abs()
                rest[chosen] = 0.0
                if rest.max() < NOTABLE * (left / S).sqrt():
                    break
                chosen.append(int(rest.argmax()))
                weights = torch.linalg.solve(gram[chosen][:, chosen], gram[chosen, i])
                left = gram[i, i] - weights @ gram[chosen, i]
            self.root[i, chosen] = -weights
            self.scale[i] = (left.clamp_min(SMALLEST) * S / max(S - len(chosen) - 1, 1)).sqrt()

    def sample(self, size: int, generator: torch.Generator) -> Tensor:
        """Draws (size, dimensions)."""
        noise = torch.randn(size, len(self.scale), dtype=torch.float64, generator=generator)
        standard = torch.linalg.solve_triangular(self.root, (self.scale * noise).T, upper=False).T
        return self.location + self.deviation * standard

    def log_density(self, points: Tensor) -> Tensor:
        """Log density at points (S, size), (S,)."""
        noise = ((points - self.location) / self.deviation) @ self.root.T / self.scale
        volume = (self.scale * self.deviation).log().sum()
        return -0.5 * (noise.square() + math.log(2.0 * math.pi)).sum(1) - volume


def _unrolled(fn: Any, site: Site, axes: tuple[int, ...]) -> Any:
    """The prior of a site, with parameters (S, ...) if it is a simplex or normal."""
    while isinstance(fn, Independent):
        fn = fn.base_dist

    def flat(parameter: Tensor, shape: tuple[int, ...]) -> Tensor:
        return parameter.expand(*axes, *shape).reshape(axes[0], *shape)

    if isinstance(fn, Normal):
        return Normal(flat(fn.loc, site.shape), flat(fn.scale, site.shape))
    if isinstance(fn, SIMPLICES):
        cells = (*site.shape[:-1], fn.concentration.shape[-1])
        return type(fn)(flat(fn.concentration, cells))
    return fn


def _least(loss: Callable[..., Tensor], *start: Tensor) -> list[Tensor]:
    """Where `loss` is least."""
    found = [part.clone().requires_grad_() for part in start]
    optimiser = torch.optim.LBFGS(found, max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(*found)
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(closure)
    return [part.detach() for part in found]
