"""Evaluated runs as a table and as a picture: every curve beside the rules it must beat, intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from temporal.agents.evaluate import evaluate
from temporal.agents.rollout import SpanRecorder
from temporal.agents.trials import POLICY, Bench
from temporal.curve import FREE, AgentRun
from temporal.data.base import Sequences
from temporal.data.clips import VideoSequences
from temporal.data.decode import MAX_PIXELS
from temporal.data.decoders import Decoders, Request
from temporal.data.features import awaited
from temporal.data.video import VideoSource
from temporal.display import Advance
from temporal.episodes import Plan
from temporal.errors import bad, reason
from temporal.experiment import Experiment
from temporal.intervals import band, compare, estimate_area
from temporal.plot import Kind, Series, plot_curves
from temporal.points import Point, Saved, load_outcomes, read_points, save_outcomes, write_points
from temporal.pooling import check_pool
from temporal.reading import read
from temporal.runs import Run, read_floor
from temporal.strips import Strip, plot_strips

SHARES = (0.05, 0.10, 0.15, 0.25)
DECODING_SHARE = 0.10
STRIP_SIZE = (60, 80)  # height and width of a frame on a strip, in pixels
ORACLES = ("hindsight", "oracle")
BAGS = ("naive_bayes", "logistic", "bag_of_words")


def evaluate_run(run: Run, experiment: Experiment, progress: Advance) -> None:
    """Trace one run on its experiment's data and write points.jsonl and outcomes.npz into its folder."""
    bench = Bench(
        experiment.data.name,
        run.reader,
        run.agent,
        experiment.training.prices,
        int(run.about["commonest"]),
        run.chunk,
        run.num_slots,
        experiment.seed,
        *_learning(run, experiment),
    )
    found = evaluate(
        experiment.evaluation,
        bench,
        experiment.data.split("validation"),
        experiment.data.split("test"),
        progress,
    )
    try:
        write_points(run.folder / "points.jsonl", [p for traced in found.values() for p in traced.points])
        save_outcomes(
            run.folder / "outcomes.npz", {split: traced.outcomes for split, traced in found.items()}
        )
    except OSError as error:
        raise bad(
            "evaluate", "run", str(run.folder), f"a folder that can be written ({reason(error)})"
        ) from None


def _learning(run: Run, experiment: Experiment) -> tuple[Sequences, Tensor]:
    """The train split, and the rows that the agent learned from: the reader did not, where a share was held out."""
    source = experiment.data.split("train")
    parts = source, run.reader, run.agent, run.chunk, run.num_slots, experiment.seed
    return source, experiment.training.scene(*parts).agent_rows


class Evaluated:
    """Several seeds of one configuration, evaluated.

    Args:
        folders: run folders that `temporal evaluate` has been through.

    Raises:
        UserError: runs that may not be averaged, or that were not evaluated.
    """

    def __init__(self, folders: list[Path]) -> None:
        self.saved: list[Saved] = []
        self.points: list[Point] = []
        check_pool("plot", folders)
        for folder in folders:
            if not (folder / "outcomes.npz").is_file():
                raise bad(
                    "plot", "run", str(folder), f"an evaluated run; `temporal evaluate {folder}` comes first"
                )
            self.saved.append(load_outcomes(folder / "outcomes.npz"))
            self.points.extend(p for p in read_points(folder / "points.jsonl") if p.split == "test")
        floors = {read_floor(folder) for folder in folders}
        if len(floors) != 1:
            expected = "one, so that areas are the same thing"
            raise bad("plot", "evaluation.floor of the runs", sorted(floors), expected)
        self.floor = floors.pop()
        tasks = sorted({p.task for p in self.points})
        if len(tasks) != 1:
            raise bad("plot", "tasks of the runs", tasks, "one; draw each task by itself")
        self.task = tasks[0]
        self.flops_full = float(np.mean([p.flops_full for p in self.points]))
        everyone = [p for p in self.points if p.agent == "read_all"]
        if len(everyone) != len(folders):
            missing = "one for each run; `temporal evaluate --again` makes them anew"
            raise bad("plot", "points of read_all", len(everyone), missing)
        self.full_accuracy = float(np.mean([p.accuracy for p in everyone]))
        self.full_flops_read = float(np.mean([p.flops_mean for p in everyone]))
        self.names = [n for n in self.saved[0].get("test", {}) if n not in (FREE, "read_all")]

        self._runs: dict[str, list[AgentRun]] = {}

    def runs(self, name: str) -> list[AgentRun]:
        """One agent in all seeds."""
        if name not in self._runs:
            self._runs[name] = [AgentRun.of(saved, name) for saved in self.saved]
        return self._runs[name]


