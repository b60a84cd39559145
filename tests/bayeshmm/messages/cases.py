"""Small batches of every kind that the functions distinguish, as a strategy of `hypothesis`."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor

from .enumeration import EPS, Law, list_paths

# The same examples in every run, however long they take.
FIXED = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@dataclass(frozen=True)
class Case:
    """A batch of ragged runs; every input has its own batch dimensions, which broadcast."""

    log_initial: Tensor
    log_transition: Tensor
    log_likelihood: Tensor
    lengths: Tensor | None
    dwell: int | list[int]
    exact: bool = field(default=False)  # small whole numbers: sums are exact, and paths tie

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.log_initial, self.log_transition, self.log_likelihood

    @property
    def options(self) -> dict:
        return {"lengths": self.lengths, "minimum_dwell": self.dwell}

    @property
    def per_step(self) -> bool:
        return self.log_transition.ndim > self.log_likelihood.ndim

    @property
    def batch(self) -> torch.Size:
        lengths = () if self.lengths is None else self.lengths.shape
        matrix = 3 if self.per_step else 2
        return torch.broadcast_shapes(
            self.log_initial.shape[:-1],
            self.log_transition.shape[:-matrix],
            self.log_likelihood.shape[:-2],
            lengths,
        )

    @cached_property
    def laws(self) -> list[tuple[tuple[int, ...], Law]]:
        """Index and law of every run, in the order of the flattened batch."""
        T, K = self.log_likelihood.shape[-2:]
        initial = self.log_initial.expand(*self.batch, K).numpy()
        steps = self.log_transition if self.per_step else self.log_transition.unsqueeze(-3)
        steps = steps.expand(*self.batch, T - 1, K, K).numpy()
        rows = self.log_likelihood.expand(*self.batch, T, K).numpy()
        lengths = np.full(self.batch, T) if self.lengths is None else self.lengths.numpy()
        lengths = np.broadcast_to(lengths, self.batch)
        dwell = (self.dwell,) * K if isinstance(self.dwell, int) else tuple(self.dwell)
        return [
            (i, Law(initial[i], steps[i][: lengths[i] - 1], rows[i][: lengths[i]], dwell))
            for i in np.ndindex(*self.batch)
        ]

    @property
    def possible(self) -> bool:
        return all(law.possible for _, law in self.laws)

    def complaint(self) -> str:
        """What an error must say of the first impossible run."""
        run, law = next((i, law) for i, (_, law) in enumerate(self.laws) if not law.possible)
        return rf"run {run} .*impossible.* row {law.first_impossible_row};"

    @cached_property
    def size(self) -> float:
        """Largest finite input."""
        finite = [x[x.isfinite()].abs() for x in self.inputs]
        return max((float(x.max()) for x in finite if len(x)), default=0.0)

    def atol(self, *, rescaled: bool) -> float:
        """Absolute error that a probability may have.

        1e-15 (d max|log b| + 1000) where messages are rescaled at every row; in plain torch they
        grow with the run. The rest is rounding in the enumeration, which only shows where its
        floating point is no wider than float64.
        """
        T, K = self.log_likelihood.shape[-2:]
        longest = min(T, max(torch.as_tensor(self.dwell).expand(K).tolist()))
        claimed = 1e-15 * (longest * self.size + 1000) * (1 if rescaled else T)
        return claimed + 4 * T * EPS * self.size

    def atol_density(self, law: Law) -> float:
        """Absolute error that the log density of a run may have: 1e-15 of all it adds up."""
        initial, steps, rows = (np.abs(np.where(np.isfinite(x), x, 0)) for x in law.inputs)
        total = initial.max() + steps.max((1, 2), initial=0).sum() + rows.max(1).sum()
        return 1e-15 * total + 1e-12 + 4 * EPS * total


def _log_weights(g: np.random.Generator, shape, spread: float, zeros: float) -> np.ndarray:
    """Log probabilities of the last axis' states, with exact zeros, never all of them."""
    x = spread * g.standard_normal(shape)
    zero = g.random(shape) < zeros
    zero[..., 0] &= ~zero.all(-1)
    x[zero] = -np.inf
    return x - np.logaddexp.reduce(x, -1, keepdims=True) if x.size else x


