"""Every shipped configuration loads, builds, and trains two updates of each phase."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from temporal.experiment import find_config, parse
from temporal.runs import load
from tests.mails import call, make_mails

CONFIGS = sorted(p.stem for p in (Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three splits of 80, 8 and 8 mails."""
    folder = tmp_path_factory.mktemp("few")
    for split, num in {"train": 80, "validation": 8, "test": 8}.items():
        pq.write_table(pa.table(make_mails(num, num)), folder / f"{split}.parquet")
    return folder


def test_there_are_some() -> None:
    assert "mails" in CONFIGS


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_says_what_it_is_and_hides_nothing(name: str) -> None:
    file = find_config(name)
    first = file.read_text().splitlines()[0]
    assert first.startswith("# ")
    assert first.endswith(".")
    given, resolved = yaml.safe_load(file.read_text()), parse(["--config", str(file)])
    assert set(given) <= set(vars(resolved))


@pytest.mark.parametrize("name", CONFIGS)
def test_two_updates_of_each_phase(
    name: str, few: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resolved = parse(["--config", str(find_config(name))])
    texts = resolved.data.class_path.endswith("TextSource")
    training, scheme = resolved.training.init_args, resolved.agent.init_args.scheme
    halts = scheme is None or any(decision.class_path.endswith("Halt") for decision in scheme)
    settings = {
        "data.path": few if texts else None,
        "training.warmup.epochs": 1 if texts else 2,
        "training.warmup.batch_size": 40 if texts else 10_000,
        "training.stopping.updates": min(2 * halts, training.stopping.init_args.updates),
        "training.stopping.sequences": 16,
        "training.updates": min(2, training.updates),
        "training.episodes": 8,
        "device": "cpu",
    }
    assert 40 < 80 * (1 - training.held_out) <= 80
    given = [f"--{k}={v}" for k, v in settings.items() if v is not None]
    code, out, err = call(capsys, "train", name, "--out", tmp_path / "run", *given)
    assert (code, out) == (0, f"{tmp_path}/run\n"), err
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    counts = Counter(json.loads(line)["phase"] for line in lines)
    updates = {
        "warmup": 2,
        "stopping": settings["training.stopping.updates"],
        "policy": settings["training.updates"],
    }
    assert counts == Counter(updates)
    run = load(tmp_path / "run")
    if texts:
        assert call(capsys, "score", run.folder, few, "--out", tmp_path / "s.parquet")[0] == 0
        assert pq.read_table(tmp_path / "s.parquet").num_rows == 96
