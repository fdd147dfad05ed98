"""Reading everything with the loop over slots, against one fused GRU over packed batches sorted by length.

The rival knows all lengths and reads all tokens in one call for each batch: embedding, `nn.GRU` on a packed sequence,
maximum and mean of the real outputs, answer. The loop decides before every chunk whether to read on.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from benchmarks.timing import Report, parse, ragged_texts, seconds_of, thread_counts
from temporal.agents.controls import ReadAll
from temporal.data.base import Sequences
from temporal.episodes import Plan
from temporal.readers import RecurrentReader
from temporal.readers.readout import LOWEST
from temporal.reading import read

SIZES = ((128, 128), (300, 256))  # embedding, hidden
CHUNKS = (8, 16)


@torch.no_grad()
def read_packed(source: Sequences, reader: RecurrentReader, batch: int) -> Tensor:
    """Class probabilities of every sequence by the fused kernel, in the order of the source."""
    answers = torch.zeros(len(source), reader.task.num_classes)
    for rows in source.lengths.argsort(descending=True).split(batch):
        lengths = source.lengths[rows]
        tokens = source.fetch(rows, torch.zeros_like(rows), lengths, int(lengths[0])).tokens
        packed = pack_padded_sequence(reader.embedding(tokens), lengths, batch_first=True)
        outputs, _ = reader.full_cell(packed)
        highest, _ = pad_packed_sequence(outputs, batch_first=True, padding_value=LOWEST)
        total, _ = pad_packed_sequence(outputs, batch_first=True)
        summary = torch.cat([highest.amax(1), total.sum(1) / lengths[:, None]], 1)
        answers[rows] = reader.predict(summary).softmax(-1)
    return answers


def main() -> None:
    """Print seconds of both and their ratio."""
    arguments = parse(__doc__ or "", sequences=512, slots=64, repeats=5)
    slots = arguments.slots
    report = Report("reading everything: loop against fused packed GRU", arguments.json)
    source, task = ragged_texts(arguments.sequences)
    plan = Plan.of(torch.arange(len(source)))
    for threads in thread_counts(arguments.threads):
        for embedding, hidden in SIZES:
            reader = RecurrentReader(task, embedding_size=embedding, hidden_size=hidden).eval()
            ways = {f"chunk {c}": partial(read, source, reader, ReadAll(), plan, slots, c) for c in CHUNKS}
            seconds = seconds_of(
                {"fused": partial(read_packed, source, reader, slots), **ways}, arguments.repeats
            )
            for way in ways:
                report.add(
                    threads=threads, embedding=embedding, hidden=hidden, slots=slots, way=way,
                    loop_seconds=seconds[way], fused_seconds=seconds["fused"],
                    ratio=seconds[way] / seconds["fused"],
                )  # fmt: skip
    report.show()


if __name__ == "__main__":
    main()
