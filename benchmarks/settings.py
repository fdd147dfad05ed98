"""Gives every setting of every class that a YAML can name what does not fit it, and says what came of it.

    python benchmarks/settings.py [--only CLASS] > settings.md

Each try is one YAML file with one setting changed, taken all the way in this process: parsed, built, and, where texts
or generated tokens are read, trained for one update of each phase. A try ends in one of four ways: refused in one line;
worked; a traceback; or nonsense, which is to be taken though it does not fit the setting's type, or to end in weights
that are not finite. Prints a table of Markdown; exits with 1 where there were tracebacks or nonsense.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import math
import re
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import yaml

from temporal.agents.policy import PolicyAgent
from temporal.agents.preview import PreviewFit
from temporal.agents.reinforce import Learner
from temporal.agents.stopping import StoppingFit
from temporal.agents.train import Training, train
from temporal.agents.trials import Evaluation
from temporal.agents.warmup import Warmup
from temporal.data.base import Source
from temporal.data.text import SAMPLES
from temporal.decisions import Decision
from temporal.errors import UserError
from temporal.experiment import FILLED, Experiment, check_effects, instantiate, nameable, parse
from temporal.ranges import fits, settings
from temporal.readers.base import Reader
from temporal.readers.frames import FrameEncoder, Thumbnail
from temporal.readers.packets import PacketSizes
from temporal.readers.video import FrameReader

VALUES: tuple[object, ...] = (
    math.nan, math.inf, -1, 0, 10**18, 1e18, 2.5, "text", "nan", "a\0b", [], [-1], [math.nan], {}, {"x": 1}, None, True,
)  # fmt: skip
ENDS = ("refused", "worked", "tracebacks", "nonsense")
LINE = re.compile(r"[\w .,:*/-]+: .+, got .+; expected .+", re.DOTALL)
TOKENS: dict[str, Any] = {
    "data": {"class_path": "NeedleSource", "init_args": {"num_sequences": 16, "length": 8}},
    "reader": {"class_path": "RecurrentReader", "init_args": {"hidden_size": 8, "embedding_size": 8, "skim_size": 2}},
    "agent": {"class_path": "PolicyAgent", "init_args": {"hidden_size": 8, "summary_size": 4}},
    "training": {
        "class_path": "Training",
        "init_args": {
            "warmup": {"class_path": "Warmup", "init_args": {"epochs": 1, "batch_size": 16}},
            "stopping": {"class_path": "StoppingFit", "init_args": {"updates": 1, "batch_size": 4, "sequences": 8}},
            "learner": {"class_path": "Reinforce", "init_args": {}},
            "preview": {"class_path": "PreviewFit", "init_args": {}},
            "updates": 1,
            "episodes": 8,
        },
    },
    "evaluation": {"class_path": "Evaluation", "init_args": {}},
    "chunk": 2,
    "num_slots": 8,
    "device": "cpu",
}  # fmt: skip
FRAMES = TOKENS | {
    "data": {"class_path": "VideoSource", "init_args": {"path": "doom"}},
    "reader": {
        "class_path": "AttentiveFrameReader",
        "init_args": {
            "encoder": {"class_path": "EfficientNetLite0", "init_args": {}},
            "preview": {"class_path": "temporal.readers.frames.Thumbnail", "init_args": {}},
            "views": ["64px", "64px_3x3", "128px"],
            "hidden_size": 8,
            "num_heads": 2,
        },
    },
    "chunk": 1,
}
NEEDED = {"Advance": {"limit": 8}, "Mode": {"names": ["skim", "full"]}, "ImageModel": {"model": "nowhere"}}
PLACES: tuple[tuple[type, tuple[str, ...]], ...] = (
    (Source, ("data",)), (FrameEncoder, ("reader", "encoder")), (Thumbnail, ("reader", "preview")),
    (PacketSizes, ("reader", "preview")),
    (Reader, ("reader",)),
    (PolicyAgent, ("agent",)), (Learner, ("training", "learner")), (Warmup, ("training", "warmup")),
    (PreviewFit, ("training", "preview")), (StoppingFit, ("training", "stopping")), (Training, ("training",)),
    (Evaluation, ("evaluation",)), (Experiment, ()),
)  # fmt: skip
"""Where in a configuration a class stands."""


def config_for(kind: type, changes: dict[str, Any]) -> dict[str, Any]:
    """A configuration in which a class takes part, with some of its settings changed."""
    frames = issubclass(kind, (FrameReader, FrameEncoder, Thumbnail, PacketSizes)) or (
        issubclass(kind, PolicyAgent) and kind is not PolicyAgent
    )
    config = copy.deepcopy(FRAMES if frames or kind.__name__ == "VideoSource" else TOKENS)
    part = {
        "class_path": f"{kind.__module__}.{kind.__name__}",
        "init_args": NEEDED.get(kind.__name__, {}) | changes,
    }
    if issubclass(kind, Decision):
        halts = [] if kind.__name__ == "Halt" else [{"class_path": "Halt"}]
        config["agent"]["init_args"]["scheme"] = [*halts, part]
        return config
    place = next(keys for each, keys in PLACES if issubclass(kind, each))
    if not place:
        return config | changes
    *above, last = place
    into = config
    for key in above:
        into = into[key]["init_args"]
    if into.get(last, {}).get("class_path", "").rpartition(".")[2] == kind.__name__:
        part["init_args"] = into[last]["init_args"] | part["init_args"]
    if kind.__name__ == "TextSource":
        part["init_args"] = {"path": str(SAMPLES / "spam_assassin"), "max_tokens": 20} | part["init_args"]
    if kind.__name__ == "VideoSource":
        part["init_args"] = {"path": "doom"} | part["init_args"]
    into[last] = part
    return config


def use(config: dict[str, Any], folder: Path, learn: bool) -> bool:
    """Take a configuration all the way; whether all weights are finite afterwards."""
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    experiment = instantiate(parse(["--config", str(file)]))
    reader, agent = experiment.build()
    check_effects(experiment, reader, agent)
    if learn:
        training = experiment.training
        training.warmup.epochs = min(training.warmup.epochs, 1)
        training.updates, training.stopping.updates = (
            min(training.updates, 1),
            min(training.stopping.updates, 1),
        )
        scene = training.scene(
            experiment.data.split("train"),
            reader,
            agent,
            experiment.chunk,
            experiment.num_slots,
            experiment.seed,
        )
        with tempfile.TemporaryDirectory() as state:
            train(training, scene, Path(state), experiment.seed)
    weights = [*reader.state_dict().values(), *agent.state_dict().values()]
    return all(bool(torch.isfinite(w).all()) for w in weights)


def attempt(kind: type, name: str, value: object, folder: Path) -> tuple[str, str]:
    """How one try ends, and what was said."""
    config = config_for(kind, {name: value})
    data = config["data"]
    learn = isinstance(data, dict) and data.get("class_path") == "NeedleSource"
    learn |= kind.__module__.endswith("generated")
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            finite = use(config, folder, learn)
    except UserError as error:
        text = str(error)
        return ("refused" if LINE.fullmatch(text) and "\n" not in text else "tracebacks"), text
    except OSError as error:
        return "refused", str(error)  # the command line tells these in one line
    except Exception as error:
        return "tracebacks", f"{type(error).__name__}: {error}"
    fit = fits(settings(kind)[name], value)
    return ("worked" if fit and finite else "nonsense"), "" if finite else "weights that are not finite"


def main() -> int:
    """Try all, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", help="one class")
    parser.add_argument("--verbose", action="store_true", help="every try, to stderr")
    options = parser.parse_args()
    torch.set_num_threads(1)
    total: Counter[str] = Counter()
    print("| class | setting | tries |", " | ".join(ENDS), "|")
    print("|---|---|" + "--:|" * (1 + len(ENDS)))
    with tempfile.TemporaryDirectory() as folder:
        for kind in nameable():
            for name in settings(kind) if options.only in (None, kind.__name__) else ():
                if name in FILLED:
                    continue
                ends: Counter[str] = Counter()
                for value in VALUES:
                    end, said = attempt(kind, name, value, Path(folder))
                    ends[end] += 1
                    if options.verbose or end in ENDS[2:]:
                        print(
                            f"{end}: {kind.__name__}.{name} = {value!r}: {said[:300]}",
                            file=sys.stderr,
                            flush=True,
                        )
                total += ends
                print(
                    f"| {kind.__name__} | {name} | {ends.total()} |",
                    *(f"{ends[e]} |" for e in ENDS),
                    flush=True,
                )
    print(f"| all | | {total.total()} |", *(f"{total[e]} |" for e in ENDS))
    return int(total["tracebacks"] + total["nonsense"] > 0)


if __name__ == "__main__":
    sys.exit(main())
