"""Read-outs that can be kept while reading: the last output, a running maximum, a running mean."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from temporal.errors import bad
from temporal.readers.base import Reads, State

Part = Literal["last", "max", "mean"]
LOWEST = -1e4  # below any output; a finite start keeps gradients finite


class ReadOut:
    """Summarises the outputs of all tokens read so far; of nothing it is zero.

    Its state is (last, maximum, sum, count), whatever parts are used, so that parts can be compared.

    Args:
        parts: which of last, max, mean to put side by side.
        width: size of one output.
    """

    def __init__(self, parts: tuple[Part, ...], width: int) -> None:
        if not parts or len(set(parts)) < len(parts):
            raise bad("ReadOut", "parts", list(parts), f"some of {', '.join(get_args(Part))}, each once")
        self.parts = parts
        self.width = width
        self.size = len(parts) * width

    def initial(self, num: int, like: Tensor) -> State:
        """The state of `num` slots that have read nothing."""
        zeros = like.new_zeros(num, self.width)
        return (zeros, torch.full_like(zeros, LOWEST), zeros.clone(), like.new_zeros(num, 1))

    def update(self, state: State, outputs: Float[Tensor, "batch width size"], counts: Tensor) -> State:
        """Take in the outputs of one observation, of which the first `counts` (1 or more) are real."""
        last, highest, total, seen = state
        if bool((counts == outputs.shape[1]).all()):
            return (
                outputs[:, -1],
                torch.maximum(highest, outputs.amax(1)),
                total + outputs.sum(1),
                seen + outputs.shape[1],
            )
        real = (torch.arange(outputs.shape[1], device=counts.device) < counts[:, None])[..., None]
        rows = torch.arange(counts.shape[0], device=counts.device)
        return (
            torch.where(counts[:, None] > 0, outputs[rows, (counts - 1).clamp_min(0)], last),
            torch.maximum(highest, outputs.masked_fill(~real, LOWEST).amax(1)),
            total + (outputs * real).sum(1),
            seen + counts[:, None].to(seen.dtype),
        )

    def summary(self, state: State) -> Float[Tensor, "batch summary"]:
        """Put the chosen parts side by side."""
        last, highest, total, seen = state
        parts = {
            "last": last,
            "max": torch.where(seen > 0, highest, torch.zeros_like(highest)),
            "mean": total / seen.clamp_min(1),
        }
        return torch.cat([parts[p] for p in self.parts], dim=-1)

    def replay(self, outputs: Float[Tensor, "batch steps width size"], reads: Reads) -> Tensor:
        """Summaries before the first step and after each, from the outputs of every token."""
        batch, _, _, size = outputs.shape
        real = reads.valid()[..., None]
        seen = torch.cat([reads.counts.new_zeros(batch, 1), reads.counts.cumsum(1)], 1)[..., None]
        parts = []
        for part in self.parts:
            start = outputs.new_zeros(batch, 1, size)
            if part == "max":
                each = outputs.masked_fill(~real, LOWEST).amax(2)
                running = torch.cummax(each, dim=1).values
            elif part == "mean":
                running = (outputs * real).sum(2).cumsum(1) / seen[:, 1:].clamp_min(1)
            else:
                running = self._carry_last(outputs, reads)
            parts.append(torch.cat([start, running], 1))
        return torch.cat(parts, -1) * (seen > 0)

    @staticmethod
    def _carry_last(outputs: Tensor, reads: Reads) -> Tensor:
        """The output of the last real token up to each step."""
        batch, steps, width, size = outputs.shape
        place = torch.arange(steps, device=outputs.device) * width + reads.counts - 1
        place = torch.where(reads.counts > 0, place, torch.zeros_like(place)).cummax(1).values
        flat = outputs.reshape(batch, steps * width, size)
        return flat.gather(1, place[..., None].expand(-1, -1, size))
