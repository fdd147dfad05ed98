"""Film strips: which frames of a video an agent looked at, beside what was to be seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from temporal.errors import bad, plain
from temporal.plot import LONGEST_NAME, SUFFIXES, save_figure

COLUMNS = 16  # frames in a row of a strip
DIMMED = 0.5  # brightness of frames that were not looked at; a little white is added
LOOKED, TRUE = "#E69F00", "#009E73"


@dataclass(frozen=True, eq=False)
class Strip:
    """One video and what an agent did with it.

    Args:
        title: above the strip.
        frames: one picture for each position.
        looked: positions in the order in which they were looked at.
        truth: how much of what matters each position shows, 0 for nothing; None where that is not known.
    """

    title: str
    frames: UInt8[np.ndarray, "positions height width 3"]
    looked: tuple[int, ...]
    truth: Float[np.ndarray, " positions"] | None = None

    def __post_init__(self) -> None:
        if any(not 0 <= p < len(self.frames) for p in self.looked):
            raise bad("strip", "looked", self.looked, f"positions below {len(self.frames)}")


def plot_strips(strips: list[Strip], out: Path, title: str) -> None:
    """Draw film strips: frames looked at are bright and numbered, a bar below a frame says how much it shows.

    Args:
        strips: one or more, drawn from top to bottom.
        out: png or svg.
        title: above the picture.

    Raises:
        UserError: no strip, or another ending.
        OSError: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    if out.suffix not in SUFFIXES:
        raise bad("plot", "--out", str(out), f"a file ending in {' or '.join(SUFFIXES)}", SUFFIXES)
    if not strips:
        raise bad("plot", "strips", 0, "one or more")
    num_rows = [-(-len(strip.frames) // COLUMNS) for strip in strips]
    figure = Figure(figsize=(14, 0.75 + sum(0.69 * rows + 0.42 for rows in num_rows)), layout="constrained")
    axes = figure.subplots(len(strips), 1, squeeze=False, height_ratios=num_rows)[:, 0]
    for ax, strip in zip(axes, strips, strict=True):
        _draw(ax, strip)
    figure.suptitle(plain(title, LONGEST_NAME), parse_math=False)
    save_figure(figure, out)


def _draw(ax: object, strip: Strip) -> None:
    from matplotlib.axes import Axes
    from matplotlib.patches import Rectangle

    assert isinstance(ax, Axes)
    num, height, width, _ = strip.frames.shape
    gap = max(height // 8, 2)
    rows = -(-num // COLUMNS)
    sheet = np.full((rows * (height + gap), COLUMNS * width, 3), 255, np.uint8)
    order = {position: i + 1 for i, position in reversed(list(enumerate(strip.looked)))}
    most = 0.0 if strip.truth is None else float(strip.truth.max())
    for p, frame in enumerate(strip.frames):
        top, left = p // COLUMNS * (height + gap), p % COLUMNS * width
        shown = frame if p in order else frame * DIMMED + 64 * (1 - DIMMED)
        sheet[top : top + height, left : left + width] = shown
        if strip.truth is not None and strip.truth[p] > 0:
            share = float(np.sqrt(strip.truth[p] / most))
            ax.add_patch(Rectangle((left, top + height), share * width, 0.7 * gap, color=TRUE, lw=0))
        if p in order:
            edge = Rectangle((left, top), width - 1, height - 1, fill=False, edgecolor=LOOKED, linewidth=2.5)
            ax.add_patch(edge)
            box = {"facecolor": LOOKED, "edgecolor": "none", "pad": 1.5}
            ax.text(left + 3, top + 4, str(order[p]), fontsize=8, va="top", weight="bold", bbox=box)
    ax.imshow(sheet, interpolation="bilinear", aspect="equal")
    ax.set_axis_off()
    ax.set_title(plain(strip.title, LONGEST_NAME), fontsize=10, loc="left", parse_math=False)
