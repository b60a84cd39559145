"""Training runs as the models see them: padded arrays, checked on the way in."""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeshmm import sources, tidy
from bayeshmm.tidy import NonFinite

MODELLED_AT_MOST = 20
"""The largest number of metrics that a model takes."""


@dataclass(frozen=True, eq=False, repr=False)
class Runs:
    """A set of training runs: its metrics per run and row, and the attributes of each run.

    Made by `Runs.read` or `Runs.from_dataframe`. Nothing changes in place: `select` and `subset`
    return new objects, and the arrays are read-only.

    Attributes
    ----------
    names : tuple of str
        The N runs, in the order in which they were read.
    metrics : tuple of str
        The D metrics that a model sees.
    columns : tuple of str
        The C numeric columns, the metrics among them; the others are kept for display.
    steps : ndarray of int64, shape (N, T)
        The training step of each row, -1 beyond the end of a run.
    lengths : ndarray of int64, shape (N,)
        The number of rows of each run; T is the largest.
    recorded : ndarray of float64, shape (N, T, C)
        All numeric columns, NaN where missing and beyond the end of a run.
    source : Source or None
        What `read` took the files for (``title``, ``path``) and left out (``left_out``); None for
        rows from elsewhere.
    """

    names: tuple[str, ...]
    metrics: tuple[str, ...]
    columns: tuple[str, ...]
    steps: NDArray[np.int64]
    lengths: NDArray[np.int64]
    recorded: NDArray[np.float64]
    _attributes: pd.DataFrame
    source: sources.Source | None = None

    def __post_init__(self) -> None:
        for array in (self.steps, self.lengths, self.recorded):
            array.flags.writeable = False

    @classmethod
    def read(
        cls,
        path: str | Path,
        *,
        format: sources.Format | None = None,
        nonfinite: NonFinite = "error",
    ) -> Runs:
        """Read runs from a folder or a file, in whatever form they were logged.

        A folder is searched recursively, and a run is named by its relative path. Of what is there,
        the first of these is read, and `source` names the others:

        ``"store"``
            run directories that `training.MetricHook` wrote;
        ``"wandb"``
            the ``.wandb`` files of Weights & Biases, or a history exported from it;
        ``"huggingface"``
            the ``trainer_state.json`` of a Hugging Face Trainer: of the checkpoints of a run, that
            of the largest step;
        ``"lightning"``
            the ``metrics.csv`` of Lightning's CSVLogger;
        ``"tensorboard"``
            event files of TensorBoard;
        ``"tidy"``
            ``.csv``, ``.jsonl`` or ``.parquet`` files. With a column ``run``, a file is as
            `from_dataframe` takes it; without, it is one run. Long tables, which have the columns
            ``value`` and ``metric``, ``name``, ``key`` or ``tag``, are pivoted. Where no column is
            called ``step``, the step is ``global_step``, ``_step``, ``iter``, ``iteration``,
            ``Step`` or, for want of these, ``epoch``. NaN means missing;
        ``"checkpoints"``
            checkpoints, which are measured: see `training.checkpoints.measure`.

        Of logs other than the first and ``"tidy"``, what a trainer logs of its schedule and its
        speed (``learning_rate``, ``eval_runtime``) is kept for display.

        Parameters
        ----------
        path : str or Path
            The folder or the file.
        format : str, optional
            What to read, by one of the names above.
        nonfinite : {"error", "truncate", "missing"}
            What becomes of a metric that is infinite, or was logged as not a number: an error; the
            run is cut before that row, and marked as ``truncated`` in `attributes`; or the value
            counts as missing.

        Returns
        -------
        Runs

        Raises
        ------
        FileNotFoundError
            If there is nothing at `path`, or nothing in the folder that is known.
        ImportError
            If the format takes a library that is not installed; the message says how to get it.
        ValueError
            If the content is not what `from_dataframe` takes; the message names the file.

        Warns
        -----
        UserWarning
            If rows are not what was logged, since steps repeat, or not what they look like, as a
            mean over steps. One warning says it all, and `source` keeps it.
        """
        return cls._of(*sources.read(Path(path), format), nonfinite=nonfinite)

    @classmethod
    def from_dataframe(
        cls,
        df: pd.DataFrame,
        run: str = "run",
        step: str = "step",
        metrics: Iterable[str] | None = None,
        attributes: Iterable[str] | None = None,
        nonfinite: NonFinite = "error",
    ) -> Runs:
        """Take a tidy frame: a row per run and step, a column per metric.

        Rows of different runs may interleave; the steps of one run must increase. Of the columns
        that are constant within every run, those that are not numeric, those whose values differ
        between runs and ``seed`` are attributes of the run. Every other numeric column is a metric,
        except bookkeeping (``time``, ``epoch``, ``log/*``, ``opt/lr``), which is kept for display.

        Parameters
        ----------
        df : DataFrame
            The rows. NaN means missing.
        run, step : str
            The columns that tell the run and the training step of a row.
        metrics : iterable of str, optional
            The columns to model, in this order, whatever they look like. Other columns that are
            constant within every run are then attributes, and the rest is kept for display.
        attributes : iterable of str, optional
            Columns to take as attributes, whatever they look like.
        nonfinite : {"error", "truncate", "missing"}
            What becomes of an infinite metric; see `read`.

        Returns
        -------
        Runs

        Raises
        ------
        ValueError
            If a column is absent, a metric is not numeric or not finite, an attribute varies within
            a run, or the steps of a run repeat or decrease. The message names the run, the column
            and the mend.
        """
        rows = tidy.arrange(df, run, step, metrics, attributes)
        return cls._of(rows, nonfinite=nonfinite)

    @classmethod
    def _of(
        cls, rows: tidy.Tidy, source: sources.Source | None = None, *, nonfinite: NonFinite
    ) -> Runs:
        return cls(*tidy.settle(rows, nonfinite), source)

    def __len__(self) -> int:
        """Return the number of runs."""
        return len(self.names)

    @property
    def attributes(self) -> pd.DataFrame:
        """What is known of each run as a whole (seed, configuration, ...): a row per run.

        ``truncated`` tells whether the run was cut at a non-finite value.
        """
        return self._attributes.copy()

    @cached_property
    def values(self) -> NDArray[np.float64]:
        """The metrics, shape (N, T, D): NaN where missing and beyond the end of a run."""
        values = self.recorded[:, :, [self.columns.index(name) for name in self.metrics]]
        values.flags.writeable = False
        return values

    def column(self, name: str) -> NDArray[np.float64]:
        """Return one numeric column, a metric or not, shape (N, T).

        Raises
        ------
        ValueError
            If there is no such column; the message names the nearest ones.
        """
        tidy.chosen("column", name, self.columns)
        return self.recorded[:, :, self.columns.index(name)]

    def select(self, metrics: str | Iterable[str]) -> Runs:
        """Return the same runs with these metrics modelled, in this order.

        Any of `columns` may be chosen. The rest is kept for display.

        Raises
        ------
        ValueError
            If a name is unknown or repeated; the message names the nearest ones.
        """
        names = (metrics,) if isinstance(metrics, str) else tuple(metrics)
        for name in set(names).intersection(self._attributes.columns).difference(self.columns):
            raise ValueError(
                f"{name!r} is an attribute, constant within every run: to model it all the same, "
                "name it in Runs.from_dataframe(df, metrics=...)"
            )
        return replace(self, metrics=tidy.chosen("metric", names, self.columns))

    def subset(self, names: str | Iterable[str]) -> Runs:
        """Return some of the runs, in this order.

        Raises
        ------
        ValueError
            If a name is unknown or repeated (the message names the nearest ones), or none is given.
        """
        names = tidy.chosen("run", names, self.names)
        if not names:
            raise ValueError(f"no run chosen: name at least one of {tidy.listed(self.names)}")
        index = [self.names.index(name) for name in names]
        rows = slice(self.lengths[index].max())
        return replace(
            self,
            names=names,
            steps=self.steps[index, rows],
            lengths=self.lengths[index],
            recorded=self.recorded[index, rows],
            _attributes=self._attributes.iloc[index],
        )

    @property
    def step_gap(self) -> int | None:
        """The number of steps between neighbouring rows; None if it varies or no run has two."""
        gaps = np.unique(np.diff(self.steps)[self.steps[:, 1:] >= 0])
        return int(gaps[0]) if len(gaps) == 1 else None

    def to_dataframe(self) -> pd.DataFrame:
        """Return the tidy rows: ``run``, ``step``, the metrics, then the other numeric columns.

        The attributes are left out; ``runs.to_dataframe().join(runs.attributes, on="run")`` adds
        them.
        """
        within = self.steps >= 0
        others = [name for name in self.columns if name not in self.metrics]
        rows = pd.DataFrame(self.recorded[within], columns=list(self.columns))
        rows = rows[[*self.metrics, *others]]
        rows.insert(0, "run", np.repeat(self.names, self.lengths))
        rows.insert(1, "step", self.steps[within])
        return rows

    def summary(self) -> pd.DataFrame:
        """Return a row per run: rows, first and last step, step gap, missing values, truncated.

        ``step_gap`` is missing where it varies within the run; ``missing`` counts the values that
        the metrics lack.
        """
        within = self.steps >= 0
        gaps = np.where(within[:, 1:], np.diff(self.steps), np.nan)
        low = np.fmin.reduce(gaps, axis=1, initial=np.nan)
        high = np.fmax.reduce(gaps, axis=1, initial=np.nan)
        return pd.DataFrame(
            {
                "rows": self.lengths,
                "first_step": self.steps[:, 0],
                "last_step": self.steps.max(axis=1),
                "step_gap": pd.array(np.where(low == high, low, np.nan), dtype="Int64"),
                "missing": (np.isnan(self.values) & within[:, :, None]).sum(axis=(1, 2)),
                "truncated": self._attributes["truncated"],
            },
            index=self._attributes.index,
        )

    def check_modelled(self) -> None:
        """Check that the chosen metrics of these runs can be modelled.

        Raises
        ------
        ValueError
            If there is no metric or more than 20, a run has one row or lacks a metric altogether, a
            metric never changes within any run. The message names the run, the metric and the mend.
        """
        if not 1 <= len(self.metrics) <= MODELLED_AT_MOST:
            raise ValueError(
                f"{len(self.metrics)} metrics to model: choose 1 to {MODELLED_AT_MOST} with "
                f"runs.select([...]) from {tidy.listed(self.columns)}"
            )
        if (self.lengths < 2).any():
            name = self.names[(self.lengths < 2).argmax()]
            raise ValueError(f"run {name!r} has one row: leave it out with runs.subset([...])")
        low = np.fmin.reduce(self.values, axis=1)
        high = np.fmax.reduce(self.values, axis=1)
        for absent, metric in zip(np.isnan(low).T, self.metrics, strict=True):
            if absent.all():
                raise ValueError(
                    f"metric {metric!r} is missing in every run: leave it out with "
                    "runs.select([...])"
                )
            if absent.any():
                raise ValueError(
                    f"run {self.names[absent.argmax()]!r}: metric {metric!r} is never recorded: "
                    "leave out the run with runs.subset([...]) or the metric with "
                    "runs.select([...])"
                )
        for constant, metric in zip((low == high).all(axis=0), self.metrics, strict=True):
            if constant:
                raise ValueError(
                    f"metric {metric!r} is constant within every run: leave it out with "
                    "runs.select([...]); if it is a setting of the run, name it in "
                    "Runs.from_dataframe(df, attributes=...)"
                )

    def uneven_spacing(self) -> str | None:
        """Name the first two rows that are not as far apart as most are; None if there are none."""
        if self.step_gap is not None or (self.lengths < 2).all():
            return None
        gaps, within = np.diff(self.steps), self.steps[:, 1:] >= 0
        sizes, counts = np.unique(gaps[within], return_counts=True)
        usual = sizes[counts.argmax()]
        run, row = np.argwhere(within & (gaps != usual))[0]
        return (
            f"run {self.names[run]!r}: the rows of steps {self.steps[run, row]} and "
            f"{self.steps[run, row + 1]} are not {usual} steps apart, as most rows are"
        )

    def __repr__(self) -> str:
        every = "" if self.step_gap is None else f" every {self.step_gap}"
        shortest, longest = self.lengths.min(), self.lengths.max()
        rows = f"{longest}" if shortest == longest else f"{shortest} to {longest}"
        others = [name for name in self.columns if name not in self.metrics]
        parts = {
            "runs": self.names,
            "metrics": self.metrics,
            "for display": others,
            "attributes": list(self._attributes.columns),
        }
        left_out = self.source.left_out if self.source else ()
        return "\n".join(
            [
                f"Runs: {len(self)} of {rows} rows, steps {self.steps[:, 0].min()} to "
                f"{self.steps.max()}{every}",
                *(f"  {part}: {tidy.listed(held)}" for part, held in parts.items() if held),
                *([f"  source: {self.source}"] if self.source else []),
                *(f"    {note}" for note in sources.shortened(left_out)),
            ]
        )

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>{self.summary().to_html(max_rows=10)}"
