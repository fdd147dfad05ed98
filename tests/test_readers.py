"""The readers against their contract, and what is particular to each."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from temporal.errors import UserError
from temporal.readers import Chunk, Reader, Reads, RecurrentReader, State, Task, TransformerReader
from tests.contracts.reader import SAME, TASK, ReaderContract, make_reads, step_through, whole

SKIM, FULL = 1, 2


def make_recurrent(task: Task, cell: Literal["gru", "lstm"] = "gru", **settings: object) -> RecurrentReader:
    sizes = {"embedding_size": 8, "hidden_size": 10, "skim_size": 3, "readout": ("last", "max", "mean")}
    reader = RecurrentReader(task, cell, **{**sizes, **settings})  # type: ignore[arg-type]
    nn.init.normal_(reader.embedding.weight)  # as large as after training, so that differences show
    return reader


def make_transformer(task: Task, **settings: object) -> TransformerReader:
    sizes = {"width": 16, "num_layers": 2, "num_heads": 2, "ratio": 2, "readout": ("last", "max", "mean")}
    return TransformerReader(task, **{**sizes, **settings})  # type: ignore[arg-type]


class TestGru(ReaderContract):
    def make_reader(self, task: Task) -> Reader:
        return make_recurrent(task)


class TestLstm(ReaderContract):
    def make_reader(self, task: Task) -> Reader:
        return make_recurrent(task, "lstm")


class TestTransformer(ReaderContract):
    def make_reader(self, task: Task) -> Reader:
        return make_transformer(task, capacity=203)


class TestTransformerOfOneLayer(ReaderContract):
    def make_reader(self, task: Task) -> Reader:
        return make_transformer(task, num_layers=1, num_heads=1, readout=("mean",))


# The contract itself must be able to fail: each of these readers breaks one promise.


class _ReadsInCopyMode(RecurrentReader):
    def step(self, state: State, chunk: Chunk, modes: Tensor) -> State:
        return super().step(state, chunk, torch.full_like(modes, FULL))


class _ReplaysGaps(TransformerReader):
    def replay(self, reads: Reads) -> Tensor:
        return super().replay(reads._replace(positions=reads.positions * 0))


class _SeesTheFuture(TransformerReader):
    def replay(self, reads: Reads) -> Tensor:
        return super().replay(reads).flip(1).cummax(1).values.flip(1)


class _MixesRows(RecurrentReader):
    def step(self, state: State, chunk: Chunk, modes: Tensor) -> State:
        state = super().step(state, chunk, modes)
        return (state[0] + 0.1 * state[0].mean(0), *state[1:])


class _WritesInPlace(RecurrentReader):
    def step(self, state: State, chunk: Chunk, modes: Tensor) -> State:
        new = super().step(state, chunk, modes)
        for old, value in zip(state, new, strict=True):
            old.copy_(value)
        return new


class _ForgetsAttention(TransformerReader):
    def read_flops(self, modes: Tensor, counts: Tensor, before: Tensor) -> Tensor:
        return super().read_flops(modes, counts, before) - 4.0 * before * (counts > 0)


READS = make_reads(torch.tensor([[3, 0, 2], [1, 4, 4]]), torch.ones(2, 3).long(), torch.ones(2, 3).long(), 4)
EXAMPLES: dict[str, tuple[object, ...]] = {  # for checks that otherwise draw, and shrink, their own
    "test_replay_equals_repeated_steps": (READS,),
    "test_rows_do_not_know_of_each_other": (READS, random.Random(0)),
    "test_costs_add_up_over_chunks": ([3, 0, 5], 7),
}


@pytest.mark.parametrize(
    ("broken", "check"),
    [
        (_ReadsInCopyMode, "test_copy_and_nothing_keep_the_state_bit_for_bit"),
        (_ReplaysGaps, "test_replay_equals_repeated_steps"),
        (_SeesTheFuture, "test_later_reads_leave_earlier_read_outs_alone"),
        (_MixesRows, "test_rows_do_not_know_of_each_other"),
        (_WritesInPlace, "test_step_leaves_the_state_it_was_given"),
        (_ForgetsAttention, "test_costs_add_up_over_chunks"),
    ],
)
def test_the_contract_catches(broken: Callable[[Task], Reader], check: str) -> None:
    class Contract(ReaderContract):
        def make_reader(self, task: Task) -> Reader:
            return broken(task)

    method = getattr(ReaderContract, check)
    plain = method.hypothesis.inner_test if check in EXAMPLES else method
    with torch.no_grad(), pytest.raises(AssertionError):
        plain(Contract(), *EXAMPLES.get(check, ()))


# Recurrent readers.


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_never_skipping_is_the_plain_network_bit_for_bit(cell: Literal["gru", "lstm"]) -> None:
    reader = make_recurrent(TASK, cell, readout=("last",)).eval()
    plain = {"gru": nn.GRU, "lstm": nn.LSTM}[cell](8, 10, batch_first=True)
    plain.load_state_dict(reader.full_cell.state_dict())
    reads = whole(3, 21, 7, FULL)
    outputs, _ = plain(reader.embedding(reads.tokens.flatten(1)))
    assert torch.equal(reader.replay(reads)[:, 1:], outputs[:, 6::7])
    torch.testing.assert_close(step_through(reader, reads)[0][:, 1:], outputs[:, 6::7], atol=SAME, rtol=SAME)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_gaps_are_closed_up(cell: Literal["gru", "lstm"]) -> None:
    reader = make_recurrent(TASK, cell, readout=("last",)).eval()
    reads = whole(2, 24, 4, FULL)
    reads.modes[:, 1:5] = 0
    outputs, _ = reader.full_cell(reader.embedding(reads.tokens[:, [0, 5]].flatten(1)))
    torch.testing.assert_close(reader.replay(reads)[:, -1], outputs[:, -1], atol=SAME, rtol=SAME)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_skimming_changes_the_first_units_only(cell: Literal["gru", "lstm"]) -> None:
    reader = make_recurrent(TASK, cell).eval()
    reads = whole(2, 8, 4, FULL)
    before = reader.step(reader.initial(2), reads.step(0), torch.tensor([FULL, FULL]))
    after = reader.step(before, reads.step(1), torch.tensor([SKIM, SKIM]))
    for old, new in zip(before[: 2 if cell == "lstm" else 1], after, strict=False):
        assert torch.equal(old[:, 3:], new[:, 3:])
        assert (old[:, :3] != new[:, :3]).all()


def test_skim_size_out_of_range() -> None:
    with pytest.raises(UserError) as error:
        make_recurrent(TASK, skim_size=11)
    assert str(error.value) == "RecurrentReader: skim_size, got 11; expected 1 to hidden_size (10)"


# Transformers.


def test_transformer_reads_places_not_only_words() -> None:
    reader = make_transformer(TASK).eval()
    reads = whole(1, 6, 3, 1)
    moved = reads._replace(positions=reads.positions + 5 * (reads.positions >= 3))
    assert (reader.replay(reads)[0, -1] - reader.replay(moved)[0, -1]).abs().max() > 1e-3
    assert torch.equal(reader.replay(reads)[0, 1], reader.replay(moved)[0, 1])


def test_transformer_reads_at_any_place() -> None:
    reader = make_transformer(TASK).eval()
    reads = whole(1, 6, 3, 1)
    far = reader.replay(reads._replace(positions=reads.positions + 100_000))
    assert far.isfinite().all()
    assert (far - reader.replay(reads)).abs().max() > 1e-3


def test_transformer_memory_is_as_long_as_the_fullest_row() -> None:
    reader = make_transformer(TASK, capacity=1000)
    modes = torch.tensor([1, 1])
    chunk = whole(2, 4, 4, 1).step(0)
    state = reader.step(reader.initial(2), chunk._replace(counts=torch.tensor([3, 1])), modes)
    assert state[0].shape == (2, 3, 32)
    state = reader.step(state, chunk._replace(counts=torch.tensor([0, 4])), modes)
    assert state[0].shape == (2, 5, 32)
    assert state[2].tolist() == [3, 5]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"width": 18, "num_heads": 4},
            "TransformerReader: width, got 18; expected an even multiple of num_heads (4)",
        ),
        (
            {"width": 15, "num_heads": 3},
            "TransformerReader: width, got 15; expected an even multiple of num_heads (3)",
        ),
        (
            {"capacity": 0},
            "TransformerReader: capacity, got 0; expected a whole number from 1 to 1,000,000, or null",
        ),
        (
            {"capacity": TASK.max_length - 1},
            f"TransformerReader: capacity, got {TASK.max_length - 1}; expected {TASK.max_length} or more, the tokens "
            "of the longest sequence; or none, for no bound",
        ),
    ],
)
def test_transformer_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        make_transformer(TASK, **settings)
    assert str(error.value) == message


# Read-outs.


@pytest.mark.parametrize("make", [make_recurrent, make_transformer])
def test_read_outs_are_what_they_are_called(make: Callable[..., Reader]) -> None:
    reader = make(TASK).eval()
    tokens = whole(1, 9, 1, len(reader.modes) - 1)
    last, highest, mean = reader.replay(tokens)[0].chunk(3, -1)  # one token a step: `last` lists every output
    for num in range(1, 10):
        torch.testing.assert_close(highest[num], last[1 : num + 1].amax(0), atol=SAME, rtol=SAME)
        torch.testing.assert_close(mean[num], last[1 : num + 1].mean(0), atol=SAME, rtol=SAME)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((), "ReadOut: parts, got []; expected some of last, max, mean, each once"),
        (("maxx",), "RecurrentReader: readout, got ['maxx']; expected some of last, max, mean"),
    ],
)
def test_unknown_read_out(parts: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError) as error:
        make_recurrent(TASK, readout=parts)
    assert str(error.value) == message
