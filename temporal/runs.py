"""A run: the folder with all that a training left behind.

`config.yaml` (resolved, as `temporal.stored` has it), `model.safetensors`, `tokenizer.json` (texts), `metrics.jsonl`,
`about.json`, `points.jsonl` and `outcomes.npz` (once evaluated), `state/` (what resuming needs). Nothing that is loaded
from it is a pickle, and nothing is believed before it was checked: a folder may come from anyone.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer
from torch import nn

from temporal import stored
from temporal.agents.checkpoint import (
    MOST_BYTES,
    load_weights,
    read_header,
    read_tensors,
    shapes_of,
    write_tensors,
)
from temporal.agents.policy import PolicyAgent
from temporal.bounded import MIB, check_entries, load_json, load_yaml, read_text
from temporal.curve import FLOOR_SHARE
from temporal.data.stored_tokenizer import check_tokenizer, load_tokenizer
from temporal.data.text import SAMPLES, TextSource
from temporal.errors import UserError, bad, reason
from temporal.experiment import Experiment
from temporal.fingerprints import differing, fingerprints
from temporal.ranges import Inner, check
from temporal.readers.base import Reader, Task

FORMAT = 2
CONFIG_BYTES, ABOUT_BYTES = MIB // 4, 16 * MIB
MOST_LENGTH = 1 << 24  # positions of a sequence
MOST_ROOM = 1 << 22  # tokens of all slots side by side
MOST_SEEN = 1 << 26  # positions of all slots side by side, where an agent sees all of them
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
    trust: bool = False

    def experiment(self) -> Experiment:
        """The whole experiment, data opened.

        Raises:
            UserError: data that are not here, and the run is not trusted to fetch any; data that cannot be opened, or
                are others than those of the training.
        """
        where = f"run: {self.folder / 'config.yaml'}"
        settings = self.config["data"]["settings"]
        if not self.trust:
            self._check_here(settings, where)
        for key in settings.keys() & {"max_tokens", "num_frames", "length"}:
            if settings[key] != self.task.max_length:
                raise bad(
                    where,
                    f"data.{key}",
                    settings[key],
                    f"{self.task.max_length}, as the run was trained with",
                )
        experiment = stored.build(stored.check(self.config, where, self.trust), where)
        changed = differing(self.about.get("fingerprints"), fingerprints(experiment.data))
        if experiment.data.task != self.task or changed:
            expected = f"the data that {self.folder} was trained on, unchanged"
            raise bad("run", "data", experiment.data.name, expected)
        return experiment

    def _check_here(self, settings: dict[str, Any], where: str) -> None:
        """Raise UserError for data or a tokenizer that would have to be fetched, or that could be a trap."""
        shipped = {p.name for p in SAMPLES.iterdir()}
        path, tokenizer = (settings.get(key) for key in ("path", "tokenizer"))
        place = os.path.expanduser(str(path))
        if path is not None and path not in shipped and not (os.path.isfile(place) or os.path.isdir(place)):
            expected = "a file or folder that exists; --trust fetches it from the Hugging Face hub"
            raise bad(where, "data.path", path, expected)
        if tokenizer is not None and tokenizer != "words":
            if not os.path.isfile(tokenizer):
                expected = "a tokenizer.json that exists; --trust has transformers load what is named"
                raise bad(where, "data.tokenizer", tokenizer, expected)
            check_tokenizer(Path(tokenizer), self.task.vocabulary_size)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of a run on texts; raises UserError where there is none that can be believed."""
        words = self.config["data"]["settings"].get("tokenizer", "words") == "words"
        file = self.folder / "tokenizer.json"
        return load_tokenizer(file, words, self.task.vocabulary_size, self.trust)


def default_folder(config: Path, seed: int) -> Path:
    """Where a run goes that was given no place."""
    return Path("runs") / f"{config.stem}-seed{seed}"


