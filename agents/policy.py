"""A policy network with one head for each decision and a value head, shown the price and the remaining budget."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from temporal.agents.base import Agent
from temporal.agents.places import PlaceHead
from temporal.cost import added_flops, look_up_flops, module_flops, search_flops
from temporal.decisions import Decision, Halt, Place, Scheme
from temporal.episodes import Observation
from temporal.errors import bad
from temporal.ranges import BelowOne, Checked, Price, Units, UnitsOrNone
from temporal.readers.base import Reader, Task


class Judgement(NamedTuple):
    """What the network says of some observations: logits (..., options) of each decision, and a value (...)."""

    logits: list[Tensor]
    value: Tensor


class PolicyAgent(Checked, Agent, nn.Module):
    """Decides by a small perceptron over what is known so far.

    Args:
        task: what the data set says (filled in by the program).
        reader: the reader that it drives (filled in by the program).
        scheme: decisions taken at each step, such as Halt, Jump, Mode; Halt alone when left out.
        hidden_size: units of each of the two hidden layers.
        summary_size: units that the reader's read-out is squeezed into; 0 leaves it out.
        peek_size: width of the agent's own embedding of the next chunk's tokens (a preview); 0 leaves it out.
        preview: use the reader's previews of all positions where it has them, to choose places.
        ahead: of how many of the coming positions the preview is shown; for schemes that read on in order.
        lowest_price: prices at or below look alike to the agent; above 0.
        highest_price: prices at or above look alike.
        dropout: share of hidden units zeroed while halting is fitted on recorded readings, 0 to below 1; policy
            gradients learn the policy as it acts, without.
    """

    def __init__(
        self,
        task: Task,
        reader: Reader,
        scheme: tuple[Decision, ...] | None = None,
        hidden_size: Units = 64,
        summary_size: UnitsOrNone = 16,
        peek_size: UnitsOrNone = 0,
        preview: bool = True,
        ahead: UnitsOrNone = 0,
        lowest_price: Price = 0.003,
        highest_price: Price = 10.0,
        dropout: BelowOne = 0.0,
    ) -> None:
        nn.Module.__init__(self)
        if lowest_price >= highest_price:
            raise bad(
                "PolicyAgent",
                "lowest_price",
                lowest_price,
                f"below highest_price ({highest_price})",
            )
        # made here: as a default value an object could not be written into a run's config.yaml
        self.scheme = Scheme((Halt(),) if scheme is None else tuple(scheme))
        self.scheme.check(reader.modes)
        place = self.scheme.find(Place)
        preview_size = reader.preview_size if preview and (place is not None or ahead) else 0
        if ahead and not preview_size:
            raise bad("PolicyAgent", "ahead", ahead, "0, for the reader has no previews")
        self._ahead, self._preview_size, self._max_length = ahead, preview_size, task.max_length
        needs = {"peek": peek_size > 0, "seen": place is not None, "preview": preview_size > 0}
        self.needs = frozenset({"probabilities", *(name for name, needed in needs.items() if needed)})
        self.lowest_price, self.highest_price = lowest_price, highest_price
        self.num_classes, self.dropout = task.num_classes, dropout
        self._log_length = math.log1p(task.max_length)
        self._mean_length = task.mean_length
        self._token_flops = reader.full_flops(1000) / 1000
        self.squeeze = nn.Linear(reader.summary_size, summary_size) if summary_size else None
        self.peek = nn.Embedding(task.vocabulary_size, peek_size, padding_idx=0) if peek_size else None
        self._promises = NUM_PROMISES if place is not None and preview_size else 0
        seen_ahead = ahead * (preview_size + 1) + self._promises
        inputs = NUM_SCALARS + task.num_classes + summary_size + peek_size + seen_ahead
        self.trunk = nn.Sequential(
            nn.Linear(inputs, hidden_size),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, hidden_size),
            nn.SiLU(),
            nn.Dropout(dropout),
        )
        self.heads = nn.Linear(hidden_size, sum(self.scheme.num_options))
        self._place_index = place
        self.places: PlaceHead | None = None
        if place is not None:
            self.places = PlaceHead(task.max_length, preview_size, hidden_size)
            first = sum(self.scheme.num_options[:place])
            own = slice(first, first + self.scheme.num_options[place])
            nn.init.zeros_(self.heads.weight[own])
            nn.init.zeros_(self.heads.bias[own])
        self.value = nn.Linear(hidden_size, 1)
        self._draw: torch.Generator | None = None

    @property
    def decision_flops(self) -> float:
        """FLOPs of one decision: every layer that runs when acting (the value head does not), and looking up."""
        convolved = self.places.flops - module_flops(self.places) if self.places is not None else 0
        return float(module_flops(self) - module_flops(self.value) + convolved) + self.look_up_flops

    @property
    def look_up_flops(self) -> float:
        """Previews of the coming positions; of all positions, where the best that are left are sought."""
        numbers = look_up_flops(self._ahead * self._preview_size)
        return float(numbers + (search_flops(self._max_length) if self._promises else 0))

    @property
    def peek_flops(self) -> float:
        """Each token's own embedding, looked up and added."""
        return float(added_flops(self.peek.embedding_dim)) if self.peek is not None else 0.0

    @contextmanager
    def sampling(self, generator: torch.Generator) -> Iterator[None]:
        """While this lasts, options are drawn by their probabilities instead of taking the likeliest."""
        self._draw = generator
        try:
            yield
        finally:
            self._draw = None

    def inputs(self, observation: Observation) -> Float[Tensor, "... inputs"]:
        """Normalised features of observations of any leading shape; all near or within -1 to 1."""
        assert observation.probabilities is not None
        parts = [scalars(observation, self), 2 * observation.probabilities - 1]
        if self.squeeze is not None:
            parts.append(torch.tanh(self.squeeze(observation.summary)))
        if self.peek is not None:
            assert observation.peek is not None
            real = (observation.peek > 0).sum(-1, keepdim=True).clamp_min(1)
            parts.append(self.peek(observation.peek).sum(-2) / real)
        if self._ahead:
            parts.append(self._coming(observation))
        if self._promises:
            parts.append(self._best_left(observation))
        return torch.cat(parts, -1)

    def _best_left(self, observation: Observation) -> Float[Tensor, "... promises"]:
        """The highest first numbers of the previews of positions that were not read; -1 where there are fewer."""
        assert observation.preview is not None
        assert observation.seen is not None
        positions = torch.arange(observation.seen.shape[-1], device=observation.seen.device)
        out = observation.seen | (positions >= observation.length[..., None])
        scores = torch.tanh(observation.preview[..., 0] / 4).masked_fill(out, -1.0)
        missing = max(self._promises - scores.shape[-1], 0)
        best: Tensor = nn.functional.pad(scores, (0, missing), value=-1.0).topk(self._promises, -1).values
        return best

    def _coming(self, observation: Observation) -> Float[Tensor, "... coming"]:
        """Previews of the next positions, each with a 1 where it lies within the sequence."""
        assert observation.preview is not None
        previews = torch.tanh(observation.preview / 4)
        places = observation.position[..., None] + torch.arange(self._ahead, device=previews.device)
        within = (places < observation.length[..., None]).to(previews.dtype)[..., None]
        index = places.clamp(max=previews.shape[-2] - 1)[..., None].expand(*places.shape, previews.shape[-1])
        return torch.cat([previews.gather(-2, index) * within, within], -1).flatten(-2)

    def judge(self, observation: Observation) -> Judgement:
        """Logits of every decision and the value, for observations of any leading shape."""
        hidden = self.trunk(self.inputs(observation))
        return Judgement(self._logits(observation, hidden), self.value(hidden)[..., 0])

    def halting(self, observation: Observation) -> Float[Tensor, "..."]:
        """How much rather it would stop than go on: the difference of the two logits. Other heads are not run."""
        index = self.scheme.halt_index
        assert index is not None
        first = sum(self.scheme.num_options[:index])
        logits = self.heads(self.trunk(self.inputs(observation)))
        difference: Tensor = logits[..., first + 1] - logits[..., first]
        return difference

    def _logits(self, observation: Observation, hidden: Tensor) -> list[Tensor]:
        logits = list(self.heads(hidden).split(self.scheme.num_options, -1))
        if self.places is not None and self._place_index is not None:
            logits[self._place_index] = self._place_logits(observation, hidden, logits[self._place_index])
        return logits

    def _place_logits(self, observation: Observation, hidden: Tensor, own: Tensor) -> Tensor:
        """Scores of places; impossible where one was read already, unless all were."""
        assert self.places is not None
        assert self._place_index is not None
        assert observation.seen is not None
        decision = self.scheme.decisions[self._place_index]
        assert isinstance(decision, Place)
        positions = decision.positions(observation.length.reshape(-1)).view(*own.shape)
        score = self.places(observation, hidden).gather(-1, positions)
        taken = observation.seen.gather(-1, positions)
        left: Tensor = (own + score).masked_fill(taken & ~taken.all(-1, keepdim=True), BLOCKED)
        return left

    def act(self, observation: Observation) -> Tensor:
        """The likeliest option of each decision, or a drawn one while `sampling`."""
        logits = self._logits(observation, self.trunk(self.inputs(observation)))
        if self._draw is None:
            return torch.stack([each.argmax(-1) for each in logits], -1)
        drawn = [
            torch.multinomial(each.softmax(-1).cpu(), 1, generator=self._draw)[:, 0].to(each.device)
            for each in logits
        ]
        return torch.stack(drawn, -1)

    def log_probability(self, judgement: Judgement, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy (...) of actions (..., decisions).

        Where the agent halted, the other decisions had no effect and count for nothing.
        """
        total = torch.zeros_like(judgement.value)
        entropy = torch.zeros_like(judgement.value)
        halt = self.scheme.halt_index
        going = torch.ones_like(judgement.value) if halt is None else 1.0 - actions[..., halt].to(total.dtype)
        for i, logits in enumerate(judgement.logits):
            weight = torch.ones_like(going) if i == halt else going
            log = logits.log_softmax(-1)
            total = total + weight * log.gather(-1, actions[..., i : i + 1])[..., 0]
            entropy = entropy - weight * (log.exp() * log.clamp_min(BLOCKED)).sum(-1)
        return total, entropy


BLOCKED = (
    -1e4
)  # the logit of what cannot be chosen; finite, so that its share of the entropy is 0 and not nan
NUM_SCALARS = 11
NUM_PROMISES = 4  # previews of the most promising positions that an agent is shown


def scalars(observation: Observation, agent: PolicyAgent) -> Float[Tensor, "... scalars"]:
    """What is known besides the answer itself: price, place, spending, budget, sureness and how long it has stood."""
    assert observation.probabilities is not None
    top = observation.probabilities.topk(2, -1).values
    entropy = torch.special.entr(observation.probabilities).sum(-1) / math.log(
        observation.probabilities.shape[-1]
    )
    log_range = math.log(agent.highest_price / agent.lowest_price)
    price = observation.price.clamp(agent.lowest_price, agent.highest_price)
    passed = observation.position if agent.scheme.forward else observation.tokens
    remaining = (observation.length - passed).clamp_min(0).double()
    left = torch.minimum(observation.tokens_left, remaining)
    left = torch.minimum(left, observation.flops_left / agent._token_flops).clamp_min(0)
    counts = torch.stack([observation.tokens, observation.length, left, remaining], -1)
    log_tokens = (torch.log1p(counts) / agent._log_length).unbind(-1)
    columns = [
        2 * torch.log(price / agent.lowest_price) / log_range - 1,
        log_tokens[0],
        (observation.tokens / agent._mean_length).clamp(max=3) - 1,
        *log_tokens[1:],
        2 * top[..., 0] - 1,
        top[..., 0] - top[..., 1],
        entropy,
        torch.log((1 - top[..., 0]).clamp_min(1e-4)) / 5 + 1,
        1 - 2 / (1 + observation.streak.double()),
    ]
    return torch.stack(columns, -1).to(top.dtype)
