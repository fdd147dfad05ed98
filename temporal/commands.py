"""What each command of the command line does."""

from __future__ import annotations

import argparse
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from temporal import runs
from temporal.agents.train import train
from temporal.bounded import MIB, read_text
from temporal.cost import SIFT_FLOPS
from temporal.data.base import preparing
from temporal.data.decode import MAX_PIXELS
from temporal.display import bar, results, tell, training_bar
from temporal.errors import UserError, bad, plain
from temporal.experiment import (
    KINDS,
    Experiment,
    check_effects,
    concrete,
    dump,
    find_config,
    instantiate,
    parse,
)
from temporal.fingerprints import check_reader, fingerprints
from temporal.pooling import check_pool
from temporal.readers.video import FrameReader
from temporal.report import draw, draw_strips, evaluate_run, report
from temporal.scoring import score_inputs
from temporal.watching import Budget, Reading, score_videos

MOST_METRICS_BYTES = 256 * MIB
SECONDS_PER_FILE = 60.0  # that a video may take to decode


def run_train(options: argparse.Namespace, overrides: list[str]) -> None:
    """Train, or go on with a training; prints the run folder."""
    config = find_config(options.config)
    seed = [] if options.seed is None else ["--seed", str(options.seed)]
    parsed = parse(["--config", str(config), *overrides, *seed])
    if options.print_config:
        print(dump(parsed), end="")
        return
    folder = Path(options.out) if options.out else runs.default_folder(config, parsed.seed)
    if runs.check_folder(folder, parsed, options.resume, options.reader_from):
        tell(folder)
        return
    # Everything that can be wrong with what was given comes up before the folder is made.
    source = _load(options.reader_from, options.trust) if options.reader_from else None
    with _preparing():
        experiment = instantiate(parsed)
        if source is not None:
            check_reader(source.folder, source.about, fingerprints(experiment.data))
        reader, agent = experiment.build()
        check_effects(experiment, reader, agent)
        if source is not None:
            runs.copy_reader(source, reader)
        experiment.data.equip(reader)  # last: what is kept of frames goes by the encoder's weights
    _notify(experiment)
    scene = experiment.training.scene(
        experiment.data.split("train"), reader, agent, experiment.chunk, experiment.num_slots, experiment.seed
    )
    with training_bar() as progress, MetricsLog(folder, options.tensorboard) as log:
        runs.start(folder, experiment, parsed, options.reader_from)
        train(
            experiment.training, scene, folder / "state", experiment.seed,
            bool(options.reader_from), progress, log,
        )  # fmt: skip
    assert scene.source.labels is not None
    commonest = int(torch.bincount(scene.source.labels).argmax())
    runs.finish(folder, reader, agent, {"commonest": commonest})
    tell(folder)


def _load(folder: str | Path, trust: bool) -> runs.Run:
    """Load a run; where it is trusted, what that means is said first."""
    return runs.load(Path(folder), trust, lambda told: print(plain(f"temporal: {told}"), file=sys.stderr))


@contextmanager
def _preparing() -> Iterator[None]:
    """Shows how far a source is with getting its data ready."""
    with bar("preparing", "videos") as progress:
        token = preparing.set(progress)
        try:
            yield
        finally:
            preparing.reset(token)


def _open(run: runs.Run) -> Experiment:
    """The experiment of a run, its data opened and its reader equipped with them."""
    with _preparing():
        experiment = run.experiment()
        experiment.data.equip(run.reader)
    _notify(experiment)
    return experiment


def _notify(experiment: Experiment) -> None:
    """Say what was done to the data, on stderr."""
    if experiment.data.notice is not None:
        print(experiment.data.notice, file=sys.stderr)


