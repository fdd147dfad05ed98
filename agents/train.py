"""Trains a reader and an agent, phase after phase; killed at any moment it goes on to the same weights."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from temporal.agents.checkpoint import Checkpoint
from temporal.agents.phases import Metrics, Phase, PolicyPhase, StoppingPhase, WarmupPhase
from temporal.agents.policy import PolicyAgent
from temporal.agents.preview import PreviewFit, PreviewPhase
from temporal.agents.reinforce import Learner, Reinforce
from temporal.agents.salience import count_salience
from temporal.agents.scene import Scene
from temporal.agents.stopping import StoppingFit
from temporal.agents.warmup import Warmup
from temporal.data.base import Sequences
from temporal.errors import bad
from temporal.ranges import (
    Batch,
    BelowOne,
    Checked,
    NonNegative,
    Positive,
    Price,
    Rate,
    RateOrNone,
    Seconds,
    Share,
    Updates,
)
from temporal.readers.base import Reader
from temporal.readers.video import FrameReader
from temporal.reward import TaskReward


class Progress(Protocol):
    """Something that shows how far a training is."""

    def __call__(self, phase: str, done: int, total: int, metrics: Metrics) -> None:
        """Called after every update."""


class Training(Checked):
    """How a reader and an agent are trained.

    Args:
        warmup: of the reader.
        preview: fit of the reader's preview of frames; only for readers that have one.
        stopping: fit of halting on recorded readings; updates 0 leaves it out.
        learner: policy-gradient method.
        updates: of the policy-gradient phase; 0 leaves it out.
        episodes: of each update.
        learning_rate: of the agent by policy gradient.
        reader_learning_rate: of the reader along the agent's trajectories; 0 freezes it.
        stopping_weight: of the stopping loss beside the policy gradient; 0 for none.
        held_out: share of train kept from the reader, on which the agent learns, 0 to below 1; 0: both use all.
        task_reward: what an answer is worth: log_likelihood, correctness, probability.
        prices: range from which each episode's price is drawn, log-uniformly; equal ends fix it.
        token_budget_share: share of episodes with a budget in tokens, 0 to 1.
        clip_norm: gradients are scaled down to this norm, after the warm-up, which has its own.
        save_seconds: between checkpoints.
    """

    def __init__(
        self,
        warmup: Warmup | None = None,
        stopping: StoppingFit | None = None,
        learner: Learner | None = None,
        updates: Updates = 200,
        episodes: Batch = 128,
        learning_rate: Rate = 3e-4,
        reader_learning_rate: RateOrNone = 0.0,
        stopping_weight: NonNegative = 0.0,
        held_out: BelowOne = 0.2,
        task_reward: TaskReward = "correctness",
        prices: tuple[Price, Price] = (0.003, 30.0),
        token_budget_share: Share = 0.25,
        clip_norm: Positive = 1.0,
        save_seconds: Seconds = 20.0,
        preview: PreviewFit | None = None,
    ) -> None:
        if prices[0] > prices[1]:
            raise bad("Training", "prices", list(prices), "the lower first")
        if stopping_weight > 0 and reader_learning_rate > 0:
            raise bad(
                "Training",
                "stopping_weight and reader_learning_rate",
                (stopping_weight, reader_learning_rate),
                "one of them 0: recorded readings age while the reader learns",
            )
        self.warmup, self.stopping = warmup or Warmup(), stopping or StoppingFit()
        self.preview = preview or PreviewFit()
        self.learner, self.updates, self.episodes = learner or Reinforce(), updates, episodes
        self.learning_rate, self.reader_learning_rate = learning_rate, reader_learning_rate
        self.stopping_weight, self.held_out, self.task_reward = stopping_weight, held_out, task_reward
        self.prices, self.token_budget_share = prices, token_budget_share
        self.clip_norm, self.save_seconds = clip_norm, save_seconds

    def scene(
        self, source: Sequences, reader: Reader, agent: PolicyAgent, chunk: int, num_slots: int, seed: int
    ) -> Scene:
        """Split the sequences between reader and agent, by seed; each class in the same proportion."""
        order = torch.randperm(len(source), generator=torch.Generator().manual_seed(derive(seed, "split")))
        if source.labels is not None:
            order = order[share_of_class(source.labels[order]).argsort(stable=True)]
        held = max(round(self.held_out * len(source)), 1) if self.held_out else 0
        agent_rows, reader_rows = (order[:held], order[held:]) if held else (order, order)
        return Scene(
            source, reader_rows, agent_rows, reader, agent, chunk, num_slots,
            self.task_reward, self.prices, self.token_budget_share,
        )  # fmt: skip

    def phases(self, scene: Scene, seed: int, warm: bool) -> list[Phase]:
        """The phases in order; `warm` leaves out those of a reader that comes from another run."""
        order = derive(seed, "order")
        first: list[Phase] = []
        if not warm:
            first = [WarmupPhase(scene, self.warmup, order)]
            if isinstance(scene.reader, FrameReader) and scene.reader.previewer is not None:
                first.append(PreviewPhase(scene, self.preview, self.clip_norm))
        policy = PolicyPhase(
            scene, self.learner, self.updates, self.episodes, self.learning_rate,
            self.reader_learning_rate, self.stopping, self.stopping_weight, self.clip_norm,
        )  # fmt: skip
        return [*first, StoppingPhase(scene, self.stopping, self.clip_norm), policy]


def share_of_class(labels: Tensor) -> Tensor:
    """Of each label the share of its class that lies before its middle; sorted by it every part has all classes.

    >>> share_of_class(torch.tensor([0, 1, 0, 0, 0])).tolist()
    [0.125, 0.5, 0.375, 0.625, 0.875]
    """
    share = torch.empty(len(labels), dtype=torch.double)
    for label in labels.unique():
        where = (labels == label).nonzero()[:, 0]
        share[where] = (torch.arange(len(where)) + 0.5).double() / len(where)
    return share


def derive(seed: int, *names: object) -> int:
    """A seed for one purpose from the seed of the whole; the same on every machine."""
    return int.from_bytes(sha256(json.dumps([seed, *map(str, names)]).encode()).digest()[:7], "big")


def train(
    training: Training,
    scene: Scene,
    folder: Path,
    seed: int,
    warm: bool = False,
    progress: Progress | None = None,
    log: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Run all phases from where the checkpoint in `folder` stands; weights end in the scene's reader and agent.

    Every update draws from generators seeded by (seed, phase, update), so a training needs only weights, optimiser,
    a count, and the weights that its phase began with (what a phase prepares may depend on them) to go on, and on a
    CPU goes on to the same bits.

    Args:
        training: what to do.
        scene: data, reader and agent.
        folder: state of the training; made when missing.
        seed: of everything random.
        warm: the reader comes warmed up from another run.
        progress: called after every update.
        log: takes one record of metrics for every update.
    """
    phases = training.phases(scene, seed, warm)
    models = nn.ModuleDict({"reader": scene.reader, "agent": scene.agent})
    checkpoint = Checkpoint(folder)
    position = checkpoint.load_models(models)
    if position is None and not warm and scene.reader.task.vocabulary_size > 1:  # frames have no vocabulary
        counted = count_salience(
            scene.source, scene.reader_rows, scene.reader.task.vocabulary_size, scene.reader.task.num_classes
        )
        scene.reader.salience.copy_(counted)
    start, done = position or (0, 0)
    for index in range(start, len(phases)):
        phase = phases[index]
        first = done if index == start else 0
        if first < phase.num_updates:
            _prepare(phase, index, first, models, folder, seed)
            _run_phase(training, phase, index, first, models, checkpoint, seed, progress, log)
        checkpoint.save(models, None, index + 1, 0)


