"""What all pictures share: a phase has one colour everywhere, whatever the number of phases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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


def phase_colours(palette: int | Iterable[int]) -> list[str]:
    """Colours of the phases with these numbers, `Posterior.palette`; an int K: of the first K.

    Colour-blind-safe up to 12 phases; from there on colours repeat, told apart by `phase_hatches`.
    """
    return [_PALETTE[k % len(_PALETTE)] for k in _numbers(palette)]


def phase_hatches(palette: int | Iterable[int]) -> list[str]:
    """Hatches of these phases: none for the first 12 numbers, then one for each time round."""
    return ["/" * 3 * (k // len(_PALETTE)) for k in _numbers(palette)]


def phase_patches(names: Sequence[str], palette: Iterable[int] | None = None) -> list[Patch]:
    """Legend handles of the phases; default: of the first ones."""
    numbers = list(_numbers(len(names) if palette is None else palette))
    return [
        Patch(facecolor=colour, hatch=hatch, edgecolor="white", linewidth=0, label=name)
        for colour, hatch, name in zip(
            phase_colours(numbers), phase_hatches(numbers), names, strict=True
        )
    ]


def _numbers(palette: int | Iterable[int]) -> Iterable[int]:
    return range(palette) if isinstance(palette, int) else palette
