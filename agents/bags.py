"""Classifiers that know no order: naive Bayes and logistic regression on the counts of words, on the reader's tokens.

Fitted on the whole train split, as the reader is; smoothing, penalty and damping of repeated words are chosen on
validation. Each token that is examined costs what temporal.cost says: its row of class weights is looked up and
added, and where repetitions are damped its count is looked up and raised, and the row scaled.

Naive Bayes with damped counts: Rennie et al. 2003 (ICML), section 4.1. Logistic regression: L2 penalty, L-BFGS, on
damped counts times idf, each text scaled to length 1. Neither costs anything in reading: idf is folded into the
weights, and, without a bias, the scale of a text changes no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from temporal.cost import added_flops, search_flops
from temporal.data.base import Sequences

Damping = Literal["counts", "presence", "log"]
SMOOTHING = (0.01, 0.1, 0.5, 1.0)  # pseudo-counts of every word in every class
PENALTIES = (0.01, 0.1, 1.0)  # half of each times the squared weights is added to the summed loss
ITERATIONS = 60  # of L-BFGS
OWN_FIT = (
    64  # tokens of the longest prefix that gets a fit of its own; longer ones hardly differ from the whole
)
MOST_LEADS = 1 << 24  # that torch takes quantiles of
BATCH = 64  # texts whose scores after every token are held at once


class Bag(NamedTuple):
    """Texts end to end: tokens, which occurrence in its text each is (from 0), where texts start, and their labels."""

    tokens: Tensor
    earlier: Tensor
    starts: Tensor
    lengths: Tensor
    labels: Tensor

    @classmethod
    def of(cls, source: Sequences, rows: Tensor) -> Bag:
        """Some sequences of a source."""
        assert source.labels is not None
        parts = []
        for batch in rows.split(256):
            lengths = source.lengths[batch]
            width = max(int(lengths.max()), 1)
            tokens = source.fetch(batch, torch.zeros_like(batch), lengths, width).tokens
            parts.append(tokens[torch.arange(width) < lengths[:, None]])
        tokens, lengths = torch.cat(parts), source.lengths[rows]
        starts = lengths.cumsum(0) - lengths
        text = torch.repeat_interleave(torch.arange(len(rows)), lengths)
        return cls(tokens, _earlier(tokens, text), starts, lengths, source.labels[rows])

    def prefix(self, num: int) -> Bag:
        """The first tokens of each text."""
        place = torch.arange(len(self.tokens)) - torch.repeat_interleave(self.starts, self.lengths)
        keep, lengths = place < num, self.lengths.clamp(max=num)
        return Bag(self.tokens[keep], self.earlier[keep], lengths.cumsum(0) - lengths, lengths, self.labels)

    def share(self, damping: Damping) -> Float[Tensor, " tokens"]:
        """How much each token adds to its word's damped count."""
        if damping == "presence":
            return (self.earlier == 0).float()
        return (
            torch.log1p(1 / (1 + self.earlier.float())) if damping == "log" else torch.ones(len(self.tokens))
        )

    def grown(self, damping: Damping) -> Float[Tensor, " tokens"]:
        """How much each token adds to the square of its word's damped count."""
        share, before = self.share(damping), self.earlier.float()
        so_far = {"presence": (before > 0).float(), "log": torch.log1p(before), "counts": before}[damping]
        return share * (share + 2 * so_far)


def _earlier(tokens: Tensor, text: Tensor) -> Tensor:
    """How often each token occurred before in its text."""
    order = (text * (int(tokens.max()) + 1 if len(tokens) else 1) + tokens).argsort(stable=True)
    new = torch.ones(len(tokens), dtype=torch.bool)
    new[1:] = (tokens[order][1:] != tokens[order][:-1]) | (text[order][1:] != text[order][:-1])
    place = torch.arange(len(tokens))
    earlier = torch.empty_like(place)
    earlier[order] = place - torch.where(new, place, torch.zeros_like(place)).cummax(0).values
    return earlier