class MetricsLog:
    """Appends to metrics.jsonl, and to TensorBoard's event files on request; on resuming drops what is redone."""

    def __init__(self, folder: Path, tensorboard: bool) -> None:
        self._path, self._folder, self._tensorboard = folder / "metrics.jsonl", folder, tensorboard
        self._first = True

    def __enter__(self) -> MetricsLog:
        self._writer: Any = None
        self._make_writer: Callable[[str], Any] | None = None
        if self._tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                expected = "the extra: pip install temporal-reading[tensorboard]"
                raise UserError(
                    f"train: --tensorboard, got no tensorboard to import; expected {expected}"
                ) from None
            self._make_writer = SummaryWriter
        return self

    def __call__(self, record: dict[str, Any]) -> None:
        """Append one record."""
        if self._first:
            self._drop_from(record["phase"], record["update"])
            self._file = self._path.open("a", encoding="utf-8")
            self._first = False
            if self._make_writer is not None:
                self._writer = self._make_writer(str(self._folder / "tensorboard"))
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in record.items():
                if name not in ("phase", "update"):
                    self._writer.add_scalar(f"{record['phase']}/{name}", value, record["update"])

    def _drop_from(self, phase: str, update: int) -> None:
        """Keep the records before the update that comes next: a killed process may have logged more than it saved."""
        kept = []
        text = read_text(self._path, MOST_METRICS_BYTES, "train") if os.path.lexists(self._path) else ""
        for line in text.splitlines():
            try:
                record = json.loads(line)
                reached = (record["phase"], record["update"]) == (phase, update)
            except (ValueError, KeyError, TypeError, RecursionError):
                break  # cut off while being written
            if reached:
                break
            kept.append(line + "\n")
        runs.write_text(self._path, "".join(kept))

    def __exit__(self, *_: object) -> None:
        if not self._first:
            self._file.close()
        if self._writer is not None:
            self._writer.close()


def run_evaluate(options: argparse.Namespace, overrides: list[str]) -> None:
    """Trace every run and print the comparison."""
    folders = [Path(r) for r in options.runs]
    check_pool("evaluate", folders)  # before hours are spent on tracing them
    for folder in folders:
        if options.again or not (folder / "outcomes.npz").is_file():
            run = _load(folder, options.trust)
            experiment = _open(run)
            with bar(f"evaluating {folder.name}") as progress:
                evaluate_run(run, experiment, progress)
    report(folders, results())


def run_plot(options: argparse.Namespace, overrides: list[str]) -> None:
    """Draw evaluated runs; prints the file."""
    draw([Path(r) for r in options.runs], Path(options.out), options.title, options.agents)
    tell(options.out)


def run_score(options: argparse.Namespace, overrides: list[str]) -> None:
    """Score texts or videos, whichever the run reads; prints what was done."""
    run = _load(options.run, options.trust)
    if isinstance(run.reader, FrameReader):
        _score_videos(run, options)
    else:
        _score_texts(run, options)


def _score_texts(run: runs.Run, options: argparse.Namespace) -> None:
    for option in ("frames", "workers", "seconds_per_file", "max_pixels", "lenient"):
        _refuse(options, option, "no such option, for the run reads texts")
    with bar("scoring", "texts") as progress:
        summary = score_inputs(
            run, [Path(i) for i in options.inputs], Path(options.out), options.tokens, options.flops,
            options.price, options.text_column or "text", progress, options.max_tokens,
        )  # fmt: skip
    tell(summary)


def _score_videos(run: runs.Run, options: argparse.Namespace) -> None:
    for option in ("tokens", "max_tokens", "text_column"):
        _refuse(options, option, "no such option, for the run reads videos")
    workers = options.workers or max((os.cpu_count() or 2) - 1, 1)
    seconds = SECONDS_PER_FILE if options.seconds_per_file is None else options.seconds_per_file
    price = run.prices[0] if options.price is None else options.price
    budget = Budget(options.frames, options.flops, price)
    reading = Reading(workers, seconds, options.max_pixels or MAX_PIXELS, bool(options.lenient))
    with bar("scoring", "videos") as progress:
        summary = score_videos(run, options.inputs, Path(options.out), budget, reading, progress)
    tell(summary)


