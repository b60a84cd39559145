"""Settings of the engines, as users write them: ``fit(..., inference=VI(steps=5000))``."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Literal, get_args

GuideKind = Literal["full-rank", "block", "mean-field"]


def _check_counts(settings: object, **least: int) -> None:
    for name, low in least.items():
        value = getattr(settings, name)
        if not isinstance(value, Integral) or isinstance(value, bool) or value < low:
            raise ValueError(
                f"{type(settings).__name__}.{name} must be an integer of at least {low}, "
                f"not {value!r}."
            )


@dataclass(frozen=True)
class Gibbs:
    """Blocked Gibbs sampling: exact draws, where all parts of the model are conjugate.

    Parameters
    ----------
    chains
        Chains, advanced as one batch.
    warmup
        Sweeps thrown away first.
    thin
        Sweeps per draw that is kept.
    """

    chains: int = 4
    warmup: int = 200
    thin: int = 2

    def __post_init__(self) -> None:
        _check_counts(self, chains=1, warmup=0, thin=1)


@dataclass(frozen=True)
class VI:
    """Stochastic variational inference with a normal guide, the states summed out.

    It starts at the conjugate fit and ends when the loss has stopped falling at the last of a few
    decreasing learning rates. The draws are corrected by Pareto-smoothed importance sampling where
    its diagnostic k-hat says that this can be relied on, at most 0.7; otherwise there is a warning.

    Parameters
    ----------
    guide
        ``"full-rank"``: all parameters vary together. ``"block"``: those of each phase's law, those
        of the chain with all hyper-parameters, and the effects of each run in each phase, which is
        what models of thousands of parameters allow. ``"mean-field"``: all apart; its intervals are
        too narrow. None: full rank up to 500 dimensions, blocks above.
    batch_size
        Runs per step, for many runs; the search of the mode then sees that many too, at least 40.
        None: all.
    particles
        Draws of the guide per step.
    steps
        Most steps taken.
    learning_rate
        Of the first steps, in standard deviations of the start.
    """

    guide: GuideKind | None = None
    batch_size: int | None = None
    particles: int = 8
    steps: int = 5000
    learning_rate: float = 0.05

    def __post_init__(self) -> None:
        if self.guide is not None and self.guide not in get_args(GuideKind):
            listed = ", ".join(map(repr, get_args(GuideKind)))
            raise ValueError(f"VI.guide must be one of {listed} or None, not {self.guide!r}.")
        _check_counts(self, particles=1, steps=1)
        if self.batch_size is not None:
            _check_counts(self, batch_size=1)
        if not 0 < self.learning_rate < 10:
            raise ValueError(
                f"VI.learning_rate must be a positive number below 10, not {self.learning_rate!r}."
            )


@dataclass(frozen=True)
class NUTS:
    """The No-U-Turn sampler on the model with the states summed out: exact for any emission.

    It starts at a variational fit, which also gives the directions and scales of its steps.

    Parameters
    ----------
    chains
        Chains, one after the other.
    warmup
        Draws of each chain thrown away first.
    target_accept
        Acceptance probability that the step size is adapted to, below 1. A larger one takes smaller
        steps.
    max_tree_depth
        A draw takes at most 2 to this power steps.
    """

    chains: int = 4
    warmup: int = 200
    target_accept: float = 0.8
    max_tree_depth: int = 8

    def __post_init__(self) -> None:
        _check_counts(self, chains=1, warmup=1, max_tree_depth=1)
        if not 0 < self.target_accept < 1:
            raise ValueError(
                f"NUTS.target_accept must lie between 0 and 1, not {self.target_accept!r}."
            )


Inference = Literal["auto", "gibbs", "vi", "nuts"]
Settings = Gibbs | VI | NUTS
NAMED: dict[str, Settings] = {"gibbs": Gibbs(), "vi": VI(), "nuts": NUTS()}


def chosen(inference: Inference | Settings, conjugate: bool) -> Settings:
    """The settings that a name stands for.

    Parameters
    ----------
    inference
        A name, or settings.
    conjugate
        Whether the model is: ``"auto"`` is then Gibbs sampling, and variational otherwise.

    Raises
    ------
    ValueError
        If there is no such engine, or it needs a conjugate model and has none.
    """
    if isinstance(inference, str) and inference == "auto":
        return NAMED["gibbs" if conjugate else "vi"]
    settings = NAMED.get(inference) if isinstance(inference, str) else inference
    if not isinstance(settings, Settings):
        names = [*get_args(Inference), *(f"{kind.__name__}(...)" for kind in get_args(Settings))]
        raise ValueError(f"inference={inference!r} is not one of {names}.")
    if isinstance(settings, Gibbs) and not conjugate:
        raise ValueError(
            'inference="gibbs" needs conjugate updates, which an emission of your own does not '
            'have: use inference="vi" or "nuts".'
        )
    return settings
