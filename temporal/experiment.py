"""What an experiment consists of, from YAML by way of jsonargparse, and building its parts."""

from __future__ import annotations

import inspect
import pkgutil
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace

# What a YAML may name must be known: the modules are imported for that alone.
import temporal.agents.focus
import temporal.agents.frame_exit
import temporal.agents.glimpse
import temporal.agents.ppo
import temporal.agents.resolution
import temporal.agents.sampler  # noqa: F401
from temporal.agents.policy import PolicyAgent
from temporal.agents.preview import PreviewFit
from temporal.agents.reinforce import Learner, Reinforce
from temporal.agents.stopping import StoppingFit
from temporal.agents.train import Training, derive
from temporal.agents.trials import Evaluation
from temporal.agents.warmup import Warmup
from temporal.data.base import Source
from temporal.data.generated import NeedleSource  # noqa: F401 - known by short name in YAML
from temporal.data.text import TextSource  # noqa: F401 - known by short name in YAML
from temporal.data.video import VideoSource  # noqa: F401 - known by short name in YAML
from temporal.decisions import Decision, Sift
from temporal.errors import UserError, bad, reason
from temporal.ranges import Batch, Chunk, Seed, Text, check, checked, parts, settings
from temporal.readers import Reader, Task
from temporal.readers.frames import FrameEncoder
from temporal.readers.video import FrameReader

KINDS: dict[str, type] = {
    "source": Source, "reader": Reader, "encoder": FrameEncoder, "decision": Decision, "agent": PolicyAgent,
    "learner": Learner,
}  # fmt: skip
"""What a YAML can name classes of."""


DEVICE = re.compile(r"cpu|mps|(cuda|xpu)(:\d{1,3})?", re.ASCII)


@checked
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
    chunk: Chunk = 4
    num_slots: Batch = 64
    seed: Seed = 0
    device: Text = "auto"

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
    if not DEVICE.fullmatch(name):
        raise bad(
            "experiment", "device", name, "auto, cpu or an accelerator that is there (cuda, cuda:0, mps, xpu)"
        )
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).tolist()  # of what holds no numbers (meta) there are none to see
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0][:150]
        raise bad(
            "experiment", "device", name, f"auto, cpu or an accelerator that is there ({reason})"
        ) from None
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
    parts = (
        {"warmup": Warmup, "preview": PreviewFit, "stopping": StoppingFit, "learner": Reinforce}
        if kind is Training
        else {}
    )
    nested = {name: _by_class(each) for name, each in parts.items()}
    return {"class_path": f"{kind.__module__}.{kind.__name__}", "init_args": nested}


def find_config(name: str) -> Path:
    """A YAML file by path, or by name from the shipped ones.

    Raises:
        UserError: there is none, or it holds no mapping.
    """
    from temporal.configs import __path__ as folders

    shipped = {p.stem: p for folder in folders for p in sorted(Path(folder).glob("*.yaml"))}
    path = Path(name)
    if not path.is_file():
        if path.stem not in shipped or path.suffix not in ("", ".yaml"):
            raise bad("config", "file", name, f"a YAML file, or one of {', '.join(sorted(shipped))}", shipped)
        path = shipped[path.stem]
    try:
        load_yaml(path.read_text(encoding="utf-8"), "config", str(path))
    except (OSError, UnicodeDecodeError) as error:
        got = "bytes that are not UTF-8" if isinstance(error, UnicodeDecodeError) else reason(error)
        raise UserError(f"config: {path}, got {got}; expected a YAML file") from None
    return path


def parse(arguments: list[str]) -> Namespace:
    """Parse `--config FILE` and overrides such as `--agent.hidden_size 32`.

    Raises:
        UserError: an unknown key, class or type, in one line.
    """
    try:
        parsed = make_parser().parse_args(arguments)
    except UserError:
        raise
    except Exception as error:  # jsonargparse raises its own error and argparse's
        raise complaint(str(error) or type(error).__name__) from None
    check_ranges(parsed)
    return parsed


def check_ranges(parsed: Namespace, where: str = "config") -> None:
    """Raise UserError for the first setting of a parsed configuration outside its range, by its dotted name."""
    _check_parts(parsed, Experiment, "", where)


