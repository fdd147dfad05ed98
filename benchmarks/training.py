"""One training iteration, ours against an unrolled GRUCell under autograd that does the same work.

Both draw 128 texts, read each with a stochastic policy that halts and sifts before every chunk of 8 tokens, and take
one AdamW step on REINFORCE with a learned baseline (prices, per-step costs, entropy bonus) plus the reader's
cross-entropy after every chunk. Networks have the same sizes and dropout is off. Where each text is halted is drawn
beforehand and overrides the policy's draw, so that both read the same depths, which no update changes.

- ours: `PolicyPhase`: roll-out over refilling slots without gradients, then a dense replay with them.
- unrolled: what a repository of one paper does, done well: the batch padded to its longest text, embedded in one call;
  for each chunk one forward of the policy (its inputs are few and cheap), a draw, eight GRUCell steps with masks, one
  read-out over the chunk's stacked outputs; it stops when all have halted, then stacks logits and takes the losses.
  Nothing is read twice, so it has one forward pass less than ours.

Three kinds of reading:

- all: every token of every text;
- sifted: every chunk, of which all, half or a quarter of the tokens are read, with equal chances;
- halted: sifted, and halted after a number of chunks that is log-uniform from 1 to the longest text's, as it comes
  about where prices are drawn log-uniformly.
"""

from __future__ import annotations

from statistics import mean
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.timing import MAX_LENGTH, Report, parse, ragged_texts, seconds_of, thread_counts
from temporal.agents.phases import PolicyPhase
from temporal.agents.policy import PolicyAgent
from temporal.agents.reinforce import Reinforce
from temporal.agents.scene import Scene
from temporal.agents.stopping import StoppingFit
from temporal.data.base import Sequences
from temporal.decisions import Halt, Sift
from temporal.episodes import Observation
from temporal.readers import RecurrentReader
from temporal.readers.base import Task
from temporal.readers.readout import LOWEST

CHUNK, EPISODES = 8, 128
PRICES = (0.003, 30.0)
RATE, VALUE_WEIGHT, ENTROPY_WEIGHT = 1e-4, 0.5, 0.003


class Reading(NamedTuple):
    """How texts are read."""

    name: str
    levels: tuple[float, ...]
    halts: bool

    def stops(self, generator: torch.Generator) -> Tensor:
        """Chunks (episodes,) after which each text is halted."""
        longest = MAX_LENGTH / CHUNK
        share = torch.rand(EPISODES, generator=generator) if self.halts else torch.ones(EPISODES)
        return (longest**share).ceil()


READINGS = (
    Reading("all", (0.0,), False),
    Reading("sifted", (0.0, 0.5, 0.75), False),
    Reading("halted", (0.0, 0.5, 0.75), True),
)


class HaltedPolicy(PolicyAgent):
    """A policy that draws as ever, but is halted where told."""

    stops: Tensor

    def act(self, observation: Observation) -> Tensor:
        """What was drawn, halting replaced."""
        actions = super().act(observation)
        actions[:, 0] = observation.observations >= self.stops[observation.episode]
        return actions


class Ours:
    """An iteration of the policy phase."""

    def __init__(
        self, source: Sequences, task: Task, sizes: tuple[int, int], reading: Reading, slots: int
    ) -> None:
        embedding, hidden = sizes
        reader = RecurrentReader(
            task, embedding_size=embedding, hidden_size=hidden,
            embedding_dropout=0.0, token_dropout=0.0, summary_dropout=0.0,
        )  # fmt: skip
        reader.salience.copy_(torch.rand(task.vocabulary_size))
        self.reading = reading
        self.agent = HaltedPolicy(task, reader, (Halt(), Sift(reading.levels)))
        rows = torch.arange(len(source))
        scene = Scene(source, rows, rows, reader, self.agent, CHUNK, slots, "log_likelihood", PRICES, 0.0)
        learner = Reinforce("learned", 1, ENTROPY_WEIGHT, VALUE_WEIGHT)
        self.phase = PolicyPhase(scene, learner, 1000, EPISODES, RATE, RATE, StoppingFit(), 0.0, 1.0)
        self.optimizer = self.phase.optimizer()
        self.generator = torch.Generator().manual_seed(0)
        self.tokens: list[float] = []

    def iterate(self) -> None:
        """Roll out, replay, update."""
        self.agent.stops = self.reading.stops(self.generator)
        for loss, metrics in self.phase.losses(0, self.generator):
            step(self.optimizer, loss)
            self.tokens.append(metrics["tokens_mean"])