def _refuse(options: argparse.Namespace, option: str, expected: str) -> None:
    """An option without effect is a mistake."""
    value = getattr(options, option)
    if value is not None:
        raise bad("score", f"--{option.replace('_', '-')}", value, expected)


def run_cost(options: argparse.Namespace, overrides: list[str]) -> None:
    """Print what everything costs."""
    experiment: Experiment = instantiate(parse(["--config", str(find_config(options.config)), *overrides]))
    reader, agent = experiment.build()
    full, videos = reader.full_flops(), isinstance(reader, FrameReader)
    unit, read = ("frame", "look at one frame:") if videos else ("token", "read one token:")
    title = f"{experiment.data.name}: prices in FLOPs (1 MAC = 2)"
    table = Table("what", "FLOPs", "share of a full reading", title=title)

    def row(what: str, flops: float) -> None:
        table.add_row(what, f"{flops:,.0f}", f"{flops / full:.4%}")

    one, none = torch.ones(1, dtype=torch.long), torch.zeros(1, dtype=torch.long)
    for index, mode in enumerate(reader.modes):
        row(f"{read} {mode}", float(reader.read_flops(torch.tensor([index]), one, none)))
    row("answer (class probabilities)", reader.predict_flops)
    deciding = agent.decision_flops + agent.peek_flops * experiment.chunk
    row("decide (agent)" if videos else "decide (agent, previews included)", deciding)
    if not videos:
        row("examine one token for sifting", SIFT_FLOPS)
    if reader.preview_size:
        row(f"previews of the average video ({reader.task.mean_length:.1f} frames)",
            reader.preview_flops * reader.task.mean_length)  # fmt: skip
    table.add_section()
    row(f"one observation of {experiment.chunk} {unit}s, answer and decision included",
        float(reader.read_flops(torch.tensor([reader.full_mode]), experiment.chunk * one, none))
        + reader.predict_flops + deciding)  # fmt: skip
    row(
        f"full reading of the average sequence ({reader.task.mean_length:.1f} {unit}s) = 1 unit of price",
        full,
    )
    results().print(table)


def run_list(options: argparse.Namespace, overrides: list[str]) -> None:
    """Print shipped configurations and the classes that a YAML can name."""
    from temporal.configs import __path__ as folders

    console = results()
    table = Table("configuration", "what it is")
    for path in sorted(p for folder in folders for p in Path(folder).glob("*.yaml")):
        first = path.read_text(encoding="utf-8").splitlines()[0]
        table.add_row(path.stem, first.lstrip("# ") if first.startswith("#") else "")
    console.print(table)
    table = Table("kind", "class", "what it does")
    for name, kind in KINDS.items():
        for found in sorted(concrete(kind), key=lambda c: c.__name__):
            doc = (inspect.getdoc(found) or "").partition("\n")[0]
            table.add_row(name, f"{found.__module__}.{found.__name__}", doc)
    console.print(table)


def run_strips(options: argparse.Namespace, overrides: list[str]) -> None:
    """Draw where an agent looks; prints the file."""
    run = _load(options.run, options.trust)
    experiment = _open(run)
    draw_strips(
        run, experiment, Path(options.out), options.clips, options.price, options.frames, options.seed
    )
    tell(options.out)


def run_make_doom(options: argparse.Namespace, overrides: list[str]) -> None:
    """Render the set; prints the manifest."""
    from temporal.data.doom import make_doom

    workers = options.workers or os.cpu_count() or 1
    with bar("rendering", "clips") as progress:
        manifest = make_doom(
            Path(options.out), options.clips, options.seed, workers, lambda done, num: progress("", done, num),
            busy=options.busy,
        )  # fmt: skip
    tell(manifest)


COMMANDS: dict[str, Callable[[argparse.Namespace, list[str]], None]] = {
    "train": run_train,
    "evaluate": run_evaluate,
    "plot": run_plot,
    "score": run_score,
    "cost": run_cost,
    "list": run_list,
    "make-doom": run_make_doom,
    "strips": run_strips,
}
