"""Phases of a training, in process: resumed anywhere to the same bits; every setting counts; odds start at one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from temporal.agents.frame_exit import GateFit
from temporal.agents.phases import Metrics, PolicyPhase
from temporal.agents.policy import PolicyAgent
from temporal.agents.ppo import PPO
from temporal.agents.preview import PreviewFit
from temporal.agents.reinforce import A2C, Learner, Reinforce
from temporal.agents.rollout import Trajectories
from temporal.agents.scene import Scene
from temporal.agents.stopping import StoppingFit
from temporal.agents.train import Training
from temporal.agents.train import train as run_training
from temporal.agents.warmup import Warmup
from temporal.data.base import Sequences
from temporal.decisions import Decision, Halt, Jump, Mode, Place, Sift
from temporal.experiment import concrete
from temporal.readers import Reader, RecurrentReader
from tests.footage import NeedleClips, make_frame_reader
from tests.needle import NEEDLE
from tests.test_schemes import MAKE

CLIPS = NeedleClips(num=12)
TEXTS = NEEDLE.split("train")
FRAMES = CLIPS.split("train")
Weights = dict[str, Tensor]


def text_scene(training: Training, *decisions: Decision, seed: int = 0, **settings: Any) -> Scene:
    """A small reader and agent with dropout, on texts."""
    torch.manual_seed(seed)
    reader = RecurrentReader(NEEDLE.task, "gru", 4, 6, skim_size=2)
    given = {"hidden_size": 5, "summary_size": 2, "dropout": 0.3} | settings
    agent = PolicyAgent(NEEDLE.task, reader, decisions or (Halt(), Sift()), **given)
    return training.scene(TEXTS, reader, agent, 4, 16, seed)


def frame_scene(training: Training, make: Callable[[Reader], PolicyAgent], seed: int = 0) -> Scene:
    """A small reader with previews and dropout, on clips, and an agent of a published scheme."""
    torch.manual_seed(seed)
    reader = make_frame_reader(CLIPS.task, views=("8px_2x2", "16px", "8px"), feature_dropout=0.3)
    CLIPS.equip(reader)
    return training.scene(FRAMES, reader, make(reader), 1, 16, seed)


def training_of(**settings: Any) -> Training:
    """Two updates of each phase in which everything random is at work."""
    shares = dict.fromkeys(("gap_share", "shuffle_share", "view_share"), 0.5)
    parts: dict[str, Any] = {
        "warmup": Warmup(2, 28, **shares),
        "preview": PreviewFit(2, 4),
        "stopping": StoppingFit(2, 8, 20),
        "learner": PPO(passes=1, parts=2),
        "updates": 2,
        "learning_rate": 0.5,
        "episodes": 6,
        "held_out": 0.3,
        "save_seconds": 0.0,
    }
    return Training(**(parts | settings))


def weights(scene: Scene) -> Weights:
    models = {"reader": scene.reader, "agent": scene.agent}
    return {f"{k}.{n}": v.clone() for k, m in models.items() for n, v in m.state_dict().items()}


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(
        a.shape == other[n].shape and torch.equal(a, other[n]) for n, a in one.items()
    )


# Resumed.


class KilledError(Exception):
    """Stands in for whatever ends a process."""


AIDED = {"stopping_weight": 0.5}
GATES = {"stopping": GateFit(2, 8, 20), "task_reward": "log_likelihood"}
ALONG = {"reader_learning_rate": 1e-3}
CASES: dict[str, tuple[Training, Callable[[Training], Scene]]] = {
    "texts, PPO": (training_of(**AIDED), text_scene),
    "texts, A2C": (training_of(learner=A2C(), **ALONG), text_scene),
    "texts, places": (training_of(learner=Reinforce(), **AIDED), lambda t: text_scene(t, Halt(), Place(5))),
    "texts, modes": (training_of(**AIDED), lambda t: text_scene(t, Halt(), Jump((0, 4)), Mode())),
    **{
        kind: (
            training_of(
                **({} if kind == "resolution" else AIDED),
                **(GATES if kind == "frame exit" else {}),
                **({"learner": Reinforce()} if kind == "sampler" else {}),
            ),
            lambda t, make=make: frame_scene(t, make),  # type: ignore[misc]
        )
        for kind, make in MAKE.items()
    },
}  # fmt: skip


def test_every_scheme_and_learner_is_resumed_here() -> None:
    scenes = [make(training) for training, make in CASES.values()]
    assert {type(s.agent) for s in scenes} == set(concrete(PolicyAgent))
    assert {type(t.learner) for t, _ in CASES.values()} == set(concrete(Learner))
    assert {type(t.stopping) for t, _ in CASES.values()} == set(concrete(StoppingFit))


@pytest.mark.parametrize("case", CASES)
def test_killed_in_every_phase_it_ends_with_the_same_bits(case: str, tmp_path: Path) -> None:
    training, make = CASES[case]
    whole = make(training)
    run_training(training, whole, tmp_path / "whole", 3)
    expected = weights(whole)

    deaths: list[tuple[str, int]] = []

    def die_once(phase: str, done: int, total: int, metrics: Metrics) -> None:
        if done > 1 and (phase, done) not in deaths:  # all but the last update is saved by then
            deaths.append((phase, done))
            raise KilledError

    def go_on(progress: Any) -> Scene | None:
        scene = make(training)
        torch.manual_seed(len(deaths))  # whatever a new process starts with
        try:
            run_training(training, scene, tmp_path / "killed", 3, progress=progress)
        except KilledError:
            return None
        return scene

    resumed = None
    while resumed is None:
        resumed = go_on(die_once)
    phases = {phase for phase, _ in deaths}
    assert phases >= {"warmup", "policy"} | ({"stopping"} if training.stopping_weight else set())
    assert same(weights(resumed), expected)


# Acting and learning.


class Odds(PPO):
    """Notes the ratio of chances at the first update, and the chances that the agent acts by."""

    def __init__(self, passes: int = 1) -> None:
        super().__init__(passes=passes, parts=1)
        self.ratios: list[Tensor] = []
        self.training: list[bool] = []

    def _loss(
        self, agent: PolicyAgent, episodes: Trajectories, before: Tensor, advantage: Tensor, target: Tensor
    ) -> Tensor:
        self.training.append(agent.training)
        present, _ = agent.log_probability(agent.judge(episodes.observation), episodes.actions)
        self.ratios.append((present - before).exp()[episodes.valid])
        agent.eval()
        acted, _ = agent.log_probability(agent.judge(episodes.observation), episodes.actions)
        self.ratios.append((acted - before).exp()[episodes.valid])
        return super()._loss(agent, episodes, before, advantage, target)


@pytest.mark.parametrize("aided", [0.0, 0.5])
def test_chances_are_those_of_the_draw_until_something_has_changed(aided: float) -> None:
    learner = Odds(passes=2)
    training = training_of(learner=learner, stopping_weight=aided)
    scene = text_scene(training, Halt(), Sift(), dropout=0.5)
    phase = training.phases(scene, 0, warm=True)[-1]
    assert isinstance(phase, PolicyPhase)
    phase.prepare(torch.Generator().manual_seed(0))
    for _ in phase.losses(0, torch.Generator().manual_seed(0)):
        pass  # no step is taken, so that nothing changes
    assert len(learner.ratios) == 4
    assert not any(learner.training)
    for ratio in learner.ratios:
        torch.testing.assert_close(ratio, torch.ones_like(ratio), atol=1e-5, rtol=0)


# Settings.


def changed(kind: type, base: dict[str, Any], **others: Any) -> dict[str, tuple[Any, Any]]:
    """Objects of a class by the name of each of its settings: as it is, and with that setting changed."""
    assert set(others) == set(inspect.signature(kind).parameters), kind
    plain = kind(**base)
    return {f"{kind.__name__}.{n}": (plain, kind(**(base | {n: value}))) for n, value in others.items()}


FIT = {"updates": 2, "batch_size": 8, "sequences": 20, "learning_rate": 0.01, "weight_decay": 0.01}
OTHER_FIT = {"updates": 1, "batch_size": 5, "sequences": 11, "learning_rate": 0.02, "weight_decay": 0.5}
SHARES = {"gap_share": 0.5, "sift_share": 0.5, "skim_share": 0.5, "shuffle_share": 0.5, "view_share": 0.5}
BY_PART: dict[str, dict[str, tuple[Any, Any]]] = {
    "warmup": changed(
        Warmup, {"epochs": 1, "batch_size": 28, **SHARES}, epochs=2, batch_size=20, learning_rate=0.02,
        weight_decay=0.5, **dict.fromkeys(SHARES, 0.1), last_weight=0.1, clip_norm=1e-4,
    ),
    "stopping": changed(StoppingFit, FIT, **OTHER_FIT, method="regression", variety=0.0),
    "gates": changed(GateFit, FIT, **OTHER_FIT, scale=0.5),
    "preview": changed(
        PreviewFit, {"updates": 2, "batch_size": 4}, updates=1, batch_size=3, learning_rate=0.1, weight_decay=0.5,
        flips=False,
    ),
    "learner": changed(
        PPO, {"passes": 2}, clip=1e-6, passes=1, parts=3, decay=0.1, entropy_weight=0.1, value_weight=0.1
    )
    | changed(
        Reinforce, {"baseline": "learned", "group_size": 2}, baseline="none", group_size=3, entropy_weight=0.1,
        value_weight=0.1,
    )
    | changed(A2C, {}, decay=0.1, entropy_weight=0.1, value_weight=0.1),
    "training": {
        name: (training_of(), training_of(**{name: value}))
        for name, value in {
            "updates": 1, "episodes": 4, "learning_rate": 0.1, "reader_learning_rate": 0.01,
            "stopping_weight": 0.5, "held_out": 0.0, "task_reward": "log_likelihood", "prices": (0.1, 1.0),
            "token_budget_share": 1.0, "clip_norm": 1e-4,
        }.items()
    },
}  # fmt: skip
SETTINGS = [(part, name) for part, found in BY_PART.items() for name in found]
PLAIN: dict[tuple[str, str], Weights] = {}


def fitted(part: str, value: Any, folder: Path) -> Weights:
    """Where a training ends of which one part is given."""
    if part == "training":
        training = value
    elif part == "gates":
        training = training_of(stopping=value, task_reward="log_likelihood")
    else:
        training = training_of(**{part: value})
    scene = frame_scene(training, MAKE["glimpse"]) if part == "preview" else text_scene(training)
    run_training(training, scene, folder, 3)
    return weights(scene)


@pytest.mark.parametrize(("part", "name"), SETTINGS)
def test_every_setting_changes_what_is_learnt(part: str, name: str, tmp_path: Path) -> None:
    before, after = BY_PART[part][name]
    key = part, type(before).__name__
    if key not in PLAIN:
        PLAIN[key] = fitted(part, before, tmp_path / "plain")
    assert not same(fitted(part, after, tmp_path / "other"), PLAIN[key])


def test_no_setting_of_a_training_is_left_out() -> None:
    parts = {"warmup", "stopping", "learner", "preview"}
    elsewhere = {"save_seconds"}  # changes what is saved, never what is learnt: test_training.py
    assert {*BY_PART["training"], *parts, *elsewhere} == set(inspect.signature(Training).parameters)
    fits = {Warmup, PreviewFit, *concrete(StoppingFit), *concrete(Learner)}
    pairs = [pair for part in BY_PART for pair in BY_PART[part].values() if part != "training"]
    assert {type(plain) for plain, _ in pairs} == fits


def test_the_same_settings_learn_the_same(tmp_path: Path) -> None:
    one, other = (fitted("training", training_of(), tmp_path / name) for name in ("one", "other"))
    assert same(one, other)


def test_each_class_is_split_between_reader_and_agent_in_the_same_proportion() -> None:
    labels = np.repeat([0, 1, 2], [80, 15, 5])
    source = Sequences(np.ones(100, np.int64), np.arange(101), labels)
    reader = RecurrentReader(NEEDLE.task, "gru", 4, 6, skim_size=2)
    agent = PolicyAgent(NEEDLE.task, reader, hidden_size=5)
    first, second = (training_of(held_out=0.2).scene(source, reader, agent, 4, 16, seed) for seed in (0, 1))
    for scene in (first, second):
        assert np.bincount(labels[scene.agent_rows]).tolist() == [16, 3, 1]
        assert sorted([*scene.agent_rows.tolist(), *scene.reader_rows.tolist()]) == list(range(100))
    assert set(first.agent_rows.tolist()) != set(second.agent_rows.tolist())
