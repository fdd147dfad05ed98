"""Makes a table of docs/results.md by one command: trains, evaluates and plots every seed, and writes the Markdown.

    python -m benchmarks.table mails --seeds 0 1 2 3 4 --out runs [-- --training.updates 100]

For each seed it goes on with the training in OUT/NAME-seedS and evaluates it where that is missing; then it plots all
seeds to OUT/NAME.png and writes OUT/NAME.md: the comparison, a row for each seed, and the commands. Killed at any
moment, the same command goes on. A seed that fails is named in the table, the others go on, and the exit code is 1.
NAME is one of the tables below, a shipped configuration or a YAML file. Data that can be made are made first, into
the folder --data. What stands behind -- goes to every training.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from temporal.agents.trials import POLICY
from temporal.curve import area
from temporal.errors import UserError, bad
from temporal.experiment import find_config
from temporal.report import SHARES, Evaluated, report
from temporal.runs import write_text

TEMPORAL = ("-m", "temporal")


class Recipe(NamedTuple):
    """What a table is made of.

    Args:
        config: a shipped configuration or a YAML file.
        overrides: of its settings; {data} stands for the folder of made data.
        makes: the file that shows that the data are there, within that folder; empty for shipped data.
        maker: the Python command that makes them, likewise.
        reader_of: the table whose readers are taken over, seed by seed.
    """

    config: str
    overrides: tuple[str, ...] = ()
    makes: str = ""
    maker: tuple[str, ...] = ()
    reader_of: str = ""


def _doom(config: str) -> Recipe:
    folder = "{data}/doom-set"
    made = (*TEMPORAL, "make-doom", folder, "--clips", "3200")
    settings = ("--data.path", folder, "--num_slots", "256", "--evaluation.num_settings", "8")
    return Recipe(config, settings, "doom-set/manifest.jsonl", made)


def _scheme(*decisions: str) -> Recipe:
    """An agent of other decisions over the readers of the mails."""
    sizes = {"Jump": ', "init_args": {"sizes": [0, 16, 64]}'}
    named = (f'{{"class_path": "temporal.decisions.{d}"{sizes.get(d, "")}}}' for d in decisions)
    scheme = f"[{', '.join(named)}]"
    return Recipe("mails", ("--evaluation.controls", "false", "--agent.scheme", scheme), reader_of="mails")


def _price(price: float) -> Recipe:
    """An agent for one price over the readers of the mails."""
    settings = ("--training.prices", f"[{price},{price}]", "--evaluation.num_settings", "2")
    return Recipe("mails", settings, reader_of="mails")


TABLES: dict[str, Recipe] = {
    "mails": Recipe("mails"),
    "clips": Recipe("clips", ("--evaluation.num_settings", "6")),
    "newsgroups": Recipe(
        "newsgroups",
        ("--data.path", "{data}/newsgroups", "--evaluation.num_settings", "12"),
        "newsgroups/test.parquet",
        ("-m", "benchmarks.newsgroups", "{data}/newsgroups"),
    ),
    **{
        name: _doom(name)
        for name in (
            "doom", "doom_adaframe", "doom_focus", "doom_frame_exit", "doom_resolution", "doom_sampler",
        )
    },
    "mails-halt": _scheme("Halt"),
    "mails-halt-jump": _scheme("Halt", "Jump"),
    "mails-halt-jump-sift": _scheme("Halt", "Jump", "Sift"),
    **{f"mails-price{price}": _price(price) for price in (0.1, 0.5, 2.0)},
}  # fmt: skip
"""The tables that are known by name."""


class FailedError(Exception):
    """A command that ended otherwise than well: which, and its last line on stderr."""


Run = Callable[[Sequence[str]], None]
"""Runs Python with arguments; raises FailedError."""


def run_python(arguments: Sequence[str]) -> None:
    """Run Python with arguments, its stderr shown as it comes."""
    last = ""
    with subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                sys.stderr.write(line)
                last = line.strip() or last
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)  # where only this process was told
            raise
    if process.returncode in (-2, 130):
        raise KeyboardInterrupt
    if process.returncode:
        raise FailedError(last or f"exit code {process.returncode}")


def shown(arguments: Sequence[str]) -> str:
    """A command as it would be typed."""
    quoted = [f"'{a}'" if set(a) & set(' {}[]"') else a for a in arguments]
    return " ".join(quoted[1:] if tuple(arguments[:2]) == TEMPORAL else ["python", *quoted])


class Plan:
    """The commands of a table.

    Args:
        name: of one of TABLES, of a shipped configuration, or a YAML file.
        seeds: different ones.
        out: where run folders, plot and Markdown go.
        data: where made data go.
        overrides: of settings, for every training.
    """

    def __init__(self, name: str, seeds: list[int], out: Path, data: Path, overrides: list[str]) -> None:
        if name not in TABLES:
            find_config(name)  # says what is wrong with a name
        if len(set(seeds)) != len(seeds):
            raise bad("table", "--seeds", seeds, "each once")
        self.recipe = TABLES.get(name, Recipe(name))
        self.name, self.seeds, self.out, self.data = (
            Path(name).stem if name not in TABLES else name,
            seeds,
            out,
            data,
        )
        self.overrides = overrides
        self.picture, self.file = out / f"{self.name}.png", out / f"{self.name}.md"
        of = self.recipe.reader_of
        self.readers = Plan(of, seeds, out, data, []) if of else None

    def folder(self, seed: int) -> Path:
        """Where the run of a seed goes."""
        return self.out / f"{self.name}-seed{seed}"

    def make_data(self) -> list[str]:
        """What makes the data; nothing where they are shipped or there already."""
        if not self.recipe.maker or (self.data / self.recipe.makes).is_file():
            return []
        return [part.format(data=self.data) for part in self.recipe.maker]

    def train(self, seed: int | str) -> list[str]:
        """What trains a seed, or goes on with its training."""
        place = self.out / f"{self.name}-seed{seed}"
        given = [*TEMPORAL, "train", self.recipe.config, "--seed", str(seed), "--out", str(place), "--resume"]
        if self.readers is not None:
            given += ["--reader-from", str(self.out / f"{self.readers.name}-seed{seed}")]
        fixed = [
            part if part.startswith("[") else part.format(data=self.data) for part in self.recipe.overrides
        ]
        return [*given, *fixed, *self.overrides]

    def evaluate(self, seed: int | str) -> list[str]:
        """What evaluates a seed."""
        return [*TEMPORAL, "evaluate", str(self.out / f"{self.name}-seed{seed}")]

    def plot(self, seeds: Sequence[int | str]) -> list[str]:
        """What plots the seeds that were evaluated."""
        folders = [str(self.out / f"{self.name}-seed{seed}") for seed in seeds]
        return [*TEMPORAL, "plot", *folders, "--out", str(self.picture)]

    def carry_out(self, run: Run = run_python) -> dict[int, str]:
        """Train and evaluate what is missing; what failed, by seed."""
        failed: dict[int, str] = {}
        for seed in self.seeds:
            try:
                if self.readers is not None:
                    run(self.readers.train(seed))
                run(self.train(seed))
                if not (self.folder(seed) / "outcomes.npz").is_file():
                    run(self.evaluate(seed))
            except FailedError as error:
                failed[seed] = str(error)
                print(
                    f"table: seed {seed} of {self.name} failed ({error}); the rest goes on", file=sys.stderr
                )
        return failed


class _Collector(Console):
    """Keeps what would be printed."""

    def __init__(self) -> None:
        super().__init__(file=open(os.devnull, "w"))  # noqa: SIM115 - lives as long as the console
        self.kept: list[Any] = []

    def print(self, *objects: Any, **_: Any) -> None:
        """Keep."""
        self.kept.extend(objects)


def markdown(table: Table) -> str:
    """A rich table as Markdown, whatever its columns; its title above."""
    rows = [[str(column.header) for column in table.columns], ["---"] * len(table.columns)]
    rows += map(list, zip(*(map(str, column.cells) for column in table.columns), strict=True))
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([*([str(table.title), ""] if table.title else []), *lines])


def compared(folders: list[Path]) -> str:
    """What `temporal evaluate` prints of these runs, as Markdown."""
    console = _Collector()
    with contextlib.closing(console.file):
        report(folders, console)
    return "\n\n".join(markdown(kept) if isinstance(kept, Table) else str(kept) for kept in console.kept)


def by_seed(folders: list[Path]) -> Table:
    """A row for each run: reading everything, the agent's area, and its accuracy at a few shares of full reading."""
    shares = [f"agent at {share:.0%}" for share in SHARES]
    table = Table("seed", "n", "read-all %", "area of the agent %", *shares)
    for folder in folders:
        found = Evaluated([folder])
        (run,) = found.runs(POLICY)
        full = found.flops_full
        cells = [found.full_accuracy, area(run.curve, found.floor * full, full)]
        cells += run.curve.accuracy_at(np.array(SHARES) * full).tolist()
        point = found.points[0]
        table.add_row(str(point.seed), str(point.n), *(f"{100 * value:.2f}" for value in cells))
    return table


