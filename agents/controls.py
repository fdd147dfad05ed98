"""The simple rules that every curve is drawn with; each uses the same reader and the same loop as the agents."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from temporal.agents.base import Agent, Following
from temporal.decisions import READ_ON, Advance, Halt, Scheme, Sift
from temporal.episodes import Observation
from temporal.errors import bad

Measure = Literal["probability", "entropy"]


def _halt(stop: Tensor) -> Tensor:
    return stop.long()[:, None]


class ReadAll(Agent):
    """Reads everything, then answers."""

    scheme = READ_ON

    def act(self, observation: Observation) -> Tensor:
        """Go on."""
        return _halt(torch.zeros_like(observation.position, dtype=torch.bool))


class Prefix(Agent):
    """Reads the first `tokens` tokens, in whole observations, then answers."""

    scheme = READ_ON

    def __init__(self, tokens: int) -> None:
        if tokens < 0:
            raise bad("Prefix", "tokens", tokens, "a whole number from 0 up")
        self.tokens = tokens

    def act(self, observation: Observation) -> Tensor:
        """Halt once that many are read."""
        return _halt(observation.tokens >= self.tokens)


class Confidence(Agent):
    """Reads until the answer looks sure: largest probability at or above, or entropy at or below, a threshold.

    Args:
        threshold: probability 0 to 1, or entropy as a share of its maximum, 0 to 1.
        measure: which of the two.
    """

    scheme = READ_ON
    needs = frozenset({"probabilities"})

    def __init__(self, threshold: float, measure: Measure = "probability") -> None:
        if not 0 <= threshold <= 1:
            raise bad("Confidence", "threshold", threshold, "a number from 0 to 1")
        self.threshold, self.measure = threshold, measure

    def act(self, observation: Observation) -> Tensor:
        """Halt once sure enough, after at least one observation."""
        assert observation.probabilities is not None
        sure = self.sureness(observation.probabilities, self.measure) >= self.threshold
        return _halt(sure & (observation.observations > 0))

    @staticmethod
    def sureness(probabilities: Tensor, measure: Measure) -> Tensor:
        """Largest probability, or 1 - entropy / log(classes); from 0 to 1 over the last axis."""
        if measure == "probability":
            return probabilities.amax(-1)
        entropy: Tensor = torch.special.entr(probabilities).sum(-1)
        return (1 - entropy / math.log(probabilities.shape[-1])).clamp(0, 1)  # rounding may leave the range


class Uniform(Agent):
    """Reads `tokens` tokens in observations spread evenly over the sequence.

    Args:
        tokens: how many, rounded up to whole observations.
        chunk: tokens of one observation.
        max_length: of the longest sequence.
    """

    def __init__(self, tokens: int, chunk: int, max_length: int) -> None:
        if tokens < 0:
            raise bad(type(self).__name__, "tokens", tokens, "a whole number from 0 up")
        self.num, self.chunk = -(-tokens // chunk), chunk
        self.scheme = Scheme((Halt(), Advance(max_length + 1)))

    def act(self, observation: Observation) -> Tensor:
        """Go to the next place, or halt after the last."""
        stop = observation.observations >= self.num
        target = self.target(observation)
        advance = (target - observation.position).clamp_min(0)
        return torch.stack([stop.long(), torch.where(stop, torch.zeros_like(advance), advance)], 1)

    def target(self, observation: Observation) -> Tensor:
        """Where the next observation starts: the places divide the sequence evenly, the first at its start."""
        if self.num == 0:
            return observation.position
        spread = observation.observations * observation.length // self.num
        everything = observation.length <= self.num * self.chunk
        return torch.where(everything, observation.position, spread)


class Random(Uniform):
    """Reads `tokens` tokens in observations drawn at random without replacement, in reading order.

    Args:
        tokens: how many, rounded up to whole observations.
        chunk: tokens of one observation.
        max_length: of the longest sequence.
        seed: the same seed draws the same places for the same episode, whatever the batch.
    """

    def __init__(self, tokens: int, chunk: int, max_length: int, seed: int = 0) -> None:
        super().__init__(tokens, chunk, max_length)
        self._slots = -(-max_length // chunk)
        self.seed = seed

    def target(self, observation: Observation) -> Tensor:
        """The next of the drawn places at or after the present one."""
        slots = torch.arange(self._slots, device=observation.position.device)
        draw = hashed_uniform(observation.episode[:, None], slots, self.seed)
        real = slots < -(-observation.length[:, None] // self.chunk)
        draw = torch.where(real, draw, torch.full_like(draw, 2.0))
        rank = draw.argsort(1).argsort(1)
        drawn = (rank < self.num) & real & (slots * self.chunk >= observation.position[:, None])
        first = torch.where(drawn, slots, torch.full_like(slots, self._slots)).amin(1)
        return torch.where(drawn.any(1), first * self.chunk, observation.length)


def hashed_uniform(a: Tensor, b: Tensor, seed: int) -> Tensor:
    """A number in [0, 1) from two integers and a seed (multiply and xor-shift, three rounds)."""
    mixed = a * 0x9E3779B1 + b * 0x85EBCA77 + seed * 0xC2B2AE3D + 0x27D4EB2F
    for factor in (0x2C1B3C6D, 0x297A2D39):
        mixed = ((mixed ^ (mixed >> 15)) * factor) & 0xFFFFFFFF
    return ((mixed ^ (mixed >> 16)) & 0xFFFFFF).double() / 0x1000000


class Sifting(Following):
    """A rule that only halts, reading no more than the telling tokens of each observation.

    Args:
        rule: decides when to stop.
        level: share of running text passed over, 0 to below 1.
    """

    def __init__(self, rule: Agent, level: float) -> None:
        super().__init__(rule)
        self.scheme = Scheme((Halt(), Sift((level,))))

    def act(self, observation: Observation) -> Tensor:
        """Halt as the rule says; always sift."""
        halt = self.rule.act(observation)
        return torch.cat([halt, torch.zeros_like(halt)], 1)


class Hindsight(Agent):
    """The oracle: stops each episode where, knowing the truth, stopping was best; it needs no answer but the last.

    Args:
        stop_after: observations after which each episode stops, from `best_stops`.
    """

    scheme = READ_ON

    def __init__(self, stop_after: Tensor) -> None:
        self.stop_after = stop_after

    def act(self, observation: Observation) -> Tensor:
        """Halt at the point looked up."""
        return _halt(
            observation.observations >= self.stop_after.to(observation.episode.device)[observation.episode]
        )


def best_stops(correct: Tensor, cost: Tensor, valid: Tensor, price: float) -> Tensor:
    """Observations after which stopping maximises 1[correct] - price * cost.

    Args:
        correct: (episodes, steps) whether the answer was right after that many observations.
        cost: (episodes, steps) spent by then, in units of full reading.
        valid: (episodes, steps) false beyond the end of a sequence.
        price: of one unit.
    """
    worth = correct.double() - price * cost
    return worth.masked_fill(~valid, -math.inf).argmax(1)
