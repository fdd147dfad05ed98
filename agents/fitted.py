"""Rules over pairs of a way to go through sequences and a setting, the pairs chosen on validation.

Each way is recorded once on validation, and for rules that are fitted once on the agent's share of train, which the
reader did not learn from: on what it learned from it is surer than it will be. What every setting would have done
follows from the recordings; only the pairs of the frontier are then traced by reading.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from temporal.agents import calimera, economy
from temporal.agents.base import Agent
from temporal.agents.calimera import Calimera, fit_calimera
from temporal.agents.controls import Confidence
from temporal.agents.economy import Economy, fit_economy
from temporal.agents.recordings import Recording, threshold_grid
from temporal.agents.ways import Follow
from temporal.curve import frontier

PRICES = (0.003, 100.0)
"""Range of prices that fitted rules are fitted for, in units of full reading."""
NUM_PRICES = 24

Chosen = dict[str, list[Agent]]
"""By the name of a rule, its pairs by rising cost."""


@dataclass(frozen=True)
class _Pair:
    agent: Agent
    accuracy: float
    cost: float


class Candidates:
    """Collects what every pair does on validation, and picks the frontier of each rule.

    Args:
        full_flops: one unit of cost.
        chunk: tokens of one observation, 0 where observations tell the step.
    """

    def __init__(self, full_flops: float, chunk: int) -> None:
        self._full, self._chunk = full_flops, chunk
        self._pairs: dict[str, list[_Pair]] = {}

    def add(self, follow: Follow, validation: Recording, train: Recording | None) -> None:
        """Add what all rules do when they go through sequences in one way.

        Args:
            follow: the way.
            validation: recorded in that way.
            train: likewise, the sequences to fit on; None leaves out what is fitted.
        """
        sure = validation.sureness["probability"]
        thresholds = threshold_grid(sure[validation.valid]).clamp(max=1.0).tolist()
        wanted = ((Confidence(t), sure >= t) for t in thresholds)
        self._judge("confidence_joint", follow, validation, wanted)
        if train is not None:
            prices = torch.from_numpy(np.geomspace(*PRICES, NUM_PRICES))
            self._judge("calimera", follow, validation, self._calimera(validation, train, prices))
            self._judge("economy", follow, validation, self._economy(validation, train, prices))

    def _calimera(
        self, validation: Recording, train: Recording, prices: Tensor
    ) -> Iterator[tuple[Agent, Tensor]]:
        for width in calimera.WIDTHS:
            models = fit_calimera(train, prices, width)
            if models is not None:
                for index, wanted in enumerate(calimera.wanted_stops(models, validation)):
                    yield Calimera(models, index, self._chunk), wanted

    def _economy(
        self, validation: Recording, train: Recording, prices: Tensor
    ) -> Iterator[tuple[Agent, Tensor]]:
        for num in economy.GROUPS:
            groups = fit_economy(train, prices, num)
            if groups is not None:
                for index, wanted in enumerate(economy.wanted_stops(groups, validation)):
                    yield Economy(groups, index, self._chunk), wanted

    def _judge(
        self, name: str, follow: Follow, validation: Recording, rules: Iterator[tuple[Agent, Tensor]]
    ) -> None:
        pairs = self._pairs.setdefault(name, [])
        for rule, wanted in rules:
            decision = rule.decision_flops / self._full
            pairs.append(_Pair(follow(rule), *validation.outcome(validation.first(wanted), decision)))

    def chosen(self) -> Chosen:
        """The pairs of each rule that form its best curve on validation."""
        found: Chosen = {}
        for name, pairs in self._pairs.items():
            if pairs:
                costs = np.array([p.cost for p in pairs])
                best = frontier(costs, np.array([p.accuracy for p in pairs]))
                found[name] = [pairs[i].agent for i in best.tolist()]
        return found
