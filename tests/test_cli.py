"""The command line: help, output, run folders, and one clear line for every mistake."""
# ruff: noqa: E501 - whole messages, one a line, are easier to compare

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from temporal import commands, display, report, runs
from temporal.cli import COMMANDS, main
from temporal.data.base import Source
from tests.mails import call, complaint, make_mails

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


@pytest.fixture
def copy(text_run: Path, tmp_path: Path) -> Path:
    """A run that may be changed."""
    return Path(shutil.copytree(text_run, tmp_path / "run"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: Patch) -> None:
    """Whatever is written without a place goes here."""
    monkeypatch.chdir(tmp_path)


# Help.


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", [[], *([c] for c in COMMANDS)])
def test_help(command: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as leaving:
        main([*command, "--help"])
    out, err = capsys.readouterr()
    assert (leaving.value.code, err) == (0, "")
    assert out.startswith(f"usage: {' '.join(['temporal', *command])} ")
    assert len(out.splitlines()) > 3


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, temporal.cli as c\ntry: c.main(['train', '--help'])\nfinally: print(*sys.modules, file=sys.stderr)"
    done = python("-c", code)
    assert done.returncode == 0
    assert not {"torch", "numpy", "datasets", "rich", "jsonargparse"} & set(done.stderr.split())


def test_the_module_is_the_program() -> None:
    program = shutil.which("temporal", path=str(Path(sys.executable).parent))
    assert program is not None
    for arguments, code in (["--help"], 0), (["score", "--help"], 0), (["nothing"], 2):
        one = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
        other = python("-m", "temporal", *arguments)
        assert (one.returncode, one.stdout, one.stderr) == (code, other.stdout, other.stderr)


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_mistake() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "temporal", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as told:
        assert told.stdout is not None
        assert told.stderr is not None
        told.stdout.close()
        assert told.stderr.read() == b""
    assert told.returncode == 0


# How it is called.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "command: COMMAND, got nothing; expected a value, see `temporal --help`"),
        ("scor", "command: name, got 'scor'; expected one of {commands}; did you mean 'score'?"),
        ("train", "train: config, got nothing; expected a value, see `temporal train --help`"),
        ("train mails --seed x", "train: --seed, got 'x'; expected a whole number from 0 to 9,223,372,036,854,775,807"),
        ("train mails --out", "train: --out, got nothing; expected one"),
        ("score", "score: run, INPUT, got nothing; expected a value, see `temporal score --help`"),
        ("evaluate a --agin", "evaluate: option, got '--agin'; expected one of --help, --again, --trust; did you mean '--again'?"),
        ("list a", "list: option, got 'a'; expected one of --help"),
        ("train mail", "config: file, got 'mail'; expected a YAML file, or one of {configs}; did you mean 'mails'?"),
        ("cost none.yaml", "config: file, got 'none.yaml'; expected a YAML file, or one of {configs}"),
        ("evaluate none", "run: folder, got 'none'; expected a folder that `temporal train` made"),
        ("plot none", "run: folder, got 'none'; expected a folder that `temporal train` made"),
        ("score none none", "run: folder, got 'none'; expected a folder that `temporal train` made"),
        ("train mails --out x --reader-from none", "run: folder, got 'none'; expected a folder that `temporal train` made"),
    ],
)  # fmt: skip
def test_called_wrongly(arguments: str, message: str, capsys: Capture) -> None:
    shipped = sorted(p.stem for p in (Path(__file__).parents[1] / "configs").glob("*.yaml"))
    expected = message.format(commands=", ".join(COMMANDS), configs=", ".join(shipped))
    assert complaint(capsys, *arguments.split()) == expected


def test_debug_shows_where_it_arose(capsys: Capture) -> None:
    for arguments in (["--debug", "evaluate", "none"], ["evaluate", "none", "--debug"]):
        code, _, err = call(capsys, *arguments)
        assert code == 2
        assert err.startswith("Traceback")
        assert err.splitlines()[-1].startswith("temporal: run: folder")


# Configurations.