class Linear(NamedTuple):
    """Class weights (vocabulary, classes) of words, a bias (classes,), and how repeated words count."""

    weights: Tensor
    bias: Tensor
    damping: Damping

    @property
    def token_flops(self) -> int:
        """Of each token examined."""
        num = len(self.bias)
        return added_flops(num) + (0 if self.damping == "counts" else 2 + num)

    @property
    def answer_flops(self) -> int:
        """Of one answer: the bias is added and the best class sought."""
        num = len(self.bias)
        return added_flops(num) + search_flops(num)

    def scores(self, bag: Bag) -> Float[Tensor, "texts classes"]:
        """Of whole texts."""
        summed = F.embedding_bag(
            bag.tokens, self.weights, bag.starts, mode="sum", per_sample_weights=bag.share(self.damping)
        )
        return summed + self.bias

    def leads(self, bag: Bag) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """In batches of texts, after each token: the lead of the best class over the next, and whether it is right."""
        each = self.weights[bag.tokens] * bag.share(self.damping)[:, None]
        for start in range(0, len(bag.lengths), BATCH):
            rows = slice(start, start + BATCH)
            lengths = bag.lengths[rows]
            places = torch.arange(max(int(lengths.max()), 1))
            real = places < lengths[:, None]
            added = each.new_zeros(*real.shape, each.shape[1])
            first = int(bag.starts[start])
            added[real] = each[first : first + int(lengths.sum())]
            best = (added.cumsum(1) + self.bias).topk(2, -1)
            right = best.indices[..., 0] == bag.labels[rows, None]
            yield rows, best.values[..., 0] - best.values[..., 1], right


Fit = Callable[[Bag, int, int, Damping, float], Linear]
"""Fits to texts, for so many words and classes, with damping and a strength of smoothing or penalty."""


def naive_bayes(bag: Bag, vocabulary: int, num_classes: int, damping: Damping, strength: float) -> Linear:
    """Multinomial naive Bayes; `strength` is the pseudo-count of each word."""
    label = torch.repeat_interleave(bag.labels, bag.lengths)
    counts = torch.zeros(vocabulary * num_classes, dtype=torch.double)
    counts.index_add_(0, bag.tokens * num_classes + label, bag.share(damping).double())
    given = counts.view(vocabulary, num_classes) + strength
    prior = torch.bincount(bag.labels, minlength=num_classes).double() + 1
    weights = (given / given.sum(0)).log()
    # What all classes share changes no answer; without it sums stay small.
    return Linear(
        (weights - weights.mean(1, keepdim=True)).float(), (prior / prior.sum()).log().float(), damping
    )


