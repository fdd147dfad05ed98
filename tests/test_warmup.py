"""Warming up a reader, and counting what tokens tell."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from temporal.agents.salience import count_salience
from temporal.agents.warmup import Warmup, answer_losses, batches, whole_reads
from temporal.data.base import Sequences
from temporal.data.generated import NeedleSource
from temporal.errors import UserError
from temporal.readers import Reads, RecurrentReader
from tests.needle import NEEDLE, TASK, make_reader

CHUNK = 6  # 20 tokens are 3 observations and a shorter one
SOURCE = NEEDLE.split("train")
ROWS = torch.arange(40)
READER = make_reader()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(warmup: Warmup, seed: int = 0) -> Reads:
    return warmup.reads(READER, SOURCE, ROWS, CHUNK, generator(seed))


# Reads.


def test_whole_reads_hold_every_token_in_its_place() -> None:
    flat = np.arange(1, 15)
    source = Sequences(flat, np.array([0, 7, 7, 14]), None)
    reads = whole_reads(source, torch.arange(3), 3, 2)
    assert reads.counts.tolist() == [[3, 3, 1], [0, 0, 0], [3, 3, 1]]
    assert reads.tokens[reads.valid()].tolist() == flat.tolist()
    assert reads.positions[reads.valid()].tolist() == [*range(7), *range(7)]
    assert not reads.tokens[~reads.valid()].any()
    assert reads.modes.unique().tolist() == [2]


def test_gaps_drop_whole_observations_of_some_sequences() -> None:
    whole = whole_reads(SOURCE, ROWS, CHUNK, 2)
    reads = drawn(Warmup(gap_share=0.5))
    dropped = reads.counts == 0
    assert torch.equal(reads.counts[~dropped], whole.counts[~dropped])
    assert torch.equal(reads.tokens, whole.tokens)  # what is not counted is not read
    assert 0.1 < float(dropped.any(1).double().mean()) < 0.6
    assert not (drawn(Warmup(gap_share=0.0)).counts == 0).any()
    everyone = drawn(Warmup(gap_share=1.0)).counts == 0
    assert float(everyone.double().mean()) == pytest.approx(0.5, abs=0.15)


def test_sifted_reads_keep_salient_tokens_only() -> None:
    whole = whole_reads(SOURCE, ROWS, CHUNK, 2)
    reads = drawn(Warmup(gap_share=0.0, sift_share=1.0))
    shorter = 0
    for row in range(len(ROWS)):
        before = whole.tokens[row][whole.valid()[row]]
        kept = reads.tokens[row][reads.valid()[row]]
        places = reads.positions[row][reads.valid()[row]]
        lowest = READER.salience[kept].min() if len(kept) else math.inf
        # all of one level and above, in order, at their places
        expected = READER.salience[before] >= lowest
        assert torch.equal(kept, before[expected])
        assert torch.equal(places, torch.arange(20)[expected])
        shorter += int(len(kept) < 20)
    assert shorter > 20
    assert torch.equal(drawn(Warmup(gap_share=0.0, sift_share=0.0)).tokens, whole.tokens)


def test_skimming_is_drawn_for_batches() -> None:
    modes = drawn(Warmup(skim_share=1.0)).modes
    assert modes.unique().tolist() == [1, 2]
    assert drawn(Warmup(skim_share=0.0)).modes.unique().tolist() == [2]


@pytest.mark.parametrize("settings", [{}, {"sift_share": 0.7, "skim_share": 0.5}])
def test_the_same_draw_makes_the_same_reads(settings: dict[str, float]) -> None:
    one, same, other = (drawn(Warmup(**settings), seed) for seed in (0, 0, 1))  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one.counts, other.counts)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(1, 90), st.integers(1, 9), st.integers(0, 1000))
def test_batches_cover_every_row_once(num: int, size: int, seed: int) -> None:
    lengths = torch.randint(0, 50, (200,), generator=generator(seed))
    rows = torch.randperm(200, generator=generator(seed + 1))[:num]
    found = list(batches(lengths, rows, size, generator(seed)))
    assert sorted(torch.cat(found).tolist()) == sorted(rows.tolist())
    assert len(found) == -(-num // size)  # a training counts on it
    assert max(map(len, found)) <= size


def test_batches_hold_sequences_of_like_length() -> None:
    lengths = torch.randint(0, 500, (400,), generator=generator())
    spread = [
        float(lengths[b].max() - lengths[b].min())
        for b in batches(lengths, torch.arange(400), 20, generator())
    ]
    assert np.mean(spread) < 60  # of 500; shuffled ones would span more than 400


# Losses.


def test_answer_losses_are_those_of_answering_after_each_observation() -> None:
    labels = SOURCE.labels[ROWS]
    reads = drawn(Warmup())
    losses = answer_losses(READER, reads, labels)
    assert losses.shape == (40, 5)
    state = READER.initial(40)
    for step in range(5):
        if step:
            state = READER.step(state, reads.step(step - 1), reads.modes[:, step - 1])
        expected = F.cross_entropy(READER.predict(READER.summary(state)), labels, reduction="none")
        torch.testing.assert_close(losses[:, step], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("last_weight", [0.0, 0.3, 1.0])
def test_the_loss_weighs_the_end_against_all_observations(last_weight: float) -> None:
    labels = SOURCE.labels[ROWS]
    reads = drawn(Warmup(gap_share=1.0))
    each = answer_losses(READER, reads, labels)
    total = 0.0
    for row in range(40):
        seen = [0, *(t + 1 for t in range(4) if reads.counts[row, t])]
        mean = float(each[row, seen].detach().mean())
        total += last_weight * float(each[row, -1].detach()) + (1 - last_weight) * mean
    loss = Warmup(last_weight=last_weight).loss(READER, reads, labels)
    assert loss.item() == pytest.approx(total / 40, rel=1e-5)


def test_seconds_of_warming_up_find_the_needle() -> None:
    source = NeedleSource(num_sequences=512, length=12, num_classes=3, noise=6)
    train, test = source.split("train"), source.split("test")
    torch.manual_seed(0)
    reader = RecurrentReader(source.task, embedding_size=12, hidden_size=16, skim_size=2)
    warmup = Warmup(batch_size=32)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=1e-2)
    rows = torch.arange(len(train))
    epochs = itertools.chain.from_iterable(batches(train.lengths, rows, 32, generator(e)) for e in range(12))
    for update, batch in enumerate(epochs):
        reads = warmup.reads(reader, train, batch, 4, generator(update))
        loss = warmup.loss(reader, reads, train.labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    reader.eval()
    reads = whole_reads(test, torch.arange(len(test)), 4, 2)
    with torch.no_grad():
        guess = reader.predict(reader.replay(reads)).argmax(-1)
    assert (guess[:, -1] == test.labels).double().mean() > 0.9
    assert (guess[:, 0] == test.labels).double().mean() < 0.6  # of nothing there is nothing to know


# Salience.


def test_telling_tokens_rank_above_noise_by_shares_of_running_text() -> None:
    salience = count_salience(SOURCE, torch.arange(len(SOURCE)), TASK.vocabulary_size, TASK.num_classes)
    noise, telling = salience[4:], salience[1:4]
    assert telling.min() > noise.max()
    # a level passes over just that share of what is running: noise is 19 of 20 tokens
    assert telling.min() == pytest.approx(0.95, abs=1e-6)
    assert salience[0] == 0  # padding tells nothing
    every = torch.arange(len(SOURCE))
    running = SOURCE.fetch(every, 0 * every, SOURCE.lengths, 20).tokens.flatten()
    for token in range(1, TASK.vocabulary_size):
        less = running[salience[running] < salience[token]]
        assert float(salience[token]) == pytest.approx(len(less) / len(running), abs=1e-6)


def test_salience_is_counted_on_the_rows_given_and_not_on_others() -> None:
    labels = np.array([0, 1, 0, 1])
    texts = np.array([3, 4, 3, 4, 4, 3, 4, 3])  # in the first half 3 and 4 stand everywhere
    both = Sequences(texts, np.array([0, 2, 4, 6, 8]), labels)
    flat = count_salience(both, torch.tensor([0, 1]), 6, 2)
    assert flat[3:5].sort().values.tolist() == [0.0, 0.5]  # alike in telling, so in any order
    words = Sequences(np.array([3, 5, 4, 5, 3, 4]), np.array([0, 2, 4, 5, 6]), labels)
    told = count_salience(words, torch.tensor([0, 1]), 6, 2)
    assert told[5] == 0
    assert told[3:5].sort().values.tolist() == [0.5, 0.75]


def test_a_rare_token_is_not_overrated() -> None:
    # token 1 stands once, in a text of class 0; token 2 in ten of class 0 and in one of class 1
    texts = [[1, 3]] + [[2, 3]] * 10 + [[2, 3]] + [[3, 3]] * 10
    labels = np.array([0] * 11 + [1] * 11)
    source = Sequences(np.concatenate(texts), np.arange(0, 46, 2), labels)
    salience = count_salience(source, torch.arange(22), 4, 2)
    assert salience[2] > salience[1] > salience[3]


def test_salience_needs_labels() -> None:
    with pytest.raises(ValueError, match="salience needs labels"):
        count_salience(Sequences(np.array([1]), np.array([0, 1]), None), torch.tensor([0]), 2, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gap_share": 1.5}, "Warmup: gap_share, got 1.5; expected a number from 0 to 1"),
        ({"sift_share": -0.5}, "Warmup: sift_share, got -0.5; expected a number from 0 to 1"),
        ({"skim_share": 2.0}, "Warmup: skim_share, got 2.0; expected a number from 0 to 1"),
        ({"last_weight": 1.1}, "Warmup: last_weight, got 1.1; expected a number from 0 to 1"),
        (
            {"epochs": -1},
            "Warmup: epochs, got -1; expected a whole number from 0 to 10,000,000",
        ),
    ],
)
def test_settings_out_of_range(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError) as error:
        Warmup(**settings)  # type: ignore[arg-type]
    assert str(error.value) == message
