"""The picture of a task: accuracy against FLOPs, the agents over the controls they have to beat."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from temporal.curve import FLOOR_SHARE
from temporal.errors import bad, plain

if TYPE_CHECKING:  # matplotlib takes half a second to import and only pictures need it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Kind = Literal["agent", "control", "oracle"]
KINDS: tuple[Kind, ...] = ("agent", "control", "oracle")
SUFFIXES = (".png", ".svg")
MOST_MARKERS = 30
LONGEST_NAME = 200  # letters that are drawn


class Style(NamedTuple):
    """How a line is told from others, with colour or without."""

    colour: str
    marker: str
    line: Literal["-", "--", ":"] | tuple[float, Sequence[float]]


# Okabe and Ito's colours (2008), which the colour-blind can tell apart; their yellow is too pale for lines on white.
STYLES: Mapping[str, Style] = {
    "read_all": Style("#000000", "*", "--"),
    "prefix": Style("#E69F00", "s", (0, (6, 2))),
    "uniform": Style("#009E73", "^", (0, (6, 2, 1, 2))),
    "random": Style("#56B4E9", "v", (0, (1.5, 1))),
    "confidence": Style("#D55E00", "D", (0, (3, 1))),
    "entropy": Style("#CC79A7", "P", (0, (3, 1, 1, 1, 1, 1))),
    "confidence_joint": Style("#A50026", "d", (0, (5, 1))),
    "calimera": Style("#7A0177", "p", (0, (5, 1, 1, 1))),
    "economy": Style("#D95F9A", "H", (0, (2, 1, 1, 1))),
    "naive_bayes": Style("#6B8E23", "1", (0, (7, 3))),
    "logistic": Style("#00441B", "2", (0, (7, 3, 1, 3))),
    "bag_of_words": Style("#33A02C", "3", (0, (1, 3))),
    "hindsight": Style("#000000", "", ":"),
}
"""The style of each control; a name that is not here gets the next of SPARE_STYLES."""

SPARE_STYLES = (
    Style("#666666", "X", (0, (8, 2, 2, 2))),
    Style("#8C510A", "<", (0, (2, 2))),
    Style("#5E4FA2", ">", (0, (10, 2))),
    Style("#1B7837", "h", (0, (4, 1, 1, 1))),
    Style("#F46D43", "8", (0, (8, 1, 1, 1))),
    Style("#8073AC", "x", (0, (2, 1))),
    Style("#B2182B", "+", (0, (4, 2))),
    Style("#999999", "4", (0, (1, 1))),
)
AGENT_STYLES = (Style("#0072B2", "o", "-"), Style("#000000", "d", "-"), Style("#882255", "p", "-"))


@dataclass(frozen=True, eq=False)
class Series:
    """One line: a curve of an agent, a control or an oracle, from its points or already on a dense grid.

    Args:
        name: as the legend shows it; controls by their names in STYLES.
        flops: mean FLOPs of a sequence, rising, 0 or more.
        accuracy: 0 to 1.
        low: lower end of the interval of each accuracy, or None.
        high: upper end, or None.
        kind: agent (thick), control, or oracle (thin and dotted).

    Raises:
        UserError: arrays of different lengths, FLOPs that fall, accuracies outside 0 to 1, an unknown kind.
    """

    name: str
    flops: Float[np.ndarray, " points"]
    accuracy: Float[np.ndarray, " points"]
    low: Float[np.ndarray, " points"] | None = None
    high: Float[np.ndarray, " points"] | None = None
    kind: Kind = "control"

    def __post_init__(self) -> None:
        where = f"series {self.name}"
        if self.kind not in KINDS:
            raise bad(where, "kind", self.kind, f"one of {', '.join(KINDS)}", KINDS)
        if (self.low is None) != (self.high is None):
            raise bad(where, "interval", "one end", "both low and high, or neither")
        ends = [end for end in (self.low, self.high) if end is not None]
        shapes = [np.shape(values) for values in (self.flops, self.accuracy, *ends)]
        if len(shapes[0]) != 1 or shapes[0][0] == 0 or len(set(shapes)) > 1:
            raise bad(where, "shapes", shapes, "as many of each, one or more")
        if not (np.isfinite(self.flops).all() and min(self.flops) >= 0 and (np.diff(self.flops) >= 0).all()):
            raise bad(where, "flops", list(self.flops), "finite numbers from 0 up, in rising order")
        for values in (self.accuracy, *ends):
            if not (np.min(values) >= 0 and np.max(values) <= 1):
                raise bad(where, "accuracy", list(values), "numbers from 0 to 1")

    def at(self, values: Float[np.ndarray, " points"], grid: Float[np.ndarray, " grid"]) -> np.ndarray:
        """Values at the FLOPs of a grid: straight in linear FLOPs, constant outside the points."""
        return np.asarray(np.interp(grid, self.flops, values))


def plot_curves(
    series: Sequence[Series],
    out: str | Path,
    title: str,
    flops_full: float,
    full_accuracy: float,
    floor_share: float = FLOOR_SHARE,
) -> Path:
    """Draw accuracy (%) against mean FLOPs of a sequence and write it as png or svg, by suffix.

    The picture starts at `floor_share` of full reading, where areas start, or further left where a series ends
    before that; it goes on a little beyond full reading or what is dearer. Lines go from the first point of a series
    to the last, so a curve that time-sharing continues to the left has the free point as its first.
    A series named read_all is not drawn as a line: full reading has its star and its dashed line.

    Args:
        series: what to draw; agents come to lie on top.
        out: where to write; ends in .png or .svg.
        title: above the picture.
        flops_full: mean FLOPs of full reading; above 0.
        full_accuracy: its accuracy, 0 to 1.
        floor_share: of full reading; between 0 and 1.

    Returns:
        The path written.

    Raises:
        UserError: another suffix, nothing to draw, two series of a name, or numbers outside their ranges.
    """
    out = Path(out)
    if out.suffix.lower() not in SUFFIXES:
        raise bad("plot", "suffix of the file", out.suffix, f"one of {', '.join(SUFFIXES)}", SUFFIXES)
    if not (flops_full > 0 and 0 <= full_accuracy <= 1 and 0 < floor_share < 1):
        got = (flops_full, full_accuracy, floor_share)
        raise bad("plot", "flops_full, full_accuracy, floor_share", got, "above 0, 0 to 1, between 0 and 1")
    drawn = [each for each in series if each.name != "read_all"]
    names = [each.name for each in drawn]
    if not drawn or len(set(names)) != len(names):
        raise bad("plot", "series", names, "one or more besides read_all, of different names")
    figure = _draw(drawn, title, flops_full, full_accuracy, floor_share)
    save_figure(figure, out)
    return out


def styles(series: Sequence[Series]) -> list[Style]:
    """The style of each series: by name, agents and unknown names in the order they come."""
    spare, agents, found = 0, 0, []
    for each in series:
        if each.kind == "agent":
            found.append(AGENT_STYLES[agents % len(AGENT_STYLES)])
            agents += 1
        elif each.kind == "oracle":
            found.append(STYLES["hindsight"])
        elif each.name in STYLES:
            found.append(STYLES[each.name])
        else:
            found.append(SPARE_STYLES[spare % len(SPARE_STYLES)])
            spare += 1
    return found


def _draw(
    series: Sequence[Series], title: str, flops_full: float, full_accuracy: float, floor_share: float
) -> Figure:
    from matplotlib.figure import Figure

    # 9 inches at 200 dots an inch: shown at 900 pixels, the width of a README, text is 14 pixels tall.
    figure = Figure(figsize=(9, 5), dpi=200, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    left = min(floor_share * flops_full, *(0.7 * max(each.flops[-1], 1e-3 * flops_full) for each in series))
    right = 1.12 * max(flops_full, *(each.flops[-1] for each in series))
    lines = {
        each.name: _draw_series(axes, each, style, left)
        for each, style in zip(series, styles(series), strict=True)
    }
    lines["full reading"] = _draw_full(axes, flops_full, full_accuracy)
    low, high = _limits(series, left, right, full_accuracy)
    axes.set(xscale="log", xlim=(left, right), ylim=(low, high), ylabel="Accuracy (%)")
    axes.set_xlabel("Mean FLOPs per sequence (log scale)")
    _ticks(axes, flops_full)
    axes.set_title(
        plain(title, LONGEST_NAME), fontsize=13, fontweight="bold", loc="left", pad=10, parse_math=False
    )
    shown = _legend(series, left, right)
    legend = figure.legend(
        [lines[name] for name in shown],
        list(shown.values()),
        loc="outside right center",
        frameon=False,
        fontsize=10,
        handlelength=3.6,
        labelspacing=0.8,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # names come from others
    return figure


def _draw_series(axes: Axes, series: Series, style: Style, left: float) -> Line2D:
    """Draw one series from `left` on; returns what the legend shows."""
    from matplotlib.lines import Line2D

    order = {"agent": 4, "control": 3, "oracle": 2}[series.kind]
    bare = style.marker not in Line2D.filled_markers  # such as + and x: nothing but an edge
    look: dict[str, Any] = {
        "color": style.colour,
        "linestyle": style.line,
        "linewidth": {"agent": 3.0, "control": 1.5, "oracle": 1.2}[series.kind],
        "marker": style.marker,
        "markersize": {"agent": 7.0, "control": 5.5, "oracle": 0.0}[series.kind],
        "markeredgecolor": style.colour if bare else "white",
        "markeredgewidth": 1.2 if bare else 0.7,
    }
    grid, marks = _grid(series, left), _marked(series, left)
    if series.low is not None and series.high is not None:
        low, high = (100 * series.at(end, grid) for end in (series.low, series.high))
        axes.fill_between(grid, low, high, color=style.colour, alpha=0.16, linewidth=0, zorder=order - 2)
        if len(series.flops) == 1:  # a band without width would not be seen
            axes.vlines(grid[:1], low[:1], high[:1], color=style.colour, linewidth=1.5, zorder=order)
    # Drawn apart, since markers belong to the points and the line needs many more.
    accuracy = 100 * series.at(series.accuracy, grid)
    axes.plot(grid, accuracy, **look | {"marker": "", "zorder": order})
    accuracy = 100 * series.at(series.accuracy, marks)
    axes.plot(marks, accuracy, **look | {"linestyle": "", "zorder": order + 0.5})
    return Line2D([], [], **look)


def _grid(series: Series, left: float) -> np.ndarray:
    """FLOPs from `left` on that a series is drawn through: many, for what is straight in them is bent on the axis."""
    last = max(float(series.flops[-1]), left)
    return np.geomspace(min(max(float(series.flops[0]), left), last), last, 300)


def _marked(series: Series, left: float) -> np.ndarray:
    """FLOPs at which markers stand: the points, or of a dense curve some, evenly spread over the picture."""
    inside: np.ndarray = series.flops[series.flops >= left]
    if inside.size <= MOST_MARKERS:
        return inside
    return np.geomspace(inside[0], inside[-1], 10)


def _draw_full(axes: Axes, flops_full: float, full_accuracy: float) -> Line2D:
    style = STYLES["read_all"]
    axes.axhline(100 * full_accuracy, color=style.colour, linestyle=style.line, linewidth=0.8, zorder=1)
    (star,) = axes.plot(
        [flops_full],
        [100 * full_accuracy],
        color=style.colour,
        marker=style.marker,
        markersize=15,
        markeredgecolor="white",
        linestyle=style.line,
        linewidth=0.8,
        zorder=6,
    )
    return star


def _limits(series: Sequence[Series], left: float, right: float, full_accuracy: float) -> tuple[float, float]:
    """Lowest and highest accuracy (%) shown: all of the agents, and of the controls their dearer half."""
    shown = [full_accuracy]
    for each in series:
        grid = _grid(each, left)
        middle = left if each.kind == "agent" else min((left * right) ** 0.5, grid[-1])
        for values in (each.accuracy, each.low, each.high):
            if values is not None:
                shown += [each.at(values, grid[grid >= middle]).min(), each.at(values, grid).max()]
    low, high = 100 * min(shown), 100 * max(shown)
    room = 0.05 * max(high - low, 1.0)
    return max(low - room, 0.0), min(high + room, 101.0)


def _ticks(axes: Axes, flops_full: float) -> None:
    """FLOPs below, shares of full reading above, both at 1, 2 and 5 times powers of ten."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullLocator

    def share(flops: Any) -> Any:
        return 100 * flops / flops_full

    def flops(share: Any) -> Any:
        return share * flops_full / 100

    top = axes.secondary_xaxis("top", functions=(share, flops))
    top.set_xlabel("Share of the FLOPs of full reading", fontsize=10)
    for axis in (axes.xaxis, top.xaxis):
        axis.set_major_locator(LogLocator(10, (1, 2, 5)))
        axis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    top.xaxis.set_major_formatter(FuncFormatter(lambda percent, _: f"{percent:g}%"))
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=10)
    for spine in (*axes.spines.values(), *top.spines.values()):
        spine.set_color("#999999")


def _legend(series: Sequence[Series], left: float, right: float) -> dict[str, str]:
    """What the legend says of each name: agents first, then as the lines lie above each other on the whole."""
    grid = np.geomspace(left, right, 100)
    agents = [each for each in series if each.kind == "agent"]
    others = [each for each in series if each.kind != "agent"]
    others.sort(key=lambda each: -float(each.at(each.accuracy, grid).mean()))
    names = [each.name for each in agents] + ["full reading"] + [each.name for each in others]
    oracles = [each.name for each in series if each.kind == "oracle"]
    shown = {name: plain(name.replace("_", " "), LONGEST_NAME) for name in names}
    return {name: told + " (oracle)" * (name in oracles) for name, told in shown.items()}


def save_figure(figure: Figure, out: Path) -> None:
    """Write the picture; the same input gives the same bytes, and the file is never seen half written."""
    from matplotlib import rc_context

    part = out.with_name(f"{out.name}.{os.getpid()}.part")
    kind = out.suffix.lower()[1:]
    with rc_context({"svg.hashsalt": "temporal"}):
        figure.savefig(part, format=kind, metadata={"Date": None} if kind == "svg" else {"Software": None})
    os.replace(part, out)
