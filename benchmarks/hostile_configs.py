"""What a stranger can do to the configuration of a run: every way is one case, named, with its commands."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ESCAPE = "\x1b[2J\x1b]0;owned\x07[link=http://x][red]"
SPARSE = 20 << 30  # bytes
DEEP = 100_000
SCORE, PLOT, RESUME = ("score",), ("plot", "evaluate"), ("resume",)


class Case(NamedTuple):
    """One hostile folder: what is done to a copy of a good one."""

    kind: str
    name: str
    make: Callable[[Path], None]
    commands: tuple[str, ...] = SCORE


def edit(file: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Change what a YAML or JSON file holds; a text that is returned is written as it is."""

    def make(folder: Path) -> None:
        path = folder / file
        text = path.read_text(encoding="utf-8")
        value = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
        value = change(value)
        if not isinstance(value, str):
            value = yaml.safe_dump(value, sort_keys=False) if path.suffix == ".yaml" else json.dumps(value)
        path.write_text(value, encoding="utf-8", errors="surrogatepass")

    return make


def put(place: str, value: Any) -> Callable[[Any], Any]:
    """Set the value at a dotted place; a number picks out of a list."""

    def change(config: Any) -> Any:
        *path, last = place.split("/")
        into = config
        for name in path:
            into = into[int(name)] if isinstance(into, list) else into[name]
        into[int(last) if isinstance(into, list) else last] = value
        return config

    return change


