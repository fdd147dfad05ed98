"""CALIMERA (Bilski and Jastrzebska 2023, Information Processing and Management 60(5), 103465) as a stopping rule.

Going backwards through recorded readings, a kernel ridge regression at each step estimates from the answer how much
dearer it is to go on than to stop, where the cost is that of a wrong answer plus `price` x FLOPs; the rule stops where
that is above 0. What going on costs is what the rules of the later steps make of it.

Deviations.
- The cost of an answer is whether it is wrong, by its label, where CALIMERA takes 1 less its calibrated probability:
  a stronger rule (labels of the train split are known), and nothing has to be calibrated.
- Delay costs the FLOPs that it takes, sequence by sequence, in place of time.
- Features are the probabilities, the highest, its lead over the second, and, added here, the logarithm of what it lacks
  to 1, without which all sure answers look alike.
- Regressions rest on at most 64 of the readings, spread over sureness (subset of regressors), so that a decision stays
  cheap; widths of the kernel beside the usual one are left to validation.
- Steps that too few readings reach take the rule of the last step that enough did.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from temporal.agents.base import Agent
from temporal.agents.recordings import Recording
from temporal.decisions import READ_ON
from temporal.episodes import Observation

CENTRES = 64
LEAST = 20  # readings that a regression needs
RIDGE = 1.0
WIDTHS = (1.0, 8.0)  # of the kernel, as multiples of the usual 1 / features


class Regressions(NamedTuple):
    """One for each step: centres (steps, centres, features), weights (steps, centres, prices), and a kernel's width."""

    centres: Tensor
    weights: Tensor
    width: float


def features(probabilities: Float[Tensor, "... classes"]) -> Float[Tensor, "... features"]:
    """What regressions are shown of an answer, float64."""
    p = probabilities.double()
    top = p.topk(2, -1).values
    lacks = torch.log((1 - top[..., :1]).clamp_min(1e-6)) / 5 + 1
    return torch.cat([p, top[..., :1], top[..., :1] - top[..., 1:], lacks], -1)


def _kernel(x: Tensor, centres: Tensor, width: float) -> Tensor:
    """Radial basis functions (n, centres) of features (n, features); centres may differ by row."""
    distance = (x[..., None, :] - centres).square().sum(-1)
    return torch.exp(-width / x.shape[-1] * distance)


def fit_calimera(recording: Recording, prices: Tensor, width: float) -> Regressions | None:
    """Regressions for all prices (prices,) at once; None where too few readings were recorded."""
    x, last = features(recording.probabilities), recording.last
    wrong = (~recording.correct).double()[..., None]
    cost = wrong + recording.cost.double()[..., None] * prices.double()
    value = cost[torch.arange(len(last)), last]
    num_steps, num = cost.shape[1], min(CENTRES, len(last))
    centres = torch.zeros(num_steps, num, x.shape[-1], dtype=torch.double)
    weights = torch.zeros(num_steps, num, len(prices), dtype=torch.double)
    fitted = torch.zeros(num_steps, dtype=torch.bool)
    for t in range(num_steps - 2, -1, -1):
        rows = ((last > t) & recording.may_stop[:, t]).nonzero()[:, 0]
        if len(rows) < LEAST:
            continue
        here = x[rows, t]
        spread = torch.linspace(0, len(rows) - 1, num).long()
        centres[t] = here[here[:, -1].argsort()[spread]]
        kernel = _kernel(here, centres[t], width)
        among = _kernel(centres[t], centres[t], width) + 1e-6 * torch.eye(num, dtype=torch.double)
        dearer = value[rows] - cost[rows, t]
        weights[t] = torch.linalg.solve(kernel.T @ kernel + RIDGE * among, kernel.T @ dearer)
        fitted[t] = True
        value[rows] = torch.where(kernel @ weights[t] > 0, cost[rows, t], value[rows])
    if not bool(fitted.any()):
        return None
    nearest = torch.where(fitted, torch.arange(num_steps), torch.zeros(1, dtype=torch.long)).cummax(0).values
    return Regressions(centres[nearest], weights[nearest], width)


def wanted_stops(models: Regressions, recording: Recording) -> Tensor:
    """Where the rules want to stop on a recording (prices, sequences, steps)."""
    x = features(recording.probabilities)
    steps = torch.arange(x.shape[1]).clamp(max=len(models.centres) - 1).tolist()
    scores = [
        _kernel(x[:, t], models.centres[step], models.width) @ models.weights[step]
        for t, step in enumerate(steps)
    ]
    return torch.stack(scores, 1).permute(2, 0, 1) > 0


class Calimera(Agent):
    """Stops where, by regression on the answer, going on is dearer.

    Args:
        models: fitted.
        index: which of their prices.
        chunk: tokens of one observation where they are gone through in order, so that the position tells the step;
            0 where observations do.
    """

    scheme = READ_ON
    needs = frozenset({"probabilities"})

    def __init__(self, models: Regressions, index: int, chunk: int) -> None:
        self._centres, self._weights = models.centres, models.weights[..., index]
        self._width, self._chunk = models.width, chunk

    @property
    def look_up_flops(self) -> float:
        """Each centre's features are looked up, taken off, squared and added up, and then weighed."""
        _, num, size = self._centres.shape
        return float(4 * num * size + 4 * num)

    def act(self, observation: Observation) -> Tensor:
        """Halt where going on is dearer, after at least one observation."""
        assert observation.probabilities is not None
        step = step_of(observation, self._chunk, len(self._centres)).cpu()
        kernel = _kernel(features(observation.probabilities.cpu()), self._centres[step], self._width)
        stop = (kernel * self._weights[step]).sum(-1) > 0
        return (stop.to(observation.position.device) & (observation.observations > 0)).long()[:, None]


def step_of(observation: Observation, chunk: int, num_steps: int) -> Tensor:
    """How many observations were gone through, sifted away or not; below `num_steps`."""
    gone = observation.position // chunk if chunk else observation.observations
    return gone.clamp(max=num_steps - 1)
