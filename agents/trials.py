"""What is traced: the agent and every rule, each at settings spread over the whole range of costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from temporal.agents.base import Agent
from temporal.agents.controls import (
    Confidence,
    Hindsight,
    Measure,
    Prefix,
    Random,
    ReadAll,
    Sifting,
    Uniform,
    best_stops,
)
from temporal.agents.looking import Coarse, PacketFirst, PreviewFirst, RandomFrames, TruthFirst, UniformFrames
from temporal.agents.policy import PolicyAgent
from temporal.agents.rollout import Trajectories, TrajectoryRecorder
from temporal.curve import FLOOR_SHARE
from temporal.data.base import Sequences
from temporal.decisions import Sift
from temporal.episodes import Plan
from temporal.errors import bad
from temporal.readers.base import Reader
from temporal.readers.video import FrameReader
from temporal.reading import read

POLICY = "policy"
BUDGETED = "policy_budget"
Follow = Callable[[Agent], Agent]
"""Makes a rule that only halts go through a sequence in some order."""


class Evaluation:
    """Which settings are tried; each kind of rule gets about as many, spread over the whole range of costs.

    Args:
        num_settings: prices, thresholds, and numbers of tokens tried, 2 or more.
        prices: range of prices the agent is shown; none takes the range it was trained on.
        floor: where areas start, as a share of the cost of full reading, above 0 and below 1.
        limit: sequences of each split read at most; none reads all.
        controls: trace the rules too, not the agent and read-all alone.
    """

    def __init__(
        self,
        num_settings: int = 16,
        prices: tuple[float, float] | None = None,
        floor: float = FLOOR_SHARE,
        limit: int | None = None,
        controls: bool = True,
    ) -> None:
        if num_settings < 2 or not 0 < floor < 1 or (limit is not None and limit < 1):
            raise bad(
                "evaluation",
                "num_settings, floor, limit",
                (num_settings, floor, limit),
                "2, within 0 to 1, 1",
            )
        if prices is not None and not 0 < prices[0] <= prices[1] < math.inf:
            raise bad("evaluation", "prices", list(prices), "two finite numbers above 0, the lower first")
        self.num_settings, self.prices, self.floor = num_settings, prices, floor
        self.limit, self.controls = limit, controls


@dataclass(frozen=True)
class Bench:
    """What is evaluated, and on what."""

    task_name: str
    reader: Reader
    agent: PolicyAgent
    prices: tuple[float, float]
    commonest: int  # class, of the train split
    chunk: int
    num_slots: int
    seed: int


class Trial(NamedTuple):
    """One agent at one setting."""

    name: str
    setting: float | None
    agent: Agent
    price: float = 0.0
    budget: float | None = None


Thresholds = dict[Measure, list[float]]


class Recording(NamedTuple):
    """What one full reading of a split says of every stopping point; (sequences, steps) each, the end included."""

    sureness: dict[Measure, Tensor]
    correct: Tensor
    cost: Tensor
    valid: Tensor


def record_all(
    bench: Bench, source: Sequences, rows: Tensor, follow: Follow = lambda rule: rule
) -> Recording:
    """Read some sequences to the end, noting sureness, correctness and cost before every observation."""
    recorder = TrajectoryRecorder(keep_summary=False)
    never = Confidence(1.0)
    never.threshold = 2.0  # no probability reaches it
    read(source, bench.reader, follow(never), Plan.of(rows), bench.num_slots, bench.chunk, recorder)
    episodes: Trajectories = recorder.trajectories()
    assert source.labels is not None
    assert episodes.observation.probabilities is not None
    num_steps = episodes.valid.sum(1).cpu()
    answers = torch.cat([episodes.observation.probabilities, episodes.answers[:, None]], 1).cpu()
    every = torch.arange(len(rows))
    answers[every, num_steps] = episodes.answers.cpu()
    cost = torch.cat([episodes.observation.flops, episodes.flops[:, None]], 1).cpu()
    cost[every, num_steps] = episodes.flops.cpu()
    measures: tuple[Measure, ...] = ("probability", "entropy")
    return Recording(
        {m: Confidence.sureness(answers, m) for m in measures},
        answers.argmax(-1) == source.labels[rows][:, None],
        cost / bench.reader.full_flops(),
        torch.arange(answers.shape[1]) <= num_steps[:, None],
    )


def thresholds_of(recording: Recording, num: int) -> Thresholds:
    """Thresholds at which stopping costs, on this recording, spread evenly over log FLOPs."""
    found: Thresholds = {}
    # From the second column on: the rule reads one observation at least.
    costs = recording.cost[:, 1:][recording.valid[:, 1:]]
    goals = torch.logspace(
        float(costs.min().log10()), float(recording.cost.amax(1).mean().log10()), num, dtype=costs.dtype
    )
    for measure, sureness in recording.sureness.items():
        values = sureness[recording.valid]
        grid = torch.quantile(
            values[torch.linspace(0, len(values) - 1, min(len(values), 100_000)).long()].double(),
            torch.linspace(0, 1, 200, dtype=torch.double),
        )
        grid = torch.cat([grid, torch.ones(1).double() - torch.logspace(-2, -6, 40).double()]).unique()
        means = torch.stack([_mean_cost(recording, sureness, float(t)) for t in grid])
        nearest = (means[:, None] - goals).abs().argmin(0)
        found[measure] = [float(t) for t in grid[nearest.unique()]]
    return found


def _mean_cost(recording: Recording, sureness: Tensor, threshold: float) -> Tensor:
    stop = (sureness >= threshold) & recording.valid
    stop[:, 0] = False
    stop[torch.arange(len(stop)), recording.valid.sum(1) - 1] = True
    return recording.cost.gather(1, stop.long().argmax(1)[:, None]).mean()


def orders(bench: Bench) -> dict[str, Follow]:
    """The orders that rules follow, by the ending of their names; frames can be looked at in more than one."""
    found: dict[str, Follow] = {"": lambda rule: rule}
    if isinstance(bench.reader, FrameReader):
        longest = bench.reader.task.max_length
        found["_coarse"] = Coarse
        if bench.reader.preview_size:
            found["_preview"] = lambda rule: PreviewFirst(rule, longest)
        found["_packets"] = lambda rule: PacketFirst(rule, longest)
    return found


def make_trials(
    evaluation: Evaluation,
    bench: Bench,
    source: Sequences,
    recording: Recording,
    thresholds: dict[str, Thresholds],
) -> Iterator[Trial]:
    """Every agent at every setting.

    Args:
        evaluation: settings.
        bench: what is evaluated.
        source: the split to trace, from its first sequence on.
        recording: of a full reading forward.
        thresholds: of sureness, for each of `orders`.
    """
    num, chunk, longest = evaluation.num_settings, bench.chunk, bench.reader.task.max_length
    chunks = np.unique(np.geomspace(1, -(-longest // chunk), num).round().astype(int))
    tokens = [int(c) * chunk for c in chunks]
    low, high = evaluation.prices or bench.prices
    prices = [low] if low == high else np.geomspace(low, high, num).tolist()
    for price in prices:
        yield Trial(POLICY, price, bench.agent, price)
    yield Trial("read_all", None, ReadAll())
    if not evaluation.controls:
        return
    for k in tokens:
        yield Trial(BUDGETED, k, bench.agent, prices[0], k)
    yield from _countdowns(bench, source, tokens)
    for ending, follow in orders(bench).items():
        for threshold in thresholds[ending]["probability"]:
            yield Trial(f"confidence{ending}", threshold, follow(Confidence(threshold)))
    for threshold in thresholds[""]["entropy"]:
        yield Trial("entropy", threshold, Confidence(threshold, "entropy"))
    for sift in (d for d in bench.agent.scheme.decisions if isinstance(d, Sift)):
        for level in (x for x in sift.levels if x > 0):
            for threshold in thresholds[""]["probability"]:
                yield Trial(f"confidence_sift_{level:g}", threshold, Sifting(Confidence(threshold), level))
    # An oracle needs one answer, where the recording paid for one at every step.
    answers = torch.arange(recording.cost.shape[1]) * (bench.reader.predict_flops / bench.reader.full_flops())
    for price in np.geomspace(0.01, 100, num).tolist():
        stops = best_stops(recording.correct, recording.cost - answers, recording.valid, price)
        yield Trial("hindsight", price, Hindsight(stops))


def _countdowns(bench: Bench, source: Sequences, tokens: list[int]) -> Iterator[Trial]:
    """Rules that read a fixed number of tokens, or look at a fixed number of frames."""
    chunk, longest = bench.chunk, bench.reader.task.max_length
    for k in tokens:
        yield Trial("prefix", k, Prefix(k))
    if not isinstance(bench.reader, FrameReader):
        for k in tokens:
            yield Trial("uniform", k, Uniform(k, chunk, longest))
            yield Trial("random", k, Random(k, chunk, longest, bench.seed))
        return
    yield Trial("middle", 1, UniformFrames(1, longest))
    for k in tokens:
        yield Trial("uniform", k, UniformFrames(k, longest))
        yield Trial("random", k, RandomFrames(k, longest, bench.seed))
        if bench.reader.preview_size:
            yield Trial("preview_top", k, PreviewFirst(Prefix(k), longest))
        yield Trial("packet_top", k, PacketFirst(Prefix(k), longest))
        if source.truth is not None:
            yield Trial("oracle", k, TruthFirst(k, source.truth, longest))