def _prepare(phase: Phase, index: int, first: int, models: nn.ModuleDict, folder: Path, seed: int) -> None:
    """Have a phase prepare with the weights it began with, which are kept until the next one begins."""
    begun = Checkpoint(folder, "begun")
    present = {name: tensor.clone() for name, tensor in models.state_dict().items()} if first else None
    if present is None:
        begun.save(models, None, index, 0)
    elif begun.load_models(models) != (index, 0):  # it is gone: the present ones must do
        models.load_state_dict(present)
    torch.manual_seed(derive(seed, phase.name, "prepare"))
    phase.prepare(torch.Generator().manual_seed(derive(seed, phase.name, "prepare")))
    if present is not None:
        models.load_state_dict(present)


def _run_phase(
    training: Training, phase: Phase, index: int, first: int, models: nn.ModuleDict, checkpoint: Checkpoint,
    seed: int, progress: Progress | None, log: Callable[[dict[str, Any]], None] | None,
) -> None:  # fmt: skip
    optimizer = phase.optimizer()
    if first:
        checkpoint.load_optimizer(optimizer)
    saved = started = time.monotonic()
    with patient_interrupts() as interrupted:
        for update in range(first, phase.num_updates):
            metrics = _update(phase, optimizer, update, seed)
            if log is not None:
                seconds = round(time.monotonic() - started, 3)
                log({"phase": phase.name, "update": update + 1, "seconds": seconds, **metrics})
            if progress is not None:
                progress(phase.name, update + 1, phase.num_updates, metrics)
            if interrupted() or time.monotonic() - saved > training.save_seconds:
                checkpoint.save(models, optimizer, index, update + 1)
                saved = time.monotonic()
            if interrupted():
                raise KeyboardInterrupt


@contextmanager
def patient_interrupts() -> Iterator[Callable[[], bool]]:
    """While this lasts Ctrl-C only sets a flag, so that an update is never broken off half way.

    A second Ctrl-C interrupts at once. Outside the main thread, where signals cannot be caught, it changes nothing.
    """
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: object) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, before)


def _update(phase: Phase, optimizer: torch.optim.Optimizer, update: int, seed: int) -> Metrics:
    torch.manual_seed(derive(seed, phase.name, update))  # dropout draws from the global generator
    generator = torch.Generator().manual_seed(derive(seed, phase.name, update, "draws"))
    rate = phase.learning_rate(update)
    metrics: Metrics = {}
    for loss, found in phase.losses(update, generator):
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("share", 1.0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], phase.clip_norm)
        optimizer.step()
        metrics = found
    return metrics
