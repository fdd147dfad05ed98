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


@pytest.fixture(scope="module")
def few_clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 12 clips of the shipped sample, in three splits of two classes each."""
    sample = Path(__file__).parents[1] / "data" / "samples" / "doom"
    rows = [json.loads(line) for line in (sample / "manifest.jsonl").read_text().splitlines()]
    found = []
    for split, num in {"train": 4, "validation": 1, "test": 1}.items():
        for label in ("Demon", "Cacodemon"):
            found += [r for r in rows if (r["split"], r["label"]) == (split, label)][:num]
    manifest = tmp_path_factory.mktemp("clips") / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(r | {"path": str(sample / r["path"])}) + "\n" for r in found))
    return manifest


def test_there_are_some() -> None:
    assert {"mails", "doom"} <= set(CONFIGS)


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
    name: str, few: Path, few_clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resolved = parse(["--config", str(find_config(name))])
    texts = resolved.data.class_path.endswith("TextSource")
    training, reader, agent = (
        part.init_args for part in (resolved.training, resolved.reader, resolved.agent)
    )
    scheme = agent.get("scheme")
    halts = scheme is None or any(decision.class_path.endswith("Halt") for decision in scheme)
    halts &= "ResolutionAgent" not in resolved.agent.class_path
    settings = {
        "data.path": few if texts else few_clips,
        "data.num_frames": None if texts else 6,
        "training.warmup.epochs": 1 if texts else 2,
        "training.warmup.batch_size": 40 if texts else 10_000,
        "training.preview.updates": 2 if reader.get("preview") else None,
        "training.stopping.updates": min(2, training.stopping.init_args.updates) if halts else None,
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
        "preview": settings["training.preview.updates"],
        "stopping": settings["training.stopping.updates"],
        "policy": settings["training.updates"],
    }
    assert counts == Counter({phase: num for phase, num in updates.items() if num})
    run = load(tmp_path / "run")
    inputs = few if texts else few_clips
    code, out, err = call(capsys, "score", run.folder, inputs, "--out", tmp_path / "s.parquet")
    assert code == 0, err
    assert pq.read_table(tmp_path / "s.parquet").num_rows == (96 if texts else 12)