@st.composite
def cases(draw: st.DrawFn, stochastic: bool = False) -> Case:
    """Shapes and options are drawn one by one, the numbers by a seed.

    With ``stochastic``, the rows of the transition matrices sum to one.
    """
    K, T = draw(st.integers(1, 4)), draw(st.integers(1, 7))
    batch = draw(
        st.one_of(
            st.tuples(st.integers(1, 10)),
            st.tuples(st.integers(1, 3), st.integers(1, 3)),
            st.just(()),
        )
    )

    def own(shorten: bool = True) -> tuple[int, ...]:
        """Batch dimensions of an input: its own or shared, and shared ones in front left out."""
        shape = tuple(size if draw(st.booleans()) else 1 for size in batch)
        while shorten and shape[:1] == (1,) and draw(st.booleans()):
            shape = shape[1:]
        return shape

    per_step = draw(st.booleans())
    dwells = st.integers(1, T + 2)
    dwell = draw(st.one_of(st.just(1), dwells, st.lists(dwells, min_size=K, max_size=K)))
    spread = draw(st.sampled_from([1.0, 3.0, 500.0]))
    level, scale = draw(st.sampled_from([0.0, -1e4, 1e4])), draw(st.sampled_from([1, 30, 1e3, 1e4]))
    zeros, impossible = draw(st.sampled_from([0, 0.4])), draw(st.sampled_from([0, 0.05, 0.4]))
    exact = not stochastic and draw(st.sampled_from([False, False, False, True]))
    g = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    # Data keep all batch dimensions: one matrix per step is one dimension more than they have.
    shapes = [(*own(), K), (*own(not per_step), *((T - 1,) if per_step else ()), K, K)]
    initial, transition = (_log_weights(g, shape, spread, zeros) for shape in shapes)
    rows = level + scale * g.uniform(-1, 1, (*own(shorten=False), T, K))
    if not stochastic and draw(st.booleans()):
        transition -= 0.3  # rows need not sum to one
    if exact:
        initial, transition, rows = (
            np.where(np.isneginf(x), x, g.integers(-2, 1, x.shape))
            for x in (initial, transition, rows)
        )
    rows[g.random(rows.shape) < impossible] = -np.inf
    if draw(st.sampled_from([False, False, False, False, True])):  # the data tell the path
        paths = list_paths(T, K, (dwell,) * K if isinstance(dwell, int) else tuple(dwell)).states
        told = paths[g.integers(len(paths), size=rows.shape[:-2])]
        rows[told[..., None] != np.arange(K)] = -np.inf
    rows[g.random(rows.shape[:-1]) < 0.15] = 0.0  # missing
    lengths = draw(st.sampled_from([None, own()]))
    if lengths is not None:
        lengths = g.integers(1, T + 1, lengths)
    case = Case(
        *map(torch.tensor, (initial, transition, rows)),
        lengths=None if lengths is None else torch.tensor(lengths),
        dwell=dwell,
        exact=exact,
    )
    return spoil_padding(case)


def spoil_padding(case: Case) -> Case:
    """Write NaN wherever no run reads."""
    if case.lengths is None:
        return case
    T = case.log_likelihood.shape[-2]
    live = torch.arange(T) < case.lengths.expand(case.batch)[..., None]
    for x, event, read in (
        (case.log_likelihood, 1, live),
        *([(case.log_transition, 2, live[..., 1:])] if case.per_step else []),
    ):
        batch = x.shape[: x.ndim - event]
        # A shared input is read if any of the runs that share it reads.
        needed = read.double().sum_to_size(batch) > 0
        x[~needed] = torch.nan
    return case
