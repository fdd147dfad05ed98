import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.transforms import Bbox

from temporal.errors import UserError
from temporal.plot import AGENT_STYLES, SPARE_STYLES, STYLES, Series, _draw, plot_curves, styles

FULL = 2e7


def series(name: str, kind: str = "control", best: float = 0.9, full: float = FULL) -> Series:
    flops = full * np.array([0.0005, 0.05, 0.2, 0.9])
    accuracy = np.array([0.3, best - 0.2, best - 0.1, best])
    return Series(name, flops, accuracy, accuracy - 0.02, accuracy + 0.02, kind)  # type: ignore[arg-type]


def everything(full: float = FULL) -> list[Series]:
    controls = [series(name, best=0.85, full=full) for name in STYLES if name != "hindsight"]
    return [
        series("halting and jumping agent", "agent", full=full),
        *controls,
        series("my rule", full=full),
        series("hindsight", "oracle", best=0.95, full=full),
    ]


def drawn(some: list[Series], full: float = FULL) -> Figure:
    figure = _draw([each for each in some if each.name != "read_all"], "A task", full, 0.9, 0.02)
    FigureCanvasAgg(figure).draw()
    return figure


class TestFiles:
    def test_png_is_twice_as_wide_as_a_readme(self, tmp_path: Path) -> None:
        path = plot_curves(everything(), tmp_path / "curve.png", "A task", FULL, 0.9)
        assert imread(path).shape[:2] == (1000, 1800)
        assert [each.name for each in tmp_path.iterdir()] == ["curve.png"]

    def test_svg_is_well_formed(self, tmp_path: Path) -> None:
        path = plot_curves(everything(), tmp_path / "curve.SVG", "A task", FULL, 0.9)
        assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"

    @pytest.mark.parametrize("suffix", ["png", "svg"])
    def test_same_input_gives_the_same_bytes(self, tmp_path: Path, suffix: str) -> None:
        paths = [plot_curves(everything(), tmp_path / f"{i}.{suffix}", "A task", FULL, 0.9) for i in range(2)]
        assert paths[0].read_bytes() == paths[1].read_bytes()

    @pytest.mark.parametrize(("name", "suffix"), [("curve.pdf", ".pdf"), ("curve", "")])
    def test_other_suffixes_are_refused(self, tmp_path: Path, name: str, suffix: str) -> None:
        with pytest.raises(UserError) as error:
            plot_curves(everything(), tmp_path / name, "A task", FULL, 0.9)
        assert str(error.value) == f"plot: suffix of the file, got {suffix!r}; expected one of .png, .svg"

    def test_importing_loads_neither_matplotlib_nor_torch(self) -> None:
        code = "import sys, temporal.plot, temporal.curve; print({'matplotlib', 'torch'} & set(sys.modules))"
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert found.stdout == "set()\n"