CLASS = "a class that can be imported"
SETTINGS = "data, reader, agent, training, evaluation, chunk, num_slots, seed, device"
POLICY = "scheme, hidden_size, summary_size, peek_size, preview, ahead, lowest_price, highest_price, dropout"
STOPPING = "updates, batch_size, sequences, learning_rate, weight_decay, method, variety"
READER = "temporal.readers.recurrent.RecurrentReader"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--agent.hiden_size 3", f"config: setting of agent, got 'hiden_size'; expected one of {POLICY}; did you mean 'hidden_size'?"),
        ("--agent.hidden_size x", "config: agent.hidden_size, got 'x'; expected a whole number"),
        ("--agent.hidden_size 0", "config: agent.hidden_size, got 0; expected a whole number from 1 to 8,192"),
        ("--agent.scheme [Halt,Hlt]", f"config: class of agent.scheme, got 'Hlt'; expected {CLASS}; did you mean 'Halt'?"),
        ("--agent.scheme [TextSource]", "config: class of agent.scheme, got 'TextSource'; expected a class that can be imported"),
        ("--trainig.updates 3", f"config: setting, got 'trainig'; expected one of {SETTINGS}; did you mean 'training'?"),
        ("--lr 3", f"config: setting, got 'lr'; expected one of {SETTINGS}"),
        ("--training.updates 1.5", "config: training.updates, got '1.5'; expected a whole number"),
        ("--training.updates", "config: training, got no value; expected one"),
        ("--training.stopping.update 1", f"config: setting of training.stopping, got 'update'; expected one of {STOPPING}; did you mean 'updates'?"),
        ("--training.stopping.method x", "config: training.stopping.method, got 'x'; expected one of regression, expected, classification"),
        ("--training.warmup.epochs x", "config: training.warmup.epochs, got 'x'; expected a whole number"),
        ("--training.learner PPPO", f"config: class of training.learner, got 'PPPO'; expected {CLASS}; did you mean 'PPO'?"),
        ("--training.prices [1]", "config: training.prices, got '[1]'; expected a list with 2 elements"),
        ("--training.prices [-1,2]", "config: training.prices, got [-1.0, 2.0]; expected a list of 2 numbers from 1e-09 to 1,000,000"),
        ("--training.prices [.nan,2]", "config: training.prices, got [nan, 2.0]; expected a list of 2 numbers from 1e-09 to 1,000,000"),
        ("--training.prices [1,.inf]", "config: training.prices, got [1.0, inf]; expected a list of 2 numbers from 1e-09 to 1,000,000"),
        ("--training.task_reward luck", "config: training.task_reward, got 'luck'; expected one of log_likelihood, correctness, probability"),
        ("--evaluation.prices [-1,2]", "config: evaluation.prices, got [-1.0, 2.0]; expected a list of 2 numbers from 1e-09 to 1,000,000, or null"),
        ("--evaluation.prices [1,.nan]", "config: evaluation.prices, got [1.0, nan]; expected a list of 2 numbers from 1e-09 to 1,000,000, or null"),
        ("--evaluation.prices 3", "config: evaluation.prices, got '3'; expected a list"),
        ("--evaluation.limit x", "config: evaluation.limit, got 'x'; expected a whole number"),
        ("--reader.cell gruu", "config: reader.cell, got 'gruu'; expected one of gru, lstm; did you mean 'gru'?"),
        ("--reader temporal.readers.RecurentReader", f"config: class of reader, got 'temporal.readers.RecurentReader'; expected {CLASS}; did you mean '{READER}'?"),
        ("--reader temporl.RecurrentReader", f"config: class of reader, got 'temporl.RecurrentReader'; expected {CLASS} (No module named 'temporl'); did you mean 'RecurrentReader'?"),
        ("--reader 3", f"config: class of reader, got '3'; expected {CLASS}"),
        ("--data.skip_bad maybe", "config: data.skip_bad, got 'maybe'; expected true or false"),
        ("--chunk 0", "config: chunk, got 0; expected a whole number from 1 to 4,096"),
        ("--device nowhere", None),
        ("--seed x", "train: --seed, got 'x'; expected a whole number from 0 to 9,223,372,036,854,775,807"),
        # without effect
        ("--agent.scheme [Sift] --training.stopping.updates 9", "config: training: stopping.updates, got 9; expected 0, for the scheme has no Halt"),
        ("--agent.scheme [Sift] --training.stopping.updates 0 --training.stopping_weight 1", "config: training: stopping_weight, got 1.0; expected 0, for the scheme has no Halt"),
        ("--agent.dropout 0.1 --training.stopping.updates 0", "config: agent: dropout, got 0.1; expected 0, for no halting is fitted on recorded readings"),
        ("--reader temporal.readers.TransformerReader --training.warmup.skim_share 0.5", "config: training: warmup.skim_share, got 0.5; expected 0, for the reader has no mode skim"),
        ("--data.test_share 0.5", "data: test_share, got 0.5; expected no value: there is a test split"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be(
    override: str, message: str | None, text_config: Path, tmp_path: Path, capsys: Capture
) -> None:
    told = complaint(capsys, "train", text_config, "--out", tmp_path / "run", *override.split())
    if message is None:  # torch lists the devices that there are
        assert told.startswith(
            "experiment: device, got 'nowhere'; expected auto, cpu or an accelerator that is there ("
        )
    else:
        assert told == message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "config: {file}, got nothing; expected a mapping"),
        ("- a", "config: {file}, got a list; expected a mapping"),
        ("text", "config: {file}, got no keys; expected a mapping"),
        ("chunk: 1\nseed: 2\nchunk: 1", "config: {file}, got YAML that cannot be read ('chunk' comes twice, line 3); expected a mapping"),
        ("a:\n  b: 1\n  'b': 2", "config: {file}, got YAML that cannot be read ('b' comes twice, line 3); expected a mapping"),
        ("a: 1\nb: [", "config: {file}, got YAML that cannot be read (expected the node content, but found '<stream end>', line 2); expected a mapping"),
        ("a: \x00", "config: {file}, got YAML that cannot be read (unacceptable character #x0000: special characters are not allowed in \"<unicode string>\", position 3); expected a mapping"),
        (b"a: \xff", "config: {file}, got bytes that are not UTF-8; expected a YAML file"),
        ("a: 1", f"config: setting, got 'a'; expected one of {SETTINGS}"),
        ("data: NeedleSource", "config: reader, agent, got no value; expected one"),
        ("data: 3\nreader: RecurrentReader\nagent: PolicyAgent", "config: data, got '3'; expected a class_path with init_args of a Source"),
        ("data: {class_path: TextSource}\nreader: RecurrentReader\nagent: PolicyAgent", "config: path of data, got no value; expected one"),
        ("data: NeedleSource\nreader: {class_path: AttentiveFrameReader, init_args: {encoder: {x: 1}}}\nagent: PolicyAgent", "config: reader.encoder, got 'settings of no class'; expected a class_path with init_args of a FrameEncoder"),
        ("data: {class_path: TextSource, init_args: {path: spam_assassin, label_column: text}}\nreader: RecurrentReader\nagent: PolicyAgent", "data: label_column, got 'text'; expected another column than text_column"),
        ("data: {class_path: NeedleSource, init_args: {lenght: 3}}", "config: setting of data, got 'lenght'; expected one of num_sequences, length, num_classes, noise, seed; did you mean 'length'?"),
        ("data: NeedleSource\nreader: RecurrentReader\nagent: PolicyAgent\nchunk: [1]", "config: chunk, got '[1]'; expected a whole number"),
    ],
)  # fmt: skip
def test_a_yaml_that_cannot_be(content: str | bytes, message: str, tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    for command in ("train", "cost"):
        assert complaint(capsys, command, file) == message.format(file=file)
    assert not (tmp_path / "runs").exists()


def test_the_printed_configuration_is_a_configuration(
    text_config: Path, tmp_path: Path, capsys: Capture
) -> None:
    overrides = ["--chunk", "3", "--agent.scheme", "[Halt]", "--training.prices=[0.1,2]", "--seed", "5"]
    code, first, err = call(capsys, "train", *overrides, text_config, "--print-config")
    assert (code, err) == (0, "")
    (tmp_path / "printed.yaml").write_text(first)
    assert call(capsys, "train", tmp_path / "printed.yaml", "--print-config") == (0, first, "")
    found = yaml.safe_load(first)
    assert (found["chunk"], found["seed"], found["num_slots"]) == (3, 5, 64)
    assert found["agent"]["init_args"]["scheme"] == [{"class_path": "temporal.decisions.Halt"}]
    assert found["training"]["init_args"]["prices"] == [0.1, 2.0]
    assert found["training"]["init_args"]["learner"]["init_args"]["baseline"] == "group"


# Training.


def test_a_run_says_what_it_is(text_run: Path, text_config: Path) -> None:
    about = json.loads((text_run / "about.json").read_text())
    assert about["finished"] is True
    assert about["task"]["class_names"] == ["ham", "spam"]
    names = {p.name for p in text_run.iterdir()}
    assert names == {
        "about.json", "config.yaml", "metrics.jsonl", "model.safetensors", "outcomes.npz", "points.jsonl", "state", "tokenizer.json",
    }  # fmt: skip
    phases = [json.loads(line)["phase"] for line in (text_run / "metrics.jsonl").read_text().splitlines()]
    assert [phases.count(p) for p in ("warmup", "stopping", "policy")] == [48, 80, 2]


def test_a_run_is_not_written_over(copy: Path, text_config: Path, tmp_path: Path, capsys: Capture) -> None:
    before = (copy / "model.safetensors").stat()
    message = f"train: --out, got '{copy}'; expected a new folder; --resume goes on with the run in this one"
    assert complaint(capsys, "train", text_config, "--out", copy) == message
    assert call(capsys, "train", text_config, "--out", copy, "--resume") == (0, f"{copy}\n", "")
    assert (copy / "model.safetensors").stat() == before
    other = tmp_path / "config"
    other.mkdir()
    (other / "notes.txt").touch()
    message = f"train: --out, got '{other}'; expected a folder that is empty or does not exist"
    assert complaint(capsys, "train", text_config, "--out", other, "--resume") == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "--training.warmup.epochs 3",
            "train: training.warmup.epochs, got 3; expected 12, as in the run to resume",
        ),
        ("--seed 1", "train: seed, got 1; expected 0, as in the run to resume"),
        (
            "--agent.scheme [Halt]",
            "train: agent.scheme, got [{'class': 'Halt', 'settings': {}}]; expected [",
        ),
        ("--reader-from other", "train: --reader-from, got 'other'; expected None, as in the run to resume"),
    ],
)
def test_resuming_another_configuration(
    change: str, message: str, copy: Path, text_config: Path, capsys: Capture
) -> None:
    told = complaint(capsys, "train", text_config, "--out", copy, "--resume", *change.split())
    assert told == message or (message.endswith("[") and told.startswith(message))


