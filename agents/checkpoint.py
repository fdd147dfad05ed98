"""What a training needs to go on, in safetensors and JSON; nothing here is a pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from temporal.bounded import MIB, check_file, load_json
from temporal.errors import UserError, bad, reason

MOST_BYTES = 2048 * MIB  # of a file of weights
MOMENT_NAMES = ("step", "exp_avg", "exp_avg_sq")  # that AdamW keeps of a parameter
MOMENTS = len(MOMENT_NAMES)  # a state is no larger than so many times the weights
HEADER_BYTES = 8 * MIB  # that say what is in it
SPARE_NUMBERS, SPARE_TENSORS = 1 << 24, 4096  # an encoder has some more before its layers are fused
TYPES = {
    torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip

Shapes = dict[str, tuple[str, tuple[int, ...]]]
"""Type and shape of each tensor by its name."""


@dataclass(frozen=True)
class Header:
    """What a file of weights says is in it; no tensor has been read."""

    file: Path
    shapes: Shapes
    metadata: dict[str, str]

    def check(self, expected: Shapes) -> None:
        """Raise UserError unless the file holds exactly these tensors."""
        for name in sorted(expected.keys() | self.shapes.keys()):
            got, wanted = self.shapes.get(name), expected.get(name)
            if got != wanted:
                told = f"{name} is {_told(got)}; {_told(wanted)} expected"
                raise UserError(
                    f"run: {self.file.name}, got weights of another model ({told}); expected those of config.yaml"
                )

    @contextmanager
    def bounds(self) -> Iterator[None]:
        """While this lasts a module whose weights are many more than the file's is refused before they are filled in.

        Raises:
            UserError: settings that no network can be built of, or none that fits the file.
        """
        left = [
            SPARE_TENSORS + 4 * len(self.shapes),
            SPARE_NUMBERS + 2 * sum(map(_numel, self.shapes.values())),
        ]

        def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
            left[0] -= 1
            left[1] -= 0 if parameter is None else parameter.numel()
            if min(left) < 0:
                raise bad(
                    "run", self.file.name, "less weights than a network of config.yaml has", "all of them"
                )

        handle = register_module_parameter_registration_hook(count)
        try:
            yield
        except UserError:
            raise
        except (RuntimeError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"run: config.yaml, got settings that no network can be built of ({why}); expected those of a run"
            ) from None
        finally:
            handle.remove()


def _told(found: tuple[str, tuple[int, ...]] | None) -> str:
    return "none" if found is None else f"{' x '.join(map(str, found[1])) or 'one number'} of {found[0]}"


def _numel(found: tuple[str, tuple[int, ...]]) -> int:
    total = 1
    for size in found[1]:
        total *= size
    return total


def read_header(file: Path, most: int = MOST_BYTES) -> Header:
    """What is in a file of weights; raises UserError for one that is damaged, too large, or no regular file."""
    size = check_file(file, most)
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
        if length > min(HEADER_BYTES, max(size - 8, 0)):
            raise ValueError(f"a header of {length} bytes in a file of {size}")
        with safe_open(file, "pt") as weights:
            parts = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118 - it is no mapping
            shapes = {name: (str(part.get_dtype()), tuple(part.get_shape())) for name, part in parts.items()}
            return Header(file, shapes, weights.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: Exception) -> UserError:
    why = reason(error) if isinstance(error, OSError) else str(error)
    return UserError(f"run: {file}, got a file that cannot be read ({why}); expected weights")


def shapes_of(models: nn.Module) -> Shapes:
    """Type and shape of each tensor that a model keeps."""
    return {
        name: (TYPES.get(v.dtype, str(v.dtype)), tuple(v.shape)) for name, v in models.state_dict().items()
    }


def read_tensors(header: Header) -> dict[str, torch.Tensor]:
    """The tensors of a file whose header was checked; raises UserError where one holds what is no finite number."""
    try:
        tensors = load_file(header.file)
    except (SafetensorError, OSError) as error:
        raise _unreadable(header.file, error) from None
    for name, values in tensors.items():
        if values.is_floating_point() and not bool(values.isfinite().all()):
            raise bad("run", f"{name} in {header.file.name}", "a number that is not finite", "finite weights")
    return tensors


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
        if not os.path.lexists(self._file):
            return None
        header = read_header(self._file, MOMENTS * MOST_BYTES)
        expected = shapes_of(models)
        Header(self._file, _named(header.shapes, "model."), {}).check(expected)
        if (
            sum(map(_numel, header.shapes.values()))
            > MOMENTS * sum(map(_numel, expected.values())) + SPARE_TENSORS
        ):
            raise bad(
                "run", self._file.name, "more numbers than three for each weight", "the state of a training"
            )
        position = self._position(header)
        load_weights(models, _named(read_tensors(header), "model."), self._file)
        return position

    def _position(self, header: Header) -> tuple[int, int]:
        try:
            phase, update = load_json(header.metadata["position"])
            if type(phase) is type(update) is int and min(phase, update) >= 0:
                return phase, update
        except (KeyError, TypeError, ValueError):
            pass
        got = header.metadata.get("position")
        raise bad("run", f"position in {self._file.name}", got, "two whole numbers from 0 up")

    def load_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Restore the optimiser's moments.

        Raises:
            UserError: they are not those of the parameters that learn.
        """
        header = read_header(self._file, MOMENTS * MOST_BYTES)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Any]] = {}
        for key, value in _named(read_tensors(header), "optimizer.").items():
            index, _, name = key.partition(".")
            known = index.isdecimal() and len(index) < 10 and int(index) < len(parameters)
            shape = parameters[int(index)].shape if known and name != "step" else torch.Size()
            if not known or name not in MOMENT_NAMES or value.shape != shape:
                got = f"{key} of shape {tuple(value.shape)}"
                raise bad(
                    "run", f"optimizer in {self._file.name}", got, "moments of the parameters that learn"
                )
            state.setdefault(int(index), {})[name] = value
        if any(len(each) < len(MOMENT_NAMES) for each in state.values()):
            raise bad("run", f"optimizer in {self._file.name}", "a part of it", ", ".join(MOMENT_NAMES))
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _named(found: dict[str, Any], prefix: str) -> dict[str, Any]:
    """What begins with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}


def write_tensors(file: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write safetensors beside `file` and rename; raises UserError where the disk does not take it."""
    part = file.with_name(file.name + ".part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)  # not to write through a link
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