def _check_parts(given: Namespace, of: type, key: str, where: str) -> None:
    """Raise UserError for a setting outside its range; of a class that is built later, too."""
    for name, kind in settings(of).items():
        if name in given:
            _check_setting(given[name], kind, f"{key}.{name}".lstrip("."), where)


def _check_setting(value: Any, kind: Any, key: str, where: str) -> None:
    if isinstance(value, Namespace) and "class_path" in value:
        if value.get("init_args"):
            _check_parts(value["init_args"], pkgutil.resolve_name(value["class_path"]), key, where)
    elif isinstance(value, list | tuple) and any(isinstance(each, Namespace) for each in value):
        for place, each in enumerate(value):
            _check_setting(each, kind, f"{key}[{place}]", where)
    else:
        check(where, key, kind, value)


def instantiate(parsed: Namespace) -> Experiment:
    """Build the parts that a configuration names; data are opened, networks are not built yet."""
    try:
        parts = make_parser().instantiate(parsed)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, UserError):
            raise cause from None
        raise complaint(str(error)) from None
    values = {k: v for k, v in vars(parts).items() if k in typing.get_type_hints(Experiment)}
    return Experiment(**values)


def check_effects(experiment: Experiment, reader: Reader, agent: PolicyAgent) -> None:
    """Raise UserError for a setting that these parts give no effect to; defaults are let pass."""
    training, where = experiment.training, "config: training"
    if agent.scheme.halt_index is None:
        if training.stopping_weight > 0:
            raise bad(where, "stopping_weight", training.stopping_weight, "0, for the scheme has no Halt")
        if training.stopping.updates not in (0, StoppingFit().updates):
            raise bad(where, "stopping.updates", training.stopping.updates, "0, for the scheme has no Halt")
    fits = training.stopping.updates > 0 or training.stopping_weight > 0
    if agent.dropout > 0 and not (fits and agent.scheme.halt_index is not None):
        raise bad(
            "config: agent", "dropout", agent.dropout, "0, for no halting is fitted on recorded readings"
        )
    if isinstance(reader, FrameReader):
        if experiment.chunk != 1:
            raise bad("config", "chunk", experiment.chunk, "1, for frames are looked at one by one")
        if agent.scheme.find(Sift) is not None:
            raise bad("config: agent", "scheme", "Sift", "other decisions, for frames have no salience")
    if training.warmup.skim_share > 0 and "skim" not in reader.modes:
        raise bad(
            where, "warmup.skim_share", training.warmup.skim_share, "0, for the reader has no mode skim"
        )


WORDS = {
    "<class 'int'>": "a whole number",
    "<class 'float'>": "a number",
    "<class 'bool'>": "true or false",
    "<class 'str'>": "text",
    "<class 'tuple'>": "a list",
    "<class 'list'>": "a list",
}


FILLED = ("task", "reader")
"""Arguments of constructors that the program fills in."""

ENDS = {
    "data": Source,
    "reader": Reader,
    "encoder": FrameEncoder,
    "scheme": Decision,
    "agent": PolicyAgent,
    "learner": Learner,
}