def write(file: str, content: bytes | str) -> Callable[[Path], None]:
    """Replace a file."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: void((folder / file).write_bytes(data))


def void(_: object) -> None:
    """Nothing."""


SLOTS = (
    "data", "reader", "agent", "training", "evaluation", "agent/settings/scheme/0", "training/settings/learner",
    "training/settings/warmup", "training/settings/stopping", "training/settings/preview",
)  # fmt: skip


def classes(canary: Path) -> Iterator[Case]:
    """Code by name wherever a class can stand, in the stored form and in that of jsonargparse."""
    command = f"touch {canary}"
    python = f"open({str(canary)!r}, 'w')"
    payloads: dict[str, dict[str, Any]] = {
        "os.system": {"command": command},
        "subprocess.getoutput": {"cmd": command},
        "builtins.exec": {"source": python},
        "temporal.runs.os.system": {"command": command},
        "temporal.runs.subprocess.getoutput": {"cmd": command},
        "canary_module.Canary": {},
        "temporal.experiment.Experiment": {},
        "temporal.agents.policy.PolicyAgent": {},
        "Experiment": {},
        "PolicyAgent": {},
        ESCAPE: {},
    }
    for slot, (name, settings) in itertools.product(SLOTS, payloads.items()):
        if name == "PolicyAgent" and slot == "agent":
            continue
        stored = {"class": name, "settings": settings}
        yield Case("class by name", f"{slot} {name}", edit("config.yaml", put(slot, stored)))
        if "." in name:
            given = {"class_path": name, "init_args": settings}
            yield Case("class path", f"{slot} {name}", edit("config.yaml", put(slot, given)))
    inline = json.dumps({"class_path": "os.system", "init_args": {"command": command}})
    for slot in (
        *SLOTS,
        "data/settings/path",
        "data/settings/tokenizer",
        "reader/settings/cell",
        "device",
        "chunk",
    ):
        for text in (inline, "os.system", "canary_module.Canary", "canary_module:Canary"):
            yield Case("class in a text", f"{slot} {text[:20]}", edit("config.yaml", put(slot, text)))


def keys(canary: Path) -> Iterator[Case]:
    """Keys beside those that an experiment has."""
    other = canary.parent / "other.yaml"
    settings = {"command": f"touch {canary}"}
    other.write_text(yaml.safe_dump({"reader": {"class_path": "os.system", "init_args": settings}}))
    found: dict[str, Any] = {
        "config": str(other), "--config": str(other), "cfg": str(other), "print_config": True, "help": True,
        "<<": {"reader": "os.system"}, "__class__": "os.system", "": 1, "a\nb": 1, ESCAPE: 1, "trust": True,
        "reader.class": "os.system", "reader.settings": settings, "class": "os.system",
    }  # fmt: skip
    for key, value in found.items():
        added = {key: value}
        yield Case("other key", repr(key)[:40], edit("config.yaml", lambda c, a=added: c | a))
    for slot in ("reader", "agent", "data", "training", "evaluation", "training.warmup", "training.learner"):
        dotted = {f"{slot}.class_path": "os.system", f"{slot}.init_args": settings}
        yield Case("other key", f"dotted {slot}", edit("config.yaml", lambda c, d=dotted: c | d))
        yield Case("other key", f"dotted first {slot}", edit("config.yaml", lambda c, d=dotted: d | c))
        flat = {f"{slot}.init_args.command": settings["command"], f"{slot}.class_path": "os.system"}
        yield Case("other key", f"flat {slot}", edit("config.yaml", lambda c, d=flat: c | d))
    for slot in ("reader/settings", "agent/settings", "training/settings", "reader", "agent"):
        for key in ("class_path", "init_args", "dict_kwargs", "task", "self", "config"):
            yield Case("other key", f"{slot} {key}", edit("config.yaml", put(f"{slot}/{key}", "os.system")))


def syntax(canary: Path) -> Iterator[Case]:
    """YAML that a parser could stumble over."""
    laughs = "a0: &a0 [x,x]\n" + "".join(
        f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
    )
    texts: dict[str, str | bytes] = {
        "python tag": f"reader: !!python/object/apply:os.system ['touch {canary}']",
        "python name": "reader: !!python/name:os.system",
        "python module": "reader: !!python/module:canary_module",
        "python new": f"reader: !!python/object/new:subprocess.Popen [['touch', '{canary}']]",
        "aliases": laughs, "self reference": "reader: &a [*a]", "anchor": "reader: &a {}",
        "merge": "x: &a {}\nreader: {<<: *a}", "nested": "reader: " + "[" * DEEP, "nested mappings": "{a: " * DEEP,
        "nested block": "".join(" " * i + "a:\n" for i in range(400)), "digits": f"chunk: {'9' * 6000}",
        "hexadecimal": "chunk: 0x" + "f" * 6000, "base 60": "chunk: 1" + ":59" * 3000, "documents": "a: 1\n---\nb: 2",
        "binary": "reader: !!binary aGk=", "half a character": 'device: "\\ud800"', "zero byte": b"a: \0",
        "not UTF-8": b"a: \xff\xfe", "UTF-16": "device: cpu".encode("utf-16"), "nothing": "", "list": "- 1",
        "scalar": "x", "twice": "chunk: 1\nchunk: 2", "long": "a: " + "x" * (1 << 22), "keys": "? [a]\n: b",
        "many": "\n".join(f"k{i}: {i}" for i in range(30_000)), "tab": "a:\n\t- b", "directive": "%YAML 9.9\n---\na: 1",
        "tag directive": "%TAG ! tag:yaml.org,2002:python/\n---\nreader: !name:os.system x", "escape": ESCAPE,
    }  # fmt: skip
    for name, text in texts.items():
        yield Case("YAML", name, write("config.yaml", text))
        if (
            isinstance(text, str)
            and ":" in text[:40]
            and name not in ("directive", "tag directive", "documents")
        ):
            added = edit("config.yaml", lambda c, t=text: yaml.safe_dump(c, sort_keys=False) + t)
            yield Case("YAML", f"{name} after a good one", added)


SETTINGS = (
    "chunk", "num_slots", "seed", "reader/settings/hidden_size", "reader/settings/embedding_size",
    "reader/settings/skim_size", "agent/settings/hidden_size", "agent/settings/summary_size",
    "agent/settings/peek_size", "agent/settings/ahead", "agent/settings/lowest_price", "training/settings/prices",
    "agent/settings/dropout", "reader/settings/readout", "agent/settings/scheme", "device", "evaluation/settings/floor",
    "data/settings/path", "data/settings/max_tokens",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    -1, 0, 10**9, 10**18, 10**400, 1e308, float("nan"), float("inf"), True, None, "8", "x" * 10_000, ESCAPE,
    [], {}, [[[]]], "meta", "cuda:99",
)  # fmt: skip


def settings(canary: Path) -> Iterator[Case]:
    """Numbers and other values that a setting cannot have, or that ask for a world of memory."""
    for place, value in itertools.product(SETTINGS, VALUES):
        yield Case("setting", f"{place} {value!r:.12}", edit("config.yaml", put(place, value)))
    big = {"class": "TransformerReader", "settings": {"num_layers": 10**9, "width": 8}}
    yield Case("setting", "a thousand million layers", edit("config.yaml", put("reader", big)))
    for views in (["9999px_99x99"], ["9999px"], ["9" * 5000 + "px"], ["64px"] * 9000):
        frames = {
            "class": "AttentiveFrameReader",
            "settings": {
                "encoder": {"class": "EfficientNetLite0", "settings": {}},
                "views": views,
                "frame_size": 9999,
            },
        }
        yield Case("setting", f"views {views[0][:12]}", edit("config.yaml", put("reader", frames)))
    model = {"class": "ImageModel", "settings": {"model": str(canary.parent)}}
    frames = {"class": "AttentiveFrameReader", "settings": {"encoder": model}}
    yield Case("setting", "a model elsewhere", edit("config.yaml", put("reader", frames)))
    jump = {"class": "Jump", "settings": {"sizes": list(range(9000))}}
    yield Case("setting", "9000 jumps", edit("config.yaml", put("agent/settings/scheme", [jump])))
    place = {"class": "Place", "settings": {"num_places": 10**12}}
    yield Case("setting", "10^12 places", edit("config.yaml", put("agent/settings/scheme", [place])))
    needle = {"class": "NeedleSource", "settings": {"num_sequences": 10**12}}
    yield Case("data elsewhere", "10^12 sequences", edit("config.yaml", put("data", needle)), ("evaluate",))
    for name, value in {"num_settings": 10**9, "prices": [1e-300, 1e300], "limit": 10**18}.items():
        change = edit("config.yaml", put(f"evaluation/settings/{name}", value))
        yield Case("data elsewhere", f"{name} {value}", change, ("evaluate",))
    for name in (
        "nobody/nothing",
        "https://example.org/x.csv",
        "hf://datasets/x/y",
        "/etc",
        "/dev/zero",
        "\0",
    ):
        for key in ("path", "tokenizer"):
            change = edit("config.yaml", put(f"data/settings/{key}", name))
            yield Case("data elsewhere", f"{key} {name}", change, ("score", "evaluate"))