def check_folder(folder: Path, parsed: Any, resume: bool, reader_from: str | None) -> bool:
    """Whether a run folder holds the finished run of this configuration; False where there is something to train.

    Raises:
        UserError: the folder holds a run already (without `resume`), one of another configuration, or other files.
    """
    if not os.path.lexists(folder / "config.yaml"):
        if folder.is_dir() and any(folder.iterdir()):
            raise bad("train", "--out", str(folder), "a folder that is empty or does not exist")
        return False
    if not resume:
        raise bad("train", "--out", str(folder), "a new folder; --resume goes on with the run in this one")
    check_entries(folder)
    about = read_about(folder) if (folder / "about.json").exists() else None  # killed before it was written
    then, now = flat(read_config(folder)), flat(stored.to_stored(parsed))
    for key in sorted(then.keys() | now.keys()):
        if then.get(key) != now.get(key):
            raise bad("train", key, now.get(key), f"{then.get(key)!r}, as in the run to resume")
    if about is None:
        return False
    before = about.get("reader_from", reader_from)
    if before != reader_from:
        raise bad("train", "--reader-from", reader_from, f"{before!r}, as in the run to resume")
    return bool(about["finished"]) and (folder / "model.safetensors").is_file()


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """Settings by their dotted names, as in overrides."""
    if not isinstance(value, dict):
        return {key: value}
    parts = (
        (key if name == "settings" else f"{key}.{name}".lstrip("."), each) for name, each in value.items()
    )
    return {name: each for name, part in parts for name, each in flat(part, name).items()}


