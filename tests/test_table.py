"""The command that makes a table of results: every step once, whatever fails or is killed on the way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.table import Table

from benchmarks import table
from temporal.cli import main as temporal
from temporal.experiment import find_config, parse
from tests.test_training import write_config


class Runner:
    """Runs commands of temporal in this process and notes them; fails or is interrupted where told."""

    def __init__(self, fails: str = "", interrupted: str = "") -> None:
        self.done: list[str] = []
        self.fails, self.interrupted = fails, interrupted

    def __call__(self, arguments: Sequence[str]) -> None:
        command = table.shown(arguments)
        self.done.append(command)
        if self.fails and self.fails in command:
            raise table.FailedError("train: no room on the disk")
        if self.interrupted and self.interrupted in command:
            raise KeyboardInterrupt
        assert temporal(list(arguments[2:])) == 0

    @property
    def names(self) -> list[str]:
        return [command.split()[1] for command in self.done]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("config") / "tiny.yaml", warmup={"epochs": 1})


def test_killed_and_gone_on_with_and_a_failed_seed_named(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--training.updates", "1", "--evaluation.controls", "false"]
    given = [str(config), "--seeds", "0", "1", "--out", str(tmp_path), "--", *settings]
    killed = Runner(interrupted=f"evaluate {tmp_path}/tiny-seed0")
    assert table.main(given, killed) == 130
    assert killed.names == ["train", "evaluate"]
    assert capsys.readouterr().err.splitlines()[-1] == "table: interrupted; the same command goes on"

    failing = Runner(fails="--seed 1")
    assert table.main(given, failing) == 1
    assert failing.names == ["train", "evaluate", "train", "plot"]
    text = (tmp_path / "tiny.md").read_text()
    assert "- Seed 1 **failed**: train: no room on the disk\n" in text

    whole = Runner()
    assert table.main(given, whole) == 0
    assert whole.names == ["train", "train", "evaluate", "plot"]  # only the second of them trains
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == f"{tmp_path}/tiny.md"
    text = (tmp_path / "tiny.md").read_text()
    assert "failed" not in text
    assert (tmp_path / "tiny.png").is_file()
    lines = text.splitlines()
    train = f"    temporal train {config} --seed S --out {tmp_path}/tiny-seedS --resume {' '.join(settings)}"
    assert train in lines
    start = next(i for i, line in enumerate(lines) if line.startswith("| seed | n |"))
    rows = [line.strip("| ").split(" | ") for line in lines[start + 2 : start + 4]]
    assert [row[:2] for row in rows] == [[str(seed), "12"] for seed in (0, 1)]
    assert all(0 <= float(cell) <= 100 for row in rows for cell in row[2:])
    assert any(line.startswith("| policy | ") for line in lines)


def test_a_table_as_markdown_has_every_column() -> None:
    told = Table("agent", "a new column", title="needle: 2 runs")
    told.add_row("policy", "1 | 2")
    told.add_row("prefix", "")
    assert table.markdown(told).splitlines() == [
        "needle: 2 runs", "", "| agent | a new column |", "| --- | --- |", "| policy | 1 \\| 2 |", "| prefix |  |",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["mails-halt-jump-sift", "mails-price0.1", "newsgroups", "doom_focus"])
def test_known_tables_have_settings_that_are_there(name: str, tmp_path: Path) -> None:
    plan = table.Plan(name, [3], tmp_path / "runs", tmp_path / "sets", [])
    command = plan.train(3)
    start = command.index("--resume") + 1
    settings = [part for part in command[start:] if part != "--reader-from" and "runs/" not in part]
    parsed = parse(["--config", str(find_config(plan.recipe.config)), *settings])
    assert (plan.readers is not None) == ("--reader-from" in command)
    if maker := plan.make_data():
        assert parsed.data.init_args.path == maker[3 if "make-doom" in maker else 2]


@pytest.mark.parametrize("name", table.TABLES)
def test_data_are_made_where_they_are_missing(name: str, tmp_path: Path) -> None:
    plan = table.Plan(name, [3], tmp_path / "runs", tmp_path / "sets", [])
    assert find_config(plan.recipe.config).is_file()
    assert bool(plan.make_data()) == ("{data}" in "".join(plan.recipe.overrides))
    if plan.make_data():
        made = tmp_path / "sets" / plan.recipe.makes
        made.parent.mkdir(parents=True)
        made.touch()
        assert plan.make_data() == []


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert table.main(["mials", "--out", str(tmp_path)], Runner()) == 2
    assert capsys.readouterr().err.startswith("config: file, got 'mials'; expected a YAML file, or one of ")
    assert table.main(["mails", "--seeds", "1", "1", "--out", str(tmp_path)], Runner()) == 2
    assert capsys.readouterr().err == "table: --seeds, got [1, 1]; expected each once\n"


def test_a_command_that_fails_is_told_by_its_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    program = "import sys; print('at work', file=sys.stderr); sys.exit('train: --out, got nothing')"
    with pytest.raises(table.FailedError, match=r"^train: --out, got nothing$"):
        table.run_python(["-c", program])
    assert capsys.readouterr().err == "at work\ntrain: --out, got nothing\n"
