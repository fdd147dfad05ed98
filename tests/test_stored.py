"""A stored configuration names no code: what it can name is a closed table, and all else is told in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from benchmarks.hostile_configs import SLOTS, Case, put
from benchmarks.hostile_files import cases
from temporal import runs, stored
from temporal.bounded import load_yaml
from temporal.data.stored_tokenizer import PATTERNS, check_tokenizer, load_tokenizer
from temporal.errors import UserError
from temporal.experiment import concrete, dump, find_config, make_parser, parse
from tests.mails import call, complaint

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch


@pytest.fixture
def copy(text_run: Path, tmp_path: Path) -> Path:
    """A run that a test may change."""
    import shutil

    return Path(shutil.copytree(text_run, tmp_path / "run"))


def change(run: Path, how: Callable[[Any], Any]) -> None:
    """Change a run's configuration."""
    config = how(yaml.safe_load((run / "config.yaml").read_text()))
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


@pytest.mark.parametrize("name", ["mails", "doom_frame_exit", "doom_sampler"])
def test_what_is_stored_is_what_was_given(name: str) -> None:
    parsed = parse(["--config", str(find_config(name))])
    text = yaml.safe_dump(stored.to_stored(parsed))
    assert "temporal" not in text.replace("temporal_", "")
    assert "class_path" not in text
    back = make_parser().parse_object(stored.check(load_yaml(text), "here"))
    assert dump(back) == dump(parsed)


def test_short_names_are_of_one_class_each() -> None:
    for base in stored.BASES:
        names = [c.__name__ for c in concrete(base)]
        assert len(set(names)) == len(names) > 0


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize(
    "name", ["foreign.Foreign", "os.system", "temporal.runs.os.system", "temporal.cli.main"]
)
def test_a_dotted_name_is_refused_before_it_is_looked_up(
    slot: str, name: str, copy: Path, capsys: Capture
) -> None:
    change(copy, put(slot, {"class": name, "settings": {"command": "false"}}))
    told = complaint(capsys, "score", copy, copy)
    place = slot.replace("settings/", "").replace("/0", "").replace("/", ".")
    assert told.startswith(f"run: {copy}/config.yaml: {place}.class, got '{name}'; expected one of ")
    assert told.endswith("; --trust imports others, which runs their code")


CLASS = {"class": "PolicyAgent", "settings": {}}


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("reader.class_path", "os.system", "setting, got 'reader.class_path'; expected one of data, reader, agent, "
         "training, evaluation, chunk, num_slots, seed, device"),
        ("config", "other.yaml", "setting, got 'config'; expected one of data, reader, agent, "
         "training, evaluation, chunk, num_slots, seed, device"),
        ("reader", CLASS, "reader.class, got 'PolicyAgent'; expected one of RecurrentReader, TransformerReader, "
         "AttentiveFrameReader, RecurrentFrameReader"),
        ("agent", "os.system", "agent, got 'os.system'; expected class and settings"),
        ("agent/settings/scheme", ["Halt"], "agent.scheme, got 'Halt'; expected class and settings"),
        ("agent/settings/scheme", "[Halt]", "agent.scheme, got '[Halt]'; expected a list"),
        ("agent/settings/task", 1, "setting, got 'agent.task'; expected one of scheme, hidden_size, summary_size, "
         "peek_size, preview, ahead, lowest_price, highest_price, dropout"),
        ("agent/settings/hidden_size", "8", "agent.hidden_size, got '8'; expected a whole number"),
        ("agent/settings/hidden_size", True, "agent.hidden_size, got True; expected a whole number"),
        ("reader/settings/cell", "os.system", "reader.cell, got 'os.system'; expected one of gru, lstm"),
        ("training/settings/prices", [1.0], "training.prices, got [1.0]; expected a list of 2"),
        ("data/settings/path", {"class_path": "os.system"},
         "data.path, got {'class_path': 'os.system'}; expected text"),
        ("chunk", 10**9, "chunk, got 1000000000; expected a whole number from 1 to 4,096"),
    ],
)  # fmt: skip
def test_what_a_configuration_cannot_hold(
    place: str, value: Any, message: str, copy: Path, capsys: Capture
) -> None:
    change(copy, put(place, value))
    assert complaint(capsys, "score", copy, copy) == f"run: {copy}/config.yaml: {message}"


def test_of_several_kinds_that_one_is_told_whose_class_is_right() -> None:
    config = stored.to_stored(parse(["--config", str(find_config("clips_packets"))]))
    config["reader"]["settings"]["preview"]["settings"]["hidden_size"] = "8"
    with pytest.raises(UserError) as error:
        stored.check(config, "here")
    assert str(error.value) == "here: reader.preview.hidden_size, got '8'; expected a whole number"


