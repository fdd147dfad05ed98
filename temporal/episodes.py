"""What passes between the loop over time and everything around it: plans in, observations and outcomes out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from temporal.decisions import Scheme
from temporal.errors import bad
from temporal.readers.base import Chunk


class Fetches(Protocol):
    """What the loop needs of a source."""

    @property
    def lengths(self) -> Tensor:
        """Tokens of each sequence, int64."""

    def fetch(self, sequences: Tensor, starts: Tensor, counts: Tensor, width: int) -> Chunk:
        """`counts` tokens of each of `sequences` from `starts` on, padded to `width`."""


class Observation(NamedTuple):
    """What is known before a decision, one row for each busy slot.

    Of what was not read yet it tells `length`, `peek` and `preview`, and nothing else.

    FLOPs and budgets are float64; a budget that is not set is infinite. `probabilities` is None unless the agent
    needs it, likewise `peek` (token ids of the next chunk, 0 beyond its end), `seen` (which positions were read) and
    `preview` (what the reader's preview says of every position, 0 beyond the end). Positions run to the longest
    sequence of the task.
    """

    summary: Float[Tensor, "batch summary"]
    probabilities: Float[Tensor, "batch classes"] | None
    streak: Int[Tensor, " batch"]  # observations for which the best class has stayed the same
    position: Int[Tensor, " batch"]  # next token not yet passed
    length: Int[Tensor, " batch"]
    tokens: Int[Tensor, " batch"]  # read so far
    observations: Int[Tensor, " batch"]
    flops: Float[Tensor, " batch"]  # spent so far, this decision included
    price: Float[Tensor, " batch"]
    tokens_left: Float[Tensor, " batch"]
    flops_left: Float[Tensor, " batch"]
    peek: Int[Tensor, "batch width"] | None
    episode: Int[Tensor, " batch"]
    seen: Bool[Tensor, "batch positions"] | None = None
    preview: Float[Tensor, "batch positions preview"] | None = None
    packets: Float[Tensor, "batch positions"] | None = (
        None  # excess of each position's packets, 0 beyond the end
    )


class Reading(Protocol):
    """What the loop needs of an agent."""

    scheme: Scheme

    @property
    def needs(self) -> frozenset[str]:
        """Which costly parts of an observation it uses: some of probabilities, peek, seen, preview, packets."""

    @property
    def decision_flops(self) -> float:
        """FLOPs of one decision, peeking aside."""

    @property
    def peek_flops(self) -> float:
        """FLOPs of each token peeked at."""

    def act(self, observation: Observation) -> Int[Tensor, "batch decisions"]:
        """Choose one option for each decision."""


@dataclass(frozen=True)
class Plan:
    """Which sequences to read, in which order, at which price and within which budgets; one row an episode."""

    sequences: Int[Tensor, " episodes"]
    price: Float[Tensor, " episodes"]
    token_budget: Float[Tensor, " episodes"]
    flops_budget: Float[Tensor, " episodes"]

    @classmethod
    def of(
        cls,
        sequences: Tensor,
        price: Tensor | float = 0.0,
        tokens: Tensor | float | None = None,
        flops: Tensor | float | None = None,
    ) -> Plan:
        """A plan where single numbers hold for every episode and None means no budget.

        Raises UserError for a price that is negative or no number, and for a budget of nothing.
        """
        num = sequences.shape[0]

        def column(value: Tensor | float | None, what: str, least: float, expected: str) -> Tensor:
            wide = torch.as_tensor(math.inf if value is None else value, dtype=torch.float64).expand(num)
            if bool((~(wide >= least)).any()):  # NaN fails every comparison
                raise bad("plan", what, float(wide[~(wide >= least)][0]), expected)
            return wide

        return cls(
            sequences,
            column(price, "price", 0.0, "a number from 0 up"),
            column(tokens, "budget in tokens", 1.0, "a number from 1 up"),
            column(flops, "budget in FLOPs", 1.0, "a number from 1 up"),
        )

    def __len__(self) -> int:
        return int(self.sequences.shape[0])

    def part(self, start: int, stop: int) -> Plan:
        """Episodes start to stop."""
        return Plan(
            self.sequences[start:stop],
            self.price[start:stop],
            self.token_budget[start:stop],
            self.flops_budget[start:stop],
        )


class Outcome(NamedTuple):
    """How some episodes ended: what was answered, and what it cost.

    `episode` is the row of the plan; probabilities are those of the answer; FLOPs count reader, answers and agent.
    """

    episode: Int[Tensor, " batch"]
    sequence: Int[Tensor, " batch"]
    probabilities: Float[Tensor, "batch classes"]
    flops: Float[Tensor, " batch"]
    tokens: Int[Tensor, " batch"]
    observations: Int[Tensor, " batch"]
    halted: Bool[Tensor, " batch"]  # by its own choice, rather than at the end or out of budget

    @classmethod
    def join(cls, parts: list[Outcome]) -> Outcome:
        """All outcomes in the order of the plan."""
        joined = cls(*(torch.cat(column) for column in zip(*parts, strict=True)))
        order = joined.episode.argsort()
        return cls(*(column[order] for column in joined))


class Transition(NamedTuple):
    """What one step did to each row of the observation that it answered."""

    cost: Float[Tensor, " batch"]  # FLOPs of this step: deciding, reading, and the answer where it ended
    chunk: Chunk
    mode: Int[Tensor, " batch"]
    ended: Bool[Tensor, " batch"]
    outcome: Outcome | None  # of the rows that ended, in their order


class Recorder(Protocol):
    """Something that watches a reading."""

    def add(self, observation: Observation, actions: Tensor, transition: Transition) -> None:
        """Called after every step."""
