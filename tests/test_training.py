"""Training from the command line: the same seed gives the same bytes, whatever happens on the way."""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from temporal.agents.checkpoint import Checkpoint
from temporal.agents.controls import Prefix
from temporal.agents.reinforce import Reinforce
from temporal.agents.stopping import StoppingFit
from temporal.agents.train import Training, derive, patient_interrupts
from temporal.agents.train import train as run_training
from temporal.agents.warmup import Warmup
from temporal.cli import main
from temporal.episodes import Outcome, Plan
from temporal.errors import UserError
from temporal.reading import read
from temporal.runs import load
from tests.needle import NEEDLE, NeedleReader, make_policy, make_reader

SOURCE = NEEDLE.split("train")
DATA = {
    "class_path": "NeedleSource",
    "init_args": {"num_sequences": 48, "length": 8, "num_classes": 2, "noise": 3},
}
READERS: dict[str, dict[str, Any]] = {
    "gru": {
        "class_path": "RecurrentReader",
        "init_args": {"cell": "gru", "embedding_size": 6, "hidden_size": 6, "skim_size": 2},
    },
    "lstm": {
        "class_path": "RecurrentReader",
        "init_args": {"cell": "lstm", "embedding_size": 6, "hidden_size": 6, "skim_size": 2},
    },
    "transformer": {"class_path": "TransformerReader", "init_args": {"width": 8, "num_heads": 2, "ratio": 2}},
}
SCHEMES: dict[str, list[dict[str, Any]] | None] = {
    "default": None,
    "halt": [{"class_path": "Halt"}],
    "halt, jump": [{"class_path": "Halt"}, {"class_path": "Jump", "init_args": {"sizes": [0, 2]}}],
    "halt, jump, mode": [{"class_path": "Halt"}, {"class_path": "Jump"}, {"class_path": "Mode"}],
    "halt, sift": [{"class_path": "Halt"}, {"class_path": "Sift"}],
    "jump": [{"class_path": "Jump"}],
}
LEARNERS: dict[str, dict[str, Any]] = {
    "group": {"class_path": "Reinforce", "init_args": {"baseline": "group", "group_size": 2}},
    "learned": {"class_path": "Reinforce", "init_args": {"baseline": "learned", "group_size": 1}},
    "none": {"class_path": "Reinforce", "init_args": {"baseline": "none", "group_size": 1}},
    "a2c": {"class_path": "A2C"},
    "ppo": {"class_path": "PPO", "init_args": {"passes": 2, "parts": 2}},
}
PHASES = {"warmup": 4, "stopping": 3, "policy": 3}  # updates of each


def write_config(
    file: Path,
    reader: str = "gru",
    scheme: str = "halt, sift",
    learner: str = "ppo",
    warmup: dict[str, Any] | None = None,
    stopping: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    sizes: dict[str, Any] | None = None,
    agent: dict[str, Any] | None = None,
    **training: Any,
) -> Path:
    """A small experiment in which everything random is at work: dropout, gaps, draws, budgets."""
    dropout = 0.0 if scheme == "jump" else 0.1  # only halting is fitted with it
    settings = {"hidden_size": 6, "summary_size": 3, "dropout": dropout, **(agent or {})}
    if SCHEMES[scheme] is not None:
        settings["scheme"] = SCHEMES[scheme]
    parts = {
        "warmup": by_class(
            "warmup.Warmup", {"epochs": 2, "batch_size": 20, "sift_share": 0.3} | (warmup or {})
        ),
        "stopping": by_class("stopping.StoppingFit", {"updates": 3, "batch_size": 8} | (stopping or {})),
        "learner": LEARNERS[learner],
        "updates": 3,
        "episodes": 6,
        "save_seconds": 0.0,
    }
    config = {
        "data": DATA | {"init_args": DATA["init_args"] | (data or {})},  # type: ignore[operator]
        "reader": READERS[reader] | {"init_args": READERS[reader]["init_args"] | (sizes or {})},
        "agent": by_class("policy.PolicyAgent", settings),
        "training": by_class("train.Training", parts | training),
        "evaluation": by_class("evaluate.Evaluation", {"num_settings": 2}),
        "chunk": 2,
        "device": "cpu",
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(config))
    return file


