"""Outcomes of agents whose true accuracies are known."""

from __future__ import annotations

import numpy as np

from temporal.curve import FREE, AgentRun
from temporal.points import Outcomes

FLOOR, FULL = 100.0, 5000.0
SETTINGS = [(200.0, 0.6), (800.0, 0.75), (3000.0, 0.85)]


def saved_outcomes(
    rng: np.random.Generator, settings: list[tuple[float, float]], n: int = 300
) -> dict[str, dict[str, Outcomes]]:
    """Outcomes drawn independently around given mean costs and accuracies; reading nothing costs 10."""

    def draw(some: list[tuple[float, float]], spread: float) -> Outcomes:
        flops, accuracy = (column[:, None] for column in np.array(some).T)
        correct = rng.random((len(some), n)) < accuracy
        return Outcomes(
            tuple(flops[:, 0]), correct, flops * (1 + spread * rng.uniform(-1, 1, (len(some), n)))
        )

    return {
        split: {FREE: draw([(10.0, 0.5)], 0.0), "agent": draw(settings, 0.5 if len(settings) > 1 else 0.0)}
        for split in ("validation", "test")
    }


def runs_of(
    seed: int, num: int = 1, shift: float = 0.0, between: float = 0.0, n: int = 300
) -> list[AgentRun]:
    """Runs whose true accuracies are SETTINGS' plus a shift, and vary between runs."""
    rng = np.random.default_rng(seed)
    runs = []
    for _ in range(num):
        offset = shift + between * rng.normal()
        runs.append(AgentRun.of(saved_outcomes(rng, [(c, a + offset) for c, a in SETTINGS], n), "agent"))
    return runs
