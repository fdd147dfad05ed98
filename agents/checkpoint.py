"""What a training needs to go on, in safetensors and JSON; nothing here is a pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from temporal.errors import UserError


class Checkpoint:
    """The state of a training in a folder: `state.safetensors` holds weights, optimiser and position in one file.

    `name` sets another file of the same form apart.

    One file, written beside and renamed, so that a killed process leaves the old state or the new one and no mixture.
    """

    def __init__(self, folder: Path, name: str = "state") -> None:
        self._file = folder / f"{name}.safetensors"

    def save(
        self, models: nn.Module, optimizer: torch.optim.Optimizer | None, phase: int, update: int
    ) -> None:
        """Write weights, optimiser and position."""
        tensors = {f"model.{k}": v.detach().contiguous().cpu() for k, v in models.state_dict().items()}
        if optimizer is not None:
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= {
                    f"optimizer.{index}.{k}": torch.as_tensor(v).contiguous().cpu() for k, v in state.items()
                }
        write_tensors(self._file, tensors, {"position": json.dumps([phase, update])})

    def load_models(self, models: nn.Module) -> tuple[int, int] | None:
        """Restore weights; return (phase, update) to go on from, or None where there is no checkpoint.

        Raises:
            UserError: the file is damaged or of another model.
        """
        if not self._file.is_file():
            return None
        tensors, position = self._read()
        weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        load_weights(models, weights, self._file)
        phase, update = json.loads(position)
        return int(phase), int(update)

    def load_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Restore the optimiser's moments."""
        tensors, _ = self._read()
        state: dict[int, dict[str, Any]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                state.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

    def _read(self) -> tuple[dict[str, torch.Tensor], str]:
        from safetensors import safe_open

        try:
            with safe_open(self._file, "pt") as opened:
                position = (opened.metadata() or {})["position"]
            return load_file(self._file), position
        except (SafetensorError, OSError, KeyError) as error:
            raise UserError(
                f"run: {self._file.name}, got a damaged file ({error}); expected the state of a training"
            ) from None


def write_tensors(file: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write safetensors beside `file` and rename; raises UserError where the disk does not take it."""
    part = file.with_name(file.name + ".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part, metadata)
        os.replace(part, file)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise UserError(f"run: writing {file} failed: {error}; what was saved before is kept") from None


def load_weights(models: nn.Module, weights: dict[str, torch.Tensor], file: Path) -> None:
    """Put weights into a model; raises UserError where names or shapes differ."""
    try:
        models.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise UserError(
            f"run: {file.name}, got weights of another model ({reason}); expected those of config.yaml"
        ) from None
