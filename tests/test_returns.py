"""Rewards, returns and advantages against slow loops over one episode at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from temporal.agents.returns import advantages, group_baseline, rewards, to_go

few = settings(max_examples=30, deadline=None, derandomize=True)
seeds = st.integers(0, 10_000)


def ragged(seed: int, episodes: int = 5, steps: int = 6) -> tuple[Tensor, Tensor, torch.Generator]:
    """Noise (episodes, steps), and which steps happened: at least one of each episode, one lasting to the end."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, steps + 1, (episodes,), generator=generator)
    lengths[0] = steps
    noise = torch.randn(episodes, steps, generator=generator, dtype=torch.double)
    return noise, torch.arange(steps) < lengths[:, None], generator


@few
@given(seeds)
def test_rewards_add_up_to_the_answer_less_what_was_paid(seed: int) -> None:
    noise, valid, generator = ragged(seed)
    cost = noise.abs() * 1e6 * valid
    price = torch.rand(5, generator=generator, dtype=torch.double) * 30
    answer = torch.randn(5, generator=generator, dtype=torch.double)
    found = rewards(cost, valid, price, answer, full_flops=4e6)
    torch.testing.assert_close(found.sum(1), answer - price * cost.sum(1) / 4e6)
    assert not found[~valid].any()
    for row, length in enumerate(valid.sum(1).tolist()):  # the answer comes at the last step
        assert found[row, length - 1] == answer[row] - price[row] * cost[row, length - 1] / 4e6
        assert torch.equal(found[row, : length - 1], -price[row] * cost[row, : length - 1] / 4e6)


def test_return_to_go_is_the_sum_from_each_step_on() -> None:
    reward = torch.tensor([[1.0, 2.0, 4.0], [8.0, 0.0, 0.0]])
    assert to_go(reward).tolist() == [[7.0, 6.0, 4.0], [8.0, 0.0, 0.0]]


def slow_advantages(reward: list[float], value: list[float], decay: float) -> list[float]:
    """Schulman et al., eq. 14: the weighted mean of all k-step estimates of one episode."""
    num = len(reward)
    found = []
    for t in range(num):
        estimates = []
        for k in range(1, num - t + 1):
            after = value[t + k] if t + k < num else 0.0
            estimates.append(sum(reward[t : t + k]) + after - value[t])
        weights = [(1 - decay) * decay ** (k - 1) for k in range(1, num - t)] + [decay ** (num - t - 1)]
        found.append(sum(w * e for w, e in zip(weights, estimates, strict=True)))
    return found


@few
@given(seeds, st.sampled_from([0.0, 0.5, 0.95, 1.0]))
def test_advantages_are_the_weighted_mean_of_all_k_step_estimates(seed: int, decay: float) -> None:
    noise, valid, generator = ragged(seed)
    value = torch.randn(5, 6, generator=generator, dtype=torch.double)  # padding holds noise as well
    found = advantages(noise * valid, value, valid, decay)
    assert not found[~valid].any()
    for row, length in enumerate(valid.sum(1).tolist()):
        slow = slow_advantages(noise[row, :length].tolist(), value[row, :length].tolist(), decay)
        assert found[row, :length].tolist() == pytest.approx(slow, abs=1e-12)


@few
@given(seeds)
def test_of_decay_1_the_advantage_is_return_less_value(seed: int) -> None:
    noise, valid, generator = ragged(seed)
    value = torch.randn(5, 6, generator=generator, dtype=torch.double)
    expected = (to_go(noise * valid) - value) * valid
    torch.testing.assert_close(advantages(noise * valid, value, valid, 1.0), expected)


@few
@given(seeds, st.integers(2, 5), st.integers(1, 4))
def test_the_group_baseline_knows_all_returns_of_the_group_but_the_own(
    seed: int, group: int, groups: int
) -> None:
    total = torch.randn(group * groups, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    # exact: the derivative of each baseline with respect to each return
    influence = torch.autograd.functional.jacobian(lambda x: group_baseline(x, group), total)
    same_group = torch.arange(len(total))[:, None] // group == torch.arange(len(total)) // group
    expected = (same_group & ~torch.eye(len(total), dtype=torch.bool)).double() / (group - 1)
    assert torch.equal(influence, expected)
    torch.testing.assert_close(group_baseline(total, group), influence @ total)
