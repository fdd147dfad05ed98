"""Records what the loop does, and lays it out densely for learning."""

from __future__ import annotations

from array import array
from typing import Any, NamedTuple

import torch
from torch import Tensor

from temporal.data.base import Sequences
from temporal.episodes import Observation, Outcome, Plan, Reading, Transition
from temporal.readers.base import Reader, Reads
from temporal.reading import read


class Trajectories(NamedTuple):
    """A batch of readings, one row an episode, padded in time.

    Shapes: `observation` has leading axes (episodes, steps); actions (episodes, steps, decisions); cost (episodes,
    steps) FLOPs; valid (episodes, steps) true for steps that happened. `answers` (episodes, classes).
    """

    observation: Observation
    actions: Tensor
    cost: Tensor
    valid: Tensor
    reads: Reads
    answers: Tensor
    sequence: Tensor
    halted: Tensor
    flops: Tensor
    tokens: Tensor

    def part(self, rows: Tensor) -> Trajectories:
        """Some episodes."""
        return Trajectories(*(_take(column, rows) for column in self))


def _take(column: Any, rows: Tensor) -> Any:
    if isinstance(column, Tensor):
        return column[rows]
    return type(column)(*(None if c is None else c[rows] for c in column))


class TrajectoryRecorder:
    """Keeps every step that the loop takes; memory is proportional to what was read.

    Args:
        keep_summary: keep the reader's read-outs, by far the largest part.
    """

    def __init__(self, keep_summary: bool = True) -> None:
        self._keep_summary = keep_summary
        self._steps: list[tuple[Tensor | None, ...]] = []
        self._outcomes: list[Outcome] = []
        self._template: Observation | None = None

    def add(self, observation: Observation, actions: Tensor, transition: Transition) -> None:
        """Keep one step."""
        if not self._keep_summary:
            observation = observation._replace(summary=observation.summary[:, :0])
        self._template = observation
        chunk, outcome = transition.chunk, transition.outcome
        self._steps.append(
            (
                *observation,
                actions,
                transition.cost,
                chunk.tokens,
                chunk.positions,
                chunk.counts,
                transition.mode,
            )
        )
        if outcome is not None:
            self._outcomes.append(outcome)

    def trajectories(self) -> Trajectories:
        """All that was recorded, episodes in the order of the plan."""
        assert self._template is not None
        columns = [
            None if parts[0] is None else torch.cat([p for p in parts if p is not None])
            for parts in zip(*self._steps, strict=True)
        ]
        outcome = Outcome.join(self._outcomes)
        episode = columns[Observation._fields.index("episode")]
        assert episode is not None
        first = int(outcome.episode.min())
        order = torch.argsort(episode, stable=True)  # within an episode, steps stay in time
        counts = torch.bincount(episode - first)
        row = (episode - first)[order]
        column = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        valid = torch.arange(int(counts.max()), device=row.device) < counts[:, None]

        def lay(values: Tensor | None) -> Tensor | None:
            if values is None:
                return None
            dense = values.new_zeros(*valid.shape, *values.shape[1:])
            dense[row, column] = values[order]
            return dense

        laid = [lay(c) for c in columns]
        size = len(self._template)
        actions, cost, tokens, positions, read_counts, mode = laid[size:]
        return Trajectories(
            Observation(*laid[:size]),  # type: ignore[arg-type]
            actions,  # type: ignore[arg-type]
            cost,  # type: ignore[arg-type]
            valid,
            Reads(tokens, positions, read_counts, mode),  # type: ignore[arg-type]
            outcome.probabilities,
            outcome.sequence,
            outcome.halted,
            outcome.flops,
            outcome.tokens,
        )


def roll_out(
    source: Sequences, reader: Reader, agent: Reading, plan: Plan, num_slots: int, chunk: int
) -> Trajectories:
    """Read a plan without gradients and return all of it, laid out for learning."""
    recorder = TrajectoryRecorder()
    read(source, reader, agent, plan, num_slots, chunk, recorder)
    return recorder.trajectories()


class SpanRecorder:
    """Keeps which places of each sequence were read; nothing else.

    Args:
        num: episodes of the plan.
    """

    def __init__(self, num: int) -> None:
        self.positions = [array("i") for _ in range(num)]  # four bytes each

    def add(self, observation: Observation, actions: Tensor, transition: Transition) -> None:
        """Keep the places of one step."""
        chunk = transition.chunk
        for episode, places, count in zip(
            observation.episode.tolist(), chunk.positions.tolist(), chunk.counts.tolist(), strict=True
        ):
            self.positions[episode].extend(places[:count])
