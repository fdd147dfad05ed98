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
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from temporal.agents.checkpoint import load_weights, write_tensors
from temporal.agents.policy import PolicyAgent
from temporal.data.text import TextSource
from temporal.errors import UserError, bad
from temporal.experiment import Experiment, check_trusted, dump, instantiate, load_yaml, parse
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

    def experiment(self) -> Experiment:
        """The whole experiment, data opened."""
        return instantiate(parse(["--config", str(self.folder / "config.yaml")]))


def default_folder(config: Path, seed: int) -> Path:
    """Where a run goes that was given no place."""
    return Path("runs") / f"{config.stem}-seed{seed}"


def start(folder: Path, experiment: Experiment, parsed: Any, resume: bool) -> None:
    """Make a run folder, or check that the one to resume is of the same configuration.

    Raises:
        UserError: the folder holds a run already (without `resume`), or one of another configuration.
    """
    text = dump(parsed)
    if (folder / "config.yaml").is_file():
        if not resume:
            raise bad("train", "out", str(folder), "a new folder; --resume goes on with the run in this one")
        if (folder / "config.yaml").read_text() != text:
            raise bad("train", "configuration", "one that differs from that of the run", "the same, to resume")
        return
    if folder.exists() and any(folder.iterdir()):
        raise bad("train", "out", str(folder), "a folder that is empty or does not exist")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "config.yaml", text)
        write_text(folder / "about.json", json.dumps(describe(experiment), indent=1))
        if isinstance(experiment.data, TextSource):
            experiment.data.tokenizer.save(str(folder / "tokenizer.json"))
    except OSError as error:
        raise bad("train", "out", str(folder), f"a folder that can be written ({error.strerror})") from None


def describe(experiment: Experiment) -> dict[str, Any]:
    """What about.json says: versions, commit, command, seed, device, the task, and how far it got."""
    return {
        "format": FORMAT,
        "finished": False,
        "task": asdict(experiment.data.task),
        "task_name": experiment.data.name,
        "seed": experiment.seed,
        "device": experiment.device,
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
        raise bad("run", "folder", str(folder), "a finished training; `temporal train ... --resume` goes on with it")
    config = load_yaml(_read(folder / "config.yaml"), f"run: {folder / 'config.yaml'}")
    if not trust:
        check_trusted(config, f"run: {folder / 'config.yaml'}")
    task = _task(about, folder)
    parts = {k: v for k, v in config.items() if k in ("reader", "agent", "chunk", "num_slots", "seed", "device")}
    parts["data"] = {"class_path": "temporal.data.generated.NeedleSource"}  # the run's own data are not needed yet
    experiment = _build(parts)
    reader, agent = experiment.build(task)
    try:
        weights = load_file(folder / "model.safetensors")
    except (SafetensorError, OSError) as error:
        raise bad("run", "model.safetensors", str(error), f"the weights of the run {folder}") from None
    load_weights(nn.ModuleDict({"reader": reader, "agent": agent}), weights, folder / "model.safetensors")
    reader.eval()
    agent.eval()
    return Run(folder, config, about, task, reader, agent, experiment.chunk, experiment.num_slots)


def _build(parts: dict[str, Any]) -> Experiment:
    import tempfile

    import yaml

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(yaml.safe_dump(parts))
        return instantiate(parse(["--config", str(path)]))


def read_about(folder: Path) -> dict[str, Any]:
    """about.json of a run, checked."""
    if not folder.is_dir():
        raise bad("run", "folder", str(folder), "a folder that `temporal train` made")
    try:
        about = json.loads(_read(folder / "about.json"))
    except json.JSONDecodeError:
        raise bad("run", "about.json", "a damaged file", f"that of a run, in {folder}") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        got = about.get("format") if isinstance(about, dict) else about
        raise bad("run", f"format of {folder}", got, f"{FORMAT}, the one this version of temporal reads")
    return about


def _task(about: dict[str, Any], folder: Path) -> Task:
    try:
        fields = dict(about["task"])
        return Task(**(fields | {"class_names": tuple(fields["class_names"])}))
    except (KeyError, TypeError):
        raise bad("run", "task in about.json", about.get("task"), f"that of a run, in {folder}") from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise bad("run", "file", str(path), f"a file of a run ({reason})") from None


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _commit() -> str | None:
    """The commit of the project's checkout, where it runs from one."""
    place = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=place, capture_output=True, text=True, timeout=5, check=True
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
        raise bad("train", "reader_from", str(run.folder), "a run whose reader fits this configuration")
