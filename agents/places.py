"""Where to look next: scores for every position of a sequence."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from temporal.cost import module_flops
from temporal.episodes import Observation


class PlaceHead(nn.Module):
    """Says where to look next: a convolution along the sequence over what is known of each position.

    A position's channels are its preview, whether it was read, where it lies, and what stands around it; what is
    known of the whole comes in by `hidden`. It starts as the order of the previews' first number.

    Args:
        num_positions: of the longest sequence.
        preview_size: numbers of each preview; 0 without.
        hidden_size: of what is known of the whole.
        channels: of the convolution.
        reach: positions that it spans; odd.
    """

    def __init__(
        self, num_positions: int, preview_size: int, hidden_size: int, channels: int = 16, reach: int = 5
    ) -> None:
        super().__init__()
        self._num_positions = num_positions
        self.around = nn.Conv1d(preview_size + 3, channels, reach, padding=reach // 2)
        self.whole = nn.Linear(hidden_size, channels)
        self.score = nn.Linear(channels, 1)
        self.trust = nn.Parameter(torch.tensor(1.0))  # in the preview's own order
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    @property
    def flops(self) -> int:
        """FLOPs for all positions."""
        kernel = self.around.weight.numel()
        return self._num_positions * (2 * kernel + module_flops(self.score)) + module_flops(self.whole)

    def forward(self, observation: Observation, hidden: Tensor) -> Float[Tensor, "... positions"]:
        """A score for each position."""
        assert observation.seen is not None
        seen = observation.seen.to(hidden.dtype)
        share = torch.linspace(-1, 1, self._num_positions, device=hidden.device).expand_as(seen)
        last = torch.arange(self._num_positions, device=hidden.device) == observation.position[..., None] - 1
        parts = [seen[..., None], share[..., None], last.to(hidden.dtype)[..., None]]
        if observation.preview is not None:
            parts.append(torch.tanh(observation.preview / 4))
        known = torch.cat(parts, -1)
        flat = known.reshape(-1, *known.shape[-2:]).transpose(1, 2)
        around = self.around(flat).transpose(1, 2).reshape(*known.shape[:-1], -1)
        scores: Tensor = self.score(nn.functional.silu(around + self.whole(hidden)[..., None, :]))[..., 0]
        return scores if observation.preview is None else scores + self.trust * observation.preview[..., 0]
