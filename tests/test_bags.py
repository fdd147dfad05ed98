"""Bag-of-words classifiers against sums by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from temporal.agents.bags import Bag, Bags, Damping, Linear, logistic, naive_bayes
from temporal.data.base import Sequences
from tests.needle import NEEDLE, TASK, needle_steps

TEXTS = [[1, 2, 1, 1], [3], [], [2, 3, 3]]
LABELS = [0, 1, 1, 1]
SHARES: dict[Damping, list[float]] = {  # of the first, second and third time that a word stands in a text
    "counts": [1, 1, 1],
    "presence": [1, 0, 0],
    "log": [math.log(2), math.log(3 / 2), math.log(4 / 3)],
}
DAMPINGS = list(SHARES)


def bag_of(texts: list[list[int]], labels: list[int]) -> Bag:
    flat = np.array([token for text in texts for token in text])
    offsets = np.cumsum([0, *map(len, texts)])
    return Bag.of(Sequences(flat, offsets, np.array(labels)), torch.arange(len(texts)))


BAG = bag_of(TEXTS, LABELS)


def by_hand(model: Linear, text: list[int]) -> torch.Tensor:
    total = model.bias.clone()
    for place, token in enumerate(text):
        total += SHARES[model.damping][text[:place].count(token)] * model.weights[token]
    return total


def test_occurrences_are_counted_within_each_text() -> None:
    assert BAG.earlier.tolist() == [0, 0, 1, 2, 0, 0, 0, 1]
    short = BAG.prefix(2)
    assert (short.tokens.tolist(), short.earlier.tolist()) == ([1, 2, 3, 2, 3], [0] * 5)
    assert (short.starts.tolist(), short.lengths.tolist()) == ([0, 2, 3, 3], [2, 1, 0, 2])


@pytest.mark.parametrize("damping", DAMPINGS)
def test_scores_are_sums_over_words(damping: Damping) -> None:
    generator = torch.Generator().manual_seed(0)
    model = Linear(torch.randn(4, 2, generator=generator), torch.randn(2, generator=generator), damping)
    expected = torch.stack([by_hand(model, text) for text in TEXTS])
    torch.testing.assert_close(model.scores(BAG), expected)
    [(rows, leads, right)] = model.leads(BAG)
    assert rows == slice(0, 64)
    for row, text in enumerate(TEXTS):
        for end in range(1, len(text) + 1):
            scores = by_hand(model, text[:end])
            assert float(leads[row, end - 1]) == pytest.approx(float((scores[0] - scores[1]).abs()), abs=1e-6)
            assert bool(right[row, end - 1]) == (int(scores.argmax()) == LABELS[row])


def test_naive_bayes_is_that_of_counting() -> None:
    model = naive_bayes(BAG, 4, 2, "counts", 1.0)
    counts = torch.tensor([[0, 0], [3, 0], [1, 1], [0, 3]]) + 1.0
    logs = (counts / counts.sum(0)).log()
    torch.testing.assert_close(model.weights[:, 0] - model.weights[:, 1], logs[:, 0] - logs[:, 1])
    torch.testing.assert_close(model.bias, torch.tensor([2 / 6, 4 / 6]).log())
    damped = naive_bayes(BAG, 4, 2, "presence", 1.0)
    ones = torch.tensor([[0, 0], [1, 0], [1, 1], [0, 2]]) + 1.0
    logs = (ones / ones.sum(0)).log()
    torch.testing.assert_close(damped.weights[:, 0] - damped.weights[:, 1], logs[:, 0] - logs[:, 1])


@pytest.mark.parametrize("damping", ["log", "presence", "counts"])
def test_logistic_regression_stands_at_the_least_loss(damping: Damping) -> None:
    model = logistic(BAG, 4, 2, damping, 0.5)
    counts = torch.stack(
        [torch.bincount(torch.tensor(text, dtype=torch.long), minlength=4) for text in TEXTS]
    ).float()
    idf = 1 + torch.log((1 + len(TEXTS)) / (1 + (counts > 0).sum(0)))
    damped = {"log": counts.log1p(), "presence": (counts > 0).float(), "counts": counts}[damping]
    features = F.normalize(damped * idf, dim=1)
    weights = (model.weights / idf[:, None]).requires_grad_()
    loss = F.cross_entropy(features @ weights, torch.tensor(LABELS), reduction="sum")
    (gradient,) = torch.autograd.grad(loss + 0.25 * weights.square().sum(), [weights])
    assert float(gradient.abs().max()) < 1e-2
    torch.testing.assert_close(model.scores(BAG), damped @ model.weights, atol=1e-5, rtol=1e-5)
    assert model.scores(BAG).argmax(1).tolist() == LABELS


def test_every_number_touched_is_charged() -> None:
    counts, log = (Linear(torch.zeros(4, 20), torch.zeros(20), damping) for damping in ("counts", "log"))  # type: ignore[arg-type]
    assert counts.token_flops == 20 + 20  # a row looked up and added
    assert log.token_flops == 2 + 20 + 20 + 20  # its count looked up and raised, the row scaled besides
    assert counts.answer_flops == 2 * 20 + 2 * 20  # the bias added, every class looked up and compared


def test_rules_by_bags_do_what_they_are_charged_for() -> None:
    train, test = (Bag.of(NEEDLE.split(s), torch.arange(len(NEEDLE.split(s)))) for s in ("train", "test"))  # type: ignore[arg-type]
    bags = Bags(train, test, TASK.vocabulary_size, TASK.num_classes, [1, 5, 20], 8)
    rows = torch.arange(16)
    source = NEEDLE.split("test")
    needle = needle_steps(source.fetch(rows, 0 * rows, source.lengths, 20).tokens, 3, 1)
    found = {(told.name, told.setting): told for told in bags.told(test)}
    for name in ("naive_bayes", "logistic"):
        whole = found[name, 20.0]
        assert whole.correct.all()
        assert whole.tokens.tolist() == [20] * 16
        each = bags._whole[name]
        assert whole.flops.tolist() == [20 * each.token_flops + each.answer_flops] * 16
        part = found[name, 5.0]
        assert part.tokens.tolist() == [5] * 16
        assert part.correct[needle <= 5].all()
    stops = [told for (name, _), told in found.items() if name == "bag_of_words"]
    assert len(stops) > 4
    # Once the needle has been seen, and seldom later, the class is known.
    right = [told.tokens.double().mean() for told in stops if told.correct.all()]
    assert min(right) < needle.double().mean() + 1
    costs = {name: model.token_flops + 2 * 3 for name, model in bags._whole.items()}
    for told in stops:
        answers = (
            told.flops - told.tokens * costs["naive_bayes"],
            told.flops - told.tokens * costs["logistic"],
        )
        assert any(
            set(rest.tolist()) == {model.answer_flops}
            for rest, model in zip(answers, bags._whole.values(), strict=True)
        )
