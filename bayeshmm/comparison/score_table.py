"""The scores of models side by side."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from bayeshmm.comparison import choice
from bayeshmm.comparison.choice import Key
from bayeshmm.comparison.scoring import FEWEST_RUNS, Candidate, per_row
from bayeshmm.runs import Runs


def score_table(runs: Runs, candidates: Mapping[Key, Candidate]) -> pd.DataFrame:
    """Scores of all candidates, a row each: see `bayeshmm.Comparison`."""
    rows_per_run = runs.lengths.astype(float)
    total = rows_per_run.sum()
    scores = {key: one.held_out for key, one in candidates.items()}
    best = max(scores, key=lambda key: np.nan_to_num(scores[key].sum(), nan=-np.inf))
    records = []
    for one in candidates.values():
        elpd, elpd_se = per_row(one.held_out, rows_per_run)
        difference, diff_se = per_row(one.held_out - scores[best], rows_per_run)
        share = one.mode.states.sum((0, 1)) / total
        records.append(
            {
                "elbo": one.elbo,
                "elpd": elpd,
                "elpd_se": elpd_se,
                "elpd_diff": difference,
                "diff_se": diff_se,
                "step_ahead": one.ahead,
                "bic": one.bic,
                **one.residuals._asdict(),
                "agreement": _restart_agreement(one.restarts),
                "smallest_share": float(share.min()),
            }
        )
    index = pd.MultiIndex.from_tuples(candidates, names=["emission", "states"])
    table = pd.DataFrame(records, index=index)
    score = choice.deciding(table)
    top = table[score].groupby("emission").transform("max") == table[score]
    counts = table.index.get_level_values("states")
    table["edge"] = top & ((counts == counts.max()) | (counts == counts.min()) & (counts > 1))
    table.attrs["units"] = (
        "elpd, elpd_se, elpd_diff, diff_se and step_ahead are in nats per row, in the units of "
        "the data as given; elbo and bic are in nats, for all runs."
    )
    if score != "elpd":
        table.attrs["elpd"] = (
            f"with {len(runs)} runs, fewer than {FEWEST_RUNS}, none can be held out, so elpd is NaN"
        )
    return table


def _restart_agreement(restarts: pd.DataFrame) -> float:
    """Mean agreement with the best of the starts that were followed longest, the best aside."""
    starts = restarts[restarts["start"] >= 0]
    longest = starts["sweeps"] == starts["sweeps"].max()
    others = starts[longest].drop(index=0, errors="ignore")
    return float(others["agreement"].mean()) if len(others) else 1.0