def complaint(text: str) -> UserError:
    """The telling part of a message of jsonargparse, which spells out every type that it tried."""
    text = " ".join(text.split())
    key = ".".join(re.findall(r'Parser key "([^"]+)"', text))
    of = f" of {key}" if key else ""
    got = re.search(r"(?:Got|Given) value: (.*?)(?=\. Got value: | Subclass types | - Expected a |$)", text)
    value = got[1] if got else ""
    # the innermost class complains; that of a callable is only shown in the value
    named = re.findall(r"given class_path '([^']+)'", text) or re.findall(r"class_path='([^']+)'", value)[:1]
    if found := re.search(r"Option '([^']+)' is not accepted|unrecognized arguments: --([^.= ]+)", text):
        known = _settings(named[-1]) if named else [f.name for f in fields(Experiment)]
        return bad("config", f"setting{of}", found[1] or found[2], f"one of {', '.join(known)}", known)
    required = r"arguments are required: (.+?)(?=\. Got value: |$)|argument --(\S+): expected one argument"
    if found := re.search(required, text):
        return UserError(f"config: {found[1] or found[2]}{of}, got no value; expected one")
    if found := re.search(r"module '(\S+)' has no attribute '(\S+)'", text):
        return _no_class(key, f"{found[1]}.{found[2]}")
    if found := re.search(r"No module named '\S+'", text):
        return _no_class(key, named[-1] if named else value, f" ({found[0]})")
    if found := re.search(r"import path string: (\S+)|subclass spec, but got (\S+)\. Got", text):
        return _no_class(key, found[1] or found[2])
    if found := re.search(r"Expected an instantiatable class, but \S*?(\w+) is abstract", text):
        return bad("config", key, "settings of no class", f"a class_path with init_args of a {found[1]}")
    if found := re.search(r"Import path (\S+) does not correspond to a subclass of (\w+)", text):
        return bad("config", f"class{of}", found[1], f"a {found[2]}")
    if found := re.search(r"Not a valid subclass of (\w+)", text):
        return bad("config", key, value, f"a class_path with init_args of a {found[1]}")
    if found := re.search(r"Expected a (<.*?>|typing\.Literal\[.*?\]|tuple with \d+ elements)", text):
        choices = re.findall(r"'(\w+)'", found[1]) if "Literal" in found[1] else []
        expected = f"one of {', '.join(choices)}" if choices else WORDS.get(found[1], f"a {found[1]}")
        expected = expected.replace("a tuple", "a list")
        return bad("config", key or "value", value, expected, choices)
    return UserError(f"config: {text if len(text) <= 300 else text[:297] + '...'}")


def _no_class(key: str, name: str, why: str = "") -> UserError:
    """Known are class paths, and the short names that a YAML may use as well."""
    kinds: list[type] = [kind for end, kind in ENDS.items() if key.endswith(end)]
    classes = [c for kind in kinds for c in concrete(kind)]
    known = [f"{c.__module__}.{c.__name__}" for c in classes] + [c.__name__ for c in classes]
    return bad("config", f"class of {key}", name, f"a class that can be imported{why}", known)


def concrete(kind: type) -> list[type]:
    """The project's own classes of a kind that can be built."""
    below: list[type] = type.__subclasses__(kind)
    found = dict.fromkeys([kind, *(c for sub in below for c in concrete(sub))])
    return [c for c in found if not inspect.isabstract(c) and c.__module__.startswith("temporal.")]


def nameable() -> list[type]:
    """Every class that a YAML can name: those of all kinds, and what their constructors take, down to the leaves."""
    found: dict[type, None] = {}
    waiting: list[type] = [Experiment, *KINDS.values()]
    while waiting:
        new = [each for each in concrete(waiting.pop()) if each not in found]
        found |= dict.fromkeys(new)
        for each in new:
            waiting += [
                part for name, kind in settings(each).items() if name not in FILLED for part in parts(kind)
            ]
    return list(found)


def _settings(class_path: str) -> list[str]:
    """What the constructor of a class takes, less what the program fills in."""
    parameters = inspect.signature(pkgutil.resolve_name(class_path)).parameters
    return [name for name in parameters if name not in FILLED]


def dump(parsed: Namespace) -> str:
    """The fully resolved configuration as YAML."""
    text: str = make_parser().dump(parsed, skip_unset=False)
    return text


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Takes no key twice: all but the last would be passed over."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping whose keys differ."""
        node = super().compose_mapping_node(anchor)
        known: set[str | None] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in known:
                problem = f"{key.value!r} comes twice"
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
            known.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return node


def load_yaml(text: str, where: str, what: str) -> dict[str, Any]:
    """A YAML mapping; raises UserError where it is none."""
    try:
        loaded = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        line = f", line {mark.line + 1}" if mark else ""
        got = f"YAML that cannot be read ({problem}{line})"
        raise UserError(f"{where}: {what}, got {got}; expected a mapping") from None
    if not isinstance(loaded, dict):
        got = {"NoneType": "nothing", "list": "a list"}.get(type(loaded).__name__, "no keys")
        raise UserError(f"{where}: {what}, got {got}; expected a mapping")
    return loaded