def interrupting(at: int) -> Callable[[], Any]:
    """A bar of training that presses Ctrl-C at an update."""

    @contextmanager
    def bar() -> Iterator[Callable[..., None]]:
        calls = iter(range(10_000))

        def progress(*_: object) -> None:
            if next(calls) == at:
                os.kill(os.getpid(), signal.SIGINT)

        yield progress

    return bar


def metrics_of(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def test_ctrl_c_in_training_and_going_on(
    text_run: Path, text_config: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    run = tmp_path / "run"
    monkeypatch.setattr(commands, "training_bar", interrupting(60))
    code, out, err = call(capsys, "train", text_config, "--out", run)
    assert (code, out, err) == (130, "", "temporal: interrupted; what was finished is kept\n")
    told = complaint(capsys, "evaluate", run)
    assert (
        told
        == f"run: folder, got '{run}'; expected a finished training; `temporal train ... --resume` goes on with it"
    )
    with (run / "metrics.jsonl").open("a") as file:
        file.write(
            '{"phase": "stopping", "update": 14, "loss": 0}\n{"pha'
        )  # as a killed process may leave it
    monkeypatch.setattr(commands, "training_bar", display.training_bar)
    code, out, _ = call(capsys, "train", text_config, "--out", run, "--resume")
    assert (code, out) == (0, f"{run}\n")
    assert (run / "model.safetensors").read_bytes() == (text_run / "model.safetensors").read_bytes()
    assert metrics_of(run) == metrics_of(text_run)


@pytest.mark.parametrize("missing", ["about.json", "tokenizer.json", "model.safetensors"])
def test_what_a_killed_process_did_not_write_is_written(
    missing: str, text_run: Path, copy: Path, text_config: Path, capsys: Capture
) -> None:
    (copy / missing).unlink()
    if missing != "model.safetensors":
        about = json.loads((text_run / "about.json").read_text())
        if missing != "about.json":
            (copy / "about.json").write_text(json.dumps(about | {"finished": False}))
    assert call(capsys, "train", text_config, "--out", copy, "--resume")[0] == 0
    assert (copy / missing).stat().st_size == pytest.approx((text_run / missing).stat().st_size, abs=200)
    assert runs.load(copy).about["finished"] is True


def test_the_reader_of_another_run(
    text_run: Path, text_config: Path, tmp_path: Path, capsys: Capture
) -> None:
    run, short = tmp_path / "run", ["--training.stopping.updates", "1", "--training.updates", "1"]
    assert call(capsys, "train", text_config, "--out", run, "--reader-from", text_run, *short)[0] == 0
    one, other = runs.load(run), runs.load(text_run)
    assert [m["phase"] for m in metrics_of(run)] == ["stopping", "policy"]
    for name, value in one.reader.state_dict().items():
        assert value.equal(other.reader.state_dict()[name])
    told = complaint(capsys, "train", text_config, "--out", run, "--resume", *short)
    assert told == f"train: --reader-from, got None; expected '{text_run}', as in the run to resume"
    wide = ["--reader.hidden_size", "9"]
    told = complaint(
        capsys, "train", text_config, "--out", tmp_path / "wide", "--reader-from", text_run, *wide
    )
    assert told.startswith("run: model.safetensors, got weights of another model (size mismatch for ")
    assert not (tmp_path / "wide").exists()


def test_the_reader_of_a_run_on_other_data(
    text_run: Path, text_config: Path, mails: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(Source, "equip", full)  # must not be come to: it may take hours
    # The test split becomes what the reader has learned on, all else stays.
    other = tmp_path / "mails"
    shutil.copytree(mails, other)
    shutil.copy(mails / "train.parquet", other / "test.parquet")
    settings = ["--data.path", other, "--out", tmp_path / "run", "--reader-from", text_run]
    told = complaint(capsys, "train", text_config, *settings)
    assert told == (
        f"train: --reader-from, got '{text_run}', whose test split differs from this one's; "
        "expected a run on the same data, splits and tokenizer"
    )
    assert not (tmp_path / "run").exists()


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "somewhere")


def test_a_full_disk_while_training(
    text_config: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    run = tmp_path / "run"
    monkeypatch.setattr(runs, "write_text", full)
    told = complaint(capsys, "train", text_config, "--out", run)
    assert (
        told == f"train: --out, got '{run}'; expected a folder that can be written (No space left on device)"
    )
    monkeypatch.undo()
    monkeypatch.setattr(commands.MetricsLog, "__call__", full)
    monkeypatch.chdir(tmp_path)
    told = complaint(capsys, "train", text_config, "--out", run, "--resume")
    assert (
        told
        == "train: somewhere, got No space left on device; expected to read and write; what was finished is kept"
    )


def test_a_folder_that_cannot_be_made(text_config: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").touch()
    told = complaint(capsys, "train", text_config, "--out", tmp_path / "file" / "run")
    assert (
        told
        == f"train: --out, got '{tmp_path}/file/run'; expected a folder that can be written (Not a directory)"
    )


# Run folders.


def cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


NO_FILE = "run: file, got '{file}'; expected a file of a run (No such file or directory)"


@pytest.mark.parametrize(
    ("name", "gone", "halved"),
    [
        ("config.yaml", NO_FILE, "run: {file}, got "),
        ("about.json", NO_FILE, "run: {file}, got a damaged file; expected that of a run"),
        ("model.safetensors", NO_FILE, "run: {file}, got a file that cannot be read ("),
        ("tokenizer.json", NO_FILE, "run: {file}, got a file that cannot be read ("),
    ],
)  # fmt: skip
def test_a_run_that_is_not_whole(
    name: str, gone: str, halved: str, copy: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "a.txt").write_text("cheap")
    cut(copy / name)
    told = complaint(capsys, "score", copy, tmp_path / "a.txt")
    assert told.startswith(halved.format(file=copy / name))
    assert "; expected " in told
    (copy / name).unlink()
    assert complaint(capsys, "score", copy, tmp_path / "a.txt").startswith(gone.format(file=copy / name))


@pytest.mark.parametrize(
    ("name", "gone", "halved"),
    [
        ("points.jsonl", "points: file, got '{file}'; expected a file of a run (No such file or directory)", "{file}:"),
        ("outcomes.npz", "plot: run, got '{run}'; expected an evaluated run; `temporal evaluate {run}` comes first", "outcomes: file, got '{file}'; expected a file of outcomes ("),
        ("config.yaml", NO_FILE, "run: {file}, got "),
        ("about.json", NO_FILE, "run: {file}, got a damaged file"),
    ],
)  # fmt: skip
def test_an_evaluation_that_is_not_whole(
    name: str, gone: str, halved: str, copy: Path, capsys: Capture
) -> None:
    cut(copy / name)
    assert complaint(capsys, "plot", copy).startswith(halved.format(file=copy / name, run=copy))
    (copy / name).unlink()
    assert complaint(capsys, "plot", copy).startswith(gone.format(file=copy / name, run=copy))


def test_points_that_lack_the_last_lines(copy: Path, capsys: Capture) -> None:
    file = copy / "points.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[: len(lines) // 2]))
    told = complaint(capsys, "plot", copy)
    assert told == "plot: tasks of the runs, got []; expected one; draw each task by itself"
    file.write_text("".join(lines[: len(lines) // 2 + 1]))
    told = complaint(capsys, "plot", copy)
    assert (
        told
        == "plot: points of read_all, got 0; expected one for each run; `temporal evaluate --again` makes them anew"
    )


def test_a_checkpoint_that_is_cut_off(copy: Path, text_config: Path, capsys: Capture) -> None:
    (copy / "model.safetensors").unlink()
    cut(copy / "state" / "state.safetensors")
    told = complaint(capsys, "train", text_config, "--out", copy, "--resume")
    assert told.startswith(f"run: {copy}/state/state.safetensors, got a file that cannot be read (")
    assert told.endswith("); expected weights")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 1}, "run: format of {run}, got 1; expected 2, the one this version of temporal reads; train it anew"),
        ({"format": None}, "run: format of {run}, got None; expected 2, the one this version of temporal reads; train it anew"),
        ({"task": {"class_names": 3}}, "run: task in {run}/about.json, got {{'class_names': 3}}; expected the one that was trained on"),
        ({"finished": "yes"}, "run: {run}/about.json, got no word on how far it got; expected finished and commonest"),
        ({"commonest": None}, "run: {run}/about.json, got no word on how far it got; expected finished and commonest"),
        ({"finished": False}, "run: folder, got '{run}'; expected a finished training; `temporal train ... --resume` goes on with it"),
    ],
)  # fmt: skip
def test_a_run_of_another_kind(change: dict[str, Any], message: str, copy: Path, capsys: Capture) -> None:
    about = json.loads((copy / "about.json").read_text())
    (copy / "about.json").write_text(json.dumps(about | change))
    for arguments in (["evaluate", copy, "--again"], ["score", copy, copy]):
        assert complaint(capsys, *arguments) == message.format(run=copy)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ([str(i) for i in range(70_000)], "classes, got 70000; expected at most 65,536"),
        (["a", "b" * 2000], f"name of a class, got '{'b' * 40}... of 2,000 letters'; expected at most 1,000 letters"),
    ],
)  # fmt: skip
def test_classes_that_would_take_too_much_room(
    names: list[str], told: str, copy: Path, capsys: Capture
) -> None:
    about = json.loads((copy / "about.json").read_text())
    about["task"]["class_names"] = names
    (copy / "about.json").write_text(json.dumps(about))
    assert complaint(capsys, "score", copy, copy) == f"task: {told}"


def test_weights_that_do_not_fit(copy: Path, tmp_path: Path, capsys: Capture) -> None:
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["reader"]["settings"]["hidden_size"] = 9
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    told = complaint(capsys, "score", copy, copy)
    assert told == (
        "run: model.safetensors, got weights of another model (agent.squeeze.weight is 16 x 16 of F32; "
        "16 x 18 of F32 expected); expected those of config.yaml"
    )


# Evaluating and drawing.


def test_an_evaluation_is_told_on_stdout_and_not_done_again(copy: Path, capsys: Capture) -> None:
    before = {name: (copy / name).read_bytes() for name in ("points.jsonl", "outcomes.npz")}
    code, told, progress = call(capsys, "evaluate", copy)
    assert (code, progress) == (0, "")
    assert "confidence_sift_0.75" in told  # no name is cut short where there is no terminal
    assert "area: mean accuracy over log FLOPs from 2% to 100 %" in told
    line = (
        r"bag of words: \w+ reaches [\d.]+% at [\d.]+% of a full reading; the reader, reading all, (is|does) "
    )
    assert re.match(line, told.splitlines()[-1])
    code, again, progress = call(capsys, "evaluate", copy, "--again")
    assert (code, again) == (0, told)
    last = re.match(r"evaluating run test hindsight: (\d+)/\1, ", progress.splitlines()[-1])
    assert last is not None
    assert f"evaluating run validation hindsight: {last[1]}/{last[1]}, " in progress
    points = [json.loads(line) for line in (copy / "points.jsonl").read_text().splitlines()]
    for point, line in zip(points, before["points.jsonl"].splitlines(), strict=True):
        assert point | {"seconds_mean": 0} == json.loads(line) | {"seconds_mean": 0}


def test_ctrl_c_in_an_evaluation(copy: Path, capsys: Capture, monkeypatch: Patch) -> None:
    before = {p.name: p.read_bytes() for p in copy.iterdir() if p.is_file()}

    @contextmanager
    def bar(*_: str) -> Iterator[Callable[..., None]]:
        def advance(what: str, done: int, total: int) -> None:
            if done == 5:
                raise KeyboardInterrupt

        yield advance

    monkeypatch.setattr(commands, "bar", bar)
    code, out, err = call(capsys, "evaluate", copy, "--again")
    assert (code, out, err) == (130, "", "temporal: interrupted; what was finished is kept\n")
    assert {p.name: p.read_bytes() for p in copy.iterdir() if p.is_file()} == before


def test_a_full_disk_while_evaluating(copy: Path, capsys: Capture, monkeypatch: Patch) -> None:
    monkeypatch.setattr(report, "write_points", full)
    code, out, err = call(capsys, "evaluate", copy, "--again")
    expected = f"evaluate: run, got '{copy}'; expected a folder that can be written (No space left on device)"
    assert (code, out, err.splitlines()[-1]) == (2, "", f"temporal: {expected}")


def test_data_that_have_changed(
    copy: Path, mails: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(Source, "equip", full)  # must not be come to: it may take hours
    other = tmp_path / "mails"
    shutil.copytree(mails, other)
    pq.write_table(pa.table(make_mails(64, 77)), other / "train.parquet")
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace(str(mails), str(other)))
    expected = f"run: data, got 'mails'; expected the data that {copy} was trained on, unchanged"
    assert complaint(capsys, "evaluate", copy, "--again") == expected
    assert complaint(capsys, "strips", copy, "--out", tmp_path / "a.png") == expected


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_a_picture(ending: str, text_run: Path, other_seed: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / f"c.{ending}"
    code, told, progress = call(
        capsys, "plot", text_run, other_seed, "--out", out, "--agents", "policy", "prefix", "--title", "T"
    )
    assert (code, told, progress) == (0, f"{out}\n", "")
    assert out.read_bytes()[:4] == {"png": b"\x89PNG", "svg": b"<?xm"}[ending]


def test_seeds_are_averaged(text_run: Path, other_seed: Path, capsys: Capture) -> None:
    code, told, _ = call(capsys, "evaluate", text_run, other_seed)
    told = " ".join(told.split())
    assert code == 0
    assert "mails: 2 run(s), seeds 0, 1, 32 test sequences; " in told
    assert "95 % intervals over seeds (t with 1 degrees of freedom), test sequences and the choice of" in told
    _, told, _ = call(capsys, "evaluate", text_run)
    told = " ".join(told.split())
    alone = "95 % intervals of this one seed, over test sequences and the choice of settings on validation; they do"
    assert alone in told


@pytest.mark.parametrize("command", ["evaluate", "plot"])
def test_runs_that_do_not_go_together(
    command: str, text_run: Path, copy: Path, other_seed: Path, tmp_path: Path, capsys: Capture
) -> None:
    told = complaint(capsys, command, text_run, text_run)
    rule = "expected each run once: runs that are averaged differ in nothing but their seed"
    assert told == f"{command}: runs, got the same folder in {text_run} and {text_run}; {rule}"
    told = complaint(capsys, command, text_run, copy)
    assert told == f"{command}: runs, got the same weights in {text_run} and {copy}; {rule}"
    changed = tmp_path / "changed"
    shutil.copytree(other_seed, changed)
    config = (changed / "config.yaml").read_text()
    (changed / "config.yaml").write_text(config.replace("floor: 0.02", "floor: 0.05"))
    told = complaint(capsys, command, text_run, changed)
    assert told == (
        f"{command}: evaluation.floor of {changed}, got 0.05; expected 0.02, as in {text_run}: "
        "runs that are averaged differ in nothing but their seed"
    )
    _, told, _ = call(capsys, "evaluate", changed)
    assert "from 5% to 100 %" in told


def test_runs_of_different_tasks(text_run: Path, other_seed: Path, tmp_path: Path, capsys: Capture) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(other_seed, changed)
    points = (changed / "points.jsonl").read_text()
    (changed / "points.jsonl").write_text(points.replace('"task": "mails"', '"task": "other"'))
    told = complaint(capsys, "plot", text_run, changed)
    assert told == "plot: tasks of the runs, got ['mails', 'other']; expected one; draw each task by itself"


def test_a_run_that_is_not_evaluated(copy: Path, other_seed: Path, capsys: Capture) -> None:
    (copy / "outcomes.npz").unlink()
    told = complaint(capsys, "plot", other_seed, copy)
    assert (
        told == f"plot: run, got '{copy}'; expected an evaluated run; `temporal evaluate {copy}` comes first"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--agents", "polcy"], "plot: --agents, got 'polcy'; expected some of {names}; did you mean 'policy'?"),
        (["--agents"], "plot: series, got []; expected one or more besides read_all, of different names"),
        (["--agents", "policy", "policy"], "plot: series, got ['policy', 'policy']; expected one or more besides read_all, of different names"),
        (["--out", "c.gif"], "plot: suffix of the file, got '.gif'; expected one of .png, .svg"),
        (["--out", "file/c.png"], "plot: --out, got 'file/c.png'; expected a file that can be written (Not a directory)"),
    ],
)  # fmt: skip
def test_a_picture_that_cannot_be(
    arguments: list[str], message: str, text_run: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "file").touch()
    with np.load(text_run / "outcomes.npz") as arrays:
        known = dict.fromkeys(n.split("/")[1] for n in arrays.files if n.startswith("test/"))
    names = ", ".join(n for n in known if n not in ("free", "read_all"))
    assert complaint(capsys, "plot", text_run, *arguments) == message.format(names=names)


# Prices and lists.


def test_cost(text_config: Path, capsys: Capture) -> None:
    code, told, err = call(capsys, "cost", text_config, "--reader.hidden_size", "8", "--chunk", "4")
    assert (code, err) == (0, "")
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")] for line in told.splitlines() if line[0] == "│"
    ]
    flops = {row[0]: float(row[1].replace(",", "")) for row in rows}
    names = list(flops)
    assert names[:3] == [f"read one token: {mode}" for mode in ("copy", "skim", "full")]
    assert flops["read one token: copy"] == 0
    # an embedding of 8, then 3 gates of 8 units over 8 inputs and 8 units, 2 FLOPs a multiply-accumulate
    assert flops["read one token: full"] == 8 + 2 * 3 * 8 * (8 + 8)
    assert flops["examine one token for sifting"] == 2
    assert flops["answer (class probabilities)"] == 2 * 2 * 16
    decision = flops["decide (agent, previews included)"]
    one = flops["one observation of 4 tokens, answer and decision included"]
    assert one == 4 * flops["read one token: full"] + 64 + decision
    assert names[-1].startswith("full reading of the average sequence (")
    assert [row[2] for row in rows][-1] == "100.0000%"


