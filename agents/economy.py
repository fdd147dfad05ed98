"""Economy-gamma (Achenchabe et al. 2021, Machine Learning 110, 1481-1504) as a stopping rule.

Answers are put into groups by their sureness. A Markov chain over the groups, with one matrix for each step, and the
share of wrong answers in each group at each step, say what stopping at any later step is expected to cost, a wrong
answer plus `price` x FLOPs; the rule stops where no later step is expected to be cheaper.

Deviations.
- The highest probability puts answers into groups, so that any number of classes will do (Economy-gamma-max).
- Groups are of one size over all steps together, in place of step by step, so that many groups tell sure answers apart.
- Sequences end at different steps: an end is one more place for the chain to go to, at the cost that it had.
- Delay costs the FLOPs that it takes.
- Counts of one step are joined by those of all steps with a weight of `PSEUDO` readings, for few reach the later steps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from temporal.agents.base import Agent
from temporal.agents.calimera import LEAST, step_of
from temporal.agents.recordings import Recording
from temporal.cost import look_up_flops, search_flops
from temporal.decisions import READ_ON
from temporal.episodes import Observation

GROUPS = (5, 12)
PSEUDO = 4.0


class Groups(NamedTuple):
    """Bounds (groups - 1,) of sureness, and what stopping now or at the best later step costs by step and group.

    `now` and `later` (steps, groups, prices).
    """

    bounds: Tensor
    now: Tensor
    later: Tensor


class _Chain(NamedTuple):
    """By step and group: going on to each group (steps, groups, groups), and (steps, groups, 2) each error and cost of
    stopping now, and of ending at the next step, the latter weighed by its chance.
    """

    going: Tensor
    now: Tensor
    ending: Tensor


def fit_economy(recording: Recording, prices: Tensor, num_groups: int) -> Groups | None:
    """The chain and what follows from it; None where too few readings were recorded."""
    going = recording.may_stop & (torch.arange(recording.valid.shape[1]) < recording.last[:, None])
    if int(going.any(1).sum()) < LEAST:
        return None
    sure = recording.sureness["probability"].double()
    shares = torch.linspace(0, 1, num_groups + 1, dtype=torch.double)[1:-1]
    some = sure[going]
    some = some[torch.linspace(0, len(some) - 1, min(len(some), 100_000)).long()]
    bounds = torch.quantile(some, shares)
    chain = _estimate(recording, torch.bucketize(sure, bounds, right=True), going, num_groups)
    weights = torch.stack([torch.ones_like(prices), prices]).double()
    return Groups(bounds, chain.now @ weights, _best_later(chain, weights))


def _estimate(recording: Recording, group: Tensor, going: Tensor, num: int) -> _Chain:
    member = F.one_hot(group, num).double() * going[..., None]
    worth = torch.stack([(~recording.correct).double(), recording.cost.double()], -1)
    after = member.roll(-1, 1)
    after[:, -1] = 0
    ends = going & (torch.arange(going.shape[1]) + 1 == recording.last[:, None])
    end_worth = worth.roll(-1, 1) * ends[..., None]

    def mean(each: Tensor) -> Tensor:
        """By step and group, drawn towards the mean of the group over all steps."""
        totals = torch.einsum("ntk,nto->tko", member, each)
        counts = member.sum(0)[..., None]
        overall = totals.sum(0) / counts.sum(0).clamp_min(1)
        return (totals + PSEUDO * overall) / (counts + PSEUDO)

    return _Chain(mean(after), mean(worth), mean(end_worth))


def _best_later(chain: _Chain, weights: Tensor) -> Tensor:
    """The least expected cost of stopping at one of the later steps (steps, groups, prices)."""
    num_steps, num, _ = chain.going.shape
    found = torch.full((num_steps, num, weights.shape[1]), torch.inf, dtype=torch.double)
    there = torch.eye(num, dtype=torch.double).expand(
        num_steps, -1, -1
    )  # row t: the chain that starts at step t
    ended = torch.zeros(num_steps, num, 2, dtype=torch.double)
    for ahead in range(1, num_steps):
        ended = ended[: num_steps - ahead] + there[: num_steps - ahead] @ chain.ending[ahead - 1 : -1]
        there = there[: num_steps - ahead] @ chain.going[ahead - 1 : -1]
        expected = (ended + there @ chain.now[ahead:]) @ weights
        found[: num_steps - ahead] = torch.minimum(found[: num_steps - ahead], expected)
    return found


def wanted_stops(groups: Groups, recording: Recording) -> Tensor:
    """Where the rules want to stop on a recording (prices, sequences, steps)."""
    group = torch.bucketize(recording.sureness["probability"].double(), groups.bounds, right=True)
    step = torch.arange(group.shape[1]).clamp(max=len(groups.now) - 1)
    stop = groups.now <= groups.later
    return stop[step, group].permute(2, 0, 1)


class Economy(Agent):
    """Stops where no later step is expected to be cheaper.

    Args:
        groups: fitted.
        index: which of their prices.
        chunk: tokens of one observation where they are gone through in order, so that the position tells the step;
            0 where observations do.
    """

    scheme = READ_ON
    needs = frozenset({"probabilities"})

    def __init__(self, groups: Groups, index: int, chunk: int) -> None:
        self._bounds, self._chunk = groups.bounds, chunk
        self._stop = (groups.now <= groups.later)[..., index]

    @property
    def look_up_flops(self) -> float:
        """Sureness is held against every bound, and what to do looked up."""
        return float(search_flops(len(self._bounds)) + look_up_flops(1))

    def act(self, observation: Observation) -> Tensor:
        """Halt where the table says so, after at least one observation."""
        assert observation.probabilities is not None
        sure = observation.probabilities.amax(-1).double().cpu()
        group = torch.bucketize(sure, self._bounds, right=True)
        stop = self._stop[step_of(observation, self._chunk, len(self._stop)).cpu(), group]
        return (stop.to(observation.position.device) & (observation.observations > 0)).long()[:, None]
