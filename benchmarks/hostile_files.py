"""What a stranger can do to the other files of a run: weights, tokenizer, what it says of itself, evaluations."""

from __future__ import annotations

import io
import itertools
import json
import os
import pickle
import socket
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from benchmarks.hostile_configs import (
    DEEP,
    ESCAPE,
    PLOT,
    RESUME,
    SCORE,
    SPARSE,
    Case,
    classes,
    edit,
    keys,
    put,
    settings,
    syntax,
    void,
    write,
)


def about(canary: Path) -> Iterator[Case]:
    """What about.json says of the task and of itself."""
    numbers = (-1, 0, 1, 10**9, 10**12, 10**400, 1e308, float("nan"), float("inf"), True, None, "8", [], {})
    for key, value in itertools.product(("vocabulary_size", "mean_length", "max_length"), numbers):
        yield Case("about", f"{key} {value!r:.12}", edit("about.json", put(f"task/{key}", value)))
    names: tuple[Any, ...] = (
        ["a"], ["a", "a"], ["a", "\ud800"], ["a", ESCAPE], ["a", "b\nc"], ["a", "x" * (1 << 20)], ["a", ""],
        ["a", "\u202eb"], ["a", "[link=http://x]b[/link]"], ["a", 1], "ab", None, {}, [[]], ["a"] * 10**5,
        [str(i) for i in range(10**5)],
    )  # fmt: skip
    for value in names:
        yield Case("about", f"class_names {value!r:.30}", edit("about.json", put("task/class_names", value)))
    others = {"format": (1, 3, "2", 2.0, True, None, [2]), "finished": (1, "yes", None, []),
              "commonest": (-1, 2, 10**18, "0", True, None, 0.0), "task": (None, [], "x", {}, ESCAPE)}  # fmt: skip
    for key, values in others.items():
        for value in values:
            yield Case(
                "about", f"{key} {value!r:.12}", edit("about.json", put(key, value)), ("score", "resume")
            )
    texts: dict[str, str | bytes] = {
        "nested": "[" * DEEP, "digits": '{"format": ' + "9" * 6000 + "}", "nothing": "", "list": "[]", "text": '"a"',
        "large": '{"a": "' + "x" * (20 << 20) + '"}', "not UTF-8": b"\xff", "twice": '{"format": 2, "format": 1}',
        "escape": ESCAPE, "nested mappings": '{"a":' * DEEP, "constant": '{"format": Infinity}',
    }  # fmt: skip
    for name, text in texts.items():
        yield Case("about", name, write("about.json", text), ("score", "resume", "plot"))


FILES = ("config.yaml", "about.json", "model.safetensors", "tokenizer.json", "outcomes.npz", "points.jsonl")


def replace(file: str, by: Callable[[Path], None]) -> Callable[[Path], None]:
    """Something else in the place of a file."""

    def make(folder: Path) -> None:
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        by(path)

    return make


def files(canary: Path) -> Iterator[Case]:
    """Something else in the place of each file, or beside them where files are written."""
    outside = canary.parent / "outside.txt"
    outside.write_text("{}")

    def listen(path: Path) -> None:
        here = Path.cwd()
        os.chdir(path.parent)  # the name of a socket must be short
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
        os.chdir(here)

    ways: dict[str, Callable[[Path], None]] = {
        "a pipe": os.mkfifo, "a socket": listen, "a folder": Path.mkdir, "nothing": void, "empty": Path.touch,
        "an endless device": lambda p: p.symlink_to("/dev/zero"), "a terminal": lambda p: p.symlink_to("/dev/tty"),
        "a link elsewhere": lambda p: p.symlink_to(outside), "a dangling link": lambda p: p.symlink_to("nowhere"),
        "a link to itself": lambda p: p.symlink_to(p.name), "a memory": lambda p: p.symlink_to("/proc/self/mem"),
        "sparse": lambda p: (p.touch(), os.truncate(p, SPARSE))[1],
        "random": lambda p: void(p.write_bytes(os.urandom(9999))),
    }  # fmt: skip
    for file, (name, way) in itertools.product(FILES, ways.items()):
        commands = PLOT if file in FILES[4:] else ("score", "resume") if file in FILES[:2] else SCORE
        yield Case("file", f"{name} for {file}", replace(file, way), commands)
    beside = ("about.json.part", "config.yaml.part", "model.safetensors.part", "metrics.jsonl", "metrics.jsonl.part",
              "state", "state/state.safetensors", "state/state.safetensors.part", "x")  # fmt: skip
    for file, name in itertools.product(
        beside, ("a pipe", "a link elsewhere", "an endless device", "a dangling link")
    ):
        if "/" in file or file != "state":
            yield Case(
                "file beside", f"{name} as {file}", replace(file, ways[name]), ("score", "resume", "evaluate")
            )


