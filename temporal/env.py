"""gymnasium's Env and VectorEnv over the slots of `reading.py`, for agents and libraries from elsewhere.

Importing this module registers them, so that `gymnasium.make("temporal/Read-v0", source=..., reader=...)` works.

An episode is the reading of one sequence. Its rewards are -price * cost / full_flops at each step, where full_flops is
what reading the task's average sequence in full costs, and at the end the task's reward for the answer.

It is terminated when the agent halts, the text ends or the budget is spent. It is never truncated: a budget is part
of the task, the answer given when it runs out is the one that counts, and nothing beyond it is left to estimate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from temporal.decisions import Decision, Halt, Scheme
from temporal.episodes import Fetches, Observation, Outcome, Plan
from temporal.errors import bad
from temporal.readers.base import Reader
from temporal.reading import Slots
from temporal.registration import register_environments
from temporal.reward import TaskReward, answer_reward, check_task_reward

register_environments()

Array = NDArray[Any]
Features = dict[str, Array]

LOWEST_PRICE, HIGHEST_PRICE = 0.003, 10.0  # beyond these prices look alike to an agent
SCALARS = (
    "price",  # logarithm, LOWEST_PRICE at -1, HIGHEST_PRICE at 1
    "position",  # share of the sequence passed
    "length",  # log(1 + tokens), the longest sequence's at 1
    "tokens",  # read so far, on the same scale
    "spent",  # x / (1 + x) for x FLOPs in units of reading the average sequence in full
    "tokens_left",  # share of the budget in tokens; 1 where there is none
    "flops_left",  # share of the budget in FLOPs; 1 where there is none
    "entropy",  # of the answer, as a share of its maximum
    "streak",  # 1 - 1 / (1 + observations for which the best class has stayed the same)
)


class Labelled(Fetches, Protocol):
    """What an environment needs of a source."""

    @property
    def labels(self) -> Tensor | None:
        """Class index of each sequence."""

    def __len__(self) -> int: ...


class _Episodes:
    """What both environments share, with the arguments of ReadEnv: spaces, drawing of episodes, reward."""

    def __init__(
        self,
        source: Labelled,
        reader: Reader,
        decisions: tuple[Decision, ...] = (Halt(),),
        chunk: int = 8,
        price: float | tuple[float, float] = 0.1,
        token_budget: float | None = None,
        flops_budget: float | None = None,
        task_reward: TaskReward = "log_likelihood",
        decision_flops: float = 0.0,
        peek: bool = False,
        preview: bool = False,
    ) -> None:
        check_task_reward(task_reward)
        if not 0 <= decision_flops < math.inf:
            raise bad("env", "decision_flops", decision_flops, "a number from 0 up")
        self._labels = _labels(source, reader)
        self._prices = _price_range(price)
        self._source, self._reader, self._scheme = source, reader.eval(), Scheme(tuple(decisions))
        self._chunk, self._task_reward, self._decision_flops = chunk, task_reward, decision_flops
        self._budgets = token_budget, flops_budget
        shown = {"peek": peek, "preview": preview, "seen": not self._scheme.forward}
        self._needs = frozenset({"probabilities", *(name for name, each in shown.items() if each)})
        self._full_flops = reader.full_flops()
        self._price = torch.empty(0)  # of each episode observed; none yet
        # What cannot be read is refused here rather than at the first reset.
        self._begin(self._plan([0], [self._prices[0]]))
        self.observation_space: spaces.Space[Any] = self._episode_space()
        self.action_space: spaces.Space[Any] = spaces.MultiDiscrete(list(self._scheme.num_options))

    def _episode_space(self) -> spaces.Dict:
        task = self._reader.task
        low = np.array([-1.0] + [0.0] * (len(SCALARS) - 1), dtype=np.float32)
        parts: dict[str, spaces.Space[Any]] = {
            "summary": spaces.Box(-1.0, 1.0, (self._reader.summary_size,), np.float32),
            "probabilities": spaces.Box(0.0, 1.0, (task.num_classes,), np.float32),
            "scalars": spaces.Box(low, np.ones_like(low), dtype=np.float32),
        }
        if "peek" in self._needs:
            # frames have no vocabulary, and ids without a bound
            last = task.vocabulary_size - 1 if task.vocabulary_size > 1 else np.iinfo(np.int64).max
            parts["peek"] = spaces.Box(0, last, (self._chunk,), np.int64)
        if "seen" in self._needs:
            parts["seen"] = spaces.Box(0, 1, (task.max_length,), np.int64)
        if "preview" in self._needs:
            shape = (task.max_length, self._reader.preview_size)
            parts["preview"] = spaces.Box(-1.0, 1.0, shape, np.float32)
        return spaces.Dict(parts)

    def _draw(self, generator: np.random.Generator, num: int) -> Plan:
        """The next `num` episodes; one by one, so that a seed's k-th episode is the same for any number of slots."""
        low, high = self._prices
        sequences, prices = [], []
        for _ in range(num):
            sequences.append(int(generator.integers(len(self._source))))
            prices.append(low if low == high else math.exp(generator.uniform(math.log(low), math.log(high))))
        return self._plan(sequences, prices)

    def _plan(self, sequences: list[int], prices: list[float]) -> Plan:
        return Plan.of(
            torch.tensor(sequences, dtype=torch.long),
            torch.tensor(prices, dtype=torch.double),
            *self._budgets,
        )

    @torch.no_grad()
    def _begin(self, plan: Plan) -> None:
        """Read the episodes of a plan side by side."""
        what = self._source, self._reader, self._scheme, plan
        self._slots = Slots(*what, len(plan), self._chunk, self._needs, self._decision_flops, keep_last=True)

    @torch.no_grad()
    def _observe(self) -> Features:
        """What is known now; once a step, for looking is charged."""
        observation = self._slots.observe()
        self._price = observation.price
        return self._features(observation)

    @torch.no_grad()
    def _last(self) -> Features:
        """What was known at the end of each sequence that ended in the last step."""
        return self._features(self._slots.last)

    @torch.no_grad()
    def _carry_out(self, actions: Array) -> tuple[Array, Array, list[dict[str, Any]]]:
        """Rewards (slots,), which ended (slots,), and the facts of each that did; ended slots are refilled."""
        price = self._price
        transition = self._slots.step(torch.as_tensor(actions, dtype=torch.long, device=self._slots.device))
        rewards = -price * transition.cost / self._full_flops
        facts: list[dict[str, Any]] = []
        if transition.outcome is not None:
            outcome = transition.outcome
            labels = self._labels[outcome.sequence.cpu()].to(outcome.sequence.device)
            rewards[transition.ended] += answer_reward(outcome.probabilities, labels, self._task_reward)
            facts = _facts(outcome, labels, price[transition.ended])
        return rewards.cpu().numpy(), transition.ended.cpu().numpy(), facts

    def _check(self, actions: Array) -> None:
        """Raise UserError where an action, a row for each slot, has no meaning; ResetNeeded where nothing is read."""
        if self._slots.busy != len(self._price):
            raise gymnasium.error.ResetNeeded("env: no sequence is being read; call reset first")
        options = np.array(self._scheme.num_options)
        if actions.shape != (self._slots.busy, len(options)):
            expected = f"{self._slots.busy} actions of {len(options)} whole numbers each"
            raise bad("env", "actions of shape", actions.shape, expected)
        wrong = ((actions < 0) | (actions >= options) | (actions != actions.astype(np.int64))).any(1)
        if wrong.any():
            slot = int(wrong.argmax())
            expected = f"whole numbers from 0 up, below {options.tolist()}"
            raise bad("env", f"action in slot {slot}", actions[slot].tolist(), expected)

    def _features(self, observation: Observation) -> Features:
        """An observation's rows as arrays within the bounds of the observation space, none shared with the slots."""
        assert observation.probabilities is not None
        features = {
            "summary": _array(torch.tanh(observation.summary), np.float32),
            "probabilities": _array(observation.probabilities, np.float32),
            "scalars": _array(self._scalars(observation), np.float32),
        }
        if "peek" in self._needs:
            nothing = observation.position.new_zeros(len(observation.position), self._chunk)
            features["peek"] = _array(nothing if observation.peek is None else observation.peek, np.int64)
        if observation.seen is not None:
            features["seen"] = _array(observation.seen, np.int64)
        if observation.preview is not None:
            features["preview"] = _array(torch.tanh(observation.preview), np.float32)
        return features

    def _scalars(self, observation: Observation) -> Tensor:
        o, task = observation, self._reader.task
        assert o.probabilities is not None
        length, longest = o.length.double(), math.log1p(task.max_length)
        entropy = torch.special.entr(o.probabilities.double()).sum(-1)
        price = o.price.clamp(LOWEST_PRICE, HIGHEST_PRICE)
        columns = {
            "price": 2 * torch.log(price / LOWEST_PRICE) / math.log(HIGHEST_PRICE / LOWEST_PRICE) - 1,
            "position": o.position / length.clamp_min(1),
            "length": torch.log1p(length) / longest,
            "tokens": torch.log1p(o.tokens.double()) / longest,
            "spent": o.flops / (o.flops + self._full_flops),
            "tokens_left": _share_left(o.tokens_left, o.tokens.double()),
            "flops_left": _share_left(o.flops_left, o.flops),
            "entropy": entropy / math.log(max(task.num_classes, 2)),
            "streak": 1 - 1 / (1 + o.streak.double()),
        }
        low = torch.tensor([-1.0] + [0.0] * (len(SCALARS) - 1), device=o.price.device)
        return torch.stack([columns[name] for name in SCALARS], -1).clamp(low, torch.ones_like(low))


