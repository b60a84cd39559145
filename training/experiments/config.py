"""What the configurations of all experiments share."""

from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True)
class ExperimentConfig:
    """The setting of an experiment; a subclass in the experiment's module lists its fields."""

    @classmethod
    def small(cls) -> Self:
        """Return a setting that goes through the same phases within seconds, for tests.

        By default it is the experiment's own.
        """
        return cls()

    @property
    def experiment(self) -> str:
        """Name of the experiment: that of its module."""
        return type(self).__module__.rpartition(".")[2]

    def record(self) -> dict[str, Any]:
        """Return what a run records of its setting."""
        return {"experiment": self.experiment, **asdict(self)}
