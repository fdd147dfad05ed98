"""What an agent is: anything that maps observations to actions."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from temporal.decisions import Scheme
from temporal.episodes import Observation


class Agent(ABC):
    """Chooses an action for every row of an observation.

    The loop computes and charges only what `needs` names: "probabilities" (the reader's answer at every step), "peek"
    (token ids of the next chunk), "preview" and "packets" (of every position, once) and "seen" (which were read).
    """

    scheme: Scheme
    needs: frozenset[str] = frozenset()

    @property
    def look_up_flops(self) -> float:
        """What looking up takes of one decision (see temporal.cost), peeking aside; a part of `decision_flops`."""
        return 0.0

    @property
    def peek_flops(self) -> float:
        """FLOPs of each token peeked at."""
        return 0.0

    @property
    def decision_flops(self) -> float:
        """FLOPs of one decision, peeking aside; comparing an answer with a threshold costs 0."""
        return self.look_up_flops

    @abstractmethod
    def act(self, observation: Observation) -> Tensor:
        """Actions (batch, decisions), int64."""


class Following(Agent):
    """A rule that only halts, made to go through a sequence in another way; it costs what the rule does.

    Args:
        rule: decides when to stop.
    """

    def __init__(self, rule: Agent) -> None:
        self.rule = rule
        self.needs = rule.needs

    @property
    def look_up_flops(self) -> float:
        """The rule's."""
        return self.rule.look_up_flops

    @property
    def peek_flops(self) -> float:
        """The rule's."""
        return self.rule.peek_flops

    @property
    def decision_flops(self) -> float:
        """The rule's."""
        return self.rule.decision_flops
