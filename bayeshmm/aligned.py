"""Posteriors that speak of the same phases: across restarts, numbers of phases and data sets.

A phase is where it *is*: states of two posteriors are matched on the rows that both claim, never
on parameters, which differ from family to family. See `bayeshmm.alignment`.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import NamedTuple, TypeVar, overload

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayeshmm.alignment import overlap, phase_numbers
from bayeshmm.decoding import state_paths
from bayeshmm.phases import modal_path
from bayeshmm.posterior import Posterior
from bayeshmm.relabelling import movable, relabelled
from bayeshmm.runs import Runs

Array = NDArray[np.float64]
Key = TypeVar("Key", bound=Hashable)


@overload
def align(
    posteriors: Sequence[Posterior], reference: Posterior | None = ...
) -> list[Posterior]: ...
@overload
def align(
    posteriors: Mapping[Key, Posterior], reference: Posterior | None = ...
) -> dict[Key, Posterior]: ...
def align(
    posteriors: Sequence[Posterior] | Mapping[Key, Posterior], reference: Posterior | None = None
) -> list[Posterior] | dict[Key, Posterior]:
    """Give each phase one name, one colour and one place in all posteriors.

    Two states are one phase if they have the same rows: those where each is the most probable, in
    the runs that both posteriors were fitted to; without such runs, in the runs of both, each
    posterior being applied to those of the other. All of a posterior's states are matched at once,
    so that the most rows agree (Hungarian algorithm), from the reference outwards by number of
    phases: see `bayeshmm.alignment.phase_numbers`.

    Parameters
    ----------
    posteriors
        From other seeds, with other numbers of phases, families or metrics, or of other runs.
    reference
        The posterior whose names, colours and order the others take. Default: the first.

    Returns
    -------
    list or dict
        As `posteriors`. A phase that the reference does not have keeps its name and colour where
        they are free, has new ones otherwise, and comes after the others. States that have an order
        of their own (`LeftToRight`), and those of a user's own emission, keep their places.

    Raises
    ------
    ValueError
        If two posteriors have no run in common and neither sees metrics that the other's runs have.
    """
    if isinstance(posteriors, Mapping):
        return dict(zip(posteriors, align(list(posteriors.values()), reference), strict=True))
    aligned = []
    for one, match in _matches(posteriors, reference):
        order = np.argsort(match.number, kind="stable")
        if not movable(one):
            order = np.arange(one.states)
        moved = one if (order == np.arange(one.states)).all() else relabelled(one, order)
        names, palette = (tuple(part[k] for k in order) for part in (match.names, match.palette))
        aligned.append(replace(moved, state_names=names, palette=palette))
    return aligned


def alignment_table(
    posteriors: Sequence[Posterior] | Mapping[Key, Posterior], reference: Posterior | None = None
) -> pd.DataFrame:
    """Which phase of each posterior is which of the reference, and how well they agree.

    Parameters
    ----------
    posteriors, reference
        As for `align`, before or after it.

    Returns
    -------
    DataFrame
        A row per posterior (its place or key) but the reference, and phase of either: ``posterior,
        phase`` (its name in all of them), ``state`` (its name in this one; missing where it has no
        such phase), and in shares of the rows that are compared ``reference`` and ``own`` (the rows
        that each gives it), ``shared`` (that both do) and ``agreement`` (``shared`` over the rows
        that either does).
    """
    keys = list(posteriors) if isinstance(posteriors, Mapping) else range(len(posteriors))
    members = list(posteriors.values()) if isinstance(posteriors, Mapping) else posteriors
    anchor = members[0] if reference is None else reference
    records = []
    for key, (one, match) in zip(keys, _matches(members, reference), strict=True):
        if one is anchor:
            continue
        rows = shared_rows(anchor, one)
        rows = rows / rows.sum()
        for name in dict.fromkeys([*anchor.state_names, *match.names]):
            there, here = (
                [k for k, other in enumerate(names) if other == name]
                for names in (anchor.state_names, match.names)
            )
            reference_share, own = rows[there].sum(), rows[:, here].sum()
            shared = rows[np.ix_(there, here)].sum()
            either = reference_share + own - shared
            records.append(
                {
                    "posterior": key,
                    "phase": name,
                    "state": one.state_names[here[0]] if here else None,
                    "reference": reference_share,
                    "own": own,
                    "shared": shared,
                    "agreement": shared / either if either > 0 else np.nan,
                }
            )
    return pd.DataFrame(records)


def shared_rows(one: Posterior, other: Posterior) -> Array:
    """Rows that each pair of states shares, each row given to its most probable state.

    Returns
    -------
    ndarray, (K, L)
        Over the runs that both were fitted to; without one, over those of both that the metrics of
        both are known of.

    Raises
    ------
    ValueError
        If there are none.
    """
    names = runs_of_both(one.runs, other.runs)
    if names:
        pairs = [(one.runs.subset(names), other.runs.subset(names))]
    else:
        seen = {*one.metrics, *other.metrics}
        pairs = [(runs, runs) for runs in (one.runs, other.runs) if seen <= set(runs.columns)]
    if not pairs:
        lacking = sorted(seen - (set(one.runs.columns) & set(other.runs.columns)))
        raise ValueError(
            "the posteriors have no run in common, and neither can be applied to the runs of the "
            f"other, which lack {', '.join(map(repr, lacking))}: fit both to metrics that all runs "
            "have."
        )
    return np.sum([overlap(_most_probable(one, a), _most_probable(other, b)) for a, b in pairs], 0)


class _Match(NamedTuple):
    """What the states of a posterior are."""

    number: NDArray[np.int64]  # of the phase, in all posteriors
    names: list[str]
    palette: list[int]


def _matches(
    posteriors: Sequence[Posterior], reference: Posterior | None
) -> Iterator[tuple[Posterior, _Match]]:
    """Each posterior, and the phases that its states are."""
    if not len(posteriors):
        return
    anchor = posteriors[0] if reference is None else reference
    fits = [anchor, *(one for one in posteriors if one is not anchor)]
    numbers = phase_numbers(
        [one.states for one in fits], lambda i, j: shared_rows(fits[i], fits[j])
    )
    phases = dict(enumerate(zip(anchor.state_names, anchor.palette, strict=True)))
    matches = {}
    for one, number in zip(fits, numbers, strict=True):
        for k, phase in enumerate(number.tolist()):
            if phase not in phases:
                phases[phase] = _unused(one.state_names[k], one.palette[k], phases.values())
        names, palette = zip(*(phases[phase] for phase in number.tolist()), strict=True)
        matches[id(one)] = _Match(number, list(names), list(palette))
    for one in posteriors:
        yield one, matches[id(one)]


def _unused(name: str, colour: int, phases: Collection[tuple[str, int]]) -> tuple[str, int]:
    """A name and a colour for a phase that no other has: these, if they are free."""
    names, colours = zip(*phases, strict=True)
    if colour in colours:
        colour = next(other for other in count() if other not in colours)
    if name in names:
        name = f"phase {colour}"
    while name in names:
        name += "'"
    return name, colour


def runs_of_both(first: Runs, second: Runs) -> list[str]:
    """Names of the runs that are in both: the same steps, and values in all columns of both."""
    columns = [name for name in first.columns if name in second.columns]
    names = [name for name in first.names if name in second.names]
    frames = [
        runs.subset(names).to_dataframe().set_index("run")[["step", *columns]]
        for runs in (first, second)
        if names
    ]
    return [name for name in names if frames[0].loc[[name]].equals(frames[1].loc[[name]])]


def _most_probable(posterior: Posterior, runs: Runs) -> Array:
    """The most probable state of every row of `runs`, (N, T, K) of zeros and ones."""
    path = modal_path(state_paths(posterior, posterior.modelled(runs)))
    return (path[..., None] == np.arange(posterior.states)).astype(np.float64)
