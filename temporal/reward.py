"""What an answer is worth, before anything is taken off for what it cost."""

from __future__ import annotations

from typing import Literal, get_args

from jaxtyping import Float, Int
from torch import Tensor

from temporal.errors import bad

TaskReward = Literal["log_likelihood", "correctness", "probability"]
TASK_REWARDS: tuple[TaskReward, ...] = get_args(TaskReward)
LEAST_PROBABILITY = 1e-3  # keeps one hopeless answer from outweighing all others


def answer_reward(
    answers: Float[Tensor, "*batch classes"], labels: Int[Tensor, "*batch"], kind: str
) -> Float[Tensor, "*batch"]:
    """The task's reward, float64, for class probabilities and the true classes.

    log_likelihood (nats, of a probability no lower than 0.001, so from -6.9 to 0), correctness (0 or 1), probability
    (of the truth, 0 to 1). Raises UserError for any other kind.
    """
    check_task_reward(kind)
    if kind == "correctness":
        return (answers.argmax(-1) == labels).double()
    truth = answers.gather(-1, labels[..., None])[..., 0].double()
    return truth.clamp_min(LEAST_PROBABILITY).log() if kind == "log_likelihood" else truth


def check_task_reward(kind: str) -> None:
    """Raise UserError where there is no such reward."""
    if kind not in TASK_REWARDS:
        raise bad("reward", "task_reward", kind, f"one of {', '.join(TASK_REWARDS)}", TASK_REWARDS)
