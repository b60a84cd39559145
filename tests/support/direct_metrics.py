"""The metrics of ``"core"``, computed from whole tensors in float64 by numpy."""

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def core(
    weights: Mapping[str, Floats],
    gradients: Mapping[str, Floats],
    moves: Mapping[str, Floats],
    include: Collection[str] = (),
) -> dict[str, float]:
    """Return the metrics by key; `moves` are the updates of one step."""
    row = {}
    for group in ["_all", *include]:
        w, g, u = (_flat(arrays, group) for arrays in (weights, gradients, moves))
        norm = np.sqrt((w**2).sum())
        if w.any():
            row[f"weight/{group}/log_l2"] = np.log(norm)
            row[f"weight/{group}/l1_l2"] = abs(w).sum() / norm
        row[f"weight/{group}/mean"] = w.mean()
        row[f"weight/{group}/std"] = w.std()
        if g.any():
            row[f"grad/{group}/log_l2"] = np.log(np.sqrt((g**2).sum()))
        if u.any():
            row[f"update/{group}/log_ratio"] = np.log(np.sqrt((u**2).sum()) / norm)
    return row


def _flat(arrays: Mapping[str, Floats], group: str) -> Floats:
    chosen = [array for name, array in arrays.items() if group in ("_all", name)]
    return np.concatenate([np.zeros(0), *(array.ravel() for array in chosen)])
