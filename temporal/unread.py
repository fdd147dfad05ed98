"""Where reading starts that goes to places out of order: nothing is read twice."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def unread_from(
    place: Int[Tensor, " batch"], seen: Bool[Tensor, "batch positions"], length: Int[Tensor, " batch"]
) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
    """The first position from a place on that was not read, and how many unread ones stand there in a row.

    Behind the end it goes on from the start, so that whoever never stops reads everything once. Where nothing is left
    the numbers are 0.

    >>> seen = torch.tensor([[True, False, False, True, True, False]])
    >>> [int(x) for x in unread_from(torch.tensor([3]), seen, torch.tensor([5]))]
    [1, 2]
    """
    positions = torch.arange(seen.shape[1], device=seen.device)
    width = torch.tensor(seen.shape[1], device=seen.device)
    left = ~seen & (positions < length[:, None])
    ahead = (positions - place[:, None]) % width.clamp_min(1)
    start = torch.where(left, ahead, width).argmin(1)
    behind = ~left & (positions > start[:, None])
    stop = torch.where(behind, positions, width).amin(1)
    return start, (stop - start) * left.any(1)
