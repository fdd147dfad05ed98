import math

import pytest
import torch

from temporal.errors import UserError
from temporal.reward import answer_reward

ANSWERS = torch.tensor([[0.7, 0.3], [0.9999, 0.0001]], dtype=torch.float64)
LABELS = torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("log_likelihood", [math.log(0.7), math.log(0.001)]),
        ("correctness", [1.0, 0.0]),
        ("probability", [0.7, 0.0001]),
    ],
)
def test_each_kind_of_reward(kind, expected):
    assert answer_reward(ANSWERS, LABELS, kind).tolist() == pytest.approx(expected, rel=1e-12)
    wide = answer_reward(ANSWERS.float().expand(3, 2, 2), LABELS.expand(3, 2), kind)
    assert wide.dtype == torch.float64
    assert wide.shape == (3, 2)


def test_an_unknown_kind_lists_the_known_ones():
    with pytest.raises(UserError) as error:
        answer_reward(ANSWERS, LABELS, "likelihood")
    assert str(error.value) == (
        "reward: task_reward, got 'likelihood'; expected one of log_likelihood, correctness, probability; "
        "did you mean 'log_likelihood'?"
    )
