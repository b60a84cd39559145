"""The graph of phases that runs move through.

Phases stand in a row, in order of first visit. A change to the next phase is a straight arrow;
jumps ahead run above the row and returns below it, in different lanes where they overlap. Lines
enter and leave a phase near its middle, labels lie between phases: no label can meet a line or
another label, whatever the graph.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.font_manager import FontProperties
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from matplotlib.textpath import TextPath

from bayeshmm.alignment import display_order
from bayeshmm.phases import edge_usage, state_occupancy
from bayeshmm.plots.style import FAINT, INK, MUTED, phase_colours, phase_hatches

if TYPE_CHECKING:
    from bayeshmm.posterior import Posterior

# Lengths are in points, at a scale of 1.
_NAME_SIZE, _TEXT_SIZE, _LINE = 8.5, 7.0, 9.0
_WIDTH, _LEAST_STEP, _WIDEST_STEP = 576.0, 72.0, 190.0
_NODE_TOP, _GAP, _CORNER = 22.0, 4.0, 9.0
_PORTS = 26.0  # width about the middle of a phase that is left to lines entering and leaving
_RARE = 0.2


def training_map(
    posterior: Posterior, ax: Axes | None = None, threshold: float = 0.05, level: float = 0.9
) -> Axes:
    """Draw the graph of phases, every change with its probability and interval.

    A phase shows its share of all rows and the number of runs that visit it. A change shows the
    share of runs that make it (posterior mean and interval) and their number (posterior median),
    as in `bayeshmm.phases.edge_usage`; the wider the line, the larger the share, and dashed lines
    are rare.

    Parameters
    ----------
    posterior : Posterior
        A fitted model.
    ax : Axes, optional
        Where to draw; the map is laid out for its present size. Default: a new figure, at most 8
        inches wide and as high as the map needs.
    threshold : float
        Changes made by a smaller share of the runs are left out.
    level : float
        Probability inside the intervals.

    Returns
    -------
    Axes
    """
    names = posterior.state_names
    K = len(names)
    order = display_order(posterior.paths, K).tolist()
    usage = edge_usage(posterior.paths, range(K), level)
    edges = [
        _Edge(
            source=order.index(row["source"]),
            target=order.index(row["target"]),
            probability=row["probability"],
            interval=f"[{row['lower']:.2f}, {row['upper']:.2f}]",
            runs=_count(row["runs"]),
        )
        for row in usage[usage["probability"] >= threshold].to_dict("records")
    ]
    occupancy = state_occupancy(posterior.paths, range(K), level).to_dict("records")
    nodes = [
        _Node(
            posterior.palette[k],
            names[k],
            f"{occupancy[k]['rows']:.0%} of rows",
            _count(occupancy[k]["runs"]),
        )
        for k in order
    ]
    caption = (
        f"P(used): share of the {len(posterior.runs.names)} runs that make the change, posterior "
        f"mean [{level:.0%} interval]; runs: posterior median. Changes with P(used) below "
        f"{threshold:g} are left out."
    )
    scale, slack = 1.0, 0.0
    if ax is None:
        step = min(max(_WIDTH / K, _LEAST_STEP), _WIDEST_STEP)
        layout = _Layout(nodes, edges, caption, K * step)
        ax = plt.figure(figsize=(layout.width / 72, layout.height / 72)).add_axes((0, 0, 1, 1))
    else:
        figure = ax.figure.canvas.figure
        figure.draw_without_rendering()  # lets a layout engine settle the size
        room = ax.get_window_extent()
        for scale in np.linspace(1, 0.3, 15).tolist():
            point = figure.dpi / 72 * scale
            layout = _Layout(nodes, edges, caption, room.width / point)
            slack = room.height / point - layout.height
            if slack >= 0 and layout.step >= _LEAST_STEP:
                break
    ax.set_axis_off()
    ax.set(xlim=(0, layout.width), ylim=(layout.bottom - slack / 2, layout.top + slack / 2))
    layout.draw(ax, scale)
    return ax


class _Node(NamedTuple):
    state: int  # number of its colour
    name: str
    rows: str
    runs: str


class _Edge(NamedTuple):
    source: int  # places in the row of phases
    target: int
    probability: float
    interval: str
    runs: str

    @property
    def ends(self) -> tuple[int, int]:
        return min(self.source, self.target), max(self.source, self.target)

    @property
    def side(self) -> int:
        """1 above the row, -1 below it, 0 in it."""
        if self.target == self.source + 1:
            return 0
        return 1 if self.target > self.source else -1

    def label(self, lines: int) -> str:
        first, second = {1: (" ", ", "), 2: (" ", "\n"), 3: ("\n", "\n")}[lines]
        return f"P(used) {self.probability:.2f}{first}{self.interval}{second}{self.runs}"


class _Layout:
    """Where everything goes, for a given width; the row of phases is at height 0."""

    def __init__(
        self, nodes: Sequence[_Node], edges: Sequence[_Edge], caption: str, width: float
    ) -> None:
        self.nodes, self.edges, self.width = nodes, edges, width
        self.step = min(width / len(nodes), _WIDEST_STEP)
        names = [_text_width(node.name, bold=True) for node in nodes]
        shares = [_text_width(text) for node in nodes for text in (node.rows, node.runs)]
        self.node_width = min(max(names + shares) + 12, 0.74 * self.step)
        between = self.step - self.node_width - 2 * _GAP
        rooms = [(n, room) for room in (between, self.step - _PORTS) for n in (1, 2, 3)]
        self.lines, room = next(((n, w) for n, w in rooms if self._label_width(n) <= w), (3, 0.0))
        self.label_height = self.lines * _LINE
        self.straight_label = _GAP if room == between else _NODE_TOP + _GAP

        self.lanes: dict[_Edge, int] = {}
        for edge in sorted(edges, key=lambda e: e.ends[1] - e.ends[0]):
            below = [lane for e, lane in self.lanes.items() if _overlap(e, edge)]
            self.lanes[edge] = 1 + max(below, default=0) if edge.side else 0

        self.first_lane = {1: _NODE_TOP + 12, -1: _NODE_TOP + 12}
        if any(edge.side == 0 for edge in edges):
            above = self.straight_label + self.label_height + 2 * _GAP
            self.first_lane[1] = max(above, self.first_lane[1])
        reach = {side: [_NODE_TOP] for side in (1, -1)}
        for edge in edges:
            height = abs(self._height(edge)) if edge.side else self.straight_label
            reach[edge.side or 1].append(height + _GAP + self.label_height)
        self.top = max(reach[1]) + 2 * _GAP
        room = 0.93 * (width - 4 * _GAP)  # letters on whole pixels are wider than their outlines
        self.caption = textwrap.fill(caption, int(room / _text_width(caption) * len(caption)))
        self.caption_top = -max(reach[-1]) - 4 * _GAP
        self.bottom = self.caption_top - _LINE * (self.caption.count("\n") + 1) - 2 * _GAP

    @property
    def height(self) -> float:
        return self.top - self.bottom

    def draw(self, ax: Axes, scale: float) -> None:
        for place, node in enumerate(self.nodes):
            self._draw_node(ax, self._middle(place), node, scale)
        for edge in self.edges:
            self._draw_edge(ax, edge, scale)
        ax.text(
            *(2 * _GAP, self.caption_top, self.caption),
            va="top",
            fontsize=_TEXT_SIZE * scale,
            color=MUTED,
        )

    def _draw_node(self, ax: Axes, x: float, node: _Node, scale: float) -> None:
        (colour,), (hatch,) = phase_colours([node.state]), phase_hatches([node.state])
        box = FancyBboxPatch(
            *((x - self.node_width / 2, -_NODE_TOP), self.node_width, 2 * _NODE_TOP),
            boxstyle="round,pad=0,rounding_size=6",
        )
        tint = 1 - 0.25 * (1 - np.array(to_rgb(colour)))
        box.set(facecolor=tint, edgecolor=colour, linewidth=2 * scale, hatch=hatch, zorder=2)
        ax.add_patch(box)
        shrink = min(1.0, (self.node_width - 6) / max(_text_width(node.name, bold=True), 1.0))
        for y, text, size, weight in (
            (10.5, node.name, _NAME_SIZE * shrink, "bold"),
            (-2.5, node.rows, _TEXT_SIZE, "normal"),
            (-12.5, node.runs, _TEXT_SIZE, "normal"),
        ):
            label = ax.text(x, y, text, ha="center", va="center", color=INK, zorder=3)
            label.set(fontsize=size * scale, fontweight=weight)

    def _draw_edge(self, ax: Axes, edge: _Edge, scale: float) -> None:
        rare = edge.probability < _RARE
        arrow = FancyArrowPatch(
            path=self._path(edge),
            arrowstyle="-|>,head_length=4,head_width=2",
            mutation_scale=(1.0 + 0.5 * edge.probability) * scale,
            linewidth=(0.8 + 2.2 * edge.probability) * scale,
            linestyle=(0, (3, 2)) if rare else "-",
            color=FAINT if rare else INK,
            zorder=1,
        )
        ax.add_patch(arrow)
        first, last = edge.ends
        x = self._middle((first + last - 1) // 2) + self.step / 2  # between two phases
        y = self._height(edge) + _GAP * edge.side if edge.side else self.straight_label
        ax.text(
            *(x, y, edge.label(self.lines)),
            ha="center",
            va="top" if edge.side < 0 else "bottom",
            fontsize=_TEXT_SIZE * scale,
            linespacing=1.15,
            color=MUTED if rare else INK,
        )

    def _path(self, edge: _Edge) -> Path:
        """Straight, or up (down) to the lane, along it and back, with rounded corners."""
        if edge.side == 0:
            half = self.node_width / 2 + 1.5
            ends = self._middle(edge.source) + half, self._middle(edge.target) - half
            return Path([(x, 0.0) for x in ends])
        x0, x1 = self._port(edge, edge.source), self._port(edge, edge.target)
        y, side = self._height(edge), edge.side
        over, up = (_CORNER if x1 > x0 else -_CORNER), _CORNER * side
        start, end = (x0, (_NODE_TOP + 1) * side), (x1, (_NODE_TOP + 2) * side)
        corners = [(x0, y - up), (x0, y), (x0 + over, y), (x1 - over, y), (x1, y), (x1, y - up)]
        curve = [Path.LINETO, Path.CURVE3, Path.CURVE3]
        return Path([start, *corners, end], [Path.MOVETO, *curve, *curve, Path.LINETO])

    def _port(self, edge: _Edge, place: int) -> float:
        """Where a line meets a phase: ordered so that lines of one phase do not cross there.

        Lines to the left come first, those of higher lanes nearer to the middle on both sides.
        """

        def position(e: _Edge) -> tuple[bool, int, bool]:
            right = e.ends[0] == place
            return right, (-1 if right else 1) * self.lanes[e], e.source == place

        ports = sorted(
            (e for e in self.edges if e.side == edge.side and place in e.ends), key=position
        )
        apart = min(9.0, (_PORTS - 4) / max(len(ports) - 1, 1))
        return self._middle(place) + apart * (ports.index(edge) - (len(ports) - 1) / 2)

    def _middle(self, place: float) -> float:
        return self.width / 2 + self.step * (place - (len(self.nodes) - 1) / 2)

    def _height(self, edge: _Edge) -> float:
        lane = (self.lanes[edge] - 1) * (self.label_height + 2.5 * _GAP)
        return edge.side * (self.first_lane[edge.side] + lane)

    def _label_width(self, lines: int) -> float:
        texts = [line for edge in self.edges for line in edge.label(lines).split("\n")]
        return max(map(_text_width, texts), default=0.0)


def _overlap(a: _Edge, b: _Edge) -> bool:
    """Whether the lines of two edges run side by side."""
    (a0, a1), (b0, b1) = a.ends, b.ends
    return a.side == b.side and max(a0, b0) < min(a1, b1)


@cache
def _text_width(text: str, bold: bool = False) -> float:
    """Width of a label, or of a name, which is bold."""
    font = FontProperties(weight="bold" if bold else "normal")
    path = TextPath((0, 0), text, size=_NAME_SIZE if bold else _TEXT_SIZE, prop=font)
    return float(path.get_extents().width)


def _count(runs: int) -> str:
    return f"{runs} run" if runs == 1 else f"{runs} runs"