def start(folder: Path, experiment: Experiment, parsed: Any, reader_from: str | None) -> None:
    """Make a run folder, or complete one that was left in the making.

    Raises:
        UserError: it cannot be written.
    """
    texts = {
        "config.yaml": yaml.safe_dump(stored.to_stored(parsed), sort_keys=False, allow_unicode=True),
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
    about = read_about(folder)
    write_text(folder / "about.json", json.dumps(about | {"finished": True} | extra, indent=1))


def load(folder: Path, trust: bool = False, tell: Callable[[str], None] | None = None) -> Run:
    """Load a run: nothing outside its folder is opened, no code but the project's is run, nothing is fetched.

    Args:
        folder: may come from anyone.
        trust: import the classes from outside the project that it names, which runs their code, and read what else
            it names: models, and data on the hub.
        tell: told, before they are imported, of classes from outside.

    Raises:
        UserError: the folder is missing, unfinished, damaged, of another version, or holds what no run does.
    """
    about = read_about(folder)
    if not about["finished"]:
        raise bad(
            "run", "folder", str(folder), "a finished training; `temporal train ... --resume` goes on with it"
        )
    check_entries(folder)
    config, where = read_config(folder), f"run: {folder / 'config.yaml'}"
    if trust and tell is not None and (names := stored.foreign(config)):
        tell(f"--trust imports {', '.join(names)}, which runs their code")
    task = _task(about, folder)
    checked = stored.check(config, where, trust)
    header = read_header(folder / "model.safetensors", sys.maxsize if trust else MOST_BYTES)
    salience = header.shapes.get("reader.salience")
    if salience is None or salience[1] != (task.vocabulary_size,):
        got = "none" if salience is None else salience[1]
        raise bad(
            "run", "salience in model.safetensors", got, f"one for each of {task.vocabulary_size} tokens"
        )
    # the run's own data are not needed yet
    needle = {"class_path": "temporal.data.generated.NeedleSource", "init_args": {}}
    with header.bounds():
        experiment = stored.build(checked | {"data": needle}, where)
        reader, agent = experiment.build(task)
    _check_room(experiment, task, agent, where)
    models = nn.ModuleDict({"reader": reader, "agent": agent})
    header.check(shapes_of(models))
    load_weights(models, read_tensors(header), header.file)
    reader.eval()
    agent.eval()
    prices = experiment.training.prices
    return Run(
        folder, config, about, task, reader, agent, experiment.chunk, experiment.num_slots, prices, trust
    )


def _check_room(experiment: Experiment, task: Task, agent: PolicyAgent, where: str) -> None:
    """Raise UserError for settings with which reading would take more memory than there is."""
    room = experiment.chunk * experiment.num_slots
    if room > MOST_ROOM:
        raise bad(where, "chunk times num_slots", room, f"at most {MOST_ROOM}")
    seen = task.max_length * experiment.num_slots * bool({"seen", "preview"} & agent.needs)
    if seen > MOST_SEEN:
        raise bad(where, "num_slots times the task's max_length", seen, f"at most {MOST_SEEN}")


def read_config(folder: Path) -> dict[str, Any]:
    """The stored configuration of a run as a mapping of plain values; nothing that it names is looked up."""
    file = folder / "config.yaml"
    text = read_text(file, CONFIG_BYTES)
    try:
        config = load_yaml(text)
    except ValueError as error:
        raise UserError(f"run: {file}, got YAML that cannot be read ({error}); expected a mapping") from None
    if not isinstance(config, dict):
        got = {"NoneType": "nothing", "list": "a list"}.get(type(config).__name__, "no keys")
        raise UserError(f"run: {file}, got {got}; expected a mapping")
    return config


def read_floor(folder: Path) -> float:
    """The share of a full reading from which a run's areas count, from its configuration; nothing is built."""
    config = stored.check_part(read_config(folder), "evaluation", f"run: {folder / 'config.yaml'}")
    floor = config.get("init_args", {}).get("floor", FLOOR_SHARE)
    check("run", f"evaluation.floor in {folder / 'config.yaml'}", Inner, floor)
    return float(floor)


def read_about(folder: Path) -> dict[str, Any]:
    """about.json of a run, checked."""
    if not folder.is_dir():
        raise bad("run", "folder", str(folder), "a folder that `temporal train` made")
    file = folder / "about.json"
    text = read_text(file, ABOUT_BYTES)
    try:
        about = load_json(text)
    except json.JSONDecodeError:
        raise UserError(f"run: {file}, got a damaged file; expected that of a run") from None
    except ValueError as error:
        raise UserError(f"run: {file}, got {error}; expected that of a run") from None
    if not isinstance(about, dict) or type(about.get("format")) is not int or about["format"] != FORMAT:
        got = about.get("format") if isinstance(about, dict) else about
        expected = f"{FORMAT}, the one this version of temporal reads; train it anew"
        raise bad("run", f"format of {folder}", got, expected)
    finished = about.get("finished")
    if not isinstance(finished, bool) or (finished and type(about.get("commonest")) is not int):
        raise UserError(f"run: {file}, got no word on how far it got; expected finished and commonest")
    if finished and not 0 <= about["commonest"] < len(_task(about, folder).class_names):
        raise bad("run", f"commonest in {file}", about["commonest"], "the number of a class")
    return about


def _task(about: dict[str, Any], folder: Path) -> Task:
    task: Any = about.get("task")
    if not isinstance(task, dict) or not _is_task(**{str(key): value for key, value in task.items()}):
        raise bad("run", f"task in {folder / 'about.json'}", task, "the one that was trained on")
    return Task(
        task["vocabulary_size"], tuple(task["class_names"]), float(task["mean_length"]), task["max_length"]
    )


def _is_task(
    vocabulary_size: Any = None, class_names: Any = None, mean_length: Any = None, max_length: Any = None,
    **others: Any,
) -> bool:  # fmt: skip
    """Whether these describe data that can be."""
    named = isinstance(class_names, list) and all(isinstance(name, str) for name in class_names)
    counted = type(vocabulary_size) is type(max_length) is int and type(mean_length) in (int, float)
    return (
        named
        and counted
        and not others
        and len(set(class_names)) == len(class_names) > 1
        and 1 <= vocabulary_size < 1 << 31
        and 1 <= max_length <= MOST_LENGTH
        and 0 < mean_length <= max_length
    )


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        part.unlink(missing_ok=True)  # not to write through a link
        with part.open("x", encoding="utf-8") as file:
            file.write(text)
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