class Unrolled(nn.Module):
    """A reader and a policy in one loop over time."""

    salience: Tensor
    levels: Tensor

    def __init__(self, source: Sequences, task: Task, sizes: tuple[int, int], reading: Reading) -> None:
        super().__init__()
        self.source, self.task, self.reading = source, task, reading
        embedding, hidden = sizes
        self.embedding = nn.Embedding(task.vocabulary_size, embedding, padding_idx=0)
        self.cell = nn.GRUCell(embedding, hidden)
        self.answer = nn.Linear(2 * hidden, task.num_classes)
        self.squeeze = nn.Linear(2 * hidden, 16)
        self.trunk = nn.Sequential(
            nn.Linear(16 + task.num_classes + 2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU()
        )
        self.heads = nn.Linear(64, 2 + len(reading.levels))
        self.value = nn.Linear(64, 1)
        self.register_buffer("salience", torch.rand(task.vocabulary_size))
        self.register_buffer("levels", torch.tensor(reading.levels))
        self.optimizer = torch.optim.AdamW(self.parameters(), lr=RATE, weight_decay=0.0)
        self.generator = torch.Generator().manual_seed(0)
        self.tokens: list[float] = []

    def iterate(self) -> None:
        """Unroll, update."""
        rows = torch.randint(0, len(self.source), (EPISODES,), generator=self.generator)
        price = PRICES[0] * (PRICES[1] / PRICES[0]) ** torch.rand(EPISODES, generator=self.generator)
        assert self.source.labels is not None
        stops = self.reading.stops(self.generator)
        step(self.optimizer, self.loss(rows, price, self.source.labels[rows], stops))

    def loss(self, rows: Tensor, price: Tensor, labels: Tensor, stops: Tensor) -> Tensor:
        """REINFORCE with a learned baseline, and cross-entropy after every chunk."""
        lengths = self.source.lengths[rows]
        width = -(-int(lengths.max()) // CHUNK) * CHUNK
        tokens = self.source.fetch(rows, torch.zeros_like(rows), lengths, width).tokens
        embedded, salience = self.embedding(tokens).unbind(1), self.salience[tokens]
        hidden = embedded[0].new_zeros(len(rows), self.cell.hidden_size)
        highest, total = torch.full_like(hidden, LOWEST), torch.zeros_like(hidden)
        seen = torch.zeros(len(rows), 1)
        busy = torch.ones(len(rows), dtype=torch.bool)
        logs: list[Tensor] = []
        entropies, values, costs, masks = [], [], [], []
        summary = torch.cat([torch.zeros_like(hidden), total], 1)
        logits = [self.answer(summary)]
        for start in range(0, width, CHUNK):
            busy = busy & (start < lengths)
            if not bool(busy.any()):
                break
            known = [logits[-1].softmax(-1).detach(), price.log()[:, None], seen / self.task.mean_length]
            features = self.trunk(torch.cat([torch.tanh(self.squeeze(summary.detach())), *known], 1))
            halt, level, log, entropy = self.draw(self.heads(features), stops <= len(logs))
            values.append(self.value(features)[:, 0])
            logs.append(log)
            entropies.append(entropy)
            masks.append(busy)
            busy = busy & ~halt
            stop = start + CHUNK
            keep = (salience[:, start:stop] >= self.levels[level][:, None]) & (tokens[:, start:stop] > 0)
            keep = keep & busy[:, None]
            outputs = []
            for t in range(start, stop):
                hidden = torch.where(keep[:, t - start, None], self.cell(embedded[t], hidden), hidden)
                outputs.append(hidden)
            stacked, real = torch.stack(outputs, 1), keep[..., None]
            highest = torch.maximum(highest, stacked.masked_fill(~real, LOWEST).amax(1))
            total = total + (stacked * real).sum(1)
            count = keep.sum(1, keepdim=True)
            seen = seen + count
            costs.append(count[:, 0] / self.task.mean_length)
            summary = torch.cat([torch.where(seen > 0, highest, 0.0), total / seen.clamp_min(1)], 1)
            logits.append(self.answer(summary))
        self.tokens.append(float(seen.mean()))
        valid, read = torch.stack(masks, 1), torch.stack(costs, 1)
        answers = torch.stack(logits, 1)
        truth = labels[:, None].expand(answers.shape[:2])
        each = F.cross_entropy(answers.flatten(0, 1), truth.flatten(), reduction="none").view(truth.shape)
        counted = torch.cat([torch.ones_like(valid[:, :1]), read > 0], 1)
        reward = -price[:, None] * read
        # Nothing changes after the end, so the last answer is the answer.
        reward[:, -1] -= each[:, -1].detach()
        returns = reward.flip(1).cumsum(1).flip(1)
        value = torch.stack(values, 1)
        gain = torch.stack(logs, 1) * (returns - value.detach())
        policy = -gain - ENTROPY_WEIGHT * torch.stack(entropies, 1) + VALUE_WEIGHT * (value - returns) ** 2
        return (policy * valid).sum() / valid.sum() + (each * counted).sum() / counted.sum()

    def draw(self, logits: Tensor, stop: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Whether to halt (as told), which level, the log-probability of both and their entropy."""
        parts = [part.log_softmax(-1) for part in logits.split([2, len(self.reading.levels)], -1)]
        halt, level = (torch.multinomial(p.detach().exp(), 1, generator=self.generator) for p in parts)
        halt = stop.long()[:, None]
        going = (halt == 0).float()
        log = parts[0].gather(1, halt) + going * parts[1].gather(1, level)
        entropy = -(parts[0].exp() * parts[0]).sum(1) - going[:, 0] * (parts[1].exp() * parts[1]).sum(1)
        return halt[:, 0] == 1, level[:, 0], log[:, 0], entropy


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One update, gradients clipped."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
    optimizer.step()


def main() -> None:
    """Print seconds of both and how many times faster ours is."""
    arguments = parse(__doc__ or "", sequences=2048, slots=EPISODES, repeats=5, embedding=128, hidden=128)
    report = Report("one training iteration of 128 texts: unrolled GRUCell by ours", arguments.json)
    source, task = ragged_texts(arguments.sequences)
    sizes = (arguments.embedding, arguments.hidden)
    for threads in thread_counts(arguments.threads):
        for reading in READINGS:
            torch.manual_seed(0)
            ours = Ours(source, task, sizes, reading, arguments.slots)
            unrolled = Unrolled(source, task, sizes, reading)
            seconds = seconds_of({"ours": ours.iterate, "unrolled": unrolled.iterate}, arguments.repeats)
            report.add(
                threads=threads, slots=arguments.slots, reading=reading.name,
                tokens_read_ours=mean(ours.tokens), tokens_read_unrolled=mean(unrolled.tokens),
                our_seconds=seconds["ours"], unrolled_seconds=seconds["unrolled"],
                times_faster=seconds["unrolled"] / seconds["ours"],
            )  # fmt: skip
    report.show()


if __name__ == "__main__":
    main()
