"""A run: the folder with all that a training left behind.

`config.yaml` (resolved), `model.safetensors`, `tokenizer.json` (texts), `metrics.jsonl`, `about.json`, `points.jsonl`
and `outcomes.npz` (once evaluated), `state/` (what resuming needs). Nothing that is loaded from it is a pickle.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from temporal.agents.checkpoint import load_weights, write_tensors
from temporal.agents.policy import PolicyAgent
from temporal.data.text import TextSource
from temporal.errors import UserError, bad, reason
from temporal.experiment import Experiment, check_trusted, dump, instantiate, load_yaml, parse
from temporal.fingerprints import fingerprints
from temporal.readers.base import Reader, Task

FORMAT = 1
PACKAGES = ("torch", "tokenizers", "datasets", "gymnasium", "numpy", "safetensors", "jsonargparse")


@dataclass(frozen=True)
class Run:
    """A trained reader and agent, loaded.

    `config` is the resolved YAML as a mapping; the data are not opened until `experiment` is asked for.
    """

    folder: Path
    config: dict[str, Any]
    about: dict[str, Any]
    task: Task
    reader: Reader
    agent: PolicyAgent
    chunk: int
    num_slots: int
    prices: tuple[float, float]

    def experiment(self) -> Experiment:
        """The whole experiment, data opened."""
        return instantiate(parse(["--config", str(self.folder / "config.yaml")]))


def default_folder(config: Path, seed: int) -> Path:
    """Where a run goes that was given no place."""
    return Path("runs") / f"{config.stem}-seed{seed}"


def check_folder(folder: Path, parsed: Any, resume: bool, reader_from: str | None) -> bool:
    """Whether a run folder holds the finished run of this configuration; False where there is something to train.

    Raises:
        UserError: the folder holds a run already (without `resume`), one of another configuration, or other files.
    """
    if not (folder / "config.yaml").is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise bad("train", "--out", str(folder), "a folder that is empty or does not exist")
        return False
    if not resume:
        raise bad("train", "--out", str(folder), "a new folder; --resume goes on with the run in this one")
    then = _flat(load_yaml(_read(folder / "config.yaml"), "run", str(folder / "config.yaml")))
    now = _flat(yaml.safe_load(dump(parsed)))
    for key in sorted(then.keys() | now.keys()):
        if then.get(key) != now.get(key):
            raise bad("train", key, now.get(key), f"{then.get(key)!r}, as in the run to resume")
    if not (folder / "about.json").is_file():
        return False  # killed before it was written
    about = read_about(folder)
    before = about.get("reader_from", reader_from)
    if before != reader_from:
        raise bad("train", "--reader-from", reader_from, f"{before!r}, as in the run to resume")
    return bool(about["finished"]) and (folder / "model.safetensors").is_file()


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """Settings by their dotted names, as in overrides."""
    if not isinstance(value, dict):
        return {key: value}
    parts = (
        (key if name == "init_args" else f"{key}.{name}".lstrip("."), each) for name, each in value.items()
    )
    return {name: each for name, part in parts for name, each in _flat(part, name).items()}


def start(folder: Path, experiment: Experiment, parsed: Any, reader_from: str | None) -> None:
    """Make a run folder, or complete one that was left in the making.

    Raises:
        UserError: it cannot be written.
    """
    texts = {
        "config.yaml": dump(parsed),
        "about.json": json.dumps(describe(experiment, reader_from), indent=1),
    }
    if isinstance(experiment.data, TextSource):
        texts["tokenizer.json"] = experiment.data.tokenizer.to_str(pretty=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            if not (folder / name).is_file():
                write_text(folder / name, text)
    except OSError as error:
        raise bad("train", "--out", str(folder), f"a folder that can be written ({reason(error)})") from None


def describe(experiment: Experiment, reader_from: str | None) -> dict[str, Any]:
    """What about.json says: versions, commit, command, seed, device, the task, and how far it got."""
    return {
        "format": FORMAT,
        "finished": False,
        "task": asdict(experiment.data.task),
        "task_name": experiment.data.name,
        "seed": experiment.seed,
        "device": experiment.device,
        "fingerprints": fingerprints(experiment.data),
        "reader_from": reader_from,
        "command": " ".join(["temporal", *sys.argv[1:]]),
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in (*PACKAGES, "temporal-reading")},
    }


def finish(folder: Path, reader: Reader, agent: PolicyAgent, extra: dict[str, Any]) -> None:
    """Write the weights and mark the run as finished."""
    models = nn.ModuleDict({"reader": reader, "agent": agent})
    tensors = {k: v.detach().contiguous().cpu() for k, v in models.state_dict().items()}
    write_tensors(folder / "model.safetensors", tensors, {"format": str(FORMAT)})
    about = json.loads((folder / "about.json").read_text())
    write_text(folder / "about.json", json.dumps(about | {"finished": True} | extra, indent=1))


def load(folder: Path, trust: bool = False) -> Run:
    """Load a run; builds only classes of temporal.* unless `trust`.

    Raises:
        UserError: the folder is missing, unfinished, truncated or of another version.
    """
    about = read_about(folder)
    if not about["finished"]:
        raise bad(
            "run", "folder", str(folder), "a finished training; `temporal train ... --resume` goes on with it"
        )
    config = read_config(folder)
    if not trust:
        check_trusted(config, f"run: {folder / 'config.yaml'}")
    task = _task(about, folder)
    # the run's own data are not needed yet
    experiment = _build(config | {"data": {"class_path": "temporal.data.generated.NeedleSource"}})
    reader, agent = experiment.build(task)
    try:
        weights = load_file(folder / "model.safetensors")
    except (SafetensorError, OSError) as error:
        got = f"a file that cannot be read ({reason(error) if isinstance(error, OSError) else error})"
        raise UserError(f"run: {folder / 'model.safetensors'}, got {got}; expected weights") from None
    load_weights(nn.ModuleDict({"reader": reader, "agent": agent}), weights, folder / "model.safetensors")
    reader.eval()
    agent.eval()
    prices = experiment.training.prices
    return Run(folder, config, about, task, reader, agent, experiment.chunk, experiment.num_slots, prices)


def _build(config: dict[str, Any]) -> Experiment:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        return instantiate(parse(["--config", str(path)]))


def read_config(folder: Path) -> dict[str, Any]:
    """The resolved configuration of a run as a mapping, checked to be whole."""
    file = folder / "config.yaml"
    config = load_yaml(_read(file), "run", str(file))
    # what is left of a file that was cut off may well be good YAML
    missing = [f.name for f in fields(Experiment) if f.name not in config]
    if missing:
        raise UserError(f"run: {file}, got no {', '.join(missing)}; expected a whole configuration")
    return config


def read_about(folder: Path) -> dict[str, Any]:
    """about.json of a run, checked."""
    if not folder.is_dir():
        raise bad("run", "folder", str(folder), "a folder that `temporal train` made")
    file = folder / "about.json"
    try:
        about = json.loads(_read(file))
    except json.JSONDecodeError:
        raise UserError(f"run: {file}, got a damaged file; expected that of a run") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        got = about.get("format") if isinstance(about, dict) else about
        raise bad("run", f"format of {folder}", got, f"{FORMAT}, the one this version of temporal reads")
    finished = about.get("finished")
    if not isinstance(finished, bool) or (finished and not isinstance(about.get("commonest"), int)):
        raise UserError(f"run: {file}, got no word on how far it got; expected finished and commonest")
    return about


def _task(about: dict[str, Any], folder: Path) -> Task:
    task: Any = about.get("task")
    try:
        names = tuple(map(str, task["class_names"]))
        return Task(int(task["vocabulary_size"]), names, float(task["mean_length"]), int(task["max_length"]))
    except (KeyError, TypeError, ValueError):
        raise bad("run", f"task in {folder / 'about.json'}", task, "the one that was trained on") from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = reason(error) if isinstance(error, OSError) else "not UTF-8"
        raise bad("run", "file", str(path), f"a file of a run ({why})") from None


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _commit() -> str | None:
    """The commit of the project's checkout, where it runs from one."""
    place = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=place,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def copy_reader(run: Run, reader: Reader) -> None:
    """Take the weights of a run's reader over into a fresh one of the same kind.

    Raises:
        UserError: they do not fit.
    """
    load_weights(reader, run.reader.state_dict(), run.folder / "model.safetensors")
    if not torch.equal(reader.salience, run.reader.salience):
        raise bad("train", "--reader-from", str(run.folder), "a run whose reader fits this configuration")