def report(folders: list[Path], console: Console) -> None:
    """Print areas, differences and accuracies at a few shares of full reading."""
    found = Evaluated(folders)
    low, full = found.floor * found.flops_full, found.flops_full
    seeds = sorted({p.seed for p in found.points})
    title = (
        f"{found.task}: {len(folders)} run(s), seeds {', '.join(map(str, seeds))}, {found.points[0].n} test sequences; "
        f"read-all {found.full_accuracy:.2%} at {found.full_flops_read:.3g} FLOPs"
    )
    table = Table(
        "agent", "area %", f"{POLICY} - agent [95 %]", *(f"at {s:.0%}" for s in SHARES), title=title
    )
    for name in found.names:
        runs = found.runs(name)
        area = estimate_area(runs, low, full)
        difference = "" if name == POLICY else _difference(found, name, low, full)
        cells = [f"{100 * area.value:.2f} [{100 * area.low:.2f}, {100 * area.high:.2f}]", difference]
        at = zip(*band(runs, np.array(SHARES) * full)[1:], strict=True)
        table.add_row(name, *cells, *(f"{100 * a:.2f} [{100 * b:.1f}, {100 * c:.1f}]" for a, b, c in at))
    console.print(table)
    console.print(_footnote(found.floor, len(folders)))
    for line in (*_against_bags(found), *_decoding(found, DECODING_SHARE)):
        console.print(line)


def _footnote(floor: float, num_seeds: int) -> str:
    """What the columns and the intervals are."""
    over = (
        "of this one seed, over test sequences and the choice of settings on validation; they do not speak about "
        "other seeds"
        if num_seeds == 1
        else f"over seeds (t with {num_seeds - 1} degrees of freedom), test sequences and the choice of settings on "
        "validation (bootstrap), differences paired by all of them"
    )
    return (
        f"area: mean accuracy over log FLOPs from {floor:.0%} to 100 % of a full reading; settings chosen on "
        f"validation, values from test; 95 % intervals {over}."
    )


def _against_bags(found: Evaluated) -> Iterator[str]:
    """What order is worth to the reader: bags of words on whole texts or as much as validation likes best."""
    names = [name for name in BAGS if name in found.names]
    if not names:
        return
    best = {name: [run.curve for run in found.runs(name)] for name in names}
    accuracy = {name: float(np.mean([curve.accuracy[-1] for curve in best[name]])) for name in names}
    name = max(names, key=lambda each: accuracy[each])
    share = np.mean([curve.flops[-1] for curve in best[name]]) / found.flops_full
    gap = found.full_accuracy - accuracy[name]
    verdict = (
        f"the reader, reading all, is {100 * gap:.2f} points better"
        if gap > 0
        else f"the reader, reading all, does no better ({found.full_accuracy:.2%})"
    )
    yield f"bag of words: {name} reaches {accuracy[name]:.2%} at {share:.4%} of a full reading; {verdict}."


def _decoding(found: Evaluated, share: float) -> Iterator[str]:
    """How many frames each agent has decoded where it spends a share of a full reading; nothing for texts."""
    told = []
    for name in found.names:
        own = [p for p in found.points if p.agent == name and p.frames_decoded_mean is not None]
        each = []
        for seed in {p.seed for p in own}:
            mine = sorted((p.flops_mean, p.frames_decoded_mean or 0.0) for p in own if p.seed == seed)
            flops, decoded = np.array(mine).T
            each.append(np.interp(math.log(share * found.flops_full), np.log(flops), decoded))
        told += [f"{name} {np.mean(each):.1f}"] if each else []
    if told:
        yield f"frames decoded of a video on average, at {share:.0%} of a full reading: {', '.join(told)}."


