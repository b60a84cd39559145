"""Saving and loading a posterior: one netCDF file, nothing in it is ever executed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from bayeshmm.emissions.conjugate import NormalInverseGamma
from bayeshmm.emissions.families import Autoregressive, Emission, Gaussian
from bayeshmm.emissions.law import Law
from bayeshmm.emissions.regression import Precisions, Shrinkage
from bayeshmm.encoding import Encoding
from bayeshmm.hmm import HMM
from bayeshmm.inference.gibbs import Draws
from bayeshmm.inference.variational import Entry, Parameters, VariationalFit
from bayeshmm.posterior import Posterior
from bayeshmm.runs import Runs
from bayeshmm.scaling import Scaling
from bayeshmm.transitions import (
    Calendar,
    Chain,
    Counts,
    Dirichlet,
    Grouped,
    Hyper,
    LeftToRight,
    StickyHDP,
    Transition,
)

SCHEMA = 2
"""Version of the file's layout."""

GROUP = "bayeshmm"
"""netCDF group of what the posterior computes on; the other groups are ArviZ's own."""

FAMILIES: dict[str, type] = {"Gaussian": Gaussian, "Autoregressive": Autoregressive}
"""Families that a file can name."""

TRANSITIONS: dict[str, type] = {
    kind.__name__: kind for kind in (Dirichlet, LeftToRight, StickyHDP, Grouped)
}
"""Structures of transitions that a file can name."""


def save(posterior: Posterior, path: str | Path) -> None:
    """Write `posterior` to `path`; see `Posterior.save`.

    ``arviz.from_netcdf(path)`` reads the draws from the same file.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {str(path.parent)!r} does not exist: make it first.")
    fit, scaling = posterior.variational, posterior.encoding.scaling
    arrays: dict[str, np.ndarray] = {
        "runs.steps": posterior.runs.steps,
        "runs.lengths": posterior.runs.lengths,
        "runs.recorded": posterior.runs.recorded,
        "scaling.mean": scaling.mean,
        "scaling.sd": scaling.sd,
        "scaling.increment": scaling.increment,
        "scaling.resolution": scaling.resolution,
        "scaling.order": scaling.order,
        "scaling.gap": np.array(scaling.gap),
        "feature_scale": posterior.encoding.feature_scale,
        "states": fit.states.numpy(),
        "paths": posterior.paths,
        "losses": posterior.losses,
    }
    if scaling.gap_exponent is not None:
        arrays["scaling.gap_exponent"] = scaling.gap_exponent
    trees: dict[str, Any] = {
        "parameters": fit.parameters,
        "counts": fit.counts,
        "law": posterior.draws.law,
        "precisions": posterior.draws.precisions,
        "chain": posterior.draws.chain,
        "hyper": posterior.draws.hyper,
    }
    if fit.entry is not None:
        trees |= {"entry.regression": fit.entry.regression, "entry.shrinkage": fit.entry.shrinkage}
    for name, tree in trees.items():
        arrays |= dict(_leaves(name, tree))
    family = posterior.hmm.family
    header = {
        "schema": SCHEMA,
        "inference": posterior.inference,
        "seed": posterior.seed,
        "state_names": posterior.state_names,
        "palette": posterior.palette,
        "names": posterior.runs.names,
        "metrics": posterior.runs.metrics,
        "columns": posterior.runs.columns,
        "attributes": _columns(posterior.runs.attributes),
        "floors": dict(scaling.floors),
        "states": posterior.states,
        "minimum_dwell": posterior.hmm.minimum_dwell,
        "transition": _settings(posterior.hmm.transition),
        "calendar": asdict(posterior.encoding.calendar),
        "emission": {
            "family": type(family).__name__,
            "settings": asdict(family) if type(family).__name__ in FAMILIES else {},  # type: ignore[call-overload]
        },
        "bound": fit.bound,
        "entry_bound": None if fit.entry is None else float(fit.entry.bound),
        "chains": posterior.draws.chains,
        "restarts": _columns(posterior.restarts),
        "diagnostics": {key: _plain(value) for key, value in posterior.diagnostics.items()},
    }
    dataset = xr.Dataset(
        {
            name: (tuple(f"{name}_{i}" for i in range(array.ndim)), array)
            for name, array in arrays.items()
        },
        attrs={"header": json.dumps(header)},
    )
    posterior.idata.to_netcdf(str(path), engine="h5netcdf")  # type: ignore[attr-defined]
    dataset.to_netcdf(path, mode="a", group=GROUP, engine="h5netcdf")


def load(path: str | Path, emission: Emission | None = None) -> Posterior:
    """Read a posterior that `Posterior.save` wrote.

    Parameters
    ----------
    path
        The file.
    emission
        The family, where it is not one of this package's own.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a saved posterior, is of a later schema, or names a family of which
        `emission` must be given.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r}.")
    try:
        with xr.open_dataset(path, group=GROUP, engine="h5netcdf") as opened:
            header = json.loads(opened.attrs["header"])
            arrays = {str(name): variable.values for name, variable in opened.items()}
        schema = header["schema"]
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{str(path)!r} is not a saved posterior ({error}).") from error
    if schema != SCHEMA:
        mend = "install a later bayeshmm" if schema > SCHEMA else "fit the runs in it again"
        raise ValueError(
            f"{str(path)!r} has schema {schema}, and this version reads {SCHEMA}: {mend}."
        )
    described = header["transition"]
    hmm = HMM(
        header["states"],
        emission or _family(header["emission"], path),
        TRANSITIONS[described["kind"]](**described["settings"]) if described else None,
        header["minimum_dwell"],
    )
    runs = Runs(
        names=tuple(header["names"]),
        metrics=tuple(header["metrics"]),
        columns=tuple(header["columns"]),
        steps=arrays["runs.steps"],
        lengths=arrays["runs.lengths"],
        recorded=arrays["runs.recorded"],
        _attributes=_frame(header["attributes"]).set_axis(pd.Index(header["names"], name="run")),
    )
    scaling = Scaling(
        metrics=runs.metrics,
        floors=header["floors"],
        gap=float(arrays["scaling.gap"]),
        gap_exponent=arrays.get("scaling.gap_exponent"),
        **{
            part: arrays[f"scaling.{part}"]
            for part in ("mean", "sd", "increment", "resolution", "order")
        },
    )
    calendar = Calendar(**header["calendar"])
    prior = hmm.prior(runs, calendar)
    entry = None
    if prior.entry is not None:
        entry = Entry(
            prior.entry,
            _tree(NormalInverseGamma, "entry.regression", arrays),
            _tree(Shrinkage, "entry.shrinkage", arrays),
            torch.tensor(header["entry_bound"], dtype=torch.float64),
        )
    return Posterior(
        runs=runs,
        hmm=hmm,
        inference=header["inference"],
        restarts=_frame(header["restarts"]),
        diagnostics=pd.Series(
            {k: float("nan") if v is None else v for k, v in header["diagnostics"].items()},
            dtype=object,
        ),
        encoding=Encoding(hmm.family, scaling, arrays["feature_scale"], calendar),
        mode=VariationalFit(
            prior,
            _tree(Parameters, "parameters", arrays),
            entry,
            torch.from_numpy(arrays["states"]),
            _tree(Counts, "counts", arrays),
            header["bound"],
        ),
        draws=Draws(
            _tree(Law, "law", arrays),
            _tree(Precisions, "precisions", arrays),
            _tree(Chain, "chain", arrays),
            _values("hyper", arrays),
            arrays["paths"],
            header["chains"],
        ),
        seed=header["seed"],
        state_names=tuple(header["state_names"]),
        palette=tuple(header.get("palette", ())),  # files from before it have the first colours
        losses=arrays["losses"],
    )