class ReadEnv(_Episodes, gymnasium.Env[Features, Array]):
    """One sequence after the other, as `gymnasium.make("temporal/Read-v0", source=..., reader=...)`.

    Observations are dictionaries: `summary` (the reader's read-out through tanh, -1 to 1), `probabilities` (of the
    classes), `scalars` (those of SCALARS, the price from -1 to 1, the others from 0 to 1) and, if asked, `peek` and
    `preview`; `seen` (which positions were read) where decisions go to places out of order. The
    answer is computed before every decision, and its FLOPs are charged. An action has one number for each decision.
    At the end `info` holds sequence, price, label, prediction, correct, flops, tokens, observations, halted.

    Args:
        source: sequences with labels; each episode reads one of them, drawn uniformly with replacement.
        reader: the network that reads; put into evaluation mode, and never trained here.
        decisions: the components of an action, such as Halt, Jump, Mode.
        chunk: tokens of one observation, 1 or more.
        price: reward that 1 unit of compute (reading the task's average sequence in full) costs, 0 or more; or
            (low, high), above 0, between which each episode's price is drawn log-uniformly.
        token_budget: tokens that an episode may read, 1 or more; None for no limit.
        flops_budget: FLOPs that an episode may spend, those of one answer or more; None for no limit.
        task_reward: log_likelihood (nats, of a probability no lower than 0.001), correctness or probability.
        decision_flops: what each decision of the agent costs, 0 or more; an agent that peeks counts that in.
        peek: show the token ids of the next chunk, 0 beyond its end.
        preview: show the reader's preview of every position (through tanh), which is charged at the start.

    Raises:
        UserError: an argument out of its range; a source without labels, or with labels that the reader lacks.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - declared by gymnasium

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Features, dict[str, Any]]:
        """Begin to read a sequence.

        Args:
            seed: the same seed brings the same episodes.
            options: `sequence` (its index) and `price`, each in place of the one drawn.
        """
        super().reset(seed=seed)
        self._begin(self._chosen(self._draw(self.np_random, 1), options or {}))
        return _row(self._observe(), 0), {}

    def step(self, action: Array) -> tuple[Features, float, bool, bool, dict[str, Any]]:
        """Carry out one action; raises UserError where it has no meaning, ResetNeeded before reset or after the end."""
        actions = np.asarray(action)[None]
        self._check(actions)
        rewards, ended, facts = self._carry_out(actions)
        features = self._last() if facts else self._observe()
        return _row(features, 0), float(rewards[0]), bool(ended[0]), False, facts[0] if facts else {}

    def _chosen(self, plan: Plan, options: dict[str, Any]) -> Plan:
        for name in options.keys() - {"sequence", "price"}:
            raise bad("env", "option", name, "sequence or price", ("sequence", "price"))
        sequence = options.get("sequence", int(plan.sequences[0]))
        if not 0 <= sequence < len(self._source):
            raise bad("env", "option sequence", sequence, f"a whole number from 0 to {len(self._source) - 1}")
        return self._plan([sequence], [options.get("price", float(plan.price[0]))])


class ReadVectorEnv(_Episodes, VectorEnv[Features, Array, Array]):
    """Sequences read side by side, as `gymnasium.make_vec("temporal/Read-v0", num_envs=8, ...)`.

    A slot whose sequence ends takes the next one in the same step, without end: the observation returned is then the
    next sequence's first, and `infos` holds `final_obs` and `final_info`, in the form that gymnasium gives them.

    Args:
        source: as for ReadEnv.
        reader: as for ReadEnv.
        num_envs: sequences read side by side, 1 or more.
        arguments: the others of ReadEnv.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012 - declared by gymnasium

    def __init__(self, source: Labelled, reader: Reader, num_envs: int = 1, **arguments: Any) -> None:
        if num_envs < 1:
            raise bad("env", "num_envs", num_envs, "a whole number from 1 up")
        super().__init__(source, reader, **arguments)
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = self.observation_space, self.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Features, dict[str, Any]]:
        """Begin to read in every slot; the same seed brings the same episodes. There are no options."""
        for name in options or {}:
            raise bad("env", "option", name, "none")
        super().reset(seed=seed)
        self._begin(self._draw(self.np_random, self.num_envs))
        return self._observe(), {}

    def step(self, actions: Array) -> tuple[Features, Array, Array, Array, dict[str, Any]]:
        """Carry out one action in every slot; raises UserError where one has no meaning, ResetNeeded before reset."""
        actions = np.asarray(actions)
        self._check(actions)
        missing = self.num_envs - self._slots.waiting  # all may end at once
        self._slots.extend(self._draw(self.np_random, missing))
        rewards, ended, facts = self._carry_out(actions)
        infos: dict[str, Any] = {}
        if facts:
            last = self._last()
            for i, slot in enumerate(ended.nonzero()[0]):
                infos = self._add_info(infos, {"final_obs": _row(last, i), "final_info": facts[i]}, int(slot))
        return self._observe(), rewards, ended, np.zeros_like(ended), infos