def weights(canary: Path) -> Iterator[Case]:
    """Weights that are not those of the configuration, or no weights."""

    def tensors(
        change: Callable[[dict[str, Any]], Any], file: str = "model.safetensors"
    ) -> Callable[[Path], None]:
        def make(folder: Path) -> None:
            found = load_file(folder / file)
            found = change(found) or found
            save_file(found, folder / file)

        return make

    def spoil(value: float, dtype: Any = np.float32) -> Callable[[dict[str, Any]], None]:
        def change(found: dict[str, Any]) -> None:
            first = sorted(found)[0]
            found[first] = np.full(found[first].shape, value, dtype)

        return change

    for value in (np.nan, np.inf, -np.inf, 3e38, 0.0):
        yield Case("weights", f"all {value}", tensors(spoil(value)))
    for dtype in (np.float64, np.float16, np.int64, np.uint8, np.bool_):
        yield Case("weights", f"of type {np.dtype(dtype)}", tensors(spoil(1, dtype)))
    yield Case("weights", "one more", tensors(lambda t: t | {ESCAPE: np.zeros(1, np.float32)}))
    yield Case("weights", "one less", tensors(lambda t: void(t.popitem())))
    yield Case("weights", "none", tensors(lambda t: void(t.clear())))
    yield Case("weights", "turned", tensors(lambda t: {k: np.ascontiguousarray(v.T) for k, v in t.items()}))
    yield Case(
        "weights", "larger", tensors(lambda t: {k: np.zeros((*v.shape, 2), v.dtype) for k, v in t.items()})
    )
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    headers: dict[str, Any] = {
        "shape 10^18": entry | {"shape": [10**18]}, "shape 2^64": entry | {"shape": [2**64]},
        "negative": entry | {"shape": [-1]}, "offsets beyond": entry | {"data_offsets": [0, 10**12]},
        "offsets turned": entry | {"data_offsets": [4, 0]}, "type": entry | {"dtype": "PICKLE"}, "no entry": 3,
        "empty shape 10^18": entry | {"shape": [0, 10**18], "data_offsets": [0, 0]}, "text": "x",
    }  # fmt: skip
    for name, value in headers.items():
        header = json.dumps({"reader.salience": value}).encode()
        yield Case(
            "weights",
            f"header: {name}",
            write("model.safetensors", struct.pack("<Q", len(header)) + header + bytes(4)),
        )
    deep = b'{"a":' * DEEP
    lengths = {
        "no header": 0,
        "header 2^64": 2**64 - 1,
        "header 50 MB": 50 << 20,
        "header beyond": 10**6,
        "header 2": 2,
    }
    for name, length in lengths.items():
        yield Case("weights", name, write("model.safetensors", struct.pack("<Q", length) + b"{}"))
    yield Case("weights", "nested header", write("model.safetensors", struct.pack("<Q", len(deep)) + deep))
    many = json.dumps(
        {f"t{i}": entry | {"shape": [0], "data_offsets": [0, 0]} for i in range(60_000)}
    ).encode()
    yield Case("weights", "60,000 tensors", write("model.safetensors", struct.pack("<Q", len(many)) + many))
    yield Case("weights", "a pickle", write("model.safetensors", pickle_of(canary)))
    yield Case("weights", "half", lambda f: os.truncate(f / "model.safetensors", 2000))
    yield Case("weights", "with more behind", lambda f: os.truncate(f / "model.safetensors", 10**7))
    yield Case("weights", "of 20 GB, consistent", consistent)
    yield from states(tensors, spoil, canary)


def consistent(folder: Path) -> None:
    """Weights of a network so large that only a sparse file holds them, configured as such."""
    size = SPARSE // 4 // 29
    edit("config.yaml", put("reader/settings/embedding_size", size))(folder)
    header = json.dumps({
        "reader.salience": {"dtype": "F32", "shape": [29], "data_offsets": [0, 116]},
        "reader.embedding.weight": {"dtype": "F32", "shape": [29, size], "data_offsets": [116, 116 + 116 * size]},
    }).encode()  # fmt: skip
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(folder / "model.safetensors", 8 + len(header) + 116 + 116 * size)


