"""Reading a part with the loop over slots, against one fused GRU that reads everything in batches of the same size.

What counts is how much of the FLOPs saved comes back as time: (1 - seconds / fused seconds) / (1 - FLOPs / full FLOPs).
FLOPs are the meter's: reader, answers and agent. The agents:

- jumps: passes over a random number of chunks, 8 on average, so that one token in ten is read;
- random: the control of that name, a tenth of the mean length in each text;
- confidence: reads on until sure, the threshold set so that about a quarter is read;
- policy: a policy network that halts (once in 8 chunks) and sifts (half or three quarters passed over), drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.reading import read_packed
from benchmarks.timing import Report, parse, ragged_texts, seconds_of, thread_counts
from temporal.agents.base import Agent
from temporal.agents.controls import Confidence, Random
from temporal.agents.policy import PolicyAgent
from temporal.data.base import Sequences
from temporal.decisions import Halt, Jump, Scheme, Sift
from temporal.readers import RecurrentReader
from temporal.reading import Observation, Outcome, Plan, read

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
    """An untrained policy that halts once in 8 decisions and sifts at random, as a trained one does in the mean."""
    agent = PolicyAgent(reader.task, reader, (Halt(), Sift((0.5, 0.75))))
    torch.nn.init.zeros_(agent.heads.weight)
    with torch.no_grad():
        agent.heads.bias.copy_(torch.tensor([1 / 8, 7 / 8, 0.5, 0.5])[[1, 0, 2, 3]].log())
    return agent.eval()


def main() -> None:
    """Print what was saved, in FLOPs and in time."""
    arguments = parse(__doc__ or "", sequences=1024, repeats=5, embedding=128, hidden=128)
    report = Report("reading a part: time saved by FLOPs saved", arguments.json)
    everything, task = ragged_texts(arguments.sequences)
    reader = RecurrentReader(task, embedding_size=arguments.embedding, hidden_size=arguments.hidden).eval()
    reader.salience.copy_(torch.rand(task.vocabulary_size))
    policy = drawn_policy(reader)
    tenth = round(task.mean_length / 10)
    for threads in thread_counts(arguments.threads):
        for slots in SLOTS:
            # Alone, a sequence takes long; few of them are enough.
            source, _ = ragged_texts(min(arguments.sequences, 64 * slots), seed=1)
            agents: dict[str, Agent] = {
                "jumps": RandomJumps(),
                "random": Random(tenth, CHUNK, task.max_length),
                "confidence": sure_enough(source, reader, 0.25),
                "policy": policy,
            }
            found: dict[str, Outcome | None] = {}

            def run(name: str) -> None:
                with policy.sampling(torch.Generator().manual_seed(0)):
                    found[name] = read(source, reader, agents[name], plan, slots, CHUNK)

            plan = Plan.of(torch.arange(len(source)))
            ways: dict[str, Callable[[], object]] = {name: (lambda name=name: run(name)) for name in agents}
            seconds = seconds_of({"fused": lambda: read_packed(source, reader, slots), **ways}, arguments.repeats)
            full_flops = sum(reader.full_flops(float(length)) for length in source.lengths)
            for name in agents:
                outcome = found[name]
                assert outcome is not None
                flops_saved = 1 - float(outcome.flops.sum()) / full_flops
                time_saved = 1 - seconds[name] / seconds["fused"]
                report.add(
                    threads=threads, slots=slots, agent=name,
                    tokens_share=float(outcome.tokens.sum() / source.lengths.sum()),
                    loop_seconds=seconds[name], fused_seconds=seconds["fused"],
                    flops_saved=flops_saved, time_saved=time_saved, ratio=time_saved / flops_saved,
                )  # fmt: skip
    report.show()


if __name__ == "__main__":
    main()
