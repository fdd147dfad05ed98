"""What is traced: the agent and every rule, each at settings spread over the whole range of costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import torch
from torch import Tensor

from temporal.agents.base import Agent
from temporal.agents.controls import (
    Confidence,
    Hindsight,
    Prefix,
    Random,
    ReadAll,
    Uniform,
    best_stops,
)
from temporal.agents.fitted import Chosen
from temporal.agents.looking import PacketFirst, PreviewFirst, RandomFrames, TruthFirst, UniformFrames
from temporal.agents.policy import PolicyAgent
from temporal.agents.recordings import Recording, Thresholds
from temporal.agents.ways import all_ways, orders, own_levels
from temporal.curve import FLOOR_SHARE
from temporal.data.base import Sequences
from temporal.errors import bad
from temporal.ranges import Checked, Count, Inner, Price, Range
from temporal.readers.base import Reader
from temporal.readers.video import FrameReader

POLICY = "policy"
BUDGETED = "policy_budget"


NumSettings = Annotated[int, Range(ge=2, le=1000)]


class Evaluation(Checked):
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
        num_settings: NumSettings = 16,
        prices: tuple[Price, Price] | None = None,
        floor: Inner = FLOOR_SHARE,
        limit: Count | None = None,
        controls: bool = True,
    ) -> None:
        if prices is not None and prices[0] > prices[1]:
            raise bad("Evaluation", "prices", list(prices), "the lower first")
        self.num_settings, self.prices, self.floor = num_settings, prices, floor
        self.limit, self.controls = limit, controls


@dataclass(frozen=True)
class Bench:
    """What is evaluated, and on what.

    `train` and its `agent_rows`, the share that the reader did not learn from (all, where none was held out), are what
    rules are fitted on; without them there are no such rules.
    """

    task_name: str
    reader: Reader
    agent: PolicyAgent
    prices: tuple[float, float]
    commonest: int  # class, of the train split
    chunk: int
    num_slots: int
    seed: int
    train: Sequences | None = None
    agent_rows: Tensor | None = None


class Trial(NamedTuple):
    """One agent at one setting."""

    name: str
    setting: float | None
    agent: Agent
    price: float = 0.0
    budget: float | None = None
    chunk: int | None = None  # where it is not that of the bench


def make_trials(
    evaluation: Evaluation,
    bench: Bench,
    source: Sequences,
    recording: Recording,
    thresholds: dict[str, Thresholds],
    chosen: Chosen,
) -> Iterator[Trial]:
    """Every agent at every setting.

    Args:
        evaluation: settings.
        bench: what is evaluated.
        source: the split to trace, from its first sequence on.
        recording: of a full reading forward.
        thresholds: of sureness, for the ways traced by themselves: `orders`, and the agent's own levels of sifting.
        chosen: rules over pairs of a way and a setting, traced at the number of the pair by rising cost.
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
    ways = all_ways(bench.reader, bench.agent)
    for ending in single_ways(bench):
        for threshold in thresholds[ending]["probability"]:
            yield Trial(f"confidence{ending}", threshold, ways[ending](Confidence(threshold)))
    for threshold in thresholds[""]["entropy"]:
        yield Trial("entropy", threshold, Confidence(threshold, "entropy"))
    for name, agents in chosen.items():
        for number, agent in enumerate(agents, 1):
            yield Trial(name, number, agent)
    # An oracle needs one answer, where the recording paid for one at every step.
    answers = torch.arange(recording.cost.shape[1]) * (bench.reader.predict_flops / bench.reader.full_flops())
    for price in np.geomspace(0.01, 100, num).tolist():
        stops = best_stops(recording.correct, recording.cost - answers, recording.valid, price)
        yield Trial("hindsight", price, Hindsight(stops))


def single_ways(bench: Bench) -> list[str]:
    """The ways that confidence is traced along by itself, one after the other."""
    return [*orders(bench.reader), *(f"_sift_{level:g}" for level in own_levels(bench.agent))]


def _countdowns(bench: Bench, source: Sequences, tokens: list[int]) -> Iterator[Trial]:
    """Rules that read a fixed number of tokens, or look at a fixed number of frames."""
    chunk, longest = bench.chunk, bench.reader.task.max_length
    for k in tokens:
        yield Trial("prefix", k, Prefix(k))
    if not isinstance(bench.reader, FrameReader):
        for k in tokens:
            yield Trial("uniform", k, Uniform(k, chunk, longest))
            yield Trial("random", k, Random(k, chunk, longest, bench.seed))
        yield from _below_a_chunk(bench)
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


def _below_a_chunk(bench: Bench) -> Iterator[Trial]:
    """The same rules where they read less than one chunk, token by token."""
    longest = bench.reader.task.max_length
    for k in (
        np.unique(np.geomspace(1, bench.chunk - 1, 4).round().astype(int)).tolist() if bench.chunk > 1 else []
    ):
        yield Trial("prefix", k, Prefix(k), chunk=1)
        yield Trial("uniform", k, Uniform(k, 1, longest), chunk=1)
        yield Trial("random", k, Random(k, 1, longest, bench.seed), chunk=1)