class _Payload:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


def pickle_of(canary: Path) -> bytes:
    """A pickle that executes."""
    return pickle.dumps(_Payload(canary))


def states(tensors: Any, spoil: Any, canary: Path) -> Iterator[Case]:
    """The state of a training that is to go on."""
    file = "state/state.safetensors"

    def unfinished(make: Callable[[Path], None]) -> Callable[[Path], None]:
        def change(folder: Path) -> None:
            make(folder)
            (folder / "model.safetensors").unlink()
            edit("about.json", put("finished", False))(folder)

        return change

    def placed(position: str) -> Callable[[Path], None]:
        return lambda folder: save_file(load_file(folder / file), folder / file, {"position": position})

    for value in (np.nan, 0.0):
        yield Case("state", f"all {value}", unfinished(tensors(spoil(value), file)), RESUME)
    for position in (
        "[9, 9]",
        "[-1, 0]",
        "[1e9, 0]",
        "x",
        "[" * DEEP,
        "[0]",
        "9" * 6000,
        "[0, 3]",
        "[3, 1]",
        "null",
    ):
        yield Case("state", f"position {position[:8]}", unfinished(placed(position)), RESUME)
    extra = {
        "optimizer.0.step": np.zeros((), np.float32),
        "optimizer.x.y": np.zeros(3, np.float32),
        "optimizer.0": np.zeros(1),
    }
    for name, value in extra.items():
        both = (tensors(lambda t, n=name, v=value: t | {n: v}, file), placed("[1, 3]"))
        yield Case("state", name, unfinished(lambda f, b=both: void([make(f) for make in b])), RESUME)
    yield Case("state", "a pickle", unfinished(write(file, pickle_of(canary))), RESUME)
    yield Case("state", "random", unfinished(write(file, os.urandom(5000))), RESUME)
    yield Case("state", "sparse", unfinished(lambda f: os.truncate(f / file, SPARSE)), RESUME)


