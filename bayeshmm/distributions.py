"""A run's rows as one Pyro distribution, the states summed out: for models of your own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.ops.provenance import detach_provenance, extract_provenance, track_provenance
from torch import Tensor

from bayeshmm import messages


class HiddenMarkov(TorchDistribution):
    """Law of the rows of a run under a hidden Markov model with a minimum dwell.

    ``log_prob`` sums over all paths exactly, in O(T K^2) whatever the dwell, and its gradient is
    the posterior (`bayeshmm.messages`). It is computed and returned in float64 whatever the dtype
    of the inputs; what ``observation_dist`` computes, it computes in its own. Drawing, as from any
    distribution of torch, takes torch's global random numbers.

    Batch dimensions (``...`` below) broadcast against one another; ``batch_shape`` is what comes of
    it, and ``event_shape`` is ``(T, *observation_dist.event_shape)``, with 1 for a T that nothing
    tells.

    Parameters
    ----------
    initial_logits : Tensor
        (..., K), unnormalised log law of the state of the *first* row.
    transition_logits : Tensor
        (..., K, K), rows from, columns to, every row an unnormalised log law. Rows of the run that
        are still inside a dwell are not ruled by it. -inf is legal, here and in `initial_logits`,
        as long as every law has a finite entry.
    observation_dist : Distribution
        Law of a row under every state: batch shape (..., K), any event shape.
    duration : int, optional
        Number of rows T. Needed for drawing where no other argument tells it; a value may have any
        number of rows where nothing does.
    lengths : Tensor or sequence of int, optional
        (...), rows of every run, 1..T. Later rows are padding: ``log_prob`` does not read them, and
        draws hold NaN there, or 0 where rows are whole numbers. Default: T.
    observed : Tensor, optional
        (..., T) bool, False for a missing row. Its density is 1 and what stands there (NaN, say) is
        not read; it counts as a row of the dwell, and it is drawn like any other. Default: all.
    minimum_dwell : int or (K,) ints
        Rows that every visit to a state lasts at least; the last may be cut short by the end of the
        run. The default of 1 is the plain hidden Markov model.
    time_varying_transition : bool
        Whether `transition_logits` is (..., T-1, K, K), matrix t ruling the step from t to t+1.
    time_varying_observation : bool
        Whether the batch shape of `observation_dist` is (..., T, K): a law for every row, such as
        an autoregression whose means were computed from the rows before (draws are then from the
        laws given, one row ahead of that past). The laws of rows that are not read have no say, but
        must be free of NaN.
    validate_args : bool, optional
        As in all distributions of torch. Whether values lie in the support is for the validation of
        `observation_dist`, which knows the states' supports.

    Notes
    -----
    Names and roles are those of Pyro's `DiscreteHMM`, with two differences. That one applies a
    transition *before* the first row, so ``DiscreteHMM(start, A, rows)`` is
    ``HiddenMarkov((start[..., None] + A).logsumexp(-2), A, rows)`` for normalised ``start`` and
    ``A``; where transitions vary in time, its matrix 0 goes into that sum and the others are ours.
    And its parameters have a time dimension as soon as they have a batch, so that those of several
    particles need an ``unsqueeze``; here dimensions of time are named, as in TensorFlow
    Probability's ``HiddenMarkovModel``, and all others are batch.

    Examples
    --------
    Twenty runs of a Pyro model, whose parameters may have any number of particles:

    >>> import pyro, pyro.distributions as dist, torch
    >>> import bayeshmm as bh
    >>> def model(rows):
    ...     initial = pyro.sample("initial", dist.Dirichlet(torch.ones(2)))
    ...     transition = pyro.sample("transition", dist.Dirichlet(torch.ones(2, 2)).to_event(1))
    ...     mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 5.0).to_event(1))
    ...     law = bh.HiddenMarkov(initial.log(), transition.log(), dist.Normal(mean, 1.0))
    ...     with pyro.plate("runs", 20, subsample_size=10) as run:
    ...         return pyro.sample("rows", law, obs=rows[run])
    >>> model(torch.zeros(20, 300)).shape
    torch.Size([10, 300])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "initial_logits": constraints.real,
        "transition_logits": constraints.real,
    }

    def __init__(
        self,
        initial_logits: Tensor,
        transition_logits: Tensor,
        observation_dist: Any,
        *,
        duration: int | None = None,
        lengths: Tensor | Sequence[int] | None = None,
        observed: Tensor | None = None,
        minimum_dwell: int | Sequence[int] | Tensor = 1,
        time_varying_transition: bool = False,
        time_varying_observation: bool = False,
        validate_args: bool | None = None,
    ) -> None:
        self.lengths = None
        if lengths is not None:
            self.lengths = torch.as_tensor(lengths, device=initial_logits.device)
        if observed is not None and (observed.dtype != torch.bool or observed.ndim < 1):
            raise ValueError(
                f"observed must be (..., T) bool, not {tuple(observed.shape)} {observed.dtype}"
            )
        laws = observation_dist.batch_shape
        steps, rows = int(time_varying_transition), int(time_varying_observation)
        _check_states(initial_logits.shape, transition_logits.shape, laws, steps, rows)
        self.transition_logits = _normalised("transition_logits", transition_logits)
        self.observation_dist = observation_dist
        self.observed = observed
        self.minimum_dwell = minimum_dwell
        self.time_varying_transition = time_varying_transition
        self.time_varying_observation = time_varying_observation
        self.duration = _number_of_rows(
            {
                "duration": duration,
                "transition_logits": transition_logits.shape[-3] + 1 if steps else None,
                "observation_dist": laws[-2] if rows else None,
                "observed": None if observed is None else observed.shape[-1],
            }
        )
        batch_shape = _batch_shape(
            {
                "initial_logits": initial_logits.shape[:-1],
                "transition_logits": transition_logits.shape[: -2 - steps],
                "observation_dist": laws[: -1 - rows],
                "lengths": () if self.lengths is None else self.lengths.shape,
                "observed": () if observed is None else observed.shape[:-1],
            }
        )
        # The initial law carries the batch: `messages` broadcasts the others against it.
        self.initial_logits = _normalised("initial_logits", initial_logits).expand(*batch_shape, -1)
        event_shape = torch.Size([self.duration or 1]) + observation_dist.event_shape
        super().__init__(batch_shape, event_shape, validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> Any:
        """Where values lie: every row in the support of `observation_dist`."""
        return constraints.independent(self.observation_dist.support, 1)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> HiddenMarkov:
        """The same law for a larger batch; no parameter is copied."""
        new: HiddenMarkov = self._get_checked_instance(HiddenMarkov, _instance)
        new.__dict__.update(self.__dict__)
        new.initial_logits = self.initial_logits.expand(*batch_shape, -1)
        new._batch_shape = torch.Size(batch_shape)
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of every run, all paths summed over.

        Parameters
        ----------
        value
            (..., T, *event).

        Returns
        -------
        Tensor
            (...) float64, the batch of `value` broadcast with `batch_shape`. An impossible run has
            -inf and zero gradient.

        Raises
        ------
        ValueError
            As `bayeshmm.messages.log_marginal`; with validation, also if `value` does not fit.
        """
        # Compiled code does not see by which names `pyro.render_model` follows tensors.
        chain, provenance = extract_provenance(self._chain(self._log_likelihood(value)))
        return track_provenance(messages.log_marginal(**chain), provenance)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw a path from the law of the chain, then the rows along it.

        A row is drawn under every state and all but one are dropped, as torch's mixtures do.

        Raises
        ------
        ValueError
            If the number of rows is not known.
        """
        T, K = self.duration, self.initial_logits.shape[-1]
        if T is None:
            raise ValueError("the number of rows is not known: give duration= to draw runs")
        no_evidence = self.initial_logits.new_zeros((1,) * len(self.batch_shape) + (T, K))
        path = self._draw(no_evidence, sample_shape, None)
        if self.time_varying_observation:
            law = self.observation_dist.expand((*self.batch_shape, T, K))
            rows = law.sample(torch.Size(sample_shape))
        else:
            law = self.observation_dist.expand((*self.batch_shape, K))
            rows = law.sample(torch.Size([T, *sample_shape])).movedim(0, path.ndim - 1)
        path = path[(...,) + (None,) * self.event_dim]  # the axis of states, those of a row
        value = rows.take_along_dim(path.clamp(min=0), -self.event_dim).squeeze(-self.event_dim)
        padding = torch.nan if value.is_floating_point() else 0
        return value.masked_fill(path.squeeze(-self.event_dim) < 0, padding)

    def smooth(self, value: Tensor) -> Tensor:
        """Probability of every state in every row given the whole run, (..., T, K).

        0 beyond the length; an impossible run is an error, here and in what follows.
        """
        return messages.smooth(**self._chain(self._log_likelihood(value)))

    def filter(self, value: Tensor) -> Tensor:
        """Probability of every state in every row given the rows up to it, (..., T, K).

        Of all rows, where Pyro's `DiscreteHMM` gives the last. 0 beyond the length.
        """
        return messages.filter(**self._chain(self._log_likelihood(value)))

    def viterbi(self, value: Tensor) -> messages.Viterbi:
        """Most probable path, (..., T) with -1 beyond the length, and its joint log density."""
        return messages.viterbi(**self._chain(self._log_likelihood(value)))

    def expected_counts(self, value: Tensor) -> messages.ExpectedCounts:
        """Posterior expectations of the sufficient statistics of every run."""
        return messages.expected_counts(**self._chain(self._log_likelihood(value)))

    def sample_paths(
        self,
        value: Tensor,
        sample_shape: Sequence[int] = (),
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw paths given the rows.

        Parameters
        ----------
        value
            (..., T, *event).
        sample_shape
            Of the paths per run; they share one pass over the rows.
        generator
            Of the random numbers; None is torch's global one.

        Returns
        -------
        Tensor
            (*sample_shape, ..., T) int64, -1 beyond the length.
        """
        return self._draw(self._log_likelihood(value), sample_shape, generator)

    def _draw(
        self,
        log_likelihood: Tensor,
        sample_shape: Sequence[int],
        generator: torch.Generator | None,
    ) -> Tensor:
        """Paths given the densities of the rows, for the whole batch."""
        *batch, T, _ = log_likelihood.shape
        shape = (*sample_shape, *torch.broadcast_shapes(self.batch_shape, batch), T)
        uniforms = torch.rand(
            shape, dtype=torch.float64, device=log_likelihood.device, generator=generator
        )
        chain = detach_provenance(self._chain(log_likelihood))
        return messages.sample_paths(**chain, uniforms=uniforms)

    def _chain(self, log_likelihood: Tensor) -> dict[str, Any]:
        """Arguments of the functions of `messages`."""
        transition = self.transition_logits
        if self.time_varying_transition:  # they tell it by the number of dimensions
            transition = transition[(None,) * (log_likelihood.ndim + 1 - transition.ndim)]
        return {
            "log_initial": self.initial_logits,
            "log_transition": transition,
            "log_likelihood": log_likelihood,
            "lengths": self.lengths,
            "minimum_dwell": self.minimum_dwell,
        }

    def _log_likelihood(self, value: Tensor) -> Tensor:
        """Log density of every row under every state, (..., T, K); all dimensions of the batch."""
        if self._validate_args:
            self._validate_sample(value)
        at = -self.event_dim  # of time in a value
        value = value[(None,) * (len(self.batch_shape) + self.event_dim - value.ndim)]
        read = self._read(value.shape[at])
        if read is not None:
            # Rows that are not read may hold anything, NaN included, whose derivatives would spoil
            # those of the others. A row that is read stands in, so that the support has it.
            shape = torch.broadcast_shapes(value.shape[: at + 1 or None], read.shape)
            rows = value.detach().expand(shape + self.event_shape[1:])[read.expand(shape)]
            if not len(rows):
                return self.initial_logits.new_zeros(shape + self.initial_logits.shape[-1:])
            value = torch.where(read[(...,) + (None,) * (self.event_dim - 1)], value, rows[0])
        value = value.unsqueeze(at)
        if self.time_varying_observation:
            density = self.observation_dist.log_prob(value)
        else:  # laws without an axis of time: it goes to the front, like that of draws
            density = self.observation_dist.log_prob(value.movedim(at - 1, 0)).movedim(0, -2)
        return density if read is None else density.masked_fill(~read[..., None], 0.0)

    def _read(self, rows: int) -> Tensor | None:
        """(..., T) bool: rows that were observed and belong to their run. None: all."""
        read = self.observed
        if self.lengths is not None:
            inside = torch.arange(rows, device=self.lengths.device) < self.lengths[..., None]
            read = inside if read is None else inside & read
        return None if read is None or bool(read.all()) else read

    def _validate_sample(self, value: Tensor) -> None:
        """Check shapes; any number of rows will do where nothing tells it."""
        at = value.ndim - self.event_dim
        if at < 0 or value.shape[at + 1 :] != self.event_shape[1:]:
            raise ValueError(
                f"value must be (..., T, *{tuple(self.event_shape[1:])}), by the event shape of "
                f"observation_dist, not {tuple(value.shape)}"
            )
        if self.duration not in (None, value.shape[at]):
            raise ValueError(
                f"value has {value.shape[at]} rows and the law {self.duration}; runs of different "
                "lengths are padded, and lengths= given"
            )
        _batch_shape({"value": value.shape[:at], "the law": self.batch_shape})


def _check_states(
    initial: torch.Size, transition: torch.Size, laws: torch.Size, steps: int, rows: int
) -> None:
    """Check that initial law, transitions and laws of the rows have the same states."""
    if len(initial) < 1:
        raise ValueError("initial_logits must be (..., K), not a scalar")
    K = initial[-1]
    if len(transition) < 2 + steps or transition[-2:] != (K, K):
        raise ValueError(
            f"transition_logits must be (..., {'T-1, ' * steps}{K}, {K}) for the {K} states of "
            f"initial_logits, not {tuple(transition)}"
        )
    if len(laws) < 1 + rows or laws[-1] != K:
        raise ValueError(
            f"observation_dist must have batch shape (..., {'T, ' * rows}{K}), a law for each of "
            f"the {K} states of initial_logits, not {tuple(laws)}"
        )


def _normalised(name: str, logits: Tensor) -> Tensor:
    """Logarithms of probabilities, in float64."""
    logs = logits.double().log_softmax(-1)
    if bool(logs.isnan().any()):
        raise ValueError(f"{name} has a law with NaN or +inf in it, or without any finite entry")
    return logs


def _number_of_rows(told: dict[str, int | None]) -> int | None:
    """What the arguments agree on, None if they do not tell."""
    rows = {name: T for name, T in told.items() if T is not None}
    if len(set(rows.values())) > 1 or min(rows.values(), default=1) < 1:
        raise ValueError(f"there must be one number of rows, of at least 1; got {rows}")
    return next(iter(rows.values()), None)


def _batch_shape(shapes: dict[str, Sequence[int]]) -> torch.Size:
    """Broadcast shape of a batch."""
    try:
        return torch.broadcast_shapes(*shapes.values())
    except RuntimeError:
        listed = ", ".join(f"{tuple(shape)} of {name}" for name, shape in shapes.items())
        raise ValueError(
            f"batch dimensions do not broadcast: {listed}. Dimensions of time are no batch: "
            "time_varying_transition=True and time_varying_observation=True name them"
        ) from None