def test_list(capsys: Capture) -> None:
    code, told, err = call(capsys, "list")
    assert (code, err) == (0, "")
    for path in (Path(__file__).parents[1] / "configs").glob("*.yaml"):
        assert f" {path.stem} " in told
        assert path.read_text().splitlines()[0].removeprefix("# ") in told
    for name in (
        "data.text.TextSource",
        "agents.policy.PolicyAgent",
        "decisions.Halt",
        "agents.ppo.PPO",
        "readers.recurrent.RecurrentReader",
    ):
        assert f" temporal.{name} " in told
    assert "controls" not in told  # no YAML can name them
    assert all("…" not in line for line in told.splitlines())


# Progress.


def test_progress_shows_a_rate(capsys: Capture, monkeypatch: Patch) -> None:
    clock = iter([0.0, 1.0, 4.0, 10.0, 20.0, 20.0, 30.0])
    monkeypatch.setattr(display.time, "monotonic", lambda: next(clock))
    with display.bar("scoring", "texts") as advance:
        for done in (100, 400, 1000, 2000):  # at 1, 4, 10 and 20 seconds
            advance("", done, 0)
        advance("", 2000, 2000)
    assert capsys.readouterr() == (
        "", "scoring: 1000, 100.0 texts/s\nscoring: 2000, 100.0 texts/s\nscoring: 2000/2000, 100.0 texts/s\n",
    )  # fmt: skip


def test_the_rate_of_a_training_that_goes_on(capsys: Capture, monkeypatch: Patch) -> None:
    clock = iter([0.0, 5.0, 7.0, 9.0, 11.0, 13.0])
    monkeypatch.setattr(display.time, "monotonic", lambda: next(clock))
    with display.training_bar() as progress:
        progress("warmup", 99, 100, {"loss": 1.0})
        progress("warmup", 100, 100, {"loss": 2.0})
        progress("policy", 1, 3, {"loss": 4.0, "accuracy": 0.5})
        progress("policy", 2, 3, {"loss": 4.0})
        progress("policy", 3, 3, {"loss": 4.0})
    assert capsys.readouterr().err.splitlines() == [
        "training warmup (loss 1.05): 100/100, 0.5 updates/s",
        "training policy (loss 4): 3/3, 0.5 updates/s",
    ]