def tokenizers(canary: Path) -> Iterator[Case]:
    """Tokenizers that cut, pad, match for ever, or know other words."""
    slow = {
        "type": "Split",
        "pattern": {"Regex": "(a|a)*(a|a)*(a|a)*b"},
        "behavior": "Isolated",
        "invert": False,
    }
    long = {"type": "Replace", "pattern": {"Regex": "(x+x+)+y"}, "content": "a" * 9999}
    changes: dict[str, tuple[str, Any]] = {
        "truncation": ("truncation", {"max_length": 1, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}),
        "padding": ("padding", {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None,
                                "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}),
        "pattern": ("pre_tokenizer", slow), "replacement": ("normalizer", long),
        "no pre-tokenizer": ("pre_tokenizer", None),
        "no normalizer": ("normalizer", None), "kind": ("model", {"type": ESCAPE}), "no model": ("model", None),
        "no vocabulary": ("model/vocab", None), "one word": ("model/vocab", {"[UNK]": 0}),
        "id 2^32": ("model/vocab", {"[UNK]": 0, "a": 2**32 - 1}),
        "id 10^18": ("model/vocab", {"[UNK]": 0, "a": 10**18}),
        "negative id": ("model/vocab", {"[UNK]": 0, "a": -1}), "id of text": ("model/vocab", {"[UNK]": "0"}),
        "million words": ("model/vocab", {"[UNK]": 0} | {f"w{i}": i for i in range(1, 10**6)}),
        "unknown token": ("model/unk_token", "a"), "version": ("version", "9"),
        "post-processor": ("post_processor", {"type": "x"}),
        "added": ("added_tokens", [{"id": 10**9, "content": "", "special": True}]), "added list": ("added_tokens", "x"),
    }  # fmt: skip
    nested: Any = {"type": "Lowercase"}
    for _ in range(200):
        nested = {"type": "Sequence", "normalizers": [nested]}
    changes["nested"] = ("normalizer", nested)
    other = edit("config.yaml", put("data/settings/tokenizer", "other"))
    for name, (place, value) in changes.items():
        change = edit("tokenizer.json", put(place, value))
        yield Case("tokenizer", name, change)
        both = (change, other)
        yield Case("tokenizer", f"{name}, not of words", lambda f, b=both: void([make(f) for make in b]))
    for kind in ("BPE", "Unigram", "WordPiece"):
        for model in (
            {"type": kind},
            {"type": kind, "vocab": [], "merges": ["a"]},
            {"type": kind, "vocab": {"a": 9}, "merges": [["x", "y"]]},
        ):
            both = (edit("tokenizer.json", put("model", model)), other)
            yield Case("tokenizer", f"{kind} {len(model)}", lambda f, b=both: void([make(f) for make in b]))
    for name, text in {
        "nested": "[" * DEEP,
        "nothing": "",
        "digits": '{"model": ' + "9" * 6000 + "}",
        "pickle": pickle_of(canary),
    }.items():
        yield Case("tokenizer", f"file {name}", write("tokenizer.json", text))


def evaluations(canary: Path) -> Iterator[Case]:
    """Points and outcomes as `plot` and `evaluate` read them."""

    def packed(*members: tuple[str, bytes], deflated: bool = False) -> bytes:
        held = io.BytesIO()
        with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED) as archive:
            for name, content in members:
                archive.writestr(name, content)
        return held.getvalue()

    def header(text: str) -> bytes:
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text.encode() + b"\n"

    def array(value: Any) -> bytes:
        held = io.BytesIO()
        np.save(held, value, allow_pickle=True)
        return held.getvalue()

    def bomb(content: bytes) -> bytes:
        return packed(*((f"{index}.npy", content) for index in range(17)), deflated=True)

    huge = header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }")
    good = [("test/policy/settings.npy", array(np.ones(2))), ("test/policy/correct.npy", array(np.ones((2, 9), bool))),
            ("test/policy/flops.npy", array(np.ones((2, 9))))]  # fmt: skip
    named = [(name.replace("policy", ESCAPE + "$x^{"), content) for name, content in good]
    zeros = (header("{'descr': '<f8', 'fortran_order': False, 'shape': (8388608,), }"), 1 << 26)
    archives: dict[str, Callable[[], bytes]] = {
        "10^12 numbers": lambda: packed(("test/policy/settings.npy", huge)),
        "only test": lambda: packed(*good),
        "names": lambda: packed(*named),
        "a bomb": lambda: bomb(zeros[0] + bytes(zeros[1])),
        "pickles": lambda: packed(("test/policy/settings.npy", array(np.array([{}], object)))),
        "no array": lambda: packed(("a", b"x")),
        "code": lambda: packed(("a/b/settings.npy", header("__import__('os').system('x')"))),
        "nested": lambda: packed(("a/b/settings.npy", header("(" * 5000))),
        "names of paths": lambda: packed(*((f"../../{name}", content) for name, content in good)),
        "nothing": packed,
        "many": lambda: packed(*((f"m{i}.npy", b"") for i in range(70_000))),
        "text": lambda: b"x" * 99,
        "tail": lambda: b"PK\x05\x06" + bytes(18),
        "NaN": lambda: packed(*good[:2], ("test/policy/flops.npy", array(np.full((2, 9), np.nan)))),
        "a pickle": lambda: pickle_of(canary),
        "whole numbers": lambda: packed(("a/b/settings.npy", array(np.ones(2, int)))),
    }
    for name, content in archives.items():
        made = replace("outcomes.npz", lambda p, c=content: void(p.write_bytes(c())))
        yield Case("outcomes", name, made, PLOT)

    def lines(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
        def make(folder: Path) -> None:
            path = folder / "points.jsonl"
            found = [change(json.loads(line)) for line in path.read_text().splitlines()]
            path.write_text("".join(json.dumps(each) + "\n" for each in found))

        return make

    places = ("task", "agent", "seed", "n", "flops_full", "accuracy", "setting", "split")
    values = (ESCAPE, "$x^{", -1, 10**400, 1e308, None, [], float("nan"))
    for key, value in itertools.product(places, values):
        yield Case("points", f"{key} {value!r:.12}", lines(lambda p, k=key, v=value: p | {k: v}), PLOT)
    for name, text in {
        "nested": "[" * DEEP,
        "nothing": "",
        "large": "x" * (20 << 20),
        "not UTF-8": b"\xff",
    }.items():
        yield Case("points", name, write("points.jsonl", text), PLOT)


def cases(canary: Path) -> list[Case]:
    """All of them; what they would write or read outside lies beside `canary`."""
    makers = (classes, keys, syntax, settings, about, files, weights, tokenizers, evaluations)
    return [case for maker in makers for case in maker(canary)]
