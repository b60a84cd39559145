"""What all pictures share: a phase has one colour everywhere, whatever the number of phases."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.patches import Patch

# Okabe and Ito (2008) without black, then four more: pairwise distances in CIELAB stay above 16
# in normal vision and under simulated deuteranopia, protanopia and tritanopia.
_PALETTE = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442"),
    *("#882255", "#3B0F70", "#A6D96A", "#6B3E00", "#F4B6D2"),
)
INK = "#333333"
MUTED = "#6B6B6B"  # text that steps back, still legible
FAINT = "#9A9A9A"  # lines


def phase_colours(K: int) -> list[str]:
    """Colours of the first K phases; phase k has the same one for every K.

    Colour-blind-safe up to 12 phases; from there on colours repeat, told apart by `phase_hatches`.
    """
    return [_PALETTE[k % len(_PALETTE)] for k in range(K)]


def phase_hatches(K: int) -> list[str]:
    """Hatches of the first K phases: none for the first 12, then one for each time round."""
    return ["/" * 3 * (k // len(_PALETTE)) for k in range(K)]


def phase_patches(names: Sequence[str]) -> list[Patch]:
    """Legend handles of the phases."""
    K = len(names)
    return [
        Patch(facecolor=colour, hatch=hatch, edgecolor="white", linewidth=0, label=name)
        for colour, hatch, name in zip(phase_colours(K), phase_hatches(K), names, strict=True)
    ]
