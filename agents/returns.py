"""Rewards, returns and advantages of recorded episodes."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def rewards(
    cost: Float[Tensor, "episodes steps"],
    valid: Bool[Tensor, "episodes steps"],
    price: Float[Tensor, " episodes"],
    answer: Float[Tensor, " episodes"],
    full_flops: float,
) -> Float[Tensor, "episodes steps"]:
    """-price * cost / full at each step, and the answer's reward at the last."""
    found = -price[:, None] * cost / full_flops
    last = valid.sum(1) - 1
    rows = torch.arange(len(last), device=cost.device)
    found[rows, last] = found[rows, last] + answer
    return found * valid


def to_go(reward: Float[Tensor, "episodes steps"]) -> Float[Tensor, "episodes steps"]:
    """Undiscounted return from each step to the end; padding must hold 0."""
    return reward.flip(1).cumsum(1).flip(1)


def advantages(
    reward: Float[Tensor, "episodes steps"],
    value: Float[Tensor, "episodes steps"],
    valid: Bool[Tensor, "episodes steps"],
    decay: float,
) -> Float[Tensor, "episodes steps"]:
    """Generalised advantage estimates without discount (Schulman et al., arXiv 1506.02438, eq. 16).

    Every episode terminates (its end is part of the task), so the value after the last step is 0. `decay` is the
    lambda of the paper: 1 gives return - value, 0 the one-step error.
    """
    value = value * valid
    after = torch.cat([value[:, 1:], torch.zeros_like(value[:, :1])], 1)
    error = (reward + after - value) * valid
    found, running = [], torch.zeros_like(error[:, 0])
    for t in range(error.shape[1] - 1, -1, -1):
        running = error[:, t] + decay * running * valid[:, t]
        found.append(running)
    return torch.stack(found[::-1], 1) * valid


def group_baseline(total: Float[Tensor, " episodes"], group: int) -> Float[Tensor, " episodes"]:
    """Mean return of the other episodes of the same sequence and price (leave-one-out, arXiv 1901.10509).

    Episodes of one group stand next to each other; `group` is 2 or more.
    """
    grouped = total.view(-1, group)
    others = (grouped.sum(1, keepdim=True) - grouped) / (group - 1)
    return others.reshape(-1)
