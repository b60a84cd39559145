"""What a reader of other people's logs returns."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd


class Imported(NamedTuple):
    """The runs of a source, before they are checked and arranged.

    Attributes
    ----------
    rows : DataFrame
        A row per run and step, the steps of a run increasing: ``run`` (str), ``step`` (training
        steps) and one float64 column per metric. NaN means missing; a value that was logged and is
        not finite, NaN included, is infinite.
    attributes : DataFrame
        What is known of each run as a whole: a row per run, indexed by its name.
    left_out : tuple of str
        What the source holds and the rows do not, and what the rows are not what they look like, in
        words for the user: ``"12 images (tags 'samples/*')"``,
        ``"'loss' is the mean since the last row, not the value at its step"``.
    """

    rows: pd.DataFrame
    attributes: pd.DataFrame
    left_out: tuple[str, ...] = ()


def one_row_a_step(logged: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Merge the rows that a run logged at the same step.

    Parameters
    ----------
    logged : DataFrame
        Rows in the order of writing: ``run``, ``step`` and metrics, NaN where a row has none.

    Returns
    -------
    rows : DataFrame
        A row per run and step, by step, the runs in the order of their first appearance. Of several
        values of a metric at one step the last written counts.
    replaced : int
        How many values a later and different one has taken the place of.
    """
    keys = [logged["run"], logged["step"]]
    grouped = logged.groupby(["run", "step"], sort=False)
    rows = grouped.last().reset_index()  # of every metric the last that is not missing
    order = pd.factorize(rows["run"])[0]
    rows = rows.iloc[np.lexsort((rows["step"], order))].reset_index(drop=True)
    values = logged.drop(columns=["run", "step"])
    # a value is replaced where the next one of its run, step and metric is there and differs
    later = values.groupby(keys, sort=False).bfill().groupby(keys, sort=False).shift(-1)
    return rows, int((values.notna() & later.notna() & (values != later)).to_numpy().sum())