def _difference(found: Evaluated, name: str, low: float, full: float) -> str:
    gap = compare(found.runs(POLICY), found.runs(name), low, full)
    return f"{100 * gap.difference:+.2f} [{100 * gap.low:+.2f}, {100 * gap.high:+.2f}]"


def draw(folders: list[Path], out: Path, title: str | None, agents: list[str] | None) -> None:
    """Draw the curves of evaluated runs into a png or svg.

    Raises:
        UserError: runs that were not evaluated or are of different tasks, an unknown agent, another suffix.
    """
    found = Evaluated(folders)
    names = [n for n in found.names if n not in ("entropy", "policy_budget")] if agents is None else agents
    for name in names:
        if name not in found.names:
            raise bad("plot", "--agents", name, f"some of {', '.join(found.names)}", found.names)
    series = []
    for name in names:
        runs = found.runs(name)
        last = max(float(r.curve.flops[-1]) for r in runs)
        grid = np.geomspace(0.01 * found.flops_full, max(last, 0.02 * found.flops_full), 120)
        drawn = band(runs, grid)
        kind: Kind = "agent" if name == POLICY else "oracle" if name in ORACLES else "control"
        series.append(Series(name, drawn.flops, drawn.accuracy, drawn.low, drawn.high, kind))
    num = len(folders)
    title = title or f"{found.task}: accuracy against FLOPs, {num} seed{'s' if num > 1 else ''}"
    try:
        plot_curves(series, out, title, found.full_flops_read, found.full_accuracy)
    except OSError as error:
        raise bad("plot", "--out", str(out), f"a file that can be written ({reason(error)})") from None


def draw_strips(
    run: Run,
    experiment: Experiment,
    out: Path,
    num_clips: int,
    price: float | None,
    frames: int | None,
    seed: int = 0,
) -> None:
    """Draw what a run's agent looks at in some test clips, drawn by seed, beside what was to be seen.

    Args:
        run: reads frames; its reader is equipped with those of the experiment.
        experiment: the run's own.
        out: png or svg.
        num_clips: 1 or more.
        price: shown to the agent; None takes the middle, by logarithm, of those it was trained on.
        frames: most frames looked at; None for no limit.
        seed: of the drawing of clips.

    Raises:
        UserError: a run on texts; more clips than there are; one that cannot be decoded.
    """
    source = experiment.data.split("test")
    if not isinstance(source, VideoSequences):
        raise bad("strips", "run", str(run.folder), "a run on videos")
    if not 1 <= num_clips <= len(source):
        raise bad("strips", "--clips", num_clips, f"a whole number from 1 to {len(source)}")
    price = float(np.sqrt(run.prices[0] * run.prices[1])) if price is None else price
    rows = (
        torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))[:num_clips].sort().values
    )
    recorder = SpanRecorder(num_clips)
    outcome = read(
        source, run.reader, run.agent, Plan.of(rows, price, frames), run.num_slots, run.chunk, recorder
    )
    assert outcome is not None
    full, strips = run.reader.full_flops(), []
    most = experiment.data.max_pixels if isinstance(experiment.data, VideoSource) else MAX_PIXELS
    with Decoders(1, max_pixels=most) as decoders:
        for i, row in enumerate(rows.tolist()):
            request = Request(source.clips[row].path, source.frame_indices(row), STRIP_SIZE)
            pictures = awaited(decoders, decoders.submit(request), request.path).frames
            names, chances = run.task.class_names, outcome.probabilities[i]
            truth = "" if source.labels is None else f"{names[int(source.labels[row])]}: "
            title = (
                f"{truth}answer {names[int(chances.argmax())]} ({float(chances.max()):.0%}), "
                f"{int(outcome.tokens[i])} of {len(pictures)} frames, "
                f"{float(outcome.flops[i]) / full:.1%} of the FLOPs of all"
            )
            shown = None if source.truth is None else source.truth[row, : len(pictures)].numpy()
            strips.append(Strip(title, pictures, tuple(recorder.positions[i]), shown))
    told = f"{experiment.data.name}: frames looked at, in their order, at price {price:.3g}"
    try:
        plot_strips(strips, out, told)
    except OSError as error:
        raise bad("strips", "--out", str(out), f"a file that can be written ({reason(error)})") from None