class TestPicture:
    # From costs of a toy to those of a large transformer: labels of the axes differ in length.
    @pytest.mark.parametrize("full", [900.0, 2e7, 3.3e11])
    def test_no_text_overlaps_or_is_cut_off(self, full: float) -> None:
        figure = drawn(everything(full), full)
        (axes,) = figure.axes
        (top,) = axes.child_axes
        (legend,) = figure.legends
        labels = [axes.xaxis.label, axes.yaxis.label, top.xaxis.label, axes._left_title]
        ticks = [*axes.get_xticklabels(), *axes.get_yticklabels(), *top.get_xticklabels()]
        shown = [each for each in (*labels, *ticks) if each.get_text() and _in_view(each, axes, top)]
        boxes = [(each.get_text(), each.get_window_extent()) for each in shown]
        boxes += [("the legend", legend.get_window_extent()), ("the picture", axes.get_window_extent())]
        assert len(boxes) > 12
        assert _overlapping(boxes) == []
        width, height = figure.canvas.get_width_height()
        for name, box in boxes:
            assert box.x0 >= 0, name
            assert box.y0 >= 0, name
            assert box.x1 <= width, name
            assert box.y1 <= height, name

    def test_lines_are_straight_in_linear_flops(self) -> None:
        curve = Series("agent", np.array([1e6, 1.5e7]), np.array([0.5, 0.9]), kind="agent")
        line = drawn([curve]).axes[0].lines[0]
        flops, percent = (np.asarray(values, float) for values in line.get_data())
        np.testing.assert_allclose(percent, 50 + 40 * (flops - 1e6) / 1.4e7)
        assert flops[[0, -1]] == pytest.approx([1e6, 1.5e7])
        assert flops.size > 100

    def test_points_have_markers(self) -> None:
        agent = series("agent", "agent")
        marks = next(line for line in drawn([agent]).axes[0].lines if line.get_marker() == "o")
        np.testing.assert_array_equal(marks.get_xdata(), agent.flops[1:])  # the free point lies outside
        np.testing.assert_allclose(marks.get_ydata(), 100 * agent.accuracy[1:])

    def test_dense_curves_have_few_markers(self) -> None:
        grid = np.geomspace(1e5, FULL, 200)
        dense = Series("agent", grid, np.linspace(0.3, 0.9, 200), kind="agent")
        marks = next(line for line in drawn([dense]).axes[0].lines if line.get_marker() == "o")
        assert len(marks.get_xdata()) == 10

    def test_full_reading_has_a_star(self) -> None:
        star = next(
            line for line in drawn([series("agent", "agent")]).axes[0].lines if line.get_marker() == "*"
        )
        assert (star.get_xdata()[0], star.get_ydata()[0]) == (FULL, 90.0)

    def test_agents_and_full_reading_are_in_view(self) -> None:
        agent = series("agent", "agent")
        axes = drawn([agent, Series("prefix", np.array([0.5 * FULL]), np.array([0.8]))]).axes[0]
        (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
        assert left == pytest.approx(0.02 * FULL)
        assert right > FULL
        assert low < 100 * np.interp(left, agent.flops, agent.low)  # type: ignore[arg-type]
        assert high > 92

    def test_a_cheap_control_does_not_squeeze_the_picture(self) -> None:
        # At 2 % of full reading the control is near 30 %, where nothing of interest is.
        control = Series("prefix", FULL * np.array([0.0005, 0.9]), np.array([0.0, 0.9]))
        agent = Series("agent", FULL * np.array([0.0005, 0.02, 0.9]), np.array([0.3, 0.8, 0.9]), kind="agent")
        low, _ = drawn([agent, control]).axes[0].get_ylim()
        assert 5 < low < 20  # the control has 14 % at the middle of the logarithmic axis

    def test_series_that_end_early_or_late_are_in_view(self) -> None:
        early = Series("agent", np.array([1e4, 1e5]), np.array([0.5, 0.9]), kind="agent")
        late = Series("confidence", np.array([1e4, 1.5 * FULL]), np.array([0.5, 0.9]))
        left, right = drawn([early, late]).axes[0].get_xlim()
        assert left < 1e5
        assert right > 1.5 * FULL

    def test_a_single_point_shows_its_interval(self) -> None:
        one = Series("prefix", np.array([5e6]), np.array([0.7]), np.array([0.6]), np.array([0.75]))
        (interval,) = (
            each for each in drawn([one]).axes[0].collections if type(each).__name__ == "LineCollection"
        )
        np.testing.assert_allclose(interval.get_segments()[0], [[5e6, 60], [5e6, 75]])

    def test_legend_lists_agents_first_then_from_best_to_worst(self) -> None:
        some = [series("random", best=0.6), series("prefix", best=0.7), series("agent", "agent", best=0.5)]
        (legend,) = drawn([*some, series("hindsight", "oracle")]).legends
        assert [text.get_text() for text in legend.get_texts()] == [
            "agent",
            "full reading",
            "hindsight (oracle)",
            "prefix",
            "random",
        ]


def _in_view(text: object, *axes: object) -> bool:
    """Matplotlib keeps labels of ticks outside the limits without drawing them."""
    for each in axes:
        for axis in (each.xaxis, each.yaxis):  # type: ignore[attr-defined]
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if text in (tick.label1, tick.label2):
                    return bool(low <= tick.get_loc() <= high) and bool(text.get_visible())  # type: ignore[attr-defined]
    return True


def _overlapping(boxes: list[tuple[str, Bbox]]) -> list[tuple[str, str]]:
    return [
        (one, other)
        for i, (one, box) in enumerate(boxes)
        for other, its in boxes[i + 1 :]
        if box.padded(-1).overlaps(its)
    ]


class TestStyles:
    def test_controls_differ_without_colour(self) -> None:
        every = [*STYLES.values(), *SPARE_STYLES]
        assert len({style.marker for style in every}) == len(every)
        assert len({style.line for style in every}) == len(every)

    def test_names_have_fixed_styles_and_unknown_names_the_next(self) -> None:
        some = [series("zig"), series("random"), series("a", "agent"), series("zag"), series("b", "agent")]
        expected = [SPARE_STYLES[0], STYLES["random"], AGENT_STYLES[0], SPARE_STYLES[1], AGENT_STYLES[1]]
        assert styles(some) == expected
        assert styles([series("foresight", "oracle")]) == [STYLES["hindsight"]]

    def test_agents_are_thick_and_oracles_thin(self) -> None:
        lines = (
            drawn([series("prefix"), series("agent", "agent"), series("hindsight", "oracle")]).axes[0].lines
        )
        control, agent, oracle = (lines[2 * i].get_linewidth() for i in range(3))
        assert oracle < control < agent
        assert lines[4].get_linestyle() == ":"

    def test_more_unknown_names_than_styles_go_round(self) -> None:
        found = styles([series(f"rule {i}") for i in range(len(SPARE_STYLES) + 1)])
        assert all(one != other for one, other in pairwise(found))
        assert found[-1] == found[0]


class TestErrors:
    def test_unknown_kind_lists_the_known(self) -> None:
        with pytest.raises(UserError) as error:
            series("mine", "agnet")
        assert str(error.value) == (
            "series mine: kind, got 'agnet'; expected one of agent, control, oracle; did you mean 'agent'?"
        )

    @pytest.mark.parametrize(
        ("flops", "accuracy", "low", "high", "what"),
        [
            ([], [], None, None, "shapes"),
            ([1.0], [0.5, 0.6], None, None, "shapes"),
            ([1.0], [0.5], [0.4, 0.4], [0.6], "shapes"),
            ([1.0], [0.5], [0.4], None, "interval"),
            ([2.0, 1.0], [0.5, 0.6], None, None, "flops"),
            ([-1.0], [0.5], None, None, "flops"),
            ([np.inf], [0.5], None, None, "flops"),
            ([1.0], [50.0], None, None, "accuracy"),
            ([1.0], [0.5], [np.nan], [0.6], "accuracy"),
        ],
    )
    def test_impossible_series_are_refused(
        self, flops: list, accuracy: list, low: list | None, high: list | None, what: str
    ) -> None:
        arrays = (None if values is None else np.array(values) for values in (flops, accuracy, low, high))
        with pytest.raises(UserError, match=f"series mine: {what}"):
            Series("mine", *arrays)  # type: ignore[arg-type]

    def test_nothing_to_draw_and_doubles_are_refused(self, tmp_path: Path) -> None:
        for some in ([], [series("read_all")], [series("prefix"), series("prefix")]):
            with pytest.raises(
                UserError, match=r"plot: series, got .*; expected one or more besides read_all"
            ):
                plot_curves(some, tmp_path / "curve.png", "A task", FULL, 0.9)

    @pytest.mark.parametrize(
        ("full", "accuracy", "share"), [(0.0, 0.9, 0.02), (1e6, 90.0, 0.02), (1e6, 0.9, 2.0)]
    )
    def test_numbers_outside_their_ranges_are_refused(
        self, tmp_path: Path, full: float, accuracy: float, share: float
    ) -> None:
        with pytest.raises(UserError, match="plot: flops_full, full_accuracy, floor_share"):
            plot_curves([series("prefix")], tmp_path / "curve.png", "A task", full, accuracy, share)