def logistic(bag: Bag, vocabulary: int, num_classes: int, damping: Damping, strength: float) -> Linear:
    """Multinomial logistic regression on tf-idf; `strength` is that of the penalty."""
    first = bag.tokens[bag.earlier == 0]
    idf = 1 + torch.log((1 + len(bag.labels)) / (1 + torch.bincount(first, minlength=vocabulary).float()))
    text = torch.repeat_interleave(torch.arange(len(bag.labels)), bag.lengths)
    squares = bag.grown(damping) * idf[bag.tokens].square()
    length = torch.zeros(len(bag.labels)).index_add_(0, text, squares).sqrt().clamp_min(1e-6)
    shares = bag.share(damping) * idf[bag.tokens] / length[text]
    weights = torch.zeros(vocabulary, num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        summed = F.embedding_bag(bag.tokens, weights, bag.starts, mode="sum", per_sample_weights=shares)
        found = F.cross_entropy(summed, bag.labels, reduction="sum")
        found = (found + strength / 2 * weights.square().sum()) / len(bag.labels)
        found.backward()
        return found

    optimizer.step(loss)
    # A text without words is of the commonest class; elsewhere so little changes nothing.
    commonest = 1e-6 * F.one_hot(bag.labels.mode().values, num_classes).float()
    return Linear(weights.detach() * idf[:, None], commonest, damping)


FITS: dict[str, tuple[Fit, list[tuple[Damping, float]]]] = {
    "naive_bayes": (naive_bayes, [(d, s) for d in ("counts", "presence", "log") for s in SMOOTHING]),
    "logistic": (logistic, [(d, s) for d in ("presence", "log") for s in PENALTIES]),
}


class Told(NamedTuple):
    """What a classifier did with each text at one setting: the name of the rule, and (texts,) each."""

    name: str
    setting: float
    correct: Tensor
    flops: Tensor
    tokens: Tensor


class Bags:
    """The classifiers, fitted and tuned; `told` gives what they do with other texts.

    On a prefix that fit is used which is better on validation: to whole texts, or to prefixes as long (beyond
    `OWN_FIT` tokens, to the longest below).

    Args:
        train: all texts to fit on.
        validation: texts by which settings are chosen.
        vocabulary: words.
        num_classes: classes.
        prefixes: lengths in tokens, rising, the last that of the longest text.
        num_settings: leads tried at which reading stops.
    """

    def __init__(
        self,
        train: Bag,
        validation: Bag,
        vocabulary: int,
        num_classes: int,
        prefixes: list[int],
        num_settings: int,
    ) -> None:
        self._whole: dict[str, Linear] = {}
        self._by_prefix: dict[str, list[tuple[int, Linear]]] = {}
        self._leads: dict[str, list[float]] = {}
        for name, (fit, tried) in FITS.items():
            best = [fit(train, vocabulary, num_classes, *settings) for settings in tried]
            right = [_right(model, validation) for model in best]
            chosen = right.index(max(right))
            self._whole[name] = whole = best[chosen]
            own, self._by_prefix[name] = whole, []
            for num in prefixes:
                if num <= OWN_FIT and num < prefixes[-1]:
                    own = fit(train.prefix(num), vocabulary, num_classes, *tried[chosen])
                part = validation.prefix(num)
                better = own if _right(own, part) > _right(whole, part) else whole
                self._by_prefix[name].append((num, better))
            self._leads[name] = _spread_leads(whole, validation, num_settings)

    def told(self, bag: Bag) -> Iterator[Told]:
        """What each classifier does with some texts: on prefixes, on the whole, and stopping once it is sure."""
        for name, models in self._by_prefix.items():
            for num, model in models:
                part = bag.prefix(num)
                correct = model.scores(part).argmax(1) == bag.labels
                flops = part.lengths * model.token_flops + model.answer_flops
                yield Told(name, float(num), correct, flops.double(), part.lengths)
        for name, whole in self._whole.items():
            yield from _stopping(whole, bag, self._leads[name])


def _right(model: Linear, bag: Bag) -> float:
    return float((model.scores(bag).argmax(1) == bag.labels).double().mean())


def _spread_leads(model: Linear, validation: Bag, num: int) -> list[float]:
    """Leads at which stopping takes from few to nearly all tokens."""
    shares = torch.linspace(0.02, 0.999, max(num // 2, 1))
    best = torch.cat([lead.amax(1) for _, lead, _ in model.leads(validation)])
    all_leads = torch.cat(
        [lead.flatten()[:: max(lead.numel() // 1000, 1)] for _, lead, _ in model.leads(validation)]
    )
    all_leads = all_leads[:: -(-len(all_leads) // MOST_LEADS)]
    found: list[float] = torch.cat([all_leads.quantile(shares), best.quantile(shares)]).unique().tolist()
    return found


def _stopping(model: Linear, bag: Bag, leads: list[float]) -> Iterator[Told]:
    """Stops at the first token after which one class leads by so much; the lead is sought after each."""
    correct = torch.zeros(len(leads), len(bag.lengths), dtype=torch.bool)
    tokens = torch.zeros(len(leads), len(bag.lengths), dtype=torch.long)
    for rows, lead, right in model.leads(bag):
        end = (bag.lengths[rows] - 1).clamp_min(0)
        for index, least in enumerate(leads):
            sure = lead >= least
            sure[torch.arange(len(end)), end] = True
            stop = torch.minimum(sure.long().argmax(1), end)
            correct[index, rows] = right.gather(1, stop[:, None])[:, 0]
            tokens[index, rows] = torch.minimum(stop + 1, bag.lengths[rows])
    for index, least in enumerate(leads):
        flops = tokens[index] * (model.token_flops + search_flops(len(model.bias))) + model.answer_flops
        yield Told("bag_of_words", least, correct[index], flops.double(), tokens[index])
