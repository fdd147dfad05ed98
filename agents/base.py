"""What an agent is: anything that maps observations to actions."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from temporal.decisions import Scheme
from temporal.episodes import Observation


class Agent(ABC):
    """Chooses an action for every row of an observation.

    The loop computes and charges only what `needs` names: "probabilities" (the reader's answer at every step) and
    "peek" (token ids of the next chunk).
    """

    scheme: Scheme
    needs: frozenset[str] = frozenset()

    @property
    def decision_flops(self) -> float:
        """FLOPs of one decision, previews included; comparisons alone cost 0."""
        return 0.0

    @abstractmethod
    def act(self, observation: Observation) -> Tensor:
        """Actions (batch, decisions), int64."""
