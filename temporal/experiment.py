"""What an experiment consists of, from YAML by way of jsonargparse, and building its parts."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace

import temporal.agents.ppo  # noqa: F401 - known by short name in YAML
from temporal.agents.evaluate import Evaluation
from temporal.agents.policy import PolicyAgent
from temporal.agents.reinforce import Reinforce
from temporal.agents.stopping import StoppingFit
from temporal.agents.train import Training, derive
from temporal.agents.warmup import Warmup
from temporal.data.base import Source
from temporal.data.generated import NeedleSource  # noqa: F401 - known by short name in YAML
from temporal.data.text import TextSource  # noqa: F401 - known by short name in YAML
from temporal.errors import UserError, bad
from temporal.readers import Reader, Task


@dataclass
class Experiment:
    """All that defines a run.

    Args:
        data: where sequences come from.
        reader: the network that reads.
        agent: what decides.
        training: how both are trained.
        evaluation: how curves are drawn.
        chunk: tokens of one observation, 1 or more.
        num_slots: sequences read side by side, 1 or more.
        seed: of everything random.
        device: cpu, cuda, mps; auto takes an accelerator where there is one.
    """

    data: Source
    reader: Callable[[Task], Reader]
    agent: Callable[[Task, Reader], PolicyAgent]
    training: Training = field(default_factory=Training)
    evaluation: Evaluation = field(default_factory=Evaluation)
    chunk: int = 4
    num_slots: int = 64
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.chunk < 1 or self.num_slots < 1:
            raise bad("experiment", "chunk and num_slots", (self.chunk, self.num_slots), "whole numbers from 1 up")

    def build(self, task: Task | None = None) -> tuple[Reader, PolicyAgent]:
        """A reader and an agent with fresh weights by seed, on the device.

        Args:
            task: of a run; the data's own when left out.
        """
        torch.manual_seed(derive(self.seed, "weights"))
        task = task or self.data.task
        reader = self.reader(task)
        agent = self.agent(task, reader)
        device = pick_device(self.device)
        return reader.to(device), agent.to(device)


def pick_device(name: str) -> torch.device:
    """The device of a name; auto asks accelerate for the best there is."""
    if name == "auto":
        from accelerate import PartialState

        found: torch.device = PartialState().device
        return found
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise bad("experiment", "device", name, f"auto, cpu or an accelerator that is there ({reason})") from None
    return device


def make_parser() -> ArgumentParser:
    """The parser of an experiment's YAML and overrides; a mistake raises UserError instead of leaving the program."""
    parser = ArgumentParser(exit_on_error=False, prog="temporal train")
    parser.add_argument("--config", action="config", help="a YAML file; several are merged in order")
    parser.add_class_arguments(Experiment, None)
    # Defaults by class, not by instance, so that the resolved YAML spells them out.
    parser.set_defaults({"training": _by_class(Training), "evaluation": _by_class(Evaluation)})
    return parser


def _by_class(kind: type) -> dict[str, Any]:
    parts = {"warmup": Warmup, "stopping": StoppingFit, "learner": Reinforce} if kind is Training else {}
    nested = {name: _by_class(each) for name, each in parts.items()}
    return {"class_path": f"{kind.__module__}.{kind.__name__}", "init_args": nested}


def find_config(name: str) -> Path:
    """A YAML file by path, or by name from the shipped ones.

    Raises:
        UserError: there is none.
    """
    from temporal.configs import __path__ as folders

    shipped = {p.stem: p for folder in folders for p in sorted(Path(folder).glob("*.yaml"))}
    path = Path(name)
    if path.is_file():
        return path
    if path.stem in shipped and path.suffix in ("", ".yaml"):
        return shipped[path.stem]
    known = ", ".join(sorted(shipped))
    raise bad("config", "file", name, f"a YAML file, or one of {known}", shipped)


def parse(arguments: list[str]) -> Namespace:
    """Parse `--config FILE` and overrides such as `--agent.hidden_size 32`.

    Raises:
        UserError: an unknown key, class or type, in one line.
    """
    try:
        return make_parser().parse_args(arguments)
    except UserError:
        raise
    except Exception as error:  # jsonargparse raises its own error and argparse's
        raise UserError(f"config: {one_line(error)}") from None


def instantiate(parsed: Namespace) -> Experiment:
    """Build the parts that a configuration names; data are opened, networks are not built yet."""
    import typing

    try:
        parts = make_parser().instantiate(parsed)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, UserError):
            raise cause from None
        raise UserError(f"config: {one_line(error)}") from None
    values = {k: v for k, v in vars(parts).items() if k in typing.get_type_hints(Experiment)}
    return Experiment(**values)


def one_line(error: BaseException) -> str:
    """The telling lines of a long message, joined."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(("usage:", "tip:", "["))]
    text = " ".join(kept) or type(error).__name__
    return text if len(text) <= 400 else text[:397] + "..."


def check_trusted(config: dict[str, Any], where: str) -> None:
    """Raise UserError unless every class that a stored configuration names is the project's own.

    Naming a class imports its module, which runs code: a run folder from elsewhere must not be able to.
    """
    for key in ("reader", "agent", "data", "training", "evaluation"):
        value = config.get(key)
        if value is not None and not isinstance(value, dict):
            raise bad(where, key, value, "a class_path with init_args")
    for name in _class_paths(config):
        if not str(name).startswith("temporal."):
            raise bad(where, "class_path", name, "a class of temporal.*; --trust builds others, which runs their code")


def _class_paths(value: object) -> list[object]:
    if isinstance(value, dict):
        own = [value["class_path"]] if "class_path" in value else []
        return own + [p for v in value.values() for p in _class_paths(v)]
    if isinstance(value, list):
        return [p for v in value for p in _class_paths(v)]
    return []


def dump(parsed: Namespace) -> str:
    """The fully resolved configuration as YAML."""
    text: str = make_parser().dump(parsed, skip_none=False)
    return text


def load_yaml(text: str, where: str) -> dict[str, Any]:
    """A YAML mapping; raises UserError where it is none."""
    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: got YAML that cannot be read ({one_line(error)}); expected a mapping") from None
    if not isinstance(loaded, dict):
        raise bad(where, "content", type(loaded).__name__, "a mapping")
    return loaded


warnings.filterwarnings("ignore", category=UserWarning, module="jsonargparse")
