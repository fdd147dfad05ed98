"""Reading a part with the loop over slots, against one fused GRU that reads everything in batches of the same size.

What counts is how much of the FLOPs saved comes back as time: (1 - seconds / fused seconds) / (1 - FLOPs / full FLOPs).
FLOPs are the meter's: reader, answers and agent. The agents:

- jumps: passes over a random number of chunks, 8 on average, so that one token in ten is read;
- random: the control of that name, a tenth of the mean length in each text;
- confidence: reads on until sure, the threshold set so that about a quarter is read;
- policy: a policy network that draws whether to halt (once in 8 chunks) and what to sift out (half or three quarters).
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

from benchmarks.reading import read_packed
from benchmarks.timing import Report, parse, ragged_texts, seconds_of, thread_counts
from temporal.agents.base import Agent
from temporal.agents.controls import Confidence, Random
from temporal.agents.policy import PolicyAgent
from temporal.data.base import Sequences
from temporal.decisions import Halt, Jump, Scheme, Sift
from temporal.episodes import Observation, Outcome, Plan
from temporal.readers import RecurrentReader
from temporal.reading import read

CHUNK = 8
SLOTS = (1, 16, 64, 256)
MEAN_JUMP = 8  # chunks; with what jumps beyond the end cut off, a tenth of the tokens is read


class RandomJumps(Agent):
    """Passes over 0 to 2 * MEAN_JUMP chunks before each that it reads, all equally likely."""

    def __init__(self) -> None:
        self.scheme = Scheme((Jump(tuple(CHUNK * k for k in range(2 * MEAN_JUMP + 1))),))

    def act(self, observation: Observation) -> Tensor:
        """Draw."""
        return torch.randint(self.scheme.num_options[0], (len(observation.position), 1))


def sure_enough(source: Sequences, reader: RecurrentReader, share: float) -> Confidence:
    """The control whose threshold makes it read about a share of all tokens, by bisection."""
    rows = torch.arange(min(len(source), 128))
    low, high = 0.5, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        outcome = read(source, reader, Confidence(middle), Plan.of(rows), 64, CHUNK)
        assert outcome is not None
        more = float(outcome.tokens.sum() / source.lengths[rows].sum()) < share
        low, high = (middle, high) if more else (low, middle)
    return Confidence(low)


def drawn_policy(reader: RecurrentReader) -> PolicyAgent:
    """A policy that, whatever it sees, halts once in 8 decisions and sifts by either level equally often."""
    agent = PolicyAgent(reader.task, reader, (Halt(), Sift((0.5, 0.75))))
    torch.nn.init.zeros_(agent.heads.weight)
    agent.heads.bias.data = torch.tensor([7 / 8, 1 / 8, 1 / 2, 1 / 2]).log()
    return agent.eval()


class Read:
    """A reading that can be repeated with the same draws and keeps its outcome."""

    def __init__(self, source: Sequences, reader: RecurrentReader, agent: Agent, slots: int) -> None:
        self.source, self.reader, self.agent, self.slots = source, reader, agent, slots
        self.plan = Plan.of(torch.arange(len(source)))
        self.outcome: Outcome | None = None

    def __call__(self) -> None:
        """Read once."""
        torch.manual_seed(0)
        draws = torch.Generator().manual_seed(0)
        with self.agent.sampling(draws) if isinstance(self.agent, PolicyAgent) else nullcontext():
            self.outcome = read(self.source, self.reader, self.agent, self.plan, self.slots, CHUNK)

    def savings(self) -> tuple[float, float]:
        """Share of all tokens that was read, and share of the FLOPs of full reading that was saved."""
        assert self.outcome is not None
        full = sum(self.reader.full_flops(float(length)) for length in self.source.lengths)
        tokens = float(self.outcome.tokens.sum() / self.source.lengths.sum())
        return tokens, 1 - float(self.outcome.flops.sum()) / full


def main() -> None:
    """Print what was saved, in FLOPs and in time."""
    arguments = parse(__doc__ or "", sequences=1024, repeats=5, embedding=128, hidden=128)
    report = Report("reading a part: time saved by FLOPs saved", arguments.json)
    _, task = ragged_texts(arguments.sequences)
    reader = RecurrentReader(task, embedding_size=arguments.embedding, hidden_size=arguments.hidden).eval()
    reader.salience.copy_(torch.rand(task.vocabulary_size))
    for threads in thread_counts(arguments.threads):
        for slots in SLOTS:
            # Alone, a sequence takes long; few of them are enough.
            source, _ = ragged_texts(min(arguments.sequences, 64 * slots), seed=1)
            agents = {
                "jumps": RandomJumps(),
                "random": Random(round(task.mean_length / 10), CHUNK, task.max_length),
                "confidence": sure_enough(source, reader, 0.25),
                "policy": drawn_policy(reader),
            }
            reads = {name: Read(source, reader, agent, slots) for name, agent in agents.items()}
            fused = partial(read_packed, source, reader, slots)
            seconds = seconds_of({"fused": fused, **reads}, arguments.repeats)
            for name, each in reads.items():
                tokens_share, flops_saved = each.savings()
                time_saved = 1 - seconds[name] / seconds["fused"]
                report.add(
                    threads=threads, slots=slots, agent=name, tokens_share=tokens_share,
                    loop_seconds=seconds[name], fused_seconds=seconds["fused"],
                    flops_saved=flops_saved, time_saved=time_saved, ratio=time_saved / flops_saved,
                )  # fmt: skip
    report.show()


if __name__ == "__main__":
    main()