def test_a_class_of_the_users_own_is_imported_only_where_the_run_is_trusted(
    text_run: Path, copy: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    code = (
        f"open({str(tmp_path / 'imported')!r}, 'w').close()\n"
        "from temporal.agents.policy import PolicyAgent\nclass Friendly(PolicyAgent): ...\n"
    )
    (tmp_path / "friendly.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    change(copy, put("agent/class", "friendly.Friendly"))
    (tmp_path / "a.txt").write_text("cheap pills")
    score = ("score", copy, tmp_path / "a.txt", "--out", tmp_path / "s.parquet")
    assert complaint(capsys, *score).startswith(
        f"run: {copy}/config.yaml: agent.class, got 'friendly.Friendly'; "
    )
    assert "friendly" not in sys.modules
    assert not (tmp_path / "imported").exists()
    code_, _, err = call(capsys, *score, "--trust")
    assert code_ == 0
    assert err.splitlines()[0] == "temporal: --trust imports friendly.Friendly, which runs their code"
    assert type(runs.load(copy, trust=True).agent).__name__ == "Friendly"
    assert type(runs.load(text_run).agent).__name__ == "PolicyAgent"
    parsed = parse(["--config", str(find_config("mails")), "--agent", "friendly.Friendly"])
    assert stored.to_stored(parsed)["agent"]["class"] == "friendly.Friendly"


@pytest.mark.parametrize("name", ["temporal.cli.main", "os.path.join", "temporal.readers.base.Reader"])
def test_trust_does_not_make_a_function_or_another_kind_a_class(name: str, copy: Path) -> None:
    change(copy, put("agent/class", name))
    with pytest.raises(UserError) as error:
        runs.load(copy, trust=True)
    assert str(error.value) == f"run: {copy}/config.yaml: agent.class, got '{name}'; expected a PolicyAgent"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("path", "a file or folder that exists; --trust fetches it from the Hugging Face hub"),
        ("tokenizer", "a tokenizer.json that exists; --trust has transformers load what is named"),
    ],
)
def test_nothing_is_fetched_for_a_run_that_is_not_trusted(
    key: str, expected: str, copy: Path, capsys: Capture
) -> None:
    change(copy, put(f"data/settings/{key}", "somebody/something"))
    told = complaint(capsys, "evaluate", copy, "--again")
    assert told == f"run: {copy}/config.yaml: data.{key}, got 'somebody/something'; expected {expected}"


def test_hostile_folders(text_run: Path, tmp_path: Path, capsys: Capture) -> None:
    import shutil

    (tmp_path / "canary").mkdir()
    (tmp_path / "a.txt").write_text("cheap pills")
    canary = tmp_path / "canary" / "executed"
    found: list[Case] = [c for c in cases(canary) if "score" in c.commands and c.kind != "about"]
    slow = ("20 GB", "million", "many", "views")
    for case in [c for c in found if not any(word in c.name for word in slow)][::60]:
        run = Path(shutil.copytree(text_run, tmp_path / "run"))
        case.make(run)
        code, _, err = call(capsys, "score", run, tmp_path / "a.txt", "--out", tmp_path / "s.parquet")
        assert code == 0 or (code == 2 and err.splitlines()[-1].startswith("temporal: ")), (case, err)
        assert all(c.isprintable() for c in err.replace("\n", "")), case
        assert not canary.exists(), case
        shutil.rmtree(run)


def test_a_tokenizer_from_elsewhere_is_taken_unless_it_holds_a_pattern(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    tokenizer = Tokenizer(models.WordLevel({"?": 0, "a": 1, "b": 2}, unk_token="?"))
    # as transformers makes those of SentencePiece
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(Regex(" {2,}"), " ")])  # type: ignore[assignment]
    for part in (pre_tokenizers.Whitespace(), pre_tokenizers.Split(Regex(PATTERNS[0]), "isolated")):
        tokenizer.pre_tokenizer = part  # type: ignore[assignment]
        tokenizer.save(str(file))
        assert load_tokenizer(file, False, 4).encode("b a x").ids[0] == 2
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("(a+)+b"), "isolated")  # type: ignore[assignment]
    tokenizer.save(str(file))
    with pytest.raises(
        UserError, match=r"^run: pattern of pre_tokenizer in .*; expected none; --trust takes "
    ):
        load_tokenizer(file, False, 4)
    assert load_tokenizer(file, False, 4, trust=True).get_vocab_size() == 3
    tokenizer.enable_truncation(1)
    tokenizer.save(str(file))
    with pytest.raises(
        UserError, match=r"^run: truncation in .*, got 'some'; expected none: texts are read as "
    ):
        load_tokenizer(file, False, 4, trust=True)


def test_a_tokenizer_that_a_run_names_may_be_a_link_and_cut_texts(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"?": 0, "a": 1}, unk_token="?"))
    tokenizer.enable_truncation(1)
    tokenizer.enable_padding()
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshots").mkdir()
    tokenizer.save(str(tmp_path / "blobs" / "0"))
    link = tmp_path / "snapshots" / "tokenizer.json"  # as in the cache of the Hugging Face hub
    link.symlink_to(tmp_path / "blobs" / "0")
    check_tokenizer(link, 3)
    with pytest.raises(UserError) as error:
        check_tokenizer(link, 4)
    assert str(error.value) == f"run: vocabulary of {link}, got 3; expected 4, as the run was trained with"
