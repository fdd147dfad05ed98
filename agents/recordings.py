"""What one reading to the end says of every point where it could have stopped."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from temporal.agents.controls import Confidence, Measure
from temporal.agents.rollout import Trajectories, TrajectoryRecorder
from temporal.agents.ways import Follow
from temporal.data.base import Sequences
from temporal.episodes import Plan
from temporal.readers.base import Reader
from temporal.reading import read

Thresholds = dict[Measure, list[float]]


class Recording(NamedTuple):
    """What one full reading of a split says of every stopping point; (sequences, steps) each, the end included.

    `probabilities` has classes after that; `cost` is in units of full reading, an answer at every step included;
    `may_stop` is true from the first observation up to the end, and at the end always.
    """

    probabilities: Tensor
    sureness: dict[Measure, Tensor]
    correct: Tensor
    cost: Tensor
    valid: Tensor
    may_stop: Tensor

    @property
    def last(self) -> Tensor:
        """Where each sequence ends (sequences,): its last column."""
        return self.valid.sum(1) - 1

    def first(self, wanted: Tensor) -> Tensor:
        """Where a rule stops (sequences,) that wants to at some points (sequences, steps); at the end at the latest."""
        stop = wanted & self.may_stop
        stop[torch.arange(len(stop)), self.last] = True
        return stop.long().argmax(1)

    def outcome(self, stops: Tensor, decision_flops: float = 0.0) -> tuple[float, float]:
        """Mean accuracy and cost of stopping there, each decision until then at a price in units of full reading."""
        at = stops[:, None]
        decisions = torch.minimum(stops + 1, self.last)  # at the end nothing is left to decide
        cost = self.cost.gather(1, at)[:, 0] + decision_flops * decisions
        return float(self.correct.gather(1, at).double().mean()), float(cost.mean())


def record_all(
    reader: Reader, source: Sequences, rows: Tensor, num_slots: int, chunk: int, follow: Follow
) -> Recording:
    """Read some sequences to the end, noting answers, correctness and cost before every observation."""
    recorder = TrajectoryRecorder(keep_summary=False)
    never = Confidence(1.0)
    never.threshold = 2.0  # no probability reaches it
    read(source, reader, follow(never), Plan.of(rows), num_slots, chunk, recorder)
    episodes: Trajectories = recorder.trajectories()
    observation = episodes.observation
    assert source.labels is not None
    assert observation.probabilities is not None
    num_steps = episodes.valid.sum(1).cpu()
    every = torch.arange(len(rows))

    def with_end(before: Tensor, end: Tensor) -> Tensor:
        whole = torch.cat([before, end[:, None]], 1).cpu()
        whole[every, num_steps] = end.cpu()
        return whole

    answers = with_end(observation.probabilities, episodes.answers)
    valid = torch.arange(answers.shape[1]) <= num_steps[:, None]
    measures: tuple[Measure, ...] = ("probability", "entropy")
    return Recording(
        answers,
        {m: Confidence.sureness(answers, m) for m in measures},
        answers.argmax(-1) == source.labels[rows][:, None],
        with_end(observation.flops, episodes.flops) / reader.full_flops(),
        valid,
        with_end(observation.observations > 0, torch.ones_like(num_steps, dtype=torch.bool)) & valid,
    )


def threshold_grid(values: Tensor) -> Tensor:
    """Thresholds worth trying for sureness (any shape): its quantiles, and values ever nearer to 1."""
    some = values.flatten()[torch.linspace(0, values.numel() - 1, min(values.numel(), 100_000)).long()]
    grid = torch.quantile(some.double(), torch.linspace(0, 1, 200, dtype=torch.double))
    found: Tensor = torch.cat([grid, torch.ones(1).double() - torch.logspace(-2, -6, 40).double()]).unique()
    return found


def thresholds_of(recording: Recording, num: int) -> Thresholds:
    """Thresholds at which stopping costs, on this recording, spread evenly over log FLOPs."""
    found: Thresholds = {}
    # From the second column on: the rule reads one observation at least.
    costs = recording.cost[:, 1:][recording.valid[:, 1:]]
    goals = torch.logspace(
        float(costs.min().log10()), float(recording.cost.amax(1).mean().log10()), num, dtype=costs.dtype
    )
    for measure, sureness in recording.sureness.items():
        grid = threshold_grid(sureness[recording.valid])
        means = [recording.outcome(recording.first(sureness >= t))[1] for t in grid]
        nearest = (torch.tensor(means)[:, None] - goals).abs().argmin(0)
        found[measure] = [float(t) for t in grid[nearest.unique()]]
    return found
