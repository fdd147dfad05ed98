"""Simple rules that look at frames out of order; each uses the same reader and the same loop as the agents."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from temporal.agents.base import Agent, Following
from temporal.agents.controls import hashed_uniform
from temporal.cost import search_flops
from temporal.decisions import Halt, Order, Place, Scheme
from temporal.episodes import Observation
from temporal.errors import bad


class Coarse(Following):
    """A rule that only halts, looking from coarse to fine (FrameExit's order, arXiv 2104.13400).

    Args:
        rule: decides when to stop.
    """

    scheme = Scheme((Halt(), Order()))

    def act(self, observation: Observation) -> Tensor:
        """Halt as the rule says."""
        halt = self.rule.act(observation)
        return torch.cat([halt, torch.zeros_like(halt)], 1)


class Looking(Agent):
    """What rules share that choose a position themselves.

    Args:
        max_length: positions of the longest sequence.
    """

    def __init__(self, max_length: int) -> None:
        self._place = Place(max_length)
        self.scheme = Scheme((Halt(), self._place))

    def go(self, halt: Tensor, position: Tensor, length: Tensor) -> Tensor:
        """Actions (batch, 2): halt, or go to a position."""
        option = self._place.option(position.clamp_min(0), length)
        return torch.stack([halt.long(), option.clamp(0, self._place.num_places - 1)], 1)


class UniformFrames(Looking):
    """Looks at `num` frames, each in the middle of its share of the sequence; at all where there are no more.

    Args:
        num: frames; 0 or more.
        max_length: positions of the longest sequence.
    """

    def __init__(self, num: int, max_length: int) -> None:
        if num < 0:
            raise bad(type(self).__name__, "num", num, "a whole number from 0 up")
        super().__init__(max_length)
        self.num = num

    def act(self, observation: Observation) -> Tensor:
        """Go to the next of them, or halt after the last."""
        seen, length = observation.observations, observation.length
        num = length.clamp(max=self.num)
        position = (2 * seen + 1) * length // (2 * num).clamp_min(1)
        return self.go(seen >= self.num, position.clamp(max=length - 1), length)


class RandomFrames(UniformFrames):
    """Looks at `num` frames drawn without replacement, in reading order.

    Args:
        num: frames; 0 or more.
        max_length: positions of the longest sequence.
        seed: the same seed draws the same frames for the same episode, whatever the batch.
    """

    needs = frozenset({"seen"})

    def __init__(self, num: int, max_length: int, seed: int = 0) -> None:
        super().__init__(num, max_length)
        self.seed = seed

    def act(self, observation: Observation) -> Tensor:
        """Go to the first of the drawn frames that was not looked at."""
        assert observation.seen is not None
        positions = torch.arange(observation.seen.shape[1], device=observation.seen.device)
        draw = hashed_uniform(observation.episode[:, None], positions, self.seed)
        draw = torch.where(positions < observation.length[:, None], draw, torch.full_like(draw, 2.0))
        drawn = (draw.argsort(1).argsort(1) < self.num) & ~observation.seen
        return self.go(observation.observations >= self.num, drawn.int().argmax(1), observation.length)


class PreviewFirst(Looking):
    """A rule that only halts, looking first where the preview promises most (as SCSampler, arXiv 1904.04289).

    Args:
        rule: decides when to stop; `Prefix(k)` makes it the best k by preview.
        max_length: positions of the longest sequence.
    """

    def __init__(self, rule: Agent, max_length: int) -> None:
        super().__init__(max_length)
        self.rule = rule
        self.needs = rule.needs | {"seen", "preview"}
        self._max_length = max_length

    @property
    def look_up_flops(self) -> float:
        """The rule's, and looking through the scores of all positions."""
        return self.rule.look_up_flops + search_flops(self._max_length)

    @property
    def decision_flops(self) -> float:
        """The rule's, and looking through the scores of all positions."""
        return self.rule.decision_flops + search_flops(self._max_length)

    def act(self, observation: Observation) -> Tensor:
        """Go to the most promising frame that was not looked at; halt as the rule says."""
        best = _best(self.score(observation), observation)
        return self.go(self.rule.act(observation)[:, 0] == 1, best, observation.length)

    def score(self, observation: Observation) -> Tensor:
        """What each position promises (batch, positions)."""
        assert observation.preview is not None
        return observation.preview[..., 0]


class PacketFirst(PreviewFirst):
    """A rule that only halts, looking first where packets are largest for their surroundings; nothing is decoded.

    Args:
        rule: decides when to stop; `Prefix(k)` makes it the best k by packets.
        max_length: positions of the longest sequence.
    """

    def __init__(self, rule: Agent, max_length: int) -> None:
        super().__init__(rule, max_length)
        self.needs = rule.needs | {"seen", "packets"}

    def score(self, observation: Observation) -> Tensor:
        """How much larger the packets are than those around."""
        assert observation.packets is not None
        return observation.packets


class TruthFirst(Looking):
    """The oracle: looks at the `num` frames that, by the truth of each frame, show most.

    Args:
        num: frames; 0 or more.
        truth: (episodes, positions) how much each shows.
        max_length: positions of the longest sequence.
    """

    needs = frozenset({"seen"})

    def __init__(self, num: int, truth: Tensor, max_length: int) -> None:
        super().__init__(max_length)
        self.num, self.truth = num, truth

    def act(self, observation: Observation) -> Tensor:
        """Go to the frame that shows most of those not looked at."""
        truth = self.truth.to(observation.episode.device)[observation.episode]
        return self.go(observation.observations >= self.num, _best(truth, observation), observation.length)


def _best(score: Tensor, observation: Observation) -> Tensor:
    """The position of the highest score among those within the sequence and not looked at."""
    assert observation.seen is not None
    positions = torch.arange(score.shape[1], device=score.device)
    out = observation.seen | (positions >= observation.length[:, None])
    return score.masked_fill(out, -math.inf).argmax(1)
