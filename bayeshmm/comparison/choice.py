"""Which number of phases, in which family, and what speaks against it, in words."""

from __future__ import annotations

import numpy as np
import pandas as pd

from bayeshmm import defaults

Key = tuple[str, int]

AUTOCORRELATED = 0.3
"""Lag-1 autocorrelation of residuals from which on rows are not explained."""

AGREE = 0.9
"""Agreement of the restarts below which another search may find other phases."""

RARE = 0.01
"""Share of the rows below which a phase is hardly there."""

RISING = 0.01
"""Share of a family's whole gain that its last state must bring to be called rising."""

SCORES = {"elpd": "held-out", "step_ahead": "one-step-ahead"}
"""What the scores that can decide are called."""


def deciding(table: pd.DataFrame) -> str:
    """The column that decides: ``elpd``, or ``step_ahead`` with too few runs."""
    return "step_ahead" if table["elpd"].isna().all() else "elpd"


def choose(table: pd.DataFrame, metrics: int, tolerance: float | None = None) -> Key:
    """The family with the best score, and the smallest number of states that is good enough.

    Good enough is within max(one paired standard error, `tolerance`) of the family's best. Another
    family that makes do with fewer states, and with them scores the same to within
    `defaults.TIE_PER_METRIC`, takes its place: three levels that slice a trend are no better than
    one law of motion.

    Parameters
    ----------
    table
        Of the comparison.
    metrics
        Number of metrics that the models see.
    tolerance
        Nats per row; default: each family's `usual_tolerance`.
    """
    score, best = deciding(table), best_family(table)
    tie = defaults.TIE_PER_METRIC * metrics
    tie = tie if tolerance is None else min(tie, tolerance)
    own: dict[str, tuple[int, float]] = {}
    for emission in table.index.unique(0):
        family = table.xs(emission, level=0).sort_index()
        allowed = usual_tolerance(family[score], metrics) if tolerance is None else tolerance
        # the standard errors are of differences from the best score
        error = family["diff_se"].fillna(0.0) if emission == best else 0.0
        enough = family[score] >= family[score].max() - np.fmax(error, allowed)
        states = family.index[enough].min()
        own[emission] = int(states), float(family.loc[states, score])
    rivals = [emission for emission in own if own[emission][1] >= own[best][1] - tie]
    chosen = min(rivals, key=lambda e: (own[e][0], e != best, -own[e][1]))
    return chosen, own[chosen][0]


def best_family(table: pd.DataFrame) -> str:
    """The family with the best score."""
    emission, _ = list(table.index)[int(table[deciding(table)].argmax())]
    return str(emission)


def usual_tolerance(scores: pd.Series[float], metrics: int) -> float:
    """Nats per row that the states are worth together which are not worth their price.

    A state costs a share of what all states are worth together, and no less than a floor for each
    metric: see `bayeshmm.defaults`. The score less the price of all states is highest at the number
    from which on more are not worth it; what they add all the same is the tolerance.

    Parameters
    ----------
    scores
        Of one family, by number of states in ascending order.
    metrics
        Number of metrics that the models see.
    """
    enough = int((scores - price(scores, metrics) * scores.index.to_numpy(dtype=float)).argmax())
    return float(scores.max() - scores.iloc[enough]) * (1.0 + 1e-9)  # that state included


def price(scores: pd.Series[float], metrics: int) -> float:
    """Nats per row that a state must be worth: see `usual_tolerance`."""
    worth = float(scores.max() - scores.iloc[0])
    return max(defaults.PRICE_PER_METRIC * metrics, defaults.PRICE_SHARE * worth)


def reason(table: pd.DataFrame, key: Key, metrics: int, tolerance: float | None = None) -> str:
    """Why the model is chosen: see `choose`."""
    score, (emission, states) = deciding(table), key
    family = table[score].xs(emission, level=0).sort_index()
    top, what = family.idxmax(), SCORES[score]
    if top == states:
        return f"the best {what} log density, {family.max():.2f} nats a row"
    gap = family.max() - family.loc[states]
    if gap > (usual_tolerance(family, metrics) if tolerance is None else tolerance):
        why = "within one standard error"
    elif tolerance is None:
        why = f"less than the {price(family, metrics):.2g} that each further state must be worth"
    else:
        why = f"within the tolerance of {tolerance:.2g}"
    return f"{top} states have the best {what} log density, {gap:.2g} nats a row higher, {why}"


def remarks(table: pd.DataFrame, key: Key, tie: float) -> list[str]:
    """What a reader of the table should not miss, a sentence each."""
    emission, states = key
    row = table.xs(emission, level=0).loc[states]
    said = _of_families(table, emission, tie) + doubts(table, key)
    if row["agreement"] < AGREE:
        said.append(
            f"Restarts with {states} states disagree (they share {row['agreement']:.0%} of the "
            "rows): other phases predict nearly as well. Raise restarts, or read fewer states."
        )
    if states > 1 and row["smallest_share"] < RARE:
        said.append(f"The rarest phase has {row['smallest_share']:.1%} of the rows.")
    return said


def doubts(table: pd.DataFrame, key: Key) -> list[str]:
    """Those of the remarks that put the choice itself in doubt."""
    emission, states = key
    family = table.xs(emission, level=0)
    row, said = family.loc[states], []
    if deciding(table) != "elpd":
        said.append(
            f"{table.attrs['elpd']}: the choice of {states} states rests on how well the last "
            "third of the rows is predicted from the rest. Log more runs."
        )
    if row["autocorrelation"] > AUTOCORRELATED:
        said.append(
            f"The residuals of {emission} with {states} states are autocorrelated "
            f"({row['autocorrelation']:.2f} from one row to the next): the family, not the number "
            "of states, is the problem. States of levels that slice a trend leave this mark; "
            "compare emission='autoregressive', or Autoregressive(half_lives=...)."
        )
    if states == family.index.max() and len(family) > 1:
        said.append(f"{states} states, the most that were compared, are chosen: compare more.")
    return said


def _of_families(table: pd.DataFrame, chosen: str, tie: float) -> list[str]:
    """How the other families fare, and whether they ask for ever more states."""
    scores, said = table[deciding(table)], []
    for emission in table.index.unique(0):
        own = scores.xs(emission, level=0).sort_index()
        worse, top = scores.max() - own.max(), own.idxmax()
        if emission == chosen or worse <= tie:
            continue
        told = f"{emission} predicts {worse:.2f} nats a row worse, even with {top} states"
        gain = own.max() - own.drop(top).max()
        if len(own) > 1 and top == own.index.max() and gain > RISING * (own.max() - own.min()):
            told += ", and still gains: the family, not the number of states, is the problem there"
        said.append(f"{told}.")
    return said
