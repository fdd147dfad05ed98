"""A small task on texts, and how its tests call the command line."""

from __future__ import annotations

import random
import re

import pytest

CHEAP, WORK = ("cheap", "pills", "offer"), ("meeting", "agenda", "minutes")
TEXT_CONFIG = """
data:
  class_path: temporal.data.text.TextSource
  init_args: {path: %s, max_tokens: 40}
reader:
  class_path: temporal.readers.RecurrentReader
  init_args: {embedding_size: 8, hidden_size: 8, skim_size: 4, embedding_dropout: 0, token_dropout: 0}
agent:
  class_path: temporal.agents.policy.PolicyAgent
  init_args:
    hidden_size: 8
    scheme: [{class_path: temporal.decisions.Halt}, {class_path: temporal.decisions.Sift}]
training:
  class_path: temporal.agents.train.Training
  init_args:
    warmup: {class_path: temporal.agents.warmup.Warmup, init_args: {epochs: 12, learning_rate: 0.05}}
    stopping:
      class_path: temporal.agents.stopping.StoppingFit
      init_args: {updates: 80, learning_rate: 0.03, batch_size: 64}
    updates: 2
    episodes: 16
    prices: [0.003, 10.0]
evaluation: {class_path: temporal.agents.trials.Evaluation, init_args: {num_settings: 3}}
chunk: 4
device: cpu
"""


def make_mails(num: int, seed: int) -> dict[str, list[str]]:
    """Texts of 5 to 40 words, of which two tell the class."""
    rng = random.Random(seed)
    mails: dict[str, list[str]] = {"text": [], "label": []}
    for _ in range(num):
        label = rng.choice(["ham", "spam"])
        words = [f"w{rng.randrange(20)}" for _ in range(rng.randrange(3, 38))]
        for _ in range(2):
            words.insert(rng.randrange(len(words)), rng.choice(CHEAP if label == "spam" else WORK))
        mails["text"].append(" ".join(words).capitalize() + ".")
        mails["label"].append(label)
    return mails


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run `temporal` in this process; returns its exit code, stdout and stderr."""
    from temporal.cli import main

    capsys.readouterr()
    code = main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def complaint(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line on stderr of a call that must fail with exit code 2 and print nothing else, less its prefix."""
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (2, "")
    if "--trust" in arguments:  # is told first
        err = re.sub(r"^temporal: --trust imports .*\n", "", err)
    assert err.count("\n") == 1
    return err.strip().removeprefix("temporal: ")
