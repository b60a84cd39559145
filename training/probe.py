"""Measure a model at a step: all that was asked for, one failure at a time, in one copy."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from training.activations import Activations
from training.failures import Failures
from training.host import HostCopy
from training.metrics import MetricChoice, choose
from training.metrics.measure import Measure
from training.metrics.statistics import Statistics
from training.parameters import bare, plain_name, weights_of
from training.patterns import Patterns, matching
from training.processes import add_up, check_alike, is_sharded, world


class Reading(NamedTuple):
    """One measurement, whose numbers may still be on their way to the host.

    Attributes
    ----------
    counts
        How many tensors each measure collected, in their order.
    copy
        The tensors.
    """

    counts: dict[str, int]
    copy: HostCopy


class Probe:
    """Measures one model.

    Parameters
    ----------
    model
        The model, wrapped or not. Every floating-point parameter counts once, tied or not, trained
        or frozen.
    metrics
        See `training.metrics.choose`.
    include
        Patterns (as in `fnmatch`) of the parameters whose metrics are logged one by one too.
    activations
        Patterns of the modules whose outputs are measured.
    failures
        Takes what fails later on.

    Raises
    ------
    ValueError
        If a metric is not known, a pattern matches nothing, or the model has no parameter.
    """

    def __init__(
        self,
        model: nn.Module,
        metrics: MetricChoice = "core",
        include: Patterns | None = None,
        activations: Patterns | None = None,
        *,
        failures: Failures,
    ) -> None:
        model = bare(model)
        self._failures = failures
        self._weights = weights_of(model)
        self._index = {id(weight.parameter): i for i, weight in enumerate(self._weights)}
        named = {weight.name: weight for weight in self._weights}
        included = [named[name] for name in matching("include", include, named)]
        modules = {plain_name(name): module for name, module in model.named_modules() if name}
        observed = {name: modules[name] for name in matching("activations", activations, modules)}
        parameters = [weight.parameter for weight in self._weights]
        self._shared = world() > 1 and (bool(observed) or any(map(is_sharded, parameters)))
        self._choice = choose(metrics)
        self._statistics = Statistics(self._weights, included, shared=self._shared)
        self._measures: dict[str, Measure] = {"core": self._statistics}
        for name, make in self._choice.makers.items():
            self._measures[name] = make(model, self._weights, included)
        self._activations = Activations(observed, parameters[0].device) if observed else None
        if self._activations is not None:
            self._measures["activations"] = self._activations
        self._included = [weight.name for weight in included]
        if self._shared:
            check_alike(self.describe())

    def describe(self) -> dict[str, Any]:
        """Return what is measured, for the record: definitions, and the shapes of parameters."""
        definitions = {
            key: definition
            for measure in self._measures.values()
            for key, definition in measure.definitions().items()
            if self._choice.wants(key)
        }
        return {
            "metrics": definitions,
            "include": self._included,
            "parameters": {w.name: list(w.parameter.shape) for w in self._weights},
            "tied": {w.name: list(w.aliases) for w in self._weights if w.aliases},
            "device": str(self._weights[0].parameter.device),
        }

    def holds(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether an optimizer holds weights of the model."""
        return bool(self._held(optimizer))

    @torch.no_grad()
    def before(self, optimizer: torch.optim.Optimizer) -> None:
        """Remember the weights that an optimizer is about to step."""
        with self._failures.guard("update"):
            self._statistics.before(self._held(optimizer))

    @torch.no_grad()
    def after(self, optimizer: torch.optim.Optimizer) -> None:
        """Measure gradients and updates of the weights that an optimizer has just stepped."""
        with self._failures.guard("gradients and update"):
            self._statistics.after(self._held(optimizer))

    @torch.no_grad()
    def measure(self) -> Reading:
        """Reduce the model's present state on its device, without waiting for the result."""
        collected: dict[str, list[Tensor]] = {}
        for name, measure in self._measures.items():
            with self._failures.guard(name):
                collected[name] = measure.collect()
        if self._shared:
            names = [name for name in collected if self._measures[name].summed]
            totals = iter(add_up([tensor for name in names for tensor in collected[name]]))
            for name in names:
                collected[name] = [next(totals) for _ in collected[name]]
        counts = {name: len(tensors) for name, tensors in collected.items()}
        return Reading(counts, HostCopy([t for tensors in collected.values() for t in tensors]))

    def evaluate(self, reading: Reading) -> dict[str, float]:
        """Return the metrics of a reading, by key; what could not be measured is left out.

        Parameters
        ----------
        reading
            The measurement.
        """
        row: dict[str, float] = {}
        arrays = iter(reading.copy.arrays())
        for name, count in reading.counts.items():
            mine = [next(arrays) for _ in range(count)]
            with self._failures.guard(name):
                row |= self._measures[name].evaluate(mine)
        return {key: value for key, value in row.items() if self._choice.wants(key)}

    def state_dict(self) -> dict[str, Any]:
        """Return what later measurements depend on besides the model."""
        states = {name: measure.state_dict() for name, measure in self._measures.items()}
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned, as far as the same is measured.

        Parameters
        ----------
        state
            As returned.
        """
        for name in state.keys() & self._measures.keys():
            self._measures[name].load_state_dict(state[name])

    def close(self) -> None:
        """Leave the model as it was found."""
        if self._activations is not None:
            self._activations.close()

    def _held(self, optimizer: torch.optim.Optimizer) -> list[int]:
        # asked anew at every row: groups may be added while training
        held = (p for group in optimizer.param_groups for p in group["params"])
        return [self._index[id(p)] for p in held if id(p) in self._index]