def _labels(source: Labelled, reader: Reader) -> Tensor:
    if len(source) == 0:
        raise bad("env", "sequences in the source", 0, "1 or more")
    if source.labels is None:
        raise bad("env", "labels of the source", None, "a class index for each sequence")
    labels, known = source.labels.cpu(), reader.task.num_classes
    wrong = (labels < 0) | (labels >= known)
    if bool(wrong.any()):
        where = int(wrong.nonzero()[0, 0])
        expected = f"0 to {known - 1}, the reader's classes"
        raise bad("env", f"label of sequence {where}", int(labels[where]), expected)
    return labels


def _price_range(price: float | Sequence[float]) -> tuple[float, float]:
    """Lowest and highest price; the same one twice where it is fixed."""
    ends = list(price) if isinstance(price, Sequence) else [price, price]
    if len(ends) != 2 or not 0 <= ends[0] <= ends[1] < math.inf or ends[0] == 0 < ends[1]:
        raise bad("env", "price", price, "a number from 0 up, or (low, high) with 0 < low <= high")
    return float(ends[0]), float(ends[1])


def _facts(outcome: Outcome, labels: Tensor, prices: Tensor) -> list[dict[str, Any]]:
    """What is told of each episode that ended."""
    predictions = outcome.probabilities.argmax(-1)
    columns = {
        "sequence": outcome.sequence,
        "price": prices,
        "label": labels,
        "prediction": predictions,
        "correct": predictions == labels,
        "flops": outcome.flops,
        "tokens": outcome.tokens,
        "observations": outcome.observations,
        "halted": outcome.halted,
    }
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _share_left(left: Tensor, used: Tensor) -> Tensor:
    """Share of a budget that is left; 1 where it has no end."""
    return torch.where(torch.isinf(left), torch.ones_like(left), left / (left + used))


def _array(values: Tensor, dtype: type) -> Array:
    """A copy, for the user may write into it."""
    return np.array(values.cpu().numpy(), dtype=dtype)


def _row(features: Features, row: int) -> Features:
    return {name: values[row] for name, values in features.items()}