def _leaves(name: str, tree: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Arrays of nested named tuples, by dotted name; parts that are None are left out."""
    if isinstance(tree, Tensor):
        yield name, tree.contiguous().numpy()
    elif isinstance(tree, dict):
        for part, values in tree.items():
            yield from _leaves(f"{name}.{part}", values)
    elif tree is not None:
        for part in tree._fields:
            yield from _leaves(f"{name}.{part}", getattr(tree, part))


def _tree(kind: type, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """Put nested named tuples together again; parts that were None are absent."""
    parts: list[Any] = []
    for part, hint in get_type_hints(kind).items():
        place = f"{name}.{part}"
        nested = [kind for kind in (hint, *get_args(hint)) if hasattr(kind, "_fields")]
        if not any(known == place or known.startswith(f"{place}.") for known in arrays):
            parts.append(None)
        elif hint == Hyper:
            parts.append(_values(place, arrays))
        elif nested:
            parts.append(_tree(nested[0], place, arrays))
        else:
            parts.append(torch.from_numpy(arrays[place]))
    return kind(*parts)


def _values(name: str, arrays: dict[str, np.ndarray]) -> Hyper:
    """A dictionary of tensors by dotted name."""
    return {
        known.removeprefix(f"{name}."): torch.from_numpy(array)
        for known, array in arrays.items()
        if known.startswith(f"{name}.")
    }


def _settings(transition: Transition | None) -> dict[str, Any] | None:
    """What makes the transitions again."""
    if transition is None:
        return None
    if type(transition).__name__ not in TRANSITIONS:
        raise ValueError(f"{transition!r} is not of this package: its posterior cannot be saved.")
    return {"kind": type(transition).__name__, "settings": asdict(transition)}  # type: ignore[call-overload]


def _family(described: dict[str, Any], path: Path) -> Emission:
    if described["family"] not in FAMILIES:
        raise ValueError(
            f"{str(path)!r} was fitted with the family {described['family']!r}, which is not one "
            "of this package: pass it, load(path, emission=...)."
        )
    return FAMILIES[described["family"]](**described["settings"])


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def _columns(frame: pd.DataFrame) -> dict[str, Any]:
    """Columns of a table, with their types; JSON keeps every digit."""
    return {
        str(name): (str(column.dtype), [_plain(value) for value in column.astype(object)])
        for name, column in frame.items()
    }


def _frame(columns: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(
        {name: pd.Series(values, dtype=kind) for name, (kind, values) in columns.items()}
    )