def page(plan: Plan, failed: dict[int, str], command: str) -> str:
    """The Markdown of a table: commands, comparison over seeds, a row for each seed, and what failed."""
    done = [seed for seed in plan.seeds if seed not in failed]
    folders = [plan.folder(seed) for seed in done]
    steps = [plan.readers.train("S")] if plan.readers else []
    steps += [plan.train("S"), plan.evaluate("S"), plan.plot(done)]
    maker = [part.format(data=plan.data) for part in plan.recipe.maker]
    commands = [command, "", *([f"# the data: {shown(maker)}"] if maker else [])]
    commands += ["# for each seed S:", *map(shown, steps[:-1]), "# and over all seeds:", shown(steps[-1])]
    parts = [f"## {plan.name}", "\n".join(f"    {line}".rstrip() for line in commands)]
    if done:
        parts += [f"![Curves]({plan.picture.name})", compared(folders), markdown(by_seed(folders))]
    if failed:
        parts.append("\n".join(f"- Seed {seed} **failed**: {why}" for seed, why in failed.items()))
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None, run: Run = run_python) -> int:
    """Make a table; 1 where a seed failed, 2 for a user's mistake, 130 for Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    own, overrides = (
        (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    )
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", epilog=f"tables: {', '.join(TABLES)}")
    parser.add_argument("name", help="a table, a shipped configuration, or a YAML file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of runs, plot and Markdown")
    parser.add_argument("--data", type=Path, default=Path("data-sets"), help="folder of data that are made")
    options = parser.parse_args(own)
    try:
        plan = Plan(options.name, options.seeds, options.out, options.data, overrides)
        options.out.mkdir(parents=True, exist_ok=True)
        if maker := plan.make_data():
            run(maker)
        failed = plan.carry_out(run)
        done = [seed for seed in plan.seeds if seed not in failed]
        if done:
            run(plan.plot(done))
        write_text(plan.file, page(plan, failed, shown(["-m", "benchmarks.table", *given])))
    except KeyboardInterrupt:
        print("table: interrupted; the same command goes on", file=sys.stderr)
        return 130
    except (UserError, FailedError) as error:
        print(error if isinstance(error, UserError) else f"table: {error}", file=sys.stderr)
        return 2
    print(plan.file)
    return 1 if failed else 0


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)  # what it started must end with it
    sys.exit(main())