def by_class(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {"class_path": f"temporal.agents.{name}", "init_args": settings}


def train(config: Path, folder: Path, *options: str) -> Path:
    assert main(["train", str(config), "--out", str(folder), *options]) == 0
    return folder


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def same_bytes(one: Path, other: Path) -> bool:
    return (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def updates(folder: Path) -> list[tuple[str, int]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [(record["phase"], record["update"]) for record in map(json.loads, lines)]


def every_update(phases: dict[str, int]) -> list[tuple[str, int]]:
    return [(phase, update) for phase, num in phases.items() for update in range(1, num + 1)]


class KilledError(Exception):
    """Stands in for whatever ends a process."""


def die() -> None:
    raise KilledError


def at(phase: str, update: int, act: Callable[[], None] = die) -> Callable[[], AbstractContextManager[Any]]:
    """In place of the progress bar: something that acts at one update, by default dies of it."""

    @contextmanager
    def bar() -> Iterator[Any]:
        def progress(name: str, done: int, total: int, metrics: dict[str, float]) -> None:
            if (name, done) == (phase, update):
                act()

        yield progress

    return bar


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("config") / "needle.yaml", reader_learning_rate=1e-3)


@pytest.fixture(scope="module")
def uninterrupted(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(config, tmp_path_factory.mktemp("runs") / "whole")


def test_the_same_seed_gives_the_same_bytes(config: Path, uninterrupted: Path, tmp_path: Path) -> None:
    assert same_bytes(train(config, tmp_path / "again"), uninterrupted)
    assert not same_bytes(train(config, tmp_path / "other", "--seed", "1"), uninterrupted)
    assert updates(uninterrupted) == every_update(PHASES)


# Killed and resumed.


@pytest.mark.parametrize(
    ("phase", "update", "save_seconds"),
    [
        ("warmup", 1, 0.0),
        ("warmup", 2, 0.0),  # in the middle of an epoch
        ("stopping", 3, 0.0),
        ("policy", 2, 0.0),
        ("policy", 3, 1e9),
    ],
)
def test_resumed_is_as_if_never_killed(
    phase: str,
    update: int,
    save_seconds: float,
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = write_config(tmp_path / "needle.yaml", reader_learning_rate=1e-3, save_seconds=save_seconds)
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("temporal.commands.training_bar", at(phase, update))
        with pytest.raises(KilledError):
            main(["train", str(config), "--out", str(folder)])
    assert not (folder / "model.safetensors").exists()
    assert updates(folder)[-1] == (phase, update)
    train(config, folder, "--resume")
    assert same_bytes(folder, uninterrupted)
    assert updates(folder) == every_update(PHASES)
    about = json.loads((folder / "about.json").read_text())
    assert about["finished"] is True


def test_killed_again_and_again(
    config: Path, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    # dies in every phase
    for phase, update in every_update(PHASES)[::3]:
        with monkeypatch.context() as patch:
            patch.setattr("temporal.commands.training_bar", at(phase, update))
            with pytest.raises(KilledError):
                main(["train", str(config), "--out", str(folder), "--resume"])
    train(config, folder, "--resume")
    assert same_bytes(folder, uninterrupted)
    assert updates(folder) == every_update(PHASES)


LONG = {"warmup": 30, "stopping": 60, "policy": 40}


@pytest.fixture(scope="module")
def long_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some seconds of training, so that a signal meets it at work."""
    return write_config(
        tmp_path_factory.mktemp("config") / "long.yaml",
        warmup={"epochs": 15},
        stopping={"updates": 60},
        updates=40,
        reader_learning_rate=1e-3,
        save_seconds=0.05,
    )


@pytest.fixture(scope="module")
def long_run(long_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(long_config, tmp_path_factory.mktemp("runs") / "long")


def signalled(
    config: Path, folder: Path, number: signal.Signals, *options: str
) -> subprocess.CompletedProcess[str]:
    """Train in a process of its own, sent a signal at a random moment of the first half."""
    command = [sys.executable, "-m", "temporal", "train", str(config), "--out", str(folder), *options]
    moment = random.SystemRandom().randrange(1, sum(LONG.values()) // 2)
    log = folder / "metrics.jsonl"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and (not log.exists() or log.read_bytes().count(b"\n") < moment):
            time.sleep(0.002)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_killed_at_a_random_moment(long_config: Path, long_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ended = signalled(long_config, folder, signal.SIGKILL)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    train(long_config, folder, "--resume")
    assert same_bytes(folder, long_run)
    assert updates(folder) == every_update(LONG)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_interrupted_at_a_random_moment(long_config: Path, long_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    ended = signalled(long_config, folder, signal.SIGINT)
    assert ended.returncode == 130, ended.stderr
    assert ended.stderr.splitlines()[-1] == "temporal: interrupted; what was finished is kept"
    assert "Traceback" not in ended.stderr
    done = updates(folder)
    train(long_config, folder, "--resume")
    assert same_bytes(folder, long_run)
    assert updates(folder) == every_update(LONG)
    assert done == every_update(LONG)[: len(done)]


@pytest.mark.parametrize(("phase", "update"), [("warmup", 2), ("stopping", 3), ("policy", 1)])
def test_ctrl_c_finishes_the_update_and_keeps_it(
    phase: str, update: int, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config = write_config(tmp_path / "needle.yaml", reader_learning_rate=1e-3, save_seconds=1e9)
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(
            "temporal.commands.training_bar", at(phase, update, lambda: signal.raise_signal(signal.SIGINT))
        )
        assert main(["train", str(config), "--out", str(folder)]) == 130
    assert capsys.readouterr().err == "temporal: interrupted; what was finished is kept\n"
    with safe_open(folder / "state" / "state.safetensors", "pt") as opened:
        assert json.loads(opened.metadata()["position"]) == [list(PHASES).index(phase), update]
    train(config, folder, "--resume")
    assert same_bytes(folder, uninterrupted)
    assert updates(folder) == every_update(PHASES)


def test_ctrl_c_waits_for_the_update_and_twice_does_not() -> None:
    before = signal.getsignal(signal.SIGINT)
    with patient_interrupts() as interrupted:
        assert not interrupted()
        signal.raise_signal(signal.SIGINT)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    found: list[bool] = []

    def elsewhere() -> None:
        with patient_interrupts() as interrupted:
            found.append(interrupted())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [False]


# Checkpoints.


def kill_run(config: Path, folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("temporal.commands.training_bar", at("policy", 2))
        with pytest.raises(KilledError):
            main(["train", str(config), "--out", str(folder)])
    return folder


@pytest.fixture(scope="module")
def killed(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kill_run(config, tmp_path_factory.mktemp("runs") / "killed")


@pytest.mark.parametrize("left", [0, 5, 0.5, -1])
def test_a_truncated_checkpoint_is_one_line(
    left: float, config: Path, killed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = shutil.copytree(killed, tmp_path / "run") / "state" / "state.safetensors"
    whole = state.read_bytes()
    state.write_bytes(whole[: int(left * len(whole)) if 0 < left < 1 else int(left)])
    capsys.readouterr()
    assert main(["train", str(config), "--out", str(tmp_path / "run"), "--resume"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"temporal: run: {state}, got a file that cannot be read (")
    assert line.endswith("); expected weights")


@pytest.mark.parametrize("change", ["shape", "name"])
def test_a_checkpoint_of_another_model_is_one_line(
    change: str, config: Path, killed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = shutil.copytree(killed, tmp_path / "run") / "state" / "state.safetensors"
    tensors = load_file(state)
    head = tensors.pop("model.reader.head.bias")
    tensors["model.reader.head.bias" if change == "shape" else "model.reader.foot.bias"] = torch.zeros(7)
    assert head.shape != (7,)
    save_file(tensors, state, {"position": "[2, 1]"})
    capsys.readouterr()
    assert main(["train", str(config), "--out", str(tmp_path / "run"), "--resume"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("temporal: run: state.safetensors, got weights of another model (")
    told = (
        "foot.bias is 7 of F32; none expected"
        if change == "name"
        else "head.bias is 7 of F32; 2 of F32 expected"
    )
    assert told in line
    assert line.endswith("); expected those of config.yaml")


def test_a_checkpoint_holds_weights_moments_and_position(tmp_path: Path) -> None:
    def made(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(seed)
        model = nn.Linear(3, 2)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1)

    def update(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()

    checkpoint = Checkpoint(tmp_path / "state")
    model, optimizer = made(0)
    assert checkpoint.load_models(model) is None
    for _ in range(3):
        update(model, optimizer)
    checkpoint.save(model, optimizer, 1, 3)
    other, fresh = made(1)
    assert checkpoint.load_models(other) == (1, 3)
    checkpoint.load_optimizer(fresh)
    update(model, optimizer)
    update(other, fresh)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert [p.name for p in (tmp_path / "state").iterdir()] == ["state.safetensors"]


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(tmp_path)
    model = nn.Linear(3, 2)
    checkpoint.save(model, None, 0, 1)

    def full(tensors: object, file: Path, metadata: object) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("temporal.agents.checkpoint.save_file", full)
    with pytest.raises(
        UserError, match=r"run: writing .*state\.safetensors failed: .*No space left on device"
    ):
        checkpoint.save(model, None, 0, 2)
    assert checkpoint.load_models(model) == (0, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]


def test_nothing_in_a_run_is_a_pickle(uninterrupted: Path, tmp_path: Path) -> None:
    assert main(["evaluate", str(uninterrupted)]) == 0
    files = [path for path in uninterrupted.rglob("*") if path.is_file()]
    assert {"config.yaml", "model.safetensors", "state.safetensors", "outcomes.npz"} <= {
        path.name for path in files
    }
    for path in files:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                assert all(arrays[name].dtype != object for name in arrays)
            continue
        assert not zipfile.is_zipfile(path), path  # torch.save writes zip files
        with pytest.raises(Exception, match=r".*"), path.open("rb") as opened:
            pickle.load(opened)


# What learns.


def test_the_reader_is_frozen_while_the_policy_learns_unless_told(tmp_path: Path) -> None:
    found = {}
    for name, changes in {
        "none": {"updates": 0},
        "frozen": {},
        "along": {"reader_learning_rate": 1e-3},
    }.items():
        found[name] = weights(train(write_config(tmp_path / f"{name}.yaml", **changes), tmp_path / name))

    def changed(name: str, part: str) -> set[bool]:
        keys = [k for k in found["none"] if k.startswith(part) and not k.endswith("salience")]
        return {not torch.equal(found[name][k], found["none"][k]) for k in keys}

    assert changed("frozen", "reader.") == {False}
    assert True in changed("frozen", "agent.")
    assert True in changed("along", "reader.")


def test_salience_is_counted_before_training(uninterrupted: Path) -> None:
    salience = weights(uninterrupted)["reader.salience"]
    assert salience[1:3].min() > salience[3:].max()


def test_a_reader_of_another_run_is_not_warmed_up(config: Path, uninterrupted: Path, tmp_path: Path) -> None:
    frozen = write_config(tmp_path / "frozen.yaml")
    folder = train(frozen, tmp_path / "run", "--reader-from", str(uninterrupted))
    assert {phase for phase, _ in updates(folder)} == {"stopping", "policy"}
    before, after = weights(uninterrupted), weights(folder)
    assert all(torch.equal(before[k], after[k]) for k in before if k.startswith("reader."))


COMBINATIONS = [
    *(("gru", "halt, sift", learner) for learner in LEARNERS),
    *(("gru", scheme, "ppo") for scheme in SCHEMES if scheme != "halt, sift"),
    *((reader, "halt, sift", "group") for reader in READERS if reader != "gru"),
]


@pytest.mark.parametrize(("reader", "scheme", "learner"), COMBINATIONS)
def test_every_learner_scheme_and_reader_trains(
    reader: str, scheme: str, learner: str, tmp_path: Path
) -> None:
    config = write_config(
        tmp_path / "needle.yaml",
        reader,
        scheme,
        learner,
        updates=2,
        warmup={"epochs": 1, "skim_share": 0.5 if "mode" in scheme else 0.0},
        stopping={"updates": 3 if scheme != "jump" else 0},
        learning_rate=1e-2,
    )
    folder = train(config, tmp_path / "run")
    expected = {"warmup": 2, "stopping": 0 if scheme == "jump" else 3, "policy": 2}
    assert updates(folder) == every_update(expected)
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        assert all(math.isfinite(v) for v in json.loads(line).values() if isinstance(v, float))
    assert all(tensor.isfinite().all() for tensor in weights(folder).values())
    run = load(folder)  # what was resolved can be built again
    test = run.experiment().data.split("test")
    assert isinstance(read(test, run.reader, run.agent, Plan.of(torch.arange(4)), 4, 2), Outcome)
    names = (
        ("Halt",) if scheme == "default" else tuple(word.strip().capitalize() for word in scheme.split(","))
    )
    assert tuple(type(d).__name__ for d in run.agent.scheme.decisions) == names


def test_the_stopping_loss_can_stand_beside_the_policy_gradient(tmp_path: Path) -> None:
    config = write_config(tmp_path / "needle.yaml", stopping_weight=0.5)
    whole = train(config, tmp_path / "whole")
    assert not same_bytes(whole, train(write_config(tmp_path / "without.yaml"), tmp_path / "without"))
    kill_run(config, tmp_path / "run")
    assert same_bytes(train(config, tmp_path / "run", "--resume"), whole)


def test_a_fixed_price(tmp_path: Path) -> None:
    config = write_config(tmp_path / "needle.yaml", prices=[1, 1])
    assert load(train(config, tmp_path / "run")).config["training"]["settings"]["prices"] == [1, 1]
    scene = make_scene(Training(prices=(1.0, 1.0)))
    assert scene.draw_prices(50, torch.Generator()).unique().tolist() == [1.0]


# Draws and splits.


def make_scene(training: Training, seed: int = 0) -> Any:
    reader = make_reader()
    return training.scene(SOURCE, reader, make_policy(reader), 4, 16, seed)


def test_prices_are_drawn_log_uniformly() -> None:
    prices = make_scene(Training(prices=(0.01, 100.0))).draw_prices(8000, torch.Generator().manual_seed(0))
    assert prices.min() >= 0.01
    assert prices.max() <= 100
    share = [float(((prices >= low) & (prices < 10 * low)).double().mean()) for low in (0.01, 0.1, 1, 10)]
    assert share == pytest.approx([0.25] * 4, abs=0.02)


def test_budgets_are_drawn_for_a_share_of_episodes() -> None:
    budgets = make_scene(Training(token_budget_share=0.25)).draw_budgets(
        8000, torch.Generator().manual_seed(0)
    )
    some = budgets[budgets.isfinite()]
    assert len(some) / 8000 == pytest.approx(0.25, abs=0.02)
    assert torch.equal(some, some.round())
    assert 4 <= float(some.min()) <= 5  # about one observation
    assert float(some.max()) == 20  # all of it
    none = make_scene(Training(token_budget_share=0.0)).draw_budgets(100, torch.Generator())
    assert none.isinf().all()


def test_reader_and_agent_learn_from_different_sequences() -> None:
    one, same, other = (make_scene(Training(held_out=0.25), seed) for seed in (0, 0, 1))
    assert len(one.agent_rows) == 16
    assert sorted([*one.agent_rows.tolist(), *one.reader_rows.tolist()]) == list(range(64))
    assert torch.equal(one.agent_rows, same.agent_rows)
    assert not torch.equal(one.agent_rows, other.agent_rows)
    both = make_scene(Training(held_out=0.0))
    assert torch.equal(both.agent_rows, both.reader_rows)
    assert len(both.agent_rows) == 64


def test_seeds_are_the_same_on_every_machine_and_differ_by_purpose() -> None:
    assert derive(0, "weights") == 1362764711367343
    assert len({derive(seed, name, n) for seed in range(3) for name in ("a", "b") for n in range(3)}) == 18
    assert 0 <= derive(7, "a") < 2**56


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"prices": (2.0, 1.0)},
            "Training: prices, got [2.0, 1.0]; expected the lower first",
        ),
        (
            {"prices": (0.0, 1.0)},
            "Training: prices, got [0.0, 1.0]; expected a list of 2 numbers from 1e-09 to 1,000,000",
        ),
        ({"held_out": 1.0}, "Training: held_out, got 1.0; expected a number from 0 to below 1"),
        (
            {"updates": -1},
            "Training: updates, got -1; expected a whole number from 0 to 10,000,000",
        ),
        (
            {"stopping_weight": 1.0, "reader_learning_rate": 0.1},
            "Training: stopping_weight and reader_learning_rate, got (1.0, 0.1); "
            "expected one of them 0: recorded readings age while the reader learns",
        ),
        (
            {"task_reward": "likelihood"},
            "Training: task_reward, got 'likelihood'; expected one of log_likelihood, correctness, probability; "
            "did you mean 'log_likelihood'?",
        ),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        Training(**settings)
    assert str(error.value) == message


# What it is all for.


def test_high_prices_do_not_drown_what_is_learnt_at_low_ones(tmp_path: Path) -> None:
    reader = NeedleReader()
    agent = make_policy(reader, hidden_size=24)
    training = Training(
        Warmup(epochs=0),
        StoppingFit(updates=0),
        Reinforce(),
        150,
        128,
        learning_rate=5e-3,
        prices=(0.003, 30.0),
    )
    run_training(training, training.scene(SOURCE, reader, agent, 4, 64, 0), tmp_path, seed=0)
    agent.eval()
    test = NEEDLE.split("test")
    every = torch.arange(len(test))
    found = [read(test, reader, agent, Plan.of(every, price), 64, 4) for price in (0.01, 0.3, 30.0)]
    right = [
        float((o.probabilities.argmax(1) == test.labels).double().mean()) for o in found if o is not None
    ]
    assert right[:2] == [1, 1]
    assert found[2] is not None
    assert not found[2].observations.any()


def test_a_trained_agent_beats_reading_a_prefix_at_equal_cost(tmp_path: Path) -> None:
    config = write_config(
        tmp_path / "needle.yaml",
        scheme="halt",
        learner="group",
        data={"num_sequences": 640, "length": 16, "num_classes": 3},
        sizes={"embedding_size": 12, "hidden_size": 24},
        warmup={"epochs": 8, "batch_size": 32, "learning_rate": 0.01, "sift_share": 0.0},
        stopping={"updates": 150, "batch_size": 128, "learning_rate": 0.01},
        updates=20,
        episodes=64,
        save_seconds=1e9,
    )
    run = load(train(config, tmp_path / "run"))
    test = run.experiment().data.split("test")
    every = torch.arange(len(test))

    def reached(agent: Any, price: float = 0.0) -> tuple[float, float]:
        outcome = read(test, run.reader, agent, Plan.of(every, price), 64, 2)
        assert isinstance(outcome, Outcome)
        right = outcome.probabilities.argmax(1) == test.labels
        return float(outcome.flops.mean()), float(right.double().mean())

    prefixes = [reached(Prefix(tokens)) for tokens in range(0, 17, 2)]
    flops, accuracy = reached(run.agent, 0.1)
    assert accuracy > 0.85
    equal = float(np.interp(flops, *zip(*prefixes, strict=True)))
    assert accuracy > equal + 0.1
