"""The slots and the one loop over time: training, evaluation, scoring and the environment all run through it.

B slots advance together; a slot whose sequence ends takes the next one at once, and when none is left the batch
shrinks, so that the work done is proportional to what is read and never to the longest sequence in a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from temporal.cost import SIFT_FLOPS, Meter
from temporal.decisions import Scheme, Sift, Situation
from temporal.episodes import Fetches, Observation, Outcome, Plan, Reading, Recorder, Transition
from temporal.errors import bad
from temporal.readers.base import COPY, Chunk, Reader, State, join_rows, put_rows, sift
from temporal.unread import unread_from


@dataclass
class _Rows:
    """The busy slots, one row each."""

    episode: Tensor
    sequence: Tensor
    length: Tensor
    position: Tensor
    streak: Tensor
    guess: Tensor
    price: Tensor
    token_budget: Tensor
    flops_budget: Tensor
    meter: Meter
    charged: Tensor  # FLOPs already handed out as the cost of a step
    probabilities: Tensor
    fresh: Tensor  # probabilities belong to the present state
    seen: Tensor  # (slots, positions), no positions unless needed
    preview: Tensor  # (slots, positions, numbers), likewise
    packets: Tensor  # (slots, positions), likewise
    state: State

    def take(self, rows: Tensor) -> _Rows:
        """Keep some rows."""
        return self._zip(self, lambda mine, _: mine[rows])

    def put(self, rows: Tensor, new: _Rows) -> _Rows:
        """Overwrite some rows."""
        return self._zip(new, lambda mine, theirs: put_rows(mine, rows, theirs))

    def join(self, new: _Rows) -> _Rows:
        """Put some rows after these."""
        return self._zip(new, join_rows)

    def _zip(self, other: _Rows, merge: Callable[[Tensor, Tensor], Tensor]) -> _Rows:
        values: dict[str, object] = {}
        for name, mine in vars(self).items():
            theirs = getattr(other, name)
            if isinstance(mine, Tensor):
                values[name] = merge(mine, theirs)
            elif isinstance(mine, tuple):
                values[name] = tuple(merge(a, b) for a, b in zip(mine, theirs, strict=True))
            else:
                values[name] = Meter(
                    *(merge(a, b) for a, b in zip(vars(mine).values(), vars(theirs).values(), strict=True))
                )
        return _Rows(**values)  # type: ignore[arg-type]


class Slots:
    """Sequences being read side by side.

    Args:
        source: where observations are fetched from, only when read.
        reader: in evaluation mode for deterministic answers.
        scheme: what actions mean.
        plan: the episodes, taken in order as slots come free.
        num_slots: how many are read side by side; 1 or more.
        chunk: tokens of one observation; 1 or more.
        needs: parts of an observation to compute: probabilities (charged whenever they change), peek, seen, preview
            and packets (charged once, for every position).
        decision_flops: what each decision of the agent costs, peeking aside.
        peek_flops: what each token of the next chunk costs that is peeked at.
        keep_last: keep in `last` what was known where sequences ended, at no charge.

    Raises:
        UserError: a budget in FLOPs that does not even pay for one answer; a mode or a preview that the reader lacks;
            more tokens to read of one sequence than the reader holds.
    """

    last: Observation
    """Of the sequences that ended in the latest step in which any did; only with `keep_last`."""

    def __init__(
        self,
        source: Fetches,
        reader: Reader,
        scheme: Scheme,
        plan: Plan,
        num_slots: int = 64,
        chunk: int = 8,
        needs: frozenset[str] = frozenset({"probabilities"}),
        decision_flops: float = 0.0,
        peek_flops: float = 0.0,
        keep_last: bool = False,
    ) -> None:
        scheme.check(reader.modes)
        if num_slots < 1 or chunk < 1:
            raise bad("reading", "num_slots and chunk", (num_slots, chunk), "whole numbers from 1 up")
        if "preview" in needs and not reader.preview_size:
            raise bad("reading", "preview", "a reader without", "a reader that has previews")
        self.source, self.reader, self.scheme = source, reader, scheme
        self.chunk, self.needs, self.decision_flops = chunk, needs, decision_flops
        self._peek_flops = peek_flops if "peek" in needs else 0.0
        self._sift_flops = SIFT_FLOPS if scheme.find(Sift) is not None else 0
        self.device = next(reader.parameters()).device
        self._num_slots, self._keep_last = num_slots, keep_last
        self._plan = plan
        self._next = 0
        self._first = 0  # episode number of the plan's first row
        self._cheapest = self._cheapest_mode()
        self._flops_limited = False  # whether any episode has a budget in FLOPs
        self._check_budget(plan)
        self._rows = self._start(num_slots)
        self._pass_over_poor()

    @property
    def busy(self) -> int:
        """How many slots hold a sequence; observations have that many rows."""
        return int(self._rows.episode.shape[0])

    def extend(self, plan: Plan) -> None:
        """Add episodes after those that are left; slots that stand empty take them at once."""
        self._check_budget(plan)
        left = self._plan.part(self._next, len(self._plan))
        both = (torch.cat(pair) for pair in zip(vars(left).values(), vars(plan).values(), strict=True))
        self._first += self._next
        self._plan, self._next = Plan(*both), 0
        if self.busy < self._num_slots:
            self._rows = self._rows.join(self._start(self._num_slots - self.busy))
            self._pass_over_poor()

    @property
    def waiting(self) -> int:
        """How many episodes no slot has taken yet."""
        return len(self._plan) - self._next

    def observe(self) -> Observation:
        """What is known now; charges each busy slot for the answer (where needed) and the decision."""
        rows = self._rows
        summary = self.reader.summary(rows.state)
        if "probabilities" in self.needs:
            self._answer((~rows.fresh).nonzero()[:, 0], summary)
        can_read = rows.length > 0  # where nothing can be read nothing is decided
        rows.meter.charge(self.decision_flops * can_read + self._peek_flops * self._coming())
        peek = self._peek() if "peek" in self.needs else None
        return self._shown(rows, summary, rows.probabilities if "probabilities" in self.needs else None, peek)

    def _shown(
        self, rows: _Rows, summary: Tensor, probabilities: Tensor | None, peek: Tensor | None
    ) -> Observation:
        return Observation(
            summary=summary,
            probabilities=probabilities,
            streak=rows.streak,
            position=rows.position,
            length=rows.length,
            tokens=rows.meter.tokens,
            observations=rows.meter.observations,
            flops=rows.meter.flops,
            price=rows.price,
            tokens_left=rows.token_budget - rows.meter.tokens,
            flops_left=rows.flops_budget - rows.meter.flops,
            peek=peek,
            seen=rows.seen if "seen" in self.needs else None,
            preview=rows.preview if "preview" in self.needs else None,
            packets=rows.packets if "packets" in self.needs else None,
            episode=rows.episode,
        )

    def step(self, actions: Int[Tensor, "batch decisions"]) -> Transition:
        """Carry out one action in each busy slot: halt, or go and read; then refill the slots that ended."""
        rows = self._rows
        at = Situation(self.reader.modes, self.reader.full_mode, rows.length, rows.meter.observations)
        choice = self.scheme.decode(actions, at)
        start, room = rows.position + choice.advance, rows.length
        if not self.scheme.forward:
            start, room = unread_from(choice.place, rows.seen, rows.length)
        going = ~choice.halt & (start < rows.length)
        mode = torch.where(going, choice.mode, torch.full_like(choice.mode, COPY))
        counts = torch.minimum(rows.length - start, room).clamp(0, self.chunk)
        passed = counts
        counts = torch.minimum(counts, self._affordable(mode, choice.sift)) * going
        stuck = going & (mode != COPY) & (counts == 0)  # the budget does not pay for what was chosen
        going = going & ~stuck
        chunk = self.source.fetch(
            rows.sequence, start.clamp(max=rows.length), counts * (mode != COPY), self.chunk
        )
        if bool((choice.sift > 0).any()):
            rows.meter.charge(SIFT_FLOPS * chunk.counts * (choice.sift > 0))
            keep = (self.reader.salience[chunk.tokens] >= choice.sift[:, None]) & (chunk.tokens > 0)
            chunk = Chunk(*sift(chunk.tokens, chunk.positions, keep))
        if bool(going.any()):
            self._read(chunk, mode)
        rows.position = torch.where(going, start + torch.where(mode == COPY, passed, counts), rows.position)
        ended = ~going | self._read_out() | ~self._can_go_on()
        outcome = self._finish(ended, choice.halt) if bool(ended.any()) else None
        cost = rows.meter.flops - rows.charged
        rows.charged = rows.meter.flops
        if outcome is not None:
            self._refill(ended)
        return Transition(cost, chunk, mode, ended, outcome)

    def _read(self, chunk: Chunk, mode: Tensor) -> None:
        rows = self._rows
        flops = self.reader.read_flops(mode, chunk.counts, rows.meter.tokens)
        rows.state = self.reader.step(rows.state, chunk.narrow(), mode)
        rows.meter.charge_reading(flops, chunk.counts)
        rows.fresh = rows.fresh & (chunk.counts == 0)
        if self._tracks_seen:
            real = torch.arange(chunk.positions.shape[1], device=self.device) < chunk.counts[:, None]
            rows.seen = rows.seen.scatter_reduce(1, chunk.positions, real, "amax")

    def _read_out(self) -> Tensor:
        """Whether nothing is left to read; out of order, that is when as many were read as there are."""
        rows = self._rows
        passed = rows.position if self.scheme.forward else rows.meter.tokens
        return passed >= rows.length

    def _answer(self, which: Tensor, summary: Tensor) -> None:
        """Compute and charge the class probabilities of some rows, given the read-outs of all."""
        if which.numel() == 0:
            return
        rows = self._rows
        cost = torch.tensor(self.reader.predict_flops, dtype=torch.float64, device=self.device)
        fresh = self.reader.predict(summary[which]).softmax(-1)
        guess = fresh.argmax(-1)
        streak = (rows.streak[which] + 1) * (guess == rows.guess[which])
        rows.probabilities = rows.probabilities.index_copy(0, which, fresh)
        rows.meter.flops = rows.meter.flops.index_add(0, which, cost.expand(which.numel()))
        rows.streak = rows.streak.index_copy(0, which, streak)
        rows.guess = rows.guess.index_copy(0, which, guess)
        rows.fresh = rows.fresh.index_fill(0, which, True)

    def _affordable(self, mode: Tensor, level: Tensor) -> Tensor:
        """Tokens that each slot may still go through as was chosen, keeping back the price of an answer."""
        rows = self._rows
        left = rows.token_budget - rows.meter.tokens
        if not self._flops_limited:
            return left.clamp(0, self.chunk).long()
        money = rows.flops_budget - rows.meter.flops - self.reader.predict_flops
        each = self._token_flops(mode) + SIFT_FLOPS * (level > 0)
        tokens = torch.where(
            each > 0, (money / each.clamp_min(1e-9)).floor(), torch.full_like(money, math.inf)
        )
        return torch.minimum(left, tokens).clamp(0, self.chunk).long()

    def _token_flops(self, mode: Tensor) -> Tensor:
        """FLOPs of one token at the end of the coming chunk, which is the dearest of it."""
        before = self._rows.meter.tokens + (self.chunk - 1)
        return self.reader.read_flops(mode, torch.ones_like(before), before)

    def _can_go_on(self) -> Tensor:
        """Whether a slot can pay one more decision, one token and the answers around them."""
        rows = self._rows
        room = rows.meter.tokens < rows.token_budget
        if not self._flops_limited:
            return room
        token = self._token_flops(torch.full_like(rows.position, self._cheapest))
        deciding = self.decision_flops + self._peek_flops * self.chunk
        need = deciding + 2 * self.reader.predict_flops + token + self._sift_flops
        return room & (rows.flops_budget - rows.meter.flops >= need)

    def _cheapest_mode(self) -> int:
        modes = torch.tensor(self.scheme.reading_modes(self.reader.modes, self.reader.full_mode))
        costs = self.reader.read_flops(modes, torch.ones_like(modes), torch.zeros_like(modes))
        return int(modes[costs.argmin()])

    def _check_budget(self, plan: Plan) -> None:
        self._check_capacity(plan)
        least = self.reader.predict_flops + self._preview_flops() * self.reader.task.max_length
        self._flops_limited |= not bool(torch.isinf(plan.flops_budget).all())
        if len(plan) and float(plan.flops_budget.min()) < least:
            raise bad(
                "reading",
                "budget in FLOPs",
                float(plan.flops_budget.min()),
                f"{least:.0f} or more, the cost of one answer"
                + (" and of the previews" if self._preview_flops() else ""),
            )

    def _check_capacity(self, plan: Plan) -> None:
        capacity = self.reader.capacity
        if capacity is None or not len(plan):
            return
        longest = int(torch.minimum(self.source.lengths[plan.sequences], plan.token_budget).max())
        if longest > capacity:
            raise bad(
                "reading", "tokens of a sequence", longest, f"at most the reader's capacity ({capacity})"
            )

    @property
    def _tracks_seen(self) -> bool:
        return "seen" in self.needs or not self.scheme.forward

    def _preview_flops(self) -> int:
        """What each position costs before anything is read."""
        each = {"preview": self.reader.preview_flops, "packets": self.reader.packet_flops}
        return sum(flops for need, flops in each.items() if need in self.needs)

    def _finish(self, ended: Tensor, halted: Tensor) -> Outcome:
        rows = self._rows
        which = ended.nonzero()[:, 0]
        self._answer(which[~rows.fresh[which]], self.reader.summary(rows.state))
        if self._keep_last:
            ending = rows.take(which)  # nothing comes next, so that there is nothing to peek at
            self.last = self._shown(ending, self.reader.summary(ending.state), ending.probabilities, None)
        return Outcome(
            rows.episode[which],
            rows.sequence[which],
            rows.probabilities[which],
            rows.meter.flops[which],
            rows.meter.tokens[which],
            rows.meter.observations[which],
            halted[which],
        )

    def _refill(self, ended: Tensor) -> None:
        """Give the slots that ended the next sequences; drop those for which none is left."""
        which = ended.nonzero()[:, 0]
        new = self._start(which.numel())
        num = int(new.episode.shape[0])
        if num:
            self._rows = self._rows.put(which[:num], new)
        if num < which.numel():
            keep = torch.ones(self.busy, dtype=torch.bool, device=self.device)
            keep[which[num:]] = False
            self._rows = self._rows.take(keep.nonzero()[:, 0])
        self._pass_over_poor()

    def _start(self, num: int) -> _Rows:
        """Rows for the next `num` episodes, fewer when the plan runs out."""
        part = self._plan.part(self._next, self._next + num)
        first = self._first + self._next
        self._next += len(part)
        num, device = len(part), self.device
        sequence = part.sequences.to(device)
        zeros = torch.zeros(num, dtype=torch.long, device=device)
        length = self.source.lengths[part.sequences].to(device)
        meter = Meter.zeros(num, device)
        meter.charge(self._preview_flops() * length)
        return _Rows(
            episode=torch.arange(first, first + num, device=device),
            sequence=sequence,
            length=length,
            position=zeros,
            streak=zeros,
            guess=zeros - 1,
            price=part.price.to(device),
            token_budget=part.token_budget.to(device),
            flops_budget=part.flops_budget.to(device),
            meter=meter,
            charged=torch.zeros(num, dtype=torch.float64, device=device),
            probabilities=torch.zeros(num, self.reader.task.num_classes, device=device),
            fresh=torch.zeros(num, dtype=torch.bool, device=device),
            seen=torch.zeros(
                num, self.reader.task.max_length * self._tracks_seen, dtype=torch.bool, device=device
            ),
            preview=self._preview(sequence, length),
            packets=self._packets(sequence, length),
            state=self.reader.initial(num),
        )

    def _preview(self, sequence: Tensor, length: Tensor) -> Tensor:
        """The preview of every position; of none where the agent needs none."""
        width = self.reader.task.max_length if "preview" in self.needs else 0
        if not width or not len(sequence):
            return torch.zeros(len(sequence), width, self.reader.preview_size, device=self.device)
        return self.reader.preview(
            self.source.fetch(sequence, torch.zeros_like(length), length, width).tokens
        )

    def _packets(self, sequence: Tensor, length: Tensor) -> Tensor:
        """The excess of every position's packets; of none where the agent needs none."""
        width = self.reader.task.max_length if "packets" in self.needs else 0
        if not width or not len(sequence):
            return torch.zeros(len(sequence), width, device=self.device)
        return self.reader.packet_excess(
            self.source.fetch(sequence, torch.zeros_like(length), length, width).tokens
        )

    def _pass_over_poor(self) -> None:
        """Where the budget pays for an answer and no more, there is nothing to read."""
        rows = self._rows
        if self._flops_limited:
            poor = (rows.meter.observations == 0) & (rows.position == 0) & ~self._can_go_on()
            rows.length = torch.where(poor, torch.zeros_like(rows.length), rows.length)

    def _peek(self) -> Tensor:
        rows = self._rows
        return self.source.fetch(rows.sequence, rows.position, self._coming(), self.chunk).tokens

    def _coming(self) -> Tensor:
        """Tokens of the next chunk, as it lies there."""
        return (self._rows.length - self._rows.position).clamp(0, self.chunk)


@torch.no_grad()
def read(
    source: Fetches,
    reader: Reader,
    agent: Reading,
    plan: Plan,
    num_slots: int = 64,
    chunk: int = 8,
    recorder: Recorder | None = None,
    done: Callable[[Outcome], None] | None = None,
) -> Outcome | None:
    """Read every sequence of a plan with an agent: the one loop over time.

    Args:
        source: where observations come from.
        reader: the network that reads.
        agent: what decides.
        plan: which sequences, prices, budgets.
        num_slots: sequences read side by side.
        chunk: tokens of one observation.
        recorder: sees every step, for learning.
        done: sees the episodes that ended, as they end, in place of collecting them.

    Returns:
        The outcomes in the order of the plan; None when the plan is empty or `done` took them.
    """
    price = agent.decision_flops, agent.peek_flops
    slots = Slots(source, reader, agent.scheme, plan, num_slots, chunk, agent.needs, *price)
    parts: list[Outcome] = []
    while slots.busy:
        observation = slots.observe()
        actions = agent.act(observation)
        transition = slots.step(actions)
        if recorder is not None:
            recorder.add(observation, actions, transition)
        if transition.outcome is not None:
            (done or parts.append)(transition.outcome)
    return Outcome.join(parts) if parts else None
